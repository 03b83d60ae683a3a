//! The XDP program on an interface: loading, attaching, and the pins by which it and its memory
//! outlive this process.
//!
//! [`Steering::open`] finds or makes the memory, the caller fills it, [`Steering::attach`] hangs
//! the program on the interface, and the daemon puts its sockets in. A crashed or restarting
//! daemon leaves all of it in force; the next one takes the memory over and replaces the program
//! in place, or, if it knows another layout, fills memory of its own first.

mod pins;
mod readers;
mod refusal;

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Map, MapData, XskMap},
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpMode as AyaMode},
    },
};
use pen_common::config::XdpMode;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

pub(crate) use self::pins::Hold;
pub use self::readers::ReadersMap;
pub use self::refusal::{Capability, OpenError, check_privileges, possible_cpus};
use self::{
    pins::{Pins, check_owner, ensure_bpffs, has_bpffs},
    refusal::{NotAttached, not_attached},
};
use crate::{
    mapped::{Array, Mapped, Shape},
    nic::{HookMode, Nic, who_holds_xdp},
};

/// The object that `make ebpf` builds and that is committed beside its sources' digest.
pub static OBJECT: &[u8] = include_bytes_aligned!("../../bpf/pen.o");

/// How long the kernel may take to let go of a program.
const RELEASE: Duration = Duration::from_secs(1);
const PROGRAM: &str = "steer";
const SOCKETS: &str = "SOCKETS";

/// Which interface.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where the BPF file system is mounted, or shall be.
    pub bpffs: PathBuf,
    /// Name of an interface of this thread's network namespace.
    pub ifname: String,
    /// Its number.
    pub ifindex: u32,
}

/// How the program hangs on the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Native or generic.
    pub mode: HookMode,
    /// Why, in one sentence; where generic came of a refusal, the driver's reason.
    pub why: String,
    /// The kernel's number for the program.
    pub program_id: u32,
    /// Whether it replaced the program of the process before, without a frame in between.
    pub replaced: bool,
}

/// Memory and program of one interface. Dropping it leaves both in force.
pub struct Steering {
    place: Place,
    pins: Pins,
    maps: PathBuf,
    memory: Arc<Mapped>,
    adopted: bool,
    sockets: XskMap<MapData>,
    attached: Option<Attached>,
}

struct Attached {
    attachment: Attachment,
    link: FdLink,
}

impl Steering {
    /// Adopts the memory that the process before left, or makes a new one.
    ///
    /// # Errors
    /// Each says what is missing and what mends it.
    pub fn open(place: Place, shape: Shape) -> Result<Self, OpenError> {
        Self::open_in(place, shape, true)
    }

    /// Makes a new memory; what the process before left stays in force until [`Steering::attach`].
    ///
    /// # Errors
    /// As [`Steering::open`].
    pub fn open_fresh(place: Place, shape: Shape) -> Result<Self, OpenError> {
        Self::open_in(place, shape, false)
    }

    fn open_in(place: Place, shape: Shape, adopt: bool) -> Result<Self, OpenError> {
        check_privileges(&[Capability::Bpf, Capability::NetAdmin])?;
        ensure_bpffs(&place.bpffs)?;
        check_owner(&place.bpffs)
            .map_err(|error| OpenError::other("the place for pins is not trusted", error))?;
        let pins = pins_of(&place.bpffs, &place.ifname)?;
        let found = adopt.then(|| pins.find_maps(&shape)).flatten();
        let adopted = found.is_some();
        if adopt && !adopted && pins.link().exists() {
            info!(
                interface = place.ifname,
                "the memory of the process before is of another version or too small: its flows \
                 and counters are forgotten"
            );
        }
        let (shape, maps) = match found {
            Some(found) => found,
            None => (shape, new_maps(&pins, &shape, &place.bpffs)?),
        };
        let mut ebpf = load(&maps, &shape, false)?;
        let sockets = take_sockets(&mut ebpf)?;
        let memory = map(&ebpf, shape)
            .map_err(|error| OpenError::other("the program's maps can't be mapped", error))?;
        if adopted {
            info!(
                interface = place.ifname,
                "memory of the process before adopted"
            );
        }
        Ok(Self {
            place,
            pins,
            maps,
            memory: Arc::new(memory),
            adopted,
            sockets,
            attached: None,
        })
    }

