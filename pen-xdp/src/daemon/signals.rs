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
    /// Somebody wants to know how it goes.
    Statistics,
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

    /// Returns when Pen is to stop; there is nothing to be read again or told yet. Nothing is lost
    /// when the future is dropped before it is ready.
    pub(super) async fn stop(&mut self) {
        loop {
            match self.next().await {
                Heard::Stop => return,
                Heard::Reload => {
                    tracing::warn!("SIGHUP: Pen only starts: send it again when it serves");
                }
                Heard::Statistics => tracing::warn!("SIGUSR1: nothing is served yet"),
            }
        }
    }

    /// Returns when a signal asks for something. Nothing is lost when the future is dropped before it
    /// is ready.
    pub(super) async fn next(&mut self) -> Heard {
        tokio::select! {
            _ = self.terminate.recv() => Heard::Stop,
            _ = self.interrupt.recv() => Heard::Stop,
            _ = self.hangup.recv() => Heard::Reload,
            _ = self.user1.recv() => Heard::Statistics,
        }
    }
}
