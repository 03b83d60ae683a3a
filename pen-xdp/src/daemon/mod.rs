//! The loop that joins everything: what happens outside becomes commands, commands change the
//! state, the state is published, and whoever asked hears of it.

mod change;
pub mod check;
mod conflict;
mod flow_clock;
pub mod log;
pub mod open;
pub mod pid_file;
mod queues;
mod signals;
pub mod start;
mod status;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, thread, time::Instant};

use anyhow::{Context, Result};
use crossbeam::channel::Receiver;
use pen_common::{
    config::{Balance, Plane},
    control::{Action, Degraded, QueueStatus, Reply, Request, Rung, Value, XdpStatus, mode_line},
    tables::Mac,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, interval},
};

use crate::{
    control::{
        grace::{NoGrace, Readers},
        publish::Publisher,
        report::Seen,
        snapshot::Snapshot,
        socket::{Asked, ControlSocket},
        state::{Command, State},
    },
    keeper::Keeper,
    lock::InterfaceLock,
    mapped::Mapped,
    neighbor::Resolved,
    plane::{Event, Workers, coarse_ns},
    watch::{NetEvent, Watch},
};
use change::{Change, Waiting, grace_over};
use flow_clock::FlowClock;
use signals::Signals;

/// How often the daemon looks at what nobody tells it: the clock, its workers.
const TICK: Duration = Duration::from_millis(100);
/// An announcement follows the one before after this time (RFC 5227, section 2.3).
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(2);
/// How often each VIP is announced (RFC 5227, section 2.3).
const ANNOUNCEMENTS: u32 = 2;
/// The same after the link came up: the switch's port may come up later than ours, and what it is
/// sent until then is lost. A Linux bridge takes up to a second.
const ANNOUNCEMENTS_ON_LINK: u32 = 3;
/// Requests that wait to be looked at.
const REQUESTS: usize = 64;

/// Announcements that are still to come.
struct Again {
    at: Instant,
    times: u32,
}

/// A running daemon.
pub struct Daemon {
    started: Instant,
    source: String,
    state: State,
    /// The state as it was last published: what a refusal goes back to.
    published: State,
    snapshot: Snapshot,
    publisher: Publisher,
    memory: Arc<Mapped>,
    readers: Arc<Readers>,
    keeper: Keeper,
    watch: Watch,
    plane: Plane,
    rungs: Vec<Rung>,
    xdp: XdpStatus,
    queues: Vec<QueueStatus>,
    degraded: Vec<Degraded>,
    workers: Option<Workers>,
    events: Receiver<Event>,
    socket: Option<ControlSocket>,
    announce_again: Option<Again>,
    change: Change,
    signals: Signals,
    flow_clock: FlowClock,
    /// Given back last of all.
    lock: InterfaceLock,
}

