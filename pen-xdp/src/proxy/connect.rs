//! Connections to servers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::net::{TcpSocket, UnixStream};
use tokio::time::timeout;

use super::routes::Place;
use super::stream::Stream;

/// How a server is connected to.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// How long it may take.
    pub(super) timeout: Duration,
    /// Address to come from.
    pub(super) source: Option<IpAddr>,
    /// The port where the place names none.
    pub(super) port: u16,
    /// Whether the kernel asks a silent server whether it is still there.
    pub(super) keepalive: bool,
}

/// Connects to a server.
///
/// # Errors
/// What the kernel says, or that it took too long.
pub(super) async fn connect(place: &Place, how: How) -> io::Result<Stream> {
    let connected = timeout(how.timeout, async {
        match place {
            Place::Tcp(address) => tcp(*address, how).await,
            Place::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        }
    });
    connected
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn tcp(mut address: SocketAddr, how: How) -> io::Result<Stream> {
    if address.port() == 0 {
        address.set_port(how.port);
    }
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if let Some(source) = how
        .source
        .filter(|source| source.is_ipv4() == address.is_ipv4())
    {
        // The port is chosen when it is known whom it goes to: else there would be but one
        // connection for each port, to all servers together.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.set_nodelay(true)?;
    socket.set_keepalive(how.keepalive)?;
    socket.connect(address).await.map(Stream::Tcp)
}
