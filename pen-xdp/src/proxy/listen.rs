//! Listening sockets: one for each listener and proxy thread, so that the kernel spreads clients
//! over threads (SO_REUSEPORT); a Unix socket is shared, and so is one that was inherited.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use pen_common::config::Mode;
use socket2::{Domain, Protocol, Socket, Type};

use super::inherited::Inherited;
use super::routes::{Route, Routes};
use super::tls::Agreed;
use super::udp;

/// The first socket of every listener. Clients wait in the kernel until somebody takes them.
#[derive(Debug)]
pub struct Bound {
    routes: Routes,
    agreed: Agreed,
    first: Vec<Listening>,
    datagrams: Vec<Datagrams>,
}

/// Which listener of which service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose {
    /// Place of the service among the routes.
    pub(super) service: usize,
    /// Place among the service's listeners, its paths behind the addresses.
    pub(super) listener: usize,
}

/// One listener.
#[derive(Debug)]
struct Listening {
    whose: Whose,
    backlog: i32,
    socket: First,
}

/// One listener for UDP.
#[derive(Debug)]
struct Datagrams {
    whose: Whose,
    address: SocketAddr,
    first: UdpSocket,
    /// Whether further threads can have sockets of their own.
    divisible: bool,
}

#[derive(Debug)]
enum First {
    Tcp(SocketAddr, TcpListener),
    Unix(SocketFile),
    /// One for all threads, so that nobody who waits there is lost when Pen ends.
    Inherited(Listener),
}

/// A socket for one thread.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Bound {
    /// Binds every listener of `routes` that is not `inherited`, and takes those that are.
    ///
    /// # Errors
    /// Names the first one that can't be had, or the certificate, and what mends it.
    pub(crate) fn open(routes: Routes, inherited: &mut Inherited) -> Result<Self> {
        let agreed = Agreed::make(&routes, &[])?;
        let (mut first, mut datagrams) = (Vec::new(), Vec::new());
        for (service, route) in routes.iter().enumerate() {
            if route.mode == Mode::Udp {
                for (listener, address) in addresses(route).enumerate() {
                    let whose = Whose { service, listener };
                    datagrams.push(Datagrams::open(whose, route, address, inherited)?);
                }
                continue;
            }
            let backlog = i32::try_from(route.options.backlog).unwrap_or(i32::MAX);
            let paths = route.listeners.len()..;
            let addresses = addresses(route).map(Place::Address).enumerate();
            let paths = paths.zip(route.options.paths.iter().map(|path| Place::Path(path)));
            for (listener, place) in addresses.chain(paths) {
                let socket = First::open(route, place, backlog, inherited)?;
                first.push(Listening {
                    whose: Whose { service, listener },
                    backlog,
                    socket,
                });
            }
        }
        Ok(Self {
            routes,
            agreed,
            first,
            datagrams,
        })
    }

    /// What clients that speak TLS are offered; once, as keys must go when nobody goes by them.
    pub(super) fn take_agreed(&mut self) -> Agreed {
        std::mem::take(&mut self.agreed)
    }

    /// What is to be served.
    pub(super) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Sockets for thread `thread`, each with whose it is.
    ///
    /// # Errors
    /// The kernel has no more of them.
    pub(super) fn listeners(&self, thread: usize) -> Result<Vec<(Whose, Listener)>> {
        let sockets = self.first.iter().map(|listening| {
            let socket = match &listening.socket {
                First::Tcp(_, socket) if thread == 0 => socket.try_clone().map(Listener::Tcp),
                First::Tcp(address, _) => tcp(*address, listening.backlog, true).map(Listener::Tcp),
                First::Unix(file) => file.listener.try_clone().map(Listener::Unix),
                First::Inherited(Listener::Tcp(one)) => one.try_clone().map(Listener::Tcp),
                First::Inherited(Listener::Unix(one)) => one.try_clone().map(Listener::Unix),
            };
            Ok((listening.whose, socket?))
        });
        let sockets: io::Result<Vec<_>> = sockets.collect();
        sockets.with_context(|| format!("no listening sockets for proxy thread {thread}"))
    }
}

impl Bound {
    /// As [`Bound::listeners`], for UDP.
    ///
    /// # Errors
    /// The kernel has no more of them.
    pub(super) fn datagram_sockets(&self, thread: usize) -> Result<Vec<(Whose, UdpSocket)>> {
        let datagrams = self.datagrams.iter();
        let sockets = datagrams.filter(|listening| thread == 0 || listening.divisible);
        let sockets = sockets.map(|listening| {
            let socket = match thread {
                0 => listening.first.try_clone(),
                _ => udp::listen::open(listening.address, true),
            };
            Ok((listening.whose, socket?))
        });
        let sockets: io::Result<Vec<_>> = sockets.collect();
        sockets.with_context(|| format!("no UDP sockets for proxy thread {thread}"))
    }
}

