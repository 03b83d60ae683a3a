//! One entry of the kernel's neighbour table: reading it, making it, keeping it, deleting it.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState,
};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::{Hold, hold_of};
use crate::netlink::Netlink;

/// The mark on entries of ours (`NDA_PROTOCOL`, kernel 5.0): 'P'. Nobody has registered it in
/// `linux/rtnetlink.h` or `/etc/iproute2/rt_protos`.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(b'P');

/// What the kernel says about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// `None` while it is unresolved or has failed.
    pub(super) mac: Option<[u8; 6]>,
    /// Carries our mark.
    pub(super) ours: bool,
    /// The kernel keeps it resolved.
    pub(super) managed: bool,
    /// Marked as learnt from elsewhere, so that the kernel neither ages nor counts it.
    pub(super) learned: bool,
    /// Set by hand.
    pub(super) permanent: bool,
    /// The kernel takes the address for no machine's and will never ask for it. In a network
    /// namespace that has had no IPv4 address yet it takes every one for a broadcast address, and
    /// remembers that in the entry.
    pub(super) misjudged: bool,
}

/// What is done with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// It is made, or marked as ours; with the mark the kernel keeps it resolved.
    Make {
        /// See above.
        managed: bool,
    },
    /// The kernel verifies it.
    Probe,
    /// It is the kernel's alone again.
    Unmanage,
    /// It goes away.
    Delete,
}

/// Whether this may be done on behalf of one who is not trusted: entries that were set by hand, or are
/// in another program's care, are left alone, and nothing is done with one that was not made ours.
///
/// # Errors
/// The kernel does not show the entry.
pub(crate) fn may(
    netlink: &mut Netlink,
    (ifindex, address): (u32, IpAddr),
    order: Order,
) -> io::Result<bool> {
    let seen = match one(netlink, ifindex, address) {
        Ok(seen) => Some(seen),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
        Err(error) => return Err(error),
    };
    Ok(match (order, seen) {
        (Order::Make { .. }, seen) => hold_of(seen.as_ref()) != Hold::Foreign,
        // It has gone by itself.
        (_, None) => true,
        (_, Some(seen)) => seen.ours,
    })
}

/// Has the kernel do it. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn carry_out(
    netlink: &mut Netlink,
    (ifindex, address): (u32, IpAddr),
    order: Order,
) -> io::Result<()> {
    match order {
        Order::Make { managed } => make(netlink, ifindex, address, managed),
        Order::Probe => probe(netlink, ifindex, address),
        Order::Unmanage => unmanage(netlink, ifindex, address),
        Order::Delete => delete(netlink, ifindex, address),
    }
}

/// All entries of one interface.
pub(super) fn table(netlink: &mut Netlink, ifindex: u32) -> io::Result<BTreeMap<IpAddr, Seen>> {
    let all = netlink.dump(RouteNetlinkMessage::GetNeighbour(
        NeighbourMessage::default(),
    ))?;
    Ok(all
        .iter()
        .filter_map(|message| read(message, ifindex))
        .collect())
}

/// The entry of one address.
pub(super) fn one(netlink: &mut Netlink, ifindex: u32, address: IpAddr) -> io::Result<Seen> {
    let question = RouteNetlinkMessage::GetNeighbour(entry(ifindex, address));
    let found = read(&netlink.ask(question)?, ifindex);
    found
        .map(|(_, seen)| seen)
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// Reads a notification or an answer; `None` if it is about another interface or table.
pub(super) fn read(message: &RouteNetlinkMessage, ifindex: u32) -> Option<(IpAddr, Seen)> {
    let (message, gone) = if let RouteNetlinkMessage::NewNeighbour(message) = message {
        (message, false)
    } else if let RouteNetlinkMessage::DelNeighbour(message) = message {
        (message, true)
    } else {
        return None;
    };
    let header = &message.header;
    if header.ifindex != ifindex || header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address = None;
    let mut seen = Seen {
        mac: None,
        ours: false,
        managed: false,
        learned: header.flags.contains(NeighbourFlags::ExtLearned),
        permanent: header.state == NeighbourState::Permanent,
        misjudged: header.state == NeighbourState::Noarp,
    };
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(destination) = attribute {
            address = ip(destination);
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            seen.mac = individual(bytes);
        } else if let NeighbourAttribute::Protocol(protocol) = attribute {
            seen.ours = *protocol == PROTOCOL;
        } else if let NeighbourAttribute::ExtFlags(flags) = attribute {
            seen.managed = flags.contains(NeighbourExtFlags::Managed);
        }
    }
    if gone || !resolved(header.state) {
        seen.mac = None;
    }
    Some((address?, seen))
}

/// Makes the entry, or marks the one that is there; with `managed` the kernel keeps it resolved.
/// State and MAC of an existing entry are kept: the kernel changes neither on such an order.
///
/// Every entry of ours is marked as learnt from elsewhere too: others count against
/// `net.ipv4.neigh.default.gc_thresh3`, 1,024 for the whole host, and may be collected.
fn make(netlink: &mut Netlink, ifindex: u32, address: IpAddr, managed: bool) -> io::Result<()> {
    let mut message = entry(ifindex, address);
    message.header.flags = NeighbourFlags::ExtLearned;
    if managed {
        message
            .attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    } else {
        // Without either flag the order would set the state, to none.
        message.header.flags |= NeighbourFlags::Use;
    }
    message
        .attributes
        .push(NeighbourAttribute::Protocol(PROTOCOL));
    netlink.order(
        RouteNetlinkMessage::NewNeighbour(message),
        NLM_F_CREATE | NLM_F_REPLACE,
    )
}

