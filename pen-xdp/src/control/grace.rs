//! Waiting until nobody reads what was replaced: readers hold no lock, so the writer waits.

#![allow(unsafe_code, reason = "membarrier(2) has no wrapper in a crate")]

use std::{
    io, thread,
    time::{Duration, Instant},
};

use crate::ebpf::ReadersMap;
use crate::keeper::child::keeper;
use crate::keeper::request::{OfInterface, Request};

/// How long a worker may take over one pass before it is reported instead of waited for.
const WORKERS: Duration = Duration::from_secs(2);
/// Between two looks at the workers.
const LOOK: Duration = Duration::from_micros(200);
/// What a keeper is asked.
const PASSED: Request = Request::Interface(OfInterface::WaitForReaders);
/// `MEMBARRIER_CMD_GLOBAL` (include/uapi/linux/membarrier.h).
const GLOBAL: libc::c_int = 1;

/// Someone may still be reading.
#[derive(Debug, thiserror::Error)]
pub enum NoGrace {
    /// A worker did not come round.
    #[error("a worker did not finish its pass within {WORKERS:?}; is it stopped?")]
    Worker,
    /// The kernel does not wait for the program any more, though it did at the start.
    #[error("the program's readers can't be waited for: {0}")]
    Kernel(#[source] io::Error),
    /// The kernel never does.
    #[error(
        "nobody can wait for the program's readers, so no table could ever be changed: \
         membarrier(2): {membarrier} (the kernel has no CONFIG_MEMBARRIER, or runs with nohz_full); \
         BPF array of maps: {map}"
    )]
    Nothing {
        /// What membarrier(2) says.
        membarrier: io::Error,
        /// What bpf(2) says.
        map: io::Error,
    },
}

/// How the program on every CPU is waited for. XDP programs run inside of RCU read sections, so
/// every call of the kernel that returns after an RCU grace period will do.
#[derive(Debug)]
pub enum Readers {
    /// There is no program.
    None,
    /// `MEMBARRIER_CMD_GLOBAL` is such a call (kernel/sched/membarrier.c), except on hosts with
    /// `nohz_full` CPUs.
    Membarrier,
    /// An update of an array of maps.
    Map(ReadersMap),
    /// The same by a keeper, who may make maps.
    Keeper,
}

impl Readers {
    /// Finds out what this kernel has.
    ///
    /// # Errors
    /// It has neither call.
    pub fn find() -> Result<Self, NoGrace> {
        let Err(missing) = membarrier() else {
            return Ok(Self::Membarrier);
        };
        if let Some(keeper) = keeper() {
            let map = keeper.ask(&PASSED);
            return map.map(|_| Self::Keeper).map_err(|map| NoGrace::Nothing {
                membarrier: missing,
                map,
            });
        }
        let map = ReadersMap::create().and_then(|map| map.wait().map(|()| map));
        match map {
            Ok(map) => {
                tracing::info!("readers are waited for by bpf(2): membarrier(2): {missing}");
                Ok(Self::Map(map))
            }
            Err(map) => Err(NoGrace::Nothing {
                membarrier: missing,
                map,
            }),
        }
    }

    /// Returns once every reader of the memory that began before the call has ended: the workers,
    /// as `passed` tells, and the program.
    ///
    /// # Errors
    /// A reader can't be waited for; what was replaced must not be touched yet.
    pub fn wait(&self, mut passed: impl FnMut() -> bool) -> Result<(), NoGrace> {
        let start = Instant::now();
        while !passed() {
            if start.elapsed() > WORKERS {
                return Err(NoGrace::Worker);
            }
            thread::sleep(LOOK);
        }
        match self {
            Self::None => Ok(()),
            Self::Membarrier => membarrier().map_err(NoGrace::Kernel),
            Self::Map(map) => map.wait().map_err(NoGrace::Kernel),
            Self::Keeper => {
                let keeper = keeper().ok_or_else(|| io::ErrorKind::NotConnected.into());
                let passed = keeper.and_then(|keeper| keeper.ask(&PASSED));
                passed.map(drop).map_err(NoGrace::Kernel)
            }
        }
    }
}

fn membarrier() -> io::Result<()> {
    // SAFETY: the call takes three integers and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ebpf::{Capability, check_privileges};

    #[test]
    fn it_waits_for_the_last_worker() {
        let mut looks = 0;
        let passed = || {
            looks += 1;
            looks > 3
        };
        Readers::find().unwrap().wait(passed).unwrap();
        assert_eq!(looks, 4);
    }

    #[test]
    fn a_worker_that_hangs_is_said() {
        let waited = Readers::None.wait(|| false);
        assert!(matches!(waited, Err(NoGrace::Worker)));
    }

    /// What a host with `nohz_full` has. A grace period takes milliseconds (some ten microseconds
    /// where it is hurried); a system call that waits for nothing, one.
    #[test]
    fn the_kernel_waits_without_membarrier() {
        if let Err(error) = check_privileges(&[Capability::Bpf]) {
            eprintln!("skipped: {error}");
            return;
        }
        let readers = Readers::Map(ReadersMap::create().unwrap());
        let start = Instant::now();
        for _ in 0..10 {
            readers.wait(|| true).unwrap();
        }
        assert!(start.elapsed() > Duration::from_micros(100));
    }
}
