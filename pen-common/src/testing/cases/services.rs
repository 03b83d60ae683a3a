//! Whole TCP and UDP packets: which service, which back end, and what stays untouched.
//!
//! Where a table has several back ends, the expected one was computed by a separate program
//! from the papers, with the key of [`World::key`](crate::testing::World::key): slot =
//! ((hash >> 32) * slots) >> 32.

use super::Case;
use crate::{
    testing::{
        build::{Build, bytes_at, forwarded, padded, v4, v6},
        world::net::{
            self, ALL4, ALL6, BROADCAST, CLIENT4, CLIENT6, KERNEL_ALL4, KERNEL_ALL6, KERNEL4,
            KERNEL6, LAST_BACKEND, OTHER4, OTHER6, PEN, STRANGER, TAGGED4, TAGGED6, VIP4, VIP6,
            backend,
        },
    },
    verdict::Reason,
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: vip\r\n\r\n";

fn web4() -> Build {
    v4(CLIENT4, VIP4).tcp(40_000, 80, GET)
}

fn web6() -> Build {
    v6(CLIENT6, VIP6).tcp(40_000, 80, GET)
}

pub(super) fn cases() -> Vec<Case> {
    [
        plain(),
        untouched(),
        choice(),
        owners(),
        ports(),
        links(),
        stations(),
        checksums(),
    ]
    .concat()
}

fn plain() -> Vec<Case> {
    let options = [2, 4, 5, 0xb4, 1, 3, 3, 7];
    vec![
        Case::forward("tcp4", web4().frame(), 1),
        Case::forward("tcp6", web6().frame(), 1),
        Case::forward(
            "udp4",
            v4(CLIENT4, VIP4).udp(40_000, 53, b"query").frame(),
            1,
        ),
        Case::forward(
            "udp6",
            v6(CLIENT6, VIP6).udp(40_000, 53, b"query").frame(),
            1,
        ),
        Case::forward(
            "tcp4-padded-to-60",
            padded(v4(CLIENT4, VIP4).tcp(40_000, 80, b"").frame(), 60),
            1,
        ),
        Case::forward(
            "udp4-padded",
            padded(v4(CLIENT4, VIP4).udp(1, 53, b"").frame(), 60),
            1,
        ),
        Case::forward(
            "udp6-padded",
            padded(v6(CLIENT6, VIP6).udp(1, 53, b"").frame(), 90),
            1,
        ),
        Case::forward(
            "tcp4-syn-with-options",
            v4(CLIENT4, VIP4)
                .tcp_with(40_000, 80, &options, b"")
                .frame(),
            1,
        ),
        Case::forward(
            "ip4-options",
            v4(CLIENT4, VIP4)
                .options(&[7, 7, 4, 0, 0, 0, 0, 0])
                .tcp(40_000, 80, GET)
                .frame(),
            1,
        ),
        Case::forward(
            "ip4-options-full",
            v4(CLIENT4, VIP4)
                .options(&[1; 40])
                .tcp(40_000, 80, GET)
                .frame(),
            1,
        ),
    ]
}

fn untouched() -> Vec<Case> {
    vec![
        Case::forward("ttl-1-untouched", web4().hops(1).frame(), 1),
        Case::forward("hop-limit-0-untouched", web6().hops(0).frame(), 1),
        Case::forward(
            "tcp4-1514",
            v4(CLIENT4, VIP4).tcp(40_000, 80, &[7; 1460]).frame(),
            1,
        ),
        Case::forward(
            "tcp4-jumbo",
            v4(CLIENT4, VIP4).tcp(40_000, 80, &[7; 8_960]).frame(),
            1,
        ),
        Case::forward(
            "tcp6-jumbo",
            v6(CLIENT6, VIP6).tcp(40_000, 80, &[7; 8_940]).frame(),
            1,
        ),
        Case::forward(
            "udp4-without-checksum",
            bytes_at(
                v4(CLIENT4, VIP4).udp(40_000, 53, b"query").frame(),
                40,
                &[0, 0],
            ),
            1,
        ),
        Case::forward(
            "tcp4-bad-checksum-is-the-back-ends-business",
            bytes_at(web4().frame(), 50, &[0xba, 0xad]),
            1,
        ),
        Case::forward(
            "udp4-len-shorter-than-packet",
            bytes_at(
                v4(CLIENT4, VIP4).udp(40_000, 53, b"query").frame(),
                38,
                &[0, 9],
            ),
            1,
        ),
    ]
}

fn choice() -> Vec<Case> {
    let spread4 = |port| v4(CLIENT4, VIP4).tcp(port, 81, b"").frame();
    let spread6 = |port| v6(CLIENT6, VIP6).tcp(port, 81, b"").frame();
    let by_source4 = |port| v4(CLIENT4, VIP4).tcp(port, 82, b"").frame();
    let to4 = |port| v4(CLIENT4, VIP4).tcp(40_000, port, b"").frame();
    vec![
        Case::forward("hash-flow4-a", spread4(40_000), SPREAD4[0]),
        Case::forward("hash-flow4-b", spread4(40_001), SPREAD4[1]),
        Case::forward("hash-flow4-c", spread4(40_002), SPREAD4[2]),
        Case::forward("hash-flow4-d", spread4(40_003), SPREAD4[3]),
        Case::forward("hash-flow6-a", spread6(40_000), SPREAD6[0]),
        Case::forward("hash-flow6-b", spread6(40_001), SPREAD6[1]),
        Case::forward("hash-flow6-c", spread6(40_002), SPREAD6[2]),
        Case::forward("hash-flow6-d", spread6(40_003), SPREAD6[3]),
        Case::forward(
            "hash-udp-differs-from-tcp",
            v4(CLIENT4, VIP4).udp(40_000, 81, b"").frame(),
            SPREAD_UDP4,
        ),
        Case::forward("hash-source4-a", by_source4(40_000), SOURCE4),
        Case::forward("hash-source4-b", by_source4(40_001), SOURCE4),
        Case::forward(
            "hash-source6",
            v6(CLIENT6, VIP6).tcp(40_000, 82, b"").frame(),
            SOURCE6,
        ),
        Case::forward(
            "weighted-a",
            v4(CLIENT4, VIP4).tcp(40_000, 86, b"").frame(),
            WEIGHTED4[0],
        ),
        Case::forward(
            "weighted-b",
            v4(CLIENT4, VIP4).tcp(40_002, 86, b"").frame(),
            WEIGHTED4[1],
        ),
        Case::forward("last-pool-and-back-end", to4(87), LAST_BACKEND),
        Case::drop("table-without-slots", to4(83), Reason::NoBackend),
        Case::drop("slots-without-back-end", to4(84), Reason::NoBackend),
        Case::drop("back-end-without-mac", to4(85), Reason::NoMac),
    ]
}

// Flows from ports 40,000 to 40,003 to port 81, in this order, and so on as the names say.
const SPREAD4: [u16; 4] = [2, 2, 1, 1];
const SPREAD6: [u16; 4] = [3, 2, 3, 1];
const SPREAD_UDP4: u16 = 1;
const SOURCE4: u16 = 2;
const SOURCE6: u16 = 3;
const WEIGHTED4: [u16; 2] = [2, 1];

fn owners() -> Vec<Case> {
    let tcp4 = |to, port| v4(CLIENT4, to).tcp(40_000, port, b"").frame();
    let tcp6 = |to, port| v6(CLIENT6, to).tcp(40_000, port, b"").frame();
    let udp4 = |to, port| v4(CLIENT4, to).udp(40_000, port, b"").frame();
    vec![
        Case::drop("own-vip-other-port", tcp4(VIP4, 22), Reason::NoService),
        Case::drop("own-vip6-other-port", tcp6(VIP6, 22), Reason::NoService),
        Case::drop("own-vip-port-0", tcp4(VIP4, 0), Reason::NoService),
        Case::drop("own-vip-other-transport", udp4(VIP4, 80), Reason::NoService),
        Case::drop(
            "own-vip-sctp",
            v4(CLIENT4, VIP4).transport(132, vec![0; 16], None).frame(),
            Reason::NoService,
        ),
        Case::drop(
            "own-vip-ipip",
            v4(CLIENT4, VIP4)
                .transport(4, web4().packet(), None)
                .frame(),
            Reason::NoService,
        ),
        Case::drop(
            "own-vip6-no-next-header",
            v6(CLIENT6, VIP6).frame(),
            Reason::NoService,
        ),
        Case::drop(
            "own-vip6-icmp-of-ip4",
            v6(CLIENT6, VIP6)
                .transport(1, vec![8, 0, 0, 0, 0, 0, 0, 0], None)
                .frame(),
            Reason::NoService,
        ),
        Case::drop(
            "own-vip-icmp-of-ip6",
            v4(CLIENT4, VIP4)
                .transport(58, vec![128, 0, 0, 0, 0, 0, 0, 0], None)
                .frame(),
            Reason::NoService,
        ),
    ]
}

fn ports() -> Vec<Case> {
    let tcp4 = |to, port| v4(CLIENT4, to).tcp(40_000, port, b"").frame();
    let tcp6 = |to, port| v6(CLIENT6, to).tcp(40_000, port, b"").frame();
    let udp4 = |to, port| v4(CLIENT4, to).udp(40_000, port, b"").frame();
    vec![
        Case::forward("all-ports", tcp4(ALL4, 22), 1),
        Case::forward("all-ports6", tcp6(ALL6, 22), 1),
        Case::forward("all-ports-even-0", tcp4(ALL4, 0), 1),
        Case::forward("exact-beats-port-0", tcp4(ALL4, 80), 2),
        Case::forward("exact-beats-port-0-in-ip6", tcp6(ALL6, 80), 2),
        Case::forward("port-0-of-the-other-transport", udp4(ALL4, 80), 2),
        Case::forward("kernel-vip-service", tcp4(KERNEL4, 80), 1),
        Case::forward("kernel-vip6-service", tcp6(KERNEL6, 80), 1),
        Case::pass(
            "kernel-vip-other-port",
            tcp4(KERNEL4, 22),
            Reason::KernelOwned,
        ),
        Case::pass(
            "kernel-vip6-other-port",
            tcp6(KERNEL6, 22),
            Reason::KernelOwned,
        ),
        Case::pass(
            "kernel-vip-listener",
            tcp4(KERNEL4, 443),
            Reason::KernelOwned,
        ),
        Case::pass(
            "listener-beats-port-0",
            tcp4(KERNEL_ALL4, 443),
            Reason::KernelOwned,
        ),
        Case::pass(
            "listener-beats-port-0-in-ip6",
            tcp6(KERNEL_ALL6, 443),
            Reason::KernelOwned,
        ),
        Case::forward("port-0-beside-listener", tcp4(KERNEL_ALL4, 444), 1),
        Case::pass("no-vip", tcp4(OTHER4, 80), Reason::NotVip),
        Case::pass("no-vip6", tcp6(OTHER6, 80), Reason::NotVip),
        Case::pass(
            "ip4-vip-written-as-ip6",
            v6(CLIENT6, VIP4.to_ipv6_mapped())
                .tcp(40_000, 80, b"")
                .frame(),
            Reason::NotVip,
        ),
        Case::drop(
            "ip4-client-written-as-ip6",
            v6(CLIENT4.to_ipv6_mapped(), VIP6)
                .tcp(40_000, 80, b"")
                .frame(),
            Reason::BadHeader,
        ),
    ]
}

fn links() -> Vec<Case> {
    let tagged4 = || v4(CLIENT4, TAGGED4).tcp(40_000, 80, b"");
    let bound = || v4(CLIENT4, VIP4).tcp(40_000, 90, b"");
    vec![
        Case::forward("one-tag", web4().tag(5).frame(), 1),
        Case::forward(
            "service-tag-and-tag",
            web6().service_tag(7).tag(5).frame(),
            1,
        ),
        Case::forward("two-tags", web4().tag(7).tag(5).frame(), 1),
        Case::forward("priority-tag", web4().raw_tag(0x8100, 0xe000).frame(), 1),
        Case::pass(
            "three-tags",
            web4().tag(7).tag(5).tag(3).frame(),
            Reason::NotIp,
        ),
        Case::forward("vlan-of-vip", tagged4().tag(10).frame(), 1),
        Case::forward(
            "vlan-of-vip-with-priority",
            tagged4().raw_tag(0x8100, 0xf00a).frame(),
            1,
        ),
        Case::forward(
            "vlan-of-vip-is-the-inner",
            tagged4().service_tag(7).tag(10).frame(),
            1,
        ),
        Case::forward(
            "vlan-of-vip6",
            v6(CLIENT6, TAGGED6).tcp(40_000, 80, b"").tag(10).frame(),
            1,
        ),
        Case::pass("other-vlan", tagged4().tag(11).frame(), Reason::OtherVlan),
        Case::pass("no-vlan", tagged4().frame(), Reason::OtherVlan),
        Case::pass(
            "priority-tag-is-no-vlan",
            tagged4().raw_tag(0x8100, 0xe000).frame(),
            Reason::OtherVlan,
        ),
        Case::pass(
            "vlan-is-the-outer",
            tagged4().service_tag(10).tag(7).frame(),
            Reason::OtherVlan,
        ),
        Case::forward("vlan-of-service", bound().tag(10).frame(), 2),
        Case::drop(
            "other-vlan-than-the-services",
            bound().tag(11).frame(),
            Reason::NoService,
        ),
    ]
}

fn stations() -> Vec<Case> {
    vec![
        Case::pass(
            "mac-of-a-stranger",
            web4().to(STRANGER).frame(),
            Reason::NotOurMac,
        ),
        Case::pass(
            "mac-of-a-stranger6",
            web6().to(STRANGER).frame(),
            Reason::NotOurMac,
        ),
        Case::pass(
            "mac-of-all",
            web4().to(BROADCAST).frame(),
            Reason::NotOurMac,
        ),
        Case::pass(
            "mac-of-a-group",
            web6().to(net::ALL_NODES).frame(),
            Reason::NotOurMac,
        ),
        Case::drop(
            "loop-from-ourselves",
            web4().from(PEN).frame(),
            Reason::Loop,
        ),
        Case::drop(
            "loop-from-ourselves6",
            web6().from(PEN).frame(),
            Reason::Loop,
        ),
        Case::drop(
            "loop-from-its-back-end",
            web4().from(backend(1)).frame(),
            Reason::Loop,
        ),
        Case::forward(
            "back-end-of-another-pool-is-a-client",
            web4().from(backend(2)).frame(),
            1,
        ),
        Case::pass(
            "unknown-ethertype",
            bytes_at(web4().frame(), 12, &[0x88, 0xcc]),
            Reason::NotIp,
        ),
        Case::pass(
            "length-field",
            bytes_at(web4().frame(), 12, &[0, 60]),
            Reason::NotIp,
        ),
    ]
}

/// Sums that the sender left to its hardware.
fn checksums() -> Vec<Case> {
    let tcp4 = |payload| v4(CLIENT4, VIP4).tcp(40_000, 80, payload);
    let tcp6 = |payload| v6(CLIENT6, VIP6).tcp(40_000, 80, payload);
    let udp4 = |payload| v4(CLIENT4, VIP4).udp(40_000, 53, payload);
    let udp6 = |payload| v6(CLIENT6, VIP6).udp(40_000, 53, payload);
    let finish = |name, build: Build| {
        let out = forwarded(&build.frame(), backend(1));
        Case {
            out,
            ..Case::forward(name, build.unfinished().frame(), 1).finishing()
        }
    };
    let fragment = udp4(&[3; 64]).unfinished().part(0x7001, 0, 40).frame();
    vec![
        finish("finish-tcp4", tcp4(GET)),
        finish("finish-tcp4-odd", tcp4(b"odd")),
        finish("finish-tcp6", tcp6(GET)),
        finish("finish-udp4", udp4(b"query")),
        finish("finish-udp6", udp6(b"query")),
        finish("finish-udp4-without-payload", udp4(b"")),
        finish("finish-tcp4-full", tcp4(&[0xfe; 1_460])),
        finish(
            "finish-behind-tag-and-options",
            tcp4(GET).tag(5).options(&[1; 8]),
        ),
        finish(
            "finish-behind-extensions",
            tcp6(GET).extension(0, 8).extension(60, 16),
        ),
        finish("finish-udp-zero-as-ones", udp4(&zero_sum_payload())),
        Case {
            out: forwarded(&padded(tcp4(b"").frame(), 60), backend(1)),
            ..Case::forward(
                "finish-padded",
                padded(tcp4(b"").unfinished().frame(), 60),
                1,
            )
            .finishing()
        },
        Case::forward("finished-stays", tcp4(GET).frame(), 1).finishing(),
        Case::forward("finished-stays6", udp6(b"query").frame(), 1).finishing(),
        Case::forward(
            "finish-wrong-sum-stays",
            bytes_at(tcp4(GET).frame(), 50, &[0xba, 0xad]),
            1,
        )
        .finishing(),
        Case::forward(
            "finish-udp-without-sum-stays",
            bytes_at(udp4(b"query").frame(), 40, &[0, 0]),
            1,
        )
        .finishing(),
        Case::forward("finish-not-a-fragment", fragment, 1).finishing(),
        Case::forward("finished-looks-unfinished", looks_unfinished(), 1).finishing(),
        Case::forward(
            "unfinished-stays-where-not-finished",
            tcp4(GET).unfinished().frame(),
            1,
        ),
    ]
}

/// A payload that makes the sum of the UDP packet come out as zero: the word that the packet
/// with two zero bytes has in its checksum field.
fn zero_sum_payload() -> [u8; 2] {
    let frame = v4(CLIENT4, VIP4).udp(40_000, 53, &[0, 0]).frame();
    [frame[40], frame[41]]
}

/// A packet whose right checksum equals its pseudo-header sum: payload chosen so that header and
/// payload sum up to the complement of twice that.
fn looks_unfinished() -> Vec<u8> {
    let build = |payload: [u8; 2]| v4(CLIENT4, VIP4).tcp(40_000, 80, &payload);
    let field = |frame: &[u8]| u16::from_be_bytes([frame[50], frame[51]]);
    let wanted = field(&build([0, 0]).unfinished().frame());
    let given = field(&build([0, 0]).frame());
    // The checksum falls by what the payload rises, in one's complement.
    let (difference, borrow) = given.overflowing_sub(wanted);
    let frame = build((difference - u16::from(borrow)).to_be_bytes()).frame();
    assert_eq!(field(&frame), wanted, "the payload was to give this sum");
    frame
}
