//! ICMP errors: they reach the back end of the flow that they quote.

use super::Case;
use crate::{
    testing::{
        build::{Build, bytes_at, padded, v4, v6},
        world::net::{
            ALL4, CLIENT4, CLIENT6, KERNEL_ALL4, KERNEL4, KERNEL6, OTHER4, PEN, ROUTER4, ROUTER6,
            VIP4, VIP6, backend,
        },
    },
    verdict::Reason,
};

/// What the back end of TCP port `port` of the VIP had answered.
fn answer4(port: u16) -> Vec<u8> {
    v4(VIP4, CLIENT4).tcp(port, 40_000, &[9; 600]).packet()
}

fn answer6(port: u16) -> Vec<u8> {
    v6(VIP6, CLIENT6).tcp(port, 40_000, &[9; 600]).packet()
}

/// From a router on the way: the IPv4 header and 8 bytes (RFC 792).
fn error4(kind: u8, code: u8, word: u32, quoted: &[u8]) -> Build {
    v4(ROUTER4, VIP4).icmp(kind, code, word, &quoted[..quoted.len().min(28)])
}

/// As much as fits into 1,280 bytes (RFC 4443).
fn error6(kind: u8, code: u8, word: u32, quoted: &[u8]) -> Build {
    v6(ROUTER6, VIP6).icmp(kind, code, word, quoted)
}

pub(super) fn cases() -> Vec<Case> {
    [
        kinds(),
        carriers(),
        quotations(),
        choice(),
        unmatched(),
        owners(),
        short(),
        fragmented(),
    ]
    .concat()
}

fn kinds() -> Vec<Case> {
    vec![
        Case::forward(
            "error4-unreachable",
            error4(3, 1, 0, &answer4(80)).frame(),
            1,
        ),
        Case::forward(
            "error4-frag-needed",
            error4(3, 4, 1_400, &answer4(80)).frame(),
            1,
        ),
        Case::forward(
            "error4-time-exceeded",
            error4(11, 0, 0, &answer4(80)).frame(),
            1,
        ),
        Case::forward(
            "error4-parameter",
            error4(12, 0, 0, &answer4(80)).frame(),
            1,
        ),
        Case::forward(
            "error6-unreachable",
            error6(1, 4, 0, &answer6(80)).frame(),
            1,
        ),
        Case::forward(
            "error6-too-big",
            error6(2, 0, 1_280, &answer6(80)).frame(),
            1,
        ),
        Case::forward(
            "error6-time-exceeded",
            error6(3, 0, 0, &answer6(80)).frame(),
            1,
        ),
        Case::forward("error6-parameter", error6(4, 1, 6, &answer6(80)).frame(), 1),
    ]
}

fn carriers() -> Vec<Case> {
    vec![
        Case::forward(
            "error4-from-the-client-itself",
            v4(CLIENT4, VIP4).icmp(3, 3, 0, &answer4(80)[..28]).frame(),
            1,
        ),
        Case::forward(
            "error4-of-udp",
            error4(
                3,
                3,
                0,
                &v4(VIP4, CLIENT4).udp(53, 40_000, b"answer").packet(),
            )
            .frame(),
            1,
        ),
        Case::forward(
            "error6-of-udp",
            error6(
                1,
                4,
                0,
                &v6(VIP6, CLIENT6).udp(53, 40_000, b"answer").packet(),
            )
            .frame(),
            1,
        ),
        Case::forward(
            "error4-tagged",
            error4(3, 4, 1_400, &answer4(80)).tag(5).frame(),
            1,
        ),
    ]
}

fn quotations() -> Vec<Case> {
    vec![
        Case::forward(
            "error4-quoting-options",
            v4(ROUTER4, VIP4)
                .icmp(
                    11,
                    0,
                    0,
                    &v4(VIP4, CLIENT4).options(&[1; 8]).tcp(80, 1, b"").packet()[..36],
                )
                .frame(),
            1,
        ),
        Case::forward(
            "error6-quoting-extensions",
            error6(
                2,
                0,
                1_280,
                &v6(VIP6, CLIENT6)
                    .extension(0, 8)
                    .extension(60, 8)
                    .tcp(80, 1, b"")
                    .packet(),
            )
            .frame(),
            1,
        ),
        Case::forward(
            "error6-quoting-first-fragment",
            error6(
                2,
                0,
                1_280,
                &v6(VIP6, CLIENT6)
                    .tcp(80, 1, &[1; 99])
                    .part(7, 0, 64)
                    .packet(),
            )
            .frame(),
            1,
        ),
        Case::forward(
            "error6-behind-extension",
            error6(2, 0, 1_280, &answer6(80)).extension(60, 8).frame(),
            1,
        ),
    ]
}

