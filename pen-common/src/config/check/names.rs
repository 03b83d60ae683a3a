//! Whether an address that a host name stands for since a moment ago may be a back end's: what the
//! check of a whole configuration would refuse must not come in by a name server's answer.

use crate::config::address::{check_connectable, check_unicast};
use crate::config::{BACKENDS_MAX, BACKENDS_PER_POOL_MAX, Backend, Config, Mode, Pool};

impl Config {
    /// Gives each back end the first of its name's addresses that may be a back end's; where none
    /// may, the first one stays, for the check to say why. A name that gets another address while
    /// Pen runs passes over the others too.
    pub(crate) fn begin_with_admitted(&mut self) {
        for pool in 0..self.pools.len() {
            for at in 0..self.pools[pool].backends.len() {
                let backend = &self.pools[pool].backends[at];
                let mut all = [&[backend.address], backend.further.as_slice()].concat();
                let admitted = all.iter().position(|address| {
                    let new = Backend {
                        address: *address,
                        ..backend.clone()
                    };
                    self.admits(&self.pools[pool], &new, Some(at)).is_ok()
                });
                let Some(first @ 1..) = admitted else {
                    continue;
                };
                let backend = &mut self.pools[pool].backends[at];
                backend.address = all.remove(first);
                backend.further = all;
            }
        }
    }

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
                self.check_target(service, backend)?;
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::{Listener, Protocol, Service};

    fn addresses(lasts: &[u8]) -> Vec<IpAddr> {
        let all = lasts.iter();
        all.map(|last| IpAddr::from([10, 0, 0, *last])).collect()
    }

    #[test]
    fn a_name_begins_with_the_first_address_that_is_admitted() {
        let mut service = Service::new("web");
        service.listeners.push(Listener {
            address: addresses(&[1])[0],
            port: 80,
            protocol: Protocol::Tcp,
        });
        let mut pool = Pool::new("web");
        // The first is a VIP, the second another's.
        let names: [(&str, &[u8]); 4] = [
            ("a", &[1, 9, 3, 4]),
            ("b", &[5, 6]),
            ("c", &[1]),
            ("10.0.0.9", &[9]),
        ];
        pool.backends.extend(names.map(|(name, lasts)| Backend {
            name: name.to_owned(),
            host: name.to_owned(),
            further: addresses(&lasts[1..]),
            ..Backend::new(addresses(lasts)[0])
        }));
        let mut config = Config {
            services: vec![service],
            pools: vec![pool],
            ..Config::default()
        };
        config.begin_with_admitted();
        let backends = &config.pools[0].backends;
        let now: Vec<_> = backends.iter().map(|backend| backend.address).collect();
        assert_eq!(now, addresses(&[3, 5, 1, 9]));
        assert_eq!(backends[0].further, addresses(&[1, 9, 4]));
    }
}
