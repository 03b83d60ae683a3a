//! A flow: who sends to whom. Its hash stands in [`crate::hash`].

/// An address, 16 bytes in network order as two numbers; IPv4 as `::ffff:a.b.c.d` (RFC 4291,
/// section 2.5.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Address {
    /// First eight bytes.
    pub high: u64,
    /// Last eight bytes.
    pub low: u64,
}

const MAPPED: u64 = 0xffff_0000_0000;

impl Address {
    /// An IPv4 address, given as its number.
    #[inline(always)]
    pub const fn v4(number: u32) -> Self {
        Self {
            high: 0,
            low: MAPPED | number as u64,
        }
    }

    /// Sixteen bytes in network order.
    #[inline(always)]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(bytes);
        Self {
            high: (number >> 64) as u64,
            low: number as u64,
        }
    }

    /// Sixteen bytes in network order.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 16] {
        (((self.high as u128) << 64) | self.low as u128).to_be_bytes()
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.high == 0 && self.low >> 32 == MAPPED >> 32
    }

    /// The IPv4 address's number (meaningless for IPv6).
    #[inline(always)]
    pub const fn v4_number(self) -> u32 {
        self.low as u32
    }
}

#[cfg(feature = "std")]
impl From<std::net::IpAddr> for Address {
    fn from(address: std::net::IpAddr) -> Self {
        match address {
            std::net::IpAddr::V4(v4) => Self::v4(v4.to_bits()),
            std::net::IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

/// One direction of a conversation: client to VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The client.
    pub source: Address,
    /// The VIP.
    pub destination: Address,
    /// The client's port.
    pub source_port: u16,
    /// The VIP's port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl Flow {
    /// The flow seen from the other end: what an ICMP error quotes is the back end's answer.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }
}
