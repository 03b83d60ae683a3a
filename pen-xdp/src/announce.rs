//! Telling the segment where a VIP is, and hearing those who ask.
//!
//! Gratuitous ARP and unsolicited neighbour advertisements make clients and routers that remember
//! another machine for the VIP come here at once. And for IPv6, nobody is heard who asks: a
//! solicitation goes to a multicast group of the VIP, which a card filters out unless the
//! interface is a member.

#![allow(
    unsafe_code,
    reason = "neither std nor another dependency opens or binds AF_PACKET"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// Each membership is charged to its socket's option memory, 20 KiB on older kernels.
const GROUPS_PER_SOCKET: usize = 64;

/// An address to be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Announced {
    /// The VIP.
    pub vip: IpAddr,
    /// The VLAN (1 to 4094) that its service names, if any.
    pub vlan: Option<u16>,
}

/// The two forms of a gratuitous ARP. Some hosts update their memory on one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArpForm {
    /// RFC 5227 section 2.3, and what Linux and switches expect.
    Request,
    /// RFC 5944 section 4.6.
    Reply,
}

/// The sending socket, and the memberships, of one interface. Dropping it leaves all groups.
pub struct Announcer {
    ifindex: u32,
    packet: File,
    /// With how many groups each is a member of.
    sockets: Vec<(UdpSocket, usize)>,
    /// Group -> index into `sockets`.
    groups: BTreeMap<Ipv6Addr, usize>,
    hears_all: bool,
}

impl Announcer {
    /// Opens the socket. Needs `CAP_NET_RAW`. It receives nothing.
    ///
    /// # Errors
    /// The privilege is missing, or there is no such interface.
    pub fn open(ifindex: u32) -> io::Result<Announcer> {
        // Protocol 0: for sending only.
        let packet = socket(libc::AF_PACKET, libc::SOCK_RAW)?;
        bind(&packet, ifindex)?;
        let packet = File::from(packet);
        Ok(Announcer {
            ifindex,
            packet,
            sockets: Vec::new(),
            groups: BTreeMap::new(),
            hears_all: false,
        })
    }

    /// Sends each address's announcement once. The caller repeats it (RFC 5227, section 2.3).
    ///
    /// # Errors
    /// The last failure to send, for example with the link down; all have been tried.
    pub fn announce(&mut self, addresses: &[Announced], mac: [u8; 6]) -> io::Result<()> {
        let mut result = Ok(());
        for &Announced { vip, vlan } in addresses {
            let frames = match vip {
                IpAddr::V4(vip) => [ArpForm::Request, ArpForm::Reply]
                    .map(|form| gratuitous_arp(vip, mac, form, vlan))
                    .to_vec(),
                IpAddr::V6(vip) => vec![unsolicited_advertisement(vip, mac, vlan)],
            };
            for frame in frames {
                // One write is one frame.
                if let Err(error) = self.packet.write(&frame) {
                    result = Err(error);
                }
            }
        }
        result
    }

    /// Makes the interface hear solicitations for exactly these addresses: joins the groups of
    /// new ones and leaves those of gone ones. IPv4 addresses need no group and are skipped.
    ///
    /// # Errors
    /// A group can't be joined, for example because IPv6 is switched off on the interface;
    /// the others have been tried.
    pub fn listen(&mut self, vips: &BTreeSet<IpAddr>) -> io::Result<()> {
        let wanted: BTreeSet<Ipv6Addr> = vips
            .iter()
            .filter_map(|vip| match vip {
                IpAddr::V6(vip) => Some(solicited_node(*vip)),
                IpAddr::V4(_) => None,
            })
            .collect();
        let (ifindex, sockets) = (self.ifindex, &mut self.sockets);
        self.groups.retain(|group, &mut index| {
            // What can't be left is left with its socket.
            let stays = wanted.contains(group);
            if !stays && let Some((socket, groups)) = sockets.get_mut(index) {
                let _ = socket.leave_multicast_v6(group, ifindex);
                *groups -= 1;
            }
            stays
        });
        let mut result = Ok(());
        for group in wanted {
            if !self.groups.contains_key(&group)
                && let Err(error) = self.join(group)
            {
                result = Err(error);
            }
        }
        result
    }

    /// Makes the interface hear solicitations for any address, or again no others than
    /// [`Announcer::listen`] says: the tarpit's are too many to join the group of each. It ends with the
    /// socket (packet(7), `PACKET_MR_ALLMULTI`).
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn hear_all(&mut self, on: bool) -> io::Result<()> {
        if on != self.hears_all {
            all_multicast(&self.packet, self.ifindex, on)?;
            self.hears_all = on;
        }
        Ok(())
    }

    fn join(&mut self, group: Ipv6Addr) -> io::Result<()> {
        let mut sockets = self.sockets.iter();
        let index = match sockets.position(|(_, groups)| *groups < GROUPS_PER_SOCKET) {
            Some(index) => index,
            None => {
                // Never bound, so that no port is open.
                let socket = UdpSocket::from(socket(libc::AF_INET6, libc::SOCK_DGRAM)?);
                self.sockets.push((socket, 0));
                self.sockets.len() - 1
            }
        };
        let (socket, groups) = &mut self.sockets[index];
        socket.join_multicast_v6(&group, self.ifindex)?;
        *groups += 1;
        self.groups.insert(group, index);
        Ok(())
    }
}