    /// The memory.
    pub fn memory(&self) -> &Arc<Mapped> {
        &self.memory
    }

    /// The maps that the memory is in, in the order of [`Array::ALL`].
    ///
    /// # Errors
    /// A pin is gone.
    pub fn arrays(&self) -> Result<Vec<OwnedFd>, OpenError> {
        let open = |array: &Array| -> Result<OwnedFd, OpenError> {
            let data = MapData::from_pin(self.maps.join(array.name()))
                .map_err(|error| OpenError::other("a pinned map can't be opened", error))?;
            let descriptor = data.fd().as_fd().try_clone_to_owned();
            descriptor.map_err(|error| OpenError::other("a map has no descriptor", error))
        };
        Array::ALL.iter().map(open).collect()
    }

    /// Whether the memory is that of the process before.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Hangs the program on the interface. `finish` says whether it finishes checksums that
    /// senders left to their hardware; it does so in native mode only.
    ///
    /// # Errors
    /// Someone else holds the hook, or the wanted mode is refused.
    pub fn attach(&mut self, wanted: XdpMode, finish: bool) -> Result<&Attachment, OpenError> {
        let attached = match self.replace(wanted, finish)? {
            Some(attached) => attached,
            None => self.attach_anew(wanted, finish)?,
        };
        self.pins
            .remove_other_maps(&self.maps)
            .map_err(|error| OpenError::other("old pins can't be removed", error))?;
        Ok(&self.attached.insert(attached).attachment)
    }

    /// Replaces the program of the process before, if its link is there and of the wanted mode.
    fn replace(&self, wanted: XdpMode, finish: bool) -> Result<Option<Attached>, OpenError> {
        let path = self.pins.link();
        if !path.exists() {
            return Ok(None);
        }
        let pinned = PinnedLink::from_pin(&path)
            .map_err(|error| OpenError::other("the pinned link can't be opened", error))?;
        let link = FdLink::from(pinned);
        let info = link
            .info()
            .map_err(|error| OpenError::other("the pinned link can't be examined", error))?;
        let holder = who_holds_xdp(self.place.ifindex)
            .map_err(|error| OpenError::other("the interface can't be examined", error))?;
        let mode = holder
            .filter(|holder| holder.program_id == info.program_id())
            .map(|holder| holder.mode)
            .filter(|mode| match wanted {
                XdpMode::Auto => true,
                XdpMode::Native => *mode == HookMode::Native,
                XdpMode::Generic => *mode == HookMode::Generic,
            });
        let Some(mode) = mode else {
            // Of an interface that is gone, or in a mode that is no longer wanted.
            fs::remove_file(&path)
                .map_err(|error| OpenError::other("the pinned link can't be removed", error))?;
            return Ok(None);
        };
        let mut ebpf = self.load(finish && mode == HookMode::Native)?;
        let program = program(&mut ebpf)?;
        let link = XdpLink::try_from(link)
            .map_err(|error| OpenError::other("the pinned link is none of XDP", error))?;
        let id = program
            .attach_to_link(link)
            .map_err(|error| OpenError::other("the program can't be replaced", error))?;
        let link = take_link(program, id)?;
        let why = "replaced the program of the process before in place".into();
        self.attached(link, program, mode, why, true).map(Some)
    }

    fn attach_anew(&self, wanted: XdpMode, finish: bool) -> Result<Attached, OpenError> {
        let mut why = match wanted {
            XdpMode::Auto => "the driver has native XDP".to_owned(),
            XdpMode::Native | XdpMode::Generic => "as configured".to_owned(),
        };
        if wanted != XdpMode::Generic {
            match self.attach_in(HookMode::Native, finish, why.clone()) {
                Err(OpenError::Refused(refused)) if wanted == XdpMode::Auto => {
                    warn!(interface = self.place.ifname, "no native XDP: {refused}");
                    why = format!("no native XDP: {refused}");
                }
                result => return result,
            }
        }
        self.attach_in(HookMode::Generic, false, why)
    }

