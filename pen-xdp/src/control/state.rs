//! Desired configuration and what was observed of the world: the only inputs of the data plane.
//!
//! Nothing here does I/O. [`State::apply`] is the one entry for every change, whatever its source.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use pen_common::{
    config::{Config, WEIGHT_MAX},
    flow::HashKey,
    tables::{BACKENDS_MAX, BackendId, Mac},
};

/// Longest time that a back end can be blacklisted for, seconds: a year.
pub const BLACKLIST_S_MAX: u64 = 365 * 24 * 3600;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `server N weight W`: the share of new flows.
    Weight {
        /// Which one.
        server: Server,
        /// 0 takes no new flows.
        weight: u32,
    },
    /// `server N blacklist T`: no flows for so many seconds; 0 readmits.
    Blacklist {
        /// Which one.
        server: Server,
        /// Seconds from now.
        seconds: u64,
    },
    /// The kernel's neighbour table has, or no longer has, a MAC address.
    Neighbor {
        /// The back end's address.
        address: IpAddr,
        /// `None` when it is not to be reached.
        mac: Option<Mac>,
    },
    /// The addresses that the kernel has, on all interfaces.
    LocalAddresses(BTreeSet<IpAddr>),
    /// The interface's own MAC address, and the longest frame that a socket takes whole.
    Interface {
        /// The interface's MAC.
        mac: Mac,
        /// Bytes.
        redirect_len_max: u32,
    },
    /// Time went on, to this many milliseconds of the monotonic clock.
    Clock(u64),
}

/// A back end as Pen's commands name it: by its place in a pool, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Pool by name.
    pub pool: String,
    /// Place in it.
    pub index: usize,
}

/// Why a command was refused. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such back end.
    #[error("pool \"{pool}\" has no server {index}; it has servers 0 to {last}")]
    NoServer {
        /// Pool that was named.
        pool: String,
        /// Place that was named.
        index: usize,
        /// The last place that there is.
        last: usize,
    },
    /// No such pool.
    #[error("there is no pool \"{0}\"; `penctl SOCKET status` lists them")]
    NoPool(String),
    /// A weight beyond what the table takes.
    #[error("weight {0} is out of range; give 0 to {WEIGHT_MAX}")]
    Weight(u32),
    /// A time that makes no sense.
    #[error("blacklist {0} is out of range; give 0 to {BLACKLIST_S_MAX} seconds")]
    Blacklist(u64),
}

/// Why a back end gets no flows, or that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It takes flows.
    Serving,
    /// Its weight is 0.
    NoWeight,
    /// Its MAC address is not known.
    NoMac,
    /// Blacklisted for so many seconds more.
    Blacklisted(u64),
}

/// Everything that the data plane is compiled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    config: Config,
    ids: BTreeMap<(String, String), BackendId>,
    neighbors: HashMap<IpAddr, Mac>,
    local: BTreeSet<IpAddr>,
    mac: Mac,
    redirect_len_max: u32,
    blacklisted_until_ms: BTreeMap<BackendId, u64>,
    now_ms: u64,
}

impl State {
    /// A state in which nothing was observed yet, at `now_ms` of the monotonic clock.
    pub fn new(config: Config, now_ms: u64) -> Self {
        let ids = identities(&config);
        let mut state = Self {
            config,
            ids,
            neighbors: HashMap::new(),
            local: BTreeSet::new(),
            mac: Mac::default(),
            redirect_len_max: 0,
            blacklisted_until_ms: BTreeMap::new(),
            now_ms,
        };
        state.blacklist_from_config();
        state
    }

    /// Pen's files may exclude a server for some seconds from the start.
    fn blacklist_from_config(&mut self) {
        for pool in &self.config.pools {
            for backend in pool.backends.iter().filter(|backend| backend.blacklist > 0) {
                let until = self.now_ms + u64::from(backend.blacklist) * 1000;
                if let Some(id) = self.ids.get(&(pool.name.clone(), backend.name.clone())) {
                    self.blacklisted_until_ms.insert(*id, until);
                }
            }
        }
    }