/// Where clients connect to.
enum Place<'a> {
    Address(SocketAddr),
    Path(&'a Path),
}

impl First {
    fn open(
        route: &Route,
        place: Place<'_>,
        backlog: i32,
        inherited: &mut Inherited,
    ) -> Result<Self> {
        let service = || format!("service {:?}", route.service);
        match place {
            Place::Address(address) => {
                if let Some(socket) = inherited.tcp(address, backlog).with_context(service)? {
                    return Ok(Self::Inherited(Listener::Tcp(socket)));
                }
                let open = |address, shared| tcp(address, backlog, shared);
                let (address, socket) = alone(address, open)
                    .map_err(|error| refused(route, &address.to_string(), error))?;
                Ok(Self::Tcp(address, socket))
            }
            Place::Path(path) => {
                if let Some(socket) = inherited.unix(path, backlog).with_context(service)? {
                    return Ok(Self::Inherited(Listener::Unix(socket)));
                }
                Ok(Self::Unix(SocketFile::bind(path).with_context(service)?))
            }
        }
    }
}

impl Datagrams {
    fn open(
        whose: Whose,
        route: &Route,
        address: SocketAddr,
        inherited: &mut Inherited,
    ) -> Result<Self> {
        let service = || format!("service {:?}", route.service);
        if let Some((first, divisible)) = inherited.udp(address).with_context(service)? {
            return Ok(Self {
                whose,
                address,
                first,
                divisible,
            });
        }
        let (address, first) = alone(address, udp::listen::open)
            .map_err(|error| refused(route, &address.to_string(), error))?;
        Ok(Self {
            whose,
            address,
            first,
            divisible: true,
        })
    }
}

fn addresses(route: &Route) -> impl Iterator<Item = SocketAddr> {
    let listeners = route.listeners.iter();
    listeners.map(|listener| SocketAddr::new(listener.address, listener.port))
}

/// The first socket of a listener, after making sure that nobody else has the place: sockets that
/// share it would take clients away from each other in silence. `open` opens one that may be shared
/// or not.
fn alone<S>(
    address: SocketAddr,
    open: impl Fn(SocketAddr, bool) -> io::Result<S>,
) -> io::Result<(SocketAddr, S)> {
    let (address, probe) = match open(address, false) {
        // A host without IPv6: all its addresses are IPv4.
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
        {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            (address, open(address, false)?)
        }
        probe => (address, probe?),
    };
    drop(probe);
    Ok((address, open(address, true)?))
}

/// `::` takes clients of both families.
fn tcp(address: SocketAddr, backlog: i32, shared: bool) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    // Clients inherit it: a proxy that holds back small pieces adds a round trip to each.
    socket.set_tcp_nodelay(true)?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

fn refused(route: &Route, place: &str, error: io::Error) -> anyhow::Error {
    let mends = [
        (
            libc::EACCES,
            "; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE",
        ),
        (
            libc::EADDRINUSE,
            match route.mode {
                Mode::Udp => "; `ss -lunp` shows who listens there",
                Mode::Tcp | Mode::Http | Mode::Dsr => "; `ss -ltnp` shows who listens there",
            },
        ),
        (
            libc::EADDRNOTAVAIL,
            "; no interface of this host has that address",
        ),
    ];
    let mend = mends
        .iter()
        .find(|(code, _)| error.raw_os_error() == Some(*code));
    let mend = mend.map_or("", |(_, mend)| mend);
    let service = &route.service;
    anyhow!("service {service:?}: can't listen on {place}: {error}{mend}")
}

/// A Unix socket that clients find by its file; the file is removed with it.
#[derive(Debug)]
struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that was made.
    identity: (u64, u64),
}

impl SocketFile {
    /// A socket that a dead process left at `path` is removed first.
    fn bind(path: &Path) -> Result<Self> {
        let name = path.display();
        if let Ok(metadata) = fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                bail!("can't listen on {name}: something else has that name; remove it");
            }
            if UnixStream::connect(path).is_ok() {
                bail!("can't listen on {name}: somebody listens there already");
            }
            fs::remove_file(path)
                .with_context(|| format!("can't listen on {name}: the old socket stays"))?;
        }
        let bound = UnixListener::bind(path).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener, identity(path)?))
        });
        let (listener, identity) =
            bound.with_context(|| format!("can't listen on {name}; is its directory there?"))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else may have the name by now.
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("socket {}: {error}", self.path.display());
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