    fn attach_in(&self, mode: HookMode, finish: bool, why: String) -> Result<Attached, OpenError> {
        let mut ebpf = self.load(finish)?;
        let program = program(&mut ebpf)?;
        let flag = if mode == HookMode::Native {
            AyaMode::Driver
        } else {
            AyaMode::Skb
        };
        let id = program
            .attach_to_if_index(self.place.ifindex, flag)
            .map_err(|error| match not_attached(&error) {
                NotAttached::Held => OpenError::Held {
                    ifname: self.place.ifname.clone(),
                    holder: who_holds_xdp(self.place.ifindex).ok().flatten(),
                },
                NotAttached::Refused(refused) => OpenError::Refused(refused),
            })?;
        let link = take_link(program, id)?;
        let path = self.pins.link();
        let link = link.pin(&path).map_err(|error| {
            OpenError::other(
                format!("the link can't be pinned at {}", path.display()),
                error,
            )
        })?;
        self.attached(link.into(), program, mode, why, false)
    }

    fn attached(
        &self,
        link: FdLink,
        program: &Xdp,
        mode: HookMode,
        why: String,
        replaced: bool,
    ) -> Result<Attached, OpenError> {
        let info = program
            .info()
            .map_err(|error| OpenError::other("the program can't be examined", error))?;
        Ok(Attached {
            attachment: Attachment {
                mode,
                why,
                program_id: info.id(),
                replaced,
            },
            link,
        })
    }

    fn load(&self, finish: bool) -> Result<Ebpf, OpenError> {
        load(&self.maps, &self.memory.shape(), finish)
    }

    /// From now on the program hands frames of `queue` to this AF_XDP socket, while its worker's
    /// heartbeat is fresh.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_socket(&mut self, queue: u32, socket: impl AsRawFd) -> Result<(), OpenError> {
        self.sockets.set(queue, socket, 0).map_err(|error| {
            OpenError::other(
                format!("queue {queue}'s socket can't be put in its map"),
                error,
            )
        })
    }

    /// From now on the program forwards frames of `queue` by itself. Nothing happens if there was
    /// no socket.
    pub fn unset_socket(&mut self, queue: u32) {
        self.memory.store_heartbeat(queue, 0);
        if let Err(error) = self.sockets.unset(queue) {
            // A socket that was closed has left the map already.
            tracing::debug!(queue, "no socket to take out: {error}");
        }
    }

    /// Takes the program off the interface and forgets the memory; unless another process has
    /// taken both over.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn detach(self) -> io::Result<()> {
        if let Some(Attached { attachment, link }) = &self.attached {
            let id = link.info().map(|info| info.program_id());
            if id.is_ok_and(|id| id != attachment.program_id) {
                info!(
                    interface = self.place.ifname,
                    "left to the process that took over"
                );
                return Ok(());
            }
        }
        self.pins.clear()?;
        let program = self.attached.map(|attached| attached.attachment.program_id);
        wait_until_free(&self.place.ifname, program);
        Ok(())
    }
}

/// Waits until the program is off the interface: the kernel takes it off some moments after the last
/// holder of its link is gone. Who holds it all the same.
fn wait_until_free(ifname: &str, program: Option<u32>) -> Option<String> {
    let end = Instant::now() + RELEASE;
    loop {
        let holder = holder_of(ifname, program);
        if holder.is_none() || Instant::now() >= end {
            return holder;
        }
        thread::sleep(RELEASE / 50);
    }
}

/// Makes an interface's pins this process's own: nothing is adopted or removed without. None where
/// the program is not wanted (`mount` says so) and there is no place for its pins.
///
/// # Errors
/// [`OpenError::Served`] while another daemon has them, which may be about to end; else that there is
/// no place for pins, or none to be trusted.
pub(crate) fn hold(bpffs: &Path, ifname: &str, mount: bool) -> Result<Option<Hold>, OpenError> {
    match mount {
        true => ensure_bpffs(bpffs)?,
        false if has_bpffs(bpffs)? => {}
        false => return Ok(None),
    }
    let held = pins_of(bpffs, ifname)?.hold(bpffs);
    held.map(Some).map_err(|error| match is_held(&error) {
        true => served(ifname),
        false => no_directory(bpffs, error),
    })
}

