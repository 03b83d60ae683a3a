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

/// What a signal asks for.
pub(super) enum Heard {
    Stop,
    /// Log files may have been renamed, and the configuration may be another one.
    Reload,
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

    /// Returns when Pen is to stop. Nothing is lost when the future is dropped before it is ready.
    pub(super) async fn stop(&mut self) {
        while let Heard::Reload = self.next().await {
            tracing::warn!("SIGHUP: Pen only starts: send it again when it serves");
        }
    }

    /// Returns when a signal asks for something; says of every other signal what becomes of it.
    /// Nothing is lost when the future is dropped before it is ready.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Heard::Stop,
                _ = self.interrupt.recv() => return Heard::Stop,
                _ = self.hangup.recv() => return Heard::Reload,
                _ = self.user1.recv() => tracing::warn!(
                    "SIGUSR1: this version writes no statistics on it; 'penctl status' shows them"
                ),
            }
        }
    }
}
