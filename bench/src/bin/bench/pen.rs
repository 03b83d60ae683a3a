//! Pen itself in a measurement: its configuration, its start, and the proof that it took the plane
//! that is named.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, str};

use anyhow::{Context, Result, bail, ensure};
use lab::{Lab, Namespace, Process};
use pen_common::config::{Backend, Config, ControlAt, Listener, Plane, Pool, Service, XdpMode};
use pen_common::control::{BackendState, Envelope, ServedBy, Status};
use pen_common::verdict::Reason;

use crate::contender::Polling;

const START_LIMIT: Duration = Duration::from_secs(15);
/// Settings of a device that tell how its queues are polled (kernel document "napi").
const POLLING_SETTINGS: [&str; 2] = ["napi_defer_hard_irqs", "gro_flush_timeout"];
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Workers tell four times a second what their sockets refused, and sleep up to 50 ms.
const LOSSES_TOLD: Duration = Duration::from_millis(350);

/// A running `pen`; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Pen {
    process: Process,
    control: PathBuf,
    plane: Plane,
}

/// What a `pen` shall serve: one service, one pool.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) interface: String,
    pub(crate) plane: Plane,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) backends: Vec<IpAddr>,
    /// Slots of the pool's table.
    pub(crate) table_size: u32,
}

/// What a `pen` has counted of frames for VIPs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    forwarded: u64,
    redirected: u64,
    /// Of those redirected, frames for which the worker's socket had no room.
    refused: u64,
}

