//! An XDP program that passes everything, for the switch's ports to the load balancers.
//!
//! On veth, what the far end sends back by XDP_TX waits in a queue that only a receiver with a
//! program of its own is woken for (measured on 6.18: with GRO instead, the sender counts the
//! frames as sent and nothing arrives). On a real switch there is nothing like it. The program is
//! two instructions, so it is written here as such: no object, no map, and it takes frames of any
//! size.
#![allow(
    unsafe_code,
    reason = "libbpf's C functions and setns, which no crate of ours wraps"
)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys::{
    BPF_F_XDP_HAS_FRAGS, BPF_PROG_TYPE_XDP, XDP_FLAGS_DRV_MODE, bpf_insn, bpf_prog_load,
    bpf_prog_load_opts, bpf_xdp_attach, bpf_xdp_detach,
};

use crate::namespace::Namespace;

/// `BPF_ALU64 | BPF_MOV | BPF_K` (kernel document "BPF instruction set").
const MOVE: u8 = 0xb7;
/// `BPF_JMP | BPF_EXIT`.
const EXIT: u8 = 0x95;
/// `XDP_PASS` of `enum xdp_action`.
const XDP_PASS: i32 = 2;

/// Attaches the program natively to each of `interfaces` in the namespace that `file` stands for.
/// It stays there as long as the interface, without any process.
///
/// # Errors
/// The driver has no native mode, or the queues of the two ends don't fit.
pub(crate) fn attach(file: &Path, interfaces: &[String]) -> Result<()> {
    inside(file, || {
        let program = load().context("loading the program that passes")?;
        for interface in interfaces {
            attach_one(&program, interface)
                .with_context(|| format!("attaching the program that passes to {interface}"))?;
        }
        Ok(())
    })
}

/// Does `work` on a thread of its own inside the namespace that `file` stands for, to its end.
pub(crate) fn inside<T: Send>(file: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(|| enter(file).and_then(|()| work())).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Takes the calling thread, and it alone, into the namespace that `file` stands for.
pub(crate) fn enter(file: &Path) -> Result<()> {
    let space = File::open(file).with_context(|| format!("opening {}", file.display()))?;
    // SAFETY: the descriptor is open.
    check(unsafe { libc::setns(space.as_raw_fd(), libc::CLONE_NEWNET) })
        .context("entering a namespace")
        .map(drop)
}

/// Attaches it natively to an interface of `machine`: to Pen, a program of somebody else, named
/// `lab_pass` and held by no link and no process.
///
/// # Errors
/// The driver has no native mode, or another program is attached.
pub fn attach_foreign(machine: &Namespace, interface: &str) -> Result<()> {
    attach(&machine.file(), &[interface.to_owned()])
}

/// The program that passes, on an interface until this is dropped.
#[derive(Debug)]
pub struct Passing<'a> {
    machine: &'a Namespace,
    interface: &'a str,
}

impl<'a> Passing<'a> {
    /// Attaches it natively: a veth end takes live frames only with a program of its own.
    ///
    /// # Errors
    /// The driver has no native mode, or another program is attached.
    pub fn attach(machine: &'a Namespace, interface: &'a str) -> Result<Self> {
        attach_foreign(machine, interface)?;
        Ok(Self { machine, interface })
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        // If it fails, the next attachment says that a program is there.
        let _ = inside(&self.machine.file(), || {
            let index = index_of(self.interface)?;
            // SAFETY: plain values; no options.
            check(unsafe { bpf_xdp_detach(index, XDP_FLAGS_DRV_MODE, std::ptr::null()) })?;
            Ok(())
        });
    }
}

fn load() -> io::Result<OwnedFd> {
    let program = [
        bpf_insn {
            code: MOVE,
            imm: XDP_PASS,
            ..Default::default()
        },
        bpf_insn {
            code: EXIT,
            ..Default::default()
        },
    ];
    load_program(c"lab_pass", &program)
}

/// Gives the kernel a program for frames of any size.
pub(crate) fn load_program(name: &CStr, program: &[bpf_insn]) -> io::Result<OwnedFd> {
    let mut options = bpf_prog_load_opts {
        sz: size_of::<bpf_prog_load_opts>() as u64,
        prog_flags: BPF_F_XDP_HAS_FRAGS,
        ..Default::default()
    };
    // SAFETY: name and licence are C strings, the count is the slice's, the options say their size.
    let fd = check(unsafe {
        bpf_prog_load(
            BPF_PROG_TYPE_XDP,
            name.as_ptr(),
            c"MIT".as_ptr(),
            program.as_ptr(),
            program.len() as u64,
            &raw mut options,
        )
    })?;
    // SAFETY: the descriptor was just opened and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches natively to an interface of the calling thread's namespace.
pub(crate) fn attach_one(program: &OwnedFd, interface: &str) -> io::Result<()> {
    let (index, fd) = (index_of(interface)?, program.as_raw_fd());
    // SAFETY: plain values; no options.
    check(unsafe { bpf_xdp_attach(index, fd, XDP_FLAGS_DRV_MODE, std::ptr::null()) }).map(drop)
}

/// Number of an interface of the calling thread's namespace.
fn index_of(interface: &str) -> io::Result<i32> {
    let name = CString::new(interface)?;
    // SAFETY: `name` is a C string that lives over the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index as i32),
    }
}

/// These functions answer a negative number; libbpf sets errno as well.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