// Ports and back ends as in services.rs: the error goes where the flow itself goes.
fn choice() -> Vec<Case> {
    let quoting4 = |port, client| v4(VIP4, CLIENT4).tcp(port, client, &[]).packet();
    let quoting6 = |port, client| v6(VIP6, CLIENT6).tcp(port, client, &[]).packet();
    let to_all = v4(ALL4, CLIENT4).tcp(22, 40_000, &[]).packet();
    vec![
        Case::forward(
            "error4-hash-a",
            error4(3, 4, 0, &quoting4(81, 40_001)).frame(),
            2,
        ),
        Case::forward(
            "error4-hash-b",
            error4(3, 4, 0, &quoting4(81, 40_002)).frame(),
            1,
        ),
        Case::forward(
            "error6-hash-a",
            error6(2, 0, 0, &quoting6(81, 40_000)).frame(),
            3,
        ),
        Case::forward(
            "error6-hash-b",
            error6(2, 0, 0, &quoting6(81, 40_001)).frame(),
            2,
        ),
        // The client that is quoted is hashed, not the router that says so.
        Case::forward(
            "error4-hash-source",
            error4(3, 4, 0, &quoting4(82, 40_001)).frame(),
            2,
        ),
        Case::forward(
            "error6-hash-source",
            error6(2, 0, 0, &quoting6(82, 40_001)).frame(),
            3,
        ),
        Case::forward(
            "error4-all-ports",
            v4(ROUTER4, ALL4).icmp(3, 4, 0, &to_all[..28]).frame(),
            1,
        ),
        Case::drop(
            "error4-loop",
            error4(3, 4, 0, &answer4(80)).from(backend(1)).frame(),
            Reason::Loop,
        ),
        Case::drop(
            "error4-loop-own",
            error4(3, 4, 0, &answer4(80)).from(PEN).frame(),
            Reason::Loop,
        ),
        Case::drop(
            "error4-no-back-end",
            error4(3, 4, 0, &answer4(83)).frame(),
            Reason::NoBackend,
        ),
        // An MTU that looks like a checksum left to hardware is none.
        Case::forward("error4-mtu-is-no-checksum", mtu_like_pseudo_sum(), 1).finishing(),
    ]
}

/// A "fragmentation needed" of a UDP flow, whose next-hop MTU stands where UDP's checksum would,
/// and is the pseudo-header sum of the quoted flow over the message's length.
fn mtu_like_pseudo_sum() -> Vec<u8> {
    let quoted = v4(VIP4, CLIENT4).udp(53, 40_000, b"answer").packet();
    let twin = v4(CLIENT4, VIP4)
        .udp(40_000, 53, &[0; 28])
        .unfinished()
        .frame();
    let mtu = u16::from_be_bytes([twin[40], twin[41]]);
    error4(3, 4, u32::from(mtu), &quoted).frame()
}

fn unmatched() -> Vec<Case> {
    let unmatched = Reason::IcmpUnmatched;
    let foreign = v4(OTHER4, CLIENT4).tcp(80, 40_000, b"").packet();
    let to_vip = v4(CLIENT4, VIP4).tcp(40_000, 80, b"").packet();
    let ping = v4(VIP4, CLIENT4).icmp(0, 0, 1, b"").packet();
    vec![
        Case::drop(
            "error4-other-port",
            error4(3, 4, 0, &answer4(22)).frame(),
            unmatched,
        ),
        Case::drop(
            "error6-other-port",
            error6(2, 0, 0, &answer6(22)).frame(),
            unmatched,
        ),
        Case::drop(
            "error4-foreign-quotation",
            error4(3, 4, 0, &foreign).frame(),
            unmatched,
        ),
        Case::drop(
            "error4-quotes-the-question",
            error4(3, 4, 0, &to_vip).frame(),
            unmatched,
        ),
        Case::drop(
            "error4-quotes-a-ping",
            error4(3, 4, 0, &ping).frame(),
            unmatched,
        ),
        Case::drop(
            "error4-quotes-ip6",
            error4(3, 4, 0, &answer6(80)).frame(),
            unmatched,
        ),
        Case::drop(
            "error6-quotes-ip4",
            error6(2, 0, 0, &answer4(80)).frame(),
            unmatched,
        ),
        Case::drop(
            "error4-quotes-later-fragment",
            error4(3, 4, 0, &bytes_at(answer4(80), 6, &[0, 1])).frame(),
            unmatched,
        ),
        Case::drop(
            "error6-quotes-later-fragment",
            error6(
                2,
                0,
                0,
                &v6(VIP6, CLIENT6)
                    .tcp(80, 1, &[1; 99])
                    .part(7, 8, 64)
                    .packet(),
            )
            .frame(),
            unmatched,
        ),
    ]
}

