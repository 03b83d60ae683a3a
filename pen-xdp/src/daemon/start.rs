//! From a checked configuration to a running [`Daemon`]: what may fail comes before what changes
//! anything.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use anyhow::{Context, Result, bail};
use pen_common::{
    config::{Config, Listener, Plane},
    tables::Mac,
};
use tokio::time::{Duration, timeout_at};

use super::{Change, Daemon, conflict, open, signals::Signals};
use crate::{
    announce::Announced,
    control::{
        socket::ControlSocket,
        state::{Command, State},
    },
    keeper::{Keeper, backends},
    lock::InterfaceLock,
    plane::coarse_ns,
    watch::{NetEvent, Watch},
};

/// How long the start waits for back ends that do not answer yet.
const NEIGHBORS: Duration = Duration::from_secs(1);
/// Events from workers that may wait.
const EVENTS: usize = 256;

impl Daemon {
    /// Starts everything; `None` if it was told to stop before it served. Then, and on an error,
    /// nothing is left behind, and a daemon that ran before still does.
    ///
    /// # Errors
    /// What is wrong, where, and what mends it.
    pub async fn start(config: Config, source: String) -> Result<Option<Self>> {
        let mut signals = Signals::catch()?;
        let ready = tokio::select! {
            ready = Ready::prepare(config) => ready?,
            // Wherever it waits, all that it has is given back when it is dropped.
            () = signals.stop() => return Ok(None),
        };
        Self::begin(ready, source, signals).map(Some)
    }

    /// Opens the plane. Nothing waits here: a signal is heard as soon as the daemon runs.
    fn begin(ready: Ready, source: String, signals: Signals) -> Result<Self> {
        let Ready {
            mut keeper,
            lock,
            socket,
            watch,
            mut state,
        } = ready;
        let (sender, events) = crossbeam::channel::bounded(EVENTS);
        let opened = match open::open(&mut keeper, &mut state, &sender) {
            Ok(opened) => opened,
            Err(error) => {
                // Memory that was adopted still steers the program of the daemon before.
                if keeper.adopted() {
                    keeper.leave()
                } else {
                    keeper.close()
                }
                return Err(error);
            }
        };
        let flow_clock =
            super::FlowClock::from(opened.memory.flow_clock(), coarse_ns() / 1_000_000);
        let mut daemon = Self {
            started: Instant::now(),
            source,
            published: state.clone(),
            state,
            snapshot: opened.snapshot,
            publisher: opened.publisher,
            memory: opened.memory,
            readers: opened.readers,
            keeper,
            watch,
            plane: opened.plane,
            rungs: opened.rungs,
            xdp: opened.xdp,
            queues: opened.queues,
            degraded: opened.degraded,
            workers: opened.workers,
            events,
            socket,
            announce_again: None,
            change: Change::default(),
            signals,
            flow_clock,
            lock,
        };
        daemon.announce(super::ANNOUNCEMENTS);
        // Whatever changed while the plane was opened.
        daemon.change.observe();
        daemon.change.epochs = daemon.workers.as_ref().map(crate::plane::Workers::epochs);
        daemon.start_grace();
        if let Some(Err(error)) = daemon.socket.as_mut().map(ControlSocket::appear) {
            daemon.close();
            return Err(error);
        }
        Ok(daemon)
    }
}

/// What a start has before it opens a plane. Fields are dropped in this order.
struct Ready {
    state: State,
    watch: Watch,
    socket: Option<ControlSocket>,
    keeper: Keeper,
    lock: InterfaceLock,
}

impl Ready {
    async fn prepare(config: Config) -> Result<Self> {
        let mut keeper = Keeper::open(&config)?;
        let segments = keeper.segments(&config)?;
        let unreachable = keeper.unreachable(&segments);
        if !unreachable.is_empty() {
            bail!("{}", unreachable.join("\n"));
        }
        conflict::refuse(&config)?;
        for note in &segments.notes {
            tracing::warn!("{note}");
        }
        keeper.check_privileges(config.plane != Plane::AfPacket)?;
        // Before anything is touched: what is there may be a living daemon's.
        let lock = keeper.lock().await?;
        let socket = match &config.control {
            Some(path) => Some(ControlSocket::reserve(path)?),
            None => None,
        };
        let mut watch = keeper.watch(&segments)?;
        keeper.nic.link = watch.link();
        if !watch.link().up {
            tracing::warn!("{0} is down; mend: ip link set {0} up", keeper.nic.name);
        }
        let mut state = State::new(config, coarse_ns() / 1_000_000);
        observe_all(&mut state, &mut watch).await?;
        Ok(Self {
            state,
            watch,
            socket,
            keeper,
            lock,
        })
    }
}

/// Reads what is known of the world, and waits a little for back ends to answer.
async fn observe_all(state: &mut State, watch: &mut Watch) -> Result<()> {
    state.apply(Command::LocalAddresses(watch.owned().all()))?;
    let mac = Mac::new(watch.link().mac);
    state.apply(Command::Interface {
        mac,
        redirect_len_max: 0,
    })?;
    let end = tokio::time::Instant::now() + NEIGHBORS;
    let missing = |state: &State| {
        backends(state.config())
            .into_iter()
            .any(|address| state.mac_of(address).is_none())
    };
    while missing(state) {
        match timeout_at(end, watch.next()).await {
            Ok(event) => {
                if let NetEvent::Neighbor(resolved) = event.context("notifications are lost")? {
                    let mac = resolved.mac.map(Mac::new);
                    state.apply(Command::Neighbor {
                        address: resolved.address,
                        mac,
                    })?;
                }
            }
            Err(_) => break,
        }
    }
    state.apply(Command::LocalAddresses(watch.owned().all()))?;
    Ok(())
}

/// The VIPs that Pen answers for itself, in each VLAN that one is served in.
pub(super) fn own_vips(state: &State) -> BTreeSet<Announced> {
    let mut own = BTreeSet::new();
    for service in &state.config().services {
        let vlan = service.vlan;
        let vips = service.listeners.iter().map(|listener| listener.address);
        own.extend(
            vips.filter(|vip| !state.is_local(*vip))
                .map(|vip| Announced { vip, vlan }),
        );
    }
    own
}

/// Pen's `listen`: the VIPs, blank between them.
pub(super) fn listen_line(config: &Config) -> String {
    let listeners = config
        .services
        .iter()
        .flat_map(|service| &service.listeners);
    let texts: Vec<String> = listeners.map(listener_text).collect();
    texts.join(" ")
}

fn listener_text(listener: &Listener) -> String {
    match listener.address {
        IpAddr::V4(address) => format!("{address}:{}", listener.port),
        IpAddr::V6(address) => format!("[{address}]:{}", listener.port),
    }
}
