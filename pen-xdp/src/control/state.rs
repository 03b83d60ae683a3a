//! Desired configuration and what was observed of the world: the only inputs of the data plane.
//!
//! Nothing here does I/O. [`State::apply`] is the one entry for every change, whatever its source.

mod asked;
mod heard;
mod replace;
#[cfg(test)]
mod sequences;
mod servers;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use pen_common::{
    config::{AclChange, Backend, Balance, Change, Config, Pool, ServerRef},
    hash::NameKey,
    tables::{BACKENDS_MAX, BackendId, Mac},
};

use super::names::{self, Answers, Unused};
use replace::Origin;

/// Longest time that a back end can be blacklisted for, seconds: a year.
pub const BLACKLIST_S_MAX: u32 = 365 * 24 * 3600;

/// How long a back end whose MAC address is lost keeps its flows, milliseconds; while the link is
/// down, and so long after. With the link the kernel loses all of them at once and finds them again
/// one by one: flows that moved to the first one found would stay there.
const LOST_MS: u64 = 5_000;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `server N weight W blacklist T ...`: all of it or nothing.
    Server {
        /// As its asker named the service.
        service: Option<String>,
        /// As its asker named the back end.
        server: ServerRef,
        /// What is to be different.
        changes: Vec<Change>,
    },
    /// No new clients for a server, or some again: as many as before.
    Drain {
        /// As its asker named the service.
        service: Option<String>,
        /// As its asker named the back end.
        server: ServerRef,
        /// Whether it gets none.
        on: bool,
    },
    /// One of Pen's switches on or off.
    Switch {
        /// Which service; all that know the switch without a name.
        service: Option<String>,
        /// Which switch. In DSR there is `roundrobin` alone.
        switch: Balance,
        /// On or off.
        on: bool,
    },
    /// A key of a service in proxy mode.
    Option {
        /// Which service; without a name the only one there is.
        service: Option<String>,
        /// Name of the key.
        key: &'static str,
        /// Its value as written.
        value: String,
    },
    /// A key of the top level that may change while Pen runs.
    Setting {
        /// Name of the key.
        key: &'static str,
        /// Its value as written.
        value: String,
    },
    /// A change of an access list.
    Acl(u8, AclChange),
    /// Another configuration, which was checked, in place of this one.
    Replace(Box<Config>),
    /// This one with a change, checked likewise: what was said of its servers before holds.
    Edit(Box<Config>),
    /// The kernel's neighbour table has, or no longer has, a MAC address.
    Neighbor {
        /// The back end's address.
        address: IpAddr,
        /// `None` when it is not to be reached.
        mac: Option<Mac>,
    },
    /// The link is up or down.
    Carrier(bool),
    /// The addresses that the kernel has, on all interfaces.
    LocalAddresses(BTreeSet<IpAddr>),
    /// The machines that this host's routes lead on by.
    Gateways(BTreeSet<IpAddr>),
    /// The interface's own MAC address, and the longest frame that a socket takes whole.
    Interface {
        /// The interface's MAC.
        mac: Mac,
        /// Bytes.
        redirect_len_max: u32,
    },
    /// What host names stand for now: all of them, or those that were heard of.
    Names(Answers),
    /// Time went on, to this many milliseconds of the monotonic clock.
    Clock(u64),
}

/// Why a command was refused. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such back end or service, or several that could be meant.
    #[error("{0}")]
    NotFound(String),
    /// The thing means nothing there.
    #[error("{0}")]
    Meaningless(String),
    /// A value that can't stand there.
    #[error("{0}")]
    Value(String),
    /// A time that makes no sense.
    #[error("blacklist {0} is out of range; give 0 to {BLACKLIST_S_MAX} seconds")]
    Blacklist(u32),
    /// What only a start can set.
    #[error("{0} can't be changed while Pen runs: restart it")]
    Restart(String),
    /// Something that is fixed while Pen runs.
    #[error(
        "the {0} of a server can't be changed while Pen runs: write it into the configuration and restart"
    )]
    Fixed(&'static str),
}

/// Why a back end gets no flows, or that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It takes flows.
    Serving,
    /// Its weight is 0.
    NoWeight,
    /// The host name does not stand for its address any more.
    Gone,
    /// Its MAC address is not known.
    NoMac,
    /// Blacklisted for so many seconds more.
    Blacklisted(u64),
}

