//! Waiting for one of several ports, or for the word to stop.
#![allow(
    unsafe_code,
    reason = "poll and SO_ERROR: no crate at hand wraps them for several descriptors at once"
)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

/// The descriptors of a worker's ports and the one that tells it to stop, as poll(2) wants them.
pub(super) struct Waiter {
    entries: Vec<libc::pollfd>,
    /// Descriptors as they were given; an entry is negative while it is left out.
    numbers: Vec<i32>,
}

impl Waiter {
    /// Ports without a descriptor are waited for in vain. The descriptors must stay open as long
    /// as the waiter is used; a closed one is reported as broken.
    pub(super) fn new<'a>(
        stop: BorrowedFd<'a>,
        ports: impl Iterator<Item = Option<BorrowedFd<'a>>>,
    ) -> Self {
        let numbers: Vec<i32> = std::iter::once(stop.as_raw_fd())
            .chain(ports.map(|port| port.map_or(-1, |fd| fd.as_raw_fd())))
            .collect();
        let entry = |&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        Self {
            entries: numbers.iter().map(entry).collect(),
            numbers,
        }
    }

    /// Leaves a port out, or takes it in again.
    pub(super) fn listen(&mut self, port: usize, listen: bool) {
        self.entries[port + 1].fd = if listen { self.numbers[port + 1] } else { -1 };
    }

    /// Waits until something arrives, breaks or ends, or until the time is up.
    pub(super) fn wait(&mut self, timeout: Duration) {
        let count = self.entries.len() as libc::nfds_t;
        let timeout = timeout.as_millis().min(1_000) as i32;
        // SAFETY: the pointer and the count are those of one live vector. A negative answer
        // (EINTR) leaves all events as they were, which at worst asks a port in vain.
        unsafe { libc::poll(self.entries.as_mut_ptr(), count, timeout) };
    }

    /// What broke a port, if the last wait showed it as broken.
    pub(super) fn broken(&self, port: usize) -> Option<io::Error> {
        let entry = &self.entries[port + 1];
        let broken = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        if entry.fd < 0 || entry.revents & broken == 0 {
            return None;
        }
        let mut error: libc::c_int = 0;
        let mut len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: `error` and `len` are valid for the call to write, and `len` is `error`'s size;
        // on a descriptor that is closed or no socket the call fails and writes nothing.
        let answer = unsafe {
            libc::getsockopt(
                entry.fd,
                libc::SOL_SOCKET,
                libc::SO_ERROR,
                (&raw mut error).cast(),
                &raw mut len,
            )
        };
        Some(match (answer, error) {
            (0, 0) => io::Error::from_raw_os_error(libc::ENETDOWN),
            (0, error) => io::Error::from_raw_os_error(error),
            _ => io::Error::last_os_error(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, net::UdpSocket, os::fd::AsFd, time::Instant};

    #[test]
    fn wakes_for_a_port_and_for_the_end() {
        let (stop, ender) = io::pipe().unwrap();
        let (port, mut sender) = io::pipe().unwrap();
        let ports = [None, Some(port.as_fd())];
        let mut waiter = Waiter::new(stop.as_fd(), ports.into_iter());
        let start = Instant::now();
        waiter.wait(Duration::from_millis(20));
        assert!(start.elapsed() >= Duration::from_millis(19));
        sender.write_all(b"x").unwrap();
        let start = Instant::now();
        waiter.wait(Duration::from_secs(1));
        waiter.listen(1, false);
        drop(ender);
        waiter.wait(Duration::from_secs(1));
        assert!(start.elapsed() < Duration::from_millis(900));
        assert!(waiter.broken(0).is_none() && waiter.broken(1).is_none());
    }

    #[test]
    fn a_broken_socket_tells_why() {
        let (stop, _ender) = io::pipe().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Nobody listens on port 9 of loopback: the answer is an ICMP error.
        socket.connect("127.0.0.1:9").unwrap();
        socket.send(b"x").unwrap();
        let mut waiter = Waiter::new(stop.as_fd(), [Some(socket.as_fd())].into_iter());
        waiter.wait(Duration::from_secs(1));
        let error = waiter.broken(0).unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    }
}
