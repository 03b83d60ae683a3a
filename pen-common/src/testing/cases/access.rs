//! Access lists: whom a service is for, and whom not.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Case;
use crate::{
    testing::{
        build::{v4, v6},
        world::net::{
            CLIENT, CLIENT4, CLIENT6, GUARDED4, GUARDED6, KERNEL4, KERNEL6, PEN, ROUTER4, ROUTER6,
            VIP4, VIP6,
        },
    },
    verdict::Reason,
};

const BODY: [u8; 1_200] = [0x5a; 1_200];
/// In the network that list 1 takes out of another one.
const DENIED4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);
const DENIED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xc);

fn guarded4(client: Ipv4Addr) -> Vec<u8> {
    v4(client, GUARDED4).tcp(40_000, 80, b"").frame()
}

fn guarded6(client: Ipv6Addr) -> Vec<u8> {
    v6(client, GUARDED6).udp(40_000, 53, b"query").frame()
}

pub(super) fn cases() -> Vec<Case> {
    [edges4(), edges6(), services(), fragments(), icmp()].concat()
}

fn edges4() -> Vec<Case> {
    let at = |name, client: [u8; 4], passes| {
        let frame = guarded4(client.into());
        match passes {
            true => Case::forward(name, frame, 1),
            false => Case::drop(name, frame, Reason::AclDenied),
        }
    };
    vec![
        at("acl4-before-the-first", [9, 255, 255, 255], false),
        at("acl4-first", [10, 0, 0, 0], true),
        at("acl4-last-before-the-hole", [10, 0, 0, 63], true),
        at("acl4-first-of-the-hole", [10, 0, 0, 64], false),
        at("acl4-last-of-the-hole", [10, 0, 0, 127], false),
        at("acl4-first-behind-the-hole", [10, 0, 0, 128], true),
        at("acl4-last", [10, 0, 0, 255], true),
        at("acl4-behind-the-last", [10, 0, 1, 0], false),
        at("acl4-far-behind", [255, 255, 255, 254], false),
    ]
}

fn edges6() -> Vec<Case> {
    let at = |name, client: &str, passes| {
        let frame = guarded6(client.parse().expect("an address"));
        match passes {
            true => Case::forward(name, frame, 1),
            false => Case::drop(name, frame, Reason::AclDenied),
        }
    };
    let last = "2001:db8:0:ffff:ffff:ffff:ffff:ffff";
    vec![
        at("acl6-lowest", "::2", false),
        at(
            "acl6-before-the-first",
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            false,
        ),
        at("acl6-first", "2001:db8::", true),
        // Less in one half, greater in the other.
        at("acl6-halves", "2001:db8:0:1::1", true),
        at("acl6-last", last, true),
        at("acl6-behind-the-last", "2001:db8:1::", false),
        at(
            "acl6-far-behind",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            false,
        ),
    ]
}

fn services() -> Vec<Case> {
    let tcp4 = |client, vip, port| v4(client, vip).tcp(40_000, port, b"").frame();
    let tcp6 = |client, vip, port| v6(client, vip).tcp(40_000, port, b"").frame();
    let denied = |name, frame| Case::drop(name, frame, Reason::AclDenied);
    vec![
        // The list of one service of the VIP is none of the others'.
        denied("acl4-of-a-port", tcp4(CLIENT4, VIP4, 88)),
        denied("acl6-of-a-port", tcp6(CLIENT6, VIP6, 88)),
        Case::forward("acl4-of-a-port-passes", tcp4(DENIED4, VIP4, 88), 1),
        Case::forward("acl6-of-a-port-passes", tcp6(DENIED6, VIP6, 88), 1),
        Case::forward("acl4-of-another-port", tcp4(CLIENT4, VIP4, 80), 1),
        denied(
            "acl4-tagged",
            v4(DENIED4, GUARDED4).tag(5).tcp(1, 80, b"").frame(),
        ),
        denied(
            "acl6-behind-extensions",
            v6(DENIED6, GUARDED6)
                .udp(1, 53, b"")
                .extension(0, 8)
                .frame(),
        ),
        // Never passed: the kernel would answer with a reset.
        denied("acl4-kernel-owned", tcp4(CLIENT4, KERNEL4, 88)),
        denied("acl6-kernel-owned", tcp6(CLIENT6, KERNEL6, 88)),
        Case::drop(
            "acl4-no-service-before-all",
            tcp4(DENIED4, GUARDED4, 81),
            Reason::NoService,
        ),
    ]
}

