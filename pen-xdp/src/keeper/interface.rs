//! Everything that one interface in DSR needs privileges for: programs and maps, packet sockets,
//! neighbour entries, settings of the interface, announcements. It does what a request says, for this
//! very process or for one that has no rights ([`super::claim`]).

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::BorrowedFd,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use pen_common::config::{Config, Plane, TABLE_MEMORY_MAX, XdpMode};
use pen_common::tables::{BACKENDS_MAX, QUEUES_MAX, VIPS_MAX};
use socket2::{Domain, SockRef};

use super::answers::Given;
use super::request::{Answer, OfInterface};
use crate::announce::Announcer;
use crate::ebpf::{self, Capability, Place, ReadersMap, Steering, check_privileges, possible_cpus};
use crate::lock::InterfaceLock;
use crate::mapped::Shape;
use crate::neighbor::{Order, carry_out, is_segment_of, may};
use crate::netlink::Netlink;
use crate::nic::{Nic, Remembered, restore_left_over};
use crate::plane::{af_packet, af_xdp};

/// Entries of neighbours that are made at most: those of all back ends, in two configurations.
const NEIGHBORS_MAX: usize = 2 * BACKENDS_MAX as usize;
/// How long a process that ends may take from letting go of its lock to letting go of its pins.
const OVERLAP: Duration = Duration::from_millis(200);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(10);
/// The daemon's before, and a larger one.
const MEMORIES_MAX: u32 = 2;

/// The privileged side of one interface.
pub(super) struct Interface {
    nic: Nic,
    bpffs: PathBuf,
    run_dir: PathBuf,
    plane: Plane,
    xdp_mode: XdpMode,
    finish_checksums: bool,
    memories: u32,
    steering: Option<Steering>,
    // Falls behind the program that it guards.
    pins: Option<ebpf::Hold>,
    announcer: Option<Announcer>,
    settings: Option<Remembered>,
    netlink: Option<Netlink>,
    neighbors: BTreeSet<(u32, IpAddr)>,
    readers: Option<ReadersMap>,
}

impl Interface {
    /// Looks at it. Nothing is changed, and no privilege is needed.
    ///
    /// # Errors
    /// There is no such interface, or it is none for DSR.
    pub(super) fn open(config: &Config) -> Result<Self> {
        Ok(Self {
            nic: Nic::open(&config.interface)?,
            bpffs: config.bpffs.clone(),
            run_dir: config.run_dir.clone(),
            plane: config.plane,
            xdp_mode: config.xdp_mode,
            finish_checksums: config.finish_checksums,
            memories: 0,
            steering: None,
            pins: None,
            announcer: None,
            settings: None,
            netlink: None,
            neighbors: BTreeSet::new(),
            readers: None,
        })
    }

    /// As it was found.
    pub(super) fn nic(&self) -> &Nic {
        &self.nic
    }

    /// Whether everything that its plane needs may be done.
    ///
    /// # Errors
    /// Names the first capability that is missing.
    pub(super) fn check_privileges(&self) -> Result<(), ebpf::OpenError> {
        match self.plane {
            Plane::AfPacket => check_privileges(&[Capability::NetAdmin, Capability::NetRaw]),
            Plane::Auto | Plane::AfXdp | Plane::Xdp => check_privileges(&[
                Capability::Bpf,
                Capability::PerfMon,
                Capability::NetAdmin,
                Capability::NetRaw,
            ]),
        }
    }

    /// Makes it this process's own; waits a moment for the daemon before. The pins are held here,
    /// the lock that others may share is returned.
    ///
    /// # Errors
    /// Another daemon has it, or the places of lock or pins can't be had.
    pub(super) async fn lock(&mut self) -> Result<InterfaceLock> {
        let lock = InterfaceLock::take(&self.run_dir, &self.nic.name).await?;
        let end = Instant::now() + OVERLAP;
        while !self.hold_pins(Instant::now() < end)? {
            tokio::time::sleep(AGAIN).await;
        }
        Ok(lock)
    }

