//! The memory that `steer` reads and remembers in, mapped into this process: the very pages that
//! the program looks up, or, on a host without BPF, pages of our own in the same layout.
//!
//! Every access is an atomic operation on one aligned word, because the program on other CPUs, the
//! workers and the control side use the pages at the same time. Nothing is written while it is
//! read except single words; the root word, stored with release, switches between the banks.

#![allow(
    unsafe_code,
    reason = "words of a shared mapping are reached by pointers"
)]

mod flows;
mod memory;

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use memmap2::{MmapOptions, MmapRaw};
use pen_common::{
    flow_table::FLOWS,
    fragment_table::FRAGMENTS,
    hash::HashKey,
    ranges::RANGES_MAX,
    tables::{
        BACKENDS_MAX, BackendId, FLOW_CLOCK_AT, HEAD_WORDS, Head, KEY_AT, POOLS_MAX, QUEUES_MAX,
        VIP_SLOTS,
    },
    verdict::{COUNTERS, Reason},
};

use serde::{Deserialize, Serialize};

pub use memory::MappedMemory;

/// Least rows for workers.
const WORKER_ROWS_MIN: u32 = 16;
/// First word of the note that one daemon leaves to the next, in the root word's element.
const NOTE: usize = 1;
/// Words of that note.
pub const NOTE_WORDS: usize = 3;
const _: () = assert!(NOTE + NOTE_WORDS <= FLOW_CLOCK_AT && FLOW_CLOCK_AT < HEAD_WORDS);
/// Words of a page, as the kernel hands them out at least.
const PAGE_WORDS: usize = 512;

/// What is decided at load time: how large the arrays of free size are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Words of the slot array, `SLOTS_PER_WORD` slots each.
    pub slot_words: u32,
    /// Rows of the counters: one for each possible CPU, then one for each worker.
    pub rows: u32,
}

impl Shape {
    /// For `slot_bytes` bytes of slots and so many possible CPUs and workers.
    pub fn new(slot_bytes: u64, cpus: u32, workers: u32) -> Self {
        let words = slot_bytes.div_ceil(8).clamp(1, u64::from(u32::MAX));
        Self {
            slot_words: words as u32,
            rows: cpus + workers.max(WORKER_ROWS_MIN),
        }
    }

    /// Whether arrays of this shape serve where `wanted` is asked for.
    pub fn holds(&self, wanted: &Self) -> bool {
        self.slot_words >= wanted.slot_words && self.rows >= wanted.rows
    }
}

/// One array of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Array {
    /// Root word with the note and the flow clock, then the heads of the banks, in one element.
    Root,
    /// VIP index.
    Vips,
    /// Pool descriptors.
    Pools,
    /// Slots of all pools.
    Slots,
    /// Back ends of the two banks, then whose each number is.
    Backends,
    /// Access lists of the two banks.
    Ranges,
    /// Fragment table.
    Fragments,
    /// Flow table.
    Flows,
    /// When each queue's worker was last alive.
    Heartbeats,
    /// Frames by reason.
    Counts,
    /// Frames and bytes by back end.
    Traffic,
}

