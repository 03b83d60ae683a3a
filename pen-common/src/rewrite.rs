//! What Pen changes in a frame: the two MAC addresses of what it forwards, and the few answers
//! that it gives itself, made in place from the question.

use crate::{
    checksum::{fold, update},
    flow::Address,
    frame::Frame,
    packet::{ICMPV6, Link, Packet, half},
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
