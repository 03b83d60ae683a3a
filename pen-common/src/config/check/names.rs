//! Whether an address that a host name stands for since a moment ago may be a back end's: what the
//! check of a whole configuration would refuse must not come in by a name server's answer.

use super::proxy::check_target;
use crate::config::address::{check_connectable, check_unicast};
use crate::config::{BACKENDS_MAX, BACKENDS_PER_POOL_MAX, Backend, Config, Mode, Pool};

impl Config {
    /// Whether `backend` may serve `pool` beside those back ends that are there; the one at
    /// `instead` is taken for gone.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub fn admits(
        &self,
        pool: &Pool,
        backend: &Backend,
        instead: Option<usize>,
    ) -> Result<(), String> {
        let in_dsr = self.needs_table(pool);
        self.admits_spare(&pool.name, backend)?;
        let total: usize = self.pools.iter().map(|pool| pool.backends.len()).sum();
        if instead.is_none()
            && (pool.backends.len() >= BACKENDS_PER_POOL_MAX || total >= BACKENDS_MAX)
        {
            return Err("there are too many back ends already".to_owned());
        }
        let others = pool.backends.iter().enumerate();
        for (_, other) in others.filter(|(at, other)| Some(*at) != instead && !other.gone) {
            let same = other.path().is_none() && other.address == backend.address;
            if same && (in_dsr || other.port == backend.port) {
                return Err(format!("back end {:?} has it", other.name));
            }
            if other.name == backend.name {
                return Err(format!("another back end is named {:?}", other.name));
            }
        }
        Ok(())
    }

    /// Whether a server of no number may be at this address, one for emergencies of `service`'s
    /// pool for instance.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub fn admits_spare(&self, pool: &str, backend: &Backend) -> Result<(), String> {
        let address = backend.address;
        check_connectable(address)?;
        for service in self.services.iter().filter(|service| service.pool == pool) {
            if service.mode != Mode::Dsr {
                check_target(service, backend)?;
                continue;
            }
            check_unicast(address)?;
        }
        let pool = self.pool(pool);
        let in_dsr = pool.is_some_and(|pool| self.needs_table(pool));
        let mut vips = self.dsr_services().flat_map(|service| &service.listeners);
        match in_dsr && vips.any(|listener| listener.address == address) {
            true => Err("it is a VIP".to_owned()),
            false => Ok(()),
        }
    }
}
