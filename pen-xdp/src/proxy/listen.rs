//! Listening sockets: one for each listener and proxy thread, so that the kernel spreads clients
//! over threads (SO_REUSEPORT); a Unix socket is shared, and so is one that was inherited.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use pen_common::config::Mode;
use socket2::SockRef;

use super::inherited::Inherited;
use super::listening::{self, SocketFile, backlog_of};
use super::routes::Route;
use super::service::Service;

/// Where a door is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

/// The first socket of a door. Clients wait in the kernel until somebody takes them.
#[derive(Debug)]
pub(super) enum First {
    Tcp(SocketAddr, TcpListener),
    /// Whether further threads can have sockets of their own.
    Udp(SocketAddr, UdpSocket, bool),
    Unix(SocketFile),
    /// One for all threads, so that nobody who waits there is lost when Pen ends.
    Inherited(Socket),
}

/// A socket for one thread.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Unix(UnixListener),
}

impl Socket {
    /// So many clients may wait from now on (listen(2) may be said again).
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn listen(&self, backlog: u32) -> io::Result<()> {
        let socket = match self {
            Self::Tcp(socket) => SockRef::from(socket),
            Self::Unix(socket) => SockRef::from(socket),
            Self::Udp(_) => return Ok(()),
        };
        socket.listen(backlog_of(backlog))
    }

    /// The same socket once more.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Udp(socket) => socket.try_clone().map(Self::Udp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }
}

impl At {
    /// Whether both can be held by one process at once alone, as it says so of each (SO_REUSEPORT).
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) | (Self::Udp(one), Self::Udp(other)) => {
                let all = one.ip().is_unspecified() || other.ip().is_unspecified();
                one.port() == other.port() && (all || one.ip() == other.ip())
            }
            (Self::Tcp(_) | Self::Udp(_) | Self::Unix(_), _) => false,
        }
    }
}

/// Where a route listens, each place with what people call it.
pub(super) fn places(route: &Route) -> impl Iterator<Item = (At, &str)> {
    let addresses = route.listeners.iter().map(move |listener| {
        let address = SocketAddr::new(listener.address, listener.port);
        match route.mode {
            Mode::Udp => At::Udp(address),
            Mode::Tcp | Mode::Http | Mode::Dsr => At::Tcp(address),
        }
    });
    let paths = route.options.paths.iter().cloned().map(At::Unix);
    let texts = route.listen.iter().map(String::as_str);
    addresses.chain(paths).zip(texts)
}

impl First {
    /// Opens it for a service; `is_alone` makes sure that nobody else has the place.
    ///
    /// # Errors
    /// It can't be had; what mends it.
    pub(super) fn open(at: &At, service: &Service, backlog: u32, is_alone: bool) -> Result<Self> {
        let opened = match at {
            At::Tcp(address) => {
                let opened = listening::tcp(*address, backlog, is_alone);
                opened.map(|(address, socket)| Self::Tcp(address, socket))
            }
            At::Udp(address) => {
                let opened = listening::udp(*address, is_alone);
                opened.map(|(address, socket)| Self::Udp(address, socket, true))
            }
            At::Unix(path) => {
                let file = SocketFile::bind(path, backlog);
                return file
                    .map(Self::Unix)
                    .with_context(|| format!("service {:?}", service.name));
            }
        };
        opened.map_err(|error| refused(at, &service.name, error))
    }

    /// The one that a service manager handed over for it, if it did.
    ///
    /// # Errors
    /// It can't be used as it is.
    pub(super) fn inherit(
        at: &At,
        backlog: u32,
        inherited: &mut Inherited,
    ) -> Result<Option<Self>> {
        Ok(match at {
            At::Tcp(address) => {
                let found = inherited.tcp(*address, backlog_of(backlog))?;
                found.map(|socket| Self::Inherited(Socket::Tcp(socket)))
            }
            At::Udp(address) => {
                let found = inherited.udp(*address)?;
                found.map(|(socket, divisible)| Self::Udp(*address, socket, divisible))
            }
            At::Unix(path) => {
                let found = inherited.unix(path, backlog_of(backlog))?;
                found.map(|socket| Self::Inherited(Socket::Unix(socket)))
            }
        })
    }

    /// A socket for each of so many threads; for the first one alone where no further one can be had.
    ///
    /// # Errors
    /// The kernel has no more of them.
    pub(super) fn for_threads(&self, threads: usize, backlog: u32) -> Result<Vec<Socket>> {
        let threads = match self {
            Self::Udp(_, _, false) => 1,
            Self::Udp(_, _, true) | Self::Tcp(..) | Self::Unix(_) | Self::Inherited(_) => threads,
        };
        let sockets: io::Result<Vec<_>> =
            (0..threads).map(|nth| self.socket(nth, backlog)).collect();
        sockets.with_context(|| format!("no listening sockets for {threads} proxy threads"))
    }

    fn socket(&self, thread: usize, backlog: u32) -> io::Result<Socket> {
        match self {
            Self::Tcp(address, _) if thread > 0 => {
                let further = listening::tcp(*address, backlog, false);
                further.map(|(_, socket)| Socket::Tcp(socket))
            }
            Self::Tcp(_, first) => first.try_clone().map(Socket::Tcp),
            Self::Udp(_, first, _) if thread == 0 => first.try_clone().map(Socket::Udp),
            Self::Udp(address, ..) => {
                let further = listening::udp(*address, false);
                further.map(|(_, socket)| Socket::Udp(socket))
            }
            Self::Unix(file) => file.listener.try_clone().map(Socket::Unix),
            Self::Inherited(socket) => socket.try_clone(),
        }
    }
}

fn refused(at: &At, service: &str, error: io::Error) -> anyhow::Error {
    let mends = [
        (
            libc::EACCES,
            "; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE",
        ),
        (
            libc::EADDRINUSE,
            match at {
                At::Udp(_) => "; `ss -lunp` shows who listens there",
                At::Tcp(_) | At::Unix(_) => "; `ss -ltnp` shows who listens there",
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
    anyhow!("service {service:?}: can't listen on {at}: {error}{mend}")
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) | Self::Udp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
