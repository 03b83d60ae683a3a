//! Where link and maps are pinned, so that they outlive the process:
//!
//! ```text
//! <bpffs>/pen/<network namespace's inode>-<interface>/link
//!                                                     maps-<layout>-<slot words>-<rows>/<MAP>
//! ```
//!
//! The directory of the maps names their layout: a process that knows the same layout finds and
//! adopts them, any other makes its own beside them.

#![allow(unsafe_code, reason = "mount(2) has no wrapper in a crate")]

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use pen_common::{
    tables::{LAYOUT, SLOTS_PER_WORD, VIP_PROBES},
    verdict::Reason,
};

use super::OpenError;
use crate::mapped::{Array, Shape};

/// The pins of one interface.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// For an interface of this thread's network namespace.
    pub(super) fn new(bpffs: &Path, ifname: &str) -> io::Result<Self> {
        let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
        // The BPF file system allows no dots in names.
        let ifname = ifname.replace('%', "%%").replace('.', "%d");
        Ok(Self {
            directory: bpffs.join("pen").join(format!("{namespace}-{ifname}")),
        })
    }

    pub(super) fn link(&self) -> PathBuf {
        self.directory.join("link")
    }

    /// Whether there are any. Not being allowed to look is no answer.
    pub(super) fn exist(&self) -> io::Result<bool> {
        self.directory.try_exists().map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "{} can't be looked at: {error}; run pen as root",
                    self.directory.display()
                ),
            )
        })
    }

    /// Makes them this process's own. What a living daemon has pinned is not to be adopted, and the
    /// lock in `run_dir` says nothing of one with another `run_dir`.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] while another has them, or is about to remove them; that others
    /// may write there.
    pub(super) fn hold(&self, bpffs: &Path) -> io::Result<Hold> {
        let removed = |error: io::Error| match error.kind() == io::ErrorKind::NotFound {
            true => io::ErrorKind::WouldBlock.into(),
            false => error,
        };
        check_owner(bpffs)?;
        make(&self.directory).map_err(removed)?;
        // Again: from now on nobody else can put another one in its place.
        check_owner(bpffs)?;
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(&self.directory)
            .map_err(removed)?;
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let hold = Hold {
            pins: self.clone(),
            directory,
        };
        // The one before may have removed it between opening and locking.
        match hold.is_in_place() {
            true => Ok(hold),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Maps of our layout that are large enough: their shape and directory.
    pub(super) fn find_maps(&self, wanted: &Shape) -> Option<(Shape, PathBuf)> {
        let entries = fs::read_dir(&self.directory).ok()?;
        entries.flatten().find_map(|entry| {
            let name = entry.file_name();
            let shape = shape_of(name.to_str()?)?;
            // A process that died while it made them leaves fewer.
            let whole = Array::ALL
                .iter()
                .all(|array| entry.path().join(array.name()).exists());
            (shape.holds(wanted) && whole).then(|| (shape, entry.path()))
        })
    }

    /// An empty directory for maps of this shape.
    pub(super) fn new_maps(&self, shape: &Shape) -> io::Result<PathBuf> {
        let directory = self.directory.join(name_of(shape));
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        make(&directory)?;
        Ok(directory)
    }

    /// Forgets all maps but those in `keep`.
    pub(super) fn remove_other_maps(&self, keep: &Path) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.is_dir() && path != keep {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// Forgets everything but the directory, which the lock is on; the program leaves the interface
    /// with the last holder of its link. Whether there was anything.
    pub(super) fn clear(&self) -> io::Result<bool> {
        let mut any = false;
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            match path.is_dir() {
                true => fs::remove_dir_all(path)?,
                false => fs::remove_file(path)?,
            }
            any = true;
        }
        Ok(any)
    }
}

/// The right to an interface's pins, for as long as it lives: a lock on their directory.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(super) pins: Pins,
    directory: File,
}

impl Hold {
    fn is_in_place(&self) -> bool {
        let inode = |found: fs::Metadata| (found.dev(), found.ino());
        let ours = self.directory.metadata().map(inode).ok();
        ours.is_some() && fs::symlink_metadata(&self.pins.directory).map(inode).ok() == ours
    }
}

