//! Another configuration in place of the one before, while everything runs.
//!
//! Who stays by name stays in all: number, flows, what was said of it. What is new begins, what is
//! gone is forgotten when the change is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

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
        let pools = self.config.pools.iter();
        let apart: Vec<bool> = pools.map(|pool| !self.config.needs_table(pool)).collect();
        for (pool, by_port) in self.config.pools.iter_mut().zip(apart) {
            if let Some(was) = before.pool(&pool.name) {
                take_over(pool, was, (origin, by_port));
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

    /// Forgets what was observed on an interface before this one.
    pub fn forget_interface(&mut self) {
        self.neighbors.clear();
        self.lost.clear();
        self.carrier = true;
    }

    /// Forgets where those were whom nobody asks for any more: nobody would notice that they moved.
    pub fn forget_unasked(&mut self) {
        let asked = names::addresses(&self.config);
        self.neighbors.retain(|address, _| asked.contains(address));
        self.lost.retain(|address, _| asked.contains(address));
    }
}

/// Names stand for what they stood for: addresses keep their back ends, numbers and flows, and are
/// not dealt out anew. What the check has put elsewhere, as two would have one place, stays there;
/// `by_port` says whether places at one address differ by their ports.
fn take_over(pool: &mut Pool, was: &Pool, (origin, by_port): (Origin, bool)) {
    let place = |one: &Backend| (one.address, if by_port { one.port } else { 0 });
    let fixed = pool.backends.iter().filter(|one| one.host_name().is_none());
    let mut taken: BTreeSet<(IpAddr, u16)> = fixed.map(place).collect();
    let mut further = Vec::new();
    for (number, backend) in pool.backends.iter_mut().enumerate() {
        let mut all = was.backends.iter().enumerate();
        let same = all.find(|(_, was)| {
            was.of.is_none() && was.name == backend.name && was.host == backend.host
        });
        if let Some((was_number, same)) = same.filter(|_| backend.host_name().is_some()) {
            let checked = (backend.address, backend.gone);
            (backend.address, backend.gone) = (same.address, same.gone);
            if taken.contains(&place(backend)) {
                (backend.address, backend.gone) = checked;
            }
            let others = was.backends.iter().filter(|b| b.of == Some(was_number));
            further.extend(others.map(|other| match origin {
                Origin::Edited => Backend {
                    of: Some(number),
                    port: backend.port,
                    ..other.clone()
                },
                Origin::Written => Backend {
                    name: other.name.clone(),
                    address: other.address,
                    gone: other.gone,
                    of: Some(number),
                    further: Vec::new(),
                    ..backend.clone()
                },
            }));
        }
        taken.insert(place(backend));
    }
    further.retain(|one| taken.insert(place(one)));
    pool.backends.append(&mut further);
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, path::Path};

    use pen_common::config::{Change, Edit, LookedUp, Outside, ServerRef};

    use super::*;
    use crate::control::{names::Answers, state::Command};

    /// A world where the one name stands for two addresses, the lower one first.
    struct World;

    impl Outside for World {
        fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, String> {
            Ok(vec![LOW.into(), HIGH.into()])
        }

        fn read(&self, _: &Path) -> Result<String, String> {
            Err("there are no files".to_owned())
        }
    }

    const LOW: [u8; 4] = [10, 1, 0, 2];
    const HIGH: [u8; 4] = [10, 1, 0, 5];

    fn written(weight: u16, more: &str) -> Config {
        let text = format!(
            "[[service]]\nname = \"web\"\nmode = \"tcp\"\nlisten = \"80\"\n[[pool]]\nname = \"web\"\n\
             backend = [{{ address = \"web1\", port = 80, weight = {weight} }}{more}]\n"
        );
        let read = Config::from_toml(&text, "t", &World);
        read.unwrap().into_parts().0
    }

    /// Everybody: number in the tables, name, address, weight, whether it is gone.
    fn all(state: &State) -> Vec<(BackendId, String, IpAddr, u16, bool)> {
        let backends = state.config.pools[0].backends.iter();
        let all = backends.map(|one| {
            let id = state.id("web", &one.name);
            (id, one.name.clone(), one.address, one.weight, one.gone)
        });
        all.collect()
    }

    fn edit(state: &mut State, edit: &Edit) {
        let found = LookedUp::ask(edit, &World);
        let config = state.config().edited(None, edit, &found).unwrap();
        state.apply(Command::Edit(Box::new(config))).unwrap();
    }

    /// web1 was the higher address at first, and the lower one came later.
    fn heard() -> State {
        let mut state = State::new(written(1, ""), 1);
        let answer = |all: &[[u8; 4]]| {
            let all = all.iter().map(|ip| IpAddr::from(*ip)).collect();
            Command::Names(Answers([("web1".to_owned(), all)].into()))
        };
        state.apply(answer(&[HIGH])).unwrap();
        state.apply(answer(&[LOW, HIGH])).unwrap();
        state
    }

    #[test]
    fn what_names_stand_for_keeps_its_numbers_over_another_configuration() {
        let mut state = heard();
        let before = all(&state);
        assert_eq!(before.len(), 2, "{before:?}");
        edit(&mut state, &Edit::Add("10.0.0.9:80".to_owned(), Vec::new()));
        let with_more = all(&state);
        assert_eq!(with_more.len(), 3, "{with_more:?}");
        for one in &before {
            assert!(with_more.contains(one), "{one:?} is not in {with_more:?}");
        }
        // The file as it is: the added one leaves, the others stay what they were.
        state
            .apply(Command::Replace(Box::new(written(1, ""))))
            .unwrap();
        assert_eq!(all(&state), before);
    }

    #[test]
    fn what_commands_said_of_servers_outlives_a_change_and_not_the_file() {
        let mut state = heard();
        let further = state.config.pools[0].backends[1].name.clone();
        let drain = Command::Drain {
            service: None,
            server: ServerRef::Name(further.clone()),
            on: true,
        };
        state.apply(drain).unwrap();
        let weights = |state: &State| all(state).iter().map(|one| one.3).collect::<Vec<_>>();
        assert_eq!(weights(&state), [1, 0]);
        edit(
            &mut state,
            &Edit::Add("10.0.0.9:80".to_owned(), vec![Change::Weight(4)]),
        );
        let after = all(&state);
        let drained = after.iter().find(|one| one.1 == further).unwrap();
        assert_eq!(drained.3, 0, "{after:?}");
        state
            .apply(Command::Replace(Box::new(written(3, ""))))
            .unwrap();
        assert_eq!(weights(&state), [3, 3]);
        let undrain = Command::Drain {
            service: None,
            server: ServerRef::Name(further),
            on: false,
        };
        state.apply(undrain).unwrap();
        assert_eq!(weights(&state), [3, 3], "the weight before is forgotten");
    }

    #[test]
    fn a_refused_configuration_leaves_what_was_heard() {
        let mut state = heard();
        let before = state.clone();
        let other = written(1, ", { address = \"web2\", port = 80 }");
        // It can't be published: web2 has the same addresses, so it is taken back.
        if state.apply(Command::Replace(Box::new(other))).is_ok() {
            state.take_back(&before);
        }
        assert_eq!(all(&state), all(&before));
        assert_eq!(state.answers(), before.answers());
    }
}
