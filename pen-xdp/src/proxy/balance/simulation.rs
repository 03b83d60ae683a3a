//! Random operations in any order, each checked against what may be.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use pen_common::config::{AclLine, Balance};

use crate::numbers::Numbers;

use super::*;

const STEPS: usize = 100_000;
/// Attempts that are open at the same time.
const OPEN_MAX: usize = 60;
/// Clients with this bit are in the network that the access list denies.
const DENIED: u64 = 16;

/// What the balancer was told, kept apart from it.
struct Simulation {
    numbers: Numbers,
    balancer: Balancer,
    rules: Rules,
    servers: Vec<Server>,
    now_ms: u64,
    /// Each with whether the access list denied it when it came.
    attempts: Vec<(Attempt, bool)>,
    /// By name: a server that is gone may come back.
    blacklisted: BTreeMap<String, u64>,
    /// How often each outcome was seen: a simulation that never gets there proves nothing.
    seen: BTreeMap<String, u64>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut new = Self {
            numbers: Numbers::from_seed(seed),
            balancer: Balancer::new(Rules::default(), Vec::new()),
            rules: Rules::default(),
            servers: Vec::new(),
            now_ms: 0,
            attempts: Vec::new(),
            blacklisted: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        new.update();
        new
    }

    fn step(&mut self) {
        match self.numbers.below(100) {
            0 => self.update(),
            1..=3 => self.command(),
            4..=12 => self.now_ms += self.numbers.below(50),
            13..=35 => self.admit(),
            36..=60 => self.next(),
            61..=75 => self.with_attempt(|sim, at| {
                let (attempt, _) = &mut sim.attempts[at];
                sim.balancer.connected(attempt);
            }),
            76..=82 => self.fail(),
            _ => self.with_attempt(|sim, at| {
                let (mut attempt, _) = sim.attempts.swap_remove(at);
                sim.balancer.ended(&mut attempt);
                if sim.numbers.one_in(4) {
                    sim.balancer.ended(&mut attempt);
                    sim.balancer.failed(&mut attempt, sim.now_ms);
                    assert!(sim.balancer.next(&mut attempt, sim.now_ms).is_err());
                }
            }),
        }
        self.forget();
        self.check();
    }

    /// A server that left is forgotten with its last connection.
    fn forget(&mut self) {
        let views = self.balancer.servers(0);
        let known: Vec<String> = views.map(|view| view.name.to_owned()).collect();
        self.blacklisted.retain(|name, _| known.contains(name));
    }

    fn with_attempt(&mut self, act: impl FnOnce(&mut Self, usize)) {
        if !self.attempts.is_empty() {
            let at = self.numbers.below(self.attempts.len() as u64) as usize;
            act(self, at);
        }
    }

    fn update(&mut self) {
        let numbers = &mut self.numbers;
        let mut rules = Rules {
            blacklist_ms: numbers.below(300),
            tracking_ms: numbers.below(3) * 200,
            clients_max: numbers.below(12) as u32,
            conn_max: 30 + numbers.below(40) as u32,
            emergency: numbers.one_in(3),
            abuse: numbers.one_in(2),
            seed: numbers.below(2),
            ..Rules::default()
        };
        for switch in Balance::ALL {
            rules.switches.set(*switch, numbers.one_in(4));
        }
        if numbers.one_in(2) {
            rules.client_acl = deny();
        }
        let mut servers = Vec::new();
        let weights = numbers.one_in(2);
        for name in 0..8 {
            if numbers.one_in(3) {
                continue;
            }
            servers.push(Server {
                name: name.to_string(),
                weight: if weights { numbers.below(4) as u16 } else { 0 },
                prio: numbers.below(3) as u32,
                max: numbers.below(8) as u32,
                hard: numbers.below(10) as u32,
                acl: match numbers.one_in(4) {
                    true => deny(),
                    false => Acl::default(),
                },
            });
        }
        let len = servers.len() as u64;
        servers.rotate_left(numbers.below(len + 1) as usize);
        self.balancer.update(rules.clone(), servers.clone());
        (self.rules, self.servers) = (rules, servers);
    }

