//! The arrays that the programs share with the daemon, and [`MapMemory`], the program's way to
//! them. Layout and meaning: `pen_common::tables`.
#![allow(
    unsafe_code,
    reason = "elements of eBPF arrays are reached by pointers"
)]

use core::hint::black_box;

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray, XskMap},
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns},
    macros::btf_map,
};
use pen_common::{
    flow::Address,
    flow_table::{self, FLOWS, FlowFrame},
    fragment_table::FRAGMENTS,
    ranges::{self, RANGES_MAX},
    tables::{
        BACKENDS_MAX, BackendId, FLOW_CLOCK_AT, HEAD_WORDS, HEARTBEAT_NS_MAX, KEY_AT, Memory,
        POOLS_MAX, QUEUES_MAX, Search, VIP_SLOTS,
    },
    verdict::{COUNTERS, Reason},
};

/// BPF_F_MMAPABLE (include/uapi/linux/bpf.h).
const MMAPABLE: usize = 1 << 10;
/// The loader sets the real number of elements.
const SET_AT_LOAD: usize = 1;
/// Most that `bpf_csum_diff` takes at once, bytes.
pub const SUM_CHUNK: usize = 512;

/// Root word with the daemon's note and the flow clock, then the heads of the two banks.
#[btf_map]
static ROOT: Array<[u64; 3 * HEAD_WORDS], 1, MMAPABLE> = Array::new();
#[btf_map]
static VIPS: Array<[u64; 4], { 2 * VIP_SLOTS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static POOLS: Array<u64, { 2 * POOLS_MAX as usize }, MMAPABLE> = Array::new();
#[btf_map]
static SLOTS: Array<u64, SET_AT_LOAD, MMAPABLE> = Array::new();
#[btf_map]
static BACKENDS: Array<u64, { 3 * BACKENDS_MAX as usize }, MMAPABLE> = Array::new();
#[btf_map]
static RANGES: Array<[u64; 2], { 2 * RANGES_MAX as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FRAGMENTS_SEEN: Array<u64, { FRAGMENTS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static FLOWS_SEEN: Array<u64, { FLOWS as usize }, MMAPABLE> = Array::new();
/// When each queue's worker was last seen alive, nanoseconds of CLOCK_MONOTONIC; 0 without one.
#[btf_map]
static HEARTBEATS: Array<u64, { QUEUES_MAX as usize }, MMAPABLE> = Array::new();
/// One row a CPU, then one a worker: each has one writer.
#[btf_map]
static COUNTS: Array<[u64; COUNTERS], SET_AT_LOAD, MMAPABLE> = Array::new();
/// Frames and bytes of each back end; rows as in `COUNTS`.
#[btf_map]
static TRAFFIC: Array<[u64; 2], SET_AT_LOAD, MMAPABLE> = Array::new();
/// The queues' AF_XDP sockets.
#[btf_map]
static SOCKETS: XskMap<{ QUEUES_MAX as usize }> = XskMap::new();
/// Where a piece of a frame is summed: one chunk, and zeros up to a whole word behind it.
#[btf_map]
pub static SCRATCH: PerCpuArray<[u8; SUM_CHUNK + 8], 1> = PerCpuArray::new();

/// Set by the loader: whether checksums left to hardware are finished before XDP_TX. In generic
/// mode never: there the kernel finishes them later and would do it twice.
#[unsafe(no_mangle)]
static FINISH_CHECKSUMS: u8 = 0;

const _: () = assert!(COUNTERS.is_power_of_two());

/// The program's view of the memory.
pub struct MapMemory {
    row: u32,
    /// The one element of `ROOT`, looked up once a frame.
    root: *const u64,
}

impl MapMemory {
    /// On this CPU.
    #[inline(always)]
    pub fn new() -> Option<Self> {
        let root = ROOT.get_ptr(0)?.cast();
        // SAFETY: a helper without arguments.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        Some(Self {
            row: cpu as u32,
            root,
        })
    }

    /// For a function that neither counts nor reads the root element: the verifier refuses a read
    /// through nothing.
    #[inline(always)]
    const fn of_large_arrays() -> Self {
        Self {
            row: 0,
            root: core::ptr::null(),
        }
    }

    /// Words of the root element from `first` on.
    #[inline(always)]
    fn root_words<const N: usize>(&self, first: usize) -> Option<[u64; N]> {
        read_all(Some(self.root.wrapping_add(first).cast()))
    }

    /// Counts a frame's fate.
    #[inline(always)]
    pub fn count(&self, reason: Reason) {
        // The compiler knows that no reason lies outside and would leave the mask out; the
        // verifier need not know it: Linux 6.1's forgets what it saw of the reason.
        self.count_in(black_box(reason as usize) & (COUNTERS - 1));
    }

    #[inline(always)]
    fn count_in(&self, column: usize) {
        if let Some(counts) = COUNTS.get_ptr_mut(self.row) {
            add(counts.cast::<u64>().wrapping_add(column), 1);
        }
    }

    /// Counts a frame of `len` bytes that was forwarded to a back end.
    #[inline(always)]
    pub fn count_forwarded(&self, id: BackendId, len: usize) {
        self.count_in(Reason::Forwarded as usize);
        let element = self.row * BACKENDS_MAX + u32::from(id);
        if let Some(traffic) = TRAFFIC.get_ptr_mut(element) {
            let frames = traffic.cast::<u64>();
            add(frames, 1);
            add(frames.wrapping_add(1), len as u64);
        }
    }

    /// Hands the frame to the socket of `queue`; false if there is none or its worker is not
    /// alive.
    #[inline(always)]
    pub fn redirect(&self, queue: u32) -> bool {
        let Some(heartbeat) = HEARTBEATS.get_ptr(queue) else {
            return false;
        };
        let heartbeat = read(heartbeat);
        if heartbeat == 0 {
            return false;
        }
        // Coarse: cheaper, and the daemon's clock of the same name. It lags by a tick at most.
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        // A heartbeat taken from the fine clock may be ahead.
        if now.saturating_sub(heartbeat) >= HEARTBEAT_NS_MAX {
            return false;
        }
        SOCKETS.redirect(queue, 0).is_ok()
    }
}

/// [`Search::run`] over the maps. An exported function of numbers: the kernel verifies such a one
/// once, for any arguments, and not again on each way that leads to a call.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pen_find(high: u64, low: u64, tail: u64, base: u32, seed: u64) -> u64 {
    let search = Search {
        high,
        low,
        tail,
        base,
        seed,
    };
    search.run(&MapMemory::of_large_arrays())
}

