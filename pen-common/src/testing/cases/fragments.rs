//! Fragments: the first one is steered by its ports, the later ones follow it.

use super::Case;
use crate::{
    testing::{
        build::{Build, bytes_at, v4, v6},
        world::net::{
            self, CLIENT4, CLIENT6, KERNEL_ALL4, KERNEL4, KERNEL6, OTHER4, OTHER6, TAGGED4, VIP4,
            VIP6, backend,
        },
    },
    verdict::Reason,
};

const BODY: [u8; 1_200] = [0x5a; 1_200];

// Port 81 from port 40,000 goes to back end 1 in IPv4 and 2 in IPv6 by the table of three (see
// services.rs for where that comes from), so that a later fragment can't be right by chance.
fn spread4(id: u32, from: usize, to: usize) -> Vec<u8> {
    v4(CLIENT4, VIP4)
        .udp(40_000, 81, &BODY)
        .part(id, from, to)
        .frame()
}

fn spread6(id: u32, from: usize, to: usize) -> Vec<u8> {
    v6(CLIENT6, VIP6)
        .udp(40_000, 81, &BODY)
        .part(id, from, to)
        .frame()
}

fn kernel4(id: u32, from: usize, to: usize) -> Vec<u8> {
    v4(CLIENT4, KERNEL4)
        .udp(40_000, 500, &BODY)
        .part(id, from, to)
        .frame()
}

pub(super) fn cases() -> Vec<Case> {
    [
        firsts(),
        followers(),
        orphans(),
        forgotten(),
        odd(),
        owners(),
        strangers(),
    ]
    .concat()
}

fn firsts() -> Vec<Case> {
    vec![
        Case::forward("fragment-first4", spread4(0x1001, 0, 600), 1),
        Case::forward("fragment-first6", spread6(0x1002, 0, 600), 2),
        Case::forward(
            "fragment-first-behind-extensions",
            v6(CLIENT6, VIP6)
                .udp(40_000, 81, &BODY)
                .extension(0, 8)
                .part(0x1003, 0, 600)
                .extension(60, 8)
                .frame(),
            2,
        ),
        // RFC 791 lets 8 bytes be all that a first fragment holds: the ports are there.
        Case::forward(
            "fragment-first-of-8-bytes",
            v4(CLIENT4, VIP4)
                .tcp(40_000, 80, &BODY)
                .part(0x1004, 0, 8)
                .frame(),
            1,
        ),
        Case::drop(
            "fragment-first-without-ports",
            bytes_at(spread4(0x1005, 0, 8), 16, &[0, 23]),
            Reason::Truncated,
        ),
        Case::forward(
            "fragment-atomic",
            v6(CLIENT6, VIP6)
                .udp(40_000, 81, b"query")
                .atomic(0x1006)
                .frame(),
            2,
        ),
        Case::drop(
            "fragment-atomic-is-held-to-its-lengths",
            bytes_at(
                v6(CLIENT6, VIP6)
                    .udp(40_000, 81, b"query")
                    .atomic(0x1007)
                    .frame(),
                66,
                &[0, 14],
            ),
            Reason::BadHeader,
        ),
        Case::forward(
            "dont-fragment-is-no-fragment",
            bytes_at(
                v4(CLIENT4, VIP4).tcp(40_000, 80, b"").frame(),
                20,
                &[0x40, 0],
            ),
            1,
        ),
    ]
}