/// Everything that the data plane is compiled from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    config: Config,
    /// The pools before any change: who comes by a name begins like that.
    written: Vec<Pool>,
    /// What the host names of `config` were last heard to stand for.
    answers: Answers,
    unused: Unused,
    ids: BTreeMap<(String, String), BackendId>,
    neighbors: HashMap<IpAddr, Mac>,
    /// MAC addresses that the kernel lost, and until when they still serve the flows before.
    lost: HashMap<IpAddr, (Mac, u64)>,
    carrier: bool,
    local: BTreeSet<IpAddr>,
    gateways: BTreeSet<IpAddr>,
    mac: Mac,
    redirect_len_max: u32,
    blacklisted_until_ms: BTreeMap<BackendId, u64>,
    /// The weights of those that were drained, by pool and name.
    drained: BTreeMap<(String, String), u16>,
    now_ms: u64,
}

impl State {
    /// A state in which nothing was observed yet, at `now_ms` of the monotonic clock.
    pub fn new(mut config: Config, now_ms: u64) -> Self {
        let answers = names::at_load(&config);
        let written = config.pools.clone();
        let unused = names::follow(&mut config, &answers, &written);
        let ids = identities(&config, &BTreeMap::new());
        let mut state = Self {
            config,
            written,
            answers,
            unused,
            ids,
            neighbors: HashMap::new(),
            lost: HashMap::new(),
            carrier: true,
            local: BTreeSet::new(),
            gateways: BTreeSet::new(),
            mac: Mac::default(),
            redirect_len_max: 0,
            blacklisted_until_ms: BTreeMap::new(),
            drained: BTreeMap::new(),
            now_ms,
        };
        state.blacklist_from_config(|_| true);
        state
    }

