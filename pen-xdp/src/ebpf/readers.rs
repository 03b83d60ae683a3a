//! Waiting for the program's readers by a BPF system call, where membarrier(2) does not.

#![allow(unsafe_code, reason = "aya makes no map of maps outside of an object")]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// `bpf_cmd` and `bpf_map_type` (include/uapi/linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;

/// An array of maps with one place and always the same map in it. An update of such an array
/// returns when every program that was running has ended: user space, which may free the old map
/// now, was promised so (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c, since 4.20).
#[derive(Debug)]
pub struct ReadersMap {
    inner: OwnedFd,
    outer: OwnedFd,
}

/// What `BPF_MAP_CREATE` takes, as far as it is used.
#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// What `BPF_MAP_UPDATE_ELEM` takes; both numbers are addresses.
#[repr(C)]
struct Update {
    map_fd: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl ReadersMap {
    /// Makes the two maps. Needs `CAP_BPF`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn create() -> io::Result<Self> {
        let inner = create(ARRAY, 0)?;
        let outer = create(ARRAY_OF_MAPS, inner.as_raw_fd() as u32)?;
        Ok(Self { inner, outer })
    }

    /// Returns when every program that was running at the call has ended.
    ///
    /// # Errors
    /// The kernel's refusal: then nothing was waited for.
    pub fn wait(&self) -> io::Result<()> {
        let (key, value) = (0_u32, self.inner.as_raw_fd() as u32);
        let update = Update {
            map_fd: self.outer.as_raw_fd() as u32,
            _padding: 0,
            key: (&raw const key) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads a whole Update, and four bytes at each of its two addresses;
        // all three live until the call returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                MAP_UPDATE_ELEM,
                &raw const update,
                size_of::<Update>(),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn create(map_type: u32, inner_map_fd: u32) -> io::Result<OwnedFd> {
    let attributes = Create {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd,
    };
    // SAFETY: the kernel reads a whole Create, which lives until the call returns.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_CREATE,
            &raw const attributes,
            size_of::<Create>(),
        )
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now (close-on-exec, as BPF's all are) and belongs to
    // nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}
