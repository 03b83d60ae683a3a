//! Datagrams of one system call: many are received, or sent, at a time.

use std::io::{self, IoSlice, IoSliceMut};
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
    /// Which of the two kinds of source address there is room for in `send`.
    ipv4: bool,
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
            ipv4,
        }
    }

    /// For sockets that are connected.
    pub(super) fn connected() -> Self {
        Self {
            receive: MultiHeaders::preallocate(BATCH, None),
            send: MultiHeaders::preallocate(0, None),
            ipv4: true,
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
        let source = match self.ipv4 {
            true => ControlMessage::Ipv4PacketInfo(&v4),
            false => ControlMessage::Ipv6PacketInfo(&v6),
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
    if let ControlMessageOwned::Ipv4PacketInfo(info) = message {
        // For a broadcast that is the address of the interface.
        let address = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into();
        return Some(Local {
            address,
            interface: 0,
        });
    }
    let ControlMessageOwned::Ipv6PacketInfo(info) = message else {
        return None;
    };
    let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
    Some(Local {
        address: address.into(),
        interface: match address.is_unicast_link_local() {
            true => info.ipi6_ifindex,
            false => 0,
        },
    })
}

/// An address that is none leaves the choice to the kernel.
fn source_v4(local: Local) -> libc::in_pktinfo {
    let address = match local.address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr {
            s_addr: u32::from(address).to_be(),
        },
        ipi_addr: libc::in_addr { s_addr: 0 },
    }
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

const _: () = assert!(BUFFER > 65_535);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proxy::udp::listen;

    /// One batch there and back over sockets of the family, as a client of `to` sees it.
    fn there_and_back(listening: &str, to: &str) {
        let listener = listen::open(listening.parse().unwrap(), true).unwrap();
        let address = listener.local_addr().unwrap();
        let to: SocketAddr = SocketAddr::new(to.parse().unwrap(), address.port());
        let client = UdpSocket::bind(SocketAddr::new(to.ip(), 0)).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut headers = Headers::listening(address.is_ipv4());
        let mut buffers = Buffers::new();
        // Twice, as the kernel writes into what it is given.
        for _ in 0..2 {
            let sent: [&[u8]; 3] = [b"one", b"", &[7; 9000]];
            for bytes in sent {
                client.send_to(bytes, to).unwrap();
            }
            let mut datagrams = Vec::new();
            let count = headers
                .receive(&listener, &mut buffers, &mut datagrams)
                .unwrap();
            assert_eq!((count, datagrams.len()), (3, 3));
            for (at, bytes) in sent.iter().enumerate() {
                let Datagram { key, length } = datagrams[at];
                assert_eq!(buffers.bytes(at, length), *bytes);
                assert_eq!(key.client.port(), client.local_addr().unwrap().port());
                assert_eq!(key.local.address.to_canonical(), to.ip());
            }
            assert_eq!(headers.send(&listener, &buffers, 1, &datagrams[1..]), 0);
            let mut buffer = [0; 10_000];
            for bytes in &sent[1..] {
                let (length, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..length], from), (*bytes, to));
            }
            let none = headers.receive(&listener, &mut buffers, &mut datagrams);
            assert_eq!(none.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn batches_keep_bytes_lengths_and_addresses() {
        there_and_back("127.0.0.1:0", "127.0.0.1");
        there_and_back("0.0.0.0:0", "127.0.0.7");
        if UdpSocket::bind("[::1]:0").is_ok() {
            there_and_back("[::1]:0", "::1");
            there_and_back("[::]:0", "::1");
            there_and_back("[::]:0", "127.0.0.7");
        }
    }
}
