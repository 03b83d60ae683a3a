//! What was heard of host names, and what becomes of pools by it.

use std::collections::BTreeSet;

use pen_common::{config::Pool, tables::BackendId};

use super::{State, identities};
use crate::control::names::{self, Answers, Unused};

impl State {
    pub(super) fn heard(&mut self, answers: Answers) -> bool {
        let before = self.answers.clone();
        self.answers.0.extend(answers.0);
        self.answers != before && self.follow()
    }

    /// Makes the back ends those that the names stand for; whether that changed any.
    pub(super) fn follow(&mut self) -> bool {
        let pools = self.config.pools.clone();
        let services = self.config.services.clone();
        self.unused = names::follow(&mut self.config, &self.answers, &self.written);
        let changed = self.config.pools != pools;
        if changed {
            self.ids = identities(&self.config, &self.ids);
            let known: BTreeSet<BackendId> = self.ids.values().copied().collect();
            let moved = self.moved_since(&pools);
            self.blacklisted_until_ms
                .retain(|id, _| known.contains(id) && !moved.contains(id));
        }
        changed || self.config.services != services
    }

    /// Back ends that have their number still, but are at another address than in `pools`: what was
    /// said of the machine before does not hold for this one.
    pub(super) fn moved_since(&self, pools: &[Pool]) -> BTreeSet<BackendId> {
        let both = self.config.pools.iter().zip(pools);
        let moved = both.flat_map(|(pool, was)| {
            let both = pool.backends.iter().zip(&was.backends);
            let moved = both.filter(|(now, was)| now.address != was.address);
            moved.map(|(now, _)| self.id(&pool.name, &now.name))
        });
        moved.collect()
    }

    /// What the host names were last heard to stand for.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Addresses of host names that are not made use of, and why.
    pub fn unused(&self) -> &Unused {
        &self.unused
    }
}
