//! Pings.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Case;
use crate::{
    testing::{
        build::{Build, bytes_at, cut, padded, v4, v6},
        world::net::{
            self, CLIENT, CLIENT4, CLIENT6, KERNEL4, KERNEL6, OTHER4, OTHER6, PEN, STRANGER,
            TAGGED4, VIP4, VIP6,
        },
    },
    verdict::Reason,
};

const ID: u32 = 0x0042_0001;
const BODY: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef01234567";

fn ping4(vip: Ipv4Addr) -> Build {
    v4(CLIENT4, vip).icmp(8, 0, ID, BODY)
}

fn ping6(vip: Ipv6Addr) -> Build {
    v6(CLIENT6, vip).icmp(128, 0, ID, BODY)
}

fn pong4(body: &[u8]) -> Build {
    v4(VIP4, CLIENT4)
        .icmp(0, 0, ID, body)
        .hops(64)
        .from(PEN)
        .to(CLIENT)
}

fn pong6(body: &[u8]) -> Build {
    v6(VIP6, CLIENT6)
        .icmp(129, 0, ID, body)
        .hops(64)
        .from(PEN)
        .to(CLIENT)
}

pub(super) fn cases() -> Vec<Case> {
    [answered(), refused(), unanswered(), owners()].concat()
}

fn answered() -> Vec<Case> {
    let reply = |name, frame, out| Case::reply(name, frame, Reason::EchoAnswered, out);
    let damaged = |frame| bytes_at(frame, 60, &[0]);
    vec![
        reply("ping4", ping4(VIP4).frame(), pong4(BODY).frame()),
        reply("ping6", ping6(VIP6).frame(), pong6(BODY).frame()),
        reply(
            "ping4-ttl-1",
            ping4(VIP4).hops(1).frame(),
            pong4(BODY).frame(),
        ),
        reply(
            "ping4-tagged",
            ping4(VIP4).tag(5).frame(),
            pong4(BODY).tag(5).frame(),
        ),
        reply(
            "ping6-two-tags",
            ping6(VIP6).service_tag(7).tag(5).frame(),
            pong6(BODY).service_tag(7).tag(5).frame(),
        ),
        reply(
            "ping4-without-payload-padded",
            padded(v4(CLIENT4, VIP4).icmp(8, 0, ID, b"").frame(), 60),
            padded(pong4(b"").frame(), 60),
        ),
        reply(
            "ping4-odd",
            v4(CLIENT4, VIP4).icmp(8, 0, ID, b"odd").frame(),
            pong4(b"odd").frame(),
        ),
        reply(
            "ping4-jumbo",
            v4(CLIENT4, VIP4).icmp(8, 0, ID, &[7; 8_900]).frame(),
            pong4(&[7; 8_900]).frame(),
        ),
        // The asker, not Pen, sees that the way damaged it.
        reply(
            "ping4-damaged",
            damaged(ping4(VIP4).frame()),
            damaged(pong4(BODY).frame()),
        ),
        reply(
            "ping4-options",
            ping4(VIP4).options(&[1; 4]).frame(),
            pong4(BODY).options(&[1; 4]).frame(),
        ),
    ]
}

fn refused() -> Vec<Case> {
    let refused = Reason::EchoRefused;
    let from4 = |source| v4(source, VIP4).icmp(8, 0, ID, BODY).frame();
    let from6 = |source| v6(source, VIP6).icmp(128, 0, ID, BODY).frame();
    vec![
        Case::drop("ping4-from-broadcast", from4(Ipv4Addr::BROADCAST), refused),
        Case::drop(
            "ping4-from-multicast",
            from4(Ipv4Addr::new(224, 0, 0, 1)),
            refused,
        ),
        Case::drop("ping4-from-loopback", from4(Ipv4Addr::LOCALHOST), refused),
        Case::drop("ping4-from-nobody", from4(Ipv4Addr::UNSPECIFIED), refused),
        Case::drop(
            "ping6-from-multicast",
            from6("ff02::1".parse().expect("address")),
            refused,
        ),
        Case::drop("ping6-from-loopback", from6(Ipv6Addr::LOCALHOST), refused),
        Case::drop("ping6-from-nobody", from6(Ipv6Addr::UNSPECIFIED), refused),
    ]
}

fn unanswered() -> Vec<Case> {
    vec![
        Case::drop(
            "ping4-first-fragment",
            ping4(VIP4).part(0x9001, 0, 32).frame(),
            Reason::EchoFragment,
        ),
        Case::drop(
            "ping4-last-fragment",
            ping4(VIP4).part(0x9002, 32, 64).frame(),
            Reason::FragmentFirstMissing,
        )
        .after(&[ping4(VIP4).part(0x9002, 0, 32).frame()]),
        Case::drop(
            "ping6-first-fragment",
            ping6(VIP6).part(0x9003, 0, 32).frame(),
            Reason::EchoFragment,
        ),
        Case::drop("ping4-loop", ping4(VIP4).from(PEN).frame(), Reason::Loop),
        Case::drop(
            "ping4-code-1",
            v4(CLIENT4, VIP4).icmp(8, 1, ID, BODY).frame(),
            NO_SERVICE,
        ),
        Case::drop(
            "pong4",
            v4(CLIENT4, VIP4).icmp(0, 0, ID, BODY).frame(),
            NO_SERVICE,
        ),
        Case::drop(
            "pong6",
            v6(CLIENT6, VIP6).icmp(129, 0, ID, BODY).frame(),
            NO_SERVICE,
        ),
        Case::drop(
            "timestamp4",
            v4(CLIENT4, VIP4).icmp(13, 0, ID, BODY).frame(),
            NO_SERVICE,
        ),
        Case::drop(
            "ping4-ends-in-icmp",
            cut(ping4(VIP4).frame(), 41),
            Reason::Truncated,
        ),
        Case::drop(
            "ping4-of-7-bytes",
            bytes_at(ping4(VIP4).frame(), 16, &[0, 27]),
            Reason::Truncated,
        ),
        Case::drop(
            "ping4-without-icmp",
            v4(CLIENT4, VIP4).transport(1, vec![], None).frame(),
            Reason::Truncated,
        ),
    ]
}

const NO_SERVICE: Reason = Reason::NoService;

fn owners() -> Vec<Case> {
    vec![
        Case::pass(
            "ping4-kernel-vip",
            ping4(KERNEL4).frame(),
            Reason::KernelOwned,
        ),
        Case::pass(
            "ping6-kernel-vip",
            ping6(KERNEL6).frame(),
            Reason::KernelOwned,
        ),
        Case::pass(
            "pong4-kernel-vip",
            v4(CLIENT4, KERNEL4).icmp(0, 0, ID, BODY).frame(),
            Reason::KernelOwned,
        ),
        Case::pass("ping4-no-vip", ping4(OTHER4).frame(), Reason::NotVip),
        Case::pass("ping6-no-vip", ping6(OTHER6).frame(), Reason::NotVip),
        Case::pass(
            "ping4-other-vlan",
            ping4(TAGGED4).tag(11).frame(),
            Reason::OtherVlan,
        ),
        Case::pass(
            "ping4-to-a-stranger",
            ping4(VIP4).to(STRANGER).frame(),
            Reason::NotOurMac,
        ),
        Case::pass(
            "ping4-to-all",
            ping4(VIP4).to(net::BROADCAST).frame(),
            Reason::NotOurMac,
        ),
    ]
}