fn owners() -> Vec<Case> {
    let to_kernel = |port| {
        let quoted = v4(KERNEL_ALL4, CLIENT4).tcp(port, 40_000, b"").packet();
        v4(ROUTER4, KERNEL_ALL4)
            .icmp(3, 4, 0, &quoted[..28])
            .frame()
    };
    let foreign = v4(OTHER4, CLIENT4).tcp(80, 40_000, b"").packet();
    vec![
        Case::forward("error4-kernel-vip-service", to_kernel(80), 1),
        Case::pass(
            "error4-kernel-vip-listener",
            to_kernel(443),
            Reason::KernelOwned,
        ),
        Case::pass(
            "error4-kernel-vip-unmatched",
            v4(ROUTER4, KERNEL4).icmp(3, 4, 0, &foreign[..28]).frame(),
            Reason::KernelOwned,
        ),
        Case::pass(
            "error6-kernel-vip-unmatched",
            v6(ROUTER6, KERNEL6).icmp(2, 0, 0, &answer6(80)).frame(),
            Reason::KernelOwned,
        ),
        Case::pass(
            "error4-no-vip",
            v4(ROUTER4, OTHER4).icmp(3, 4, 0, &foreign[..28]).frame(),
            Reason::NotVip,
        ),
        Case::drop(
            "redirect",
            error4(5, 1, 0, &answer4(80)).frame(),
            Reason::NoService,
        ),
    ]
}

/// Quotations that end early, or lie.
fn short() -> Vec<Case> {
    let unmatched = Reason::IcmpUnmatched;
    let error = |len: usize| v4(ROUTER4, VIP4).icmp(3, 4, 0, &answer4(80)[..len]);
    let lying = bytes_at(answer4(80), 0, &[0x44]);
    vec![
        Case::forward("error4-quotes-ports-only", error(24).frame(), 1),
        Case::drop("error4-quotes-half-the-ports", error(22).frame(), unmatched),
        Case::drop("error4-quotes-no-ports", error(20).frame(), unmatched),
        Case::drop("error4-quotes-half-a-header", error(10).frame(), unmatched),
        Case::drop("error4-quotes-nothing", error(0).frame(), unmatched),
        // Ports that stand behind the packet's end, as padding, are not quoted.
        Case::drop("error4-ports-in-padding", ports_in_padding(), unmatched),
        Case::drop("error4-of-4-bytes", cut_in_icmp(4), Reason::Truncated),
        Case::drop(
            "error4-quotes-short-header",
            error4(3, 4, 0, &lying).frame(),
            unmatched,
        ),
        Case::drop(
            "error4-quotes-long-header",
            error4(3, 4, 0, &bytes_at(answer4(80), 0, &[0x4f])).frame(),
            unmatched,
        ),
        Case::drop(
            "error6-quotes-half-the-ports",
            error6(2, 0, 0, &answer6(80)[..43]).frame(),
            unmatched,
        ),
        Case::drop(
            "error6-quotes-too-many-extensions",
            error6(
                2,
                0,
                0,
                &(0..5)
                    .fold(v6(VIP6, CLIENT6).tcp(80, 1, b""), |build, _| {
                        build.extension(60, 8)
                    })
                    .packet(),
            )
            .frame(),
            unmatched,
        ),
    ]
}

fn ports_in_padding() -> Vec<u8> {
    let len = v4(ROUTER4, VIP4)
        .icmp(3, 4, 0, &answer4(80)[..20])
        .frame()
        .len();
    let longer = v4(ROUTER4, VIP4).icmp(3, 4, 0, &answer4(80)[..28]).frame();
    bytes_at(longer, 16, &((len - 14) as u16).to_be_bytes())
}

fn cut_in_icmp(len: u16) -> Vec<u8> {
    let frame = error4(3, 4, 0, &answer4(80)).frame();
    padded(bytes_at(frame, 16, &(20 + len).to_be_bytes()), 60)
}

/// An error may itself come in fragments: the first quotes the flow, the rest follow it.
fn fragmented() -> Vec<Case> {
    let part4 = |id, from, to| {
        let quoted = &v4(VIP4, CLIENT4).tcp(81, 40_000, &[9; 600]).packet();
        v4(ROUTER4, VIP4)
            .icmp(3, 4, 0, &quoted[..400])
            .part(id, from, to)
            .frame()
    };
    let part6 = |id, from, to| error6(2, 0, 0, &answer6(81)).part(id, from, to).frame();
    vec![
        Case::forward("error4-first-fragment", part4(0x6001, 0, 200), 2),
        Case::forward("error4-last-fragment", part4(0x6002, 200, 408), 2)
            .after(&[part4(0x6002, 0, 200)]),
        Case::forward("error6-last-fragment", part6(0x6003, 200, 408), 3)
            .after(&[part6(0x6003, 0, 200)]),
        // The quoted client's own fragments are another datagram.
        Case::drop(
            "error4-first-fragment-is-not-the-clients",
            v4(CLIENT4, VIP4)
                .tcp(40_000, 81, &[1; 400])
                .part(0x6004, 200, 420)
                .frame(),
            Reason::FragmentFirstMissing,
        )
        .after(&[part4(0x6004, 0, 200)]),
    ]
}
