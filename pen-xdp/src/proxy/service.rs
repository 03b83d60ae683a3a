//! What all threads share of one service: who serves whom, what is counted, how many may come.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pen_common::config::{Acl, Mode, ProxyOptions};

use super::balance::{self, Attempt, Balancer, Client, Refused, Rules, ServerId, Target};
use super::gate::Gate;
use super::relay::{self, Counts};
use super::routes::{Place, Route, Server};
use crate::plane::coarse_ns;

/// Bytes in one direction without a pause after which the kernel passes them on by itself. A page
/// with its pictures does not pay for a pipe, a download does.
const SPLICE_AFTER: u64 = 256 << 10;

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) mode: Mode,
    /// Clients that are here.
    pub(super) connections: Arc<Gate>,
    /// Connections to servers that are under way.
    pub(super) pending: Arc<Gate>,
    accepted: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    choice: Mutex<Choice>,
}

/// What a choice depends on and changes.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) balancer: Balancer,
    points: HashMap<ServerId, Arc<Point>>,
    pub(super) emergency: Option<Arc<Point>>,
    pub(super) abuse: Option<Arc<Point>>,
    settings: Settings,
}

/// What a connection goes by from its beginning to its end.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) timeout: Duration,
    pub(super) source: Option<IpAddr>,
    pub(super) keepalive: bool,
    pub(super) relay: relay::Options,
    /// How long the head of a request may take.
    pub(super) head_timeout: Duration,
    /// Whose word counts for where a request comes from.
    pub(super) trusted: Arc<Acl>,
    /// Whether answers of our own say why.
    pub(super) reason_header: bool,
}

/// A server as a place to go to, and what went there.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) name: String,
    pub(super) place: Place,
    /// Until when a command has taken it out, on the clock of [`now_ms`].
    blacklisted_until_ms: Option<u64>,
    pub(super) counts: Arc<Counts>,
}

/// A client's way through a service; its places are given back when this is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    service: Arc<Service>,
    attempt: Attempt,
    pub(super) settings: Settings,
}

/// Milliseconds of the monotonic clock.
pub(super) fn now_ms() -> u64 {
    coarse_ns() / 1_000_000
}

impl Service {
    pub(super) fn new(route: &Route) -> Self {
        let mut choice = Choice {
            balancer: Balancer::new(rules(route), servers(route)),
            points: HashMap::new(),
            emergency: None,
            abuse: None,
            settings: settings(&route.options),
        };
        choice.follow(route);
        Self {
            name: route.service.clone(),
            mode: route.mode,
            connections: Arc::new(Gate::new(route.options.conn_max)),
            pending: Arc::new(Gate::new(route.options.pending_max)),
            accepted: AtomicU64::new(0),
            refused: [const { AtomicU64::new(0) }; Refused::ALL.len()],
            choice: Mutex::new(choice),
        }
    }

    /// Goes by `route` from now on.
    pub(super) fn update(&self, route: &Route) {
        self.connections.set_max(route.options.conn_max);
        self.pending.set_max(route.options.pending_max);
        let mut choice = self.choice();
        choice.balancer.update(rules(route), servers(route));
        choice.settings = settings(&route.options);
        choice.follow(route);
    }

    /// Tries a server again, whatever happened to it before.
    pub(super) fn readmit(&self, server: &str) {
        let mut choice = self.choice();
        let found = choice.points.iter().find(|(_, point)| point.name == server);
        if let Some(id) = found.map(|(id, _)| *id) {
            choice.balancer.blacklist(id, None);
        }
    }

    /// What a connection that begins now goes by.
    pub(super) fn settings(&self) -> Settings {
        self.choice().settings.clone()
    }

