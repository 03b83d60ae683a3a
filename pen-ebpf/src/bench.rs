//! Programs for measurements only: two baselines that decide nothing, a sink that counts what they
//! deliver, a sender that runs inside the kernel, and a wrapper that lets a test-run meet the same
//! frame again and again.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "packet memory is reached by pointers that the verifier checks"
)]

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    btf_maps::{Array, ProgramArray, XskMap},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use pen_common::tables::QUEUES_MAX;

/// The program under measurement.
#[btf_map]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();
/// The queues' AF_XDP sockets.
#[btf_map]
static SOCKETS: XskMap<{ QUEUES_MAX as usize }> = XskMap::new();
/// Frames that came back for a back end. One element, written by one receive queue at a time.
#[btf_map]
static DELIVERED: Array<u64, 1> = Array::new();

/// What the program `send` keeps from frame to frame; only one core runs it. First the frames that
/// went out, then those that may go out before the sink's counter is looked at again, which the
/// other core writes all the time.
#[btf_map]
static SENT: Array<u64, 2> = Array::new();
/// Written by the loader while the sender runs: first the frames that may be under way, then those
/// sent that it has given up waiting for.
#[btf_map]
static LIMITS: Array<u64, 2> = Array::new();

/// How the MAC of every back end begins in a measurement: first word, low half.
const BACKEND_MAC: u32 = u16::from_ne_bytes([0x02, 0xbe]) as u32;

/// Set by the loader: the frame's first twelve bytes as they were sent.
#[unsafe(no_mangle)]
static MACS: [u32; 3] = [0; 3];
/// Frames of the sender that go out together at least, for the sake of batches.
const ROOM_MIN: u64 = 32;
/// Frames that it sends at most between two looks at its limits.
const CREDIT_MAX: u64 = 256;

/// The two MAC addresses as words; `None` in a frame too short to have them.
#[inline(always)]
fn macs(context: &XdpContext) -> Option<*mut [u32; 3]> {
    let start = context.data();
    (start + 12 <= context.data_end()).then_some(start as *mut [u32; 3])
}

/// Puts the frame back as it was sent and goes on into the program under measurement.
#[xdp(frags)]
pub fn restore(context: XdpContext) -> u32 {
    let Some(macs) = macs(&context) else {
        return XDP_ABORTED;
    };
    // SAFETY: a static; volatile, because the loader changes it in the object.
    let sent = unsafe { (&raw const MACS).read_volatile() };
    // SAFETY: `macs` has compared the twelve bytes with the frame's end.
    unsafe { macs.write_unaligned(sent) };
    // SAFETY: the context is the one that this program was called with.
    unsafe { UNDER_TEST.tail_call(&context, 0) };
    XDP_ABORTED
}

/// Sends the frame out where it seems to have come in, as long as there is room in the window. It is
/// run on live frames, whose memory comes back as the receiver left it: the addresses are written
/// anew.
#[xdp]
pub fn send(context: XdpContext) -> u32 {
    let Some(macs) = macs(&context) else {
        return XDP_ABORTED;
    };
    let (Some(sent), Some(credit)) = (SENT.get_ptr_mut(0), SENT.get_ptr_mut(1)) else {
        return XDP_ABORTED;
    };
    // SAFETY: the map's memory, always mapped, and only this program writes it.
    let sent = unsafe { &mut *sent };
    // SAFETY: as above.
    let credit = unsafe { &mut *credit };
    if *credit == 0 {
        *credit = room(*sent);
    }
    if *credit == 0 {
        return XDP_DROP;
    }
    *credit -= 1;
    *sent += 1;
    // SAFETY: as in `restore`.
    let addresses = unsafe { (&raw const MACS).read_volatile() };
    // SAFETY: `macs` has compared the twelve bytes with the frame's end.
    unsafe { macs.write_unaligned(addresses) };
    XDP_TX
}

/// How many frames may go out; fewer than [`ROOM_MIN`] may not.
#[inline(always)]
fn room(sent: u64) -> u64 {
    let (Some(window), Some(given_up), Some(delivered)) = (
        LIMITS.get_ptr_mut(0),
        LIMITS.get_ptr_mut(1),
        DELIVERED.get_ptr_mut(0),
    ) else {
        return 0;
    };
    // SAFETY: the map's memory, always mapped; volatile, because others write it.
    let window = unsafe { window.read_volatile() };
    // SAFETY: as above.
    let settled = unsafe { given_up.read_volatile() };
    // SAFETY: as above.
    let settled = settled + unsafe { delivered.read_volatile() };
    let room = window.saturating_sub(sent.saturating_sub(settled));
    if room < ROOM_MIN {
        0
    } else {
        room.min(CREDIT_MAX)
    }
}

/// Swaps the MAC addresses and sends the frame back: what forwarding costs without a decision.
#[xdp(frags)]
pub fn swap(context: XdpContext) -> u32 {
    let Some(macs) = macs(&context) else {
        return XDP_ABORTED;
    };
    // SAFETY: `macs` has compared the twelve bytes with the frame's end.
    let [a, b, c] = unsafe { macs.read_unaligned() };
    let swapped = [
        (b >> 16) | (c << 16),
        (c >> 16) | (a << 16),
        (a >> 16) | (b << 16),
    ];
    // SAFETY: as above.
    unsafe { macs.write_unaligned(swapped) };
    XDP_TX
}

/// Hands every frame to its queue's socket; without one the kernel gets it.
#[xdp(frags)]
pub fn redirect(context: XdpContext) -> u32 {
    match SOCKETS.redirect(context.rx_queue_index(), u64::from(XDP_PASS)) {
        Ok(action) | Err(action) => action,
    }
}

/// Counts and drops the frames to a back end; all else, such as ARP requests, is the kernel's.
#[xdp]
pub fn sink(context: XdpContext) -> u32 {
    let Some(macs) = macs(&context) else {
        return XDP_PASS;
    };
    // SAFETY: `macs` has compared the twelve bytes with the frame's end.
    let [first, ..] = unsafe { macs.read_unaligned() };
    let Some(delivered) = DELIVERED
        .get_ptr_mut(0)
        .filter(|_| first & 0xffff == BACKEND_MAC)
    else {
        return XDP_PASS;
    };
    // SAFETY: the map's memory, always mapped.
    let count = unsafe { delivered.read() };
    // SAFETY: as above.
    unsafe { delivered.write(count + 1) };
    XDP_DROP
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
