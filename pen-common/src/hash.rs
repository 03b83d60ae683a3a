//! The keyed hash of flows, and the one of names and seeds.
//!
//! Flows are hashed once a frame, also by the XDP program, whose machine multiplies well and has no
//! rotation. Multiplying 64-bit keys with the flow's 32-bit words makes two flows that a sender
//! chose without knowing the key collide no more often than chance (Lemire and Kaser, "Strongly
//! universal string hashing is fast", section 3: multilinear-HM).
//!
//! It is no more than that. Without a `seed` of one's own the key is known to everybody, and a sender
//! who sees which back end answers him can find flows that meet at one, by trying as many as there
//! are back ends; with more thought he may learn the key, which a pseudo-random function would not
//! let him.

use crate::flow::{Address, Flow};

/// Words of a [`HashKey`]: one to multiply with, and one for each 32-bit word of an IPv6 flow.
pub const KEY_WORDS: usize = 11;
/// The first of them, which are all that an IPv4 flow needs.
pub const KEY_WORDS_V4: usize = 5;

/// Key of the flow hash: derived from the configured seed, so that machines agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HashKey(pub [u64; KEY_WORDS]);

// The last word of each kind of input has its own tag, so that no two kinds are alike.
const TAG_FLOW4: u64 = 1 << 8;
const TAG_FLOW6: u64 = 2 << 8;
const TAG_SOURCE: u64 = 3 << 8;

impl HashKey {
    /// The key for a configured seed.
    pub fn from_seed(seed: u64) -> Self {
        let names = NameKey::from_seed(seed);
        let mut words = [0; KEY_WORDS];
        for (number, word) in (1..).zip(&mut words) {
            *word = names.hash_bytes(&[number]);
        }
        // Multiplying with an odd number loses nothing.
        words[0] |= 1;
        Self(words)
    }
}

/// Two of the sum's words with their keys: a pair for the price of one multiplication.
#[inline(always)]
const fn pair(keys: [u64; 2], first: u64, second: u64) -> u64 {
    let [a, b] = keys;
    a.wrapping_add(first).wrapping_mul(b.wrapping_add(second))
}

/// An address as four words of 32 bits in two pairs.
#[inline(always)]
const fn address(keys: [u64; 4], address: Address) -> u64 {
    const LOW: u64 = 0xffff_ffff;
    let [a, b, c, d] = keys;
    let Address { high, low } = address;
    pair([a, b], high >> 32, high & LOW).wrapping_add(pair([c, d], low >> 32, low & LOW))
}

/// Every bit of the result hangs on every bit of `sum`; nothing is lost on the way.
#[inline(always)]
const fn finish(sum: u64, multiply: u64) -> u64 {
    let product = (sum ^ (sum >> 32)).wrapping_mul(multiply);
    product ^ (product >> 32)
}

impl Flow {
    /// 64 hash bits of the whole flow. The VIP tells the family; no packet mixes them.
    pub fn hash(&self, key: &HashKey) -> u64 {
        if self.destination.is_v4() {
            let [multiply, a, b, c, d, ..] = key.0;
            self.hash_v4([multiply, a, b, c, d])
        } else {
            self.hash_v6(key.0)
        }
    }

    /// [`Flow::hash`] of an IPv4 flow.
    #[inline(always)]
    pub const fn hash_v4(&self, key: [u64; KEY_WORDS_V4]) -> u64 {
        let [multiply, a, b, c, d] = key;
        // What is the same in all addresses is as good as a part of the key.
        let sum = pair([a, b], self.source.low, self.destination.low).wrapping_add(pair(
            [c, d],
            self.ports(),
            self.protocol as u64 | TAG_FLOW4,
        ));
        finish(sum, multiply)
    }

    /// [`Flow::hash`] of an IPv6 flow.
    #[inline(always)]
    pub const fn hash_v6(&self, key: [u64; KEY_WORDS]) -> u64 {
        let [multiply, a, b, c, d, e, f, g, h, i, j] = key;
        let sum = address([a, b, c, d], self.source)
            .wrapping_add(address([e, f, g, h], self.destination))
            .wrapping_add(pair([i, j], self.ports(), self.protocol as u64 | TAG_FLOW6));
        finish(sum, multiply)
    }

    /// 64 hash bits of the client's address alone: Pen's form without `-r`.
    #[inline(always)]
    pub const fn source_hash(&self, key: &HashKey) -> u64 {
        let [multiply, a, b, c, d, .., i, j] = key.0;
        let sum = address([a, b, c, d], self.source).wrapping_add(pair([i, j], 0, TAG_SOURCE));
        finish(sum, multiply)
    }

    #[inline(always)]
    const fn ports(&self) -> u64 {
        ((self.destination_port as u64) << 16) | self.source_port as u64
    }
}

/// Key of the hash of names, which are hashed when tables are built: SipHash-1-3 (Aumasson and
/// Bernstein, "SipHash: a fast short-input PRF").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameKey {
    pub(crate) k0: u64,
    pub(crate) k1: u64,
}

impl NameKey {
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

    /// 64 hash bits of a text; its length stands in the last word as in the paper.
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

struct Sip {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl Sip {
    const fn new(key: NameKey) -> Self {
        Self {
            v0: key.k0 ^ 0x736f_6d65_7073_6575,
            v1: key.k1 ^ 0x646f_7261_6e64_6f6d,
            v2: key.k0 ^ 0x6c79_6765_6e65_7261,
            v3: key.k1 ^ 0x7465_6462_7974_6573,
        }
    }

    fn word(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

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

    fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}
