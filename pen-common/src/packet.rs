//! From bytes to [`Packet`]: Ethernet, VLAN tags, IPv4, IPv6 and the ports behind them.
//!
//! Nothing is read past the lengths that the headers themselves state, and nothing is trusted
//! before it is compared with the length of the frame.

use crate::{
    chain::Chain,
    checksum::fold_few,
    flow::{Address, Flow},
    fragment_table::FragmentKey,
    frame::Frame,
    tables::Mac,
    verdict::Reason,
};

/// IP protocol numbers (IANA registry).
pub const ICMP: u8 = 1;
/// Transmission Control Protocol.
pub const TCP: u8 = 6;
/// User Datagram Protocol.
pub const UDP: u8 = 17;
/// ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// EtherTypes (IANA registry).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// Address Resolution Protocol.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// Internet Protocol version 6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_CTAG: u16 = 0x8100;
const ETHERTYPE_STAG: u16 = 0x88a8;

/// VLAN tags that are looked behind.
const TAGS_MAX: usize = 2;

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const TCP_LEN: u16 = 20;
/// Not the value of any 16-bit field.
pub const NO_CHECKSUM: u32 = u32::MAX;
const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;
const UDP_LEN: u16 = 8;
const ICMP_LEN: usize = 8;

/// The link layer's part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Destination MAC.
    pub destination: Mac,
    /// Source MAC.
    pub source: Mac,
    /// EtherType behind the tags.
    pub ethertype: u16,
    /// VLAN number of the innermost tag; 0 without one and in a priority tag.
    pub vlan: u16,
    /// Offset of the network header.
    pub l3: usize,
}

impl Link {
    /// `None` if the frame ends early.
    #[inline(always)]
    pub fn parse<F: Frame>(frame: &F) -> Option<Self> {
        let bytes = frame.get::<ETHERNET_LEN>(0)?;
        let [b0, b1, b2, b3, b4, b5, b6, b7, rest @ ..] = bytes;
        let [b8, b9, b10, b11, t0, t1] = rest;
        // Two loads, as in `rewrite::macs`.
        let first = u64::from_be_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        let second = u32::from_be_bytes([b8, b9, b10, b11]);
        let mut link = Self {
            destination: Mac(first >> 16),
            source: Mac((first & 0xffff) << 32 | u64::from(second)),
            ethertype: u16::from_be_bytes([t0, t1]),
            vlan: 0,
            l3: ETHERNET_LEN,
        };
        let mut tags = 0;
        while tags < TAGS_MAX && matches!(link.ethertype, ETHERTYPE_CTAG | ETHERTYPE_STAG) {
            let [v0, v1, t0, t1] = frame.get::<4>(link.l3)?;
            link.vlan = u16::from_be_bytes([v0, v1]) & 0xfff;
            link.ethertype = u16::from_be_bytes([t0, t1]);
            link.l3 += 4;
            tags += 1;
        }
        Some(link)
    }

    /// Sent to more than one station.
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        self.destination.0 >> 40 & 1 == 1
    }
}

/// Which part of a datagram a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first part, with the ports.
    First,
    /// A later part, without ports.
    Later,
}

/// Part, and of which datagram. The identification is not the enum's payload because the kernel's
/// verifier refuses the copy of a payload that a variant does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Which part.
    pub part: Part,
    /// Identification; 0 in a whole datagram.
    pub id: u32,
}

impl Fragment {
    /// No fragment.
    pub const WHOLE: Self = Self {
        part: Part::Whole,
        id: 0,
    };
}

/// An IP packet whose lengths agree with the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Addresses, protocol, and for TCP and UDP the ports (0 in a later fragment).
    pub flow: Flow,
    /// Whole or part.
    pub fragment: Fragment,
    /// Checksum field of a whole TCP or UDP packet; [`NO_CHECKSUM`] of another.
    pub checksum: u32,
    /// Whether it opens a TCP connection (RFC 9293, section 3.5): SYN alone. Not told of a first
    /// fragment, which no sender makes of so short a packet.
    pub opens: bool,
    /// Offset of the transport header.
    pub l4: u16,
    /// Bytes from there to the end of the packet, as the network header says.
    pub l4_len: u16,
}

/// An IP header that can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skip {
    /// What is wrong with it.
    pub reason: Reason,
    /// Where it was going, if that could be read.
    pub destination: Option<Address>,
}

impl Packet {
    /// Parses the packet at `l3` of an IPv4 frame.
    #[inline(always)]
    pub fn parse_v4<F: Frame>(frame: &F, l3: usize) -> Result<Self, Skip> {
        let packet = Self::network_v4(frame, l3)?;
        packet.with_ports(frame)
    }

    /// Parses the packet at `l3` of an IPv6 frame.
    #[inline(always)]
    pub fn parse_v6<F: Frame>(frame: &F, l3: usize) -> Result<Self, Skip> {
        let packet = Self::network_v6(frame, l3)?;
        packet.with_ports(frame)
    }

