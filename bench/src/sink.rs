//! The end of a wire where frames to back ends are counted, each back end's apart, and dropped.
//!
//! The program is written as instructions for the reason that `pass.rs` gives: a test needs no
//! object for it. It counts in a page that this process has mapped, so that a look costs no system
//! call and shows every frame that came before it.
#![allow(
    unsafe_code,
    reason = "libbpf's C functions and mmap, which no crate of ours wraps"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys::{
    BPF_F_MMAPABLE, BPF_MAP_TYPE_ARRAY, bpf_insn, bpf_map_create, bpf_map_create_opts,
};

use crate::address::Mac;
use crate::namespace::Namespace;
use crate::pass::{attach_one, check, inside, load_program};

/// How the MAC address of every back end at a sink begins; all else is the kernel's.
pub(crate) const PREFIX: [u8; 2] = [0x02, 0xbe];
/// One counter for each last byte of a MAC address, twice: for IPv4 sources with an even and with
/// an odd address.
const COUNTERS: usize = 512;
const PAGE: usize = 4096;

/// Counts and drops what arrives at one interface for MAC addresses that begin with 02:be.
#[derive(Debug)]
pub struct Sink {
    counters: NonNull<[AtomicU64; COUNTERS]>,
    /// The mapping outlives the descriptor, the program does not need it.
    _map: OwnedFd,
}

// SAFETY: the page is mapped until the drop, and all access to it is atomic.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

impl Sink {
    /// Attaches the program natively to `interface`; it stays there as long as the interface.
    ///
    /// # Errors
    /// The driver has no native mode, or has a program already.
    pub fn attach(machine: &Namespace, interface: &str) -> Result<Self> {
        let map = page().context("making the sink's map")?;
        let counters = map_page(&map).context("mapping the sink's counters")?;
        let sink = Self {
            counters,
            _map: map,
        };
        let program = load_program(c"lab_sink", &program(sink._map.as_raw_fd()))
            .context("loading the sink")?;
        inside(&machine.file(), || {
            attach_one(&program, interface)
                .with_context(|| format!("attaching the sink to {interface}"))
        })?;
        Ok(sink)
    }

    /// Frames to MAC addresses that end like this one.
    pub fn to(&self, mac: Mac) -> u64 {
        self.from_to(false, mac) + self.from_to(true, mac)
    }

    /// Of them, the frames whose source has an odd, or an even, IPv4 address. So a test that
    /// changes its source tells frames from before and after by more than time.
    pub fn from_to(&self, odd: bool, mac: Mac) -> u64 {
        let index = usize::from(odd) << 8 | usize::from(mac.0[5]);
        self.counters()[index].load(Ordering::Relaxed)
    }

    /// Frames to all of them.
    pub fn total(&self) -> u64 {
        let counts = self.counters().iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn counters(&self) -> &[AtomicU64; COUNTERS] {
        // SAFETY: mapped until the drop, and atomics may be shared with the kernel.
        unsafe { self.counters.as_ref() }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // SAFETY: mapped by `map_page` with this length; no reference to it is left.
        unsafe { libc::munmap(self.counters.as_ptr().cast(), PAGE) };
    }
}

fn page() -> io::Result<OwnedFd> {
    let options = bpf_map_create_opts {
        sz: size_of::<bpf_map_create_opts>() as u64,
        map_flags: BPF_F_MMAPABLE,
        ..Default::default()
    };
    // SAFETY: the name is a C string, and the options say their size.
    let fd = check(unsafe {
        bpf_map_create(
            BPF_MAP_TYPE_ARRAY,
            c"lab_sink".as_ptr(),
            4,
            PAGE as u32,
            1,
            &raw const options,
        )
    })?;
    // SAFETY: the descriptor was just opened and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn map_page(map: &OwnedFd) -> io::Result<NonNull<[AtomicU64; COUNTERS]>> {
    let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, map.as_raw_fd());
    // SAFETY: a new mapping at an address of the kernel's choice.
    let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, libc::MAP_SHARED, fd, 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(page.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))
}

fn instruction(code: u8, (to, from): (u8, u8), off: i16, imm: i32) -> bpf_insn {
    bpf_insn {
        code,
        _bitfield_1: bpf_insn::new_bitfield_1(to, from),
        off,
        imm,
        ..Default::default()
    }
}

/// Codes are of the kernel's document "BPF instruction set".
fn program(map: i32) -> [bpf_insn; 22] {
    let prefix = i32::from(u16::from_ne_bytes(PREFIX));
    [
        // r2, r3: the frame's begin and end; MAC addresses and IPv4 source must be there.
        instruction(0x61, (2, 1), 0, 0),
        instruction(0x61, (3, 1), 4, 0),
        instruction(0xbf, (4, 2), 0, 0),
        instruction(0x07, (4, 0), 0, 30),
        instruction(0x2d, (4, 3), 15, 0),
        // r5: how the MAC address begins, then its last byte and the source's last bit; by eight.
        instruction(0x69, (5, 2), 0, 0),
        instruction(0x55, (5, 0), 13, prefix),
        instruction(0x71, (5, 2), 5, 0),
        instruction(0x71, (4, 2), 29, 0),
        instruction(0x57, (4, 0), 0, 1),
        instruction(0x67, (4, 0), 0, 8),
        instruction(0x0f, (5, 4), 0, 0),
        instruction(0x67, (5, 0), 0, 3),
        // r1: the page; two words, as a value of the map.
        instruction(0x18, (1, 2), 0, map),
        instruction(0, (0, 0), 0, 0),
        instruction(0x0f, (1, 5), 0, 0),
        // Atomically, because queues may be served by several CPUs. XDP_DROP.
        instruction(0xb7, (2, 0), 0, 1),
        instruction(0xdb, (1, 2), 0, 0),
        instruction(0xb7, (0, 0), 0, 1),
        instruction(0x95, (0, 0), 0, 0),
        // XDP_PASS.
        instruction(0xb7, (0, 0), 0, 2),
        instruction(0x95, (0, 0), 0, 0),
    ]
}
