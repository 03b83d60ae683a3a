//! The tarpit: who asks for its addresses is answered, who connects hangs, and nobody else notices.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    Case,
    neighbors::{advertise, solicit},
};
use crate::{
    tables::Mac,
    testing::{
        build::{Build, arp, bytes_at, padded, v4, v6},
        world::net::{
            self, BROADCAST, CLIENT, CLIENT4, CLIENT6, NOT_TRAPPED4, OTHER4, PEN, STRANGER,
            TRAPPED4, TRAPPED6,
        },
    },
    verdict::Reason,
};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;
/// The client's own number, which runs over when it is acknowledged.
const CLIENT_SEQUENCE: u32 = u32::MAX;
/// Upper halves of the flows' hashes under [`World::key`](super::super::World::key), as observed.
const SEQUENCE4: u32 = 0x1bfc_e8ef;
const SEQUENCE6: u32 = 0x9fb3_fa88;
/// Maximum segment size, selective acknowledgements and padding, as Linux writes them.
const OPTIONS: [u8; 20] = [
    2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7,
];

/// Who has `target`? A machine with the client's MAC address asks.
fn request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    arp(1, (CLIENT, sender), (Mac(0), target))
}

/// From port 40,000 to port 22, or the other way.
fn header(ports: [u16; 2], numbers: [u32; 2], flags: u8, rest: (u16, &[u8])) -> Vec<u8> {
    let (window, options) = rest;
    let mut bytes = ports.map(u16::to_be_bytes).concat();
    bytes.extend(numbers.map(u32::to_be_bytes).concat());
    bytes.extend([((5 + options.len() / 4) << 4) as u8, flags]);
    bytes.extend(window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(options);
    bytes
}

fn asked(build: Build, flags: u8, options: &[u8]) -> Build {
    let numbers = [CLIENT_SEQUENCE, 7];
    let bytes = header([40_000, 22], numbers, flags, (64_240, options));
    build.transport(6, bytes, Some(16))
}

fn syn4(options: &[u8]) -> Build {
    asked(v4(CLIENT4, TRAPPED4), SYN, options)
}

fn syn6(options: &[u8]) -> Build {
    asked(v6(CLIENT6, TRAPPED6), SYN, options)
}

fn back(build: Build, sequence: u32) -> Build {
    let bytes = header([22, 40_000], [sequence, 0], SYN | ACK, (0, &[]));
    let build = build.from(PEN).to(CLIENT).hops(64);
    build.transport(6, bytes, Some(16))
}

/// May not be fragmented and has no identification; the header's checksum is mended.
fn syn_ack4(build: impl Fn(Build) -> Build) -> Vec<u8> {
    let frame = build(back(v4(TRAPPED4, CLIENT4), SEQUENCE4)).frame();
    let l3 = frame.len() - 40;
    let field = u16::from_be_bytes([frame[l3 + 10], frame[l3 + 11]]);
    // From 0x1234 and 0 to 0 and 0x4000.
    let sum = u32::from(!field) + u32::from(!0x1234_u16) + 0x4000;
    let sum = !((sum & 0xffff) as u16 + (sum >> 16) as u16);
    let frame = bytes_at(frame, l3 + 4, &[0, 0, 0x40, 0]);
    [bytes_at(frame, l3 + 10, &sum.to_be_bytes()), vec![0; 6]].concat()
}

fn syn_ack6() -> Build {
    back(v6(TRAPPED6, CLIENT6), SEQUENCE6)
}

pub(super) fn cases() -> Vec<Case> {
    [asking4(), asking6(), opening4(), opening6(), rest()].concat()
}

fn asking4() -> Vec<Case> {
    let not_ours = |name, frame| Case::pass(name, frame, Reason::NotVip);
    let first = Ipv4Addr::new(10, 0, 0, 224);
    vec![
        Case::reply(
            "tarpit-arp",
            request(CLIENT4, TRAPPED4),
            Reason::TarpitAsked,
            arp(2, (PEN, TRAPPED4), (CLIENT, CLIENT4)),
        ),
        Case::reply(
            "tarpit-arp-first",
            request(CLIENT4, first),
            Reason::TarpitAsked,
            arp(2, (PEN, first), (CLIENT, CLIENT4)),
        ),
        not_ours(
            "tarpit-arp-before-the-first",
            request(CLIENT4, [10, 0, 0, 223].into()),
        ),
        not_ours(
            "tarpit-arp-behind-the-last",
            request(CLIENT4, [10, 0, 0, 232].into()),
        ),
        not_ours(
            "tarpit-arp-for-one-left-out",
            request(CLIENT4, NOT_TRAPPED4),
        ),
        // Who wants to have the address himself (RFC 5227) gets it.
        not_ours("tarpit-arp-probe", request(Ipv4Addr::UNSPECIFIED, TRAPPED4)),
        not_ours("tarpit-arp-announcement", request(TRAPPED4, TRAPPED4)),
        not_ours(
            "tarpit-arp-reply",
            arp(2, (STRANGER, TRAPPED4), (BROADCAST, CLIENT4)),
        ),
        not_ours(
            "tarpit-arp-by-ourselves",
            bytes_at(request(OTHER4, TRAPPED4), 6, &PEN.bytes()),
        ),
    ]
}

fn asking6() -> Vec<Case> {
    let not_ours = |name, frame: Vec<u8>| Case::pass(name, frame, Reason::NotVip);
    let all: Ipv6Addr = "ff02::1".parse().expect("an address");
    let behind: Ipv6Addr = "2001:db8:0:f::".parse().expect("an address");
    vec![
        Case::reply(
            "tarpit-solicitation",
            solicit(CLIENT6, TRAPPED6, &[]).frame(),
            Reason::TarpitAsked,
            advertise(TRAPPED6, CLIENT6, CLIENT, 0x60).frame(),
        ),
        Case::drop(
            "tarpit-solicitation-of-a-router-away",
            solicit(CLIENT6, TRAPPED6, &[]).hops(64).frame(),
            Reason::NeighborRefused,
        ),
        not_ours(
            "tarpit-solicitation-behind-the-last",
            solicit(CLIENT6, behind, &[]).frame(),
        ),
        not_ours(
            "tarpit-duplicate-probe",
            solicit(Ipv6Addr::UNSPECIFIED, TRAPPED6, &[]).frame(),
        ),
        not_ours(
            "tarpit-advertisement",
            advertise(TRAPPED6, all, net::ALL_NODES, 0x20)
                .from(STRANGER)
                .frame(),
        ),
    ]
}

fn opening4() -> Vec<Case> {
    let opens = |name, frame, out| Case::reply(name, frame, Reason::TarpitAnswered, out);
    let unfinished = |build: Build| build.unfinished();
    vec![
        opens("tarpit-syn4", syn4(&[]).frame(), {
            // As long as the question, which the sender's card pads.
            let mut frame = syn_ack4(|build| build);
            frame.truncate(54);
            frame
        }),
        opens(
            "tarpit-syn4-padded",
            padded(syn4(&[]).frame(), 60),
            syn_ack4(|build| build),
        ),
        opens(
            "tarpit-syn4-options",
            syn4(&OPTIONS).frame(),
            syn_ack4(|build| build),
        ),
        opens(
            "tarpit-syn4-ip-options",
            syn4(&OPTIONS).options(&[1; 8]).frame(),
            syn_ack4(|build| build),
        ),
        opens(
            "tarpit-syn4-tagged",
            syn4(&OPTIONS).tag(5).frame(),
            syn_ack4_tagged(),
        ),
        opens(
            "tarpit-syn4-unfinished",
            syn4(&OPTIONS).unfinished().frame(),
            syn_ack4(unfinished),
        ),
        opens(
            "tarpit-syn4-finished",
            syn4(&OPTIONS).unfinished().frame(),
            syn_ack4(|build| build),
        )
        .finishing(),
        // Who finishes it would do so at the place of the question's.
        Case::drop(
            "tarpit-syn4-unfinished-elsewhere",
            syn4(&OPTIONS).options(&[1; 8]).unfinished().frame(),
            Reason::TarpitSwallowed,
        ),
    ]
}

/// A tag is four bytes more, and two of padding are enough.
fn syn_ack4_tagged() -> Vec<u8> {
    let plain = syn_ack4(|build| build);
    let tag = [0x81, 0, 0, 5];
    [&plain[..12], &tag, &plain[12..54], &[0, 0]].concat()
}

fn opening6() -> Vec<Case> {
    let opens = |name, frame, out| Case::reply(name, frame, Reason::TarpitAnswered, out);
    vec![
        opens("tarpit-syn6", syn6(&[]).frame(), syn_ack6().frame()),
        opens(
            "tarpit-syn6-options",
            syn6(&OPTIONS).frame(),
            syn_ack6().frame(),
        ),
        opens(
            "tarpit-syn6-extensions",
            syn6(&OPTIONS).extension(0, 8).extension(60, 16).frame(),
            syn_ack6().frame(),
        ),
        opens(
            "tarpit-syn6-unfinished",
            syn6(&OPTIONS).unfinished().frame(),
            syn_ack6().unfinished().frame(),
        ),
    ]
}

/// What is swallowed, and what is not Pen's to take.
fn rest() -> Vec<Case> {
    let swallowed = |name, frame| Case::drop(name, frame, Reason::TarpitSwallowed);
    let not_ours = |name, frame| Case::pass(name, frame, Reason::NotVip);
    let by = |mac: Mac| syn4(&[]).from(mac).frame();
    let part = |id, from, to| {
        let whole = v4(CLIENT4, TRAPPED4).tcp(40_000, 22, &[7; 64]);
        whole.part(id, from, to).frame()
    };
    let everybody = Ipv4Addr::BROADCAST;
    vec![
        swallowed(
            "tarpit-ack4",
            asked(v4(CLIENT4, TRAPPED4), ACK, &[]).frame(),
        ),
        swallowed(
            "tarpit-ack6",
            asked(v6(CLIENT6, TRAPPED6), ACK, &[]).frame(),
        ),
        swallowed(
            "tarpit-data4",
            v4(CLIENT4, TRAPPED4).tcp(40_000, 22, b"hello").frame(),
        ),
        swallowed(
            "tarpit-data6",
            v6(CLIENT6, TRAPPED6).tcp(40_000, 22, b"hello").frame(),
        ),
        swallowed(
            "tarpit-reset",
            asked(v4(CLIENT4, TRAPPED4), RST, &[]).frame(),
        ),
        swallowed(
            "tarpit-syn-ack",
            asked(v4(CLIENT4, TRAPPED4), SYN | ACK, &[]).frame(),
        ),
        swallowed(
            "tarpit-syn-of-everybody",
            asked(v4(everybody, TRAPPED4), SYN, &[]).frame(),
        ),
        swallowed("tarpit-first-fragment", part(0x7201, 0, 40)),
        swallowed("tarpit-later-fragment", part(0x7202, 40, 84)),
        Case::drop("tarpit-loop", by(PEN), Reason::Loop),
        not_ours(
            "tarpit-udp",
            v4(CLIENT4, TRAPPED4).udp(40_000, 53, b"query").frame(),
        ),
        not_ours(
            "tarpit-ping",
            v4(CLIENT4, TRAPPED4).icmp(8, 0, 7, b"ping").frame(),
        ),
        not_ours(
            "tarpit-left-out",
            asked(v4(CLIENT4, NOT_TRAPPED4), SYN, &[]).frame(),
        ),
        not_ours(
            "tarpit-not-in-it",
            asked(v4(CLIENT4, OTHER4), SYN, &[]).frame(),
        ),
    ]
}
