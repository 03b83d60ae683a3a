//! Maglev's table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4): every slot names a back end, shares follow the weights,
//! and a change of one back end moves few slots of the others.
//!
//! Each back end walks the slots in an order of its own, drawn from its name and the seed, and
//! takes the next free one when its turn comes. The `k`-th turn of a back end comes at time
//! `k / weight`, so the order of any two back ends' turns depends on these two alone: removing a
//! third does not disturb it.

extern crate alloc;

use alloc::{
    collections::{BTreeMap, BinaryHeap},
    vec,
    vec::Vec,
};
use core::cmp::Reverse;

use crate::{
    hash::NameKey,
    tables::{BackendId, SLOTS_PER_WORD},
};

/// Slots of a pool that does not say: prime, and enough for 655 back ends of equal weight to
/// within one percent.
pub const SIZE_DEFAULT: u32 = 65_537;
/// Fewest slots.
pub const SIZE_MIN: u32 = 251;
/// Most slots: what one pool descriptor can say is 2^24 - 1.
pub const SIZE_MAX: u32 = 5_000_011;

/// One back end's part in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member<'a> {
    /// What its slots will say.
    pub id: BackendId,
    /// Its identity: the same name gets the same slots on every machine.
    pub name: &'a str,
    /// Its share; 0 for none.
    pub weight: u32,
}

