//! Where clients come in, and how many did.
//!
//! Listeners have numbers among those of all services: who is led to another service has come to a
//! listener of the first one all the same.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pen_common::control::ListenerStatus;

use super::routes::Route;

/// One service's, and how to find those of others.
#[derive(Debug)]
pub(super) struct Listeners {
    all: Arc<[Listener]>,
    own: Range<usize>,
}

/// A listener, and how many came there.
#[derive(Debug)]
struct Listener {
    listen: Arc<str>,
    taken: AtomicU64,
}

impl Listeners {
    /// Those of each service, in the order of the routes.
    pub(super) fn of<'a>(routes: impl Iterator<Item = &'a Route>) -> Vec<Self> {
        let (mut all, mut own) = (Vec::new(), Vec::new());
        for route in routes {
            let first = all.len();
            all.extend(route.listen.iter().map(|at| Listener {
                listen: at.as_str().into(),
                taken: AtomicU64::new(0),
            }));
            own.push(first..all.len());
        }
        let all: Arc<[Listener]> = all.into();
        let of_service = |own| Self {
            all: Arc::clone(&all),
            own,
        };
        own.into_iter().map(of_service).collect()
    }

    /// The number of the service's own listener at this place.
    pub(super) fn number(&self, at: usize) -> usize {
        self.own.start + at
    }

    /// Counts somebody who came to a listener.
    pub(super) fn came(&self, number: usize) {
        if let Some(listener) = self.all.get(number) {
            listener.taken.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where a listener is, of whatever service.
    pub(super) fn place(&self, number: usize) -> Option<&Arc<str>> {
        self.all.get(number).map(|listener| &listener.listen)
    }

    /// How many came to each of the service's own.
    pub(super) fn status(&self) -> Vec<ListenerStatus> {
        let own = self.all.get(self.own.clone()).unwrap_or_default().iter();
        let status = own.map(|listener| ListenerStatus {
            listen: listener.listen.to_string(),
            taken: listener.taken.load(Ordering::Relaxed),
        });
        status.collect()
    }
}