    fn command(&mut self) {
        let index = self.numbers.below(8) as usize;
        let Some(id) = self.balancer.id(index) else {
            return;
        };
        let until = self.now_ms + self.numbers.below(400);
        let until = (!self.numbers.one_in(3)).then_some(until);
        assert!(self.balancer.blacklist(id, until));
        self.blacklisted.insert(self.name(id), until.unwrap_or(0));
    }

    fn admit(&mut self) {
        if self.attempts.len() == OPEN_MAX {
            return;
        }
        let number = self.numbers.below(32);
        let client = Client {
            address: (number > 0).then(|| Ipv4Addr::from_bits(number as u32).into()),
            port: self.numbers.below(1_000) as u16,
        };
        let denied = number & DENIED > 0 && !self.rules.client_acl.lines.is_empty();
        let full = self.attempts.len() >= self.rules.conn_max as usize;
        match self.balancer.admit(client, self.now_ms) {
            Ok(attempt) => {
                assert!(!full && (!denied || self.rules.abuse));
                self.attempts.push((attempt, denied));
            }
            Err(refused) => {
                let right = match full {
                    true => Refused::TooManyConnections,
                    false => Refused::AclDenied,
                };
                assert_eq!(refused, right);
                self.count(refused.word());
            }
        }
    }

    fn next(&mut self) {
        self.with_attempt(|sim, at| {
            let (attempt, denied) = &mut sim.attempts[at];
            let denied = *denied;
            let client = attempt.client();
            let remembered = attempt.remembered;
            let last_resort = attempt.last_resort
                || matches!(attempt.target(), Some(Target::Emergency | Target::Abuse));
            let mut tried = attempt.tried.clone();
            if let Some(Target::Server(id)) = attempt.target() {
                tried.push(id);
            }
            let next = sim.balancer.next(attempt, sim.now_ms);
            let stubborn = sim.rules.switches.has(Balance::Stubborn);
            match next {
                Ok(Target::Server(id)) => {
                    assert!(!denied && !last_resort && !tried.contains(&id));
                    assert!(tried.is_empty() || !stubborn);
                    sim.check_chosen(id, client, remembered == Some(id));
                    sim.count("server");
                }
                Ok(Target::Emergency) => {
                    assert!(!denied && !last_resort && sim.rules.emergency);
                    sim.check_none_was_free(&tried, client);
                    sim.count("emergency");
                }
                Ok(Target::Abuse) => {
                    assert!(denied && !last_resort && sim.rules.abuse);
                    sim.count("abuse");
                }
                Err(refused) => {
                    if refused == Refused::NoServer && !last_resort {
                        assert!(!sim.rules.emergency);
                        sim.check_none_was_free(&tried, client);
                    }
                    assert_eq!(refused == Refused::AclDenied, denied);
                    assert!(refused != Refused::Stubborn || stubborn);
                    sim.count(refused.word());
                }
            }
        });
    }

    fn fail(&mut self) {
        self.with_attempt(|sim, at| {
            let target = sim.attempts[at].0.target();
            if let Some(Target::Server(id)) = target {
                let until = sim.now_ms + sim.rules.blacklist_ms;
                let known = sim.blacklisted.entry(sim.name(id)).or_default();
                *known = until.max(*known);
            }
            let (attempt, _) = &mut sim.attempts[at];
            sim.balancer.failed(attempt, sim.now_ms);
            assert_eq!(attempt.target(), None);
        });
    }

    fn check_chosen(&self, id: ServerId, client: Client, remembered: bool) {
        let name = self.name(id);
        let server = self.servers.iter().find(|server| server.name == name);
        let server = server.expect("a chosen server is in the configuration");
        assert!(!self.is_blacklisted(&name), "{name} is blacklisted");
        assert!(may_pass(&server.acl, client), "{name} is denied");
        let limit = match remembered {
            true => server.max.max(server.hard),
            false => server.max,
        };
        let connections = self.held(Target::Server(id));
        assert!(
            server.max == 0 || connections <= limit,
            "{name} has {connections}"
        );
        assert!(remembered || self.may_have_new(server), "{name} is drained");
    }

