//! ARP and neighbour discovery: Pen answers for the VIPs that nobody on this host owns.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Case;
use crate::{
    tables::Mac,
    testing::{
        build::{Build, arp, bytes_at, cut, padded, v6},
        world::net::{
            self, CLIENT, CLIENT4, CLIENT6, KERNEL4, KERNEL6, OTHER4, OTHER6, PEN, STRANGER,
            TAGGED4, TAGGED6, VIP4, VIP6,
        },
    },
    verdict::Reason,
};

const NOBODY: Mac = Mac(0);

/// Who has `target`? The client asks.
fn who_has(target: Ipv4Addr) -> Vec<u8> {
    arp(1, (CLIENT, CLIENT4), (NOBODY, target))
}

fn tagged(frame: Vec<u8>, vlan: u16) -> Vec<u8> {
    let [v0, v1] = vlan.to_be_bytes();
    [&frame[..12], &[0x81, 0, v0, v1], &frame[12..]].concat()
}

pub(super) fn arp_cases() -> Vec<Case> {
    [arp_answered(), arp_passed()].concat()
}

fn arp_answered() -> Vec<Case> {
    let answered = Reason::ArpAnswered;
    let is_at = arp(2, (PEN, VIP4), (CLIENT, CLIENT4));
    let nobody = Ipv4Addr::UNSPECIFIED;
    let probe = arp(1, (CLIENT, nobody), (NOBODY, VIP4));
    let at = |offset, bytes: &[u8]| bytes_at(who_has(VIP4), offset, bytes);
    vec![
        Case::reply("arp", who_has(VIP4), answered, is_at.clone()),
        Case::reply(
            "arp-padded",
            padded(who_has(VIP4), 60),
            answered,
            padded(is_at.clone(), 60),
        ),
        Case::reply("arp-unicast", at(0, &PEN.bytes()), answered, is_at.clone()),
        Case::reply(
            "arp-tagged",
            tagged(who_has(VIP4), 5),
            answered,
            tagged(is_at, 5),
        ),
        Case::reply(
            "arp-in-vlan-of-vip",
            tagged(who_has(TAGGED4), 10),
            answered,
            tagged(arp(2, (PEN, TAGGED4), (CLIENT, CLIENT4)), 10),
        ),
        // RFC 5227: a host asks whether an address is free before it takes it.
        Case::reply(
            "arp-probe",
            probe,
            answered,
            arp(2, (PEN, VIP4), (CLIENT, nobody)),
        ),
    ]
}

fn arp_passed() -> Vec<Case> {
    let announcement = arp(1, (STRANGER, VIP4), (NOBODY, VIP4));
    let claim = arp(2, (STRANGER, VIP4), (CLIENT, CLIENT4));
    let at = |offset, bytes: &[u8]| bytes_at(who_has(VIP4), offset, bytes);
    vec![
        Case::pass("arp-kernel-vip", who_has(KERNEL4), Reason::KernelOwned),
        Case::pass("arp-no-vip", who_has(OTHER4), Reason::NotVip),
        Case::pass(
            "arp-other-vlan",
            tagged(who_has(TAGGED4), 11),
            Reason::OtherVlan,
        ),
        Case::pass("arp-without-vlan", who_has(TAGGED4), Reason::OtherVlan),
        Case::pass(
            "arp-vip-announced-by-another",
            announcement,
            Reason::VipClaimed,
        ),
        Case::pass(
            "arp-vip-claimed-by-another",
            bytes_at(claim, 0, &PEN.bytes()),
            Reason::VipClaimed,
        ),
        Case::pass(
            "arp-from-ourselves",
            arp(1, (PEN, VIP4), (NOBODY, VIP4)),
            Reason::NotVip,
        ),
        Case::pass(
            "arp-answer-to-us",
            arp(2, (CLIENT, CLIENT4), (PEN, VIP4)),
            Reason::NotVip,
        ),
        Case::pass(
            "arp-to-a-stranger",
            at(0, &STRANGER.bytes()),
            Reason::NotOurMac,
        ),
        Case::pass("arp-reverse-request", at(20, &[0, 3]), Reason::NotVip),
        Case::pass("arp-ends-early", cut(who_has(VIP4), 41), Reason::TooShort),
        Case::pass("arp-of-another-link", at(14, &[0, 6]), Reason::NotIp),
        Case::pass(
            "arp-of-another-network",
            at(16, &[0x86, 0xdd]),
            Reason::NotIp,
        ),
        Case::pass("arp-with-long-addresses", at(18, &[8]), Reason::NotIp),
    ]
}

