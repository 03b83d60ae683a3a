//! Datagrams of one system call: many are received, or sent, at a time.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg,
    sendmmsg,
};

use super::flows::{Key, Local};

/// Datagrams of one call.
pub(super) const BATCH: usize = 32;
/// More than any datagram has: none is ever cut off.
const BUFFER: usize = 65_536;

/// The buffers of one thread; whoever is at work has them.
#[derive(Debug)]
pub(super) struct Buffers(Vec<u8>);

/// One datagram in the buffers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram {
    pub(super) key: Key,
    pub(super) length: usize,
}

/// What the kernel is told and tells about the datagrams of a call, for sockets of one kind.
pub(super) struct Headers {
    receive: MultiHeaders<SockaddrStorage>,
    send: MultiHeaders<SockaddrStorage>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self(vec![0; BATCH * BUFFER])
    }

    /// The first bytes of a buffer.
    pub(super) fn bytes(&self, at: usize, length: usize) -> &[u8] {
        let bytes = self.0.get(at * BUFFER..at * BUFFER + length);
        bytes.unwrap_or_default()
    }

    fn from(&mut self, at: usize) -> impl Iterator<Item = &mut [u8]> {
        self.0.chunks_exact_mut(BUFFER).skip(at)
    }
}

impl Headers {
    /// For a listening socket of the address family.
    pub(super) fn listening(ipv4: bool) -> Self {
        let space = || match ipv4 {
            true => cmsg_space!(libc::in_pktinfo),
            false => cmsg_space!(libc::in6_pktinfo),
        };
        Self {
            receive: MultiHeaders::preallocate(BATCH, Some(space())),
            send: MultiHeaders::preallocate(BATCH, Some(space())),
        }
    }

    /// For sockets that are connected.
    pub(super) fn connected() -> Self {
        Self {
            receive: MultiHeaders::preallocate(BATCH, None),
            send: MultiHeaders::preallocate(0, None),
        }
    }

    /// Receives what clients sent; how many datagrams that was, with who sent them in `datagrams`.
    ///
    /// # Errors
    /// What the kernel says: `WouldBlock` if there are none.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        buffers: &mut Buffers,
        datagrams: &mut Vec<Datagram>,
    ) -> io::Result<usize> {
        let mut parts = buffers.from(0);
        let mut slices: [_; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(parts.next().unwrap_or_default())]);
        let received = recvmmsg(
            socket.as_raw_fd(),
            &mut self.receive,
            slices.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        )?;
        let mut count = 0;
        for message in received {
            count += 1;
            let local = message.cmsgs().ok().and_then(|mut all| all.find_map(local));
            let client = message.address.as_ref().and_then(socket_address);
            datagrams.push(Datagram {
                key: Key {
                    client: client.unwrap_or(NOBODY),
                    local: local.unwrap_or(ANYWHERE),
                },
                length: message.bytes,
            });
        }
        Ok(count)
    }

    /// Receives what a server sent, into the buffers from number `at` on; the lengths go to
    /// `lengths`.
    ///
    /// # Errors
    /// What the kernel says: `WouldBlock` if there is nothing.
    pub(super) fn receive_from(
        &mut self,
        socket: &UdpSocket,
        (buffers, at): (&mut Buffers, usize),
        lengths: &mut [usize; BATCH],
    ) -> io::Result<usize> {
        let mut parts = buffers.from(at);
        let mut slices: [_; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(parts.next().unwrap_or_default())]);
        let received = recvmmsg(
            socket.as_raw_fd(),
            &mut self.receive,
            slices.iter_mut().take(BATCH.saturating_sub(at)),
            MsgFlags::MSG_DONTWAIT,
            None,
        )?;
        let mut count = 0;
        for (length, message) in lengths.iter_mut().zip(received) {
            *length = message.bytes;
            count += 1;
        }
        Ok(count)
    }

    /// Sends datagrams to clients, all of them from the same address of this host; how many of them
    /// found no room.
    pub(super) fn send(
        &mut self,
        socket: &UdpSocket,
        buffers: &Buffers,
        first: usize,
        datagrams: &[Datagram],
    ) -> usize {
        let Some(local) = datagrams.first().map(|datagram| datagram.key.local) else {
            return 0;
        };
        let mut slices = [[IoSlice::new(&[])]; BATCH];
        let mut addresses = [None::<SockaddrStorage>; BATCH];
        let count = datagrams.len().min(BATCH);
        for (at, datagram) in datagrams.iter().enumerate().take(count) {
            slices[at] = [IoSlice::new(buffers.bytes(first + at, datagram.length))];
            addresses[at] = Some(datagram.key.client.into());
        }
        let (v4, v6) = (source_v4(local), source_v6(local));
        let source = match &v4 {
            Some(info) => ControlMessage::Ipv4PacketInfo(info),
            None => ControlMessage::Ipv6PacketInfo(&v6),
        };
        let (mut done, mut dropped) = (0, 0);
        while done < count {
            let sent = sendmmsg(
                socket.as_raw_fd(),
                &mut self.send,
                &slices[done..count],
                &addresses[done..count],
                [source],
                MsgFlags::MSG_DONTWAIT,
            );
            match sent.map(Iterator::count) {
                Ok(sent) if sent > 0 => done += sent,
                // No room for one is no room for those behind it.
                Ok(_) | Err(Errno::EAGAIN) => return dropped + count - done,
                Err(Errno::EINTR) => {}
                Err(_) => {
                    dropped += 1;
                    done += 1;
                }
            }
        }
        dropped
    }
}

/// What stands for a sender that the kernel does not name, which it always does.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const ANYWHERE: Local = Local {
    address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    interface: 0,
};

fn local(message: ControlMessageOwned) -> Option<Local> {
    match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Local {
            // For a broadcast that is the address of the interface.
            address: Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into(),
            interface: 0,
        }),
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            Some(Local {
                address: address.into(),
                interface: match address.is_unicast_link_local() {
                    true => info.ipi6_ifindex,
                    false => 0,
                },
            })
        }
        _ => None,
    }
}

fn source_v4(local: Local) -> Option<libc::in_pktinfo> {
    let IpAddr::V4(address) = local.address else {
        return None;
    };
    Some(libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        ipi_addr: libc::in_addr { s_addr: 0 },
    })
}

fn source_v6(local: Local) -> libc::in6_pktinfo {
    let address = match local.address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr {
            s6_addr: address.octets(),
        },
        ipi6_ifindex: local.interface,
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|v6| SocketAddr::V6((*v6).into()))
    })
}

const _: () = assert!(BUFFER > 65_535 && size_of::<libc::in_pktinfo>() == 12);