    /// As [`Interface::lock`], without an event loop.
    ///
    /// # Errors
    /// As there.
    pub(super) fn lock_blocking(&mut self) -> Result<InterfaceLock> {
        let lock = InterfaceLock::take_blocking(&self.run_dir, &self.nic.name)?;
        let end = Instant::now() + OVERLAP;
        while !self.hold_pins(Instant::now() < end)? {
            thread::sleep(AGAIN);
        }
        Ok(lock)
    }

    /// Whether that is done; not while another has them that `may_end`.
    fn hold_pins(&mut self, may_end: bool) -> Result<bool, ebpf::OpenError> {
        let has_program = self.plane != Plane::AfPacket;
        match ebpf::hold(&self.bpffs, &self.nic.name, has_program) {
            Ok(pins) => self.pins = pins,
            Err(ebpf::OpenError::Served { .. }) if may_end => return Ok(false),
            Err(served @ ebpf::OpenError::Served { .. }) => return Err(served),
            Err(error) if has_program => return Err(error),
            // It pins nothing itself.
            Err(error) => tracing::warn!("another pen with another run_dir is not seen: {error}"),
        }
        Ok(true)
    }

    /// Does what is asked, with the descriptor that came beside it.
    ///
    /// # Errors
    /// Why not. An error of the kernel that its reader knows what to do about stands alone.
    pub(super) fn answer(
        &mut self,
        request: OfInterface,
        beside: Option<BorrowedFd<'_>>,
    ) -> Result<Given> {
        let beside = || beside.context("no descriptor beside the request");
        match request {
            OfInterface::RestoreLeftOver => return self.restore_left_over(),
            OfInterface::DetachLeftOver => self.detach_left_over()?,
            OfInterface::Memory {
                fresh,
                slot_bytes,
                workers,
            } => return self.memory(fresh, slot_bytes, workers),
            OfInterface::Attach => {
                let (mode, finish) = (self.xdp_mode, self.finish_checksums);
                let attachment = self.steering()?.attach(mode, finish)?.clone();
                return Ok((Answer::Attached(attachment), Vec::new()));
            }
            OfInterface::Set(wanted) => {
                let settings = self.nic.apply(wanted, &self.run_dir)?;
                let (changes, refused) = (settings.changes.clone(), settings.refused.clone());
                self.settings = Some(settings);
                return Ok((Answer::Set { changes, refused }, Vec::new()));
            }
            OfInterface::SetSocket(queue) => {
                let socket = beside()?;
                self.steering()?.set_socket(queue, socket)?;
            }
            OfInterface::UnsetSocket(queue) => {
                if let Some(steering) = &mut self.steering {
                    steering.unset_socket(queue);
                }
            }
            OfInterface::BusyPoll => busy_poll(beside()?)?,
            OfInterface::PacketSocket => {
                // It can be bound to any other interface, and hears all that comes there.
                ensure!(
                    self.plane == Plane::AfPacket,
                    "the plane has no packet socket"
                );
                let socket = af_packet::open_socket(&self.nic.name)?;
                return Ok((Answer::Done, vec![socket]));
            }
            OfInterface::Neighbor {
                ifindex,
                address,
                order,
            } => self.neighbor(ifindex, address, order)?,
            OfInterface::Hear(vips) => {
                ensure!(vips.len() <= VIPS_MAX, "{} VIPs are too many", vips.len());
                (self.announcer()?.listen(&vips))
                    .context("the VIPs' multicast groups can't be joined")?;
            }
            OfInterface::HearAll(on) => (self.announcer()?.hear_all(on))
                .context("the interface can't be made to hear all multicast")?,
            OfInterface::Announce { vips, mac } => {
                ensure!(vips.len() <= VIPS_MAX, "{} VIPs are too many", vips.len());
                (self.announcer()?.announce(&vips, mac)).context("the VIPs can't be announced")?;
            }
            OfInterface::WaitForReaders => self.wait_for_readers()?,
            OfInterface::Close => self.close(),
        }
        Ok((Answer::Done, Vec::new()))
    }

    fn restore_left_over(&self) -> Result<Given> {
        let said = restore_left_over(&self.nic.name, &self.run_dir)?;
        Ok((Answer::Said(said), Vec::new()))
    }

