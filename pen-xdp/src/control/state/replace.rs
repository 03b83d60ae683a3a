//! Another configuration in place of the one before, while everything runs.
//!
//! Who stays by name stays in all: number, flows, what was said of it. What is new begins, what is
//! gone is forgotten when the change is in force.

use std::collections::{BTreeMap, BTreeSet};

use pen_common::{config::Config, tables::BackendId};

use super::{Refusal, State, identities};
use crate::control::names;

impl State {
    /// Goes by `config` from now on.
    ///
    /// # Errors
    /// It asks for something that can't change while Pen runs.
    pub(super) fn replace(&mut self, config: Config) -> Result<bool, Refusal> {
        let fixed = self.config.fixed_against(&config);
        if !fixed.is_empty() {
            return Err(Refusal::Restart(fixed.join(", ")));
        }
        let before = std::mem::replace(&mut self.config, config);
        // What was heard last of a name is newer than what was asked for this configuration.
        let heard = std::mem::replace(&mut self.answers, names::at_load(&self.config));
        let stay = heard
            .0
            .into_iter()
            .filter(|(name, _)| self.answers.0.contains_key(name));
        let stay: Vec<_> = stay.collect();
        self.answers.0.extend(stay);
        self.written.clone_from(&self.config.pools);
        self.unused = names::follow(&mut self.config, &self.answers, &self.written);
        let known: BTreeSet<BackendId> = self.ids.values().copied().collect();
        self.ids = identities(&self.config, &self.ids);
        let stay = self.stay(&before);
        self.blacklisted_until_ms.retain(|id, _| stay.contains(id));
        // What a file says of the start holds for those that start now.
        self.blacklist_from_config(|id| !known.contains(&id));
        Ok(self.config != before)
    }

    /// The numbers of back ends that are where they were `before`.
    fn stay(&self, before: &Config) -> BTreeSet<BackendId> {
        let was = before.pools.iter().flat_map(|pool| {
            let backends = pool.backends.iter();
            backends.map(move |b| ((&pool.name, &b.name), (b.address, b.port)))
        });
        let was: BTreeMap<_, _> = was.collect();
        let now = self.config.pools.iter().flat_map(|pool| {
            let backends = pool.backends.iter();
            backends.map(move |backend| (pool, backend))
        });
        let stays = now.filter(|(pool, backend)| {
            let place = (backend.address, backend.port);
            was.get(&(&pool.name, &backend.name)) == Some(&place)
        });
        stays
            .map(|(pool, backend)| self.id(&pool.name, &backend.name))
            .collect()
    }

    /// Forgets where those were whom nobody asks for any more: nobody would notice that they moved.
    pub fn forget_unasked(&mut self) {
        let asked = names::addresses(&self.config);
        self.neighbors.retain(|address, _| asked.contains(address));
        self.lost.retain(|address, _| asked.contains(address));
    }
}
