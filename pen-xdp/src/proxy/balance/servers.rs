//! The servers of a service, with what is known of them, and those that left it with connections
//! still running.

use std::collections::HashMap;

use pen_common::config::Acl;

/// A server as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Its identity: a server that keeps its name stays the same one. Names differ.
    pub name: String,
    /// Its share.
    pub weight: u16,
    /// The lowest is chosen.
    pub prio: u32,
    /// Connections from which on it gets no new clients; 0 is no limit.
    pub max: u32,
    /// Connections up to which it gets clients that it had before, if more than `max`.
    pub hard: u32,
    /// Which clients it may get.
    pub acl: Acl,
}

/// A server's number. Another server never has the same one, also not after this one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId {
    place: u32,
    /// Counts the servers that had the place before.
    round: u32,
}

/// What is counted of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Now, those under way included.
    pub connections: u32,
    /// Connections that were made, ever.
    pub connects: u64,
    /// Connections that failed, ever.
    pub failures: u64,
}

impl Tally {
    pub(super) fn take(&mut self) {
        self.connections += 1;
    }

    pub(super) fn give_back(&mut self) {
        debug_assert!(self.connections > 0, "a place was given back twice");
        self.connections = self.connections.saturating_sub(1);
    }
}

/// A server with what is known of it.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) id: ServerId,
    pub(super) server: Server,
    /// Its place in the configuration; `None` if it left that.
    pub(super) index: Option<usize>,
    pub(super) blacklisted_until_ms: Option<u64>,
    pub(super) tally: Tally,
}

impl Standing {
    pub(super) fn is_blacklisted(&self, now_ms: u64) -> bool {
        self.blacklisted_until_ms
            .is_some_and(|until| until > now_ms)
    }
}

#[derive(Debug, Default)]
struct Place {
    round: u32,
    standing: Option<Standing>,
}

/// All servers by number and by index.
#[derive(Debug, Default)]
pub(super) struct Servers {
    places: Vec<Place>,
    /// In the order of the configuration.
    order: Vec<ServerId>,
    /// Whether any has a weight. If none has, they are all alike.
    weighted: bool,
}

impl Servers {
    /// Takes a new configuration. Who left it goes as soon as its last connection has ended.
    pub(super) fn update(&mut self, servers: Vec<Server>) {
        self.weighted = servers.iter().any(|server| server.weight > 0);
        let mut known: HashMap<String, ServerId> = HashMap::new();
        for standing in self.all_mut() {
            standing.index = None;
            known.insert(standing.server.name.clone(), standing.id);
        }
        self.order.clear();
        for (index, server) in servers.into_iter().enumerate() {
            let same = known.remove(&server.name);
            let id = match same.and_then(|id| self.get_mut(id)) {
                Some(standing) => {
                    standing.server = server;
                    standing.index = Some(index);
                    standing.id
                }
                None => self.insert(server, index),
            };
            self.order.push(id);
        }
        let gone: Vec<ServerId> = self.gone().map(|standing| standing.id).collect();
        for id in gone {
            self.remove_if_idle(id);
        }
    }

    pub(super) fn get(&self, id: ServerId) -> Option<&Standing> {
        let place = self.places.get(id.place as usize)?;
        place.standing.as_ref().filter(|standing| standing.id == id)
    }

    pub(super) fn get_mut(&mut self, id: ServerId) -> Option<&mut Standing> {
        let place = self.places.get_mut(id.place as usize)?;
        place.standing.as_mut().filter(|standing| standing.id == id)
    }

    /// By its place in the configuration.
    pub(super) fn at(&self, index: usize) -> Option<&Standing> {
        self.order.get(index).and_then(|id| self.get(*id))
    }

    /// Those in the configuration, in its order, beginning with `first` and ending before it.
    pub(super) fn present_from(&self, first: usize) -> impl Iterator<Item = &Standing> {
        let (before, after) = self.order.split_at(first.min(self.order.len()));
        after.iter().chain(before).filter_map(|id| self.get(*id))
    }

    /// Those in the configuration, in its order.
    pub(super) fn present(&self) -> impl Iterator<Item = &Standing> {
        self.present_from(0)
    }

    /// Those that left the configuration.
    pub(super) fn gone(&self) -> impl Iterator<Item = &Standing> {
        let all = self
            .places
            .iter()
            .filter_map(|place| place.standing.as_ref());
        all.filter(|standing| standing.index.is_none())
    }

    pub(super) fn order(&self) -> &[ServerId] {
        &self.order
    }

    pub(super) const fn weighted(&self) -> bool {
        self.weighted
    }

    /// Gives a connection's place back.
    pub(super) fn give_back(&mut self, id: ServerId) {
        if let Some(standing) = self.get_mut(id) {
            standing.tally.give_back();
            self.remove_if_idle(id);
        }
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Standing> {
        let places = self.places.iter_mut();
        places.filter_map(|place| place.standing.as_mut())
    }

    fn insert(&mut self, server: Server, index: usize) -> ServerId {
        let free = self
            .places
            .iter()
            .position(|place| place.standing.is_none());
        let at = free.unwrap_or(self.places.len());
        if free.is_none() {
            self.places.push(Place::default());
        }
        let place = &mut self.places[at];
        let id = ServerId {
            place: at as u32,
            round: place.round,
        };
        place.standing = Some(Standing {
            id,
            server,
            index: Some(index),
            blacklisted_until_ms: None,
            tally: Tally::default(),
        });
        id
    }

    fn remove_if_idle(&mut self, id: ServerId) {
        let idle = self
            .get(id)
            .is_some_and(|s| s.index.is_none() && s.tally.connections == 0);
        if let Some(place) = self.places.get_mut(id.place as usize).filter(|_| idle) {
            place.standing = None;
            place.round += 1;
        }
    }
}