/// RFC 4861, section 4.3: the asker's link address.
const SOURCE_LINK: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 0x0c];
/// RFC 7527: tells the host's own probe from another's.
const NONCE: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

fn solicited_node(target: Ipv6Addr) -> (Ipv6Addr, Mac) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    (group, Mac::new([0x33, 0x33, 0xff, a, b, c]))
}

/// A solicitation to the target's group; code, target and options as given.
pub(super) fn solicit(source: Ipv6Addr, target: Ipv6Addr, options: &[u8]) -> Build {
    let (group, mac) = solicited_node(target);
    let body = [&target.octets(), options].concat();
    v6(source, group).to(mac).hops(255).icmp(135, 0, 0, &body)
}

/// The same straight to the target: is it still there (RFC 4861, section 7.3)?
fn probe(target: Ipv6Addr, options: &[u8]) -> Build {
    let body = [&target.octets(), options].concat();
    v6(CLIENT6, target).hops(255).icmp(135, 0, 0, &body)
}

/// Pen's answer: solicited and override flags in the top bits, its own link address.
pub(super) fn advertise(target: Ipv6Addr, to: Ipv6Addr, mac: Mac, flags: u8) -> Build {
    let option = [&[2, 1][..], &PEN.bytes()].concat();
    let body = [&target.octets()[..], &option].concat();
    v6(target, to)
        .from(PEN)
        .to(mac)
        .hops(255)
        .icmp(136, 0, u32::from(flags) << 24, &body)
}

pub(super) fn solicitation_cases() -> Vec<Case> {
    [answers(), refusals(), others(), advertisements()].concat()
}

fn answers() -> Vec<Case> {
    let answered = Reason::NeighborAnswered;
    let all = "ff02::1".parse().expect("address");
    let reply = advertise(VIP6, CLIENT6, CLIENT, 0x60).frame();
    let to_all = advertise(VIP6, all, net::ALL_NODES, 0x20).frame();
    let nobody = Ipv6Addr::UNSPECIFIED;
    vec![
        Case::reply(
            "solicitation",
            solicit(CLIENT6, VIP6, &SOURCE_LINK).frame(),
            answered,
            reply.clone(),
        ),
        Case::reply(
            "solicitation-without-option",
            solicit(CLIENT6, VIP6, &[]).frame(),
            answered,
            reply.clone(),
        ),
        Case::reply(
            "solicitation-with-more-options",
            solicit(CLIENT6, VIP6, &[SOURCE_LINK, NONCE].concat()).frame(),
            answered,
            reply.clone(),
        ),
        Case::reply(
            "solicitation-padded",
            padded(solicit(CLIENT6, VIP6, &[]).frame(), 128),
            answered,
            reply.clone(),
        ),
        Case::reply(
            "solicitation-unicast",
            probe(VIP6, &SOURCE_LINK).frame(),
            answered,
            reply.clone(),
        ),
        Case::reply(
            "solicitation-unicast-bare",
            probe(VIP6, &[]).frame(),
            answered,
            reply,
        ),
        Case::reply(
            "solicitation-tagged",
            solicit(CLIENT6, VIP6, &SOURCE_LINK).tag(5).frame(),
            answered,
            advertise(VIP6, CLIENT6, CLIENT, 0x60).tag(5).frame(),
        ),
        Case::reply(
            "solicitation-in-vlan-of-vip",
            solicit(CLIENT6, TAGGED6, &SOURCE_LINK).tag(10).frame(),
            answered,
            advertise(TAGGED6, CLIENT6, CLIENT, 0x60).tag(10).frame(),
        ),
        // RFC 4862, section 5.4: is the address free? The answer goes to all nodes.
        Case::reply(
            "duplicate-probe",
            solicit(nobody, VIP6, &[]).frame(),
            answered,
            to_all.clone(),
        ),
        Case::reply(
            "duplicate-probe-with-nonce",
            solicit(nobody, VIP6, &NONCE).frame(),
            answered,
            to_all,
        ),
    ]
}