fn fragments() -> Vec<Case> {
    let of4 = |client, (vip, port), (id, from, to)| {
        let whole = v4(client, vip).udp(40_000, port, &BODY);
        whole.part(id, from, to).frame()
    };
    let of6 = |client, (id, from, to)| {
        let whole = v6(client, GUARDED6).udp(40_000, 53, &BODY);
        whole.part(id, from, to).frame()
    };
    let guarded = (GUARDED4, 53);
    let denied = |name, frame| Case::drop(name, frame, Reason::AclDenied);
    vec![
        Case::forward(
            "acl4-later-fragment",
            of4(CLIENT4, guarded, (0x7101, 600, 1_208)),
            1,
        )
        .after(&[of4(CLIENT4, guarded, (0x7101, 0, 600))]),
        denied(
            "acl4-first-fragment",
            of4(DENIED4, guarded, (0x7102, 0, 600)),
        ),
        denied(
            "acl4-denied-later-fragment",
            of4(DENIED4, guarded, (0x7103, 600, 1_208)),
        ),
        denied("acl6-first-fragment", of6(DENIED6, (0x7104, 0, 600))),
        denied(
            "acl6-denied-later-fragment",
            of6(DENIED6, (0x7105, 600, 1_208)),
        ),
        Case::forward("acl6-later-fragment", of6(CLIENT6, (0x7106, 600, 1_208)), 1)
            .after(&[of6(CLIENT6, (0x7106, 0, 600))]),
        // Where services differ in their lists, the one that was denied has left no trace.
        Case::drop(
            "acl4-fragment-of-unlike-services",
            of4(CLIENT4, (VIP4, 88), (0x7107, 600, 1_208)),
            Reason::FragmentFirstMissing,
        )
        .after(&[of4(CLIENT4, (VIP4, 88), (0x7107, 0, 600))]),
    ]
}

/// Pings are answered whoever asks; errors go by the client of the flow that they quote.
fn icmp() -> Vec<Case> {
    let answer4 = |client| v4(GUARDED4, client).tcp(80, 40_000, &[9; 64]).packet();
    let answer6 = |client| v6(GUARDED6, client).tcp(80, 40_000, &[9; 64]).packet();
    let error4 = |quoted: Vec<u8>| v4(ROUTER4, GUARDED4).icmp(3, 4, 1_400, &quoted[..28]);
    let error6 = |quoted: Vec<u8>| v6(ROUTER6, GUARDED6).icmp(2, 0, 1_280, &quoted);
    vec![
        Case::forward(
            "acl4-error-by-a-router",
            error4(answer4(CLIENT4)).frame(),
            1,
        ),
        Case::forward(
            "acl6-error-by-a-router",
            error6(answer6(CLIENT6)).frame(),
            1,
        ),
        Case::drop(
            "acl4-error-for-a-denied-flow",
            error4(answer4(DENIED4)).frame(),
            Reason::AclDenied,
        ),
        Case::drop(
            "acl6-error-for-a-denied-flow",
            error6(answer6(DENIED6)).frame(),
            Reason::AclDenied,
        ),
        Case::reply(
            "acl4-ping",
            v4(DENIED4, GUARDED4).icmp(8, 0, 7, b"ping").frame(),
            Reason::EchoAnswered,
            v4(GUARDED4, DENIED4)
                .icmp(0, 0, 7, b"ping")
                .hops(64)
                .from(PEN)
                .to(CLIENT)
                .frame(),
        ),
        Case::reply(
            "acl6-ping",
            v6(DENIED6, GUARDED6).icmp(128, 0, 7, b"ping").frame(),
            Reason::EchoAnswered,
            v6(GUARDED6, DENIED6)
                .icmp(129, 0, 7, b"ping")
                .hops(64)
                .from(PEN)
                .to(CLIENT)
                .frame(),
        ),
    ]
}
