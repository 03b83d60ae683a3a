//! From a checked configuration to a running [`Daemon`]: what may fail comes before what changes
//! anything.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use pen_common::{
    config::{Config, Service},
    tables::Mac,
};
use tokio::time::{Duration, timeout_at};

use super::{
    Daemon,
    change::Change,
    conflict,
    drafts::Drafts,
    dsr::{ANNOUNCEMENTS, Dsr},
    flow_clock::FlowClock,
    open,
    reload::Reload,
    signals::Signals,
};
use crate::{
    announce::Announced,
    cli::Start,
    control::{
        names::names,
        permission::Permission,
        routes::routes,
        socket::ControlSocket,
        state::{Command, State},
    },
    keeper::{self, Keeper, backends},
    lock::InterfaceLock,
    names::Names,
    plane::{Workers, coarse_ns},
    proxy::{Bound, Inherited},
    watch::{NetEvent, Watch},
};

/// How long a start, or a change, waits for back ends that do not answer yet.
pub(super) const NEIGHBORS: Duration = Duration::from_secs(1);
/// Events from workers that may wait.
const EVENTS: usize = 256;

impl Daemon {
    /// Starts everything; `None` if it was told to stop before it served. Then, and on an error,
    /// nothing is left behind, and a daemon that ran before still does.
    ///
    /// # Errors
    /// What is wrong, where, and what mends it.
    pub async fn start(config: Config, start: Start) -> Result<Option<Self>> {
        // While there is no other thread: it changes the environment.
        let inherited = Inherited::take()?;
        let mut signals = Signals::catch()?;
        let ready = tokio::select! {
            ready = Ready::prepare(config, inherited) => ready?,
            // Wherever it waits, all that it has is given back when it is dropped.
            () = signals.stop() => return Ok(None),
        };
        Self::begin(ready, start, signals).map(Some)
    }

    /// Opens the plane and starts the proxy. Nothing waits here: a signal is heard as soon as the
    /// daemon runs.
    fn begin(ready: Ready, start: Start, signals: Signals) -> Result<Self> {
        let Ready {
            mut state,
            dsr,
            proxy,
            socket,
        } = ready;
        let dsr = dsr.map(|ready| Dsr::open(ready, &mut state)).transpose()?;
        let generation = dsr
            .as_ref()
            .map_or(1, |dsr| dsr.opened.publisher.generation());
        let mut daemon = Self {
            started: Instant::now(),
            reload: Reload::new(start),
            generation: Arc::new(AtomicU64::new(generation)),
            proxy: None,
            dsr,
            socket,
            permission: Arc::new(Permission::of(state.config())),
            names: Names::follow(state.answers().0.clone()),
            followed: names(state.config()),
            change: Change::new(state),
            drafts: Drafts::default(),
            begins: None,
            signals,
            reloading: None,
            left: 0,
            ending: None,
        };
        if let Err(error) = daemon.appear(proxy) {
            daemon.close();
            return Err(error);
        }
        Ok(daemon)
    }

    /// Lets clients in, of the services and of the control socket.
    fn appear(&mut self, proxy: Option<Bound>) -> Result<()> {
        let taken = self.taken();
        self.proxy = proxy.map(|bound| bound.start(&taken)).transpose()?;
        if let Some(dsr) = &mut self.dsr {
            dsr.announce(ANNOUNCEMENTS, &self.change.state);
            self.change.epochs = dsr.opened.workers.as_ref().map(Workers::epochs);
        }
        // Whatever changed while the plane was opened.
        self.change.observed();
        self.start_grace();
        self.socket.as_mut().map_or(Ok(()), ControlSocket::appear)
    }
}

