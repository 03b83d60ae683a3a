//! Headers: extension headers in all their kinds, and what is truncated or lies.

use super::Case;
use crate::{
    testing::{
        build::{Build, bytes_at, cut, padded, v4, v6},
        world::net::{CLIENT4, CLIENT6, KERNEL4, KERNEL6, OTHER4, VIP4, VIP6},
    },
    verdict::Reason,
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const AH: u8 = 51;
const DESTINATION: u8 = 60;

// Offsets in a frame without tags.
const IP4_LEN: usize = 16;
const IP6_LEN: usize = 18;
const TCP4_OFFSET: usize = 46;
const UDP4_LEN: usize = 38;
const EXTENSION_LEN: usize = 55;

fn tcp4() -> Build {
    v4(CLIENT4, VIP4).tcp(40_000, 80, b"payload")
}

fn tcp6() -> Build {
    v6(CLIENT6, VIP6).tcp(40_000, 80, b"payload")
}

fn udp4() -> Build {
    v4(CLIENT4, VIP4).udp(40_000, 53, b"query")
}

pub(super) fn cases() -> Vec<Case> {
    [extensions(), early_ends(), lies4(), lies6(), owners()].concat()
}

fn extensions() -> Vec<Case> {
    let all = tcp6()
        .extension(HOP_BY_HOP, 8)
        .extension(DESTINATION, 24)
        .extension(ROUTING, 24)
        .extension(AH, 24);
    vec![
        Case::forward("hop-by-hop", tcp6().extension(HOP_BY_HOP, 8).frame(), 1),
        Case::forward("routing", tcp6().extension(ROUTING, 24).frame(), 1),
        Case::forward(
            "destination-options",
            tcp6().extension(DESTINATION, 16).frame(),
            1,
        ),
        Case::forward("ah", tcp6().extension(AH, 24).frame(), 1),
        Case::forward(
            "ah-not-a-multiple-of-8",
            tcp6().extension(AH, 28).frame(),
            1,
        ),
        Case::forward(
            "long-extension",
            tcp6().extension(DESTINATION, 256).frame(),
            1,
        ),
        Case::forward("four-extensions", all.clone().frame(), 1),
        Case::forward(
            "four-extensions-behind-two-tags",
            all.clone().tag(7).tag(5).frame(),
            1,
        ),
        Case::drop(
            "five-extensions",
            all.extension(DESTINATION, 8).frame(),
            Reason::HeaderChain,
        ),
        Case::drop(
            "hundred-extensions",
            (0..100)
                .fold(tcp6(), |build, _| build.extension(DESTINATION, 8))
                .frame(),
            Reason::HeaderChain,
        ),
        Case::drop(
            "extension-then-nothing",
            v6(CLIENT6, VIP6).extension(HOP_BY_HOP, 8).frame(),
            Reason::NoService,
        ),
        Case::drop(
            "esp",
            v6(CLIENT6, VIP6).transport(50, vec![0; 32], None).frame(),
            Reason::NoService,
        ),
    ]
}

/// A frame that ends before its header does, at every header.
fn early_ends() -> Vec<Case> {
    let tagged = || tcp4().tag(5).frame();
    let too_short = Reason::TooShort;
    let truncated = Reason::Truncated;
    let chain = || tcp6().extension(HOP_BY_HOP, 16);
    vec![
        Case::pass("ends-in-ethernet", cut(tcp4().frame(), 13), too_short),
        Case::pass("ends-behind-ethernet", cut(tcp4().frame(), 14), too_short),
        Case::pass("ends-behind-ethernet6", cut(tcp6().frame(), 14), too_short),
        Case::pass("ends-in-tag", cut(tagged(), 17), too_short),
        Case::pass("ends-behind-tag", cut(tagged(), 18), too_short),
        Case::pass(
            "ends-in-second-tag",
            cut(tcp4().tag(7).tag(5).frame(), 20),
            too_short,
        ),
        Case::pass("ends-in-ip4", cut(tcp4().frame(), 33), too_short),
        Case::pass("ends-in-ip6", cut(tcp6().frame(), 53), too_short),
        Case::drop("ends-behind-ip4", cut(tcp4().frame(), 34), truncated),
        Case::drop("ends-behind-ip6", cut(tcp6().frame(), 54), truncated),
        Case::drop(
            "ends-in-ip4-options",
            cut(tcp4().options(&[1; 12]).frame(), 40),
            truncated,
        ),
        Case::drop("ends-in-ports", cut(tcp4().frame(), 37), truncated),
        Case::drop("ends-in-tcp", cut(tcp4().frame(), 53), truncated),
        Case::drop("ends-in-payload", cut(tcp4().frame(), 60), truncated),
        Case::drop("ends-in-udp", cut(udp4().frame(), 41), truncated),
        Case::drop("ends-in-extension", cut(chain().frame(), 60), truncated),
        Case::drop("ends-behind-extension", cut(chain().frame(), 70), truncated),
    ]
}

fn lies4() -> Vec<Case> {
    let bad = Reason::BadHeader;
    let truncated = Reason::Truncated;
    let tcp = |offset, bytes: &[u8]| bytes_at(tcp4().frame(), offset, bytes);
    let udp = |offset, bytes: &[u8]| bytes_at(udp4().frame(), offset, bytes);
    let len_of = |len: u16| len.to_be_bytes();
    vec![
        Case::pass("ip4-version-5", tcp(14, &[0x55]), Reason::NotIp),
        Case::pass("ip4-version-6", tcp(14, &[0x65]), Reason::NotIp),
        Case::drop("ip4-header-of-4-words", tcp(14, &[0x44]), bad),
        Case::drop("ip4-header-of-0-words", tcp(14, &[0x40]), bad),
        Case::drop("ip4-header-longer-than-packet", tcp(14, &[0x4f]), bad),
        Case::drop("ip4-len-0", tcp(IP4_LEN, &[0, 0]), bad),
        Case::drop("ip4-len-within-header", tcp(IP4_LEN, &len_of(19)), bad),
        Case::drop(
            "ip4-len-one-over-frame",
            tcp(IP4_LEN, &len_of(48)),
            truncated,
        ),
        Case::drop("ip4-len-over-frame", tcp(IP4_LEN, &[0xff, 0xff]), truncated),
        Case::drop(
            "ip4-len-ends-behind-header",
            tcp(IP4_LEN, &len_of(20)),
            truncated,
        ),
        Case::drop(
            "ip4-len-ends-in-ports",
            tcp(IP4_LEN, &len_of(22)),
            truncated,
        ),
        Case::drop("ip4-len-ends-in-tcp", tcp(IP4_LEN, &len_of(39)), truncated),
        Case::drop(
            "ip4-ends-and-padding-looks-like-tcp",
            padded(bytes_at(tcp4().frame(), IP4_LEN, &len_of(28)), 80),
            truncated,
        ),
        Case::drop("tcp-header-of-4-words", tcp(TCP4_OFFSET, &[0x40]), bad),
        Case::drop("tcp-header-of-0-words", tcp(TCP4_OFFSET, &[0x00]), bad),
        Case::drop("tcp-header-over-packet", tcp(TCP4_OFFSET, &[0x70]), bad),
        Case::forward(
            "tcp-header-fills-packet",
            bytes_at(
                v4(CLIENT4, VIP4).tcp(40_000, 80, &[1; 4]).frame(),
                TCP4_OFFSET,
                &[0x60],
            ),
            1,
        ),
        Case::drop("udp-len-0", udp(UDP4_LEN, &[0, 0]), bad),
        Case::drop("udp-len-7", udp(UDP4_LEN, &len_of(7)), bad),
        Case::drop("udp-len-over-packet", udp(UDP4_LEN, &len_of(14)), bad),
        Case::drop("ip4-len-ends-in-udp", udp(IP4_LEN, &len_of(27)), truncated),
    ]
}

fn lies6() -> Vec<Case> {
    let truncated = Reason::Truncated;
    let tcp = |offset, bytes: &[u8]| bytes_at(tcp6().frame(), offset, bytes);
    let chain = || tcp6().extension(HOP_BY_HOP, 8);
    let lie = |len: u8| bytes_at(chain().frame(), EXTENSION_LEN, &[len]);
    vec![
        Case::pass("ip6-version-4", tcp(14, &[0x40]), Reason::NotIp),
        Case::drop("ip6-len-one-over-frame", tcp(IP6_LEN, &[0, 28]), truncated),
        Case::drop("ip6-len-over-frame", tcp(IP6_LEN, &[0xff, 0xff]), truncated),
        Case::drop("ip6-len-0", tcp(IP6_LEN, &[0, 0]), truncated),
        Case::drop("ip6-len-ends-in-tcp", tcp(IP6_LEN, &[0, 19]), truncated),
        Case::drop("extension-over-packet", lie(40), truncated),
        Case::drop("extension-longest", lie(255), truncated),
        Case::drop("extension-ends-with-packet", lie(3), truncated),
        Case::drop(
            "ip6-len-ends-in-extension",
            bytes_at(chain().frame(), IP6_LEN, &[0, 7]),
            truncated,
        ),
        Case::drop(
            "ah-over-packet",
            bytes_at(tcp6().extension(AH, 24).frame(), EXTENSION_LEN, &[200]),
            truncated,
        ),
        Case::drop(
            "ip6-fragment-header-ends-early",
            cut(
                bytes_at(tcp6().atomic(0x8101).frame(), IP6_LEN, &[0, 4]),
                58,
            ),
            truncated,
        ),
        Case::drop(
            "jumbogram",
            bytes_at(chain().frame(), IP6_LEN, &[0, 0]),
            truncated,
        ),
        Case::drop(
            "tcp6-header-over-packet",
            bytes_at(tcp6().frame(), 66, &[0x70]),
            Reason::BadHeader,
        ),
    ]
}

/// What is malformed is the kernel's business where the address is not ours.
fn owners() -> Vec<Case> {
    let lying = |to| bytes_at(v4(CLIENT4, to).tcp(40_000, 80, b"").frame(), 14, &[0x44]);
    vec![
        Case::pass("malformed-to-no-vip", lying(OTHER4), Reason::NotVip),
        Case::pass(
            "malformed-to-kernel-vip",
            lying(KERNEL4),
            Reason::KernelOwned,
        ),
        Case::pass(
            "truncated-to-kernel-vip6",
            cut(v6(CLIENT6, KERNEL6).tcp(40_000, 80, b"").frame(), 70),
            Reason::KernelOwned,
        ),
        Case::pass(
            "header-chain-to-kernel-vip6",
            (0..5)
                .fold(v6(CLIENT6, KERNEL6).tcp(1, 80, b""), |build, _| {
                    build.extension(DESTINATION, 8)
                })
                .frame(),
            Reason::KernelOwned,
        ),
    ]
}
