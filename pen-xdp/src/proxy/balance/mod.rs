//! Which server a client gets: all of it is arithmetic over counts, without I/O and without a
//! clock, so that everything can be tested.
//!
//! A client is admitted ([`Balancer::admit`]), is given one target after the other until a
//! connection stands ([`Balancer::next`], [`Balancer::failed`], [`Balancer::connected`]), and ends
//! ([`Balancer::ended`]). Who holds the [`Attempt`] ends it, once or several times, at any point;
//! that gives back whatever it holds.
//!
//! It differs from Pen in what its users asked for: taking turns begins with the first server,
//! weights count for nothing if no server has one, another server is chosen the same way as the
//! first, soft limits and access lists are looked at when a server is chosen and not after, and a
//! client that the access list denies never gets to the emergency server.

mod attempt;
mod choice;
mod clients;
mod hashing;
mod limits;
mod servers;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use attempt::{Attempt, Client, PASSED_OVER_MAX, PassedOver, Target};
pub use clients::Recent;
pub use pen_common::control::{ChosenBy, Refused};
pub use servers::{Server, ServerId, Tally};

use choice::Algorithm;
use clients::{Clients, Seat};
use hashing::Hashing;
use limits::{Limited, Limits};
use pen_common::config::{Acl, Balance, Switches};
use servers::{Servers, Standing};

/// How a service balances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How servers are chosen.
    pub switches: Switches,
    /// Milliseconds that a server gets no clients after a failure.
    pub blacklist_ms: u64,
    /// Milliseconds that a client that is not seen is remembered; 0 is for ever.
    pub tracking_ms: u64,
    /// Clients that are remembered.
    pub clients_max: u32,
    /// Connections at the same time.
    pub conn_max: u32,
    /// Which clients are served.
    pub client_acl: Acl,
    /// Connections of one client at the same time; 0 is no limit.
    pub client_conn_max: u32,
    /// New connections of one client in a second; 0 is no limit.
    pub client_conn_rate: u32,
    /// Whether there is an emergency server.
    pub emergency: bool,
    /// Whether there is an abuse server.
    pub abuse: bool,
    /// Balancers with the same seed hash alike.
    pub seed: u64,
}

/// A server as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerView<'a> {
    /// Its number here.
    pub id: ServerId,
    /// Its place in the configuration; `None` if it left that and has connections still.
    pub index: Option<usize>,
    /// Its name.
    pub name: &'a str,
    /// What is counted.
    pub tally: Tally,
    /// Until when it gets no clients, if that is still to come.
    pub blacklisted_until_ms: Option<u64>,
}

/// Chooses servers for the clients of one service.
#[derive(Debug)]
pub struct Balancer {
    rules: Rules,
    servers: Servers,
    clients: Clients,
    limits: Limits,
    /// Only where hashes choose.
    hashing: Option<Hashing>,
    /// Who was given the last turn, and the index whose turn it is.
    last: Option<ServerId>,
    turn: usize,
    /// Attempts that have not ended.
    open: u32,
    emergency: Tally,
    abuse: Tally,
}

impl Balancer {
    /// Nobody is known and nothing is counted yet.
    pub fn new(rules: Rules, servers: Vec<Server>) -> Self {
        let mut new = Self {
            rules: Rules::default(),
            servers: Servers::default(),
            clients: Clients::default(),
            limits: Limits::default(),
            hashing: None,
            last: None,
            turn: 0,
            open: 0,
            emergency: Tally::default(),
            abuse: Tally::default(),
        };
        new.update(rules, servers);
        new
    }

    /// Takes a new configuration. A server that keeps its name keeps its connections, its
    /// blacklisting, its counts and its clients; one that is gone gets no more clients.
    pub fn update(&mut self, rules: Rules, servers: Vec<Server>) {
        let before: Vec<ServerId> = self.servers.present_from(self.turn).map(|s| s.id).collect();
        self.servers.update(servers);
        self.turn = match self.last {
            None => 0,
            Some(last) => match self.index(last) {
                Some(index) => index + 1,
                None => before
                    .into_iter()
                    .find_map(|id| self.index(id))
                    .unwrap_or(0),
            },
        };
        self.clients.limit(rules.clients_max, rules.tracking_ms);
        self.hashing = match Algorithm::of(rules.switches) {
            Algorithm::Hash => Some(Hashing::build(
                &self.servers,
                rules.seed,
                self.hashing.take(),
            )),
            Algorithm::Prio | Algorithm::Weight | Algorithm::Least | Algorithm::RoundRobin => None,
        };
        self.rules = rules;
    }

