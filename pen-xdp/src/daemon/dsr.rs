//! The data plane of a running daemon: the interface, the plane that forwards, and what is
//! published to it.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, Sender};
use pen_common::{
    config::{Config, Plane},
    control::Degraded,
    tables::Mac,
};

use super::{
    Daemon,
    change::Change,
    flow_clock::FlowClock,
    notify,
    open::Opened,
    start,
    workers::{reopen, to_program},
};
use crate::{
    control::{
        report::Seen,
        snapshot::Snapshot,
        state::{Command, State},
    },
    keeper::Keeper,
    lock::InterfaceLock,
    neighbor::Resolved,
    nic::forgets_program,
    plane::{Event, Workers},
    watch::{NetEvent, Watch},
};

/// An announcement follows the one before after this time (RFC 5227, section 2.3).
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(2);
/// How often each VIP is announced (RFC 5227, section 2.3).
pub(super) const ANNOUNCEMENTS: u32 = 2;
/// The same after the link came up: the switch's port may come up later than ours, and what it is
/// sent until then is lost. A Linux bridge takes up to a second.
const ANNOUNCEMENTS_ON_LINK: u32 = 3;
/// Events from workers that are looked at in one go.
const EVENTS_AT_ONCE: usize = 64;

/// Announcements that are still to come.
pub(super) struct Again {
    at: Instant,
    times: u32,
}

/// The data plane at work.
pub(super) struct Dsr {
    pub(super) opened: Opened,
    pub(super) keeper: Keeper,
    pub(super) watch: Watch,
    /// For workers, and from them.
    pub(super) worker_events: Sender<Event>,
    pub(super) events: Receiver<Event>,
    pub(super) announce_again: Option<Again>,
    pub(super) flow_clock: FlowClock,
    /// Given back last of all.
    pub(super) lock: InterfaceLock,
}

impl Daemon {
    /// Opens the data plane for the first service in DSR, whether there is one. Generations go on from
    /// `before`.
    ///
    /// # Errors
    /// It can't be opened; then nothing of it is left but what an earlier daemon had left, which goes by
    /// the new tables.
    pub(super) fn begin_dsr(&mut self, before: u64) -> Result<bool> {
        let state = &mut self.change.state;
        let first = state.config().dsr_services().next().is_some();
        let Some(ready) = self.begins.take().filter(|_| first) else {
            return Ok(false);
        };
        let dsr = self.dsr.insert(Dsr::open(ready, state)?);
        let opened = &mut dsr.opened;
        opened.snapshot.generation = before.max(opened.snapshot.generation);
        if let Some(workers) = opened.workers.as_ref().filter(|_| self.proxy.is_some()) {
            let lack = Degraded {
                what: "cores".to_owned(),
                why: "the proxy's threads were there before the workers, and share their cores; \
                      restart Pen to part them"
                    .to_owned(),
            };
            opened.degraded.push(lack);
            // What comes next is written where the one before last was.
            let then = workers.epochs();
            opened.readers.wait(|| then.passed(&workers.epochs()))?;
        } else {
            opened.readers.wait(|| true)?;
        }
        Ok(true)
    }

    /// Takes the data plane down where no service in DSR is in force.
    pub(super) fn end_dsr(&mut self) {
        let last = self.change.last().config();
        let none = last.dsr_services().next().is_none();
        drop(self.begins.take_if(|_| none));
        if let Some(dsr) = self.dsr.take_if(|_| none) {
            tracing::info!("{}: nothing is in DSR", dsr.keeper.nic.name);
            dsr.close(false);
            self.change.epochs = None;
            notify::status(&self.in_one_line());
        }
    }
}

impl Dsr {
    /// What forwards, and for whom.
    pub(super) fn in_one_line(&self, config: &Config) -> String {
        let mode = self
            .opened
            .xdp
            .mode
            .map(|mode| format!(", {mode} XDP"))
            .unwrap_or_default();
        format!(
            "{} on {}: plane {}{mode}",
            start::listen_line(config.dsr_services()),
            config.interface,
            self.opened.plane
        )
    }

