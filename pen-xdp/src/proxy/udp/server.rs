//! Sockets to servers: a flow has one.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};

use crate::proxy::connect::is_ours;
use crate::proxy::routes::Place;

/// A socket that sends to a server, and receives from nobody else. `port` is taken where the place
/// names none.
///
/// # Errors
/// What the kernel says; nothing has been sent yet.
pub(super) fn connect(place: &Place, port: u16, source: Option<IpAddr>) -> io::Result<UdpSocket> {
    let Place::Tcp(mut address) = *place else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    if address.port() == 0 {
        address.set_port(port);
    }
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// Sends one datagram to the server.
///
/// # Errors
/// What the kernel says of this datagram, or has heard of an earlier one.
pub(super) fn send(socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
    let sent = match socket.send(bytes) {
        // A router told of a smaller path for one before: this one is cut to fit it.
        Err(error) if is_too_large(&error) => socket.send(bytes),
        sent => sent,
    };
    sent.map(drop)
}

/// Whether a datagram is lost for want of something here, or for its size: nothing of that is the
/// server's fault.
pub(super) fn is_own_fault(error: &io::Error) -> bool {
    let wants = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
    wants.contains(&error.kind()) || is_ours(error) || is_too_large(error)
}

fn is_too_large(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_the_servers_fault_and_a_want_is_ours() {
        for code in [libc::ECONNREFUSED, libc::ENETUNREACH, libc::EHOSTUNREACH] {
            assert!(!is_own_fault(&io::Error::from_raw_os_error(code)), "{code}");
        }
        for code in [libc::EAGAIN, libc::EMFILE, libc::ENOBUFS, libc::EMSGSIZE] {
            assert!(is_own_fault(&io::Error::from_raw_os_error(code)), "{code}");
        }
    }

    #[test]
    fn a_place_without_a_port_is_that_of_the_listener_and_the_source_is_kept_to() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        let place = Place::Tcp(SocketAddr::new(at.ip(), 0));
        let source = "127.0.0.9".parse().unwrap();
        let socket = connect(&place, at.port(), Some(source)).unwrap();
        send(&socket, b"x").unwrap();
        let mut byte = [0; 2];
        let (length, from) = server.recv_from(&mut byte).unwrap();
        assert_eq!((length, from.ip()), (1, source));
    }
}