impl Array {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Root,
        Self::Vips,
        Self::Pools,
        Self::Slots,
        Self::Backends,
        Self::Ranges,
        Self::Fragments,
        Self::Flows,
        Self::Heartbeats,
        Self::Counts,
        Self::Traffic,
    ];

    /// The name of its map in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "ROOT",
            Self::Vips => "VIPS",
            Self::Pools => "POOLS",
            Self::Slots => "SLOTS",
            Self::Backends => "BACKENDS",
            Self::Ranges => "RANGES",
            Self::Fragments => "FRAGMENTS_SEEN",
            Self::Flows => "FLOWS_SEEN",
            Self::Heartbeats => "HEARTBEATS",
            Self::Counts => "COUNTS",
            Self::Traffic => "TRAFFIC",
        }
    }

    /// Words of one element.
    pub const fn element_words(self) -> usize {
        match self {
            Self::Root => 3 * HEAD_WORDS,
            Self::Vips => 4,
            Self::Counts => COUNTERS,
            Self::Ranges | Self::Traffic => 2,
            Self::Pools
            | Self::Slots
            | Self::Backends
            | Self::Fragments
            | Self::Flows
            | Self::Heartbeats => 1,
        }
    }

    /// Elements.
    pub const fn elements(self, shape: &Shape) -> u32 {
        match self {
            Self::Root => 1,
            Self::Vips => 2 * VIP_SLOTS,
            Self::Pools => 2 * POOLS_MAX,
            Self::Slots => shape.slot_words,
            Self::Backends => 3 * BACKENDS_MAX,
            Self::Ranges => 2 * RANGES_MAX,
            Self::Fragments => FRAGMENTS,
            Self::Flows => FLOWS,
            Self::Heartbeats => QUEUES_MAX,
            Self::Counts => shape.rows,
            Self::Traffic => shape.rows * BACKENDS_MAX,
        }
    }

    const fn words(self, shape: &Shape) -> usize {
        self.element_words() * self.elements(shape) as usize
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, as coarse as the program's clock.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec of our own. The call can't fail: the clock exists since 2.6.32.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Words in a row, shared.
struct Words {
    map: MmapRaw,
    len: usize,
}

impl Words {
    fn get(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.len {
            return None;
        }
        let start = self.map.as_ptr().cast::<AtomicU64>();
        // SAFETY: `len` words were mapped, and `index` is below it.
        let word = unsafe { start.add(index) };
        // SAFETY: aligned, because a mapping starts at a page; alive as long as `self`; and all
        // who share the page write whole words.
        Some(unsafe { &*word })
    }

    fn load(&self, index: usize) -> Option<u64> {
        self.get(index).map(|word| word.load(Ordering::Relaxed))
    }

    fn load_all<const N: usize>(&self, element: usize) -> Option<[u64; N]> {
        self.load_from(element.checked_mul(N)?)
    }

    fn load_from<const N: usize>(&self, first: usize) -> Option<[u64; N]> {
        if first + N > self.len {
            return None;
        }
        Some(std::array::from_fn(|at| {
            self.load(first + at).unwrap_or_default()
        }))
    }

    /// Nothing happens beyond the end.
    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn store_all(&self, first: usize, values: &[u64]) {
        for (at, value) in values.iter().enumerate() {
            self.store(first + at, *value);
        }
    }

    /// For a word with one writer.
    fn add(&self, index: usize, more: u64) {
        if let Some(word) = self.get(index) {
            let value = word.load(Ordering::Relaxed);
            word.store(value.wrapping_add(more), Ordering::Relaxed);
        }
    }
}

/// Frames and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes, from the first of the Ethernet header, without the frame check sequence.
    pub bytes: u64,
}

/// All arrays, mapped.
pub struct Mapped {
    arrays: [Words; Array::ALL.len()],
    shape: Shape,
}

