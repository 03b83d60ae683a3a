//! What Pen changes in a frame: the two MAC addresses of what it forwards, and the few answers
//! that it gives itself, made in place from the question.

use crate::{
    checksum::{fold, update},
    flow::{Address, Flow},
    frame::Frame,
    packet::{ICMPV6, Link, Packet, TCP, half},
    tables::Mac,
};

/// Hop limit of what Pen sends itself (IANA's recommended default).
const HOP_LIMIT: u8 = 64;
/// Type of an echo reply (RFC 792, page 14).
const ECHO_REPLY_V4: u8 = 0;
/// Type of an echo reply (RFC 4443, section 4.2).
const ECHO_REPLY_V6: u8 = 129;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Solicited and override flags (RFC 4861, section 4.4).
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// Length of an advertisement with its one option, bytes.
const ADVERTISEMENT_LEN: u16 = 32;

/// Length of a TCP header without options, bytes.
const TCP_LEN: u16 = 20;
/// Its length in words, then the flags SYN and ACK (RFC 9293, section 3.1).
const SYN_ACK: u16 = 0x5012;
/// The shortest Ethernet frame without its check sequence, bytes (IEEE 802.3).
const FRAME_LEN_MIN: usize = 60;
/// More bytes than are ever missing of that: an IPv4 answer has 54.
const PADDING_MAX: usize = 6;

const ALL_NODES: Address = Address {
    high: 0xff02_0000_0000_0000,
    low: 1,
};
const ALL_NODES_MAC: Mac = Mac(0x3333_0000_0001);

/// Sets destination and source MAC; all else stays.
#[inline(always)]
pub fn macs<F: Frame>(frame: &mut F, destination: Mac, source: Mac) -> Option<()> {
    // Eight bytes and four: two stores, where six and six would be twelve of single bytes.
    let [b0, b1, b2, b3, b4, b5, b6, b7] = (destination.0 << 16 | source.0 >> 32).to_be_bytes();
    let [b8, b9, b10, b11] = (source.0 as u32).to_be_bytes();
    frame.set(0, [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11])
}

/// Turns an ARP request at `l3` into the answer that its target is at `mac` (RFC 826).
#[inline(always)]
pub fn arp_reply<F: Frame>(frame: &mut F, link: &Link, mac: Mac) -> Option<()> {
    let l3 = link.l3;
    let sender = frame.get::<10>(l3 + 8)?;
    let target = frame.get::<4>(l3 + 24)?;
    frame.set(l3 + 6, [0, 2])?;
    frame.set(l3 + 8, mac.bytes())?;
    frame.set(l3 + 14, target)?;
    frame.set(l3 + 18, sender)?;
    macs(frame, link.source, mac)
}

/// Turns a neighbour solicitation into the advertisement that `target` is at `mac`
/// (RFC 4861, section 7.2.4). The solicitation of a host that has no address yet, a duplicate
/// address probe, is answered to all nodes. `None` if the frame has no room.
#[inline(always)]
pub fn neighbor_advertisement<F: Frame>(
    frame: &mut F,
    link: &Link,
    asker: Address,
    target: Address,
    mac: Mac,
) -> Option<()> {
    let l4 = link.l3 + 40;
    frame.resize(l4 + usize::from(ADVERTISEMENT_LEN))?;
    let probe = asker == Address::default();
    let (to, to_mac, flags) = if probe {
        (ALL_NODES, ALL_NODES_MAC, OVERRIDE)
    } else {
        (asker, link.source, OVERRIDE | SOLICITED)
    };
    let [m0, m1, m2, m3, m4, m5] = mac.bytes();
    // Pseudo-header, then the message: type and flags, target, option.
    let sum = half(target.high)
        + half(target.low)
        + half(to.high)
        + half(to.low)
        + u64::from(ADVERTISEMENT_LEN)
        + u64::from(ICMPV6)
        + (u64::from(NEIGHBOR_ADVERTISEMENT) << 8)
        + (u64::from(flags) << 8)
        + half(target.high)
        + half(target.low)
        + 0x0201
        + (mac.0 >> 32)
        + (mac.0 & 0xffff_ffff);
    let [c0, c1] = (!fold(sum)).to_be_bytes();
    frame.set(link.l3 + 4, ADVERTISEMENT_LEN.to_be_bytes())?;
    frame.set(link.l3 + 8, target.bytes())?;
    frame.set(link.l3 + 24, to.bytes())?;
    frame.set(l4, [NEIGHBOR_ADVERTISEMENT, 0, c0, c1, flags, 0, 0, 0])?;
    frame.set(l4 + 24, [2, 1, m0, m1, m2, m3, m4, m5])?;
    macs(frame, to_mac, mac)
}

