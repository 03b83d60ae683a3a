//! Files as this process itself may have them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::{Entry, Kind, Stat};

/// Everything by which a name comes to stand for something else.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// See [`super::open`].
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // A FIFO that nobody writes to is opened all the same.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    options.read(true).custom_flags(flags).open(path)
}

/// See [`super::append`].
pub(crate) fn append(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .create(true)
        .mode(mode)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    match options.open(path) {
        // A FIFO that nobody reads yet can be opened only by who could read it, too (fifo(7)); when
        // it is full it takes no more, and nobody waits for it.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => options.read(true).open(path),
        result => result,
    }
}

/// See [`super::stat`].
pub(crate) fn stat(path: &Path) -> io::Result<Stat> {
    let data = fs::metadata(path)?;
    Ok(Stat {
        identity: (data.dev(), data.ino()),
        size: data.size(),
        written: (data.mtime(), data.mtime_nsec()),
        changed: (data.ctime(), data.ctime_nsec()),
        is_folder: data.is_dir(),
        is_file: data.is_file(),
    })
}

/// See [`super::list`].
pub(crate) fn list(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut listed = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        // Its own kind only, without a call of the kernel for each.
        let kind = match entry.file_type()? {
            kind if kind.is_dir() => Kind::Folder,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::File,
        };
        listed.push(Entry { name, kind });
    }
    Ok(listed)
}

/// See [`super::link`].
pub(crate) fn link(path: &Path) -> io::Result<PathBuf> {
    fs::read_link(path)
}

/// Folders in which changes are told of (inotify(7)).
pub(crate) struct Watched(Inotify);

impl Watched {
    /// None as yet.
    ///
    /// # Errors
    /// This user has as many of them as it may have.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK;
        Ok(Self(Inotify::init(flags)?))
    }

    /// Watches one more; whether it is there and may be.
    ///
    /// # Errors
    /// The kernel watches no more.
    pub(crate) fn add(&self, folder: &Path) -> io::Result<bool> {
        match self.0.add_watch(folder, CHANGES) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// What can be read from when something has changed.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(crate) fn told(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

/// See [`super::watch`].
pub(crate) fn watch(folders: &BTreeSet<PathBuf>) -> io::Result<(OwnedFd, bool)> {
    let watched = Watched::new()?;
    let mut all = true;
    for folder in folders {
        all &= watched.add(folder)?;
    }
    Ok((watched.told()?, all))
}