/// The group to which solicitations for an address go (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let last = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), last)
}

/// An Ethernet frame: "the VIP is at this MAC", to everyone.
pub fn gratuitous_arp(vip: Ipv4Addr, mac: [u8; 6], form: ArpForm, vlan: Option<u16>) -> Vec<u8> {
    let (operation, target) = match form {
        ArpForm::Request => (1, [0; 6]),
        ArpForm::Reply => (2, mac),
    };
    let mut frame = ethernet(BROADCAST, mac, vlan, ETHERTYPE_ARP);
    // Ethernet, IPv4, lengths 6 and 4 (RFC 826).
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(vip.octets());
    frame.extend(target);
    frame.extend(vip.octets());
    frame
}

/// An Ethernet frame: neighbour advertisement to all nodes, override flag set, with the target's
/// link-layer address (RFC 4861 sections 4.4 and 7.2.6).
pub fn unsolicited_advertisement(vip: Ipv6Addr, mac: [u8; 6], vlan: Option<u16>) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(vip.octets());
    // Option 2, target link-layer address, one unit of eight bytes.
    message.extend([2, 1]);
    message.extend(mac);
    let sum = icmpv6_checksum(vip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet(ALL_NODES_MAC, mac, vlan, ETHERTYPE_IPV6);
    // Version 6, length, ICMPv6, hop limit 255: a smaller one is not believed.
    frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, 58, 255]);
    frame.extend(vip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: [u8; 6], from: [u8; 6], vlan: Option<u16>, ethertype: [u8; 2]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(to);
    frame.extend(from);
    if let Some(vlan) = vlan {
        frame.extend(ETHERTYPE_VLAN);
        frame.extend((vlan & 0xfff).to_be_bytes());
    }
    frame.extend(ethertype);
    frame
}

/// RFC 4443 section 2.3; the message is of even length.
fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum()
    };
    let length = message.len() as u32;
    let mut sum = words(&from.octets()) + words(&to.octets()) + length + 58 + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn socket(domain: i32, kind: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes three numbers and touches no memory of ours.
    let descriptor = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn all_multicast(socket: &File, ifindex: u32, on: bool) -> io::Result<()> {
    let membership = libc::packet_mreq {
        mr_ifindex: i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?,
        mr_type: libc::PACKET_MR_ALLMULTI as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let option = match on {
        true => libc::PACKET_ADD_MEMBERSHIP,
        false => libc::PACKET_DROP_MEMBERSHIP,
    };
    let length = size_of_val(&membership) as libc::socklen_t;
    let value = (&raw const membership).cast();
    let descriptor = socket.as_raw_fd();
    // SAFETY: the pointer is to a whole packet_mreq of the length given, alive during the call.
    let result = unsafe { libc::setsockopt(descriptor, libc::SOL_PACKET, option, value, length) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn bind(socket: &OwnedFd, ifindex: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer is to a whole sockaddr_ll of the length given, alive during the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn gratuitous_arp_byte_by_byte() {
        let frame = gratuitous_arp("192.0.2.1".parse().unwrap(), MAC, ArpForm::Request, None);
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 8, 6,
            0, 1, 8, 0, 6, 4, 0, 1,
            2, 0, 0, 0, 0, 7, 192, 0, 2, 1,
            0, 0, 0, 0, 0, 0, 192, 0, 2, 1,
        ];
        assert_eq!(frame, expected);
        let reply = gratuitous_arp("192.0.2.1".parse().unwrap(), MAC, ArpForm::Reply, None);
        assert_eq!((reply[21], &reply[32..38]), (2, &MAC[..]));
    }

    #[test]
    fn a_tag_stands_before_the_type() {
        let frame = gratuitous_arp(
            "192.0.2.1".parse().unwrap(),
            MAC,
            ArpForm::Request,
            Some(100),
        );
        assert_eq!(frame[12..18], [0x81, 0, 0, 100, 8, 6]);
        assert_eq!(frame.len(), 46);
    }

    #[test]
    fn the_advertisement_is_what_an_independent_parser_reads() {
        use etherparse::{
            Icmpv6Type, NetSlice, SlicedPacket, TransportSlice, icmpv6::NeighborAdvertisementHeader,
        };
        let vip: Ipv6Addr = "2001:db8::1:2345".parse().unwrap();
        let frame = unsolicited_advertisement(vip, MAC, Some(7));
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        assert_eq!(packet.vlan_ids().as_slice(), [7.try_into().unwrap()]);
        let Some(NetSlice::Ipv6(ip)) = packet.net else {
            panic!("no IPv6")
        };
        let header = ip.header();
        assert_eq!(
            (header.source_addr(), header.destination_addr()),
            (vip, ALL_NODES)
        );
        assert_eq!(header.hop_limit(), 255);
        let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else {
            panic!("no ICMPv6")
        };
        assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        let flags = NeighborAdvertisementHeader {
            router: false,
            solicited: false,
            r#override: true,
        };
        assert_eq!(icmp.icmp_type(), Icmpv6Type::NeighborAdvertisement(flags));
        assert_eq!(icmp.payload()[..16], vip.octets());
        assert_eq!(icmp.payload()[16..], [2, 1, 2, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn the_group_of_an_address() {
        let vip = "2001:db8::12:3456".parse().unwrap();
        assert_eq!(
            solicited_node(vip),
            "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap()
        );
    }
}