    /// Cores that workers are kept on.
    pub(super) fn cores(&self) -> BTreeSet<usize> {
        let queues = self.opened.queues.iter();
        queues
            .filter_map(|queue| queue.core.map(|core| core as usize))
            .collect()
    }

    /// Takes everything back that was set up; or leaves the program to forward by itself, with all
    /// that it needs.
    pub(super) fn close(self, keeps_forwarding: bool) {
        let Self {
            mut opened,
            mut keeper,
            watch,
            lock,
            ..
        } = self;
        to_program(&mut keeper, &mut opened);
        if keeps_forwarding && opened.plane != Plane::AfPacket {
            tracing::info!("{}: the program goes on by itself", keeper.nic.name);
            keeper.leave();
        } else {
            keeper.close();
        }
        if let Err(error) = watch.close() {
            tracing::warn!("neighbour entries can't be taken back: {error}");
        }
        drop(lock);
    }

    /// What the replies of the control socket are made of.
    pub(super) fn seen<'a>(&'a self, state: &'a State) -> Seen<'a> {
        Seen {
            state,
            snapshot: &self.opened.snapshot,
            memory: &self.opened.memory,
        }
    }

    /// What the kernel tells next.
    ///
    /// # Errors
    /// The kernel's notifications are lost.
    pub(super) async fn next(&mut self) -> Result<NetEvent> {
        self.watch
            .next()
            .await
            .context("the kernel's notifications are lost")
    }

    /// Takes in what the kernel tells.
    ///
    /// # Errors
    /// The interface is gone.
    pub(super) fn happened(&mut self, event: NetEvent, change: &mut Change) -> Result<()> {
        match event {
            NetEvent::Neighbor(resolved) => self.resolved(resolved, change),
            NetEvent::AddressAdded(_) | NetEvent::AddressRemoved(_) => {
                let before = start::own_vips(&change.state);
                change.observe(Command::LocalAddresses(self.watch.owned().all()));
                if start::own_vips(&change.state) != before {
                    self.announce(ANNOUNCEMENTS, &change.state);
                }
            }
            NetEvent::LinkDown => {
                tracing::warn!("{} is down", self.keeper.nic.name);
                change.observe(Command::Carrier(false));
                self.announce_again = None;
            }
            NetEvent::LinkUp { mac, mtu } => {
                tracing::info!("{} is up", self.keeper.nic.name);
                change.observe(Command::Carrier(true));
                // Their number may be what it was, and they may be others: the driver takes the link down
                // to change it.
                self.attach_to_new();
                self.link(mac, mtu, change);
                self.announce(ANNOUNCEMENTS_ON_LINK, &change.state);
            }
            NetEvent::LinkChanged { mac, mtu } => {
                let moved = mac != self.keeper.nic.link.mac;
                self.link(mac, mtu, change);
                if moved {
                    self.announce(ANNOUNCEMENTS, &change.state);
                }
            }
            NetEvent::Queues { rx, tx } => self.queues_changed(rx, tx, change),
            NetEvent::LinkGone => {
                anyhow::bail!("interface {} is gone", self.keeper.nic.name);
            }
        }
        Ok(())
    }

    /// A changed MAC takes effect at once; one that comes or goes changes the tables.
    fn resolved(&mut self, Resolved { address, mac }: Resolved, change: &mut Change) {
        let mac = mac.map(Mac::new);
        match mac {
            Some(mac) => tracing::info!("back end {address} is at {mac}"),
            None => tracing::warn!("back end {address} does not answer on the segment"),
        }
        change.observe(Command::Neighbor { address, mac });
        let Some(mac) = mac else { return };
        // What is asked for and not published yet may have another back end under that number.
        let published = change.last();
        for pool in &published.config().pools {
            for backend in pool.backends.iter().filter(|b| b.address == address) {
                let id = published.id(&pool.name, &backend.name);
                if let Some(was) = self.opened.snapshot.backends.get_mut(&id) {
                    was.mac = mac;
                    self.opened.publisher.replace_mac(id, mac);
                }
            }
        }
    }