/// [`ranges::admits`] over the maps; exported for the same reason.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pen_admits(high: u64, low: u64, place: u32) -> u64 {
    let address = Address { high, low };
    u64::from(ranges::admits(
        &MapMemory::of_large_arrays(),
        address,
        place,
    ))
}

/// [`flow_table::recall`] over the maps; exported for the same reason.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pen_recall(hash: u64, now_s: u64, frame: u64) -> u64 {
    let memory = MapMemory::of_large_arrays();
    u64::from(flow_table::recall(&memory, hash, now_s, frame_of(frame)))
}

/// [`flow_table::record`] over the maps; exported for the same reason. The kernel wants a result.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn pen_record(hash: u64, now_s: u64, backend: u64, frame: u64) -> u64 {
    let memory = MapMemory::of_large_arrays();
    let seen = (backend as BackendId, frame_of(frame));
    flow_table::record(&memory, hash, now_s, seen);
    0
}

/// What was given as a number.
#[inline(always)]
const fn frame_of(number: u64) -> FlowFrame {
    const SYN: u64 = FlowFrame::Syn as u64;
    const TCP: u64 = FlowFrame::Tcp as u64;
    match number {
        SYN => FlowFrame::Syn,
        TCP => FlowFrame::Tcp,
        _ => FlowFrame::Other,
    }
}

/// Adds to a counter that only this CPU writes.
#[inline(always)]
fn add(counter: *mut u64, more: u64) {
    // SAFETY: the callers pass a word inside an element that a look-up returned.
    let value = unsafe { counter.read_volatile() };
    // SAFETY: as above.
    unsafe { counter.write_volatile(value.wrapping_add(more)) };
}

