//! AF_XDP sockets for a process that may not open any: its calls of socket(2) come here, and what it
//! gets for them is opened here (seccomp_unotify(2), Linux 5.14).
//!
//! The call's arguments are three numbers. What a pointer leads to could be another thing when it is
//! looked at a second time; a number can't.

#![allow(
    unsafe_code,
    reason = "no crate has the calls by which a supervisor answers seccomp(2)'s notifications"
)]

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Socket, Type};

/// What the kernel calls a descriptor that such calls come by.
const LISTENER: &str = "anon_inode:seccomp notify";

/// Where such calls come by.
#[derive(Debug)]
pub(super) struct Sockets {
    listener: OwnedFd,
}

impl Sockets {
    /// By this descriptor.
    ///
    /// # Errors
    /// No calls come by it: it is another thing.
    pub(super) fn by(listener: OwnedFd) -> io::Result<Self> {
        let what = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd()))?;
        match what.to_str() == Some(LISTENER) {
            true => Ok(Self { listener }),
            false => Err(io::Error::from_raw_os_error(libc::EPERM)),
        }
    }

    /// Answers one call; there must be one.
    ///
    /// # Errors
    /// None can be answered any more.
    pub(super) fn hand_out(&self) -> io::Result<()> {
        // SAFETY: all zeroes are a valid seccomp_notif, and what the kernel wants it to be.
        let mut call: libc::seccomp_notif = unsafe { mem::zeroed() };
        let asked = self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, &mut call);
        match asked.and_then(|()| self.answer(&call)) {
            // Whoever called waits no more.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            answered => answered,
        }
    }

    fn answer(&self, call: &libc::seccomp_notif) -> io::Result<()> {
        let given = open(&call.data).and_then(|socket| self.give(call.id, &socket));
        match given {
            // The call is answered by its failure: the process over there has no number left, say.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => self.control(
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &mut libc::seccomp_notif_resp {
                    id: call.id,
                    val: 0,
                    error: -error.raw_os_error().unwrap_or(libc::EPERM),
                    flags: 0,
                },
            ),
            given => given,
        }
    }

    fn give(&self, call: u64, socket: &Socket) -> io::Result<()> {
        let mut gift = libc::seccomp_notif_addfd {
            id: call,
            // The call returns what it becomes over there.
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: socket.as_raw_fd().cast_unsigned(),
            newfd: 0,
            newfd_flags: libc::O_CLOEXEC.cast_unsigned(),
        };
        self.control(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut gift)
    }

    fn control<T>(&self, request: libc::Ioctl, about: &mut T) -> io::Result<()> {
        let descriptor = self.listener.as_raw_fd();
        // SAFETY: the listener is one of seccomp's (`by`), and each of its requests is made here with
        // the structure that its number stands for, alive and exclusive during the call.
        let answer = unsafe { libc::ioctl(descriptor, request, std::ptr::from_mut(about)) };
        match answer < 0 {
            true => Err(io::Error::last_os_error()),
            false => Ok(()),
        }
    }
}

impl AsFd for Sockets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// What is called for, if it is an AF_XDP socket.
fn open(call: &libc::seccomp_data) -> io::Result<Socket> {
    let is_socket = i64::from(call.nr) == libc::SYS_socket;
    let wanted = [libc::AF_XDP, libc::SOCK_RAW, 0].map(|number| number as u64);
    match is_socket && call.args[..3] == wanted {
        true => Socket::new(Domain::from(libc::AF_XDP), Type::from(libc::SOCK_RAW), None),
        false => Err(io::Error::from_raw_os_error(libc::EPERM)),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType};
    use socket2::SockRef;

    use super::*;

    #[test]
    fn other_sockets_and_other_calls_are_refused() {
        let call = |number: i64, args: [i32; 3]| libc::seccomp_data {
            nr: number as i32,
            arch: 0,
            instruction_pointer: 0,
            args: [args[0] as u64, args[1] as u64, args[2] as u64, 0, 0, 0],
        };
        let (xdp, raw) = (libc::AF_XDP, libc::SOCK_RAW);
        for (number, args) in [
            (libc::SYS_socket, [libc::AF_PACKET, raw, 0]),
            (libc::SYS_socket, [libc::AF_INET, raw, libc::IPPROTO_ICMP]),
            (libc::SYS_socket, [xdp, libc::SOCK_DGRAM, 0]),
            (libc::SYS_socket, [xdp, raw, 3]),
            (libc::SYS_bpf, [xdp, raw, 0]),
        ] {
            let refused = open(&call(number, args)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{args:?}");
        }
    }

    #[test]
    fn calls_come_by_seccomp_s_own_descriptors_alone() {
        let other = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        let refused = Sockets::by(other).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }

    /// A filter is of the thread that installs it, and there may be several.
    #[test]
    fn calls_are_answered_one_after_the_other_and_one_that_fails_ends_nothing() {
        let (sender, listeners) = std::sync::mpsc::channel();
        let caller = std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            sender.send(crate::confinement::ask_for()).unwrap();
            let call = |kind| {
                let family = AddressFamily::from_raw(libc::AF_XDP as u16);
                let made = rustix::net::socket(family, kind, None);
                made.map(|socket| SockRef::from(&socket).domain().unwrap())
            };
            let other = Socket::new(Domain::UNIX, Type::STREAM, None);
            (
                call(SocketType::DGRAM),
                call(SocketType::RAW),
                other.is_ok(),
            )
        });
        let sockets = match listeners.recv().unwrap() {
            Ok(listener) => Sockets::by(listener).unwrap(),
            // There can be one such listener: whoever runs this has it.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return,
            Err(error) => panic!("{error}"),
        };
        sockets.hand_out().unwrap();
        sockets.hand_out().unwrap();
        let (refused, given, other) = caller.join().unwrap();
        assert_eq!(refused, Err(Errno::PERM));
        let may = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_NET_RAW);
        match may.unwrap() {
            true => assert_eq!(given, Ok(Domain::from(libc::AF_XDP))),
            false => assert_eq!(given, Err(Errno::PERM)),
        }
        assert!(other);
    }
}