    /// Asks for the back ends that there are and that are published. What fails is tried again by
    /// itself.
    pub(super) fn watch_back_ends(&mut self, change: &Change) {
        let segments = self.keeper.segments(change.state.config());
        let segments = segments.and_then(|mut segments| {
            let published = self.keeper.segments(change.last().config())?;
            segments.interfaces.extend(published.interfaces);
            Ok(segments)
        });
        let watched = segments.and_then(|segments| {
            let watched = self.keeper.watch_again(&mut self.watch, &segments);
            watched.context("the neighbour table can't be read")
        });
        if let Err(error) = watched {
            tracing::error!("back ends that names stand for now may not be found: {error:#}");
        }
    }

    fn link(&mut self, mac: [u8; 6], mtu: u32, change: &mut Change) {
        self.keeper.nic.link.mac = mac;
        self.keeper.nic.link.mtu = mtu;
        let redirect_len_max = match self.opened.plane {
            Plane::AfXdp => self.opened.longest(mtu),
            Plane::Auto | Plane::Xdp | Plane::AfPacket => 0,
        };
        change.observe(Command::Interface {
            mac: Mac::new(mac),
            redirect_len_max,
        });
    }

    /// Has queues served that came without the program.
    fn attach_to_new(&mut self) {
        if self.opened.plane != Plane::AfPacket
            && forgets_program(&self.keeper.nic.driver)
            && let Err(error) = self.keeper.attach()
        {
            tracing::error!("new queues are without the program: {error:#}");
        }
    }

    /// The operator has changed their number (`ethtool -L`).
    fn queues_changed(&mut self, rx: u32, tx: u32, change: &mut Change) {
        if std::mem::replace(&mut self.opened.counted, (rx, tx)) == (rx, tx) {
            return;
        }
        tracing::warn!("the interface has {rx} receive and {tx} transmit queues now");
        // A packet socket has them all.
        if self.opened.plane == Plane::AfPacket {
            return;
        }
        self.attach_to_new();
        to_program(&mut self.keeper, &mut self.opened);
        // Who was told to end has ended.
        self.events.try_iter().for_each(drop);
        let config = change.state.config();
        reopen(
            &mut self.keeper,
            config,
            &self.worker_events,
            &mut self.opened,
        );
        // Those of the workers before are gone with them.
        change.epochs = self.opened.workers.as_ref().map(Workers::epochs);
        let (mac, mtu) = (self.keeper.nic.link.mac, self.keeper.nic.link.mtu);
        self.link(mac, mtu, change);
    }

    /// Looks at what nobody tells: time, workers.
    pub(super) fn tick(&mut self, now_ms: u64, state: &State) {
        self.flow_clock.go_on(now_ms);
        self.opened.memory.set_flow_clock(self.flow_clock.seconds());
        for event in self.events.try_iter().take(EVENTS_AT_ONCE) {
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
            self.announce(times, state);
        }
    }

    /// Announces what Pen answers for, so many times: now, and again a little later.
    pub(super) fn announce(&mut self, times: u32, state: &State) {
        self.announce_once(state);
        let under_way = self.announce_again.take().map_or(0, |again| again.times);
        let times = times.max(under_way);
        self.announce_again = (times > 1).then(|| Again {
            at: Instant::now() + ANNOUNCE_AGAIN,
            times: times - 1,
        });
    }

    fn announce_once(&mut self, state: &State) {
        self.hear();
        let own = start::own_vips(state);
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

    /// Publishes `state` if the data plane would behave differently, or if it must count as a new
    /// generation for somebody else's sake.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub(super) fn publish(&mut self, state: &State, anyway: bool) -> Result<()> {
        let snapshot = Snapshot::compile(state, Some(&self.opened.snapshot))?;
        if anyway || snapshot.differs(&self.opened.snapshot) {
            self.opened.publisher.publish(&snapshot)?;
            let before = std::mem::replace(&mut self.opened.snapshot, snapshot);
            if before.traps_v6() != self.opened.snapshot.traps_v6() {
                self.hear();
            }
        }
        Ok(())
    }

    /// Hears those who ask for addresses of the tarpit, too.
    fn hear(&mut self) {
        if let Err(error) = self.keeper.hear_all(self.opened.snapshot.traps_v6()) {
            tracing::warn!("{error:#}; the tarpit's IPv6 addresses may be asked for in vain");
        }
    }
}
