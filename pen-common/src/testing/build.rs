//! Frames, built byte by byte.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::world::net;
use crate::tables::Mac;

/// A frame in the making; [`v4`] and [`v6`] start one, [`Build::frame`] ends it.
#[derive(Debug, Clone)]
pub struct Build {
    destination: Mac,
    source: Mac,
    tags: Vec<[u8; 4]>,
    network: Network,
    protocol: u8,
    transport: Vec<u8>,
    checksum_at: Option<usize>,
    unfinished: bool,
    part: Option<(u32, usize, usize)>,
}

#[derive(Debug, Clone)]
enum Network {
    V4(V4),
    V6(V6),
}

#[derive(Debug, Clone)]
struct V4 {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    options: Vec<u8>,
}

#[derive(Debug, Clone)]
struct V6 {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    /// Kind and bytes; the first byte, the next header, is filled in at the end.
    extensions: Vec<(u8, Vec<u8>)>,
}

const FRAGMENT: u8 = 44;

/// An IPv4 frame from the client's MAC address to Pen's.
pub fn v4(source: Ipv4Addr, destination: Ipv4Addr) -> Build {
    Build::new(Network::V4(V4 {
        source,
        destination,
        ttl: 61,
        options: Vec::new(),
    }))
}

/// An IPv6 frame from the client's MAC address to Pen's.
pub fn v6(source: Ipv6Addr, destination: Ipv6Addr) -> Build {
    Build::new(Network::V6(V6 {
        source,
        destination,
        hop_limit: 61,
        extensions: Vec::new(),
    }))
}

/// An ARP frame of 42 bytes (RFC 826): operation, sender, target. It goes from the sender's MAC
/// address to all stations if it is a request, else to the target's.
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let to = if operation == 1 {
        net::BROADCAST
    } else {
        target.0
    };
    let mut frame = Vec::from(to.bytes());
    frame.extend(sender.0.bytes());
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        frame.extend(mac.bytes());
        frame.extend(address.octets());
    }
    frame
}

