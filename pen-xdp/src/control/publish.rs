//! From a [`Snapshot`] to the memory that workers and program read.
//!
//! The idle bank is written, then one store of the root word makes it the live one. Slots stand
//! in one array that both banks share: a changed pool gets a new region of it, an unchanged pool
//! keeps its own, and a region is free again once nobody can still be reading it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use pen_common::{
    config::Rows,
    maglev,
    ranges::{self, RANGES_MAX},
    tables::{
        BACKENDS_MAX, BackendEntry, BackendId, Mac, POOLS_MAX, PoolEntry, SLOTS_PER_WORD,
        VIP_SLOTS, VipEntry,
    },
};

use super::snapshot::{PoolTable, Snapshot};
use crate::mapped::Mapped;

/// The slot array can't take what is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the tables need {needed} bytes more than the {total} that were set aside; \
     raise table_memory and restart"
)]
pub struct TableMemoryFull {
    /// Bytes that are missing in one piece.
    needed: u64,
    /// Bytes set aside.
    total: u64,
}

/// Writes snapshots. Between two of them its caller waits until nobody reads the first one's
/// predecessor any more (see [`super::grace`]).
pub struct Publisher {
    memory: Arc<Mapped>,
    bank: u32,
    generation: u64,
    regions: Regions,
    /// What the daemon before had in force; out of use from the first publication on.
    adopted: BTreeMap<u32, u32>,
    live: BTreeMap<String, Placed>,
    /// `None` for a bank that this process has not written yet.
    written: [Option<Written>; 2],
}

/// Where one pool's table stands.
#[derive(Clone)]
struct Placed {
    slots: Arc<Vec<BackendId>>,
    entry: PoolEntry,
}

/// What a bank holds, so that only differences are written.
#[derive(Default)]
struct Written {
    index: BTreeMap<u32, VipEntry>,
    pools: usize,
    acls: Rows,
    backends: BTreeMap<BackendId, BackendEntry>,
}

impl Publisher {
    /// Takes over `memory`, empty or left by a daemon before. What stands in it stays in force
    /// until the first publication, and its regions stay untouched until the second.
    pub fn new(memory: Arc<Mapped>) -> Self {
        let root = memory.root();
        let bank = (root & 1) as u32;
        let mut regions = Regions::new(memory.slot_words());
        for pool in 0..POOLS_MAX {
            let entry = PoolEntry::from_word(memory.pool_word(bank * POOLS_MAX + pool));
            if entry.size > 0 {
                regions.hold(entry.region, words(entry.size));
            }
        }
        let adopted = regions.used.clone();
        Self {
            memory,
            bank,
            generation: root >> 1,
            regions,
            adopted,
            live: BTreeMap::new(),
            written: [None, None],
        }
    }

    /// The generation in force; 0 before the first publication ever.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes `snapshot` the one in force, and its generation with it.
    ///
    /// # Errors
    /// When the slot array is full: nothing has changed then.
    pub fn publish(&mut self, snapshot: &Snapshot) -> Result<(), TableMemoryFull> {
        let retired = std::mem::take(&mut self.regions.retired);
        for (at, words) in retired {
            self.regions.release(at, words);
        }
        let placed = self.place(&snapshot.pools)?;
        let bank = 1 - self.bank;
        self.write_bank(bank, snapshot, &placed);
        let renamed = self.renamed(&snapshot.identities);
        self.forget(&renamed);
        self.memory
            .store_root(snapshot.generation << 1 | u64::from(bank));
        self.bank = bank;
        self.generation = snapshot.generation;
        // Again, because the program went on until here.
        self.forget(&renamed);
        for (id, name) in &snapshot.identities {
            self.memory.write_identity(*id, *name);
        }
        self.regions.retired.append(&mut self.adopted);
        let before = std::mem::replace(&mut self.live, placed);
        for (name, old) in before {
            let kept = self
                .live
                .get(&name)
                .is_some_and(|new| new.entry == old.entry);
            if !kept {
                self.regions
                    .retired
                    .insert(old.entry.region, words(old.entry.size));
            }
        }
        Ok(())
    }

