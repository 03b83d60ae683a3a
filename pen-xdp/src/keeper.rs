//! Everything that needs privileges: programs and maps, sockets of the data plane, neighbour
//! entries, settings of the interface, announcements. Nothing else in the daemon does any of it,
//! so that this can become a process of its own.
//!
//! For what a proxy needs it is one, where Pen goes on as another user (`-u`): [`process`] keeps
//! root, and does for [`child`], which has no rights at all, what the configuration names.

mod answers;
pub mod child;
mod control;
mod identity;
mod pid_place;
pub mod process;
pub mod request;
mod rights;
mod trusted;

use std::{collections::BTreeSet, io, net::IpAddr, os::fd::BorrowedFd, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use pen_common::config::{Config, Use, XdpMode};

use crate::{
    announce::{Announced, Announcer},
    control::grace::{NoGrace, Readers},
    ebpf::{self, Attachment, Capability, Place, Steering, check_privileges, possible_cpus},
    lock::{InterfaceLock, LockError},
    mapped::{Mapped, Shape},
    neighbor::{Segments, check_layer2},
    nic::{Change, Nic, Remembered, Wanted, restore_left_over},
    plane::{
        af_packet::{self, RawPort},
        af_xdp::{self, XskConfig, XskPort, ZeroCopy},
    },
    proxy::{Bound, Inherited, Prepared, Proxy, Routes},
    watch::Watch,
};

/// Opens the listening sockets of services in proxy mode, but for those that are `inherited`.
///
/// # Errors
/// Names the listener that can't be had, and what mends it.
pub fn listen(routes: Routes, inherited: &mut Inherited) -> Result<Bound> {
    Bound::open(routes, inherited)
}

/// Opens what further routes of a running proxy need: listening sockets, logs, certificates.
///
/// # Errors
/// Names what can't be had, and what mends it. Nothing has changed then.
pub fn prepare(proxy: &mut Proxy, routes: Routes) -> Result<Prepared> {
    proxy.prepare(routes)
}

/// The privileged side of one interface.
pub struct Keeper {
    /// The interface, as it was found.
    pub nic: Nic,
    bpffs: PathBuf,
    run_dir: PathBuf,
    steering: Option<Steering>,
    announcer: Option<Announcer>,
    settings: Option<Remembered>,
}

impl Keeper {
    /// Looks at the interface. Nothing is changed, and no privilege is needed.
    ///
    /// # Errors
    /// There is no such interface, or it is none for DSR.
    pub fn open(config: &Config) -> Result<Self> {
        Ok(Self {
            nic: Nic::open(&config.interface)?,
            bpffs: config.bpffs.clone(),
            run_dir: config.run_dir.clone(),
            steering: None,
            announcer: None,
            settings: None,
        })
    }

    /// Makes the interface this process's own. To be held for as long as anything of it is used.
    ///
    /// # Errors
    /// See [`LockError`].
    pub async fn lock(&self) -> Result<InterfaceLock, LockError> {
        InterfaceLock::take(&self.run_dir, &self.nic.name).await
    }

    /// Back ends that a MAC rewrite can't reach, a sentence for each.
    pub fn unreachable(&self, segments: &Segments) -> Vec<String> {
        let interfaces = segments.interfaces.iter();
        interfaces
            .filter_map(|(ip, ifindex)| check_layer2(*ifindex, *ip).err())
            .collect()
    }

    /// On which interface each back end is asked for.
    ///
    /// # Errors
    /// The kernel does not list its interfaces.
    pub fn segments(&self, config: &Config) -> Result<Segments> {
        Segments::find(config, &self.nic).context("the VLAN devices can't be read")
    }

    /// Whether everything that `config` needs may be done.
    ///
    /// # Errors
    /// Names the first capability that is missing.
    pub fn check_privileges(&self, bpf: bool) -> Result<(), ebpf::OpenError> {
        if bpf {
            check_privileges(&[
                Capability::Bpf,
                Capability::PerfMon,
                Capability::NetAdmin,
                Capability::NetRaw,
            ])
        } else {
            check_privileges(&[Capability::NetAdmin, Capability::NetRaw])
        }
    }

    /// Puts right what a killed daemon left set on the interface, for a plane that needs none of it.
    /// Where a program is attached it still needs the settings: [`Keeper::set`] keeps those that are
    /// wanted and takes back the others.
    ///
    /// # Errors
    /// The file that remembers can't be read.
    pub fn restore_left_over(&self) -> Result<Vec<String>> {
        restore_left_over(&self.nic.name, &self.run_dir)
    }

    /// The stream of what happens to neighbours, addresses and the interface.
    ///
    /// # Errors
    /// The kernel refuses a netlink socket, or the neighbour table can't be read.
    pub fn watch(&self, segments: &Segments) -> Result<Watch> {
        let mut watch = Watch::open(&self.nic).context("the kernel's tables can't be watched")?;
        self.watch_again(&mut watch, segments)
            .context("the neighbour table can't be read")?;
        Ok(watch)
    }

    /// Watches for these back ends instead of those before.
    ///
    /// # Errors
    /// The neighbour table can't be read.
    pub fn watch_again(&self, watch: &mut Watch, segments: &Segments) -> io::Result<()> {
        let mut wanted = segments.by_interface();
        for ifindex in watch.interfaces() {
            wanted.entry(ifindex).or_default();
        }
        for (ifindex, backends) in wanted {
            for (address, error) in watch.want_on(ifindex, &backends)? {
                tracing::warn!("back end {address}: no neighbour entry yet: {error}");
            }
        }
        Ok(())
    }

    /// Takes off the program that a killed daemon left, for a plane that needs none.
    ///
    /// # Errors
    /// Its pins can't be removed.
    pub fn detach_left_over(&self) -> Result<()> {
        let found = ebpf::detach(&self.bpffs, &self.nic.name)
            .with_context(|| format!("{}: a daemon's program can't be removed", self.nic.name))?;
        if found != ebpf::Detached::Nothing {
            tracing::info!(
                "{}: the program of the daemon before was taken off",
                self.nic.name
            );
        }
        Ok(())
    }

    /// The memory that the program shares with the daemon, adopted or new.
    ///
    /// # Errors
    /// See [`ebpf::OpenError`].
    pub fn open_program(&mut self, slot_bytes: u64, workers: u32) -> Result<Arc<Mapped>> {
        self.open_memory(slot_bytes, workers, Steering::open)
    }

    /// New memory, though the daemon before left some.
    ///
    /// # Errors
    /// See [`ebpf::OpenError`].
    pub fn open_fresh_program(&mut self, slot_bytes: u64, workers: u32) -> Result<Arc<Mapped>> {
        self.open_memory(slot_bytes, workers, Steering::open_fresh)
    }

    fn open_memory(
        &mut self,
        slot_bytes: u64,
        workers: u32,
        open: impl FnOnce(Place, Shape) -> Result<Steering, ebpf::OpenError>,
    ) -> Result<Arc<Mapped>> {
        let place = Place {
            bpffs: self.bpffs.clone(),
            ifname: self.nic.name.clone(),
            ifindex: self.nic.index,
        };
        let cpus = possible_cpus().context("the number of CPUs is not known")?;
        let steering = open(place, Shape::new(slot_bytes, cpus, workers))?;
        let memory = Arc::clone(steering.memory());
        self.steering = Some(steering);
        Ok(memory)
    }

    /// Whether the memory is that of the daemon before.
    pub fn adopted(&self) -> bool {
        self.steering.as_ref().is_some_and(Steering::adopted)
    }

    /// How the program's readers can be waited for on this host.
    ///
    /// # Errors
    /// They can't.
    pub fn readers(&self) -> Result<Readers, NoGrace> {
        Readers::find()
    }

    /// Hangs the program on the interface.
    ///
    /// # Errors
    /// See [`ebpf::OpenError`].
    pub fn attach(&mut self, mode: XdpMode, finish: bool) -> Result<Attachment, ebpf::OpenError> {
        self.steering_mut().attach(mode, finish).cloned()
    }

    /// Receive and transmit queues at this moment.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn queues(&self) -> io::Result<(u32, u32)> {
        self.nic.read_queues()
    }

    /// Sets what AF_XDP needs of the interface.
    ///
    /// # Errors
    /// What is changed can't be remembered, so nothing is changed.
    pub fn set(&mut self, wanted: Wanted) -> Result<&Remembered> {
        let settings = self.nic.apply(wanted, &self.run_dir)?;
        Ok(self.settings.insert(settings))
    }

    /// Settings of the interface that are ours.
    pub fn changes(&self) -> &[Change] {
        self.settings
            .as_ref()
            .map_or(&[], |settings| &settings.changes)
    }

    /// Takes a queue.
    ///
    /// # Errors
    /// See [`af_xdp::OpenError`].
    pub fn open_queue(
        &self,
        queue: u32,
        config: &Config,
        busy_poll: bool,
    ) -> Result<XskPort, af_xdp::OpenError> {
        XskPort::open(&XskConfig {
            frames: config.ring_size * 2,
            zero_copy: match config.zero_copy {
                Use::Auto => ZeroCopy::Auto,
                Use::Never => ZeroCopy::Never,
            },
            multi_buffer: config.multi_buffer == Use::Auto,
            busy_poll,
            ..XskConfig::new(&self.nic.name, &self.nic.driver, queue)
        })
    }

    /// A packet socket on the interface.
    ///
    /// # Errors
    /// See [`af_packet::OpenError`].
    pub fn open_packet_socket(&self) -> Result<RawPort, af_packet::OpenError> {
        RawPort::open(&self.nic.name)
    }

    /// From now on the program hands the queue's frames to this socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<()> {
        Ok(self.steering_mut().set_socket(queue, socket)?)
    }

    /// From now on the program forwards the queue's frames by itself.
    pub fn unset_socket(&mut self, queue: u32) {
        if let Some(steering) = &mut self.steering {
            steering.unset_socket(queue);
        }
    }

    /// Makes the interface hear solicitations for these VIPs.
    ///
    /// # Errors
    /// A multicast group can't be joined.
    pub fn listen(&mut self, vips: &BTreeSet<IpAddr>) -> Result<()> {
        let announcer = self.announcer()?;
        announcer
            .listen(vips)
            .context("the VIPs' multicast groups can't be joined")
    }

    /// Makes the interface hear solicitations for any address, or again for the VIPs alone.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn hear_all(&mut self, on: bool) -> Result<()> {
        let announcer = self.announcer()?;
        announcer
            .hear_all(on)
            .context("the interface can't be made to hear all multicast")
    }

    /// Tells the segment where these VIPs are.
    ///
    /// # Errors
    /// An announcement can't be sent.
    pub fn announce(&mut self, vips: &[Announced], mac: [u8; 6]) -> Result<()> {
        let announcer = self.announcer()?;
        announcer
            .announce(vips, mac)
            .context("the VIPs can't be announced")
    }

    /// Leaves the program and its memory as they are, for the daemon that they came from or the
    /// next one; gives back nothing.
    pub fn leave(self) {}

    /// Takes the program off, and gives back what was changed. Goes on over what fails.
    pub fn close(self) {
        let had_program = self.steering.is_some();
        if let Some(steering) = self.steering
            && let Err(error) = steering.detach()
        {
            tracing::error!(
                "{}: the program's pins can't be removed: {error}",
                self.nic.name
            );
        }
        drop(self.announcer);
        let refused = match self.settings {
            Some(settings) => settings.restore(),
            // A start that did not get as far: what is set now is set for a program that is gone.
            None if had_program => restore_left_over(&self.nic.name, &self.run_dir)
                .unwrap_or_else(|error| vec![format!("{error:#}")]),
            None => Vec::new(),
        };
        for sentence in refused {
            tracing::warn!("{sentence}");
        }
    }

    fn announcer(&mut self) -> Result<&mut Announcer> {
        if self.announcer.is_none() {
            let open = Announcer::open(self.nic.index);
            self.announcer = Some(open.context("no socket to announce VIPs by")?);
        }
        self.announcer
            .as_mut()
            .context("no socket to announce VIPs by")
    }

    fn steering_mut(&mut self) -> &mut Steering {
        self.steering
            .as_mut()
            .expect("the program is opened before it is attached or used")
    }
}

/// The addresses of all back ends.
pub fn backends(config: &Config) -> BTreeSet<IpAddr> {
    config
        .dsr_pools()
        .flat_map(|pool| pool.backends.iter().map(|b| b.address))
        .collect()
}