/// Reads a word that the daemon may be writing: one load, so old or new, never a mixture.
#[inline(always)]
fn read(word: *const u64) -> u64 {
    // SAFETY: the callers pass a word inside an element that a look-up returned.
    unsafe { word.read_volatile() }
}

/// Reads the words of an element. Elements of the bank in use don't change.
#[inline(always)]
fn read_all<const N: usize>(element: Option<*const [u64; N]>) -> Option<[u64; N]> {
    // SAFETY: a look-up returned the element; arrays live as long as the program.
    Some(unsafe { *element? })
}

impl Memory for MapMemory {
    #[inline(always)]
    fn root(&self) -> u64 {
        read(self.root)
    }

    #[inline(always)]
    fn head(&self, bank: u32) -> Option<[u64; HEAD_WORDS]> {
        self.root_words((1 + bank as usize) * HEAD_WORDS)
    }

    #[inline(always)]
    fn vip(&self, index: u32) -> Option<[u64; 4]> {
        read_all(VIPS.get_ptr(index))
    }

    #[inline(always)]
    fn pool(&self, index: u32) -> Option<u64> {
        POOLS.get_ptr(index).map(read)
    }

    #[inline(always)]
    fn slots(&self, index: u32) -> Option<u64> {
        SLOTS.get_ptr(index).map(read)
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<u64> {
        BACKENDS.get_ptr(index).map(read)
    }

    #[inline(always)]
    fn range(&self, index: u32) -> Option<[u64; 2]> {
        read_all(RANGES.get_ptr(index))
    }

    #[inline(always)]
    fn fragment(&self, index: u32) -> Option<u64> {
        FRAGMENTS_SEEN.get_ptr(index).map(read)
    }

    #[inline(always)]
    fn set_fragment(&self, index: u32, entry: u64) {
        if let Some(word) = FRAGMENTS_SEEN.get_ptr_mut(index) {
            // SAFETY: a look-up returned the word. Written at once, so readers see old or new.
            unsafe { word.write_volatile(entry) };
        }
    }

    #[inline(always)]
    fn key<const N: usize>(&self, bank: u32) -> Option<[u64; N]> {
        self.root_words((1 + bank as usize) * HEAD_WORDS + KEY_AT)
    }

    #[inline(always)]
    fn flow(&self, index: u32) -> Option<u64> {
        FLOWS_SEEN.get_ptr(index).map(read)
    }

    #[inline(always)]
    fn set_flow(&self, index: u32, entry: u64) {
        if let Some(word) = FLOWS_SEEN.get_ptr_mut(index) {
            // SAFETY: a look-up returned the word. Written at once, so readers see old or new.
            unsafe { word.write_volatile(entry) };
        }
    }

    #[inline(always)]
    fn flow_clock(&self) -> u64 {
        read(self.root.wrapping_add(FLOW_CLOCK_AT))
    }

    #[inline(always)]
    fn now_ms(&self) -> u64 {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_coarse_ns() };
        now / 1_000_000
    }

    #[inline(always)]
    fn finish_checksums(&self) -> bool {
        // SAFETY: a static of one byte. Volatile, because the loader changes it in the object.
        let on = unsafe { (&raw const FINISH_CHECKSUMS).read_volatile() };
        on != 0
    }

    #[inline(always)]
    fn note(&self, reason: Reason) {
        self.count(reason);
    }

    #[inline(always)]
    fn find(&self, search: Search) -> u64 {
        let Search {
            high,
            low,
            tail,
            base,
            seed,
        } = search;
        pen_find(high, low, tail, base, seed)
    }

    #[inline(always)]
    fn admits(&self, address: Address, place: u32) -> bool {
        pen_admits(address.high, address.low, place) != 0
    }

    #[inline(always)]
    fn recall(&self, hash: u64, now_s: u64, frame: FlowFrame) -> BackendId {
        pen_recall(hash, now_s, frame as u64) as BackendId
    }

    #[inline(always)]
    fn record(&self, hash: u64, now_s: u64, seen: (BackendId, FlowFrame)) {
        pen_record(hash, now_s, u64::from(seen.0), seen.1 as u64);
    }
}
