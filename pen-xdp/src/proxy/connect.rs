//! Connections to servers.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::SockRef;
use tokio::net::{TcpSocket, UnixStream};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::routes::Place;
use super::stream::Stream;
use crate::keeper::child::keeper;
use crate::keeper::request::Request;

/// Between two tries at a Unix socket whose server has too many clients waiting.
const AGAIN: Duration = Duration::from_millis(20);

/// The address that a server sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// One that the kernel chooses.
    Any,
    /// One of this host's.
    Own(IpAddr),
    /// The client's (IP_TRANSPARENT, ip(7)).
    Client(IpAddr),
}

/// How a server is connected to.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// How long it may take.
    pub(super) timeout: Duration,
    /// Address to come from.
    pub(super) from: From,
    /// The port where the place names none.
    pub(super) port: u16,
    /// Whether the kernel asks a silent server whether it is still there.
    pub(super) keepalive: bool,
    /// Whether there is something to say to the server as soon as it is reached.
    pub(super) speaks_first: bool,
}

/// Connects to a server.
///
/// # Errors
/// What the kernel says, or that it took too long.
pub(super) async fn connect(place: &Place, how: How) -> io::Result<Stream> {
    let mut connecting = pin!(async {
        match place {
            Place::Tcp(address) => tcp(*address, how).await,
            Place::Unix(path) => unix(path).await,
        }
    });
    // A server that is near answers within a turn of the event loop, and needs no timer; setting
    // one that is due before all others costs two calls of the kernel.
    let tried = poll_fn(|context| Poll::Ready(connecting.as_mut().poll(context)));
    if let Poll::Ready(connected) = tried.await {
        return connected;
    }
    yield_now().await;
    let connected = timeout(how.timeout, connecting);
    connected
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A server that has as many clients waiting as it lets wait has not failed: the kernel says so at
/// once for Unix sockets, where over TCP it would try again.
async fn unix(path: &Path) -> io::Result<Stream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(AGAIN).await,
            result => return result.map(Stream::Unix),
        }
    }
}

async fn tcp(mut address: SocketAddr, how: How) -> io::Result<Stream> {
    if address.port() == 0 {
        address.set_port(how.port);
    }
    let socket = match how.from {
        From::Own(from) if from.is_ipv4() == address.is_ipv4() => {
            let socket = plain(address)?;
            bind(&socket, from)?;
            socket
        }
        From::Client(from) if from.is_ipv4() == address.is_ipv4() => {
            let socket = transparent(address)?;
            bind(&socket, from)?;
            socket
        }
        From::Any | From::Own(_) | From::Client(_) => plain(address)?,
    };
    socket.set_nodelay(true)?;
    if how.keepalive {
        socket.set_keepalive(true)?;
    }
    if how.speaks_first {
        // The last step of the handshake travels with what is said (TCP_QUICKACK, tcp(7)): a packet
        // less for each connection. A server that is to begin would be kept waiting by it.
        rustix::net::sockopt::set_tcp_quickack(&socket, false)?;
    }
    socket.connect(address).await.map(Stream::Tcp)
}

fn plain(to: SocketAddr) -> io::Result<TcpSocket> {
    match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// A socket that may have an address that is not this host's, which is root's to allow.
fn transparent(to: SocketAddr) -> io::Result<TcpSocket> {
    if let Some(keeper) = keeper() {
        let request = Request::Transparent { v6: to.is_ipv6() };
        let socket = TcpStream::from(keeper.descriptor(&request)?);
        return Ok(TcpSocket::from_std_stream(socket));
    }
    let socket = plain(to)?;
    let options = SockRef::from(&socket);
    match to {
        SocketAddr::V4(_) => options.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => options.set_ip_transparent_v6(true),
    }?;
    Ok(socket)
}

/// The port is chosen when it is known whom it goes to: else there would be but one connection for
/// each port, to all servers together.
fn bind(socket: &TcpSocket, from: IpAddr) -> io::Result<()> {
    setsockopt(socket, IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(from, 0))
}

/// Whether a connection failed as there is no way from this host to just this place: no address of
/// its own goes with it, as where there is no IPv6, or all ports are taken that could. Other servers
/// may well be reached. An address to come from that was given is lacking for all of them.
pub(super) fn has_no_way(error: &io::Error, place: &Place, from: From) -> bool {
    let Place::Tcp(to) = place else { return false };
    let given = match from {
        From::Own(from) | From::Client(from) => from.is_ipv4() == to.is_ipv4(),
        From::Any => false,
    };
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) => !given,
        code => code == Some(libc::EAFNOSUPPORT),
    }
}

/// Whether a connection failed for what this host lacks, which is not the server's fault:
/// descriptors, memory, ports, the address to come from, or leave to use it. EACCES is not among
/// them: that is what an ICMPv6 refusal of the server's firewall becomes.
pub(super) fn is_ours(error: &io::Error) -> bool {
    use libc::{EADDRINUSE, EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM};
    let ours = [
        EADDRINUSE,
        EADDRNOTAVAIL,
        EMFILE,
        ENFILE,
        ENOBUFS,
        ENOMEM,
        EPERM,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| ours.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_to_one_place_is_no_lack_for_all() {
        let v4 = Place::Tcp(([192, 0, 2, 1], 80).into());
        let v6 = Place::Tcp((std::net::Ipv6Addr::LOCALHOST, 80).into());
        let own = From::Own([192, 0, 2, 9].into());
        let lack = |code| io::Error::from_raw_os_error(code);
        for (code, place, from, expected) in [
            (libc::EADDRNOTAVAIL, &v6, From::Any, true),
            (libc::EADDRNOTAVAIL, &v6, own, true),
            (libc::EADDRNOTAVAIL, &v4, own, false),
            (libc::EAFNOSUPPORT, &v6, From::Any, true),
            (libc::EMFILE, &v6, From::Any, false),
            (libc::ECONNREFUSED, &v6, From::Any, false),
        ] {
            let error = lack(code);
            assert_eq!(has_no_way(&error, place, from), expected, "{error} {place}");
        }
    }
}