fn followers() -> Vec<Case> {
    vec![
        Case::forward("fragment-last4", spread4(0x2001, 600, 1_208), 1)
            .after(&[spread4(0x2001, 0, 600)]),
        Case::forward("fragment-middle4", spread4(0x2002, 600, 1_000), 1)
            .after(&[spread4(0x2002, 0, 600)]),
        Case::forward("fragment-last6", spread6(0x2003, 600, 1_208), 2)
            .after(&[spread6(0x2003, 0, 600)]),
        Case::forward("fragment-middle6", spread6(0x2004, 600, 1_000), 2)
            .after(&[spread6(0x2004, 0, 600)]),
        Case::forward(
            "fragment-follows-into-tags",
            v4(CLIENT4, VIP4)
                .udp(40_000, 81, &BODY)
                .tag(5)
                .part(0x2005, 600, 1_208)
                .frame(),
            1,
        )
        .after(&[spread4(0x2005, 0, 600)]),
        Case::forward("fragment-sent-twice", spread4(0x2006, 600, 1_208), 1).after(&[
            spread4(0x2006, 0, 600),
            spread4(0x2006, 0, 600),
            spread4(0x2006, 600, 1_208),
        ]),
        // The newest datagram with an identification has it: identifications are used again.
        Case::forward("fragment-id-used-again", other_flow4(0x2007, 600, 1_208), 2)
            .after(&[spread4(0x2007, 0, 600), other_flow4(0x2007, 0, 600)]),
        // The next header of a later fragment need not be the first's (RFC 8200, section 4.5).
        Case::forward(
            "fragment-later-with-other-next-header",
            v6(CLIENT6, VIP6)
                .udp(40_000, 81, &BODY)
                .part(0x2008, 600, 1_208)
                .extension(60, 8)
                .frame(),
            2,
        )
        .after(&[spread6(0x2008, 0, 600)]),
        Case::forward("fragment-two-datagrams-a", spread4(0x2009, 600, 1_208), 1)
            .after(&[spread4(0x2009, 0, 600), other_flow4(0x200a, 0, 600)]),
        Case::forward(
            "fragment-two-datagrams-b",
            other_flow4(0x200b, 600, 1_208),
            2,
        )
        .after(&[other_flow4(0x200b, 0, 600), spread4(0x200c, 0, 600)]),
        Case::drop(
            "fragment-loop",
            v4(CLIENT4, VIP4)
                .udp(40_000, 81, &BODY)
                .from(backend(1))
                .part(0x200d, 600, 1_208)
                .frame(),
            Reason::Loop,
        )
        .after(&[spread4(0x200d, 0, 600)]),
    ]
}

/// By the table of three this flow goes to back end 2.
fn other_flow4(id: u32, from: usize, to: usize) -> Vec<u8> {
    v4(CLIENT4, VIP4)
        .udp(OTHER_PORT, 81, &BODY)
        .part(id, from, to)
        .frame()
}

const OTHER_PORT: u16 = 40_003;

fn orphans() -> Vec<Case> {
    let missing = Reason::FragmentFirstMissing;
    vec![
        Case::drop(
            "fragment-without-first4",
            spread4(0x3001, 600, 1_208),
            missing,
        ),
        Case::drop(
            "fragment-without-first6",
            spread6(0x3002, 600, 1_208),
            missing,
        ),
        Case::drop(
            "fragment-of-another-id",
            spread4(0x3003, 600, 1_208),
            missing,
        )
        .after(&[spread4(0x3004, 0, 600)]),
        Case::drop(
            "fragment-of-another-id6",
            spread6(0x1_3005, 600, 1_208),
            missing,
        )
        .after(&[spread6(0x3005, 0, 600)]),
        Case::drop(
            "fragment-of-another-client",
            v4(net::ROUTER4, VIP4)
                .udp(40_000, 81, &BODY)
                .part(0x3006, 600, 1_208)
                .frame(),
            missing,
        )
        .after(&[spread4(0x3006, 0, 600)]),
        Case::drop(
            "fragment-of-another-protocol",
            v4(CLIENT4, VIP4)
                .tcp(40_000, 81, &BODY)
                .part(0x3007, 600, 1_208)
                .frame(),
            missing,
        )
        .after(&[spread4(0x3007, 0, 600)]),
        Case::drop(
            "fragment-before-its-first",
            spread4(0x3008, 600, 1_208),
            missing,
        ),
    ]
}

fn forgotten() -> Vec<Case> {
    let missing = Reason::FragmentFirstMissing;
    vec![
        Case::drop(
            "fragment-atomic-is-not-remembered",
            spread6(0x3009, 600, 1_208),
            missing,
        )
        .after(&[v6(CLIENT6, VIP6)
            .udp(40_000, 81, b"")
            .atomic(0x3009)
            .frame()]),
        Case::drop(
            "fragment-of-dropped-first",
            v4(CLIENT4, VIP4)
                .udp(40_000, 9, &BODY)
                .part(0x300a, 600, 1_208)
                .frame(),
            missing,
        )
        .after(&[v4(CLIENT4, VIP4)
            .udp(40_000, 9, &BODY)
            .part(0x300a, 0, 600)
            .frame()]),
    ]
}

