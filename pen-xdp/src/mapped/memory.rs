//! The memory as one worker sees it.

use std::sync::Arc;

use pen_common::{
    tables::{BACKENDS_MAX, BackendId, HEAD_WORDS, KEY_AT, Memory},
    verdict::{COUNTERS, Reason},
};

use super::{Array, Mapped, now_ns};
use crate::plane::Counting;

/// The memory as one worker sees it.
#[derive(Clone)]
pub struct MappedMemory {
    mapped: Arc<Mapped>,
    row: u32,
    finish: bool,
}

impl MappedMemory {
    /// Counts in `row`, which must be this worker's own; `finish` says whether checksums left to
    /// hardware are finished here.
    pub fn new(mapped: Arc<Mapped>, row: u32, finish: bool) -> Self {
        Self {
            mapped,
            row,
            finish,
        }
    }

    /// The arrays.
    pub fn mapped(&self) -> &Arc<Mapped> {
        &self.mapped
    }

    /// Counts a frame's fate.
    pub fn count(&self, reason: Reason) {
        self.count_many(reason, 1);
    }

    /// Counts `frames` frames of the same fate.
    pub fn count_many(&self, reason: Reason, frames: u64) {
        let at = self.row as usize * COUNTERS + reason as usize;
        self.mapped.words(Array::Counts).add(at, frames);
    }

    /// Counts a frame of `bytes` bytes for a back end.
    pub fn count_traffic(&self, id: BackendId, bytes: usize) {
        let element = self.row as usize * BACKENDS_MAX as usize + usize::from(id);
        let words = self.mapped.words(Array::Traffic);
        words.add(element * 2, 1);
        words.add(element * 2 + 1, bytes as u64);
    }
}

impl Counting for MappedMemory {
    #[inline]
    fn count(&self, reason: Reason) {
        self.count_many(reason, 1);
    }

    #[inline]
    fn traffic(&self, backend: BackendId, bytes: u64) {
        self.count_traffic(backend, bytes as usize);
    }

    #[inline]
    fn heartbeat(&self, queue: u32, now_ns: u64) {
        self.mapped.store_heartbeat(queue, now_ns);
    }
}

impl Memory for MappedMemory {
    #[inline]
    fn root(&self) -> u64 {
        self.mapped.root()
    }

    #[inline]
    fn head(&self, bank: u32) -> Option<[u64; HEAD_WORDS]> {
        let first = (1 + bank as usize) * HEAD_WORDS;
        self.mapped.words(Array::Root).load_from(first)
    }

    #[inline]
    fn vip(&self, index: u32) -> Option<[u64; 4]> {
        self.mapped.words(Array::Vips).load_all(index as usize)
    }

    #[inline]
    fn pool(&self, index: u32) -> Option<u64> {
        self.mapped.words(Array::Pools).load(index as usize)
    }

    #[inline]
    fn slots(&self, index: u32) -> Option<u64> {
        self.mapped.words(Array::Slots).load(index as usize)
    }

    #[inline]
    fn backend(&self, index: u32) -> Option<u64> {
        self.mapped.words(Array::Backends).load(index as usize)
    }

    #[inline]
    fn range(&self, index: u32) -> Option<[u64; 2]> {
        self.mapped.words(Array::Ranges).load_all(index as usize)
    }

    #[inline]
    fn fragment(&self, index: u32) -> Option<u64> {
        self.mapped.words(Array::Fragments).load(index as usize)
    }

    #[inline]
    fn set_fragment(&self, index: u32, entry: u64) {
        self.mapped
            .words(Array::Fragments)
            .store(index as usize, entry);
    }

    #[inline]
    fn key<const N: usize>(&self, bank: u32) -> Option<[u64; N]> {
        let first = (1 + bank as usize) * HEAD_WORDS + KEY_AT;
        self.mapped.words(Array::Root).load_from(first)
    }

    #[inline]
    fn flow(&self, index: u32) -> Option<u64> {
        self.mapped.words(Array::Flows).load(index as usize)
    }

    #[inline]
    fn set_flow(&self, index: u32, entry: u64) {
        self.mapped.words(Array::Flows).store(index as usize, entry);
    }

    #[inline]
    fn flow_clock(&self) -> u64 {
        self.mapped.flow_clock()
    }

    #[inline]
    fn now_ms(&self) -> u64 {
        now_ns() / 1_000_000
    }

    #[inline]
    fn finish_checksums(&self) -> bool {
        self.finish
    }

    #[inline]
    fn note(&self, reason: Reason) {
        self.count(reason);
    }
}
