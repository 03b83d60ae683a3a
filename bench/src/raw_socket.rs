//! Sending frames as they are: a packet socket on one interface.
#![allow(
    unsafe_code,
    reason = "std has no packet sockets, and no crate of ours wraps them"
)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A socket that sends whole Ethernet frames out of one interface (packet(7)).
#[derive(Debug)]
pub struct RawSocket {
    socket: File,
}

impl RawSocket {
    /// Opens a socket on `interface` of the current network namespace. It receives nothing.
    ///
    /// # Errors
    /// There is no such interface, or CAP_NET_RAW is missing.
    pub fn open(interface: &str) -> io::Result<Self> {
        let name = CString::new(interface)?;
        // SAFETY: `name` is a C string that lives over the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: plain values. Protocol 0: nothing is received.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        bind(&socket, index)?;
        Ok(Self {
            socket: File::from(socket),
        })
    }

    /// Sends one frame, starting at the destination MAC.
    ///
    /// # Errors
    /// The interface is down, or the frame is longer than its MTU and headers allow.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        // A write to a bound packet socket is one frame, whole or not at all.
        self.socket.write(frame).map(drop)
    }

    /// Sends frames by one system call and says how many of them, from the first, were taken.
    ///
    /// # Errors
    /// The first one was not taken.
    pub fn send_many<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
        let mut parts: Vec<libc::iovec> = frames
            .map(|frame| libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: of plain numbers and pointers; zeros mean no address and no control data.
                let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let (fd, count) = (self.socket.as_raw_fd(), messages.len() as libc::c_uint);
        // SAFETY: `count` messages of one part each, whose frames outlive the call and are only
        // read.
        let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count, 0) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(sent as usize)
        }
    }
}

fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a sockaddr_ll of `length` bytes, as AF_PACKET wants, and lives over the
    // call.
    let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
