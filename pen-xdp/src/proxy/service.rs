//! What all threads share of one service: who serves whom, what is counted, how many may come.

mod settings;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pen_common::config::{Acl, Mode, Redirect};
use pen_common::control::{Ended, ListenerStatus};

use super::balance::{self, Attempt, Balancer, ChosenBy, Client, Refused, Rules, ServerId, Target};
use super::connections::{Connection, Connections, Presence};
use super::gate::Gate;
use super::listeners::Listener;
use super::log::{Current, Line};
use super::queue::Queue;
use super::relay::{self, Counts};
use super::routes::{Place, Route, Server};
use super::session::Visitor;
use super::signpost::Signpost;
use super::tls::servers::{Demands, Peer};
use super::tls::{Agreement, Terms};
use crate::plane::coarse_ns;
use settings::settings;

pub(super) use settings::Settings;

/// A proxy is given that long for its header even where servers must be quicker.
const PATIENCE_MIN: Duration = Duration::from_secs(3);

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) mode: Mode,
    /// Clients that are here.
    pub(super) connections: Arc<Gate>,
    /// Connections to servers that are under way.
    pub(super) pending: Arc<Gate>,
    /// Those of all services.
    pub(super) connections_now: Arc<Connections>,
    /// Clients that wait for a server that has room.
    pub(super) queue: Queue,
    /// When a lack of this host's was told last, on the clock of [`now_ms`].
    told_ms: AtomicU64,
    accepted: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    /// Whether there are clients at all that begin with a header of the PROXY protocol: where there
    /// are none, nobody pays for the question.
    has_proxies: AtomicBool,
    /// Whether clients speak TLS, likewise.
    has_terms: AtomicBool,
    /// Whether clients are led to other services, likewise.
    has_signpost: AtomicBool,
    /// Those who were.
    led: AtomicU64,
    choice: Mutex<Choice>,
    pub(super) log: Current,
    /// Where its clients come in.
    listeners: Mutex<Vec<Arc<Listener>>>,
}

/// What a choice depends on and changes.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) balancer: Balancer,
    points: HashMap<ServerId, Arc<Point>>,
    pub(super) emergency: Option<Arc<Point>>,
    pub(super) abuse: Option<Arc<Point>>,
    settings: Arc<Settings>,
    accept_proxy: Acl,
    terms: Option<Arc<Terms>>,
    signpost: Option<Arc<Signpost>>,
}

/// A server as a place to go to, and what went there.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) name: String,
    pub(super) place: Place,
    /// Pen's number; those for emergency and abuse have none.
    pub(super) index: Option<usize>,
    /// Until when a command has taken it out, on the clock of [`now_ms`].
    blacklisted_until_ms: Option<u64>,
    pub(super) counts: Arc<Counts>,
    /// As it is known over TLS.
    pub(super) peer: Arc<Peer>,
}

/// A client's way through a service; its places are given back when this is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    service: Arc<Service>,
    attempt: Attempt,
    /// Whether its places are given back.
    left: bool,
    pub(super) settings: Arc<Settings>,
    /// Where the service has a log.
    pub(super) line: Option<Box<Line>>,
}

/// Milliseconds of the monotonic clock.
pub(super) fn now_ms() -> u64 {
    coarse_ns() / 1_000_000
}

impl Service {
    /// Its log is another matter, and so are TLS and where it leads.
    pub(super) fn new(route: &Route, connections_now: Arc<Connections>, log: Current) -> Self {
        let mut choice = Choice {
            balancer: Balancer::new(rules(route), servers(route)),
            points: HashMap::new(),
            emergency: None,
            abuse: None,
            settings: Arc::new(settings(&route.options, None)),
            accept_proxy: route.options.accept_proxy.clone(),
            terms: None,
            signpost: None,
        };
        choice.follow(route);
        Self {
            name: route.service.clone(),
            mode: route.mode,
            connections: Arc::new(Gate::new(route.options.conn_max)),
            pending: Arc::new(Gate::new(route.options.pending_max)),
            connections_now,
            queue: Queue::default(),
            told_ms: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: [const { AtomicU64::new(0) }; Refused::ALL.len()],
            has_proxies: AtomicBool::new(has_proxies(route)),
            has_terms: AtomicBool::new(false),
            has_signpost: AtomicBool::new(false),
            led: AtomicU64::new(0),
            choice: Mutex::new(choice),
            log,
            listeners: Mutex::default(),
        }
    }

