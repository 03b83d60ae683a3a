//! A control socket's file: whose it is, who may open it, and when it is there.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::geteuid;
use pen_common::config::{CONTROL_MODE_DEFAULT, Config, ControlAt};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{BACKLOG, owner::Owner};
use crate::proxy::listening::knock;

/// Behind the name of a socket whose daemon does not serve yet.
const STARTING: &str = ".starting";
/// How long a daemon that answers may be one that ends: the kernel ends it a moment after its keeper.
const ENDING: Duration = Duration::from_millis(500);
/// Between two knocks.
const AGAIN: Duration = Duration::from_millis(10);

/// Who may open the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    /// Permission bits.
    pub(super) mode: u32,
    /// Whose it is.
    pub(super) owner: Owner,
}

/// The bound socket; its file is removed with it.
///
/// While the daemon starts, the file has another name: a client that finds the socket under its
/// own name is answered at once, and one that comes too early hears so at once.
pub(crate) struct SocketFile {
    /// Until somebody serves it.
    listener: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode of the file that was made.
    identity: (u64, u64),
    /// The name for the time of the start; `None` afterwards.
    starting: Option<PathBuf>,
}

impl SocketFile {
    /// Binds the one that the configuration names; `None` if it names none. Unless it says whose it
    /// is to be, it is this `user`'s, or whose process it is that binds it.
    ///
    /// # Errors
    /// As [`SocketFile::reserve`]; or there is no such owner here.
    pub(crate) fn of(config: &Config, user: Option<u32>) -> Result<Option<Self>> {
        let Some(ControlAt::Path(path)) = &config.control else {
            return Ok(None);
        };
        let owner = config.control_owner.as_ref();
        let found = owner.map(|owner| {
            Owner::find(owner).with_context(|| format!("control_owner = \"{owner}\""))
        });
        let mut owner = found.transpose()?.unwrap_or_default();
        owner.user = owner.user.or(user);
        let mode = config.control_mode;
        Self::reserve(path, Access { mode, owner }).map(Some)
    }

    /// The socket itself, for whoever serves it.
    pub(crate) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }

    /// Binds a socket for `path`, for those alone whom `access` names. A file that a dead daemon
    /// left there is removed.
    ///
    /// # Errors
    /// When another daemon answers there, when something that is no socket stands there, when the
    /// directory can't be written, or when the file can't be given away.
    fn reserve(path: &Path, access: Access) -> Result<Self> {
        make_free(path)?;
        let mut starting = path.as_os_str().to_owned();
        starting.push(STARTING);
        let starting = PathBuf::from(starting);
        make_free(&starting)?;
        let bound =
            bind_private(&starting).and_then(|listener| Ok((listener, identity(&starting)?)));
        let (listener, identity) = bound.with_context(|| {
            format!(
                "control socket {}: can't be made; is its directory there?",
                path.display()
            )
        })?;
        // What follows may fail, and then removes the file.
        let socket = Self {
            listener: Some(listener),
            path: path.to_owned(),
            identity,
            starting: Some(starting),
        };
        socket.let_in(access).with_context(|| {
            format!(
                "control socket {}: its owner or mode can't be set",
                path.display()
            )
        })?;
        Ok(socket)
    }

    /// Opens the file to its group before others, and gives it away: it is nobody's for a moment whose
    /// it is not to be, and has its true name only after this.
    fn let_in(&self, access: Access) -> Result<()> {
        let path = self.starting.as_ref().unwrap_or(&self.path);
        let Owner { user, group } = access.owner;
        let given = user.is_some() || group.is_some();
        if access.mode == CONTROL_MODE_DEFAULT && !given {
            return Ok(());
        }
        // The directory may be another one's: of what was opened it is known that it is the socket.
        let mut opening = fs::OpenOptions::new();
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let file = opening.read(true).custom_flags(flags).open(path)?;
        let found = file.metadata()?;
        if (found.dev(), found.ino()) != self.identity {
            bail!("something else has its name now");
        }
        let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
        if group.is_some() {
            chown(&opened, None, group)?;
        }
        if access.mode != CONTROL_MODE_DEFAULT {
            fs::set_permissions(&opened, fs::Permissions::from_mode(access.mode))?;
        }
        // Last, as who gave a file away may not change it any more without a capability for that.
        if user.is_some() {
            chown(&opened, user, None)?;
        }
        Ok(())
    }

    /// Lets clients find it.
    ///
    /// # Errors
    /// When another daemon has taken the name meanwhile.
    pub(crate) fn appear(&mut self) -> Result<()> {
        if let Some(starting) = &self.starting {
            // Never over somebody else's.
            let flags = RenameFlags::RENAME_NOREPLACE;
            renameat2(AT_FDCWD, starting, AT_FDCWD, &self.path, flags).with_context(|| {
                format!("control socket {}: can't be made", self.path.display())
            })?;
            self.starting = None;
        }
        Ok(())
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = self.starting.as_ref().unwrap_or(&self.path);
        // Another daemon may have come to think this one dead, and have the name now.
        let removed = match identity(path) {
            Ok(found) if found != self.identity => return,
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!("control socket {}: {error}", path.display());
        }
    }
}