impl Mapped {
    /// Maps the arrays of the program, which `descriptor` gives.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn of_program<'a>(
        shape: Shape,
        mut descriptor: impl FnMut(Array) -> io::Result<BorrowedFd<'a>>,
    ) -> io::Result<Self> {
        Self::map(shape, |array, options| {
            let descriptor = descriptor(array)?;
            options.map_raw(descriptor.as_raw_fd())
        })
    }

    /// Pages of this process alone, all zero.
    ///
    /// # Errors
    /// No memory.
    pub fn of_process(shape: Shape) -> io::Result<Self> {
        Self::map(shape, |_, options| options.map_anon().map(MmapRaw::from))
    }

    fn map(
        shape: Shape,
        mut map: impl FnMut(Array, &MmapOptions) -> io::Result<MmapRaw>,
    ) -> io::Result<Self> {
        let mut arrays = Vec::with_capacity(Array::ALL.len());
        for array in Array::ALL {
            let len = array.words(&shape);
            let mut options = MmapOptions::new();
            options.len(len.next_multiple_of(PAGE_WORDS) * size_of::<u64>());
            arrays.push(Words {
                map: map(array, &options)?,
                len,
            });
        }
        let arrays = arrays
            .try_into()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self { arrays, shape })
    }

    /// How large the arrays are.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    fn words(&self, array: Array) -> &Words {
        &self.arrays[array as usize]
    }

    /// Bytes that the arrays take.
    pub fn bytes(&self) -> u64 {
        let words: usize = self.arrays.iter().map(|words| words.len).sum();
        words as u64 * 8
    }

    /// The root word.
    pub fn root(&self) -> u64 {
        self.words(Array::Root)
            .get(0)
            .map_or(0, |root| root.load(Ordering::Acquire))
    }

    /// Publishes what was written before.
    pub fn store_root(&self, word: u64) {
        if let Some(root) = self.words(Array::Root).get(0) {
            root.store(word, Ordering::Release);
        }
    }

    /// What the daemon before left to this one; zeros if there was none.
    pub fn note(&self) -> [u64; NOTE_WORDS] {
        let words = self.words(Array::Root);
        std::array::from_fn(|at| words.load(NOTE + at).unwrap_or_default())
    }

    /// Leaves a note to the daemon that comes after this one. The program does not read it.
    pub fn leave_note(&self, note: [u64; NOTE_WORDS]) {
        self.words(Array::Root).store_all(NOTE, &note);
    }

    /// Words of the slot array.
    pub fn slot_words(&self) -> u32 {
        self.shape.slot_words
    }

    /// A pool's descriptor, both banks in a row; 0 beyond the end.
    pub fn pool_word(&self, index: u32) -> u64 {
        self.words(Array::Pools)
            .load(index as usize)
            .unwrap_or_default()
    }

    /// Writes a bank's head and the key of its flow hash.
    pub fn write_head(&self, bank: u32, head: &Head, key: &HashKey) {
        let first = (1 + bank as usize) * HEAD_WORDS;
        let words = self.words(Array::Root);
        words.store_all(first, &head.to_words());
        words.store_all(first + KEY_AT, &key.0);
    }

    /// Writes an element of the VIP index, both banks in a row.
    pub fn write_vip(&self, index: u32, words: [u64; 4]) {
        self.words(Array::Vips)
            .store_all(index as usize * 4, &words);
    }

    /// Writes a pool's descriptor, both banks in a row.
    pub fn write_pool(&self, index: u32, word: u64) {
        self.words(Array::Pools).store(index as usize, word);
    }

    /// Writes words of the slot array from `region` on.
    pub fn write_slots(&self, region: u32, words: &[u64]) {
        self.words(Array::Slots).store_all(region as usize, words);
    }

    /// Writes a back end, both banks in a row.
    pub fn write_backend(&self, index: u32, word: u64) {
        self.words(Array::Backends).store(index as usize, word);
    }

    /// Writes an element of the access lists, both banks in a row.
    pub fn write_range(&self, index: u32, words: [u64; 2]) {
        self.words(Array::Ranges)
            .store_all(index as usize * 2, &words);
    }

    /// Empties a bank that nobody reads.
    pub fn clear_bank(&self, bank: u32) {
        self.write_head(bank, &Head::default(), &HashKey::default());
        for index in 0..VIP_SLOTS {
            self.write_vip(bank * VIP_SLOTS + index, [0; 4]);
        }
        for index in 0..POOLS_MAX {
            self.write_pool(bank * POOLS_MAX + index, 0);
        }
        for index in 0..BACKENDS_MAX {
            self.write_backend(bank * BACKENDS_MAX + index, 0);
        }
        for index in 0..RANGES_MAX {
            self.write_range(bank * RANGES_MAX + index, [0; 2]);
        }
    }

    /// Says that the worker of `queue` was alive at `ns` ([`now_ns`]); 0 that it has none.
    pub fn store_heartbeat(&self, queue: u32, ns: u64) {
        if let Some(word) = self.words(Array::Heartbeats).get(queue as usize) {
            word.store(ns, Ordering::Release);
        }
    }

    /// The last heartbeat of `queue`'s worker, nanoseconds; 0 without one.
    pub fn heartbeat(&self, queue: u32) -> u64 {
        self.words(Array::Heartbeats)
            .load(queue as usize)
            .unwrap_or_default()
    }

    /// How often `reason` was met, all CPUs and workers together.
    pub fn count(&self, reason: Reason) -> u64 {
        (0..self.shape.rows)
            .map(|row| self.count_in_row(row, reason))
            .fold(0, u64::wrapping_add)
    }

    /// How often the CPU or worker of this row met `reason`.
    pub fn count_in_row(&self, row: u32, reason: Reason) -> u64 {
        let at = row as usize * COUNTERS + reason as usize;
        self.words(Array::Counts).load(at).unwrap_or_default()
    }

    /// What a back end was sent, by all CPUs and workers.
    pub fn traffic(&self, id: BackendId) -> Traffic {
        let words = self.words(Array::Traffic);
        let mut sum = Traffic::default();
        for row in 0..self.shape.rows as usize {
            let element = row * BACKENDS_MAX as usize + usize::from(id);
            let [frames, bytes] = words.load_all(element).unwrap_or_default();
            sum.frames = sum.frames.wrapping_add(frames);
            sum.bytes = sum.bytes.wrapping_add(bytes);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pen_common::tables::{Mac, Memory};
    use std::sync::Arc;

    fn shape() -> Shape {
        Shape::new(4096, 2, 2)
    }

    #[test]
    fn what_is_written_is_read_in_its_place() {
        let mapped = Arc::new(Mapped::of_process(shape()).unwrap());
        let memory = MappedMemory::new(Arc::clone(&mapped), 1, false);
        let head = Head {
            mac: Mac(7),
            redirect_len_max: 1514,
            ..Head::default()
        };
        let key = HashKey::from_seed(3);
        mapped.write_head(1, &head, &key);
        mapped.write_vip(VIP_SLOTS + 3, [1, 2, 3, 4]);
        mapped.write_slots(510, &[8, 9]);
        mapped.store_root(5);
        assert_eq!(memory.root(), 5);
        assert_eq!(memory.head(1).map(Head::from_words), Some(head));
        assert_eq!(memory.key(1), Some(key.0));
        assert_eq!(memory.head(0), Some([0; HEAD_WORDS]));
        assert_eq!(memory.vip(VIP_SLOTS + 3), Some([1, 2, 3, 4]));
        assert_eq!((memory.slots(510), memory.slots(511)), (Some(8), Some(9)));
        mapped.clear_bank(1);
        assert_eq!(memory.vip(VIP_SLOTS + 3), Some([0; 4]));
        assert_eq!(memory.head(1), Some([0; HEAD_WORDS]));
    }

    #[test]
    fn nothing_is_beyond_the_end() {
        let mapped = Arc::new(Mapped::of_process(shape()).unwrap());
        let memory = MappedMemory::new(Arc::clone(&mapped), 0, false);
        assert_eq!(memory.slots(511), Some(0));
        assert_eq!(memory.slots(512), None);
        assert_eq!(memory.head(2), None);
        assert_eq!(memory.vip(u32::MAX), None);
        mapped.write_slots(511, &[1, 2]);
        assert_eq!(memory.slots(511), Some(1));
    }

    #[test]
    fn rows_add_up() {
        let mapped = Arc::new(Mapped::of_process(shape()).unwrap());
        for row in 0..3 {
            let memory = MappedMemory::new(Arc::clone(&mapped), row, false);
            memory.count(Reason::Forwarded);
            memory.count_traffic(9, 60);
        }
        assert_eq!(mapped.count(Reason::Forwarded), 3);
        assert_eq!(mapped.count_in_row(2, Reason::Forwarded), 1);
        assert_eq!(mapped.count(Reason::Loop), 0);
        let sent = Traffic {
            frames: 3,
            bytes: 180,
        };
        assert_eq!(mapped.traffic(9), sent);
    }
}
