//! A frame as the kernel shows it to the program.
#![allow(
    unsafe_code,
    reason = "packet memory is reached by pointers that the verifier checks"
)]

use core::ptr;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_csum_diff, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
};
use pen_common::{
    chain::Chain,
    checksum::fold,
    frame::{Frame, REACH},
};

use crate::maps::{SCRATCH, SUM_CHUNK};

/// Longest piece of a frame that is summed, bytes: a jumbo frame of 9,600.
const SUM_LEN_MAX: usize = SUM_CHUNK * 19;

/// One frame. Headers are read from its first buffer only.
pub struct XdpFrame {
    context: *mut xdp_md,
    len: usize,
}

impl XdpFrame {
    /// The frame that the program was called for.
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> Self {
        // SAFETY: the kernel passes a valid context.
        let len = unsafe { bpf_xdp_get_buff_len(context) };
        Self {
            context,
            len: len as usize,
        }
    }

    /// The queue that received it.
    #[inline(always)]
    pub fn queue(&self) -> u32 {
        // SAFETY: the kernel passes a valid context and checks its fields' use.
        unsafe { (*self.context).rx_queue_index }
    }

    /// Where `len` bytes at `offset` stand, if they are all in the first buffer.
    #[inline(always)]
    fn place(&self, offset: usize, len: usize) -> Option<*mut u8> {
        if offset > REACH {
            return None;
        }
        // Volatile: the compiler must not conclude from one comparison that another is not needed.
        // The verifier knows of each pointer only what was compared with that very one.
        // SAFETY: as in `queue`.
        let data = unsafe { (&raw const (*self.context).data).read_volatile() } as usize;
        // SAFETY: as in `queue`.
        let end = unsafe { (&raw const (*self.context).data_end).read_volatile() } as usize;
        let start = data + offset;
        (start + len <= end).then_some(start as *mut u8)
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let place = self.place(offset, N)?;
        // SAFETY: `place` has compared the N bytes with the end of the buffer.
        Some(unsafe { place.cast::<[u8; N]>().read_unaligned() })
    }

    #[inline(always)]
    fn set<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let place = self.place(offset, N)?;
        // SAFETY: as in `get`; nobody else holds the frame while the program runs.
        unsafe { place.cast::<[u8; N]>().write_unaligned(bytes) };
        Some(())
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> Option<()> {
        let delta = len as i64 - self.len as i64;
        if delta == 0 {
            return Some(());
        }
        // SAFETY: the kernel passes a valid context. Pointers into the frame are taken anew at
        // each access, so none outlives the move of its end.
        if unsafe { bpf_xdp_adjust_tail(self.context, delta as i32) } != 0 {
            return None;
        }
        self.len = len;
        Some(())
    }

    #[inline(always)]
    fn sum(&self, offset: usize, len: usize) -> Option<u16> {
        u16::try_from(pen_sum(self.context, offset as u64, len as u64)).ok()
    }

    #[inline(always)]
    fn extensions(&self, next: u8, offset: usize, len: u16) -> u64 {
        pen_extensions(self.context, u64::from(next), offset as u64, u64::from(len))
    }
}

/// [`Frame::sum`]; above 16 bits if it can't be taken. An exported function: the kernel verifies
/// such a one once, for any arguments, and not again for each way that leads to a call.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pen_sum(context: *mut xdp_md, offset: u64, len: u64) -> u64 {
    const FAILED: u64 = u64::MAX;
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return FAILED;
    };
    let scratch = scratch.cast::<u8>();
    let (mut at, mut left) = (offset as usize, len as usize);
    if left == 0 {
        return 0;
    }
    let mut total: u64 = 0;
    // Counted by a constant, and the length compared only behind the loop: Linux 6.1's verifier
    // forgets the bounds of a number that was put aside on the stack, and the loop never ends.
    for _ in 0..SUM_LEN_MAX / SUM_CHUNK {
        if left <= SUM_CHUNK {
            break;
        }
        let Some(part) = sum_piece(context, at, scratch, SUM_CHUNK) else {
            return FAILED;
        };
        total += part;
        at += SUM_CHUNK;
        left -= SUM_CHUNK;
    }
    if left > SUM_CHUNK {
        return FAILED;
    }
    // Written so that it cannot be 0: from a comparison with 0 that verifier learns nothing, and
    // refuses to load so many bytes.
    let last = (left - 1) % SUM_CHUNK + 1;
    let Some(part) = sum_piece(context, at, scratch, last) else {
        return FAILED;
    };
    total += part;
    // The helper sums words in the machine's order.
    u64::from(u16::from_be(fold(total)))
}

/// [`Frame::extensions`]; exported for the same reason as [`pen_sum`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pen_extensions(context: *mut xdp_md, next: u64, offset: u64, len: u64) -> u64 {
    let frame = XdpFrame::new(context);
    Chain::to_word(Chain::walk(&frame, next as u8, offset as usize, len as u16))
}

/// Sums `len` bytes, at most [`SUM_CHUNK`], by way of `scratch`, which has 8 bytes more.
#[inline(always)]
fn sum_piece(context: *mut xdp_md, at: usize, scratch: *mut u8, len: usize) -> Option<u64> {
    // SAFETY: the scratch element has room for `len` bytes.
    if unsafe { bpf_xdp_load_bytes(context, at as u32, scratch.cast(), len as u32) } != 0 {
        return None;
    }
    // SAFETY: behind them there are 8 bytes of room.
    unsafe { scratch.add(len).cast::<u32>().write_unaligned(0) };
    let words = (len as u32 + 3) & !3;
    // SAFETY: up to 3 bytes more than were loaded, zeroed above.
    let part = unsafe { bpf_csum_diff(ptr::null_mut(), 0, scratch.cast(), words, 0) };
    Some(u64::from(part as u32))
}