impl Drop for Hold {
    /// What holds no pins is not left behind.
    fn drop(&mut self) {
        let directory = &self.pins.directory;
        if self.is_in_place()
            && fs::remove_dir(directory).is_ok()
            && let Some(parent) = directory.parent()
        {
            // The next interface's pins may stand there.
            let _in_use = fs::remove_dir(parent);
        }
    }
}

fn make(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

fn name_of(shape: &Shape) -> String {
    format!("maps-{:016x}-{}-{}", layout(), shape.slot_words, shape.rows)
}

fn shape_of(name: &str) -> Option<Shape> {
    let rest = name.strip_prefix(&format!("maps-{:016x}-", layout()))?;
    let (slot_words, rows) = rest.split_once('-')?;
    Some(Shape {
        slot_words: slot_words.parse().ok()?,
        rows: rows.parse().ok()?,
    })
}

/// A number that changes with the layout of the memory and the meaning of its words (FNV-1a).
fn layout() -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    let free = Shape {
        slot_words: 1,
        rows: 1,
    };
    for array in Array::ALL {
        add(array.name().as_bytes());
        add(&array.element_words().to_le_bytes());
        add(&array.elements(&free).to_le_bytes());
    }
    for reason in Reason::ALL {
        add(reason.label().as_bytes());
    }
    add(&[LAYOUT, SLOTS_PER_WORD, VIP_PROBES].map(|number| number as u8));
    hash
}

/// Who can write in our directory decides what a privileged process loads: nobody but this user
/// and root may have made it. An older mount lets everybody make one.
pub(super) fn check_owner(bpffs: &Path) -> io::Result<()> {
    // SAFETY: the call has no arguments and can't fail.
    let user = unsafe { libc::geteuid() };
    check_owner_as(&bpffs.join("pen"), user)
}

fn check_owner_as(path: &Path, user: u32) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if metadata.is_dir() && [0, user].contains(&metadata.uid()) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{} was made by user {}, not by pen; see what is in it and remove it",
            path.display(),
            metadata.uid()
        ),
    ))
}

/// Whether `path` is in a BPF file system.
pub(super) fn has_bpffs(path: &Path) -> Result<bool, OpenError> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").map_err(|error| {
        OpenError::other(
            "/proc/thread-self/mountinfo can't be read; is /proc mounted?",
            error,
        )
    })?;
    Ok(is_bpffs(&mounts, path))
}

/// Sees to it that `path` is a BPF file system: mounts one there if it is none.
pub(super) fn ensure_bpffs(path: &Path) -> Result<(), OpenError> {
    if has_bpffs(path)? {
        return Ok(());
    }
    mount(path).map_err(|source| OpenError::NoBpffs {
        path: path.to_path_buf(),
        source,
    })
}

/// Whether the mount that `path` stands in is a BPF file system, by the lines of `proc(5)`'s
/// mountinfo: mount point in the fifth field, type in the first behind the lone hyphen. Lines
/// stand in the order of mounting, so that the last one above `path` is the one that it is in.
fn is_bpffs(mountinfo: &str, path: &Path) -> bool {
    let mut found = false;
    for line in mountinfo.lines() {
        let (Some(point), Some((_, kind))) = (line.split(' ').nth(4), line.split_once(" - "))
        else {
            continue;
        };
        if path.starts_with(point) {
            found = kind.starts_with("bpf ");
        }
    }
    found
}

