//! Which addresses the kernel of this host owns.
//!
//! It decides who answers for a VIP: the kernel, if any interface has the address; Pen otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use crate::netlink::Netlink;

/// The addresses of all interfaces. An address may stand on several: it is ours until it has
/// left the last one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Per address: interface index and prefix length.
    addresses: BTreeMap<IpAddr, BTreeSet<(u32, u8)>>,
}

/// An address came to this host or left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nobody here had it before.
    Added(IpAddr),
    /// The last interface that had it has lost it.
    Removed(IpAddr),
}

impl Owned {
    /// Reads the kernel's tables.
    ///
    /// # Errors
    /// The kernel's refusal to list its addresses.
    pub fn read(netlink: &mut Netlink) -> io::Result<Owned> {
        let mut owned = Owned::default();
        for message in netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            owned.learn(&message);
        }
        Ok(owned)
    }

    /// Takes in one notification.
    pub fn learn(&mut self, message: &RouteNetlinkMessage) -> Option<Change> {
        if let RouteNetlinkMessage::NewAddress(message) = message {
            let address = local(message)?;
            // An address that another host was found to have is not in use here (RFC 4862 5.4.5).
            return if flags(message).contains(AddressFlags::Dadfailed) {
                self.remove(address, message)
            } else {
                self.add(address, message)
            };
        }
        if let RouteNetlinkMessage::DelAddress(message) = message {
            return self.remove(local(message)?, message);
        }
        None
    }

    /// True if the kernel answers for it.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// The first interface that has the address, by index, and the length of its prefix.
    pub fn place(&self, address: IpAddr) -> Option<(u32, u8)> {
        self.addresses.get(&address)?.first().copied()
    }

    /// All of them, in order.
    pub fn all(&self) -> BTreeSet<IpAddr> {
        self.addresses.keys().copied().collect()
    }

    /// True if the interface has an address with a subnet around it, of the same family and other
    /// than link-local. A host address (a VIP on the interface) says nothing about neighbours.
    pub fn has_subnet(&self, ifindex: u32, like: IpAddr) -> bool {
        self.addresses.iter().any(|(address, places)| {
            let (same, whole) = match address {
                IpAddr::V4(v4) => (like.is_ipv4() && !v4.is_link_local(), 32),
                IpAddr::V6(v6) => (like.is_ipv6() && !v6.is_unicast_link_local(), 128),
            };
            same && places
                .iter()
                .any(|&(index, prefix)| index == ifindex && prefix < whole)
        })
    }

    /// What has to be told to someone who knows `before`.
    pub fn changes_since(&self, before: &Owned) -> Vec<Change> {
        let gone = before
            .addresses
            .keys()
            .filter(|&&a| !self.has(a))
            .map(|&a| Change::Removed(a));
        let new = self
            .addresses
            .keys()
            .filter(|&&a| !before.has(a))
            .map(|&a| Change::Added(a));
        gone.chain(new).collect()
    }

    fn add(&mut self, address: IpAddr, message: &AddressMessage) -> Option<Change> {
        let places = self.addresses.entry(address).or_default();
        let first = places.is_empty();
        places.insert((message.header.index, message.header.prefix_len));
        first.then_some(Change::Added(address))
    }

    fn remove(&mut self, address: IpAddr, message: &AddressMessage) -> Option<Change> {
        let places = self.addresses.get_mut(&address)?;
        places.remove(&(message.header.index, message.header.prefix_len));
        if !places.is_empty() {
            return None;
        }
        self.addresses.remove(&address);
        Some(Change::Removed(address))
    }
}

/// The addresses that any interface of this host has.
///
/// # Errors
/// The kernel's refusal to list its addresses.
pub fn local_addresses() -> io::Result<BTreeSet<IpAddr>> {
    Ok(Owned::read(&mut Netlink::open()?)?.all())
}

/// `IFA_LOCAL` is our end; `IFA_ADDRESS` is the far end of a point-to-point link, but the only
/// attribute of most IPv6 addresses (`linux/if_addr.h`).
fn local(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            return Some(*address);
        }
        if let AddressAttribute::Address(address) = attribute {
            found = Some(*address);
        }
    }
    found
}