    /// A line of the log, if there is one, for who comes now.
    pub(super) fn line(&self, visitor: &Visitor) -> Option<Box<Line>> {
        let log = self.log.get()?;
        let listener = Arc::clone(visitor.listener.place());
        Some(Line::new(log, listener, visitor.address, visitor.port))
    }

    /// Where its clients come in from now on.
    pub(super) fn listens(&self, listeners: impl Iterator<Item = Arc<Listener>>) {
        *self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = listeners.collect();
    }

    /// How many came where.
    pub(super) fn listeners(&self) -> Vec<ListenerStatus> {
        let listeners = self.listeners.lock();
        let listeners = listeners.unwrap_or_else(PoisonError::into_inner);
        listeners.iter().map(|listener| listener.status()).collect()
    }

    /// Goes by `route` from now on.
    pub(super) fn update(&self, route: &Route) {
        self.connections.set_max(route.options.conn_max);
        self.pending.set_max(route.options.pending_max);
        let mut choice = self.choice();
        choice.balancer.update(rules(route), servers(route));
        let demands = choice.settings.demands.clone();
        choice.settings = Arc::new(settings(&route.options, demands));
        choice.accept_proxy.clone_from(&route.options.accept_proxy);
        self.has_proxies
            .store(has_proxies(route), Ordering::Relaxed);
        choice.follow(route);
        drop(choice);
        self.queue.room();
    }

    /// Tries a server again, whatever happened to it before.
    pub(super) fn readmit(&self, server: &str) {
        let mut choice = self.choice();
        let found = choice.points.iter().find(|(_, point)| point.name == server);
        if let Some(id) = found.map(|(id, _)| *id) {
            choice.balancer.blacklist(id, None);
        }
        drop(choice);
        self.queue.room();
    }

    /// Whether whoever is at this address is a proxy, which begins with a header of the PROXY
    /// protocol, and how long that may take: as long as a connection to a server.
    pub(super) fn expects_header(&self, peer: IpAddr) -> Option<Duration> {
        if !self.has_proxies.load(Ordering::Relaxed) {
            return None;
        }
        let choice = self.choice();
        let patience = choice.settings.timeout.max(PATIENCE_MIN);
        choice.accept_proxy.names(peer).then_some(patience)
    }

    /// Whether there is anything that a client may have to begin with before what it wants.
    pub(super) fn has_preliminaries(&self) -> bool {
        let all = [&self.has_proxies, &self.has_terms, &self.has_signpost];
        all.into_iter().any(|has| has.load(Ordering::Relaxed))
    }

    /// What clients are offered who must speak TLS; `None` if they need not.
    pub(super) fn terms(&self) -> Option<Arc<Terms>> {
        let has_terms = self.has_terms.load(Ordering::Relaxed);
        has_terms.then(|| self.choice().terms.clone()).flatten()
    }

    /// What servers must show; `None` if they are spoken to in clear.
    pub(super) fn demands(&self) -> Option<Arc<Demands>> {
        self.choice().settings.demands.clone()
    }

    /// What holds with clients and with servers.
    pub(super) fn agreement(&self) -> Agreement {
        Agreement {
            terms: self.terms(),
            demands: self.demands(),
        }
    }

    /// Offers this to clients that come from now on, and demands that of servers for them.
    pub(super) fn agree(&self, Agreement { terms, demands }: Agreement) {
        let mut choice = self.choice();
        self.has_terms.store(terms.is_some(), Ordering::Relaxed);
        choice.terms = terms;
        Arc::make_mut(&mut choice.settings).demands = demands;
    }

