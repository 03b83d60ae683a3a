//! The one decision: what becomes of a frame.
//!
//! Whose is it? What is to be answered is answered in place; what is for a service is delivered: its
//! back end is chosen and its MAC addresses rewritten. The XDP program may hand such a frame to a
//! worker instead ([`steer_or`]), which then calls [`steer`] on it.

mod neighbors;
mod tarpit;

use crate::{
    checksum,
    flow::{Address, Flow},
    flow_table::FlowFrame,
    fragment_table::FragmentOwner,
    frame::Frame,
    packet::{
        ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, Link, Packet, Part, Skip, TCP,
        UDP,
    },
    rewrite,
    tables::{BackendId, Mac, Memory, Service, Tables, Vip, VipEntry, VipKey},
    verdict::{Reason, Verdict},
};

/// Decides and rewrites.
#[inline(always)]
pub fn steer<F: Frame, M: Memory>(frame: &mut F, tables: &Tables<'_, M>) -> Verdict {
    // There is always a verdict, as nobody else takes frames.
    steer_or(frame, tables, &Nobody).unwrap_or(Verdict::Drop(Reason::NoBackend))
}

/// Who else may take a frame that is for a service. Not a closure, because of a closure the compiler
/// can't be told to inline it wherever it is called.
pub trait Other<F> {
    /// Takes it, or says that it is to be delivered here.
    fn takes(&self, frame: &F, delivery: &Delivery) -> bool;
}

struct Nobody;

impl<F> Other<F> for Nobody {
    #[inline(always)]
    fn takes(&self, _: &F, _: &Delivery) -> bool {
        false
    }
}

/// What is to be done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Deliver(Delivery),
    Done(Verdict),
}

/// A frame for a DSR service, to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The packet.
    pub packet: Packet,
    /// The flow that decides: the packet's own, or the one that an ICMP error quotes.
    pub flow: Flow,
    /// Sender on the link.
    pub source: Mac,
    /// To whom.
    pub to: To,
}

/// How a back end is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// By the service's table.
    Service(Service),
    /// Known already: a later fragment follows its first.
    Backend(BackendId),
}

impl Delivery {
    /// Whether it is part of a fragmented datagram. Such frames are steered where they arrive,
    /// so that a later fragment can't overtake the first in another worker's ring.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        !matches!(self.packet.fragment.part, Part::Whole)
    }
}

/// As [`steer`], unless `other` takes the frame: `None` then.
///
/// The families go their ways apart to the end, though it is the same way: so the compiler knows for
/// each what its addresses look like.
#[inline(always)]
pub fn steer_or<F: Frame, M: Memory>(
    frame: &mut F,
    tables: &Tables<'_, M>,
    other: &impl Other<F>,
) -> Option<Verdict> {
    let Some(link) = Link::parse(frame) else {
        return Some(Verdict::Pass(Reason::TooShort));
    };
    let ours = link.destination == tables.head.mac;
    if !ours && !link.is_group() {
        return Some(Verdict::Pass(Reason::NotOurMac));
    }
    match link.ethertype {
        ETHERTYPE_ARP => Some(neighbors::arp(frame, &link, tables)),
        ETHERTYPE_IPV4 if ours => {
            let class = ip4(frame, &link, tables);
            settle(frame, tables, &class, other)
        }
        ETHERTYPE_IPV6 => {
            let class = ip6(frame, &link, ours, tables);
            settle(frame, tables, &class, other)
        }
        ETHERTYPE_IPV4 => Some(Verdict::Pass(Reason::NotOurMac)),
        _ => Some(Verdict::Pass(Reason::NotIp)),
    }
}

#[inline(always)]
fn settle<F: Frame, M: Memory>(
    frame: &mut F,
    tables: &Tables<'_, M>,
    class: &Class,
    other: &impl Other<F>,
) -> Option<Verdict> {
    match class {
        Class::Deliver(delivery) if other.takes(frame, delivery) => None,
        Class::Deliver(delivery) => Some(deliver(frame, tables, delivery)),
        Class::Done(verdict) => Some(*verdict),
    }
}

#[inline(always)]
fn ip4<F: Frame, M: Memory>(frame: &mut F, link: &Link, tables: &Tables<'_, M>) -> Class {
    match Packet::parse_v4(frame, link.l3) {
        Ok(packet) => by_protocol(frame, link, &packet, tables),
        Err(skip) => unusable(link, skip, tables),
    }
}