    /// Numbers that were somebody else's, before a restart with other back ends.
    fn renamed(&self, identities: &BTreeMap<BackendId, u64>) -> BTreeSet<BackendId> {
        let was_others = |(id, name): &(&BackendId, &u64)| {
            let was = self.memory.identity(**id);
            was != 0 && was != **name
        };
        let renamed = identities.iter().filter(was_others);
        renamed.map(|(id, _)| *id).collect()
    }

    /// Such a number must not bring the other one's flows along. What a reader of the bank before
    /// may yet write of them stays within its pool: `steer` follows no flow into another.
    fn forget(&self, renamed: &BTreeSet<BackendId>) {
        if !renamed.is_empty() {
            self.memory.forget_flows(|id| renamed.contains(&id));
        }
    }

    /// A back end's changed MAC address takes effect at once: one word, in both banks. Only for a
    /// back end that the snapshot in force has.
    pub fn replace_mac(&mut self, id: BackendId, mac: Mac) {
        for bank in 0..2 {
            let written = self.written[bank as usize].as_mut();
            if let Some(was) = written.and_then(|written| written.backends.get_mut(&id)) {
                was.mac = mac;
                self.memory
                    .write_backend(bank * BACKENDS_MAX + u32::from(id), was.to_word());
            }
        }
    }

    /// Finds each pool its region, and writes the tables that are new.
    fn place(&mut self, pools: &[PoolTable]) -> Result<BTreeMap<String, Placed>, TableMemoryFull> {
        let mut placed = BTreeMap::new();
        let mut fresh = Vec::new();
        for pool in pools {
            let same = self.live.get(&pool.name);
            if let Some(same) = same.filter(|live| Arc::ptr_eq(&live.slots, &pool.slots)) {
                placed.insert(pool.name.clone(), same.clone());
                continue;
            }
            let size = pool.slots.len() as u32;
            let Some(region) = self.regions.take(words(size)) else {
                for (at, words) in fresh {
                    self.regions.release(at, words);
                }
                return Err(TableMemoryFull {
                    needed: u64::from(words(size)) * 8,
                    total: u64::from(self.memory.slot_words()) * 8,
                });
            };
            fresh.push((region, words(size)));
            let generation = same.map_or(0, |same| same.entry.generation.wrapping_add(1));
            self.memory.write_slots(region, &maglev::pack(&pool.slots));
            let entry = PoolEntry {
                region,
                size,
                generation,
            };
            placed.insert(
                pool.name.clone(),
                Placed {
                    slots: Arc::clone(&pool.slots),
                    entry,
                },
            );
        }
        Ok(placed)
    }

    fn write_bank(&mut self, bank: u32, snapshot: &Snapshot, placed: &BTreeMap<String, Placed>) {
        let memory = &self.memory;
        let written = self.written[bank as usize].take().unwrap_or_else(|| {
            memory.clear_bank(bank);
            Written::default()
        });
        memory.write_head(bank, &snapshot.head, &snapshot.key);
        let base = bank * VIP_SLOTS;
        for at in written
            .index
            .keys()
            .filter(|at| !snapshot.index.contains_key(at))
        {
            memory.write_vip(base + at, [0; 4]);
        }
        for (at, entry) in &snapshot.index {
            if written.index.get(at) != Some(entry) {
                memory.write_vip(base + at, entry.to_words());
            }
        }
        for (number, pool) in snapshot.pools.iter().enumerate() {
            let word = placed
                .get(&pool.name)
                .map_or(0, |placed| placed.entry.to_word());
            memory.write_pool(bank * POOLS_MAX + number as u32, word);
        }
        for number in snapshot.pools.len()..written.pools {
            memory.write_pool(bank * POOLS_MAX + number as u32, 0);
        }
        if written.acls != snapshot.acls {
            write_acls(memory, bank, &snapshot.acls);
        }
        let base = bank * BACKENDS_MAX;
        for id in written
            .backends
            .keys()
            .filter(|id| !snapshot.backends.contains_key(id))
        {
            memory.write_backend(base + u32::from(*id), 0);
        }
        for (id, backend) in &snapshot.backends {
            if written.backends.get(id) != Some(backend) {
                memory.write_backend(base + u32::from(*id), backend.to_word());
            }
        }
        self.written[bank as usize] = Some(Written {
            index: snapshot.index.clone(),
            pools: snapshot.pools.len(),
            acls: snapshot.acls.clone(),
            backends: snapshot.backends.clone(),
        });
    }
}

