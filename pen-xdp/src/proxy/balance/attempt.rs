//! One client's way to a server.

use std::net::IpAddr;

use pen_common::control::{ChosenBy, Refused};

use super::limits::Limited;
use super::servers::ServerId;

/// Most servers of which an [`Attempt`] keeps why they were passed over.
pub const PASSED_OVER_MAX: usize = 8;

/// Who asks to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// `None` for a Unix socket, whose clients pass every access list and are never remembered.
    pub address: Option<IpAddr>,
    /// Source port; 0 for a Unix socket.
    pub port: u16,
}

/// Where a client is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A server of the pool.
    Server(ServerId),
    /// Who serves when no server can.
    Emergency,
    /// Who serves clients that the service's access list denies.
    Abuse,
}

/// Who did not get a client, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedOver {
    /// Who.
    pub target: Target,
    /// Why.
    pub why: Refused,
}

/// A client that was admitted: one place of the service's connections, and one of the server's
/// while it has one. Both go back by [`Balancer::ended`](super::Balancer::ended), which whoever
/// holds the attempt must call; a guard that does so when it is dropped can't forget it.
#[must_use]
#[derive(Debug)]
pub struct Attempt {
    pub(super) client: Client,
    /// By the service's access list.
    pub(super) denied: bool,
    /// Whose limits it counts for.
    pub(super) limited: Option<Limited>,
    /// The client's server before, until it was considered.
    pub(super) remembered: Option<ServerId>,
    pub(super) holds: Option<(Target, ChosenBy)>,
    pub(super) connected: bool,
    /// Whether the emergency or abuse server had its turn; nobody comes after it.
    pub(super) last_resort: bool,
    pub(super) tried: Vec<ServerId>,
    pub(super) passed_over: Vec<PassedOver>,
    /// Whether one of those that were passed over, kept in mind or not, was full.
    pub(super) full: bool,
    /// When it was last asked for a server.
    pub(super) asked_ms: u64,
    pub(super) ended: bool,
}

impl Attempt {
    /// The client, by its IPv4 address also where that came mapped into IPv6.
    pub const fn client(&self) -> Client {
        self.client
    }

    /// Whether the access list denies the client, which has the abuse server alone then.
    pub const fn is_denied(&self) -> bool {
        self.denied
    }

    /// Where the client was sent last, if that did not fail or end.
    pub fn target(&self) -> Option<Target> {
        self.holds.map(|(target, _)| target)
    }

    /// What chose [`Attempt::target`].
    pub fn chosen_by(&self) -> Option<ChosenBy> {
        self.holds.map(|(_, by)| by)
    }

    /// Who was passed over and why, at most [`PASSED_OVER_MAX`]: servers that failed, that the
    /// client would have gone to, and, if it found none at all, the others too.
    pub fn passed_over(&self) -> &[PassedOver] {
        &self.passed_over
    }

    /// Whether a server was passed over that may have room later.
    pub const fn found_full(&self) -> bool {
        self.full
    }

    pub(super) fn pass_over(&mut self, target: Target, why: Refused) {
        self.full |= why == Refused::ServerFull;
        let passed = PassedOver { target, why };
        if self.passed_over.len() < PASSED_OVER_MAX && !self.passed_over.contains(&passed) {
            self.passed_over.push(passed);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        debug_assert!(
            self.ended || std::thread::panicking(),
            "an attempt was dropped that holds a place: {self:?}"
        );
    }
}