    /// Admits a client or refuses it.
    ///
    /// # Errors
    /// [`Refused::TooManyConnections`], [`Refused::AclDenied`] if there is no abuse server, or
    /// which of the client's own limits it has reached.
    pub fn admit(&mut self, client: Client, now_ms: u64) -> Result<Attempt, Refused> {
        if self.open >= self.rules.conn_max {
            return Err(Refused::TooManyConnections);
        }
        let address = client.address.map(|address| address.to_canonical());
        let denied = address.is_some_and(|address| !self.rules.client_acl.permits(address));
        if denied && !self.rules.abuse {
            return Err(Refused::AclDenied);
        }
        let limited = self.limit(address, now_ms)?;
        // Who is denied must not push out those who are not.
        let tracked = address.filter(|_| !denied);
        let remembered = tracked
            .and_then(|address| self.clients.seen(address, now_ms))
            .filter(|_| !self.rules.switches.has(Balance::RoundRobin));
        self.open += 1;
        Ok(Attempt {
            client: Client { address, ..client },
            denied,
            limited,
            remembered,
            holds: None,
            connected: false,
            last_resort: false,
            tried: Vec::new(),
            passed_over: Vec::new(),
            full: false,
            asked_ms: now_ms,
            ended: false,
        })
    }

    /// Gives the client a target and takes a place there; each target once. A place that it still
    /// holds is given back before.
    ///
    /// # Errors
    /// Why there is none. The attempt goes on counting as a connection until it is ended.
    pub fn next(&mut self, attempt: &mut Attempt, now_ms: u64) -> Result<Target, Refused> {
        if attempt.ended {
            return Err(Refused::Ended);
        }
        self.leave(attempt);
        attempt.asked_ms = now_ms;
        let (target, by) = self.choose(attempt)?;
        if let Target::Server(id) = target
            && by == ChosenBy::RoundRobin
        {
            self.last = Some(id);
            self.turn = self.index(id).map_or(0, |index| index + 1);
        }
        if let Some(tally) = self.tally_mut(target) {
            tally.take();
        }
        attempt.holds = Some((target, by));
        attempt.connected = false;
        Ok(target)
    }

    /// The connection to the target stands: it is counted, and the client's server remembered. A
    /// client that gets to the emergency server keeps the server that it had.
    pub fn connected(&mut self, attempt: &mut Attempt) {
        let Some(target) = attempt.target().filter(|_| !attempt.connected) else {
            return;
        };
        attempt.connected = true;
        if let Some(tally) = self.tally_mut(target) {
            tally.connects += 1;
        }
        let seat = match target {
            Target::Server(server) => Some(Seat {
                server,
                kept: !self.rules.switches.has(Balance::RoundRobin),
            }),
            Target::Emergency | Target::Abuse => None,
        };
        if let Some(address) = attempt.client.address.filter(|_| !attempt.denied) {
            self.clients.connected(address, attempt.asked_ms, seat);
        }
    }

    /// The connection to the target was refused, reset or not made in time: the server gets no
    /// clients for a while. Without a target nothing happens. Whether a server is blacklisted now
    /// that was not before.
    pub fn failed(&mut self, attempt: &mut Attempt, now_ms: u64) -> bool {
        let Some(target) = attempt.target() else {
            return false;
        };
        if let Some(tally) = self.tally_mut(target) {
            tally.failures += 1;
        }
        let until = now_ms.saturating_add(self.rules.blacklist_ms);
        let mut fresh = false;
        if let Target::Server(id) = target
            && let Some(standing) = self.servers.get_mut(id)
        {
            let before = standing.blacklisted_until_ms;
            fresh = until > now_ms && before.is_none_or(|before| before <= now_ms);
            // A command may have said longer.
            standing.blacklisted_until_ms = before.max(Some(until));
        }
        self.passed_by(attempt);
        fresh
    }

    /// The target could not be reached from here, which says nothing of it: others are tried.
    /// Without a target nothing happens.
    pub fn passed_by(&mut self, attempt: &mut Attempt) {
        let Some(target) = attempt.target() else {
            return;
        };
        attempt.pass_over(target, Refused::ConnectFailed);
        self.leave(attempt);
    }