impl Daemon {
    /// Serves until told to stop, or until the interface is gone.
    ///
    /// # Errors
    /// The interface or the kernel's notifications are lost.
    pub async fn run(&mut self) -> Result<()> {
        let (sender, mut requests) = mpsc::channel(REQUESTS);
        let socket = self.socket.take();
        let memory = Arc::clone(&self.memory);
        let serve = async {
            match &socket {
                Some(socket) => socket.serve(sender, move || memory.root() >> 1).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(serve);
        let mut tick = interval(TICK);
        loop {
            tokio::select! {
                event = self.watch.next() => {
                    self.happened(event.context("the kernel's notifications are lost")?)?;
                }
                Some(asked) = requests.recv() => self.asked(asked),
                () = &mut serve => {}
                _ = tick.tick() => self.tick(),
                result = grace_over(&mut self.change.grace) => self.graced(result),
                () = self.signals.stop() => return Ok(()),
            }
            self.publish();
        }
    }

    /// What forwards, and for whom.
    pub fn in_one_line(&self) -> String {
        let config = self.state.config();
        let mode = self
            .xdp
            .mode
            .map(|mode| format!(", {mode} XDP"))
            .unwrap_or_default();
        format!(
            "serving {} on {}: plane {}{mode}, generation {}",
            start::listen_line(config),
            config.interface,
            self.plane,
            self.publisher.generation()
        )
    }

    /// Takes everything back that was set up.
    pub fn close(self) {
        let Self {
            mut keeper,
            workers,
            queues,
            watch,
            socket,
            lock,
            ..
        } = self;
        for queue in &queues {
            keeper.unset_socket(queue.queue);
        }
        drop(workers);
        keeper.close();
        if let Err(error) = watch.close() {
            tracing::warn!("neighbour entries can't be taken back: {error}");
        }
        drop(socket);
        drop(lock);
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            state: &self.state,
            snapshot: &self.snapshot,
            memory: &self.memory,
        }
    }

    /// A change that nobody asked for: it can't be refused.
    fn observe(&mut self, command: Command) {
        match self.state.apply(command) {
            Ok(true) => self.change.observe(),
            Ok(false) => {}
            Err(refusal) => tracing::error!("an observation was refused: {refusal}"),
        }
    }

    fn happened(&mut self, event: NetEvent) -> Result<()> {
        match event {
            NetEvent::Neighbor(resolved) => self.resolved(resolved),
            NetEvent::AddressAdded(_) | NetEvent::AddressRemoved(_) => {
                let before = start::own_vips(&self.state);
                self.observe(Command::LocalAddresses(self.watch.owned().all()));
                if start::own_vips(&self.state) != before {
                    self.announce(ANNOUNCEMENTS);
                }
            }
            NetEvent::LinkDown => {
                tracing::warn!("{} is down", self.keeper.nic.name);
                self.observe(Command::Carrier(false));
                self.announce_again = None;
            }
            NetEvent::LinkUp { mac, mtu } => {
                tracing::info!("{} is up", self.keeper.nic.name);
                self.observe(Command::Carrier(true));
                self.link(mac, mtu);
                self.announce(ANNOUNCEMENTS_ON_LINK);
            }
            NetEvent::LinkChanged { mac, mtu } => {
                let moved = mac != self.keeper.nic.link.mac;
                self.link(mac, mtu);
                if moved {
                    self.announce(ANNOUNCEMENTS);
                }
            }
            NetEvent::Queues { rx, tx } => self.queues_changed(rx, tx),
            NetEvent::LinkGone => {
                anyhow::bail!("interface {} is gone", self.keeper.nic.name);
            }
        }
        Ok(())
    }

    /// A changed MAC takes effect at once; one that comes or goes changes the tables.
    fn resolved(&mut self, Resolved { address, mac }: Resolved) {
        let mac = mac.map(Mac::new);
        match mac {
            Some(mac) => tracing::info!("back end {address} is at {mac}"),
            None => tracing::warn!("back end {address} does not answer on the segment"),
        }
        self.observe(Command::Neighbor { address, mac });
        let Some(mac) = mac else { return };
        for pool in &self.state.config().pools {
            for backend in pool.backends.iter().filter(|b| b.address == address) {
                let id = self.state.id(&pool.name, &backend.name);
                if let Some(was) = self.snapshot.backends.get_mut(&id) {
                    was.mac = mac;
                    self.publisher.replace_mac(id, mac);
                }
            }
        }
    }

    fn link(&mut self, mac: [u8; 6], mtu: u32) {
        self.keeper.nic.link.mac = mac;
        self.keeper.nic.link.mtu = mtu;
        let multi_buffer = self
            .queues
            .iter()
            .all(|q| q.worker.is_none() || q.multi_buffer);
        let redirect_len_max = match self.plane {
            Plane::AfXdp => open::redirect_len_max(mtu, multi_buffer),
            Plane::Auto | Plane::Xdp | Plane::AfPacket => 0,
        };
        self.observe(Command::Interface {
            mac: Mac::new(mac),
            redirect_len_max,
        });
    }

    fn queues_changed(&mut self, rx: u32, tx: u32) {
        let known = self.queues.len() as u32;
        tracing::warn!("the interface has {rx} receive and {tx} transmit queues now");
        self.degraded.retain(|degraded| degraded.what != "queues");
        if rx > known && self.plane == Plane::AfXdp {
            self.degraded.push(Degraded {
                what: "queues".to_owned(),
                why: format!(
                    "{rx} receive queues, of which {known} were there at start; the \
                              program serves the others. Restart to serve them by workers"
                ),
            });
        }
    }

    fn tick(&mut self) {
        let now_ms = coarse_ns() / 1_000_000;
        self.flow_clock.go_on(now_ms);
        self.memory.set_flow_clock(self.flow_clock.seconds());
        self.observe(Command::Clock(now_ms));
        for event in self.events.try_iter().take(REQUESTS) {
            match event {
                Event::NoMac { queue } => {
                    tracing::debug!("queue {queue}: frames for a back end without MAC dropped");
                }
                Event::PortError { queue, error } => {
                    tracing::error!("queue {queue}: {error}; the program serves it meanwhile");
                }
                Event::PortBack { queue } => tracing::info!("queue {queue} works again"),
                Event::Ended { worker } => tracing::warn!("worker {worker} has ended"),
            }
        }
        let due = |again: &mut Again| again.at <= Instant::now();
        if let Some(Again { times, .. }) = self.announce_again.take_if(due) {
            self.announce(times);
        }
    }

    /// Announces what Pen answers for, so many times: now, and again a little later.
    fn announce(&mut self, times: u32) {
        self.announce_once();
        let under_way = self.announce_again.take().map_or(0, |again| again.times);
        let times = times.max(under_way);
        self.announce_again = (times > 1).then(|| Again {
            at: Instant::now() + ANNOUNCE_AGAIN,
            times: times - 1,
        });
    }

    fn announce_once(&mut self) {
        let own = start::own_vips(&self.state);
        let addresses: BTreeSet<IpAddr> = own.iter().map(|announced| announced.vip).collect();
        let mac = self.keeper.nic.link.mac;
        // Each for itself: an IPv6 group that can't be joined keeps no IPv4 address silent.
        let own: Vec<_> = own.into_iter().collect();
        for told in [
            self.keeper.listen(&addresses),
            self.keeper.announce(&own, mac),
        ] {
            if let Err(error) = told {
                tracing::warn!("{error:#}");
            }
        }
    }

    fn asked(&mut self, Asked { request, answer }: Asked) {
        let outcome = match &request.action {
            Action::Server(server, changes) => self.state.apply(Command::Server {
                service: request.service.clone(),
                server: server.clone(),
                changes: changes.clone(),
            }),
            Action::Switch(Balance::RoundRobin, on) => self.state.apply(Command::RoundRobin {
                service: request.service.clone(),
                on: *on,
            }),
            Action::Switch(..) | Action::Option { .. } | Action::Acl(..) => {
                let why = "that can't be changed while Pen runs, yet".to_owned();
                return self.reply(&request, answer, Err(why));
            }
            Action::Status
            | Action::Servers
            | Action::Counters
            | Action::Mode
            | Action::Pid
            | Action::Control
            | Action::Listen
            | Action::Debug(_)
            | Action::Nothing
            | Action::Blank => {
                let outcome = self.show(&request);
                return self.reply(&request, answer, outcome);
            }
        };
        match outcome {
            // In force only when it is published and nobody reads the old tables any more.
            Ok(_) => self.change.waiting.push(Waiting { request, answer }),
            Err(refusal) => self.reply(&request, answer, Err(refusal.to_string())),
        }
    }

    fn show(&mut self, request: &Request) -> Result<Value, String> {
        let service = request.service.as_deref();
        let config = self.state.config();
        match &request.action {
            Action::Status => Ok(Value::Status(Box::new(self.status()))),
            Action::Servers => self.seen().servers(service).map(Value::Servers),
            Action::Counters => Ok(Value::Counters(self.seen().counters())),
            Action::Mode => {
                let found = config
                    .services
                    .iter()
                    .find(|s| service.is_none_or(|n| n == s.name));
                let found = found.ok_or_else(|| "there is no such service".to_owned())?;
                Ok(Value::Text(mode_line(found.switches())))
            }
            Action::Pid => Ok(Value::Number(u64::from(std::process::id()))),
            Action::Control => {
                let path = config
                    .control
                    .as_ref()
                    .map(|path| path.display().to_string());
                Ok(Value::Text(path.unwrap_or_default()))
            }
            Action::Listen => Ok(Value::Text(start::listen_line(config))),
            Action::Debug(None) => Ok(Value::Number(u64::from(config.debug))),
            Action::Debug(Some(level)) => {
                log::set_log_level(*level);
                self.state.set_debug(*level);
                Ok(Value::Applied)
            }
            Action::Nothing | Action::Blank => Ok(Value::Applied),
            Action::Server(..) | Action::Switch(..) | Action::Option { .. } | Action::Acl(..) => {
                Ok(Value::Applied)
            }
        }
    }

    fn reply(
        &self,
        request: &Request,
        answer: oneshot::Sender<String>,
        outcome: Result<Value, String>,
    ) {
        let reply = Reply {
            generation: self.publisher.generation(),
            outcome,
        };
        if answer.send(reply.render(request.form)).is_err() {
            tracing::debug!("a control client left before its answer");
        }
    }

    /// Publishes what has changed, as soon as the publication before is over.
    fn publish(&mut self) {
        if !self.change.is_due(Instant::now()) {
            return;
        }
        let waiting = std::mem::take(&mut self.change.waiting);
        let published = Snapshot::compile(&self.state, Some(&self.snapshot))
            .map_err(anyhow::Error::from)
            .and_then(|snapshot| {
                if snapshot.differs(&self.snapshot) {
                    self.publisher.publish(&snapshot)?;
                    tracing::info!("generation {} is in force", snapshot.generation);
                    self.snapshot = snapshot;
                }
                Ok(())
            });
        match published {
            Ok(()) => {
                self.published = self.state.clone();
                self.change.published();
                self.change.graced = waiting;
                self.change.epochs = self.workers.as_ref().map(Workers::epochs);
                self.start_grace();
            }
            Err(error) => {
                tracing::error!("nothing was changed: {error:#}");
                self.state.take_back(&self.published);
                self.change.refused(Instant::now());
                for Waiting { request, answer } in waiting {
                    self.reply(&request, answer, Err(format!("{error:#}")));
                }
            }
        }
    }

    fn start_grace(&mut self) {
        let then = self.change.epochs.clone();
        let watcher = self.workers.as_ref().map(Workers::watcher);
        let readers = Arc::clone(&self.readers);
        let pause = self.change.pause();
        self.change.grace = Some(tokio::task::spawn_blocking(move || {
            thread::sleep(pause);
            readers.wait(|| match (&then, &watcher) {
                (Some(then), Some(watcher)) => then.passed(&watcher.epochs()),
                _ => true,
            })
        }));
    }

    /// Tells everyone who waits that it does not go on. Nothing is published meanwhile.
    fn give_up(&mut self, error: &NoGrace) {
        for Waiting { request, answer } in std::mem::take(&mut self.change.graced) {
            let why = format!("it is published, but may not be in force everywhere yet: {error}");
            self.reply(&request, answer, Err(why));
        }
        self.state.take_back(&self.published);
        for Waiting { request, answer } in std::mem::take(&mut self.change.waiting) {
            let why = format!("nothing was changed, the change before is not over: {error}");
            self.reply(&request, answer, Err(why));
        }
    }

    fn graced(&mut self, result: Result<(), NoGrace>) {
        self.change.grace = None;
        if let Err(error) = result {
            tracing::error!("{error}; changes wait");
            if self.change.wait_failed(Instant::now()) {
                self.give_up(&error);
            }
            return self.start_grace();
        }
        self.change.waited();
        for Waiting { request, answer } in std::mem::take(&mut self.change.graced) {
            self.reply(&request, answer, Ok(Value::Applied));
        }
    }
}