    /// Pen's files may exclude a server for some seconds from the start.
    fn blacklist_from_config(&mut self, starts: impl Fn(BackendId) -> bool) {
        for pool in &self.config.pools {
            for backend in pool.backends.iter().filter(|backend| backend.blacklist > 0) {
                let until = self.now_ms + u64::from(backend.blacklist) * 1000;
                let id = self.ids.get(&(pool.name.clone(), backend.name.clone()));
                if let Some(id) = id.filter(|id| starts(**id)) {
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
            Command::Server {
                service,
                server,
                changes,
            } => self.change_server(service.as_deref(), &server, &changes),
            Command::Drain {
                service,
                server,
                on,
            } => self.drain(service.as_deref(), &server, on),
            Command::Switch {
                service,
                switch,
                on,
            } => self.switch(service.as_deref(), switch, on),
            Command::Option {
                service,
                key,
                value,
            } => self.set_option(service.as_deref(), key, &value),
            Command::Setting { key, value } => self.set(key, &value),
            Command::Acl(number, change) => self.change_acl(number, &change),
            Command::Replace(config) => self.replace(*config, Origin::Written),
            Command::Edit(config) => self.replace(*config, Origin::Edited),
            Command::Neighbor { address, mac } => Ok(self.neighbor(address, mac)),
            Command::Carrier(on) => {
                self.carrier = on;
                let until = self.now_ms + LOST_MS;
                for (_, lost_until) in self.lost.values_mut() {
                    *lost_until = until;
                }
                Ok(false)
            }
            Command::LocalAddresses(local) => {
                let changed = self.local != local;
                self.local = local;
                Ok(changed)
            }
            Command::Gateways(gateways) => {
                let changed = self.gateways != gateways;
                self.gateways = gateways;
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
            Command::Names(answers) => Ok(self.heard(answers)),
            Command::Clock(now_ms) => {
                self.now_ms = now_ms;
                let before = (self.blacklisted_until_ms.len(), self.lost.len());
                self.blacklisted_until_ms.retain(|_, until| *until > now_ms);
                let carrier = self.carrier;
                self.lost
                    .retain(|_, (_, until)| !carrier || *until > now_ms);
                Ok((self.blacklisted_until_ms.len(), self.lost.len()) != before)
            }
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<bool, Refusal> {
        // What it was stays if the new one can't stand.
        let mut changed = self.config.clone();
        let set = changed.set(key, value);
        let set = set.and_then(|()| changed.check_control());
        set.map_err(Refusal::Value)?;
        let trapped = changed.tarpit_acl != self.config.tarpit_acl;
        if trapped {
            changed.check_tarpit().map_err(Refusal::Value)?;
            let rows = changed.acl_rows(&self.others());
            rows.map_err(|full| Refusal::Value(full.to_string()))?;
        }
        self.config = changed;
        Ok(trapped)
    }

    fn neighbor(&mut self, address: IpAddr, mac: Option<Mac>) -> bool {
        let Some(mac) = mac else {
            let was = self.neighbors.remove(&address);
            self.lost
                .extend(was.map(|mac| (address, (mac, self.now_ms + LOST_MS))));
            return was.is_some();
        };
        self.lost.remove(&address);
        self.neighbors.insert(address, mac) != Some(mac)
    }

    /// Goes back to what was asked for `before`; what was observed stays.
    pub fn take_back(&mut self, before: &Self) {
        self.config.clone_from(&before.config);
        self.blacklisted_until_ms
            .clone_from(&before.blacklisted_until_ms);
        self.ids.clone_from(&before.ids);
        self.drained.clone_from(&before.drained);
        self.written.clone_from(&before.written);
        // What was heard stays, of those names that are there again.
        let missing = before.answers.0.iter();
        let missing = missing.filter(|(name, _)| !self.answers.0.contains_key(*name));
        let missing: Vec<_> = missing
            .map(|(name, all)| (name.clone(), all.clone()))
            .collect();
        self.answers.0.extend(missing);
        self.answers
            .0
            .retain(|name, _| before.answers.0.contains_key(name));
        self.follow();
    }

    /// Remembers the debug level, which no table depends on.
    pub fn set_debug(&mut self, level: u8) {
        self.config.debug = level;
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

    /// Every number in use, and the name behind it as a number: it tells the next daemon whose
    /// flows it finds.
    pub fn identities(&self) -> impl Iterator<Item = (BackendId, u64)> {
        let ids = self.ids.iter();
        ids.map(|((pool, backend), id)| (*id, identity(pool, backend)))
    }

    /// The MAC address behind an address.
    pub fn mac_of(&self, address: IpAddr) -> Option<Mac> {
        self.neighbors.get(&address).copied()
    }

    /// The MAC address that was behind an address until a moment ago.
    pub fn last_mac_of(&self, address: IpAddr) -> Option<Mac> {
        self.lost.get(&address).map(|(mac, _)| *mac)
    }

    /// Whether the kernel of this host has the address.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.local.contains(&address)
    }

    /// Whether this host has the addresses that it had then.
    pub fn has_addresses_of(&self, then: &Self) -> bool {
        self.local == then.local
    }

    /// Addresses of this host and of its gateways.
    pub fn others(&self) -> BTreeSet<IpAddr> {
        &self.local | &self.gateways
    }

    /// The interface's own MAC address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Longest frame that the program hands to a socket, bytes.
    pub fn redirect_len_max(&self) -> u32 {
        self.redirect_len_max
    }

    /// Until when a command has taken a back end out, milliseconds of the monotonic clock.
    pub fn blacklisted_until_ms(&self, pool: &str, backend: &Backend) -> Option<u64> {
        let until = self.blacklisted_until_ms.get(&self.id(pool, &backend.name));
        until.copied()
    }

    /// Whether a back end takes flows, and if not, why.
    pub fn standing(&self, pool: &str, backend: &Backend) -> Standing {
        let until = self.blacklisted_until_ms.get(&self.id(pool, &backend.name));
        match (until, backend.weight, self.mac_of(backend.address)) {
            (Some(until), _, _) => {
                Standing::Blacklisted(until.saturating_sub(self.now_ms).div_ceil(1000))
            }
            (None, ..) if backend.gone => Standing::Gone,
            (None, 0, _) => Standing::NoWeight,
            (None, _, None) => Standing::NoMac,
            (None, _, Some(_)) => Standing::Serving,
        }
    }
}

/// A back end's name as a number, the same in every daemon; never 0.
fn identity(pool: &str, backend: &str) -> u64 {
    NameKey::from_seed(0).hash_bytes(format!("{pool}\n{backend}").as_bytes()) | 1
}

/// Numbers drawn from the names, so that a restarted daemon, or one with some other back ends,
/// gives the same numbers to the same names as far as they don't collide. Who has a number `before`
/// keeps it.
fn identities(
    config: &Config,
    before: &BTreeMap<(String, String), BackendId>,
) -> BTreeMap<(String, String), BackendId> {
    let pools = config.pools.iter();
    let mut names: Vec<(String, String)> = pools
        .flat_map(|pool| {
            let names = pool.backends.iter().map(|backend| backend.name.clone());
            names.map(|name| (pool.name.clone(), name))
        })
        .collect();
    names.sort();
    let kept = names.iter().filter_map(|name| before.get_key_value(name));
    let mut ids: BTreeMap<_, _> = kept.map(|(name, id)| (name.clone(), *id)).collect();
    let mut taken: BTreeSet<BackendId> = ids.values().copied().collect();
    let places = u64::from(BACKENDS_MAX - 1);
    for name in names.into_iter().filter(|name| !before.contains_key(name)) {
        let hash = identity(&name.0, &name.1);
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
    use pen_common::config::{HashBy, Listener, Pool, Protocol, Service};

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

    /// A change of one server of the one pool.
    pub(crate) fn change(index: usize, change: Change) -> Command {
        Command::Server {
            service: None,
            server: ServerRef::Index(index),
            changes: vec![change],
        }
    }

    #[test]
    fn a_refusal_changes_nothing() {
        let mut state = State::new(config(3), 0);
        let before = state.clone();
        let half = Command::Server {
            service: Some("web".to_owned()),
            server: ServerRef::Index(0),
            changes: vec![Change::Weight(7), Change::Port(81)],
        };
        let wrong = [
            change(3, Change::Weight(1)),
            change(0, Change::Blacklist(BLACKLIST_S_MAX + 1)),
            change(0, Change::Address("10.0.0.9".to_owned())),
            half,
            Command::Switch {
                service: Some("x".to_owned()),
                switch: Balance::RoundRobin,
                on: false,
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
        let ban = change(0, Change::Blacklist(5));
        assert_eq!(state.apply(ban.clone()), Ok(true));
        assert_eq!(state.standing("web", &backend), Standing::Blacklisted(5));
        assert_eq!(state.apply(Command::Clock(5999)), Ok(false));
        assert_eq!(state.apply(Command::Clock(6000)), Ok(true));
        assert_eq!(state.standing("web", &backend), Standing::Serving);
        state.apply(ban).unwrap();
        assert_eq!(state.apply(change(0, Change::Blacklist(0))), Ok(true));
        assert_eq!(state.standing("web", &backend), Standing::Serving);
    }

    #[test]
    fn a_lost_mac_serves_a_moment_longer_and_as_long_as_the_link_is_down() {
        let mut state = State::new(config(1), 1_000);
        let address = state.config().pools[0].backends[0].address;
        let neighbor = |mac| Command::Neighbor { address, mac };
        assert_eq!(state.apply(neighbor(Some(Mac(1)))), Ok(true));
        assert_eq!(state.apply(neighbor(None)), Ok(true));
        assert_eq!(
            (state.mac_of(address), state.last_mac_of(address)),
            (None, Some(Mac(1)))
        );
        assert_eq!(state.apply(Command::Clock(5_999)), Ok(false));
        assert_eq!(state.apply(Command::Clock(6_000)), Ok(true));
        assert_eq!(state.last_mac_of(address), None);
        // The link goes for an hour.
        state.apply(neighbor(Some(Mac(2)))).unwrap();
        state.apply(neighbor(None)).unwrap();
        state.apply(Command::Carrier(false)).unwrap();
        assert_eq!(state.apply(Command::Clock(3_606_000)), Ok(false));
        state.apply(Command::Carrier(true)).unwrap();
        assert_eq!(state.apply(Command::Clock(3_610_999)), Ok(false));
        assert_eq!(state.last_mac_of(address), Some(Mac(2)));
        assert_eq!(state.apply(neighbor(Some(Mac(3)))), Ok(true));
        assert_eq!(state.last_mac_of(address), None);
    }

    #[test]
    fn round_robin_is_hash_by_flow() {
        let mut state = State::new(config(1), 0);
        let by_source = Command::Switch {
            service: None,
            switch: Balance::RoundRobin,
            on: false,
        };
        assert_eq!(state.apply(by_source.clone()), Ok(true));
        assert_eq!(state.config().services[0].hash, HashBy::Source);
        assert_eq!(state.apply(by_source), Ok(false));
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