    /// What leads clients to other services by name; `None` if they stay.
    pub(super) fn signpost(&self) -> Option<Arc<Signpost>> {
        let has_signpost = self.has_signpost.load(Ordering::Relaxed);
        has_signpost
            .then(|| self.choice().signpost.clone())
            .flatten()
    }

    /// Has this lead clients that come from now on.
    pub(super) fn put_up(&self, signpost: Option<Arc<Signpost>>) {
        let mut choice = self.choice();
        self.has_signpost
            .store(signpost.is_some(), Ordering::Relaxed);
        let before = std::mem::replace(&mut choice.signpost, signpost);
        drop(choice);
        // Which may be the last to know another service.
        drop(before);
    }

    /// Counts a client that is another service's from now on.
    pub(super) fn leads(&self) {
        self.led.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were led to other services.
    pub(super) fn led(&self) -> u64 {
        self.led.load(Ordering::Relaxed)
    }

    /// Counts a client that came and was not let in for this reason, and writes it down; more can be
    /// added to what is written.
    pub(super) fn turn_away(&self, why: Refused, visitor: &Visitor) -> Option<Box<Line>> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.count(why);
        let mut line = self.line(visitor)?;
        line.refused(why);
        Some(line)
    }

    /// What a connection that begins now goes by.
    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.choice().settings)
    }

    /// A client has come; `None` is one over a Unix socket.
    pub(super) fn begin(self: &Arc<Self>, client: Option<SocketAddr>) -> Presence {
        self.connections_now.begin(self, client)
    }

    /// A client's connection is over.
    pub(super) fn ended(&self, connection: &Connection) {
        if let Some(client) = connection.client() {
            let mut choice = self.choice();
            // Taken away at the same moment, for whoever adds up both.
            let (sent, received) = connection.take_bytes();
            choice.balancer.passed(client.ip(), sent, received);
        }
    }

    /// Lets a client in; in HTTP mode each of its requests. Its line of the log goes with it.
    ///
    /// # Errors
    /// Why it is refused; it is counted, and the line says so.
    pub(super) fn admit(
        self: &Arc<Self>,
        client: Client,
        line: &mut Option<Box<Line>>,
    ) -> Result<Visit, Refused> {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let mut choice = self.choice();
        let attempt = choice.balancer.admit(client, now_ms());
        let settings = Arc::clone(&choice.settings);
        drop(choice);
        let attempt = attempt.inspect_err(|why| {
            self.count(*why);
            if let Some(line) = line {
                line.refused(*why);
            }
        })?;
        Ok(Visit {
            service: Arc::clone(self),
            attempt,
            left: false,
            settings,
            line: line.take(),
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

    /// Says what this host lacks, once a second at most.
    pub(super) fn tell(&self, what: fmt::Arguments<'_>) {
        let now = now_ms();
        if now.saturating_sub(self.told_ms.swap(now, Ordering::Relaxed)) >= 1000 {
            tracing::error!("service {}: {what}", self.name);
        }
    }

    /// Counts a client that is not served.
    pub(super) fn count(&self, why: Refused) {
        self.count_many(why, 1);
    }

    /// Counts so many of them.
    pub(super) fn count_many(&self, why: Refused, times: u64) {
        self.refused[why as usize].fetch_add(times, Ordering::Relaxed);
    }

    /// Without a byte for so long a client's time is over; `None` if that was not said.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.choice().settings.relay.idle
    }
}

impl Choice {
    /// The server at this place of the configuration.
    pub(super) fn point(&self, id: ServerId) -> Option<&Arc<Point>> {
        self.points.get(&id)
    }

    /// Where this target is now.
    fn at(&self, target: Target) -> Option<&Arc<Point>> {
        match target {
            Target::Server(id) => self.points.get(&id),
            Target::Emergency => self.emergency.as_ref(),
            Target::Abuse => self.abuse.as_ref(),
        }
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
            // Where the one of this name was missed says nothing of where it is now.
            let moved = known.is_some_and(|point| point.place != server.place);
            // What ended by time needs no word, and might speak of a later failure.
            if moved || (until != was && (until.is_some() || was > Some(now_ms()))) {
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
            index: server.number,
            blacklisted_until_ms: server.blacklisted_until_ms,
            counts: before
                .map(|point| Arc::clone(&point.counts))
                .unwrap_or_default(),
            peer: before
                .filter(|point| point.peer.is_of(server))
                .map(|point| Arc::clone(&point.peer))
                .unwrap_or_else(|| Arc::new(Peer::new(server))),
        })
    }
}

