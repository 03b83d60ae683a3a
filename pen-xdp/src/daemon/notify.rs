//! What the service manager is told (sd_notify(3)). Where there is none, nobody is told anything.
//!
//! Own code, as it is one datagram: crates for it know no abstract sockets, or wait without end for
//! a manager that hangs.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
    time::Duration,
};

use crate::keeper::child::{keeper, main_pid};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Where the manager listens: a path, or an abstract name behind `@`.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Microseconds without a sign of life after which the manager takes the daemon for dead.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// Whose signs of life those are.
const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// How long a manager that is busy is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// Characters of a status line; the manager ignores whole messages above 4096 bytes.
const LINE_CHARS: usize = 500;

/// Variables by which the manager speaks to one process: none that it starts may answer in its place.
pub const OF_ONE_PROCESS: [&str; 6] = [
    SOCKET,
    WATCHDOG,
    WATCHDOG_PID,
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// What the manager is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// Pen serves.
    Ready,
    /// Pen serves, and whom.
    Serving(String),
    /// What Pen does now.
    Status(String),
    /// The daemon's loop turns.
    Alive,
    /// A reload has begun.
    Reloading,
    /// Pen ends in order.
    Stopping,
}

impl Told {
    /// As the manager reads it; nothing where this host has no clock for it.
    fn message(&self) -> Option<String> {
        Some(match self {
            Self::Ready => "READY=1".to_owned(),
            Self::Serving(line) => format!("READY=1\nSTATUS={}", short(line)),
            Self::Status(line) => format!("STATUS={}", short(line)),
            Self::Alive => "WATCHDOG=1".to_owned(),
            Self::Reloading => {
                // The manager compares it with when it asked, so a coarse clock would be too early.
                let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?;
                let usec = Duration::from(now).as_micros();
                format!("RELOADING=1\nMONOTONIC_USEC={usec}")
            }
            Self::Stopping => "STOPPING=1\nSTATUS=stopping".to_owned(),
        })
    }
}

/// Says that Pen serves, and whom.
pub fn ready(line: &str) {
    must_hear(&Told::Serving(line.to_owned()));
}

/// Says that Pen ends in order.
pub fn stopping() {
    must_hear(&Told::Stopping);
}

/// Says what Pen does now.
pub(super) fn status(line: &str) {
    may_hear(&Told::Status(line.to_owned()));
}

/// Says that the daemon's loop turns.
pub(super) fn alive() {
    may_hear(&Told::Alive);
}

/// Says that a reload begins; it is over when what this returns is dropped.
pub(super) fn reloading() -> Reloading {
    must_hear(&Told::Reloading);
    Reloading(())
}

/// A reload under way, whatever becomes of it.
#[must_use = "the reload is over when this is dropped"]
pub(super) struct Reloading(());

impl Drop for Reloading {
    fn drop(&mut self) {
        must_hear(&Told::Ready);
    }
}

/// When the manager waits for a sign of life, if it does.
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// As the manager told this process. Two signs fit into its limit, so that one may be late.
    pub(super) fn start() -> Self {
        let asked = || {
            let own = main_pid().to_string();
            if env::var(WATCHDOG_PID).is_ok_and(|pid| pid != own) {
                return None;
            }
            let limit: u64 = env::var(WATCHDOG).ok()?.parse().ok()?;
            (limit > 0).then(|| Duration::from_micros(limit / 2).max(Duration::from_millis(1)))
        };
        Self(asked().map(|pace| {
            let mut interval = interval(pace);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Returns when a sign is due. Nothing is lost when the future is dropped before it is ready.
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// The manager waits for this, and ends a daemon that it does not hear it from.
fn must_hear(told: &Told) {
    if let Err(error) = tell(told) {
        tracing::warn!("the service manager ({SOCKET}) can't be told anything: {error}");
    }
}

fn may_hear(told: &Told) {
    if let Err(error) = tell(told) {
        tracing::debug!("the service manager ({SOCKET}) can't be told anything: {error}");
    }
}

/// What the process that serves has to say: it is not the one that the manager started and hears.
pub(crate) fn pass_on(told: &Told) {
    may_hear(told);
}

fn tell(told: &Told) -> io::Result<()> {
    let Some(name) = env::var_os(SOCKET) else {
        return Ok(());
    };
    if let Some(keeper) = keeper() {
        return keeper.tell(told);
    }
    let Some(message) = told.message() else {
        return Err(io::Error::other("this host has no clock"));
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(Path::new(&name)),
    }?;
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// Messages are lines, and a path in this one may hold anything.
fn short(line: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    line.chars().map(shown).take(LINE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_that_the_manager_takes() {
        assert_eq!(short("serving /run/a\nREADY=1"), "serving /run/a READY=1");
        assert!(short(&"\u{1f600}".repeat(10_000)).len() < 4_000);
    }
}