/// Has the kernel verify an entry of ours as if a packet had used it.
fn probe(netlink: &mut Netlink, ifindex: u32, address: IpAddr) -> io::Result<()> {
    let mut message = entry(ifindex, address);
    message.header.flags = NeighbourFlags::Use | NeighbourFlags::ExtLearned;
    netlink.order(RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE)
}

/// Takes the marks off (any order without them does) and ours too: the entry ages like every other
/// again. The kernel can't forget a protocol number, so it gets the kernel's own.
fn unmanage(netlink: &mut Netlink, ifindex: u32, address: IpAddr) -> io::Result<()> {
    let mut message = entry(ifindex, address);
    message.header.flags = NeighbourFlags::Use;
    message
        .attributes
        .push(NeighbourAttribute::Protocol(RouteProtocol::Kernel));
    netlink.order(RouteNetlinkMessage::NewNeighbour(message), NLM_F_REPLACE)
}

/// Deletes the entry.
fn delete(netlink: &mut Netlink, ifindex: u32, address: IpAddr) -> io::Result<()> {
    netlink.order(
        RouteNetlinkMessage::DelNeighbour(entry(ifindex, address)),
        0,
    )
}

fn entry(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = ifindex;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address.into()));
    message
}

fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    if let NeighbourAddress::Inet(v4) = address {
        Some(IpAddr::V4(*v4))
    } else if let NeighbourAddress::Inet6(v6) = address {
        Some(IpAddr::V6(*v6))
    } else {
        None
    }
}

/// The states in which the kernel itself would send to the MAC (`NUD_VALID`), except the one that
/// needs no question asked: on Ethernet that is for broadcast and multicast.
fn resolved(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    )
}

/// The MAC of one machine; a group address (the lowest bit of the first byte) is nobody's.
fn individual(bytes: &[u8]) -> Option<[u8; 6]> {
    let mac: [u8; 6] = bytes.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKEND: &str = "192.0.2.10";

    fn message(state: NeighbourState) -> NeighbourMessage {
        let mut message = entry(7, BACKEND.parse().unwrap());
        message.header.state = state;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]));
        message
    }

    fn mac(message: &RouteNetlinkMessage) -> Option<[u8; 6]> {
        let (address, seen) = read(message, 7).unwrap();
        assert_eq!(address, BACKEND.parse::<IpAddr>().unwrap());
        seen.mac
    }

    #[test]
    fn a_mac_counts_while_the_kernel_would_use_it() {
        use NeighbourState::*;
        for state in [Reachable, Stale, Delay, Probe, Permanent] {
            let message = RouteNetlinkMessage::NewNeighbour(message(state));
            assert_eq!(mac(&message), Some([2, 0, 0, 0, 0, 9]), "{state}");
        }
        for state in [Incomplete, Failed, None, Noarp] {
            let message = RouteNetlinkMessage::NewNeighbour(message(state));
            assert_eq!(mac(&message), Option::None, "{state}");
        }
        let deleted = RouteNetlinkMessage::DelNeighbour(message(Reachable));
        assert_eq!(mac(&deleted), Option::None);
    }

    #[test]
    fn other_interfaces_and_proxy_entries_are_not_read() {
        let ordinary = message(NeighbourState::Reachable);
        let mut proxy = ordinary.clone();
        proxy.header.flags = NeighbourFlags::Proxy;
        assert!(read(&RouteNetlinkMessage::NewNeighbour(ordinary.clone()), 7).is_some());
        assert!(read(&RouteNetlinkMessage::NewNeighbour(ordinary), 8).is_none());
        assert!(read(&RouteNetlinkMessage::NewNeighbour(proxy), 7).is_none());
    }

    #[test]
    fn only_the_mac_of_one_machine_is_one() {
        assert_eq!(individual(&[2, 0, 0, 0, 0, 9]), Some([2, 0, 0, 0, 0, 9]));
        for nobody in [
            &[0xff; 6][..],
            &[1, 0, 0x5e, 0, 0, 1],
            &[0; 6],
            &[2; 5],
            &[],
        ] {
            assert_eq!(individual(nobody), None);
        }
    }

    #[test]
    fn a_link_layer_address_of_another_length_is_no_mac() {
        let mut infiniband = entry(7, BACKEND.parse().unwrap());
        infiniband.header.state = NeighbourState::Reachable;
        infiniband
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(vec![1; 20]));
        assert_eq!(mac(&RouteNetlinkMessage::NewNeighbour(infiniband)), None);
    }

    #[test]
    fn our_mark_and_the_managed_mark_are_read() {
        let mut message = message(NeighbourState::Stale);
        message
            .attributes
            .push(NeighbourAttribute::Protocol(PROTOCOL));
        message
            .attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        let (_, seen) = read(&RouteNetlinkMessage::NewNeighbour(message), 7).unwrap();
        assert!(seen.ours && seen.managed && !seen.permanent);
    }
}