    fn detach_left_over(&self) -> Result<()> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        let name = &self.nic.name;
        let found = (pins.detach(name))
            .with_context(|| format!("{name}: a daemon's program can't be removed"))?;
        if found != ebpf::Detached::Nothing {
            tracing::info!("{name}: the program of the daemon before was taken off");
        }
        Ok(())
    }

    fn memory(&mut self, fresh: bool, slot_bytes: u64, workers: u32) -> Result<Given> {
        ensure!(
            slot_bytes <= TABLE_MEMORY_MAX && workers <= QUEUES_MAX,
            "{slot_bytes} bytes of slots for {workers} workers are too many"
        );
        ensure!(
            self.memories < MEMORIES_MAX,
            "the program has had its memory"
        );
        // What is pinned may be another daemon's by now.
        ensure!(self.pins.is_some(), "the interface was given back");
        self.memories += 1;
        let place = Place {
            bpffs: self.bpffs.clone(),
            ifname: self.nic.name.clone(),
            ifindex: self.nic.index,
        };
        let cpus = possible_cpus().context("the number of CPUs is not known")?;
        let shape = Shape::new(slot_bytes, cpus, workers);
        let steering = match fresh {
            true => Steering::open_fresh(place, shape),
            false => Steering::open(place, shape),
        }?;
        let arrays = steering.arrays()?;
        let (shape, adopted) = (steering.memory().shape(), steering.adopted());
        self.steering = Some(steering);
        Ok((Answer::Memory { shape, adopted }, arrays))
    }

    fn neighbor(&mut self, ifindex: u32, address: IpAddr, order: Order) -> io::Result<()> {
        let refused = || io::Error::from_raw_os_error(libc::EPERM);
        let netlink = match &mut self.netlink {
            Some(netlink) => netlink,
            none => none.insert(Netlink::open()?),
        };
        if ifindex != self.nic.index && !is_segment_of(netlink, ifindex, self.nic.index)? {
            return Err(refused());
        }
        let place = (ifindex, address);
        let room = self.neighbors.len() < NEIGHBORS_MAX || self.neighbors.contains(&place);
        let is_made = matches!(order, Order::Make { .. });
        if !may(netlink, place, order)? || is_made && !room {
            return Err(refused());
        }
        if is_made {
            self.neighbors.insert(place);
        }
        let done = carry_out(netlink, place, order);
        let gone = match &done {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOENT),
        };
        if gone && matches!(order, Order::Delete | Order::Unmanage) {
            self.neighbors.remove(&place);
        }
        done
    }

    fn wait_for_readers(&mut self) -> io::Result<()> {
        let map = match &self.readers {
            Some(map) => map,
            None => self.readers.insert(ReadersMap::create()?),
        };
        map.wait()
    }

    /// Takes the program off, and gives back what was changed, but for neighbours' entries. Goes on
    /// over what fails.
    pub(super) fn close(&mut self) {
        let had_program = self.steering.is_some();
        if let Some(steering) = self.steering.take()
            && let Err(error) = steering.detach()
        {
            tracing::error!(
                "{}: the program's pins can't be removed: {error}",
                self.nic.name
            );
        }
        self.announcer = None;
        let refused = match self.settings.take() {
            Some(settings) => settings.restore(),
            // A start that did not get as far: what is set now is set for a program that is gone.
            None if had_program => restore_left_over(&self.nic.name, &self.run_dir)
                .unwrap_or_else(|error| vec![format!("{error:#}")]),
            None => Vec::new(),
        };
        for sentence in refused {
            tracing::warn!("{sentence}");
        }
        self.pins = None;
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

    fn steering(&mut self) -> Result<&mut Steering> {
        match &mut self.steering {
            Some(steering) => Ok(steering),
            None => bail!("the program is opened before it is attached or used"),
        }
    }
}

/// Of AF_XDP sockets alone: no other spins at a device.
fn busy_poll(socket: BorrowedFd<'_>) -> io::Result<()> {
    match SockRef::from(&socket).domain()? == Domain::from(libc::AF_XDP) {
        true => af_xdp::prefer_busy_poll(socket),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}
