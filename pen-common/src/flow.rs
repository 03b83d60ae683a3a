//! A flow and its keyed hash: the same on every machine that shares the seed.

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

/// Key of the flow hash: derived from the configured seed, so that machines agree and clients
/// can't aim at one back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HashKey {
    /// First half.
    pub k0: u64,
    /// Second half.
    pub k1: u64,
}

impl Flow {
    /// 32 hash bits of the whole flow.
    #[inline(always)]
    pub fn hash(&self, key: HashKey) -> u32 {
        let ports = ((self.source_port as u64) << 48)
            | ((self.destination_port as u64) << 32)
            | ((self.protocol as u64) << 8);
        let mut sip = Sip::new(key);
        if self.source.is_v4() && self.destination.is_v4() {
            sip.word(
                ((self.source.low & 0xffff_ffff) << 32) | (self.destination.low & 0xffff_ffff),
            );
            sip.word(ports | TAG_FLOW4);
        } else {
            sip.word(self.source.high);
            sip.word(self.source.low);
            sip.word(self.destination.high);
            sip.word(self.destination.low);
            sip.word(ports | TAG_FLOW6);
        }
        (sip.finish() >> 32) as u32
    }

    /// 32 hash bits of the client's address alone: Pen's form without `-r`.
    #[inline(always)]
    pub fn source_hash(&self, key: HashKey) -> u32 {
        let mut sip = Sip::new(key);
        sip.word(self.source.high);
        sip.word(self.source.low);
        sip.word(TAG_SOURCE);
        (sip.finish() >> 32) as u32
    }

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

// The last word of each kind of input ends in its own tag, so that no two kinds can collide.
const TAG_FLOW4: u64 = 1;
const TAG_FLOW6: u64 = 2;
const TAG_SOURCE: u64 = 3;

/// SipHash-1-3 over whole words (Aumasson and Bernstein, "SipHash: a fast short-input PRF").
/// Inputs have fixed shapes told apart by a tag, which stands for the paper's length byte.
struct Sip {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl Sip {
    #[inline(always)]
    const fn new(key: HashKey) -> Self {
        Self {
            v0: key.k0 ^ 0x736f_6d65_7073_6575,
            v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
            v2: key.k0 ^ 0x6c79_6765_6e65_7261,
            v3: key.k1 ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    fn word(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

impl HashKey {
    /// The key for a configured seed: two words that differ in many bits for close seeds.
    pub fn from_seed(seed: u64) -> Self {
        let mix = Self {
            k0: seed,
            k1: !seed,
        };
        Self {
            k0: mix.hash_bytes(b"k0"),
            k1: mix.hash_bytes(b"k1"),
        }
    }

    /// 64 hash bits of a text, for names and seeds; the length stands in the last word as in the
    /// paper.
    pub fn hash_bytes(self, bytes: &[u8]) -> u64 {
        let mut sip = Sip::new(self);
        for eight in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(eight) {
                *to = *from;
            }
            sip.word(u64::from_le_bytes(word));
        }
        sip.word((bytes.len() as u64) << 56);
        sip.finish()
    }
}
