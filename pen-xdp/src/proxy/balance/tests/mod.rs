//! Each rule by itself. What Pen does otherwise is named in the test.

#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test's helper says what is wrong"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use pen_common::config::{AclLine, Balance};

use super::*;

mod conditions;
mod lifetime;
mod order;

/// A balancer with a clock.
struct Service {
    balancer: Rc<RefCell<Balancer>>,
    now_ms: Rc<Cell<u64>>,
}

/// An attempt as its holder has it: dropped, it is ended.
struct Held {
    balancer: Rc<RefCell<Balancer>>,
    now_ms: Rc<Cell<u64>>,
    attempt: Attempt,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.balancer.borrow_mut().ended(&mut self.attempt);
    }
}

impl Service {
    fn new(rules: Rules, servers: &[Server]) -> Self {
        Self {
            balancer: Rc::new(RefCell::new(Balancer::new(rules, servers.to_vec()))),
            now_ms: Rc::default(),
        }
    }

    fn update(&self, rules: Rules, servers: &[Server]) {
        self.balancer.borrow_mut().update(rules, servers.to_vec());
    }

    fn admit(&self, client: Client) -> Result<Held, Refused> {
        let attempt = self
            .balancer
            .borrow_mut()
            .admit(client, self.now_ms.get())?;
        Ok(Held {
            balancer: self.balancer.clone(),
            now_ms: self.now_ms.clone(),
            attempt,
        })
    }

    /// Where a client is sent first, by name, and stays.
    fn connect(&self, client: Client) -> (Held, String) {
        let mut held = self.admit(client).unwrap();
        let name = held.next();
        held.balancer.borrow_mut().connected(&mut held.attempt);
        (held, name)
    }

    /// Where a client is sent first; its connection is over at once.
    fn visit(&self, client: Client) -> String {
        self.connect(client).1
    }

    fn id(&self, index: usize) -> ServerId {
        self.balancer.borrow().id(index).unwrap()
    }

    fn blacklist(&self, index: usize, until_ms: Option<u64>) {
        let id = self.id(index);
        assert!(self.balancer.borrow_mut().blacklist(id, until_ms));
    }

    fn connections(&self) -> Vec<u32> {
        let balancer = self.balancer.borrow();
        let views = balancer.servers(0);
        views.map(|view| view.tally.connections).collect()
    }
}

impl Held {
    /// The next target's name, or the word why there is none.
    fn next(&mut self) -> String {
        let next = self
            .balancer
            .borrow_mut()
            .next(&mut self.attempt, self.now_ms.get());
        match next {
            Ok(Target::Server(id)) => {
                let balancer = self.balancer.borrow();
                let view = balancer.servers(0).find(|view| view.id == id).unwrap();
                view.name.to_owned()
            }
            Ok(Target::Emergency) => "emergency".to_owned(),
            Ok(Target::Abuse) => "abuse".to_owned(),
            Err(refused) => refused.to_string(),
        }
    }

    fn failed(&mut self) {
        let now_ms = self.now_ms.get();
        self.balancer.borrow_mut().failed(&mut self.attempt, now_ms);
    }

    /// All targets, each of which fails, and the word at the end.
    fn all_that_fail(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        while {
            names.push(self.next());
            self.attempt.target().is_some()
        } {
            self.failed();
        }
        names
    }
}

fn rules(on: &[Balance]) -> Rules {
    let mut rules = Rules {
        blacklist_ms: 30_000,
        clients_max: 100,
        conn_max: 1_000,
        ..Rules::default()
    };
    for switch in on {
        rules.switches.set(*switch, true);
    }
    rules
}

/// Servers a, b, c, each changed by its number.
fn servers(count: usize, change: impl Fn(usize, &mut Server)) -> Vec<Server> {
    let all = (0..count).map(|number| {
        let mut server = Server {
            name: char::from(b'a' + number as u8).to_string(),
            ..Server::default()
        };
        change(number, &mut server);
        server
    });
    all.collect()
}

fn plain(count: usize) -> Vec<Server> {
    servers(count, |_, _| ())
}

fn client(number: u32) -> Client {
    Client {
        address: Some(Ipv4Addr::from_bits(0x0a00_0000 + number).into()),
        port: 1_024 + number as u16,
    }
}

fn acl(permit: bool, client: Client) -> Acl {
    Acl {
        lines: vec![AclLine {
            permit,
            network: client.address.unwrap(),
            prefix: 32,
        }],
    }
}

const UNIX: Client = Client {
    address: None,
    port: 0,
};