/// Writes the access lists of a bank that nobody reads. What stood behind them stays: no list's
/// place leads there.
fn write_acls(memory: &Mapped, bank: u32, rows: &Rows) {
    let rows = rows.iter().map(|(number, row)| (*number, row.as_slice()));
    // That they fit is what compiling a snapshot has found out.
    let elements = ranges::pack(rows).unwrap_or_default();
    for (index, words) in (bank * RANGES_MAX..).zip(elements) {
        memory.write_range(index, words);
    }
}

const fn words(slots: u32) -> u32 {
    slots.div_ceil(SLOTS_PER_WORD)
}

/// Which words of the slot array are in use: start -> length.
struct Regions {
    total: u32,
    used: BTreeMap<u32, u32>,
    /// Out of use since the last publication; free at the next one.
    retired: BTreeMap<u32, u32>,
}

impl Regions {
    fn new(total: u32) -> Self {
        Self {
            total,
            used: BTreeMap::new(),
            retired: BTreeMap::new(),
        }
    }

    fn hold(&mut self, at: u32, words: u32) {
        self.used.insert(at, words);
    }

    fn release(&mut self, at: u32, words: u32) {
        debug_assert_eq!(self.used.get(&at), Some(&words));
        self.used.remove(&at);
    }

    /// First gap that is long enough.
    fn take(&mut self, words: u32) -> Option<u32> {
        let mut at = 0;
        for (start, len) in &self.used {
            if start - at >= words {
                break;
            }
            at = start + len;
        }
        if self.total - at < words {
            return None;
        }
        self.used.insert(at, words);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::state::{
            Command, State,
            tests::{change, config},
        },
        mapped::{MappedMemory, Shape},
    };
    use pen_common::{
        config::{Change, TABLE_SIZE_DEFAULT},
        flow_table::{FlowFrame, record},
        tables::{Memory, Tables},
    };
    use std::net::IpAddr;

    const TABLE_BYTES: u64 = TABLE_SIZE_DEFAULT as u64 * 2 + 8;

    fn observed(count: u8) -> State {
        let mut state = State::new(config(count), 0);
        for i in 1..=count {
            let address = IpAddr::from([10, 0, 0, i]);
            state
                .apply(Command::Neighbor {
                    address,
                    mac: Some(Mac(u64::from(i))),
                })
                .unwrap();
        }
        state
    }

    fn mapped(bytes: u64) -> Arc<Mapped> {
        Arc::new(Mapped::of_process(Shape::new(bytes, 1, 1)).unwrap())
    }

    /// Back ends that any hash is steered to, as the data plane reads it.
    fn holders(memory: &Arc<Mapped>) -> BTreeMap<BackendId, Option<Mac>> {
        let memory = MappedMemory::new(Arc::clone(memory), 0, false);
        let tables = Tables::read(&memory).unwrap();
        (0..=u64::MAX)
            .step_by(1 << 46)
            .filter_map(|hash| tables.slot(0, hash))
            .map(|id| (id, tables.backend(id).map(|backend| backend.mac)))
            .collect()
    }

