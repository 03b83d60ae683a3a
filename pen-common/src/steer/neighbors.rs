//! Who asks where a VIP is: ARP and neighbour discovery.

use super::{Owner, can_be_answered, owner};
use crate::{
    checksum,
    flow::Address,
    frame::Frame,
    packet::{Link, Packet},
    rewrite,
    tables::{Memory, Tables},
    verdict::{Reason, Verdict},
};

/// ARP for a VIP that nobody on this host owns (RFC 826, RFC 5227).
#[inline(always)]
pub(super) fn arp<F: Frame, M: Memory>(
    frame: &mut F,
    link: &Link,
    tables: &Tables<'_, M>,
) -> Verdict {
    let Some(packet) = frame.get::<28>(link.l3) else {
        return Verdict::Pass(Reason::TooShort);
    };
    let [
        h0,
        h1,
        p0,
        p1,
        hlen,
        plen,
        o0,
        o1,
        _,
        _,
        _,
        _,
        _,
        _,
        rest @ ..,
    ] = packet;
    let [s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3] = rest;
    if [h0, h1, p0, p1, hlen, plen] != [0, 1, 8, 0, 6, 4] {
        return Verdict::Pass(Reason::NotIp);
    }
    let sender = Address::v4(u32::from_be_bytes([s0, s1, s2, s3]));
    let target = Address::v4(u32::from_be_bytes([t0, t1, t2, t3]));
    if link.source != tables.head.mac && owner(sender, link, tables) == Owner::Own {
        return Verdict::Pass(Reason::VipClaimed);
    }
    let reason = match owner(target, link, tables) {
        Owner::Kernel => return Verdict::Pass(Reason::KernelOwned),
        Owner::OtherVlan => return Verdict::Pass(Reason::OtherVlan),
        Owner::Own => Reason::ArpAnswered,
        // Who wants to have the address himself gets it.
        Owner::Nobody
            if can_be_answered(sender) && sender != target && tables.is_trapped(target) =>
        {
            Reason::TarpitAsked
        }
        Owner::Nobody => return Verdict::Pass(Reason::NotVip),
    };
    if [o0, o1] != [0, 1] || link.source == tables.head.mac {
        return Verdict::Pass(Reason::NotVip);
    }
    match rewrite::arp_reply(frame, link, tables.head.mac) {
        Some(()) => Verdict::Reply(reason),
        None => Verdict::Drop(Reason::NoRoom),
    }
}

const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Length of a solicitation without options, bytes.
const SOLICITATION_LEN: usize = 24;
/// Options that are looked through; secured discovery (RFC 3971) has five.
const NEIGHBOR_OPTIONS_MAX: u32 = 8;
const SOURCE_LINK_ADDRESS: u8 = 1;

/// Neighbour discovery for a VIP that nobody on this host owns (RFC 4861, RFC 4862);
/// `None` if the packet is no such message.
#[inline(always)]
pub(super) fn neighbor<F: Frame, M: Memory>(
    frame: &mut F,
    link: &Link,
    packet: &Packet,
    tables: &Tables<'_, M>,
) -> Option<Verdict> {
    let l4 = usize::from(packet.l4);
    let [kind, code] = frame.get::<2>(l4)?;
    if !matches!(kind, NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT)
        || usize::from(packet.l4_len) < SOLICITATION_LEN
    {
        return None;
    }
    let target = Address::v6(frame.get::<16>(l4 + 8)?);
    let asker = packet.flow.source;
    let reason = match owner(target, link, tables) {
        Owner::Kernel => return Some(Verdict::Pass(Reason::KernelOwned)),
        Owner::OtherVlan => return Some(Verdict::Pass(Reason::OtherVlan)),
        Owner::Own => Reason::NeighborAnswered,
        // Who wants to have the address himself gets it, as by ARP.
        Owner::Nobody
            if kind == NEIGHBOR_SOLICITATION
                && can_be_answered(asker)
                && tables.is_trapped(target) =>
        {
            Reason::TarpitAsked
        }
        Owner::Nobody => return Some(Verdict::Pass(Reason::NotVip)),
    };
    if link.source == tables.head.mac {
        return Some(Verdict::Pass(Reason::NotVip));
    }
    if kind == NEIGHBOR_ADVERTISEMENT {
        return Some(Verdict::Pass(Reason::VipClaimed));
    }
    let sum = frame.sum(l4, usize::from(packet.l4_len))?;
    let whole = checksum::fold(u64::from(sum) + u64::from(packet.pseudo_sum()));
    if code != 0 || whole != 0xffff || !may_ask(frame, link, packet) {
        return Some(Verdict::Drop(Reason::NeighborRefused));
    }
    Some(
        match rewrite::neighbor_advertisement(frame, link, asker, target, tables.head.mac) {
            Some(()) => Verdict::Reply(reason),
            None => Verdict::Drop(Reason::NoRoom),
        },
    )
}

/// Whether a solicitation is one that RFC 4861, section 7.1.1 lets be answered: its addresses and
/// options.
#[inline(always)]
fn may_ask<F: Frame>(frame: &F, link: &Link, packet: &Packet) -> bool {
    let asker = packet.flow.source;
    // A host without an address yet probes for duplicates, always by the target's group.
    let probe = asker == Address::default();
    let Address { high, low } = packet.flow.destination;
    let solicited_node = high == 0xff02 << 48 && low >> 24 == 0x1ff;
    // Hop limit 255 shows that no router forwarded it.
    if frame.get(link.l3 + 7) != Some([255]) || !(can_be_answered(asker) || probe && solicited_node)
    {
        return false;
    }
    let mut at = usize::from(packet.l4) + SOLICITATION_LEN;
    let end = usize::from(packet.l4) + usize::from(packet.l4_len);
    let mut count = 0;
    while at < end && count < NEIGHBOR_OPTIONS_MAX {
        let Some([kind, len]) = frame.get::<2>(at) else {
            return false;
        };
        if len == 0 || probe && kind == SOURCE_LINK_ADDRESS {
            return false;
        }
        at += usize::from(len) * 8;
        count += 1;
    }
    at == end
}