    /// RFC 791, section 3.1.
    #[inline(always)]
    fn network_v4<F: Frame>(frame: &F, l3: usize) -> Result<Self, Skip> {
        let short = Skip {
            reason: Reason::TooShort,
            destination: None,
        };
        let header = frame.get::<IPV4_LEN>(l3).ok_or(short)?;
        let [
            ihl,
            _,
            len0,
            len1,
            id0,
            id1,
            frag0,
            frag1,
            _,
            protocol,
            _,
            _,
            addresses @ ..,
        ] = header;
        if ihl >> 4 != 4 {
            return Err(Skip {
                reason: Reason::NotIp,
                destination: None,
            });
        }
        let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
        let destination = Address::v4(u32::from_be_bytes([d0, d1, d2, d3]));
        let skip = |reason| Skip {
            reason,
            destination: Some(destination),
        };
        let header_len = u16::from(ihl & 0xf) * 4;
        let total_len = u16::from_be_bytes([len0, len1]);
        if usize::from(header_len) < IPV4_LEN || total_len < header_len {
            return Err(skip(Reason::BadHeader));
        }
        if l3 + usize::from(total_len) > frame.len() {
            return Err(skip(Reason::Truncated));
        }
        let id = || u32::from(u16::from_be_bytes([id0, id1]));
        let fragment = match u16::from_be_bytes([frag0, frag1]) & 0x3fff {
            0 => Fragment::WHOLE,
            0x2000 => Fragment {
                part: Part::First,
                id: id(),
            },
            _ => Fragment {
                part: Part::Later,
                id: id(),
            },
        };
        Ok(Self {
            flow: Flow {
                source: Address::v4(u32::from_be_bytes([s0, s1, s2, s3])),
                destination,
                source_port: 0,
                destination_port: 0,
                protocol,
            },
            fragment,
            checksum: NO_CHECKSUM,
            opens: false,
            l4: l3 as u16 + header_len,
            l4_len: total_len - header_len,
        })
    }

    /// RFC 8200, sections 3 and 4.
    #[inline(always)]
    fn network_v6<F: Frame>(frame: &F, l3: usize) -> Result<Self, Skip> {
        let short = Skip {
            reason: Reason::TooShort,
            destination: None,
        };
        let [version, _, _, _, len0, len1, next, _] = frame.get::<8>(l3).ok_or(short)?;
        if version >> 4 != 6 {
            return Err(Skip {
                reason: Reason::NotIp,
                destination: None,
            });
        }
        let source = Address::v6(frame.get::<16>(l3 + 8).ok_or(short)?);
        let destination = Address::v6(frame.get::<16>(l3 + 24).ok_or(short)?);
        let skip = |reason| Skip {
            reason,
            destination: Some(destination),
        };
        // Pen writes IPv4 addresses this way; on the wire an IPv6 packet never does (RFC 6890, table
        // 20), and it must not pass for an IPv4 packet.
        if destination.is_v4() {
            return Err(Skip {
                reason: Reason::NotVip,
                destination: None,
            });
        }
        if source.is_v4() {
            return Err(skip(Reason::BadHeader));
        }
        let payload_len = u16::from_be_bytes([len0, len1]);
        if l3 + IPV6_LEN + usize::from(payload_len) > frame.len() {
            return Err(skip(Reason::Truncated));
        }
        let chain = Chain::follow(frame, next, l3 + IPV6_LEN, payload_len).map_err(skip)?;
        let flow = Flow {
            source,
            destination,
            source_port: 0,
            destination_port: 0,
            protocol: chain.next,
        };
        Ok(Self {
            flow,
            fragment: chain.fragment,
            checksum: NO_CHECKSUM,
            opens: false,
            l4: (l3 + IPV6_LEN) as u16 + chain.used,
            l4_len: payload_len - chain.used,
        })
    }