/// Builds a table of `size` slots. All slots say 0 if no member has a weight.
///
/// The result does not depend on the order of `members`. `size` must be prime, or a walk would
/// not visit every slot.
pub fn build(members: &[Member<'_>], size: u32, key: NameKey) -> Vec<BackendId> {
    let mut slots = vec![0; size as usize];
    let mut walks: Vec<Walk<'_>> = members
        .iter()
        .filter(|m| m.weight > 0)
        .map(|m| Walk::new(m, size, key))
        .collect();
    walks.sort_by(|a, b| a.name.cmp(b.name));
    let Some(first) = walks.first() else {
        return slots;
    };
    if walks.iter().all(|walk| walk.stride == first.stride) {
        fill_equal(&mut slots, &mut walks);
    } else {
        fill_weighted(&mut slots, &mut walks);
    }
    slots
}

/// How many slots each back end holds.
pub fn shares(slots: &[BackendId]) -> BTreeMap<BackendId, usize> {
    let mut shares = BTreeMap::new();
    for id in slots {
        *shares.entry(*id).or_default() += 1;
    }
    shares
}

/// The table as it stands in the slot array, [`SLOTS_PER_WORD`] to a word.
pub fn pack(slots: &[BackendId]) -> Vec<u64> {
    slots
        .chunks(SLOTS_PER_WORD as usize)
        .map(|four| {
            four.iter()
                .rev()
                .fold(0, |word, id| word << 16 | u64::from(*id))
        })
        .collect()
}

/// Whether a table can have this many slots.
pub fn is_prime(size: u32) -> bool {
    let divisors = (2..).take_while(|d: &u32| d.saturating_mul(*d) <= size);
    size > 1 && divisors.into_iter().all(|d| !size.is_multiple_of(d))
}

/// Turns in plain rounds: what [`fill_weighted`] does when all weights are the same.
fn fill_equal(slots: &mut [BackendId], walks: &mut [Walk<'_>]) {
    let mut free = slots.len();
    loop {
        for walk in &mut *walks {
            if free == 0 {
                return;
            }
            walk.take(slots);
            free -= 1;
        }
    }
}

fn fill_weighted(slots: &mut [BackendId], walks: &mut [Walk<'_>]) {
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> = walks
        .iter()
        .enumerate()
        .map(|(index, walk)| Reverse((walk.stride, index)))
        .collect();
    for _ in 0..slots.len() {
        let Some(mut turn) = turns.peek_mut() else {
            return;
        };
        let Reverse((time, index)) = *turn;
        if let Some(walk) = walks.get_mut(index) {
            walk.take(slots);
            *turn = Reverse((time + walk.stride, index));
        }
    }
}

/// One back end on its way through the slots.
struct Walk<'a> {
    name: &'a str,
    id: BackendId,
    /// Time between two turns: 2^40 over the weight. A table has less than 2^23 slots, so times
    /// fit 63 bits.
    stride: u64,
    position: u32,
    skip: u32,
    size: u32,
}

const TIME: u64 = 1 << 40;
const _: () = assert!(SIZE_MAX < 1 << 23);

impl<'a> Walk<'a> {
    fn new(member: &Member<'a>, size: u32, key: NameKey) -> Self {
        let hash = key.hash_bytes(member.name.as_bytes());
        let (high, low) = ((hash >> 32) as u32, hash as u32);
        Self {
            name: member.name,
            id: member.id,
            stride: TIME / u64::from(member.weight.max(1)),
            position: high % size,
            skip: low % (size - 1) + 1,
            size,
        }
    }

    /// Takes the next free slot; the caller knows that there is one.
    fn take(&mut self, slots: &mut [BackendId]) {
        for _ in 0..self.size {
            let at = self.position as usize;
            self.position += self.skip;
            if self.position >= self.size {
                self.position -= self.size;
            }
            if let Some(slot) = slots.get_mut(at).filter(|slot| **slot == 0) {
                *slot = self.id;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: NameKey = NameKey { k0: 1, k1: 2 };

    fn table(names: &[String], weights: &dyn Fn(usize) -> u32, size: u32) -> Vec<BackendId> {
        let members: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, name)| Member {
                id: i as BackendId + 1,
                name,
                weight: weights(i),
            })
            .collect();
        build(&members, size, KEY)
    }

    fn names(count: usize) -> Vec<String> {
        (0..count)
            .map(|i| format!("10.0.{}.{}", i / 250, i % 250 + 1))
            .collect()
    }

    /// Largest deviation allowed: one percent of the share, or two slots.
    fn assert_shares(slots: &[BackendId], weights: &dyn Fn(usize) -> u32, count: usize) {
        let total: u64 = (0..count).map(|i| u64::from(weights(i))).sum();
        let shares = shares(slots);
        for i in 0..count {
            let want = slots.len() as f64 * f64::from(weights(i)) / total as f64;
            let got = *shares.get(&(i as BackendId + 1)).unwrap_or(&0) as f64;
            assert!(
                (got - want).abs() <= (want / 100.0).max(2.0),
                "{i}: {got}, not {want}"
            );
        }
        assert!(!shares.contains_key(&0));
    }

    #[test]
    fn shares_follow_the_weights() {
        let same = |_: usize| 7;
        let mixed = |i: usize| [1, 2, 3, 5][i % 4];
        let steep = |i: usize| if i == 0 { 60 } else { 1 };
        for count in [1, 2, 3, 10, 100, 217] {
            let names = names(count);
            for weights in [&same as &dyn Fn(usize) -> u32, &mixed, &steep] {
                assert_shares(&table(&names, weights, SIZE_DEFAULT), weights, count);
            }
        }
        assert_shares(&table(&names(655), &same, SIZE_DEFAULT), &same, 655);
        assert_shares(&table(&names(4096), &same, 409_609), &same, 4096);
    }

    /// Share of the survivors' slots that move when `gone` is removed.
    fn moved(names: &[String], weights: &dyn Fn(usize) -> u32, gone: usize) -> f64 {
        let before = table(names, weights, SIZE_DEFAULT);
        let after = table(
            names,
            &|i| if i == gone { 0 } else { weights(i) },
            SIZE_DEFAULT,
        );
        let gone = gone as BackendId + 1;
        let others = before.iter().zip(&after).filter(|(was, _)| **was != gone);
        let moves = others.clone().filter(|(was, is)| was != is).count();
        moves as f64 / others.count() as f64
    }

    #[test]
    fn removing_one_moves_less_than_a_percent_of_the_others() {
        for count in [2, 3, 5, 10, 33, 100, 333, 655] {
            let names = names(count);
            for gone in [0, count / 2, count - 1] {
                let share = moved(&names, &|_| 1, gone);
                assert!(share < 0.01, "{count} back ends without {gone}: {share}");
            }
        }
    }

    #[test]
    fn order_does_not_matter() {
        let names = names(20);
        let members: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, name)| Member {
                id: i as BackendId + 1,
                name,
                weight: i as u32 % 3 + 1,
            })
            .collect();
        let mut turned = members.clone();
        turned.reverse();
        assert_eq!(build(&members, 1009, KEY), build(&turned, 1009, KEY));
    }

    #[test]
    fn nobody_with_a_weight_leaves_every_slot_free() {
        let member = Member {
            id: 1,
            name: "a",
            weight: 0,
        };
        assert_eq!(build(&[member], 251, KEY), vec![0; 251]);
        assert_eq!(build(&[], 251, KEY), vec![0; 251]);
    }

    #[test]
    fn the_table_is_the_same_in_every_version() {
        let names = names(3);
        let slots = table(&names, &|i| i as u32 + 1, 251);
        let sum = slots
            .iter()
            .fold(0u64, |sum, id| sum.wrapping_mul(31) + u64::from(*id));
        assert_eq!(
            slots.get(..12),
            Some(&[2, 3, 3, 2, 3, 1, 2, 3, 2, 1, 3, 2][..])
        );
        assert_eq!(sum, 6_013_666_763_305_115_744);
    }

    #[test]
    fn primes() {
        let primes: Vec<u32> = (0..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(SIZE_DEFAULT) && is_prime(SIZE_MIN) && is_prime(SIZE_MAX));
    }

    #[test]
    fn packing_keeps_slot_order() {
        assert_eq!(pack(&[1, 2, 3, 4, 5]), [0x0004_0003_0002_0001, 5]);
    }
}