impl Dsr {
    pub(super) fn open(ready: DsrReady, state: &mut State) -> Result<Self> {
        let DsrReady {
            mut keeper,
            lock,
            watch,
        } = ready;
        let (sender, events) = crossbeam::channel::bounded(EVENTS);
        let opened = match open::open(&mut keeper, state, &sender) {
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
        let flow_clock = FlowClock::from(opened.memory.flow_clock(), coarse_ns() / 1_000_000);
        Ok(Self {
            opened,
            worker_events: sender,
            keeper,
            watch,
            events,
            announce_again: None,
            flow_clock,
            lock,
        })
    }
}

/// What a start has before it opens a plane. Fields are dropped in this order.
struct Ready {
    state: State,
    proxy: Option<Bound>,
    socket: Option<ControlSocket>,
    dsr: Option<DsrReady>,
}

/// The interface before anything is attached to it. Fields are dropped in this order.
pub(super) struct DsrReady {
    watch: Watch,
    keeper: Keeper,
    lock: InterfaceLock,
}

impl Ready {
    async fn prepare(config: Config, mut inherited: Inherited) -> Result<Self> {
        let claimed = match config.dsr_services().next() {
            Some(_) => Some(claim(&config).await?),
            None => None,
        };
        let socket = ControlSocket::reserve(&config)?;
        let mut state = State::new(config, coarse_ns() / 1_000_000);
        let proxy = match state.config().proxy_services().next() {
            Some(_) => Some(keeper::listen(routes(&state), &mut inherited)?),
            None => None,
        };
        inherited.none_left()?;
        let dsr = match claimed {
            Some(claimed) => Some(DsrReady::of(claimed, &mut state).await?),
            None => None,
        };
        Ok(Self {
            state,
            proxy,
            socket,
            dsr,
        })
    }
}

impl DsrReady {
    /// Reads what is known of the world around the interface into the state.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(super) async fn of((mut keeper, lock): Claimed, state: &mut State) -> Result<Self> {
        state.forget_interface();
        // Those that further addresses of names are, too.
        let segments = keeper.segments(state.config())?;
        for why in keeper.unreachable(&segments) {
            tracing::warn!("{why}");
        }
        let mut watch = keeper.watch(&segments)?;
        keeper.nic.link = watch.link();
        if !watch.link().up {
            tracing::warn!("{0} is down; mend: ip link set {0} up", keeper.nic.name);
        }
        observe_all(state, &mut watch).await?;
        Ok(Self {
            watch,
            keeper,
            lock,
        })
    }
}

/// An interface, and the lock on it.
pub(super) type Claimed = (Keeper, InterfaceLock);

/// Looks at the interface and makes it this process's own.
///
/// # Errors
/// It can't be had, or can't serve this configuration.
pub(super) async fn claim(config: &Config) -> Result<Claimed> {
    let mut keeper = Keeper::open(config)?;
    let segments = keeper.segments(config)?;
    let unreachable = keeper.unreachable(&segments);
    if !unreachable.is_empty() {
        bail!("{}", unreachable.join("\n"));
    }
    conflict::refuse(config)?;
    for note in &segments.notes {
        tracing::warn!("{note}");
    }
    // Before anything is touched: what is there may be a living daemon's.
    let lock = keeper.lock().await?;
    Ok((keeper, lock))
}

/// Reads what is known of the world, and waits a little for back ends to answer.
async fn observe_all(state: &mut State, watch: &mut Watch) -> Result<()> {
    state.apply(Command::LocalAddresses(watch.owned().all()))?;
    state.apply(Command::Gateways(conflict::gateways(state.config())?))?;
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
    for service in state.config().dsr_services() {
        let vlan = service.vlan;
        let vips = service.listeners.iter().map(|listener| listener.address);
        own.extend(
            vips.filter(|vip| !state.is_local(*vip))
                .map(|vip| Announced { vip, vlan }),
        );
    }
    own
}

/// Pen's `listen`: where clients connect to, blank between them.
pub(super) fn listen_line<'a>(services: impl Iterator<Item = &'a Service>) -> String {
    let texts: Vec<String> = services.flat_map(Service::listen_texts).collect();
    texts.join(" ")
}