    #[test]
    fn what_is_published_is_what_the_data_plane_reads() {
        let memory = mapped(2 * TABLE_BYTES);
        let mut publisher = Publisher::new(Arc::clone(&memory));
        let mut state = observed(3);
        let mut snapshot = Snapshot::compile(&state, None).unwrap();
        publisher.publish(&snapshot).unwrap();
        assert_eq!(holders(&memory).len(), 3);
        // Room for two tables: each change takes the one that the change before gave up.
        for round in 0..20 {
            state.apply(change(round % 3, Change::Weight(0))).unwrap();
            snapshot = Snapshot::compile(&state, Some(&snapshot)).unwrap();
            publisher.publish(&snapshot).unwrap();
            assert_eq!(holders(&memory).len(), 2, "round {round}");
            state.apply(change(round % 3, Change::Weight(1))).unwrap();
            snapshot = Snapshot::compile(&state, Some(&snapshot)).unwrap();
            publisher.publish(&snapshot).unwrap();
            assert_eq!(publisher.generation(), snapshot.generation);
        }
    }

    #[test]
    fn access_lists_are_those_of_the_bank_in_force() {
        let memory = mapped(2 * TABLE_BYTES);
        let mut publisher = Publisher::new(Arc::clone(&memory));
        let mut snapshot = Snapshot::compile(&observed(1), None).unwrap();
        let reader = MappedMemory::new(Arc::clone(&memory), 0, false);
        let passes = |number, host| {
            let tables = Tables::read(&reader).unwrap();
            tables.admits(number, IpAddr::from([10, 0, 0, host]).into())
        };
        let row = |hosts: &[u8]| -> Vec<_> {
            let hosts = hosts.iter();
            hosts
                .map(|host| IpAddr::from([10, 0, 0, *host]).into())
                .collect()
        };
        // Longer and shorter than what stood in the bank before.
        for (round, hosts) in [&[2, 4][..], &[1, 2, 6, 9, 12, 13], &[5], &[], &[3, 4]]
            .iter()
            .enumerate()
        {
            snapshot.generation += 1;
            snapshot.acls = Rows::from([(2, row(hosts)), (7, row(&[100, 101]))]);
            publisher.publish(&snapshot).unwrap();
            for host in 0..20 {
                let ends = hosts.iter().filter(|end| **end <= host).count();
                assert_eq!(passes(2, host), ends % 2 == 1, "round {round}: {host}");
                assert!(passes(0, host) && !passes(7, host) && passes(7, 100));
            }
        }
        snapshot.generation += 1;
        snapshot.acls.clear();
        publisher.publish(&snapshot).unwrap();
        assert!(!passes(7, 100) && !passes(2, 3));
    }

    #[test]
    fn a_full_slot_array_refuses_and_changes_nothing() {
        let memory = mapped(TABLE_BYTES);
        let mut publisher = Publisher::new(Arc::clone(&memory));
        let mut state = observed(3);
        let first = Snapshot::compile(&state, None).unwrap();
        publisher.publish(&first).unwrap();
        let before = (memory.root(), holders(&memory));
        state.apply(change(0, Change::Weight(0))).unwrap();
        let second = Snapshot::compile(&state, Some(&first)).unwrap();
        let refused = publisher.publish(&second).unwrap_err();
        assert!(
            refused.to_string().contains("raise table_memory"),
            "{refused}"
        );
        assert_eq!((memory.root(), holders(&memory)), before);
        publisher.publish(&first).unwrap();
    }

    #[test]
    fn a_new_publisher_goes_on_where_the_old_one_was() {
        let memory = mapped(2 * TABLE_BYTES);
        let mut snapshot = Snapshot::compile(&observed(3), None).unwrap();
        snapshot.generation = 8;
        Publisher::new(Arc::clone(&memory))
            .publish(&snapshot)
            .unwrap();
        let mut publisher = Publisher::new(Arc::clone(&memory));
        assert_eq!(publisher.generation(), 8);
        let mut fewer = Snapshot::compile(&observed(1), None).unwrap();
        for generation in 9..13 {
            fewer.generation = generation;
            publisher.publish(&fewer).unwrap();
            assert_eq!(holders(&memory).len(), 1);
        }
    }

