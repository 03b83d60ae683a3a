//! The flow table as the control side sees it, and whose flows they are.

use pen_common::{
    flow_table::FlowEntry,
    tables::{BACKENDS_MAX, BackendId, FLOW_CLOCK_AT},
};

use super::{Array, Mapped};

impl Mapped {
    /// Whose number this is: a hash of the back end's name; 0 if it was never anybody's. Stands
    /// behind the two banks of MAC addresses and is not read by `steer`.
    pub fn identity(&self, id: BackendId) -> u64 {
        let at = 2 * BACKENDS_MAX as usize + usize::from(id);
        self.words(Array::Backends).load(at).unwrap_or_default()
    }

    /// Says whose number this is.
    pub fn write_identity(&self, id: BackendId, name: u64) {
        self.write_backend(2 * BACKENDS_MAX + u32::from(id), name);
    }

    /// The second by which flows age.
    pub fn flow_clock(&self) -> u64 {
        self.words(Array::Root)
            .load(FLOW_CLOCK_AT)
            .unwrap_or_default()
    }

    /// Sets the second by which flows age.
    pub fn set_flow_clock(&self, seconds: u64) {
        self.words(Array::Root).store(FLOW_CLOCK_AT, seconds);
    }

    /// The flows that are remembered.
    pub fn flows(&self) -> impl Iterator<Item = FlowEntry> {
        let now_s = self.flow_clock();
        let words = self.words(Array::Flows);
        (0..words.len).filter_map(move |at| FlowEntry::from_word(words.load(at)?, now_s))
    }

    /// Takes over the flows of a memory before this one, how old they are, and whose.
    pub fn take_flows_from(&self, before: &Self) {
        self.set_flow_clock(before.flow_clock());
        let (to, from) = (self.words(Array::Flows), before.words(Array::Flows));
        for at in 0..to.len {
            to.store(at, from.load(at).unwrap_or_default());
        }
        for id in 0..BACKENDS_MAX as BackendId {
            self.write_identity(id, before.identity(id));
        }
    }

    /// Forgets the flows of some back ends.
    pub fn forget_flows(&self, of: impl Fn(BackendId) -> bool) {
        let words = self.words(Array::Flows);
        for at in 0..words.len {
            let entry = FlowEntry::from_word(words.load(at).unwrap_or_default(), 0);
            if entry.is_some_and(|entry| of(entry.backend)) {
                words.store(at, 0);
            }
        }
    }
}