impl Visit {
    /// Where to go next.
    ///
    /// # Errors
    /// Why there is nobody left.
    pub(super) fn next(&mut self) -> Result<Arc<Point>, Refused> {
        let mut choice = self.service.choice();
        let target = choice.balancer.next(&mut self.attempt, now_ms());
        let point = target
            .map_err(|why| explained(why, &self.attempt))
            .and_then(|target| {
                let point = choice.at(target).cloned();
                point.ok_or(Refused::NoServer)
            });
        drop(choice);
        if let Some(line) = &mut self.line {
            match &point {
                Ok(point) => line.goes_to(point, self.attempt.chosen_by()),
                Err(_) => line.goes_nowhere(),
            }
        }
        point
    }

    /// Nobody serves it; it is counted.
    pub(super) fn refused(&mut self, why: Refused) {
        self.service.count(why);
        if let Some(line) = &mut self.line {
            line.refused(why);
        }
    }

    /// How it ended.
    pub(super) fn ended(&mut self, how: Ended) {
        if let Some(line) = &mut self.line {
            line.ended(how);
        }
    }

    /// Who wants to know of what passes.
    pub(super) fn witness(&self) -> Option<&dyn relay::Witness> {
        self.line.as_deref().map(|line| line as &dyn relay::Witness)
    }

    /// What chose the server that [`Visit::next`] gave last.
    pub(super) fn chosen_by(&self) -> Option<ChosenBy> {
        self.attempt.chosen_by()
    }

    /// Where the client is sent, if no server is to be asked for it. Who is denied gets to the abuse
    /// server all the same.
    pub(super) fn redirect(&self) -> Option<Redirect> {
        self.settings.redirect.filter(|_| !self.attempt.is_denied())
    }

    /// Whether a server was passed over that may have room later.
    pub(super) fn may_wait(&self) -> bool {
        self.attempt.found_full()
    }

    /// The connection stands.
    pub(super) fn connected(&mut self) {
        let mut choice = self.service.choice();
        choice.balancer.connected(&mut self.attempt);
        drop(choice);
        if let Some(line) = &mut self.line {
            line.reached();
        }
    }

    /// Its places are free from now on, and it tries no other server.
    pub(super) fn leave(&mut self) {
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        let mut choice = self.service.choice();
        choice.balancer.ended(&mut self.attempt);
        drop(choice);
        self.service.queue.room();
    }

    /// It could not be made to `tried`, which [`Visit::next`] gave; whether a server is taken out
    /// for that which was not before.
    pub(super) fn failed(&mut self, tried: &Point) -> bool {
        if let Some(line) = &mut self.line {
            line.missed();
        }
        let mut choice = self.service.choice();
        // Where it was missed there may be nobody any more, and somebody where it is now.
        let now = self.attempt.target().and_then(|target| choice.at(target));
        if now.is_none_or(|now| now.place != tried.place) {
            choice.balancer.passed_by(&mut self.attempt);
            return false;
        }
        choice.balancer.failed(&mut self.attempt, now_ms())
    }

    /// It could not be made for what this host lacks for this server alone: the next one is tried.
    pub(super) fn passed_by(&mut self) {
        if let Some(line) = &mut self.line {
            line.missed();
        }
        let mut choice = self.service.choice();
        choice.balancer.passed_by(&mut self.attempt);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.leave();
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

fn has_proxies(route: &Route) -> bool {
    !route.options.accept_proxy.lines.is_empty()
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
        client_conn_max: options.client_conn_max,
        client_conn_rate: options.client_conn_rate,
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests;