/// Turns an echo request into its reply. The checksum is updated, not taken anew: a request that
/// was damaged on its way stays damaged, and the asker sees it.
#[inline(always)]
pub fn echo_reply<F: Frame>(frame: &mut F, link: &Link, packet: &Packet, mac: Mac) -> Option<()> {
    let l3 = link.l3;
    let l4 = usize::from(packet.l4);
    let [kind, code, c0, c1] = frame.get::<4>(l4)?;
    let answer = if packet.flow.source.is_v4() {
        let addresses = frame.get::<8>(l3 + 12)?;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        let [ttl, protocol, h0, h1] = frame.get::<4>(l3 + 8)?;
        let sum = update(
            u16::from_be_bytes([h0, h1]),
            u16::from_be_bytes([ttl, protocol]),
            u16::from_be_bytes([HOP_LIMIT, protocol]),
        );
        let [h0, h1] = sum.to_be_bytes();
        frame.set(l3 + 8, [HOP_LIMIT, protocol, h0, h1])?;
        frame.set(l3 + 12, [d0, d1, d2, d3, s0, s1, s2, s3])?;
        ECHO_REPLY_V4
    } else {
        frame.set(l3 + 7, [HOP_LIMIT])?;
        frame.set(l3 + 8, packet.flow.destination.bytes())?;
        frame.set(l3 + 24, packet.flow.source.bytes())?;
        ECHO_REPLY_V6
    };
    let sum = update(
        u16::from_be_bytes([c0, c1]),
        u16::from_be_bytes([kind, code]),
        u16::from_be_bytes([answer, code]),
    );
    let [c0, c1] = sum.to_be_bytes();
    frame.set(l4, [answer, code, c0, c1])?;
    macs(frame, link.source, mac)
}

/// How a connection to an address of the tarpit is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    /// Our own MAC address.
    pub mac: Mac,
    /// First sequence number.
    pub sequence: u32,
    /// Whether the checksum is left to who finishes it later, as the question's was.
    pub unfinished: bool,
}

/// Turns a TCP SYN into its SYN and ACK: without options, and with a window that lets nothing be sent.
/// `None`, and the frame is as it was, where the answer has no room, or would have its checksum at
/// another place than who finishes it was told.
#[inline(always)]
pub fn trap<F: Frame>(frame: &mut F, link: &Link, packet: &Packet, trap: &Trap) -> Option<()> {
    let l3 = link.l3;
    let flow = packet.flow.reversed();
    let v4 = flow.source.is_v4();
    let l4 = l3 + if v4 { 20 } else { 40 };
    let end = l4 + usize::from(TCP_LEN);
    let [s0, s1, s2, s3] = frame.get::<4>(usize::from(packet.l4) + 4)?;
    if trap.unfinished && l4 != usize::from(packet.l4) {
        return None;
    }
    // A SYN is no shorter than its answer, so that this never lengthens the frame.
    let len = end.max(FRAME_LEN_MIN).min(frame.len());
    frame.resize(len)?;
    let mut padding = 0;
    while padding < PADDING_MAX {
        if end + padding < len {
            frame.set(end + padding, [0])?;
        }
        padding += 1;
    }
    let addresses = if v4 {
        ip4_header(frame, l3, &flow)?
    } else {
        ip6_header(frame, l3, &flow)?
    };
    let pseudo = addresses + u64::from(TCP) + u64::from(TCP_LEN);
    let acknowledged = u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(1);
    let sum = pseudo
        + u64::from(flow.source_port)
        + u64::from(flow.destination_port)
        + u64::from(trap.sequence)
        + u64::from(acknowledged)
        + u64::from(SYN_ACK);
    let checksum = if trap.unfinished {
        fold(pseudo)
    } else {
        !fold(sum)
    };
    let [p0, p1] = flow.source_port.to_be_bytes();
    let [p2, p3] = flow.destination_port.to_be_bytes();
    frame.set(l4, [p0, p1, p2, p3])?;
    frame.set(l4 + 4, trap.sequence.to_be_bytes())?;
    frame.set(l4 + 8, acknowledged.to_be_bytes())?;
    let [f0, f1] = SYN_ACK.to_be_bytes();
    let [c0, c1] = checksum.to_be_bytes();
    // The window and the urgent pointer are zero.
    frame.set(l4 + 12, [f0, f1, 0, 0, c0, c1, 0, 0])?;
    macs(frame, link.source, trap.mac)
}

/// Writes an IPv4 header for a TCP header alone (RFC 791, section 3.1); the sum of the addresses.
#[inline(always)]
fn ip4_header<F: Frame>(frame: &mut F, l3: usize, flow: &Flow) -> Option<u64> {
    const LEN: u8 = 40;
    /// May not be fragmented, and so needs no identification (RFC 6864, section 4).
    const WHOLE: u8 = 0x40;
    let (source, destination) = (flow.source.v4_number(), flow.destination.v4_number());
    let addresses = u64::from(source) + u64::from(destination);
    let words = [[0x45, 0], [0, LEN], [WHOLE, 0], [HOP_LIMIT, TCP]];
    let [a, b, c, d] = words.map(|word| u64::from(u16::from_be_bytes(word)));
    let [c0, c1] = (!fold(addresses + a + b + c + d)).to_be_bytes();
    frame.set(
        l3,
        [0x45, 0, 0, LEN, 0, 0, WHOLE, 0, HOP_LIMIT, TCP, c0, c1],
    )?;
    frame.set(l3 + 12, source.to_be_bytes())?;
    frame.set(l3 + 16, destination.to_be_bytes())?;
    Some(addresses)
}

/// The same for IPv6 (RFC 8200, section 3).
#[inline(always)]
fn ip6_header<F: Frame>(frame: &mut F, l3: usize, flow: &Flow) -> Option<u64> {
    let (source, destination) = (flow.source, flow.destination);
    let [l0, l1] = TCP_LEN.to_be_bytes();
    frame.set(l3, [0x60, 0, 0, 0, l0, l1, TCP, HOP_LIMIT])?;
    frame.set(l3 + 8, source.bytes())?;
    frame.set(l3 + 24, destination.bytes())?;
    Some(half(source.high) + half(source.low) + half(destination.high) + half(destination.low))
}
