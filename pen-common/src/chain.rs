//! Chains of IPv6 extension headers, up to the transport header or the fragment without one.

use crate::{
    frame::Frame,
    packet::{Fragment, Part},
    verdict::Reason,
};

/// IPv6 extension headers that are followed. RFC 8504, section 5.3 lets a receiver set a limit.
const EXTENSIONS_MAX: u16 = 4;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Where a chain of extension headers leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Protocol number behind the last header.
    pub next: u8,
    /// What the last fragment header says.
    pub fragment: Fragment,
    /// Length of the headers, bytes.
    pub used: u16,
}

impl Chain {
    /// Follows the headers that stand at `offset`, the first of kind `next`, in `len` bytes.
    #[inline(always)]
    pub(crate) fn follow<F: Frame>(
        frame: &F,
        next: u8,
        offset: usize,
        len: u16,
    ) -> Result<Self, Reason> {
        if is_extension(next) {
            return Self::from_word(frame.extensions(next, offset, len));
        }
        Ok(Self::start(next))
    }

    const fn start(next: u8) -> Self {
        Self {
            next,
            fragment: Fragment::WHOLE,
            used: 0,
        }
    }

    /// The walk itself, which a host may have made a function of its own
    /// ([`Frame::extensions`]).
    #[inline(always)]
    pub fn walk<F: Frame>(frame: &F, next: u8, offset: usize, len: u16) -> Result<Self, Reason> {
        let mut chain = Self::start(next);
        let mut count = 0;
        while is_extension(chain.next) {
            if count == EXTENSIONS_MAX {
                return Err(Reason::HeaderChain);
            }
            chain = chain.step(frame, offset)?;
            if chain.used > len {
                return Err(Reason::Truncated);
            }
            count += 1;
            if chain.fragment.part == Part::Later {
                return Ok(chain);
            }
        }
        Ok(chain)
    }

    /// One header further.
    #[inline(always)]
    fn step<F: Frame>(self, frame: &F, offset: usize) -> Result<Self, Reason> {
        let at = offset + usize::from(self.used);
        let [next, size, f0, f1, i0, i1, i2, i3] = frame.get::<8>(at).ok_or(Reason::Truncated)?;
        let size = match self.next {
            FRAGMENT => 8,
            // RFC 4302 counts in 4 bytes, the others in 8.
            AUTHENTICATION => (u16::from(size) + 2) * 4,
            _ => (u16::from(size) + 1) * 8,
        };
        let mut fragment = self.fragment;
        if self.next == FRAGMENT {
            let id = u32::from_be_bytes([i0, i1, i2, i3]);
            // A fragment that is the whole datagram (RFC 6946) has its ports at hand.
            fragment = match u16::from_be_bytes([f0, f1]) & 0xfff9 {
                0 => Fragment::WHOLE,
                1 => Fragment {
                    part: Part::First,
                    id,
                },
                _ => Fragment {
                    part: Part::Later,
                    id,
                },
            };
        }
        Ok(Self {
            next,
            fragment,
            used: self.used + size,
        })
    }

    /// As one word, which is what a function of the XDP program can return.
    #[inline(always)]
    pub fn to_word(walked: Result<Self, Reason>) -> u64 {
        match walked {
            Ok(Self {
                next,
                fragment: Fragment { part, id },
                used,
            }) => {
                u64::from(id)
                    | u64::from(used) << 32
                    | u64::from(next) << 48
                    | u64::from(part as u8) << 56
            }
            Err(Reason::HeaderChain) => CHAIN_TOO_LONG,
            Err(_) => CHAIN_TRUNCATED,
        }
    }

    /// From the word.
    #[inline(always)]
    pub fn from_word(word: u64) -> Result<Self, Reason> {
        match word {
            CHAIN_TOO_LONG => return Err(Reason::HeaderChain),
            CHAIN_TRUNCATED => return Err(Reason::Truncated),
            _ => {}
        }
        let part = match word >> 56 {
            0 => Part::Whole,
            1 => Part::First,
            _ => Part::Later,
        };
        Ok(Self {
            next: (word >> 48) as u8,
            fragment: Fragment {
                part,
                id: word as u32,
            },
            used: (word >> 32) as u16 & CHAIN_LEN_MAX,
        })
    }
}

/// More bytes than any chain has. Masked with it, a length shows the kernel's verifier that what
/// stands behind the chain is not beyond the longest packet.
const CHAIN_LEN_MAX: u16 = 0x3fff;
/// The longest extension header (RFC 8200, section 4.2: 8 bytes and 255 times 8).
const EXTENSION_LEN_MAX: u16 = 2_048;
const _: () = assert!(EXTENSIONS_MAX * EXTENSION_LEN_MAX <= CHAIN_LEN_MAX);

// No chain has these words: a part is 0, 1 or 2.
const CHAIN_TOO_LONG: u64 = u64::MAX;
const CHAIN_TRUNCATED: u64 = u64::MAX - 1;

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}