    #[test]
    fn what_was_adopted_stays_whole_until_nobody_reads_it() {
        let memory = mapped(2 * TABLE_BYTES);
        let before = Snapshot::compile(&observed(3), None).unwrap();
        Publisher::new(Arc::clone(&memory))
            .publish(&before)
            .unwrap();
        // What a reader sees that began before the publication: root, pool and slots of then.
        let region = PoolEntry::from_word(memory.pool_word((memory.root() & 1) as u32 * POOLS_MAX));
        let reader = MappedMemory::new(Arc::clone(&memory), 0, false);
        let slots = || -> Vec<_> {
            (region.region..region.region + words(region.size))
                .map(|at| reader.slots(at))
                .collect()
        };
        let seen = slots();
        let mut publisher = Publisher::new(Arc::clone(&memory));
        let mut changed = Snapshot::compile(&observed(1), None).unwrap();
        changed.generation = 2;
        publisher.publish(&changed).unwrap();
        assert_eq!(holders(&memory).len(), 1);
        assert!(slots() == seen, "the adopted tables were written over");
        // The caller has waited: now their place may be taken.
        let mut again = Snapshot::compile(&observed(2), None).unwrap();
        again.generation = 3;
        publisher.publish(&again).unwrap();
        assert_eq!(holders(&memory).len(), 2);
        assert!(slots() != seen);
    }

    #[test]
    fn a_number_that_was_somebody_elses_does_not_bring_his_flows() {
        let memory = mapped(4 * TABLE_BYTES);
        let before = Snapshot::compile(&observed(3), None).unwrap();
        Publisher::new(Arc::clone(&memory))
            .publish(&before)
            .unwrap();
        let table = MappedMemory::new(Arc::clone(&memory), 0, false);
        let ids: Vec<BackendId> = before.identities.keys().copied().collect();
        for (hash, id) in (1..).zip(&ids) {
            record(&table, hash, 0, (*id, FlowFrame::Tcp));
        }
        let held = || -> BTreeSet<BackendId> { memory.flows().map(|flow| flow.backend).collect() };
        assert_eq!(held(), ids.iter().copied().collect());
        // The next daemon has the same back ends, but one whose name gets another's number.
        let mut after = before.clone();
        after.generation += 1;
        *after.identities.get_mut(&ids[1]).unwrap() = 77;
        after.identities.remove(&ids[2]);
        Publisher::new(Arc::clone(&memory)).publish(&after).unwrap();
        assert_eq!(held(), BTreeSet::from([ids[0], ids[2]]));
        // The third is gone, and comes back as itself.
        after.identities.insert(ids[2], before.identities[&ids[2]]);
        after.generation += 1;
        Publisher::new(Arc::clone(&memory)).publish(&after).unwrap();
        assert_eq!(held(), BTreeSet::from([ids[0], ids[2]]));
        let fresh = mapped(4 * TABLE_BYTES);
        fresh.take_flows_from(&memory);
        assert_eq!(fresh.flows().count(), 2);
        assert_eq!(fresh.identity(ids[1]), 77);
    }

    #[test]
    fn tables_that_do_not_fit_beside_the_adopted_ones_are_refused() {
        let memory = mapped(TABLE_BYTES);
        let before = Snapshot::compile(&observed(3), None).unwrap();
        Publisher::new(Arc::clone(&memory))
            .publish(&before)
            .unwrap();
        let in_force = (memory.root(), holders(&memory));
        let mut changed = Snapshot::compile(&observed(1), None).unwrap();
        changed.generation = 2;
        let mut publisher = Publisher::new(Arc::clone(&memory));
        publisher.publish(&changed).unwrap_err();
        assert_eq!((memory.root(), holders(&memory)), in_force);
    }

    #[test]
    fn a_changed_mac_is_seen_at_once_and_stays() {
        let memory = mapped(2 * TABLE_BYTES);
        let mut publisher = Publisher::new(Arc::clone(&memory));
        let state = observed(1);
        let id = state.id("web", "10.0.0.1");
        let snapshot = Snapshot::compile(&state, None).unwrap();
        publisher.publish(&snapshot).unwrap();
        publisher.replace_mac(id, Mac(99));
        assert_eq!(holders(&memory), BTreeMap::from([(id, Some(Mac(99)))]));
    }
}