fn refusals() -> Vec<Case> {
    let refused = Reason::NeighborRefused;
    let ask = || solicit(CLIENT6, VIP6, &SOURCE_LINK);
    let nobody = Ipv6Addr::UNSPECIFIED;
    vec![
        Case::drop("solicitation-from-afar", ask().hops(254).frame(), refused),
        Case::drop(
            "solicitation-bad-checksum",
            bytes_at(ask().frame(), 56, &[0xba, 0xad]),
            refused,
        ),
        Case::drop("solicitation-code-1", coded(1), refused),
        Case::drop(
            "solicitation-option-of-no-length",
            solicit(CLIENT6, VIP6, &[1, 0, 2, 0, 0, 0, 0, 0x0c]).frame(),
            refused,
        ),
        Case::drop(
            "solicitation-option-over-end",
            solicit(CLIENT6, VIP6, &[1, 2, 2, 0, 0, 0, 0, 0x0c]).frame(),
            refused,
        ),
        Case::drop(
            "duplicate-probe-with-link-address",
            solicit(nobody, VIP6, &SOURCE_LINK).frame(),
            refused,
        ),
        Case::drop(
            "duplicate-probe-with-nonce-and-link-address",
            solicit(nobody, VIP6, &[NONCE, SOURCE_LINK].concat()).frame(),
            refused,
        ),
        Case::drop(
            "duplicate-probe-unicast",
            v6(nobody, VIP6)
                .hops(255)
                .icmp(135, 0, 0, &VIP6.octets())
                .frame(),
            refused,
        ),
        Case::drop(
            "solicitation-from-multicast",
            solicit("ff02::1".parse().expect("address"), VIP6, &[]).frame(),
            refused,
        ),
    ]
}

fn coded(code: u8) -> Vec<u8> {
    let (group, mac) = solicited_node(VIP6);
    v6(CLIENT6, group)
        .to(mac)
        .hops(255)
        .icmp(135, code, 0, &VIP6.octets())
        .frame()
}

fn others() -> Vec<Case> {
    let (group, mac) = solicited_node(VIP6);
    let short = v6(CLIENT6, group)
        .to(mac)
        .hops(255)
        .icmp(135, 0, 0, &VIP6.octets()[..15]);
    vec![
        Case::pass(
            "solicitation-kernel-vip",
            solicit(CLIENT6, KERNEL6, &[]).frame(),
            Reason::KernelOwned,
        ),
        Case::pass(
            "solicitation-no-vip",
            solicit(CLIENT6, OTHER6, &[]).frame(),
            Reason::NotVip,
        ),
        Case::pass(
            "solicitation-other-vlan",
            solicit(CLIENT6, TAGGED6, &[]).tag(11).frame(),
            Reason::OtherVlan,
        ),
        Case::pass(
            "solicitation-from-ourselves",
            solicit(CLIENT6, VIP6, &[]).from(PEN).frame(),
            Reason::NotVip,
        ),
        Case::pass(
            "solicitation-to-a-stranger",
            solicit(CLIENT6, VIP6, &[]).to(STRANGER).frame(),
            Reason::NotOurMac,
        ),
        Case::pass("solicitation-short", short.frame(), Reason::NotOurMac),
        Case::pass(
            "solicitation-cut",
            cut(solicit(CLIENT6, VIP6, &[]).frame(), 70),
            Reason::NotOurMac,
        ),
        // RFC 6980: neighbour discovery does not come in fragments.
        Case::pass(
            "solicitation-in-fragment-header",
            solicit(CLIENT6, VIP6, &[]).atomic(0xa001).frame(),
            Reason::NotOurMac,
        ),
    ]
}

fn advertisements() -> Vec<Case> {
    let all: Ipv6Addr = "ff02::1".parse().expect("address");
    let claim = advertise(VIP6, all, net::ALL_NODES, 0x20).from(STRANGER);
    vec![
        Case::pass(
            "advertisement-of-vip-by-another",
            claim.frame(),
            Reason::VipClaimed,
        ),
        Case::pass(
            "advertisement-of-vip-by-ourselves",
            claim.from(PEN).frame(),
            Reason::NotVip,
        ),
        Case::pass(
            "advertisement-of-another",
            advertise(OTHER6, all, net::ALL_NODES, 0x20)
                .from(STRANGER)
                .frame(),
            Reason::NotVip,
        ),
        Case::pass(
            "router-solicitation",
            v6(CLIENT6, "ff02::2".parse().expect("address"))
                .to(Mac(0x3333_0000_0002))
                .hops(255)
                .icmp(133, 0, 0, &[])
                .frame(),
            Reason::NotOurMac,
        ),
    ]
}
