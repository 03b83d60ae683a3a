//! Everything that needs privileges, as requests: for programs and maps, sockets of the data plane,
//! neighbour entries, settings of the interface, announcements. Nothing else in the daemon does any of
//! it.
//!
//! Where Pen goes on as another user (`-u`), a process of its own answers them: [`process`] keeps root,
//! and does for [`child`], which has no rights at all, what the configuration names.

mod answers;
pub mod child;
mod claim;
mod control;
mod identity;
mod interface;
mod pid_place;
pub mod process;
pub mod request;
mod rights;
mod sockets;
mod trusted;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use anyhow::{Context, Result};
use pen_common::config::{Config, Use};

use self::{
    answers::Given,
    child::unexpected,
    interface::Interface,
    request::{Answer, OfInterface, Request},
};
use crate::{
    announce::Announced,
    control::grace::{NoGrace, Readers},
    ebpf::{self, Attachment},
    lock::InterfaceLock,
    mapped::Mapped,
    neighbor::{Segments, check_layer2},
    nic::{Change, Nic, Wanted},
    plane::{
        af_packet::RawPort,
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

/// One interface, and who does with it what takes privileges: this process, or a keeper.
pub struct Keeper {
    /// The interface, as it was found.
    pub nic: Nic,
    /// None where another process has the privileges.
    own: Option<Interface>,
    adopted: bool,
    changes: Vec<Change>,
}

impl Keeper {
    /// Looks at the interface. Nothing is changed, and no privilege is needed.
    ///
    /// # Errors
    /// There is no such interface, or it is none for DSR.
    pub fn open(config: &Config) -> Result<Self> {
        let interface = Interface::open(config)?;
        Ok(Self {
            nic: interface.nic().clone(),
            own: (!child::is_kept()).then_some(interface),
            adopted: false,
            changes: Vec::new(),
        })
    }

    /// Whether everything that the configuration needs may be done.
    ///
    /// # Errors
    /// Names the first capability that is missing.
    pub fn check_privileges(&self) -> Result<(), ebpf::OpenError> {
        self.own
            .as_ref()
            .map_or(Ok(()), Interface::check_privileges)
    }

    /// Makes the interface this process's own, or its and its keeper's. To be held for as long as
    /// anything of it is used.
    ///
    /// # Errors
    /// A capability is missing, or another daemon has it.
    pub async fn lock(&mut self) -> Result<InterfaceLock> {
        match &mut self.own {
            Some(own) => {
                own.check_privileges()?;
                own.lock().await
            }
            None => {
                let keeper = child::keeper().context("there is no keeper")?;
                let lock = keeper.descriptor(&Request::Claim)?;
                Ok(InterfaceLock::shared(lock))
            }
        }
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

    /// Puts right what a killed daemon left set on the interface, for a plane that needs none of it.
    /// Where a program is attached it still needs the settings: [`Keeper::set`] keeps those that are
    /// wanted and takes back the others.
    ///
    /// # Errors
    /// The file that remembers can't be read.
    pub fn restore_left_over(&mut self) -> Result<Vec<String>> {
        match self.ask(OfInterface::RestoreLeftOver, None)? {
            (Answer::Said(said), _) => Ok(said),
            other => Err(unexpected(other).into()),
        }
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
    pub fn detach_left_over(&mut self) -> Result<()> {
        self.done(OfInterface::DetachLeftOver)
    }

    /// The memory that the program shares with the daemon, adopted or new.
    ///
    /// # Errors
    /// See [`ebpf::OpenError`].
    pub fn open_program(&mut self, slot_bytes: u64, workers: u32) -> Result<Arc<Mapped>> {
        self.open_memory(false, slot_bytes, workers)
    }

    /// New memory, though the daemon before left some.
    ///
    /// # Errors
    /// See [`ebpf::OpenError`].
    pub fn open_fresh_program(&mut self, slot_bytes: u64, workers: u32) -> Result<Arc<Mapped>> {
        self.open_memory(true, slot_bytes, workers)
    }

    fn open_memory(&mut self, fresh: bool, slot_bytes: u64, workers: u32) -> Result<Arc<Mapped>> {
        let request = OfInterface::Memory {
            fresh,
            slot_bytes,
            workers,
        };
        let (shape, arrays) = match self.ask(request, None)? {
            (Answer::Memory { shape, adopted }, arrays) => {
                self.adopted = adopted;
                (shape, arrays)
            }
            other => return Err(unexpected(other).into()),
        };
        let mapped = Mapped::of_program(shape, |array| {
            let place = arrays.get(array as usize).map(AsFd::as_fd);
            place.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        });
        let mapped = mapped.context("the program's maps can't be mapped")?;
        Ok(Arc::new(mapped))
    }

    /// Whether the memory is that of the daemon before.
    pub fn adopted(&self) -> bool {
        self.adopted
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
    pub fn attach(&mut self) -> Result<Attachment> {
        match self.ask(OfInterface::Attach, None)? {
            (Answer::Attached(attachment), _) => Ok(attachment),
            other => Err(unexpected(other).into()),
        }
    }

    /// Receive and transmit queues at this moment.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn queues(&self) -> io::Result<(u32, u32)> {
        self.nic.read_queues()
    }

    /// Sets what AF_XDP needs of the interface. What could not be set, each with the reason and the
    /// mend.
    ///
    /// # Errors
    /// What is changed can't be remembered, so nothing is changed.
    pub fn set(&mut self, wanted: Wanted) -> Result<Vec<String>> {
        match self.ask(OfInterface::Set(wanted), None)? {
            (Answer::Set { changes, refused }, _) => {
                self.changes = changes;
                Ok(refused)
            }
            other => Err(unexpected(other).into()),
        }
    }

    /// Settings of the interface that are ours.
    pub fn changes(&self) -> &[Change] {
        &self.changes
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
    /// See [`crate::plane::af_packet::OpenError`].
    pub fn open_packet_socket(&mut self) -> Result<RawPort> {
        match self.ask(OfInterface::PacketSocket, None)? {
            (_, mut sockets) if sockets.len() == 1 => Ok(RawPort::of(sockets.remove(0))),
            other => Err(unexpected(other).into()),
        }
    }

    /// From now on the program hands the queue's frames to this socket.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<()> {
        self.ask(OfInterface::SetSocket(queue), Some(socket))
            .map(drop)
    }

    /// From now on the program forwards the queue's frames by itself.
    pub fn unset_socket(&mut self, queue: u32) {
        if let Err(error) = self.done(OfInterface::UnsetSocket(queue)) {
            tracing::error!("queue {queue} can't be taken from its socket: {error:#}");
        }
    }

    /// Makes the interface hear solicitations for these VIPs.
    ///
    /// # Errors
    /// A multicast group can't be joined.
    pub fn listen(&mut self, vips: &BTreeSet<IpAddr>) -> Result<()> {
        self.done(OfInterface::Hear(vips.clone()))
    }

    /// Makes the interface hear solicitations for any address, or again for the VIPs alone.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn hear_all(&mut self, on: bool) -> Result<()> {
        self.done(OfInterface::HearAll(on))
    }

    /// Tells the segment where these VIPs are.
    ///
    /// # Errors
    /// An announcement can't be sent.
    pub fn announce(&mut self, vips: &[Announced], mac: [u8; 6]) -> Result<()> {
        let vips = vips.to_vec();
        self.done(OfInterface::Announce { vips, mac })
    }

    /// Leaves the program and its memory as they are, for the daemon that they came from or the
    /// next one; gives back nothing.
    pub fn leave(self) {}

    /// Takes the program off, and gives back what was changed. Goes on over what fails.
    pub fn close(mut self) {
        if let Err(error) = self.done(OfInterface::Close) {
            tracing::error!("{}: nothing is given back: {error:#}", self.nic.name);
        }
    }

    fn done(&mut self, request: OfInterface) -> Result<()> {
        self.ask(request, None).map(drop)
    }

    /// The same requests for this process as for a keeper.
    fn ask(&mut self, request: OfInterface, beside: Option<BorrowedFd<'_>>) -> Result<Given> {
        match &mut self.own {
            Some(own) => own.answer(request, beside),
            None => {
                let keeper = child::keeper().context("there is no keeper")?;
                Ok(keeper.ask_with(&Request::Interface(request), beside)?)
            }
        }
    }
}

/// The addresses of all back ends.
pub fn backends(config: &Config) -> BTreeSet<IpAddr> {
    config
        .dsr_pools()
        .flat_map(|pool| pool.backends.iter().map(|b| b.address))
        .collect()
}