impl Pen {
    /// Starts `pen` on a load balancer and waits until it is on the plane asked for, in native
    /// mode, with every back end's MAC known.
    ///
    /// # Errors
    /// It says no, it fell back to another plane or mode, or it is not ready within 15 s.
    pub(crate) fn start(lab: &Lab, machine: &Namespace, setup: &Setup) -> Result<Self> {
        let folder = machine.folder().join(format!("pen-{}", setup.interface));
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let control = folder.join("control");
        let file = folder.join("pen.toml");
        fs::write(&file, setup.config(lab, &folder, &control).to_toml())
            .with_context(|| format!("writing {}", file.display()))?;
        let words = ["--config".as_ref(), file.as_os_str()];
        let process = machine.spawn(lab::binary("pen")?, words)?;
        let pen = Self {
            process,
            control,
            plane: setup.plane,
        };
        pen.wait_until_ready()?;
        Ok(pen)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let missing = match self.status() {
                Ok(status) => match self.is_as_named(&status) {
                    Ok(()) => return Ok(()),
                    Err(missing) => missing,
                },
                Err(error) => error,
            };
            let waiting = self.process.is_running() && Instant::now() < deadline;
            let output = self.process.output();
            ensure!(
                waiting,
                "pen is not ready: {missing:#}; it printed:\n{output}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the plane, its mode and all queues are what the measurement says; never a fall-back.
    fn is_as_named(&self, status: &Status) -> Result<()> {
        let (plane, mode) = (status.dsr().plane.actual, status.dsr().xdp.mode);
        ensure!(
            plane == self.plane,
            "it is on plane {plane}: {}",
            status.dsr().plane.why
        );
        ensure!(
            mode == Some(XdpMode::Native),
            "its program is not native: {}",
            status.dsr().xdp.why
        );
        let by = if self.plane == Plane::AfXdp {
            ServedBy::Worker
        } else {
            ServedBy::Program
        };
        ensure!(
            status
                .dsr()
                .queues
                .iter()
                .all(|queue| queue.served_by == by),
            "a queue is not by {by}"
        );
        let mut backends = status.dsr().pools.iter().flat_map(|pool| &pool.backends);
        ensure!(
            backends.all(|backend| backend.state == BackendState::Up),
            "a back end is not up"
        );
        Ok(())
    }

    /// What `status` says.
    pub(crate) fn status(&self) -> Result<Status> {
        let value = ask(&self.control, "status")?.context("an answer without a value")?;
        serde_json::from_value(value).context("reading pen's status")
    }

    /// Changes something by a command of Pen's.
    pub(crate) fn command(&self, command: &str) -> Result<()> {
        ask(&self.control, command).map(drop)
    }

    /// The core of the worker, if there is one.
    pub(crate) fn core(&self) -> Result<Option<usize>> {
        let status = self.status()?;
        Ok(status
            .dsr()
            .queues
            .first()
            .and_then(|queue| queue.core)
            .map(|core| core as usize))
    }

    /// How its workers take frames, and what it has set on the device for that.
    pub(crate) fn polling(&self) -> Result<Polling> {
        let status = self.status()?;
        let settings = status.dsr().nic_changes.iter().cloned();
        let settings = settings.filter(|change| POLLING_SETTINGS.contains(&change.what.as_str()));
        Ok(Polling {
            busy: status.dsr().queues.iter().any(|queue| queue.busy_poll),
            settings: settings.map(|change| (change.what, change.now)).collect(),
        })
    }

    /// What has been counted until now.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let status = self.status()?;
        let count = |reason: Reason| {
            let mut counters = status.dsr().counters.iter();
            counters
                .find(|c| c.reason == reason.label())
                .map_or(0, |counter| counter.count)
        };
        let sockets = status.dsr().queues.iter();
        let sockets = sockets.filter_map(|queue| queue.xdp_statistics.as_ref());
        Ok(Counts {
            forwarded: count(Reason::Forwarded),
            redirected: count(Reason::Redirected),
            refused: sockets.map(|of| of.rx_dropped + of.rx_ring_full).sum(),
        })
    }

    /// Proves by counters that the `delivered` frames since `before` took the plane that is named.
    pub(crate) fn prove_plane(&self, before: Counts, delivered: u64) -> Result<()> {
        self.is_as_named(&self.status()?)?;
        if self.plane == Plane::AfXdp {
            thread::sleep(LOSSES_TOLD);
        }
        let now = self.counts()?;
        let forwarded = now.forwarded - before.forwarded;
        let redirected = now.redirected - before.redirected;
        let refused = now.refused - before.refused;
        ensure!(
            forwarded >= delivered,
            "pen counted {forwarded} of {delivered} frames"
        );
        // A worker that the machine held up for 200 ms is passed over; that may happen, but not
        // make a result.
        // Where more is offered than forwarded, the redirected frames that got lost must not make
        // up for others that the program forwarded itself.
        let off_the_plane = match self.plane {
            Plane::AfXdp => forwarded.saturating_sub(redirected.saturating_sub(refused)),
            Plane::Xdp => redirected,
            Plane::Auto | Plane::AfPacket => bail!("no measurement is about plane {}", self.plane),
        };
        ensure!(
            off_the_plane * 100 <= delivered,
            "{off_the_plane} of {delivered} frames did not take plane {}",
            self.plane
        );
        Ok(())
    }
}

impl Setup {
    fn config(&self, lab: &Lab, folder: &Path, control: &Path) -> Config {
        Config {
            interface: self.interface.clone(),
            plane: self.plane,
            control: Some(ControlAt::Path(control.to_owned())),
            bpffs: lab.bpffs(),
            run_dir: folder.to_owned(),
            foreground: true,
            services: vec![Service {
                listeners: self.listeners.clone(),
                ..Service::new("bench")
            }],
            pools: vec![Pool {
                table_size: self.table_size,
                backends: self
                    .backends
                    .iter()
                    .map(|address| Backend::new(*address))
                    .collect(),
                ..Pool::new("bench")
            }],
            ..Config::default()
        }
    }
}

/// Asks over the control socket and returns the value of the answer.
fn ask(control: &Path, command: &str) -> Result<Option<serde_json::Value>> {
    let mut socket = UnixStream::connect(control)
        .with_context(|| format!("connecting to {}", control.display()))?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.write_all(format!("json {command}\n").as_bytes())?;
    let mut answer = Vec::new();
    socket
        .read_to_end(&mut answer)
        .with_context(|| format!("waiting for {command}"))?;
    let answer: Envelope = serde_json::from_slice(&answer)
        .with_context(|| format!("reading {:?}", str::from_utf8(&answer)))?;
    ensure!(
        answer.ok,
        "pen refused {command}: {}",
        answer.refusal.unwrap_or_default()
    );
    Ok(answer.value)
}