    /// The client is served, was refused or has left: everything is given back that the attempt
    /// still holds. Once it ended, this does nothing.
    pub fn ended(&mut self, attempt: &mut Attempt) {
        if std::mem::replace(&mut attempt.ended, true) {
            return;
        }
        if let Some((target, _)) = attempt.holds.take() {
            self.give_back(target);
        }
        if let Some(client) = attempt.limited.take() {
            self.limits.give_back(client);
        }
        debug_assert!(self.open > 0, "more attempts ended than were admitted");
        self.open = self.open.saturating_sub(1);
    }

    /// Excludes a server until then, or readmits it (`None`). Whether there is such a server.
    pub fn blacklist(&mut self, id: ServerId, until_ms: Option<u64>) -> bool {
        let standing = self.servers.get_mut(id);
        standing.is_some_and(|standing| {
            standing.blacklisted_until_ms = until_ms;
            true
        })
    }

    /// The server at a place in the configuration.
    pub fn id(&self, index: usize) -> Option<ServerId> {
        self.servers.order().get(index).copied()
    }

    /// A server's place in the configuration; `None` if it left that.
    pub fn index(&self, id: ServerId) -> Option<usize> {
        self.servers.get(id)?.index
    }

    /// The servers in the order of the configuration, then those that left it and have
    /// connections still.
    pub fn servers(&self, now_ms: u64) -> impl Iterator<Item = ServerView<'_>> {
        let all = self.servers.present().chain(self.servers.gone());
        all.map(move |standing| view(standing, now_ms))
    }

    /// What is counted of the emergency server.
    pub const fn emergency(&self) -> Tally {
        self.emergency
    }

    /// What is counted of the abuse server.
    pub const fn abuse(&self) -> Tally {
        self.abuse
    }

    /// Clients' connections now, those under way included.
    pub const fn connections(&self) -> u32 {
        self.open
    }

    /// Clients in the client table.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Clients seen within so many milliseconds, the newest first.
    pub fn recent(&self, now_ms: u64, within_ms: u64) -> Vec<Recent> {
        self.clients.recent(now_ms, within_ms)
    }

    /// One client of the client table.
    pub fn client(&self, address: IpAddr, now_ms: u64) -> Option<Recent> {
        self.clients.get(address.to_canonical(), now_ms)
    }

    /// So many bytes were sent to a client, and received from it, over a connection that has ended.
    pub fn passed(&mut self, address: IpAddr, sent: u64, received: u64) {
        self.clients.passed(address.to_canonical(), sent, received);
    }

    /// Takes a connection from what the client may have, if there is a limit to that.
    fn limit(&mut self, address: Option<IpAddr>, now_ms: u64) -> Result<Option<Limited>, Refused> {
        let limits = (self.rules.client_conn_max, self.rules.client_conn_rate);
        let client = address.filter(|_| limits != (0, 0)).map(Limited::of);
        if let Some(client) = client {
            self.limits.take(client, limits, now_ms)?;
        }
        Ok(client)
    }

    /// Takes the attempt's target away for good.
    fn leave(&mut self, attempt: &mut Attempt) {
        let Some((target, _)) = attempt.holds.take() else {
            return;
        };
        match target {
            Target::Server(id) => attempt.tried.push(id),
            Target::Emergency | Target::Abuse => attempt.last_resort = true,
        }
        self.give_back(target);
    }

    fn give_back(&mut self, target: Target) {
        match target {
            Target::Server(id) => self.servers.give_back(id),
            Target::Emergency => self.emergency.give_back(),
            Target::Abuse => self.abuse.give_back(),
        }
    }

    fn tally_mut(&mut self, target: Target) -> Option<&mut Tally> {
        match target {
            Target::Server(id) => self.servers.get_mut(id).map(|standing| &mut standing.tally),
            Target::Emergency => Some(&mut self.emergency),
            Target::Abuse => Some(&mut self.abuse),
        }
    }
}

fn view(standing: &Standing, now_ms: u64) -> ServerView<'_> {
    ServerView {
        id: standing.id,
        index: standing.index,
        name: &standing.server.name,
        tally: standing.tally,
        blacklisted_until_ms: standing
            .blacklisted_until_ms
            .filter(|until| *until > now_ms),
    }
}
