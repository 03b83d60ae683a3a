//! Programs for measurements only: two baselines that decide nothing, a sink that counts what they
//! deliver, and a wrapper that lets a test-run meet the same frame again and again.
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

/// How the MAC of every back end begins in a measurement: first word, low half.
const BACKEND_MAC: u32 = u16::from_ne_bytes([0x02, 0xbe]) as u32;

/// Set by the loader: the frame's first twelve bytes as they were sent.
#[unsafe(no_mangle)]
static MACS: [u32; 3] = [0; 3];

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