    /// Applies one change; whether anything the data plane sees may be different now.
    ///
    /// # Errors
    /// Refused whole: nothing has changed.
    pub fn apply(&mut self, command: Command) -> Result<bool, Refusal> {
        match command {
            Command::Weight { server, weight } => self.set_weight(&server, weight),
            Command::Blacklist { server, seconds } => self.blacklist(&server, seconds),
            Command::Neighbor { address, mac } => Ok(match mac {
                Some(mac) => self.neighbors.insert(address, mac) != Some(mac),
                None => self.neighbors.remove(&address).is_some(),
            }),
            Command::LocalAddresses(local) => {
                let changed = self.local != local;
                self.local = local;
                Ok(changed)
            }
            Command::Interface {
                mac,
                redirect_len_max,
            } => {
                let changed = (self.mac, self.redirect_len_max) != (mac, redirect_len_max);
                (self.mac, self.redirect_len_max) = (mac, redirect_len_max);
                Ok(changed)
            }
            Command::Clock(now_ms) => {
                self.now_ms = now_ms;
                let before = self.blacklisted_until_ms.len();
                self.blacklisted_until_ms.retain(|_, until| *until > now_ms);
                Ok(self.blacklisted_until_ms.len() != before)
            }
        }
    }

    fn set_weight(&mut self, server: &Server, weight: u32) -> Result<bool, Refusal> {
        let weight = u16::try_from(weight).map_err(|_| Refusal::Weight(weight))?;
        let backend = find(&mut self.config, server)?;
        let changed = backend.weight != weight;
        backend.weight = weight;
        Ok(changed)
    }

    fn blacklist(&mut self, server: &Server, seconds: u64) -> Result<bool, Refusal> {
        if seconds > BLACKLIST_S_MAX {
            return Err(Refusal::Blacklist(seconds));
        }
        let name = find(&mut self.config, server)?.name.clone();
        let id = self.id(&server.pool, &name);
        Ok(if seconds == 0 {
            self.blacklisted_until_ms.remove(&id).is_some()
        } else {
            self.blacklisted_until_ms
                .insert(id, self.now_ms + seconds * 1000)
                .is_none()
        })
    }

    /// What was asked for, with every change since.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The number that a back end has in the tables.
    pub fn id(&self, pool: &str, backend: &str) -> BackendId {
        self.ids
            .get(&(pool.to_owned(), backend.to_owned()))
            .copied()
            .unwrap_or_default()
    }

    /// The MAC address behind an address.
    pub fn mac_of(&self, address: IpAddr) -> Option<Mac> {
        self.neighbors.get(&address).copied()
    }

    /// Whether the kernel of this host has the address.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains(&address)
    }

    /// The interface's own MAC address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Longest frame that the program hands to a socket, bytes.
    pub fn redirect_len_max(&self) -> u32 {
        self.redirect_len_max
    }

    /// Key of the flow hash.
    pub fn key(&self) -> HashKey {
        HashKey::from_seed(self.config.seed)
    }

    /// Whether a back end takes flows, and if not, why.
    pub fn standing(&self, pool: &str, backend: &pen_common::config::Backend) -> Standing {
        let until = self.blacklisted_until_ms.get(&self.id(pool, &backend.name));
        match (until, backend.weight, self.mac_of(backend.address)) {
            (Some(until), _, _) => {
                Standing::Blacklisted(until.saturating_sub(self.now_ms).div_ceil(1000))
            }
            (None, 0, _) => Standing::NoWeight,
            (None, _, None) => Standing::NoMac,
            (None, _, Some(_)) => Standing::Serving,
        }
    }
}

fn find<'a>(
    config: &'a mut Config,
    server: &Server,
) -> Result<&'a mut pen_common::config::Backend, Refusal> {
    let pool = config
        .pools
        .iter_mut()
        .find(|pool| pool.name == server.pool)
        .ok_or_else(|| Refusal::NoPool(server.pool.clone()))?;
    let last = pool.backends.len().saturating_sub(1);
    pool.backends
        .get_mut(server.index)
        .ok_or_else(|| Refusal::NoServer {
            pool: server.pool.clone(),
            index: server.index,
            last,
        })
}