#[inline(always)]
fn ip6<F: Frame, M: Memory>(
    frame: &mut F,
    link: &Link,
    ours: bool,
    tables: &Tables<'_, M>,
) -> Class {
    let packet = match Packet::parse_v6(frame, link.l3) {
        Ok(packet) => packet,
        Err(skip) => return unusable(link, skip, tables),
    };
    if packet.flow.protocol == ICMPV6
        && usize::from(packet.l4) == link.l3 + 40
        && let Some(verdict) = neighbors::neighbor(frame, link, &packet, tables)
    {
        return Class::Done(verdict);
    }
    if !ours {
        return pass(Reason::NotOurMac);
    }
    by_protocol(frame, link, &packet, tables)
}

#[inline(always)]
fn by_protocol<F: Frame, M: Memory>(
    frame: &mut F,
    link: &Link,
    packet: &Packet,
    tables: &Tables<'_, M>,
) -> Class {
    if packet.fragment.part == Part::Later {
        return later_fragment(link, packet, tables);
    }
    match packet.flow.protocol {
        TCP | UDP => transport(frame, link, packet, tables),
        ICMP if packet.flow.destination.is_v4() => icmp(frame, link, packet, tables),
        ICMPV6 if !packet.flow.destination.is_v4() => icmp(frame, link, packet, tables),
        _ => no_service(link, packet.flow.destination, Reason::NoService, tables),
    }
}

/// Chooses the back end and rewrites the MAC addresses; finishes a checksum left to hardware.
#[inline(always)]
fn deliver<F: Frame, M: Memory>(
    frame: &mut F,
    tables: &Tables<'_, M>,
    delivery: &Delivery,
) -> Verdict {
    let Delivery {
        packet,
        flow,
        source,
        to,
    } = delivery;
    let chosen = match *to {
        To::Backend(id) => match tables.backend(id) {
            Some(backend) => Ok((id, backend.mac)),
            None => Err(Reason::NoMac),
        },
        To::Service(service) => choose(packet, flow, service, tables),
    };
    let (id, mac) = match chosen {
        Ok(chosen) => chosen,
        Err(reason) => return Verdict::Drop(reason),
    };
    // Only the back end that this flow goes to can have sent it back; a back end of one pool may
    // well be a client of another.
    if *source == mac || *source == tables.head.mac {
        return Verdict::Drop(Reason::Loop);
    }
    if packet.fragment.part == Part::First
        && let Some(key) = packet.fragment_key()
    {
        tables.remember(&key, FragmentOwner::Backend(id));
    }
    if tables.finish_checksums() && checksum::finish(frame, packet) {
        tables.note(Reason::ChecksumFinished);
    }
    match rewrite::macs(frame, mac, tables.head.mac) {
        Some(()) => Verdict::Forward(id),
        None => Verdict::Drop(Reason::Truncated),
    }
}

/// The back end that the flow went to before, as long as that one can be reached; for a new flow the
/// one that the slots say.
#[inline(always)]
fn choose<M: Memory>(
    packet: &Packet,
    flow: &Flow,
    service: Service,
    tables: &Tables<'_, M>,
) -> Result<(BackendId, Mac), Reason> {
    let hash = tables.hash(flow).ok_or(Reason::NoBackend)?;
    let seen = match flow.protocol {
        TCP if packet.opens => FlowFrame::Syn,
        TCP => FlowFrame::Tcp,
        _ => FlowFrame::Other,
    };
    // A back end of another pool is another flow's, or the service has another pool since.
    if let Some(id) = tables.recall(hash, seen)
        && let Some(backend) = tables.backend(id)
        && backend.pool == service.pool
    {
        return Ok((id, backend.mac));
    }
    let by = if service.by_source {
        tables.source_hash(flow).ok_or(Reason::NoBackend)?
    } else {
        hash
    };
    let id = tables.slot(service.pool, by).ok_or(Reason::NoBackend)?;
    let backend = tables.backend(id).ok_or(Reason::NoMac)?;
    // An ICMP error follows a flow and makes none.
    if packet.flow.protocol == flow.protocol {
        tables.record(hash, id, seen);
    }
    Ok((id, backend.mac))
}

