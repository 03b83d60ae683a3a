//! Where clients come in, as it is shown and written down, and how many did.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pen_common::control::ListenerStatus;

/// A listener, whatever service it is at the moment. Who is led to another service has come here all
/// the same.
#[derive(Debug)]
pub(super) struct Listener {
    listen: Arc<str>,
    taken: AtomicU64,
}

impl Listener {
    /// One that nobody has come to yet.
    pub(super) fn new(listen: &str) -> Arc<Self> {
        Arc::new(Self {
            listen: listen.into(),
            taken: AtomicU64::new(0),
        })
    }

    /// Counts somebody who came.
    pub(super) fn came(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Where it is, for people.
    pub(super) fn place(&self) -> &Arc<str> {
        &self.listen
    }

    /// How many came.
    pub(super) fn status(&self) -> ListenerStatus {
        ListenerStatus {
            listen: self.listen.to_string(),
            taken: self.taken.load(Ordering::Relaxed),
        }
    }
}
