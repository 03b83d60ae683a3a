//! Listening sockets, opened by whoever may: this process, or its keeper for it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, SockAddr, Type};

use super::udp;
use crate::keeper::child::{keeper, unexpected, with_one};
use crate::keeper::request::{Answer, Listen, Request};

/// A socket for connections, and the address that it has in the end. `alone` makes sure that nobody
/// else has the place.
///
/// # Errors
/// What the kernel says, or the keeper.
pub(super) fn tcp(
    address: SocketAddr,
    backlog: u32,
    alone: bool,
) -> io::Result<(SocketAddr, TcpListener)> {
    let (address, socket) = bound(&Listen::Tcp {
        address,
        backlog,
        alone,
    })?;
    Ok((address, socket.into()))
}

/// The same for datagrams.
///
/// # Errors
/// What the kernel says, or the keeper.
pub(super) fn udp(address: SocketAddr, alone: bool) -> io::Result<(SocketAddr, UdpSocket)> {
    let (address, socket) = bound(&Listen::Udp { address, alone })?;
    Ok((address, socket.into()))
}

fn bound(at: &Listen) -> io::Result<(SocketAddr, OwnedFd)> {
    match ask(at)? {
        (Answer::Bound(address), Some(socket)) => Ok((address, socket)),
        other => Err(unexpected(other)),
    }
}

fn ask(at: &Listen) -> io::Result<(Answer, Option<OwnedFd>)> {
    match keeper() {
        Some(keeper) => keeper.ask(&Request::Listen(at.clone())).map(with_one),
        None => open(at),
    }
}

/// Opens one as this process itself may.
///
/// # Errors
/// What the kernel says.
pub(crate) fn open(at: &Listen) -> io::Result<(Answer, Option<OwnedFd>)> {
    match at {
        Listen::Tcp {
            address,
            backlog,
            alone,
        } => {
            let open = |address, shared| open_tcp(address, *backlog, shared);
            let (address, socket) = only(*address, *alone, open)?;
            Ok((Answer::Bound(address), Some(socket.into())))
        }
        Listen::Udp { address, alone } => {
            let (address, socket) = only(*address, *alone, udp::listen::open)?;
            Ok((Answer::Bound(address), Some(socket.into())))
        }
        Listen::Unix { path, backlog } => {
            let made = make(path, *backlog).map_err(|error| {
                let code = error.downcast_ref().and_then(io::Error::raw_os_error);
                match code {
                    // Who asks says where, and what mends it.
                    Some(libc::EACCES) => io::Error::from_raw_os_error(libc::EACCES),
                    _ => io::Error::other(format!("{error:#}")),
                }
            });
            let (socket, (device, inode)) = made?;
            Ok((Answer::Made(device, inode), Some(socket.into())))
        }
    }
}

/// The first socket of a listener, after making sure that nobody else has the place: sockets that
/// share it would take clients away from each other in silence; unless it is known to be ours. `open`
/// opens one that may be shared or not.
fn only<S>(
    address: SocketAddr,
    alone: bool,
    open: impl Fn(SocketAddr, bool) -> io::Result<S>,
) -> io::Result<(SocketAddr, S)> {
    let (address, probe) = match open(address, !alone) {
        // A host without IPv6: all its addresses are IPv4.
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
        {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            (address, open(address, !alone)?)
        }
        probe => (address, probe?),
    };
    if !alone {
        return Ok((address, probe));
    }
    drop(probe);
    Ok((address, open(address, true)?))
}

/// `::` takes clients of both families.
fn open_tcp(address: SocketAddr, backlog: u32, shared: bool) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    // Clients inherit it: a proxy that holds back small pieces adds a round trip to each.
    socket.set_tcp_nodelay(true)?;
    socket.listen(backlog_of(backlog))?;
    Ok(socket.into())
}

/// As listen(2) takes it, which cuts what is too much by itself.
pub(super) fn backlog_of(backlog: u32) -> i32 {
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

/// A Unix socket that clients find by its file; the file is removed with it.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that was made.
    identity: (u64, u64),
}

impl SocketFile {
    /// A socket that a dead process left at `path` is removed first.
    pub(super) fn bind(path: &Path, backlog: u32) -> Result<Self> {
        let at = Listen::Unix {
            path: path.to_owned(),
            backlog,
        };
        let made = ask(&at).and_then(|made| match made {
            (Answer::Made(device, inode), Some(socket)) => Ok((socket, (device, inode))),
            other => Err(unexpected(other)),
        });
        let (listener, identity) = made.with_context(|| cant_listen(path))?;
        Ok(Self {
            listener: listener.into(),
            path: path.to_owned(),
            identity,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let removed = match keeper() {
            Some(keeper) => {
                let request = Request::Remove(self.path.clone(), self.identity);
                keeper.ask(&request).map(drop)
            }
            None => remove(&self.path, self.identity),
        };
        if let Err(error) = removed {
            tracing::warn!("socket {}: {error}", self.path.display());
        }
    }
}

fn cant_listen(path: &Path) -> String {
    format!("can't listen on {}", path.display())
}

fn make(path: &Path, backlog: u32) -> Result<(UnixListener, (u64, u64))> {
    if let Ok(metadata) = fs::symlink_metadata(path) {
        if !metadata.file_type().is_socket() {
            bail!("something else has that name; remove it");
        }
        if knock(path).is_ok() {
            bail!("somebody listens there already");
        }
        fs::remove_file(path).context("the old socket stays")?;
    }
    let bound = unix(path, backlog).and_then(|listener| Ok((listener, identity(path)?)));
    bound.context("is its directory there?")
}

/// Looks whether somebody listens at a path. One who has as many clients waiting as may wait does, and
/// is not waited for.
///
/// # Errors
/// Nobody does, or what the kernel says instead.
pub(crate) fn knock(path: &Path) -> io::Result<()> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        tried => tried,
    }
}

fn unix(path: &Path, backlog: u32) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(backlog_of(backlog))?;
    Ok(OwnedFd::from(socket).into())
}

/// Removes the file of a socket, unless somebody else has the name by now.
///
/// # Errors
/// What the kernel says.
pub(crate) fn remove(path: &Path, known: (u64, u64)) -> io::Result<()> {
    match identity(path) {
        Ok(found) if found == known => fs::remove_file(path),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