/// Numbers drawn from the names, so that a restarted daemon, or one with some other back ends,
/// gives the same numbers to the same names as far as they don't collide.
fn identities(config: &Config) -> BTreeMap<(String, String), BackendId> {
    let key = HashKey::from_seed(0);
    let mut names: Vec<(String, String)> = config
        .pools
        .iter()
        .flat_map(|pool| {
            pool.backends
                .iter()
                .map(|b| (pool.name.clone(), b.name.clone()))
        })
        .collect();
    names.sort();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeMap::new();
    let places = u64::from(BACKENDS_MAX - 1);
    for name in names {
        let hash = key.hash_bytes(format!("{}\n{}", name.0, name.1).as_bytes());
        let free = (0..places)
            .map(|step| ((hash % places + step) % places + 1) as BackendId)
            .find(|id| taken.insert(*id));
        // The configuration's check holds the number of back ends below `places`.
        ids.insert(name, free.unwrap_or_default());
    }
    ids
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pen_common::config::{Backend, Listener, Pool, Protocol, Service};

    /// One service on 10.0.0.100:80 with `count` back ends 10.0.0.1 and up.
    pub(crate) fn config(count: u8) -> Config {
        let mut service = Service::new("web");
        service.listeners.push(Listener {
            address: IpAddr::from([10, 0, 0, 100]),
            port: 80,
            protocol: Protocol::Tcp,
        });
        let mut pool = Pool::new("web");
        pool.backends = (1..=count)
            .map(|i| Backend::new(IpAddr::from([10, 0, 0, i])))
            .collect();
        Config {
            services: vec![service],
            pools: vec![pool],
            ..Config::default()
        }
    }

    pub(crate) fn server(index: usize) -> Server {
        Server {
            pool: "web".to_owned(),
            index,
        }
    }

    #[test]
    fn a_refusal_changes_nothing() {
        let mut state = State::new(config(3), 0);
        let before = state.clone();
        let wrong = [
            Command::Weight {
                server: server(3),
                weight: 1,
            },
            Command::Weight {
                server: server(0),
                weight: 65_536,
            },
            Command::Blacklist {
                server: server(0),
                seconds: BLACKLIST_S_MAX + 1,
            },
            Command::Blacklist {
                server: Server {
                    pool: "x".into(),
                    index: 0,
                },
                seconds: 1,
            },
        ];
        for command in wrong {
            let refused = state.apply(command.clone());
            assert!(refused.is_err(), "{command:?}");
            assert_eq!(state, before);
        }
    }

    #[test]
    fn a_blacklisted_server_comes_back_by_time_or_by_word() {
        let mut state = State::new(config(2), 1000);
        let backend = state.config().pools[0].backends[0].clone();
        let mac = Command::Neighbor {
            address: backend.address,
            mac: Some(Mac(1)),
        };
        assert_eq!(state.apply(mac), Ok(true));
        let ban = Command::Blacklist {
            server: server(0),
            seconds: 5,
        };
        assert_eq!(state.apply(ban.clone()), Ok(true));
        assert_eq!(state.standing("web", &backend), Standing::Blacklisted(5));
        assert_eq!(state.apply(Command::Clock(5999)), Ok(false));
        assert_eq!(state.apply(Command::Clock(6000)), Ok(true));
        assert_eq!(state.standing("web", &backend), Standing::Serving);
        state.apply(ban).unwrap();
        let readmit = Command::Blacklist {
            server: server(0),
            seconds: 0,
        };
        assert_eq!(state.apply(readmit), Ok(true));
        assert_eq!(state.standing("web", &backend), Standing::Serving);
    }

    #[test]
    fn numbers_stay_with_names() {
        let few = State::new(config(3), 0);
        let many = State::new(config(200), 0);
        let same = (1..=3).filter(|i| {
            let name = format!("10.0.0.{i}");
            few.id("web", &name) == many.id("web", &name)
        });
        assert_eq!(same.count(), 3);
        let ids: BTreeSet<_> = (1..=200)
            .map(|i| many.id("web", &format!("10.0.0.{i}")))
            .collect();
        assert_eq!(ids.len(), 200);
        assert!(!ids.contains(&0));
    }
}