/// A listener whose file is its owner's alone from the moment it is there: the kernel makes it with
/// the mode of the socket itself, which can be set before there is a file (`unix_bind_bsd`). Setting
/// the file's mode afterwards would leave a moment for anyone to connect.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let descriptor = fs::File::from(socket.as_fd().try_clone_to_owned()?);
    descriptor.set_permissions(fs::Permissions::from_mode(0o600))?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(OwnedFd::from(socket).into())
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes what a dead daemon left at `path`.
fn make_free(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        bail!(
            "control socket {}: something else has that name; remove it, or name another",
            path.display()
        );
    }
    let end = Instant::now() + ENDING;
    let tried = loop {
        match knock(path) {
            Ok(()) if Instant::now() < end => thread::sleep(AGAIN),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                break try_as_owner(path, error);
            }
            tried => break tried,
        }
    };
    match tried {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Ok(_) => bail!(
            "control socket {}: a running daemon answers there; stop it, or name another",
            path.display()
        ),
        // Another user's may be alive, and one for datagrams is another program's.
        Err(error) => bail!(
            "control socket {}: something that may be alive has that name ({error}); name another",
            path.display()
        ),
    }
    fs::remove_file(path)
        .with_context(|| format!("control socket {}: can't replace it", path.display()))
}

/// Looks whether somebody listens where the file is another user's and this root may not open what is another's
/// (CAP_DAC_OVERRIDE): it is its own for that moment. What was said before stays so if that can't be.
fn try_as_owner(path: &Path, denied: io::Error) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let mut opening = fs::OpenOptions::new();
    let file = opening.read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    let own = Some(geteuid().as_raw());
    if !found.file_type().is_socket() || chown(&opened, own, None).is_err() {
        return Err(denied);
    }
    let tried = knock(path);
    chown(&opened, Some(found.uid()), None)?;
    tried
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// For whoever runs this alone.
    fn reserve(path: &Path) -> Result<SocketFile> {
        let owner = Owner::default();
        let mode = CONTROL_MODE_DEFAULT;
        SocketFile::reserve(path, Access { mode, owner })
    }

    #[test]
    fn only_a_dead_daemons_socket_is_replaced() {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("pen-bind-{}", std::process::id()));
        let living = UnixListener::bind(&path).unwrap();
        let refused = reserve(&path).err().unwrap();
        assert!(
            refused.to_string().contains("a running daemon answers"),
            "{refused}"
        );
        drop(living);
        drop(reserve(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        let refused = reserve(&path).err().unwrap();
        assert!(refused.to_string().contains("something else"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        // Another program's, which takes no connections: it lives all the same.
        let _datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let refused = reserve(&path).err().unwrap();
        assert!(refused.to_string().contains("may be alive"), "{refused}");
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_file_is_private_from_the_first_moment() {
        let path = std::env::temp_dir().join(format!("pen-private-{}", std::process::id()));
        // Nothing sets the file's mode after this call.
        let _listener = bind_private(&path).unwrap();
        let mode = fs::symlink_metadata(&path).unwrap().mode();
        fs::remove_file(&path).unwrap();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn mode_and_owner_are_those_of_the_file_before_it_is_found() {
        let path = std::env::temp_dir().join(format!("pen-owner-{}", std::process::id()));
        let owner = Owner {
            user: Some(1),
            group: Some(2),
        };
        let mut socket = SocketFile::reserve(&path, Access { mode: 0o666, owner }).unwrap();
        let starting = PathBuf::from(format!("{}{STARTING}", path.display()));
        let facts = |path: &Path| {
            let found = fs::symlink_metadata(path).unwrap();
            (found.mode() & 0o7777, found.uid(), found.gid())
        };
        assert_eq!(facts(&starting), (0o666, 1, 2));
        socket.appear().unwrap();
        assert_eq!(facts(&path), (0o666, 1, 2));
        drop(socket);
        assert!(!path.exists() && !starting.exists());
    }

    fn shown(path: &Path) -> SocketFile {
        let mut socket = reserve(path).unwrap();
        socket.appear().unwrap();
        socket
    }

    #[test]
    fn another_daemons_socket_outlives_this_one() {
        let path = std::env::temp_dir().join(format!("pen-successor-{}", std::process::id()));
        let first = shown(&path);
        fs::remove_file(&path).unwrap();
        let second = shown(&path);
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_is_found_when_it_is_answered() {
        let path = std::env::temp_dir().join(format!("pen-appear-{}", std::process::id()));
        let mut socket = reserve(&path).unwrap();
        let early = UnixStream::connect(&path).unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::NotFound);
        let second = reserve(&path).err().unwrap();
        assert!(second.to_string().contains("a running daemon"), "{second}");
        socket.appear().unwrap();
        UnixStream::connect(&path).unwrap();
        let starting = PathBuf::from(format!("{}{STARTING}", path.display()));
        assert!(!starting.exists());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        // One that was never shown leaves nothing either; a name that was taken stays taken.
        let mut late = reserve(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        assert!(late.appear().is_err());
        drop(late);
        assert!(path.exists() && !starting.exists());
        drop(other);
        fs::remove_file(&path).unwrap();
    }
}