/// The frame with these bytes at `offset`.
pub fn bytes_at(mut frame: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The first `len` bytes of the frame.
pub fn cut(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.truncate(len);
    frame
}

/// The frame, made at least `len` bytes long as an Ethernet card does it; the padding is not
/// zero, so that whoever reads it is found out.
pub fn padded(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.resize(len.max(frame.len()), 0xa5);
    frame
}

/// The frame as Pen sends it to a back end: other MAC addresses, nothing else.
pub fn forwarded(frame: &[u8], backend: Mac) -> Vec<u8> {
    let frame = bytes_at(frame.to_vec(), 0, &backend.bytes());
    bytes_at(frame, 6, &net::PEN.bytes())
}

impl Build {
    fn new(network: Network) -> Self {
        Self {
            destination: net::PEN,
            source: net::CLIENT,
            tags: Vec::new(),
            network,
            // "No next header": nothing behind the network header.
            protocol: 59,
            transport: Vec::new(),
            checksum_at: None,
            unfinished: false,
            part: None,
        }
    }

    /// Sets the destination MAC address.
    pub fn to(mut self, mac: Mac) -> Self {
        self.destination = mac;
        self
    }

    /// Sets the source MAC address.
    pub fn from(mut self, mac: Mac) -> Self {
        self.source = mac;
        self
    }

    /// Adds a tag (IEEE 802.1Q) behind those that are there.
    pub fn tag(self, vlan: u16) -> Self {
        self.raw_tag(0x8100, vlan)
    }

    /// Adds a service tag (IEEE 802.1ad).
    pub fn service_tag(self, vlan: u16) -> Self {
        self.raw_tag(0x88a8, vlan)
    }

    /// Adds a tag of any type and with priority bits.
    pub fn raw_tag(mut self, ethertype: u16, control: u16) -> Self {
        let [e0, e1] = ethertype.to_be_bytes();
        let [c0, c1] = control.to_be_bytes();
        self.tags.push([e0, e1, c0, c1]);
        self
    }

    /// Sets TTL or hop limit.
    pub fn hops(mut self, hops: u8) -> Self {
        match &mut self.network {
            Network::V4(v4) => v4.ttl = hops,
            Network::V6(v6) => v6.hop_limit = hops,
        }
        self
    }

    /// Adds IPv4 options; a multiple of four bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        if let Network::V4(v4) = &mut self.network {
            v4.options.extend(options);
        }
        self
    }

    /// Adds an IPv6 extension header of `len` bytes: hop-by-hop (0), routing (43) or destination
    /// options (60) with a multiple of eight, AH (51) with a multiple of four.
    pub fn extension(mut self, kind: u8, len: usize) -> Self {
        let mut body = vec![0; len];
        match kind {
            // RFC 4302, section 2.2: in units of four, less two.
            51 => body[1] = (len / 4 - 2) as u8,
            // A routing header with no segments left (RFC 8200, section 4.4).
            43 => body[1] = (len / 8 - 1) as u8,
            // One PadN option fills it (RFC 8200, section 4.2).
            _ => {
                body[1] = (len / 8 - 1) as u8;
                body[2] = 1;
                body[3] = (len - 4) as u8;
            }
        }
        if let Network::V6(v6) = &mut self.network {
            v6.extensions.push((kind, body));
        }
        self
    }

    /// TCP with these ports, no options.
    pub fn tcp(self, source: u16, destination: u16, payload: &[u8]) -> Self {
        self.tcp_with(source, destination, &[], payload)
    }

    /// TCP with options; a multiple of four bytes.
    pub fn tcp_with(self, source: u16, destination: u16, options: &[u8], payload: &[u8]) -> Self {
        let mut bytes = Vec::from(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        bytes.extend([((5 + options.len() / 4) << 4) as u8, 0x18, 0xff, 0xff]);
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.extend(payload);
        self.transport(6, bytes, Some(16))
    }

    /// UDP with these ports.
    pub fn udp(self, source: u16, destination: u16, payload: &[u8]) -> Self {
        let mut bytes = Vec::from(source.to_be_bytes());
        bytes.extend(destination.to_be_bytes());
        bytes.extend((payload.len() as u16 + 8).to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(payload);
        self.transport(17, bytes, Some(6))
    }

    /// ICMP or ICMPv6: type, code, the second word of the header, and what follows.
    pub fn icmp(self, kind: u8, code: u8, word: u32, body: &[u8]) -> Self {
        let mut bytes = vec![kind, code, 0, 0];
        bytes.extend(word.to_be_bytes());
        bytes.extend(body);
        let protocol = match self.network {
            Network::V4(_) => 1,
            Network::V6(_) => 58,
        };
        self.transport(protocol, bytes, Some(2))
    }

    /// Any protocol.
    pub fn transport(mut self, protocol: u8, bytes: Vec<u8>, checksum_at: Option<usize>) -> Self {
        self.protocol = protocol;
        self.transport = bytes;
        self.checksum_at = checksum_at;
        self
    }

    /// Leaves the TCP or UDP checksum to hardware, as Linux does with CHECKSUM_PARTIAL: the field
    /// holds the folded pseudo-header sum.
    pub fn unfinished(mut self) -> Self {
        self.unfinished = true;
        self
    }

    /// Makes the frame a fragment: the bytes `from .. to` of the transport header and payload.
    /// The IPv6 fragment header comes behind the extension headers added so far.
    pub fn part(mut self, id: u32, from: usize, to: usize) -> Self {
        self.part = Some((id, from, to));
        if let Network::V6(v6) = &mut self.network {
            v6.extensions.push((FRAGMENT, vec![0; 8]));
        }
        self
    }

    /// All of it in one fragment (RFC 6946; in IPv4 an ordinary packet).
    pub fn atomic(self, id: u32) -> Self {
        let len = self.transport.len();
        self.part(id, 0, len)
    }

    /// The frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::from(self.destination.bytes());
        frame.extend(self.source.bytes());
        for tag in &self.tags {
            frame.extend(tag);
        }
        frame.extend(match self.network {
            Network::V4(_) => [0x08, 0x00],
            Network::V6(_) => [0x86, 0xdd],
        });
        frame.extend(self.packet());
        frame
    }

    /// The packet alone, as an ICMP error quotes it.
    pub fn packet(&self) -> Vec<u8> {
        let whole = self.summed();
        let (id, from, to) = self.part.unwrap_or((0x1234, 0, whole.len()));
        let more = to < whole.len();
        let transport = &whole[from..to];
        match &self.network {
            Network::V4(v4) => {
                let flags = (from / 8) as u16 | u16::from(more) << 13;
                v4.packet(self.protocol, id as u16, flags, transport)
            }
            Network::V6(v6) => {
                let [i0, i1, i2, i3] = id.to_be_bytes();
                let [o0, o1] = (from as u16 | u16::from(more)).to_be_bytes();
                v6.packet(self.protocol, [0, 0, o0, o1, i0, i1, i2, i3], transport)
            }
        }
    }

    /// The transport part with its checksum.
    fn summed(&self) -> Vec<u8> {
        let mut bytes = self.transport.clone();
        let Some(at) = self.checksum_at else {
            return bytes;
        };
        let mut pseudo = match &self.network {
            Network::V4(v4) => [v4.source.octets(), v4.destination.octets()].concat(),
            Network::V6(v6) => [v6.source.octets(), v6.destination.octets()].concat(),
        };
        pseudo.extend((bytes.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol]);
        let sum = if self.unfinished {
            sum(&pseudo)
        } else if self.protocol == 1 {
            !sum(&bytes)
        } else {
            match !sum(&[pseudo, bytes.clone()].concat()) {
                0 if self.protocol == 17 => 0xffff,
                sum => sum,
            }
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

impl V4 {
    fn packet(&self, protocol: u8, id: u16, fragment: u16, transport: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header_len / 4) as u8, 0];
        bytes.extend(((header_len + transport.len()) as u16).to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.ttl, protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        let checksum = !sum(&bytes);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(transport);
        bytes
    }
}

impl V6 {
    fn packet(&self, protocol: u8, fragment: [u8; 8], transport: &[u8]) -> Vec<u8> {
        let mut next = protocol;
        let mut chain = Vec::new();
        for (kind, body) in self.extensions.iter().rev() {
            let mut body = if *kind == FRAGMENT {
                fragment.to_vec()
            } else {
                body.clone()
            };
            body[0] = next;
            next = *kind;
            chain = [body, chain].concat();
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(((chain.len() + transport.len()) as u16).to_be_bytes());
        bytes.extend([next, self.hop_limit]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(chain);
        bytes.extend(transport);
        bytes
    }
}

/// The Internet checksum's sum, two bytes at a time with the carry brought round at once.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u16 = 0;
    for two in bytes.chunks(2) {
        let word = u16::from_be_bytes([two[0], two.get(1).copied().unwrap_or(0)]);
        let (low, carry) = sum.overflowing_add(word);
        sum = low + u16::from(carry);
    }
    sum
}
