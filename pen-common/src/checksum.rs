//! The Internet checksum (RFC 1071), and the mending of sums that a sender left to its hardware.
//!
//! Three facts carry this file. The sum is a one's complement sum of 16-bit words, so carries
//! are folded back in. Its byte order does not matter as long as it is the same throughout. And
//! a changed word changes the sum by the difference of the two (RFC 1624), so a small change
//! needs no second reading.

use crate::{frame::Frame, packet::Packet};

/// A running sum over pieces of any length.
#[derive(Default, Clone, Copy)]
pub struct Sum {
    total: u64,
    odd: bool,
}

impl Sum {
    /// Adds bytes; a piece of odd length shifts the ones behind it by half a word.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut part: u64 = 0;
        let mut wide = bytes.chunks_exact(8);
        for eight in &mut wide {
            let mut word = [0; 8];
            word.copy_from_slice(eight);
            let word = u64::from_be_bytes(word);
            part += (word >> 32) + (word & 0xffff_ffff);
        }
        for two in wide.remainder().chunks(2) {
            let high = two.first().copied().unwrap_or_default();
            let low = two.get(1).copied().unwrap_or_default();
            part += u64::from(u16::from_be_bytes([high, low]));
        }
        let folded = fold(part);
        self.total += u64::from(if self.odd {
            folded.swap_bytes()
        } else {
            folded
        });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// The folded sum, not complemented.
    pub fn fold(self) -> u16 {
        fold(self.total)
    }
}

/// Folds a sum of 16-bit words into 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The same for a sum below 2^36, such as sixteen 32-bit words make, in fewer steps.
#[inline(always)]
pub const fn fold_few(sum: u64) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The checksum field after one covered word went from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
pub const fn update(field: u16, old: u16, new: u16) -> u16 {
    !fold(!field as u64 + !old as u64 + new as u64)
}

/// Finishes a TCP or UDP checksum that the sender left to its hardware; true if it did.
///
/// Such a frame carries the folded pseudo-header sum, not complemented, in its checksum field: that
/// is what Linux leaves there with CHECKSUM_PARTIAL (include/linux/skbuff.h). A finished frame
/// looks like this once in 65,536; so on a hit the whole sum is taken before anything is changed.
#[inline(always)]
pub fn finish<F: Frame>(frame: &mut F, packet: &Packet) -> bool {
    let pseudo = packet.pseudo_sum();
    packet.checksum == u32::from(pseudo) && finish_whole(frame, packet, pseudo).is_some()
}

/// Whether the sender left a TCP or UDP checksum to its hardware, see [`finish`].
#[inline(always)]
pub fn is_unfinished<F: Frame>(frame: &F, packet: &Packet) -> bool {
    let pseudo = packet.pseudo_sum();
    packet.checksum == u32::from(pseudo)
        && frame
            .sum(packet.l4 as usize, packet.l4_len as usize)
            .is_some_and(|l4| fold(u64::from(l4) + u64::from(pseudo)) != 0xffff)
}

/// The rare half of [`finish`]: `None` if the sum was finished already.
#[inline(always)]
fn finish_whole<F: Frame>(frame: &mut F, packet: &Packet, pseudo: u16) -> Option<()> {
    let at = packet.checksum_at()?;
    let l4 = frame.sum(packet.l4 as usize, packet.l4_len as usize)?;
    if fold(u64::from(l4) + u64::from(pseudo)) == 0xffff {
        return None;
    }
    // The field still holds the pseudo-header sum, so `l4` covers header, payload and pseudo.
    let finished = match !l4 {
        // RFC 768: a computed zero is sent as all ones, zero means "no checksum".
        0 if packet.flow.protocol == crate::packet::UDP => 0xffff,
        sum => sum,
    };
    frame.set(at, finished.to_be_bytes())
}