fn mount(path: &Path) -> io::Result<()> {
    let target = CString::new(path.as_os_str().as_bytes())?;
    // Without options its root is everybody's to write in.
    let options = c"mode=0700";
    // SAFETY: all four texts end in zero and live until the call returns; a BPF file system takes
    // its data as text.
    let result = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_tells_the_shape() {
        let shape = Shape {
            slot_words: 70_000,
            rows: 18,
        };
        assert_eq!(shape_of(&name_of(&shape)), Some(shape));
        assert_eq!(shape_of("maps-0000000000000000-70000-18"), None);
        assert_eq!(shape_of("link"), None);
    }

    #[test]
    fn the_latest_mount_decides() {
        let mounts = "22 1 0:20 / / rw - ext4 /dev/vda rw\n\
                      23 22 0:21 / /sys rw,nosuid - sysfs sysfs rw\n\
                      24 23 0:22 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700\n";
        assert!(is_bpffs(mounts, Path::new("/sys/fs/bpf")));
        assert!(is_bpffs(mounts, Path::new("/sys/fs/bpf/pen")));
        assert!(!is_bpffs(mounts, Path::new("/sys/fs/bpfs")));
        assert!(!is_bpffs(mounts, Path::new("/tmp")));
        let hidden = format!("{mounts}25 24 0:23 / /sys rw - sysfs sysfs rw\n");
        assert!(!is_bpffs(&hidden, Path::new("/sys/fs/bpf")));
        let covered = format!("{mounts}25 24 0:23 / /sys/fs/bpf rw - tmpfs tmpfs rw\n");
        assert!(!is_bpffs(&covered, Path::new("/sys/fs/bpf")));
    }

    fn bpffs(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pen-hold-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn pins_are_one_process_s_and_what_is_empty_goes_with_it() {
        let bpffs = bpffs("one");
        let [first, other] = ["eth0", "eth1"].map(|name| Pins::new(&bpffs, name).unwrap());
        let held = first.hold(&bpffs).unwrap();
        let refused = first.hold(&bpffs).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(other.hold(&bpffs).unwrap());
        assert!(!other.directory.exists());
        // Pins outlive who holds them, as after a kill; whoever has cleared them leaves nothing.
        fs::write(first.link(), "").unwrap();
        drop(held);
        let held = first.hold(&bpffs).unwrap();
        assert!(first.link().exists());
        assert_eq!(
            (held.pins.clear().unwrap(), held.pins.clear().unwrap()),
            (true, false)
        );
        assert!(held.is_in_place(), "the lock is on what is there");
        drop(held);
        assert_eq!(fs::read_dir(&bpffs).unwrap().count(), 0);
        fs::remove_dir(&bpffs).unwrap();
    }

    #[test]
    fn no_link_of_a_stranger_s_is_followed() {
        let (bpffs, victim) = (bpffs("link"), bpffs("victim"));
        fs::write(victim.join("precious"), "").unwrap();
        let pins = Pins::new(&bpffs, "eth0").unwrap();
        let ours = bpffs.join("pen");
        std::os::unix::fs::symlink(&victim, &ours).unwrap();
        assert!(pins.hold(&bpffs).is_err());
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
        fs::remove_file(&ours).unwrap();
        fs::create_dir(&ours).unwrap();
        std::os::unix::fs::symlink(&victim, &pins.directory).unwrap();
        assert!(pins.hold(&bpffs).is_err());
        assert!(victim.join("precious").exists());
        for folder in [bpffs, victim] {
            fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn a_strangers_directory_is_refused() {
        let path = std::env::temp_dir().join(format!("pen-pins-{}", std::process::id()));
        assert!(check_owner_as(&path, 1).is_ok(), "not there");
        fs::create_dir(&path).unwrap();
        let me = fs::symlink_metadata(&path).unwrap().uid();
        assert!(check_owner_as(&path, me).is_ok());
        if me == 0 {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        }
        let refused = check_owner_as(&path, me + 1).unwrap_err().to_string();
        assert!(refused.contains("not by pen"), "{refused}");
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/", &path).unwrap();
        assert!(check_owner_as(&path, me).is_err(), "a link leads anywhere");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn pins_that_can_not_be_looked_at_are_not_taken_for_none() {
        // Root may look everywhere; but below a file there is nothing to look at.
        let here = std::env::current_exe().unwrap();
        let pins = |directory| Pins { directory };
        assert!(pins(here.clone()).exist().unwrap());
        assert!(!pins(here.with_file_name("no-pins")).exist().unwrap());
        let why = pins(here.join("pen")).exist().unwrap_err().to_string();
        assert!(why.contains("run pen as root"), "{why}");
    }
}
