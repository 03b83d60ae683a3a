//! The flow table: where each flow went, so that it stays there when its pool's slots change.
//!
//! One table for all queues, [`FLOW_WAYS`] entries in a set and one word an entry: tag 32 bits,
//! back end 16 bits, second of the flow clock 16 bits. Whoever steers a frame reads and writes it,
//! worker or program, without a lock: a word is old or new, and of two writers one is forgotten,
//! whose flow is written again by its next frame. A flow that finds no entry, because its set was
//! full of later ones, follows the slots.

use crate::tables::{BackendId, Memory};

/// Entries.
pub const FLOWS: u32 = 1 << 20;
/// Entries that one flow may stand in: a cache line.
pub const FLOW_WAYS: u32 = 8;
/// A flow without a beginning that can be seen (UDP) is a new one after this silence, seconds;
/// IPVS's default.
pub const FLOW_IDLE_S: u16 = 300;
/// An entry's time is written again when it is this old, seconds: not for every frame.
const REFRESH_S: u16 = 4;

const _: () = assert!(FLOWS.is_power_of_two() && FLOW_WAYS.is_power_of_two());
const _: () = assert!(REFRESH_S * 2 < FLOW_IDLE_S);

/// One entry that is not empty, as the control side reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    /// Where the flow goes.
    pub backend: BackendId,
    /// Seconds since a frame of it was seen, up to [`REFRESH_S`] too many, modulo 18 hours.
    pub age_s: u16,
}

impl FlowEntry {
    /// From its word at this second of the flow clock; `None` if it is empty.
    pub const fn from_word(word: u64, now_s: u64) -> Option<Self> {
        match (word >> 16) as BackendId {
            0 => None,
            backend => Some(Self {
                backend,
                age_s: age(word, now_s),
            }),
        }
    }
}

#[inline(always)]
const fn age(word: u64, now_s: u64) -> u16 {
    (now_s as u16).wrapping_sub(word as u16)
}

/// First entry of a flow's set. The slot is chosen by the hash's highest bits, the set by others.
#[inline(always)]
const fn set(hash: u64) -> u32 {
    ((hash >> 32) as u32).wrapping_mul(FLOW_WAYS) & (FLOWS - 1)
}

/// The back end that the flow with this hash went to; 0 if that is not known, or was longer than
/// `idle_s` seconds before `now_s` of the flow clock.
#[inline(always)]
pub fn recall<M: Memory>(memory: &M, hash: u64, now_s: u64, idle_s: u16) -> BackendId {
    let first = set(hash);
    let mut way = 0;
    while way < FLOW_WAYS {
        let Some(word) = memory.flow(first + way) else {
            return 0;
        };
        if (word >> 32) as u32 == hash as u32 {
            let age = age(word, now_s);
            if age > idle_s {
                return 0;
            }
            if age >= REFRESH_S {
                memory.set_flow(first + way, word & !0xffff | now_s & 0xffff);
            }
            return (word >> 16) as BackendId;
        }
        way += 1;
    }
    0
}

/// Remembers where the flow with this hash goes at `now_s` of the flow clock; the entry of its set that is longest unseen gives
/// way.
#[inline(always)]
pub fn record<M: Memory>(memory: &M, hash: u64, now_s: u64, backend: BackendId) {
    let first = set(hash);
    let mut best = first;
    let mut oldest = 0;
    let mut way = 0;
    while way < FLOW_WAYS {
        let Some(word) = memory.flow(first + way) else {
            return;
        };
        if word == 0 || (word >> 32) as u32 == hash as u32 {
            best = first + way;
            break;
        }
        let age = age(word, now_s);
        if age >= oldest {
            best = first + way;
            oldest = age;
        }
        way += 1;
    }
    let word = hash << 32 | u64::from(backend) << 16 | now_s & 0xffff;
    memory.set_flow(best, word);
}
