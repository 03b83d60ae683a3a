//! Sockets that clients send to.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of datagrams that may wait in the kernel for a thread that is busy: what comes beyond is
/// lost there, uncounted by Pen.
const WAITING_BYTES: usize = 4 << 20;

/// A socket for one thread; `::` takes datagrams of both families.
///
/// # Errors
/// What the kernel says, as where somebody else has the address.
pub(in crate::proxy) fn open(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    socket.set_reuse_port(shared)?;
    prepare(&socket, domain)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Has a socket tell what is asked of it and hold what comes.
///
/// # Errors
/// What the kernel says.
pub(in crate::proxy) fn prepare(socket: &Socket, domain: Domain) -> io::Result<()> {
    // Which address a client sent to: its answers come from there.
    match domain {
        Domain::IPV6 => setsockopt(socket, Ipv6RecvPacketInfo, &true)?,
        _ => setsockopt(socket, Ipv4PacketInfo, &true)?,
    }
    // Without the privilege the system's own limit (net.core.rmem_max) holds.
    if setsockopt(socket, RcvBufForce, &WAITING_BYTES).is_err() {
        socket.set_recv_buffer_size(WAITING_BYTES)?;
    }
    Ok(())
}
