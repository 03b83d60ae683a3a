//! Calls for AF_XDP sockets that somebody else answers: this process has no right to open one.

#![allow(
    unsafe_code,
    reason = "no crate installs a filter of seccomp(2) that notifies"
)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Where the call's number and the low half of its first argument stand in what a filter is shown
/// (struct seccomp_data, linux/seccomp.h).
const NUMBER: u32 = 0;
const FAMILY: u32 = if cfg!(target_endian = "big") { 20 } else { 16 };

/// From now on a call for an AF_XDP socket waits until it is answered by the descriptor that this
/// gives. To be called before the calls are held to a list, and only with no_new_privs.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn ask_for() -> io::Result<OwnedFd> {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equals = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let answer = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    // Calls of another machine's numbers are ended by the list, which is the stricter one.
    let mut filter = [
        step(load, NUMBER, 0),
        step(equals, libc::SYS_socket as u32, 3),
        step(load, FAMILY, 0),
        step(equals, libc::AF_XDP.cast_unsigned(), 1),
        step(answer, libc::SECCOMP_RET_USER_NOTIF, 0),
        step(answer, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel reads a whole sock_fprog and as many steps as it says, all of them alive until
    // the call returns.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now (close-on-exec, as the kernel makes it) and belongs to
    // nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}
