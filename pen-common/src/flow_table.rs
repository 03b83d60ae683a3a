//! The flow table: where each flow went, so that it stays there when its pool's slots change.
//!
//! One table for all queues, [`FLOW_WAYS`] entries in a set and one word an entry: tag 32 bits,
//! whether only a SYN was seen, back end, second of the flow clock 16 bits. Whoever steers a frame
//! reads and writes it, worker or program, without a lock: a word is old or new. Of two writers one
//! is forgotten, whose flow then follows the slots, as does one that was pushed out: a full set lets
//! go of what is longest unseen. So what the table adds can be lost, by a race or to a sender who
//! floods it with made-up flows, and what is lost is no more than what a change of the slots moved.
//!
//! A SYN begins a new flow, also for addresses and ports that are known: whoever can forge one can
//! move such a flow to where the slots say.

use crate::tables::{BACKENDS_MAX, BackendId, Memory};

/// Entries.
pub const FLOWS: u32 = 1 << 20;
/// Entries that one flow may stand in: a cache line.
pub const FLOW_WAYS: u32 = 8;
/// A flow without a beginning that can be seen (UDP) is a new one after this silence, seconds;
/// IPVS's default.
pub const FLOW_IDLE_S: u16 = 300;
/// For so long a SYN counts as the one before sent again, seconds: Linux gives up after 127, the
/// last of its pauses being 64 (net.ipv4.tcp_syn_retries).
const SYN_AGAIN_S: u16 = 64;
/// An entry's time is written again when it is this old, seconds: not for every frame.
const REFRESH_S: u16 = 4;
/// Somebody else's clock may be ahead of the one that was read before a pause, seconds.
const AHEAD_S: u16 = 60;
/// Set while nothing but a SYN was seen.
const SYN_ONLY: u64 = 1 << 31;
/// The word's bits for the back end, above the time.
const BACKEND_MASK: u64 = 0x7fff;

const _: () = assert!(FLOWS.is_power_of_two() && FLOW_WAYS.is_power_of_two());
const _: () = assert!(REFRESH_S * 2 < FLOW_IDLE_S && REFRESH_S < SYN_AGAIN_S);
const _: () = assert!((BACKENDS_MAX - 1) as u64 <= BACKEND_MASK);

/// What a frame tells of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowFrame {
    /// It opens a TCP connection, or is sent again because that was not answered.
    Syn,
    /// It belongs to a TCP connection, however long that was silent.
    Tcp,
    /// Of another protocol only the silence tells where a flow ends.
    Other,
}

/// One entry that is not empty, as the control side reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    /// Where the flow goes.
    pub backend: BackendId,
    /// Seconds since a frame of it was seen, up to 4 too many, modulo 18 hours.
    pub age_s: u16,
}

impl FlowEntry {
    /// From its word at this second of the flow clock; `None` if it is empty.
    pub const fn from_word(word: u64, now_s: u64) -> Option<Self> {
        match backend_of(word) {
            0 => None,
            backend => Some(Self {
                backend,
                age_s: age(word, now_s),
            }),
        }
    }
}

#[inline(always)]
const fn backend_of(word: u64) -> BackendId {
    (word >> 16 & BACKEND_MASK) as BackendId
}

#[inline(always)]
const fn age(word: u64, now_s: u64) -> u16 {
    let age = (now_s as u16).wrapping_sub(word as u16);
    if age > u16::MAX - AHEAD_S { 0 } else { age }
}

/// First entry of a flow's set. The slot is chosen by the hash's highest bits, the set by others.
#[inline(always)]
const fn set(hash: u64) -> u32 {
    ((hash >> 32) as u32).wrapping_mul(FLOW_WAYS) & (FLOWS - 1)
}

/// The back end that the flow with this hash went to, 0 if that is not known or if `frame`, at
/// `now_s` of the flow clock, does not go on with that flow.
#[inline(always)]
pub fn recall<M: Memory>(memory: &M, hash: u64, now_s: u64, frame: FlowFrame) -> BackendId {
    let first = set(hash);
    let mut way = 0;
    while way < FLOW_WAYS {
        let Some(word) = memory.flow(first + way) else {
            return 0;
        };
        if (word >> 32) as u32 == hash as u32 {
            let age = age(word, now_s);
            let (goes_on, kept) = match frame {
                FlowFrame::Syn => (word & SYN_ONLY != 0 && age <= SYN_AGAIN_S, word),
                FlowFrame::Tcp => (true, word & !SYN_ONLY),
                FlowFrame::Other => (age <= FLOW_IDLE_S, word),
            };
            if !goes_on {
                return 0;
            }
            if age >= REFRESH_S || kept != word {
                memory.set_flow(first + way, kept & !0xffff | now_s & 0xffff);
            }
            return backend_of(word);
        }
        way += 1;
    }
    0
}

/// Remembers where the flow with this hash goes, of which a frame was seen at `now_s` of the flow
/// clock; the entry of its set that is longest unseen gives way.
#[inline(always)]
pub fn record<M: Memory>(memory: &M, hash: u64, now_s: u64, seen: (BackendId, FlowFrame)) {
    let (backend, frame) = seen;
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
    let syn = match frame {
        FlowFrame::Syn => SYN_ONLY,
        FlowFrame::Tcp | FlowFrame::Other => 0,
    };
    let word = hash << 32 | syn | (u64::from(backend) & BACKEND_MASK) << 16 | now_s & 0xffff;
    memory.set_flow(best, word);
}