    /// Lets a client in; in HTTP mode each of its requests.
    ///
    /// # Errors
    /// Why it is refused; it is counted.
    pub(super) fn admit(self: &Arc<Self>, client: Client) -> Result<Visit, Refused> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let mut choice = self.choice();
        let attempt = choice.balancer.admit(client, now_ms());
        let settings = choice.settings.clone();
        drop(choice);
        let attempt = attempt.inspect_err(|why| self.count(*why))?;
        Ok(Visit {
            service: Arc::clone(self),
            attempt,
            settings,
        })
    }

    /// Everything that is locked; a thread that broke down while it had the lock has left it whole,
    /// as nothing in there is half done at any point that can fail.
    pub(super) fn choice(&self) -> MutexGuard<'_, Choice> {
        self.choice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clients that were taken; in HTTP mode requests.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How often clients were not served for this reason.
    pub(super) fn refused(&self, why: Refused) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }

    /// Takes down that a client was not served.
    pub(super) fn count(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Choice {
    /// The server at this place of the configuration.
    pub(super) fn point(&self, id: ServerId) -> Option<&Arc<Point>> {
        self.points.get(&id)
    }

    /// Goes by the servers of `route`, which the balancer has already.
    fn follow(&mut self, route: &Route) {
        let before = std::mem::take(&mut self.points);
        for (index, server) in route.servers.iter().enumerate() {
            let Some(id) = self.balancer.id(index) else {
                continue;
            };
            let known = before.get(&id);
            let was = known.and_then(|point| point.blacklisted_until_ms);
            let until = server.blacklisted_until_ms;
            // What ended by time needs no word, and might speak of a later failure.
            if until != was && (until.is_some() || was > Some(now_ms())) {
                self.balancer.blacklist(id, until);
            }
            self.points.insert(id, Point::of(server, known));
        }
        let last = |server: &Option<Server>, was: &Option<Arc<Point>>| {
            server
                .as_ref()
                .map(|server| Point::of(server, was.as_ref()))
        };
        self.emergency = last(&route.emergency, &self.emergency);
        self.abuse = last(&route.abuse, &self.abuse);
    }
}

impl Point {
    /// Goes on counting where it did `before`.
    fn of(server: &Server, before: Option<&Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            name: server.name.clone(),
            place: server.place.clone(),
            blacklisted_until_ms: server.blacklisted_until_ms,
            counts: before
                .map(|point| Arc::clone(&point.counts))
                .unwrap_or_default(),
        })
    }
}

impl Visit {
    /// Where to go next.
    ///
    /// # Errors
    /// Why nobody is left; it is counted.
    pub(super) fn next(&mut self) -> Result<Arc<Point>, Refused> {
        let mut choice = self.service.choice();
        let target = choice.balancer.next(&mut self.attempt, now_ms());
        let point = match target {
            Ok(Target::Server(id)) => choice.points.get(&id).cloned(),
            Ok(Target::Emergency) => choice.emergency.clone(),
            Ok(Target::Abuse) => choice.abuse.clone(),
            Err(why) => {
                drop(choice);
                let why = explained(why, &self.attempt);
                self.service.count(why);
                return Err(why);
            }
        };
        point.ok_or(Refused::NoServer)
    }

    /// The connection stands.
    pub(super) fn connected(&mut self) {
        let mut choice = self.service.choice();
        choice.balancer.connected(&mut self.attempt);
    }

    /// It could not be made.
    pub(super) fn failed(&mut self) {
        let mut choice = self.service.choice();
        choice.balancer.failed(&mut self.attempt, now_ms());
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut choice = self.service.choice();
        choice.balancer.ended(&mut self.attempt);
    }
}

/// The one reason why no server was left, if it is the same for all and says more.
fn explained(why: Refused, attempt: &Attempt) -> Refused {
    let mut reasons = attempt.passed_over().iter().map(|passed| passed.why);
    match (why, reasons.next()) {
        (Refused::NoServer, Some(first @ (Refused::ServerFull | Refused::ServerAcl)))
            if reasons.all(|other| other == first) =>
        {
            first
        }
        _ => why,
    }
}

fn rules(route: &Route) -> Rules {
    let options = &route.options;
    let ms = |seconds: u32| u64::from(seconds) * 1000;
    Rules {
        switches: options.balance,
        blacklist_ms: ms(options.blacklist),
        tracking_ms: ms(options.tracking),
        clients_max: options.clients_max,
        // The gate lets no more in: clients wait, and are not refused.
        conn_max: u32::MAX,
        client_acl: route.client_acl.clone(),
        emergency: route.emergency.is_some(),
        abuse: route.abuse.is_some(),
        seed: route.seed,
    }
}

fn servers(route: &Route) -> Vec<balance::Server> {
    let servers = route.servers.iter().map(|server| balance::Server {
        name: server.name.clone(),
        weight: server.weight,
        prio: server.prio,
        max: server.max,
        hard: server.hard,
        acl: server.acl.clone(),
    });
    servers.collect()
}

fn settings(options: &ProxyOptions) -> Settings {
    let idle = u64::from(options.idle_timeout);
    Settings {
        timeout: Duration::from_secs(options.timeout.into()),
        source: options.source,
        keepalive: options.keepalive,
        relay: relay::Options {
            idle: (idle > 0).then(|| Duration::from_secs(idle)),
            fast_close: options.tcp_fastclose,
            splice_after: SPLICE_AFTER,
        },
        head_timeout: Duration::from_secs(options.head_timeout.into()),
        trusted: Arc::new(options.trusted.clone()),
        reason_header: options.reason_header,
    }
}