#[inline(always)]
const fn pass(reason: Reason) -> Class {
    Class::Done(Verdict::Pass(reason))
}

#[inline(always)]
const fn drop(reason: Reason) -> Class {
    Class::Done(Verdict::Drop(reason))
}

/// A frame in another VLAN than the entry names is none of the service's.
#[inline(always)]
const fn in_vlan(entry: &VipEntry, link: &Link) -> bool {
    entry.vlan == 0 || entry.vlan == link.vlan
}

/// Who owns an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Own,
    Kernel,
    Nobody,
    OtherVlan,
}

#[inline(always)]
fn owner<M: Memory>(address: Address, link: &Link, tables: &Tables<'_, M>) -> Owner {
    owner_by(tables.vip(&VipKey::owner(address)), link)
}

/// The same by the address's entry.
#[inline(always)]
const fn owner_by(entry: Option<VipEntry>, link: &Link) -> Owner {
    match entry {
        Some(entry) if !in_vlan(&entry, link) => Owner::OtherVlan,
        Some(VipEntry { vip: Vip::Own, .. }) => Owner::Own,
        Some(_) => Owner::Kernel,
        None => Owner::Nobody,
    }
}

/// A packet that no service takes: dropped with `reason` if the VIP is ours.
#[inline(always)]
fn no_service<M: Memory>(
    link: &Link,
    destination: Address,
    reason: Reason,
    tables: &Tables<'_, M>,
) -> Class {
    match owner(destination, link, tables) {
        Owner::Own => drop(reason),
        Owner::Kernel => pass(Reason::KernelOwned),
        Owner::Nobody => pass(Reason::NotVip),
        Owner::OtherVlan => pass(Reason::OtherVlan),
    }
}

/// A malformed header: the kernel's business unless it was going to a VIP of ours.
#[inline(always)]
fn unusable<M: Memory>(link: &Link, skip: Skip, tables: &Tables<'_, M>) -> Class {
    match skip.destination {
        None => pass(skip.reason),
        Some(_) if link.is_group() => pass(Reason::NotOurMac),
        Some(destination) => no_service(link, destination, skip.reason, tables),
    }
}

/// TCP and UDP with their ports at hand. An exact port beats port 0. The access list is asked of
/// every packet, so that a change of it reaches flows that run.
#[inline(always)]
fn transport<F: Frame, M: Memory>(
    frame: &mut F,
    link: &Link,
    packet: &Packet,
    tables: &Tables<'_, M>,
) -> Class {
    match service(link, &packet.flow, tables) {
        Some(VipEntry {
            vip: Vip::Service(service),
            acl,
            ..
        }) => {
            if !tables.admits(acl, packet.flow.source) {
                return drop(Reason::AclDenied);
            }
            Class::Deliver(Delivery {
                packet: *packet,
                flow: packet.flow,
                source: link.source,
                to: To::Service(service),
            })
        }
        Some(_) => {
            if let Some(key) = packet.fragment_key() {
                tables.remember(&key, FragmentOwner::Kernel);
            }
            pass(Reason::KernelOwned)
        }
        None if is_trapped(packet, tables) => Class::Done(tarpit::tcp(frame, link, packet, tables)),
        None => no_service(link, packet.flow.destination, Reason::NoService, tables),
    }
}

/// Whether it is TCP to an address of the tarpit, of which none is a VIP.
#[inline(always)]
fn is_trapped<M: Memory>(packet: &Packet, tables: &Tables<'_, M>) -> bool {
    packet.flow.protocol == TCP && tables.is_trapped(packet.flow.destination)
}

/// The service, or the kernel's port, that takes this flow.
#[inline(always)]
fn service<M: Memory>(link: &Link, flow: &Flow, tables: &Tables<'_, M>) -> Option<VipEntry> {
    let exact = VipKey {
        address: flow.destination,
        port: flow.destination_port,
        protocol: flow.protocol,
    };
    if let Some(entry) = tables.vip(&exact)
        && in_vlan(&entry, link)
    {
        return Some(entry);
    }
    let entry = tables.vip(&VipKey { port: 0, ..exact })?;
    in_vlan(&entry, link).then_some(entry)
}

