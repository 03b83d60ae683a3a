//! Signals: caught before anything is set up, because one that is not caught ends the process and
//! leaves everything where it is.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that Pen takes.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    /// Catches them from now on.
    pub(super) fn catch() -> Result<Self> {
        let caught = |kind| signal(kind).context("signals can't be caught");
        Ok(Self {
            terminate: caught(SignalKind::terminate())?,
            interrupt: caught(SignalKind::interrupt())?,
            hangup: caught(SignalKind::hangup())?,
            user1: caught(SignalKind::user_defined1())?,
        })
    }

    /// Returns when Pen is to stop; says of every other signal what becomes of it. Nothing is lost
    /// when the future is dropped before it is ready.
    pub(super) async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => tracing::warn!(
                    "SIGHUP: this version does not read its configuration again; change it by \
                     penctl, or restart"
                ),
                _ = self.user1.recv() => tracing::warn!(
                    "SIGUSR1: this version writes no statistics on it; 'penctl status' shows them"
                ),
            }
        }
    }
}