    fn check_none_was_free(&self, tried: &[ServerId], client: Client) {
        for (index, server) in self.servers.iter().enumerate() {
            let id = self.balancer.id(index).expect("each server has a number");
            let room = server.max == 0 || self.held(Target::Server(id)) < server.max;
            let free = room
                && !self.is_blacklisted(&server.name)
                && self.may_have_new(server)
                && may_pass(&server.acl, client);
            assert!(!free || tried.contains(&id), "{} was free", server.name);
        }
    }

    fn may_have_new(&self, server: &Server) -> bool {
        let all_alike = self.servers.iter().all(|server| server.weight == 0);
        all_alike || server.weight > 0
    }

    fn is_blacklisted(&self, name: &str) -> bool {
        self.blacklisted
            .get(name)
            .is_some_and(|until| *until > self.now_ms)
    }

    fn held(&self, target: Target) -> u32 {
        let attempts = self.attempts.iter();
        attempts
            .filter(|(attempt, _)| attempt.target() == Some(target))
            .count() as u32
    }

    fn name(&self, id: ServerId) -> String {
        let view = self.balancer.servers(0).find(|view| view.id == id);
        view.expect("a server with a connection is known")
            .name
            .to_owned()
    }

    fn count(&mut self, outcome: &str) {
        *self.seen.entry(outcome.to_owned()).or_default() += 1;
    }

    /// What holds after every step.
    fn check(&self) {
        let balancer = &self.balancer;
        assert_eq!(balancer.connections() as usize, self.attempts.len());
        assert!(balancer.clients() <= self.rules.clients_max as usize);
        assert_eq!(
            balancer.emergency().connections,
            self.held(Target::Emergency)
        );
        assert_eq!(balancer.abuse().connections, self.held(Target::Abuse));
        let mut places = 0;
        for view in balancer.servers(self.now_ms) {
            assert_eq!(view.tally.connections, self.held(Target::Server(view.id)));
            assert_eq!(
                view.blacklisted_until_ms.is_some(),
                self.is_blacklisted(view.name)
            );
            assert!(view.index.is_some() || view.tally.connections > 0);
            assert_eq!(
                view.index.and_then(|index| balancer.id(index)),
                view.index.map(|_| view.id)
            );
            places += view.tally.connections;
        }
        let at_servers = |target| matches!(target, Some(Target::Server(_)));
        let attempts = self.attempts.iter();
        let held = attempts.filter(|(attempt, _)| at_servers(attempt.target()));
        assert_eq!(places as usize, held.count());
    }
}

/// Said by the simulation's one list, not by the code that reads lists.
fn may_pass(acl: &Acl, client: Client) -> bool {
    let denied = |address| match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()) & DENIED > 0,
        IpAddr::V6(_) => false,
    };
    acl.lines.is_empty() || !client.address.is_some_and(denied)
}

fn deny() -> Acl {
    Acl {
        lines: vec![AclLine {
            permit: false,
            network: Ipv4Addr::from_bits(DENIED as u32).into(),
            prefix: 28,
        }],
    }
}

#[test]
fn nothing_leaks_and_no_rule_is_broken() {
    let mut sim = Simulation::new(1);
    for _ in 0..STEPS {
        sim.step();
    }
    while let Some((mut attempt, _)) = sim.attempts.pop() {
        sim.balancer.ended(&mut attempt);
        sim.forget();
        sim.check();
    }
    for view in sim.balancer.servers(0) {
        assert_eq!((view.tally.connections, view.index.is_some()), (0, true));
    }
    for outcome in [
        "server",
        "emergency",
        "abuse",
        "no-server",
        "stubborn",
        "acl-denied",
        "too-many-connections",
    ] {
        let count = sim.seen.get(outcome).copied().unwrap_or_default();
        assert!(
            count > 100,
            "{outcome} was seen {count} times: {:?}",
            sim.seen
        );
    }
}
