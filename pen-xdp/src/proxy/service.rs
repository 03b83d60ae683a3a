//! What all threads share of one service: who serves whom, what is counted, how many may come.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pen_common::config::{FastClose, ProxyOptions};
use pen_common::control::Refused;

use super::balance::{self, Attempt, Balancer, Client, Rules, ServerId, Target};
use super::gate::Gate;
use super::relay::Counts;
use super::routes::{Place, Route, Server};
use crate::plane::coarse_ns;

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    /// Clients that are here.
    pub(super) connections: Arc<Gate>,
    /// Connections to servers that are under way.
    pub(super) pending: Arc<Gate>,
    accepted: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    course: Mutex<Course>,
}

/// What a choice depends on and changes.
#[derive(Debug)]
struct Course {
    balancer: Balancer,
    points: HashMap<ServerId, Arc<Point>>,
    emergency: Option<Arc<Point>>,
    abuse: Option<Arc<Point>>,
    settings: Settings,
}

/// What a connection goes by from its beginning to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) timeout: Duration,
    pub(super) idle: Option<Duration>,
    pub(super) fast_close: FastClose,
    pub(super) keepalive: bool,
    pub(super) source: Option<std::net::IpAddr>,
}

/// A server as a place to go to, and what went there.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) counts: Counts,
}

impl Service {
    pub(super) fn new(route: &Route) -> Self {
        let balancer = Balancer::new(rules(route), servers(route));
        let service = Self {
            name: route.service.clone(),
            connections: Arc::new(Gate::new(route.options.conn_max)),
            pending: Arc::new(Gate::new(route.options.pending_max)),
            accepted: AtomicU64::new(0),
            refused: [const { AtomicU64::new(0) }; Refused::ALL.len()],
            course: Mutex::new(Course {
                balancer,
                points: HashMap::new(),
                emergency: None,
                abuse: None,
                settings: Settings::of(&route.options),
            }),
        };
        service.course().follow(route);
        service
    }

    /// Goes by `route` from now on.
    pub(super) fn update(&self, route: &Route) {
        self.connections.set_max(route.options.conn_max);
        self.pending.set_max(route.options.pending_max);
        let mut course = self.course();
        course.balancer.update(rules(route), servers(route));
        course.settings = Settings::of(&route.options);
        course.follow(route);
    }
}
