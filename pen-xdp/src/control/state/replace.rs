//! Another configuration in place of the one before, while everything runs.
//!
//! Who stays by name stays in all: number, flows, what was said of it. What is new begins, what is
//! gone is forgotten when the change is in force.

use std::collections::{BTreeMap, BTreeSet};

use pen_common::{
    config::{Backend, Config, Pool},
    tables::BackendId,
};

use super::{Refusal, State, identities};
use crate::control::names;

/// Where another configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was written as it is: what commands said of servers before is over.
    Written,
    /// It is the one before with a change.
    Edited,
}

impl State {
    /// Goes by `config` from now on.
    ///
    /// # Errors
    /// It asks for something that can't change while Pen runs.
    pub(super) fn replace(&mut self, config: Config, origin: Origin) -> Result<bool, Refusal> {
        let fixed = self.config.fixed_against(&config);
        if !fixed.is_empty() {
            return Err(Refusal::Restart(fixed.join(", ")));
        }
        let before = std::mem::replace(&mut self.config, config);
        // What was heard last of a name is newer than what was asked for this configuration.
        let heard = std::mem::replace(&mut self.answers, names::at_load(&self.config));
        let stay = heard.0.into_iter();
        let stay = stay.filter(|(name, _)| self.answers.0.contains_key(name));
        let stay: Vec<_> = stay.collect();
        self.answers.0.extend(stay);
        let was_written = std::mem::replace(&mut self.written, self.config.pools.clone());
        if origin == Origin::Edited {
            self.written_stay(&was_written);
        }
        for pool in &mut self.config.pools {
            if let Some(was) = before.pool(&pool.name) {
                take_over(pool, was, origin);
            }
        }
        self.unused = names::follow(&mut self.config, &self.answers, &self.written);
        let known: BTreeSet<BackendId> = self.ids.values().copied().collect();
        self.ids = identities(&self.config, &self.ids);
        let stay = self.stay(&before);
        self.blacklisted_until_ms.retain(|id, _| stay.contains(id));
        self.drained.retain(|(pool, name), _| {
            let pool = self.config.pools.iter().find(|one| one.name == *pool);
            let mut backends = pool.iter().flat_map(|pool| &pool.backends);
            backends.any(|one| one.name == *name && one.weight == 0)
        });
        // What a file says of the start holds for those that start now.
        self.blacklist_from_config(|id| !known.contains(&id));
        Ok(self.config != before)
    }

    /// Who comes by a name begins as it was written, not as commands have it by now.
    fn written_stay(&mut self, was_written: &[Pool]) {
        for pool in &mut self.written {
            let was = was_written.iter().find(|was| was.name == pool.name);
            for backend in &mut pool.backends {
                let mut all = was.iter().flat_map(|was| &was.backends);
                let same = all.find(|was| was.name == backend.name && was.host == backend.host);
                if let Some(was) = same {
                    backend.clone_from(was);
                }
            }
        }
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

/// Names stand for what they stood for: addresses keep their back ends, numbers and flows, and are
/// not dealt out anew.
fn take_over(pool: &mut Pool, was: &Pool, origin: Origin) {
    let mut further = Vec::new();
    for (number, backend) in pool.backends.iter_mut().enumerate() {
        let mut all = was
            .backends
            .iter()
            .enumerate()
            .filter(|(_, b)| b.of.is_none());
        let same = all.find(|(_, was)| was.name == backend.name && was.host == backend.host);
        let Some((was_number, same)) = same.filter(|_| backend.host_name().is_some()) else {
            continue;
        };
        (backend.address, backend.gone) = (same.address, same.gone);
        let others = was.backends.iter().filter(|b| b.of == Some(was_number));
        further.extend(others.map(|other| Backend {
            of: Some(number),
            port: backend.port,
            ..match origin {
                Origin::Edited => other.clone(),
                Origin::Written => Backend {
                    name: other.name.clone(),
                    address: other.address,
                    gone: other.gone,
                    further: Vec::new(),
                    ..backend.clone()
                },
            }
        }));
    }
    pool.backends.append(&mut further);
}