fn is_held(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn served(ifname: &str) -> OpenError {
    OpenError::Served {
        ifname: ifname.to_owned(),
    }
}

fn pins_of(bpffs: &Path, ifname: &str) -> Result<Pins, OpenError> {
    Pins::new(bpffs, ifname)
        .map_err(|error| OpenError::other("the network namespace is not known", error))
}

/// What [`detach`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Detached {
    /// No pins of this interface.
    Nothing,
    /// Pins, now gone, and the program with them.
    Removed,
    /// Pins, now gone; but the program stays as long as this one, who has its link open, lives.
    StillHeld(String),
}

/// Cleans an interface of what a daemon left there, without a daemon.
///
/// # Errors
/// There is no such network namespace, a daemon serves the interface, or a pin can't be removed.
pub fn detach(bpffs: &Path, ifname: &str) -> io::Result<Detached> {
    let pins = Pins::new(bpffs, ifname)?;
    if !pins.exist()? {
        return Ok(Detached::Nothing);
    }
    let hold = pins.hold(bpffs).map_err(|error| match is_held(&error) {
        true => io::Error::other(served(ifname)),
        false => error,
    })?;
    hold.detach(ifname)
}

impl Hold {
    /// Takes off what a daemon left on the interface.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub(crate) fn detach(&self, ifname: &str) -> io::Result<Detached> {
        let program = PinnedLink::from_pin(self.pins.link())
            .ok()
            .and_then(|link| FdLink::from(link).info().ok())
            .map(|info| info.program_id());
        if !self.pins.clear()? {
            return Ok(Detached::Nothing);
        }
        Ok(match wait_until_free(ifname, program) {
            Some(holder) => Detached::StillHeld(holder),
            None => Detached::Removed,
        })
    }
}

/// Who keeps `program` on the interface.
fn holder_of(ifname: &str, program: Option<u32>) -> Option<String> {
    let index = Nic::open(ifname).ok()?.index;
    let holder = who_holds_xdp(index).ok()??;
    (Some(holder.program_id) == program).then(|| holder.to_string())
}

fn new_maps(pins: &Pins, shape: &Shape, bpffs: &Path) -> Result<PathBuf, OpenError> {
    pins.new_maps(shape)
        .map_err(|error| no_directory(bpffs, error))
}

fn no_directory(bpffs: &Path, error: io::Error) -> OpenError {
    OpenError::other(
        format!("no directory for pins can be made in {}", bpffs.display()),
        error,
    )
}

/// Loads the object over the maps pinned in `directory`; those that are not there are made.
fn load(directory: &Path, shape: &Shape, finish: bool) -> Result<Ebpf, OpenError> {
    let finish = u8::from(finish);
    let mut loader = EbpfLoader::new();
    loader.override_global("FINISH_CHECKSUMS", &finish, true);
    loader.map_pin_path(SOCKETS, directory.join(SOCKETS));
    for array in Array::ALL {
        loader.map_max_entries(array.name(), array.elements(shape));
        loader.map_pin_path(array.name(), directory.join(array.name()));
    }
    loader.load(OBJECT).map_err(OpenError::load)
}

/// The steering program, verified by the kernel.
fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, OpenError> {
    let program = ebpf
        .program_mut(PROGRAM)
        .ok_or_else(|| OpenError::broken(PROGRAM))?;
    let program: &mut Xdp = program.try_into().map_err(|_| OpenError::broken(PROGRAM))?;
    program.load().map_err(OpenError::verify)?;
    Ok(program)
}

fn take_link(program: &mut Xdp, id: aya::programs::xdp::XdpLinkId) -> Result<FdLink, OpenError> {
    let link = program
        .take_link(id)
        .map_err(|error| OpenError::other("the link is lost", error))?;
    link.try_into().map_err(|error| {
        OpenError::other("the kernel has no XDP links (they came with 5.9)", error)
    })
}

fn take_sockets(ebpf: &mut Ebpf) -> Result<XskMap<MapData>, OpenError> {
    let map = ebpf
        .take_map(SOCKETS)
        .ok_or_else(|| OpenError::broken(SOCKETS))?;
    XskMap::try_from(map).map_err(|error| OpenError::other("map SOCKETS", error))
}

fn map(ebpf: &Ebpf, shape: Shape) -> io::Result<Mapped> {
    Mapped::of_program(shape, |array| -> io::Result<BorrowedFd<'_>> {
        match ebpf.map(array.name()) {
            Some(Map::Array(data)) => Ok(data.fd().as_fd()),
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the object has no array {}", array.name()),
            )),
        }
    })
}