fn flags(message: &AddressMessage) -> AddressFlags {
    let long = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Flags(flags) = attribute {
            Some(*flags)
        } else {
            None
        }
    });
    long.unwrap_or_else(|| AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u32, address: &str, prefix: u8) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix;
        message
            .attributes
            .push(AddressAttribute::Address(address.parse().unwrap()));
        message
    }

    fn new(index: u32, address: &str, prefix: u8) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewAddress(message(index, address, prefix))
    }

    fn del(index: u32, address: &str, prefix: u8) -> RouteNetlinkMessage {
        RouteNetlinkMessage::DelAddress(message(index, address, prefix))
    }

    #[test]
    fn an_address_is_owned_until_its_last_interface_loses_it() {
        let vip: IpAddr = "192.0.2.1".parse().unwrap();
        let mut owned = Owned::default();
        assert_eq!(
            owned.learn(&new(1, "192.0.2.1", 32)),
            Some(Change::Added(vip))
        );
        assert_eq!(owned.learn(&new(2, "192.0.2.1", 24)), None);
        assert_eq!(
            owned.learn(&new(2, "192.0.2.1", 24)),
            None,
            "a repeated notification"
        );
        assert_eq!(owned.learn(&del(1, "192.0.2.1", 32)), None);
        assert!(owned.has(vip));
        assert_eq!(
            owned.learn(&del(2, "192.0.2.1", 24)),
            Some(Change::Removed(vip))
        );
        assert_eq!(owned.learn(&del(2, "192.0.2.1", 24)), None);
        assert!(!owned.has(vip));
    }

    #[test]
    fn the_far_end_of_a_tunnel_is_not_ours() {
        let mut tunnel = message(3, "10.0.0.2", 32);
        tunnel
            .attributes
            .push(AddressAttribute::Local("10.0.0.1".parse().unwrap()));
        let mut owned = Owned::default();
        owned.learn(&RouteNetlinkMessage::NewAddress(tunnel));
        assert_eq!(owned.all(), BTreeSet::from(["10.0.0.1".parse().unwrap()]));
    }

    #[test]
    fn a_duplicate_address_is_not_owned() {
        let vip: IpAddr = "2001:db8::1".parse().unwrap();
        let mut owned = Owned::default();
        assert_eq!(
            owned.learn(&new(1, "2001:db8::1", 64)),
            Some(Change::Added(vip))
        );
        let mut failed = message(1, "2001:db8::1", 64);
        failed
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Dadfailed));
        let failed = RouteNetlinkMessage::NewAddress(failed);
        assert_eq!(owned.learn(&failed), Some(Change::Removed(vip)));
    }

    #[test]
    fn host_and_link_local_addresses_make_no_subnet() {
        let (v4, v6) = ("192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap());
        let mut owned = Owned::default();
        owned.learn(&new(1, "198.51.100.1", 32));
        owned.learn(&new(1, "fe80::1", 64));
        owned.learn(&new(2, "192.0.2.1", 24));
        assert!(!owned.has_subnet(1, v4));
        assert!(!owned.has_subnet(1, v6));
        assert!(owned.has_subnet(2, v4));
        assert!(!owned.has_subnet(2, v6));
    }

    #[test]
    fn after_lost_notifications_the_difference_is_told() {
        let (mut before, mut now) = (Owned::default(), Owned::default());
        before.learn(&new(1, "192.0.2.1", 24));
        before.learn(&new(1, "192.0.2.2", 24));
        now.learn(&new(1, "192.0.2.2", 24));
        now.learn(&new(1, "192.0.2.3", 24));
        let expected = [
            Change::Removed("192.0.2.1".parse().unwrap()),
            Change::Added("192.0.2.3".parse().unwrap()),
        ];
        assert_eq!(now.changes_since(&before), expected);
    }

    #[test]
    fn this_host_has_its_loopback_address() {
        let local = local_addresses().unwrap();
        // A fresh network namespace has its loopback interface down and no address at all.
        assert!(local.is_empty() || local.contains(&"127.0.0.1".parse().unwrap()));
    }
}