/// Overlaps and tiny pieces: which back end they go to is settled by their first, what they
/// make of the datagram is the back end's business (RFC 5722).
fn odd() -> Vec<Case> {
    let tiny = |from, to| {
        v4(CLIENT4, VIP4)
            .tcp(40_000, 80, &BODY)
            .part(0x4001, from, to)
            .frame()
    };
    vec![
        Case::forward("fragment-within-tcp-header", tiny(8, 16), 1).after(&[tiny(0, 8)]),
        Case::forward("fragment-overlap4", spread4(0x4002, 8, 600), 1)
            .after(&[spread4(0x4002, 0, 600)]),
        Case::forward("fragment-overlap6", spread6(0x4003, 8, 600), 2)
            .after(&[spread6(0x4003, 0, 600)]),
        Case::drop(
            "fragment-empty-last",
            spread4(0x4004, 1_208, 1_208),
            Reason::FragmentFirstMissing,
        ),
        Case::drop(
            "fragment-first-len-over-frame",
            bytes_at(spread4(0x4005, 0, 600), 16, &[0xff, 0]),
            Reason::Truncated,
        ),
        Case::drop(
            "fragment-extensions-end-early",
            bytes_at(v6(CLIENT6, VIP6).part(0x4006, 0, 0).frame(), 18, &[0, 7]),
            Reason::Truncated,
        ),
    ]
}

fn owners() -> Vec<Case> {
    vec![
        Case::pass(
            "fragment-first-to-kernel",
            kernel4(0x5001, 0, 600),
            Reason::KernelOwned,
        ),
        Case::pass(
            "fragment-last-to-kernel",
            kernel4(0x5002, 600, 1_208),
            Reason::KernelOwned,
        )
        .after(&[kernel4(0x5002, 0, 600)]),
        Case::pass(
            "fragment-orphan-to-kernel",
            kernel4(0x5003, 600, 1_208),
            Reason::KernelOwned,
        ),
        Case::pass(
            "fragment-orphan-to-kernel6",
            v6(CLIENT6, KERNEL6)
                .udp(40_000, 53, &BODY)
                .part(0x5004, 600, 1_208)
                .frame(),
            Reason::KernelOwned,
        ),
        Case::forward(
            "fragment-last-to-service-of-kernel-vip",
            v4(CLIENT4, KERNEL4)
                .udp(40_000, 53, &BODY)
                .part(0x5005, 600, 1_208)
                .frame(),
            1,
        )
        .after(&[v4(CLIENT4, KERNEL4)
            .udp(40_000, 53, &BODY)
            .part(0x5005, 0, 600)
            .frame()]),
        Case::pass(
            "fragment-last-to-listener",
            v4(CLIENT4, KERNEL_ALL4)
                .tcp(40_000, 443, &BODY)
                .part(0x5006, 600, 1_220)
                .frame(),
            Reason::KernelOwned,
        )
        .after(&[v4(CLIENT4, KERNEL_ALL4)
            .tcp(40_000, 443, &BODY)
            .part(0x5006, 0, 600)
            .frame()]),
    ]
}

fn strangers() -> Vec<Case> {
    let missing = Reason::FragmentFirstMissing;
    vec![
        // Same identification: the kernel's datagram takes the place of the forwarded one.
        Case::pass(
            "fragment-id-used-again-for-listener",
            v4(CLIENT4, KERNEL_ALL4)
                .tcp(40_000, 443, &BODY)
                .part(0x5007, 600, 1_220)
                .frame(),
            Reason::KernelOwned,
        )
        .after(&[
            v4(CLIENT4, KERNEL_ALL4)
                .tcp(40_000, 80, &BODY)
                .part(0x5007, 0, 600)
                .frame(),
            v4(CLIENT4, KERNEL_ALL4)
                .tcp(40_000, 443, &BODY)
                .part(0x5007, 0, 600)
                .frame(),
        ]),
        Case::pass(
            "fragment-to-no-vip",
            v4(CLIENT4, OTHER4)
                .udp(1, 53, &BODY)
                .part(0x5008, 600, 1_208)
                .frame(),
            Reason::NotVip,
        ),
        Case::pass(
            "fragment-to-no-vip6",
            v6(CLIENT6, OTHER6)
                .udp(1, 53, &BODY)
                .part(0x5009, 600, 1_208)
                .frame(),
            Reason::NotVip,
        ),
        Case::pass(
            "fragment-in-other-vlan",
            tagged(11).part(0x500a, 600, 1_220).frame(),
            Reason::OtherVlan,
        ),
        Case::drop(
            "fragment-in-vlan",
            tagged(10).part(0x500b, 600, 1_220).frame(),
            missing,
        ),
    ]
}

fn tagged(vlan: u16) -> Build {
    v4(CLIENT4, TAGGED4).tcp(40_000, 80, &BODY).tag(vlan)
}
