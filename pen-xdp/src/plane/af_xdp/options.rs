//! System calls on an AF_XDP socket that its crate does not have.
#![allow(
    unsafe_code,
    reason = "socket options and wake-ups that xsk-rs lacks or whose errors it hides"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    ptr,
};

use xsk_rs::TxQueue;

use crate::keeper::child::keeper;
use crate::keeper::request::{OfInterface, Request};

/// How long one look at the device may take, microseconds.
const BUSY_POLL_US: libc::c_int = 20;
/// Packets that one look at the device may take.
const BUSY_POLL_BUDGET: libc::c_int = 64;
/// Packets that one wake-up may send in copy mode, if the kernel lets us say so; 32 otherwise.
const SEND_BUDGET: u32 = 256;

// linux/if_xdp.h, Linux 6.17; not in libc.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// The descriptor of a socket whose rings are open.
pub(super) struct Socket {
    fd: RawFd,
}

impl Socket {
    /// # Safety
    /// The result must not outlive the socket's rings, which keep the descriptor open.
    pub(super) unsafe fn of(tx: &TxQueue) -> Self {
        Self {
            fd: tx.fd().as_raw_fd(),
        }
    }

    /// As [`prefer_busy_poll`], by whoever may.
    pub(super) fn prefer_busy_poll(&self) -> io::Result<()> {
        let Some(keeper) = keeper() else {
            return prefer_busy_poll(self.as_fd());
        };
        let request = Request::Interface(OfInterface::BusyPoll);
        keeper.ask_with(&request, Some(self.as_fd())).map(drop)
    }

    /// Lets one wake-up send more than 32 packets (Linux 6.17, copy mode), and says how many the
    /// kernel has agreed to: it takes no more than the tx ring has places, and offers no way to
    /// ask afterwards.
    pub(super) fn raise_send_budget(&self, ring: u32) -> io::Result<u32> {
        let budget = SEND_BUDGET.min(ring);
        let value = libc::c_int::try_from(budget).map_err(io::Error::other)?;
        set(self.as_fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, value)?;
        Ok(budget)
    }

    /// Whether the driver uses the frames itself (`XDP_OPTIONS`).
    pub(super) fn is_zero_copy(&self) -> io::Result<bool> {
        let mut flags: u32 = 0;
        let mut len = size_of::<u32>() as libc::socklen_t;
        // SAFETY: `flags` and `len` are valid for the call to write, and `len` is the size of
        // `flags`, which is all there is in struct xdp_options.
        let answer = unsafe {
            libc::getsockopt(
                self.fd,
                libc::SOL_XDP,
                libc::XDP_OPTIONS,
                (&raw mut flags).cast(),
                &raw mut len,
            )
        };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// Makes the kernel look at the tx ring.
    pub(super) fn kick(&self) -> io::Result<()> {
        // SAFETY: a null buffer of length 0 and no address: nothing is read.
        let answer =
            unsafe { libc::sendto(self.fd, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
        usable(answer)
    }

    /// Makes the kernel look at the fill ring, or, with busy polling, at the device.
    pub(super) fn pull(&self) -> io::Result<()> {
        let (none, flags) = (ptr::null_mut(), libc::MSG_DONTWAIT);
        // SAFETY: a null buffer of length 0 and no address: nothing is written.
        let answer =
            unsafe { libc::recvfrom(self.fd, none, 0, flags, ptr::null_mut(), ptr::null_mut()) };
        usable(answer)
    }
}

/// Lets the worker drive the device's NAPI instead of interrupts (Linux 5.11). Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn prefer_busy_poll(socket: BorrowedFd<'_>) -> io::Result<()> {
    for (name, value) in [
        (libc::SO_PREFER_BUSY_POLL, 1),
        (libc::SO_BUSY_POLL, BUSY_POLL_US),
        (libc::SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET),
    ] {
        set(socket, libc::SOL_SOCKET, name, value)?;
    }
    Ok(())
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let (fd, len) = (socket.as_raw_fd(), size_of::<libc::c_int>());
    let (value, len) = ((&raw const value).cast(), len as libc::socklen_t);
    // SAFETY: `value` is valid for the call to read, and `len` is its size.
    let answer = unsafe { libc::setsockopt(fd, level, name, value, len) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the rings are, which outlive this value (`Socket::of`).
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

/// Errors of a wake-up that only mean "not now": the next pass tries again.
fn usable(answer: isize) -> io::Result<()> {
    if answer >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => Ok(()),
        _ => Err(error),
    }
}
