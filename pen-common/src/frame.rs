//! Checked access to the bytes of one frame.
//!
//! The trait copies and lends nothing: a copy at a checked offset is what the kernel's verifier
//! can follow, and it leaves no question of aliasing for memory that a device may write.

use crate::chain::Chain;

/// How far into a frame headers are read, bytes. The XDP program masks offsets with it so that
/// the verifier knows a bound; every host keeps to it so that all decide alike.
pub const REACH: usize = 0x7ff;

/// One frame, from the first byte of the Ethernet header.
#[allow(
    clippy::len_without_is_empty,
    reason = "a frame is never empty: it has an Ethernet header"
)]
pub trait Frame {
    /// Length of the whole frame in bytes, all its buffers together.
    fn len(&self) -> usize;

    /// Copies `N` bytes at `offset`; `None` beyond the frame's end or beyond [`REACH`].
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Writes `N` bytes at `offset`; `None` (and nothing written) where [`Frame::get`] gives none.
    fn set<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;

    /// Makes the frame `len` bytes long, at its end; new bytes have no defined value.
    /// `None` if there is no room.
    fn resize(&mut self, len: usize) -> Option<()>;

    /// One's complement sum of the 16-bit big-endian words of `offset .. offset + len`, folded
    /// (RFC 1071). An odd last byte counts as the high half of a word. `None` beyond the end.
    fn sum(&self, offset: usize, len: usize) -> Option<u16>;

    /// Where the IPv6 extension headers at `offset` lead: [`Chain::walk`] as a word. The XDP program
    /// has its own function for it, because the kernel verifies what is inlined once for each way
    /// that leads there, and there are too many.
    #[inline(always)]
    fn extensions(&self, next: u8, offset: usize, len: u16) -> u64
    where
        Self: Sized,
    {
        Chain::to_word(Chain::walk(self, next, offset, len))
    }
}

/// A frame in one byte buffer, with room behind it that [`Frame::resize`] may use.
pub struct SliceFrame<'a> {
    buffer: &'a mut [u8],
    /// Of the first buffer.
    len: usize,
    rest: &'a [&'a [u8]],
    rest_len: usize,
}

impl<'a> SliceFrame<'a> {
    /// The first `len` bytes of `buffer` are the frame; a `len` beyond the buffer is cut to it.
    pub fn new(buffer: &'a mut [u8], len: usize) -> Self {
        let len = len.min(buffer.len());
        Self {
            buffer,
            len,
            rest: &[],
            rest_len: 0,
        }
    }

    /// A frame that goes on in further buffers (multi-buffer): headers are in the first one.
    pub fn with_rest(buffer: &'a mut [u8], len: usize, rest: &'a [&'a [u8]]) -> Self {
        Self {
            rest,
            rest_len: rest.iter().map(|part| part.len()).sum(),
            ..Self::new(buffer, len)
        }
    }

    /// The bytes of the first buffer that belong to the frame.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl Frame for SliceFrame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len + self.rest_len
    }

    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > REACH {
            return None;
        }
        self.bytes().get(offset..offset + N)?.try_into().ok()
    }

    #[inline(always)]
    fn set<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        if offset > REACH {
            return None;
        }
        self.buffer
            .get_mut(..self.len)?
            .get_mut(offset..offset + N)?
            .copy_from_slice(&bytes);
        Some(())
    }

    fn resize(&mut self, len: usize) -> Option<()> {
        if len > self.buffer.len() || !self.rest.is_empty() {
            return None;
        }
        self.len = len;
        Some(())
    }

    fn sum(&self, offset: usize, len: usize) -> Option<u16> {
        if offset.checked_add(len)? > self.len() {
            return None;
        }
        let mut sum = crate::checksum::Sum::default();
        let mut skip = offset;
        let mut left = len;
        for whole in core::iter::once(self.bytes()).chain(self.rest.iter().copied()) {
            let part = whole.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(whole.len());
            let part = part.get(..left).unwrap_or(part);
            sum.add(part);
            left -= part.len();
        }
        Some(sum.fold())
    }
}
