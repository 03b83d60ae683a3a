//! What the proxy shows of itself.

use std::sync::atomic::Ordering;

use pen_common::control::{BackendState, Counter, ProxyServerStatus, ProxyStatus, mode_line};

use super::Proxy;
use super::balance::{Refused, Tally};
use super::routes::{Route, Server};
use super::service::{Point, Service, now_ms};

impl Proxy {
    /// The services, in the order of the configuration.
    pub fn status(&self) -> Vec<ProxyStatus> {
        let services = self.services.iter().zip(self.routes.iter());
        services
            .map(|(service, route)| status(service, route))
            .collect()
    }

    /// Why clients were not served, over all services.
    pub fn refusals(&self) -> Vec<Counter> {
        let sum = |why| {
            self.services
                .iter()
                .map(|service| service.refused(why))
                .sum()
        };
        let reasons = Refused::ALL.iter();
        reasons.map(|why| counter(*why, sum(*why))).collect()
    }

    /// A server as all services of its pool have it together, which may be none: connections now,
    /// bytes sent to it, bytes received from it.
    pub fn traffic(&self, pool: &str, server: &str) -> (u32, u64, u64) {
        let services = self.services.iter().zip(self.routes.iter());
        let of_pool = services.filter(|(_, route)| route.pool == pool);
        let mut sum = (0, 0, 0);
        for (service, _) in of_pool {
            let choice = service.choice();
            let found = choice
                .balancer
                .servers(now_ms())
                .find(|view| view.name == server);
            if let Some(view) = found {
                let (sent, received) = choice.point(view.id).map(|p| bytes(p)).unwrap_or_default();
                sum.0 += view.tally.connections;
                sum.1 += sent;
                sum.2 += received;
            }
        }
        sum
    }
}

fn status(service: &Service, route: &Route) -> ProxyStatus {
    let refused = Refused::ALL
        .iter()
        .map(|why| counter(*why, service.refused(*why)));
    ProxyStatus {
        service: service.name.clone(),
        mode: route.mode,
        listen: route.listen.clone(),
        pool: route.pool.clone(),
        redirect: route.options.redirect.map(|to| to.to_string()),
        sni_routes: route
            .options
            .sni_routes
            .iter()
            .map(ToString::to_string)
            .collect(),
        led: service.led(),
        balance: mode_line(route.options.balance),
        connections: service.connections.inside(),
        conn_max: service.connections.max(),
        waiting: service.queue.waiting(),
        accepted: service.accepted(),
        refused: refused.collect(),
        servers: servers(service, route),
        listeners: service.listeners(),
        log: service.log.status(route.options.log_format),
        certificates: service.terms().map(|terms| terms.status()),
        server_tls: service.demands().map(|demands| demands.status()),
    }
}

fn servers(service: &Service, route: &Route) -> Vec<ProxyServerStatus> {
    let choice = service.choice();
    let now_ms = now_ms();
    // Weights that are all 0 count for nothing.
    let weighted = route.servers.iter().any(|server| server.weight > 0);
    let mut rows = Vec::new();
    for view in choice.balancer.servers(now_ms) {
        let server = view.index.and_then(|index| route.servers.get(index));
        let (Some(server), Some(point)) = (server, choice.point(view.id)) else {
            continue;
        };
        let left_ms = view
            .blacklisted_until_ms
            .map(|until| until.saturating_sub(now_ms));
        let mut row = row(server, point, view.tally, left_ms);
        row.index = server.number;
        if weighted && server.weight == 0 && left_ms.is_none() {
            row.state = BackendState::Drained;
        }
        rows.push(row);
    }
    let last = [
        (
            &route.emergency,
            &choice.emergency,
            choice.balancer.emergency(),
        ),
        (&route.abuse, &choice.abuse, choice.balancer.abuse()),
    ];
    for (server, point, tally) in last {
        if let (Some(server), Some(point)) = (server, point) {
            rows.push(row(server, point, tally, None));
        }
    }
    rows
}

fn row(server: &Server, point: &Point, tally: Tally, left_ms: Option<u64>) -> ProxyServerStatus {
    let (sx, rx) = bytes(point);
    ProxyServerStatus {
        index: None,
        name: server.name.clone(),
        address: server.place.to_string(),
        weight: server.weight,
        state: match left_ms {
            Some(_) => BackendState::Blacklisted,
            None => BackendState::Up,
        },
        blacklist_left_s: left_ms.map(|ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX)),
        conn: tally.connections,
        connects: tally.connects,
        failures: tally.failures,
        sx,
        rx,
        handshake: point.peer.status(),
    }
}

/// Sent to it and received from it.
fn bytes(point: &Point) -> (u64, u64) {
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    (read(&point.counts.up), read(&point.counts.down))
}

fn counter(why: Refused, count: u64) -> Counter {
    Counter {
        reason: why.to_string(),
        text: why.text().to_owned(),
        count,
    }
}