/// A fragment without ports goes where its first one went, which was let pass. Its own client is
/// asked for where all services of the VIP have the same access list: no port says of which it is.
#[inline(always)]
fn later_fragment<M: Memory>(link: &Link, packet: &Packet, tables: &Tables<'_, M>) -> Class {
    let entry = tables.vip(&VipKey::owner(packet.flow.destination));
    let owner = owner_by(entry, link);
    match owner {
        Owner::Nobody if is_trapped(packet, tables) => return drop(Reason::TarpitSwallowed),
        Owner::Nobody => return pass(Reason::NotVip),
        Owner::OtherVlan => return pass(Reason::OtherVlan),
        Owner::Own | Owner::Kernel => {}
    }
    if let Some(VipEntry { acl, .. }) = entry
        && !tables.admits(acl, packet.flow.source)
    {
        return drop(Reason::AclDenied);
    }
    let first = packet.fragment_key().and_then(|key| tables.fragment(&key));
    match first {
        Some(FragmentOwner::Backend(id)) => Class::Deliver(Delivery {
            packet: *packet,
            flow: packet.flow,
            source: link.source,
            to: To::Backend(id),
        }),
        Some(FragmentOwner::Kernel) => pass(Reason::KernelOwned),
        None if owner == Owner::Kernel => pass(Reason::KernelOwned),
        None => drop(Reason::FragmentFirstMissing),
    }
}

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// Errors follow the flow that they quote (RFC 792; RFC 4443, section 3); pings are answered.
#[inline(always)]
fn icmp<F: Frame, M: Memory>(
    frame: &mut F,
    link: &Link,
    packet: &Packet,
    tables: &Tables<'_, M>,
) -> Class {
    let vip = packet.flow.destination;
    let l4 = usize::from(packet.l4);
    let Some([kind, code]) = frame.get::<2>(l4).filter(|_| packet.l4_len >= 8) else {
        return no_service(link, vip, Reason::Truncated, tables);
    };
    let v4 = vip.is_v4();
    let is_error = if v4 {
        matches!(kind, 3 | 11 | 12)
    } else {
        matches!(kind, 1..=4)
    };
    if is_error {
        let found = packet
            .quoted(frame)
            .and_then(|flow| Some((service(link, &flow, tables)?, flow)));
        return match found {
            Some((
                VipEntry {
                    vip: Vip::Service(service),
                    acl,
                    ..
                },
                flow,
            )) => {
                // The client's, who need not be the router that tells of the error.
                if !tables.admits(acl, flow.source) {
                    return drop(Reason::AclDenied);
                }
                Class::Deliver(Delivery {
                    packet: *packet,
                    flow,
                    source: link.source,
                    to: To::Service(service),
                })
            }
            _ => no_service(link, vip, Reason::IcmpUnmatched, tables),
        };
    }
    let is_echo = code == 0 && kind == if v4 { ECHO_REQUEST_V4 } else { ECHO_REQUEST_V6 };
    if !is_echo {
        return no_service(link, vip, Reason::NoService, tables);
    }
    match owner(vip, link, tables) {
        Owner::Own => Class::Done(echo(frame, link, packet, tables.head.mac)),
        Owner::Kernel => pass(Reason::KernelOwned),
        Owner::Nobody => pass(Reason::NotVip),
        Owner::OtherVlan => pass(Reason::OtherVlan),
    }
}

#[inline(always)]
fn echo<F: Frame>(frame: &mut F, link: &Link, packet: &Packet, mac: Mac) -> Verdict {
    if packet.fragment.part != Part::Whole {
        return Verdict::Drop(Reason::EchoFragment);
    }
    if link.source == mac {
        return Verdict::Drop(Reason::Loop);
    }
    if !can_be_answered(packet.flow.source) {
        return Verdict::Drop(Reason::EchoRefused);
    }
    match rewrite::echo_reply(frame, link, packet, mac) {
        Some(()) => Verdict::Reply(Reason::EchoAnswered),
        None => Verdict::Drop(Reason::Truncated),
    }
}

/// RFC 1122, section 3.2.1.3: no answer to an address that is not one host's.
#[inline(always)]
const fn can_be_answered(source: Address) -> bool {
    if source.is_v4() {
        // Not "this network", not loopback, not multicast, reserved or broadcast.
        let first = source.v4_number() >> 24;
        first != 0 && first != 127 && first < 224
    } else {
        source.high >> 56 != 0xff && !(source.high == 0 && source.low <= 1)
    }
}
