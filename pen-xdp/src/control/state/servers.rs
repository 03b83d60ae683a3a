//! Changes of servers: numbers that hold from the next client or flow on.

use pen_common::config::{Change, ServerRef};

use super::{BLACKLIST_S_MAX, Refusal, State};

impl State {
    pub(super) fn change_server(
        &mut self,
        service: Option<&str>,
        server: &ServerRef,
        changes: &[Change],
    ) -> Result<bool, Refusal> {
        let (pool, index) = self
            .config
            .locate(service, server)
            .map_err(Refusal::NotFound)?;
        for change in changes {
            refuse_what_is_fixed(change)?;
        }
        self.refuse_what_means_nothing(pool, changes)?;
        let pool = &mut self.config.pools[pool];
        let backend = &mut pool.backends[index];
        let id = self
            .ids
            .get(&(pool.name.clone(), backend.name.clone()))
            .copied();
        let before = (backend.weight, self.blacklisted_until_ms.clone());
        for change in changes {
            match *change {
                Change::Weight(weight) => backend.weight = weight,
                Change::Max(max) => backend.max = max,
                Change::Hard(hard) => backend.hard = hard,
                Change::Prio(prio) => backend.prio = prio,
                Change::Blacklist(0) => {
                    self.blacklisted_until_ms.remove(&id.unwrap_or_default());
                }
                Change::Blacklist(seconds) => {
                    let until = self.now_ms + u64::from(seconds) * 1000;
                    self.blacklisted_until_ms
                        .insert(id.unwrap_or_default(), until);
                }
                Change::Acl(acl) => backend.acl = acl,
                Change::Address(_) | Change::Port(_) => {}
            }
        }
        Ok(before.0 != backend.weight || before.1 != self.blacklisted_until_ms)
    }

    /// As many new clients as before come back when it is over.
    pub(super) fn drain(
        &mut self,
        service: Option<&str>,
        server: &ServerRef,
        on: bool,
    ) -> Result<bool, Refusal> {
        let found = self.config.locate(service, server);
        let (pool, index) = found.map_err(Refusal::NotFound)?;
        let pool = &mut self.config.pools[pool];
        let backend = &mut pool.backends[index];
        let name = (pool.name.clone(), backend.name.clone());
        let before = backend.weight;
        if on {
            if before > 0 {
                self.drained.insert(name, before);
            }
            backend.weight = 0;
        } else if before == 0 {
            backend.weight = self.drained.remove(&name).unwrap_or(1);
        }
        Ok(before != backend.weight)
    }
}

fn refuse_what_is_fixed(change: &Change) -> Result<(), Refusal> {
    match *change {
        Change::Blacklist(seconds) if seconds > BLACKLIST_S_MAX => Err(Refusal::Blacklist(seconds)),
        Change::Address(_) => Err(Refusal::Fixed("address")),
        Change::Port(_) => Err(Refusal::Fixed("port")),
        Change::Weight(_)
        | Change::Max(_)
        | Change::Hard(_)
        | Change::Prio(_)
        | Change::Acl(_)
        | Change::Blacklist(_) => Ok(()),
    }
}