    /// Adds the ports, and holds the transport header against the packet's length.
    #[inline(always)]
    fn with_ports<F: Frame>(mut self, frame: &F) -> Result<Self, Skip> {
        let least = match self.flow.protocol {
            TCP => TCP_LEN,
            UDP => UDP_LEN,
            _ => return Ok(self),
        };
        let skip = |reason| Skip {
            reason,
            destination: Some(self.flow.destination),
        };
        if self.fragment.part == Part::Later {
            return Ok(self);
        }
        // A first fragment may end inside the TCP header (RFC 791 allows 8 bytes of it).
        let whole = self.fragment.part == Part::Whole;
        if self.l4_len < if whole { least } else { UDP_LEN } {
            return Err(skip(Reason::Truncated));
        }
        let l4 = usize::from(self.l4);
        let [s0, s1, d0, d1] = frame.get::<4>(l4).ok_or_else(|| skip(Reason::Truncated))?;
        self.flow.source_port = u16::from_be_bytes([s0, s1]);
        self.flow.destination_port = u16::from_be_bytes([d0, d1]);
        if !whole {
            return Ok(self);
        }
        let stated = if self.flow.protocol == UDP {
            let [len0, len1, sum0, sum1] = frame
                .get::<4>(l4 + 4)
                .ok_or_else(|| skip(Reason::Truncated))?;
            self.checksum = u32::from(u16::from_be_bytes([sum0, sum1]));
            u16::from_be_bytes([len0, len1])
        } else {
            let [offset, flags, _, _, sum0, sum1] = frame
                .get::<6>(l4 + 12)
                .ok_or_else(|| skip(Reason::Truncated))?;
            self.checksum = u32::from(u16::from_be_bytes([sum0, sum1]));
            self.opens = flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK) == TCP_SYN;
            u16::from(offset >> 4) * 4
        };
        if stated < least || stated > self.l4_len {
            return Err(skip(Reason::BadHeader));
        }
        Ok(self)
    }

    /// The flow whose answer this ICMP error quotes, seen from the client; `None` if the
    /// quotation is too short, is not TCP or UDP, or does not come from the error's destination.
    #[inline(always)]
    pub fn quoted<F: Frame>(&self, frame: &F) -> Option<Flow> {
        let vip = self.flow.destination;
        let at = usize::from(self.l4) + ICMP_LEN;
        let (flow, l4) = if vip.is_v4() {
            quoted_v4(frame, at)?
        } else {
            quoted_v6(frame, at)?
        };
        if flow.source != vip || !matches!(flow.protocol, TCP | UDP) {
            return None;
        }
        // What stands behind the packet's end is padding, not ports.
        if l4 + 4 > usize::from(self.l4) + usize::from(self.l4_len) {
            return None;
        }
        let [s0, s1, d0, d1] = frame.get::<4>(l4)?;
        let quoted = Flow {
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            ..flow
        };
        Some(quoted.reversed())
    }

    /// Identity of the datagram that this packet is a part of.
    #[inline(always)]
    pub const fn fragment_key(&self) -> Option<FragmentKey> {
        if matches!(self.fragment.part, Part::Whole) {
            return None;
        }
        let protocol = if self.flow.destination.is_v4() {
            self.flow.protocol
        } else {
            0
        };
        Some(FragmentKey {
            source: self.flow.source,
            destination: self.flow.destination,
            protocol,
            id: self.fragment.id,
        })
    }

    /// Offset of the checksum field of a whole TCP or UDP packet.
    #[inline(always)]
    pub fn checksum_at(&self) -> Option<usize> {
        let offset = match self.flow.protocol {
            TCP => 16,
            UDP => 6,
            _ => return None,
        };
        (self.fragment.part == Part::Whole).then_some(usize::from(self.l4) + offset)
    }

    /// Folded sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1).
    #[inline(always)]
    pub const fn pseudo_sum(&self) -> u16 {
        let Flow {
            source,
            destination,
            protocol,
            ..
        } = self.flow;
        // No packet mixes the families.
        let addresses = if destination.is_v4() {
            source.v4_number() as u64 + destination.v4_number() as u64
        } else {
            half(source.high) + half(source.low) + half(destination.high) + half(destination.low)
        };
        fold_few(addresses + protocol as u64 + self.l4_len as u64)
    }
}

/// Two 32-bit halves added: a step of a one's complement sum.
#[inline(always)]
pub(crate) const fn half(word: u64) -> u64 {
    (word >> 32) + (word & 0xffff_ffff)
}

/// Addresses and protocol of a quoted IPv4 packet, and where its ports stand.
#[inline(always)]
fn quoted_v4<F: Frame>(frame: &F, at: usize) -> Option<(Flow, usize)> {
    let [
        ihl,
        _,
        _,
        _,
        _,
        _,
        frag0,
        frag1,
        _,
        protocol,
        _,
        _,
        addresses @ ..,
    ] = frame.get::<IPV4_LEN>(at)?;
    let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;
    let later = u16::from_be_bytes([frag0, frag1]) & 0x1fff != 0;
    if ihl >> 4 != 4 || ihl & 0xf < 5 || later {
        return None;
    }
    let flow = Flow {
        source: Address::v4(u32::from_be_bytes([s0, s1, s2, s3])),
        destination: Address::v4(u32::from_be_bytes([d0, d1, d2, d3])),
        source_port: 0,
        destination_port: 0,
        protocol,
    };
    Some((flow, at + usize::from(ihl & 0xf) * 4))
}

/// The same for IPv6. Extension headers in a quotation are followed as in a packet.
#[inline(always)]
fn quoted_v6<F: Frame>(frame: &F, at: usize) -> Option<(Flow, usize)> {
    let [version, _, _, _, len0, len1, next, _] = frame.get::<8>(at)?;
    let source = Address::v6(frame.get::<16>(at + 8)?);
    let destination = Address::v6(frame.get::<16>(at + 24)?);
    let len = u16::from_be_bytes([len0, len1]);
    let chain = Chain::follow(frame, next, at + IPV6_LEN, len).ok()?;
    if version >> 4 != 6 || chain.fragment.part == Part::Later {
        return None;
    }
    let flow = Flow {
        source,
        destination,
        source_port: 0,
        destination_port: 0,
        protocol: chain.next,
    };
    Some((flow, at + IPV6_LEN + usize::from(chain.used)))
}
