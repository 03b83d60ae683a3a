//! The fragment table: whom the later fragments of a datagram go to, because they carry no ports.
//!
//! [`FRAGMENT_WAYS`] entries in a set and one word an entry: tag 32 bits, owner 16 bits (0 is the
//! kernel), time 16 bits in quarter seconds. It is read and written like the flow table.

use crate::{
    flow::{Address, Flow},
    tables::{BackendId, Memory, Tables},
};

/// Elements of the fragment table.
pub const FRAGMENTS: u32 = 32_768;
/// Elements that one fragment may stand in.
pub const FRAGMENT_WAYS: u32 = 4;
/// How long a fragment entry is good, milliseconds. Linux reassembles for 30 s
/// (net.ipv4.ipfrag_time); nothing later can complete a datagram.
pub const FRAGMENT_MS_MAX: u64 = 30_000;
/// A quarter of a second.
const TICK_MS: u64 = 250;

const _: () = assert!(FRAGMENTS.is_power_of_two() && FRAGMENT_WAYS.is_power_of_two());

/// Identity of a datagram in fragments (RFC 791, section 3.2; RFC 8200, section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentKey {
    /// Sender.
    pub source: Address,
    /// VIP.
    pub destination: Address,
    /// Protocol; in IPv6 the fragment header's next header, which may differ between fragments
    /// and is left out (0) for that reason.
    pub protocol: u8,
    /// Identification.
    pub id: u32,
}

impl FragmentKey {
    /// Set of the table and tag within it.
    #[inline(always)]
    fn place<M: Memory>(&self, tables: &Tables<'_, M>) -> Option<(u32, u32)> {
        let flow = Flow {
            source: self.source,
            destination: self.destination,
            source_port: (self.id >> 16) as u16,
            destination_port: self.id as u16,
            protocol: self.protocol,
        };
        let hash = tables.hash(&flow)?;
        let set = (hash >> 32) as u32;
        Some((
            set.wrapping_mul(FRAGMENT_WAYS) & (FRAGMENTS - 1),
            hash as u32,
        ))
    }
}

/// Whom the later fragments of a datagram go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FragmentOwner {
    /// A back end.
    Backend(BackendId),
    /// The kernel: a listener of this host takes the port.
    Kernel,
}

impl<M: Memory> Tables<'_, M> {
    /// Who got the first fragment of this datagram.
    #[inline(always)]
    pub fn fragment(&self, key: &FragmentKey) -> Option<FragmentOwner> {
        let (set, tag) = key.place(self)?;
        let now = self.memory.now_ms();
        let mut way = 0;
        while way < FRAGMENT_WAYS {
            let entry = self.memory.fragment(set + way)?;
            if (entry >> 32) as u32 == tag && entry as u32 != 0 && !expired(entry, now) {
                return Some(match (entry >> 16) as BackendId {
                    0 => FragmentOwner::Kernel,
                    id => FragmentOwner::Backend(id),
                });
            }
            way += 1;
        }
        None
    }

    /// Remembers who gets a datagram's fragments; the oldest entry of the set gives way.
    #[inline(always)]
    pub fn remember(&self, key: &FragmentKey, owner: FragmentOwner) {
        let Some((set, tag)) = key.place(self) else {
            return;
        };
        let now = self.memory.now_ms();
        let owner = match owner {
            FragmentOwner::Backend(id) => u64::from(id),
            FragmentOwner::Kernel => 0,
        };
        let mut best = set;
        let mut best_age = 0;
        let mut way = 0;
        while way < FRAGMENT_WAYS {
            let Some(entry) = self.memory.fragment(set + way) else {
                return;
            };
            if entry == 0 || (entry >> 32) as u32 == tag {
                best = set + way;
                break;
            }
            let age = age_ticks(entry, now);
            if age >= best_age {
                best = set + way;
                best_age = age;
            }
            way += 1;
        }
        // An empty entry is all zero, so tick 0 is written as the one before it: 250 ms too old.
        let tick = match (now / TICK_MS) & 0xffff {
            0 => 0xffff,
            tick => tick,
        };
        self.memory
            .set_fragment(best, (u64::from(tag) << 32) | (owner << 16) | tick);
    }
}

#[inline(always)]
const fn age_ticks(entry: u64, now: u64) -> u64 {
    ((now / TICK_MS) & 0xffff).wrapping_sub(entry & 0xffff) & 0xffff
}

#[inline(always)]
const fn expired(entry: u64, now: u64) -> bool {
    age_ticks(entry, now) > FRAGMENT_MS_MAX / TICK_MS
}
