//! Waiting until nobody reads what was replaced: readers hold no lock, so the writer waits.

#![allow(unsafe_code, reason = "membarrier(2) has no wrapper in a crate")]

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a worker may take over one pass before it is reported instead of waited for.
const WORKERS: Duration = Duration::from_secs(2);
/// Between two looks at the workers.
const LOOK: Duration = Duration::from_micros(200);
/// `MEMBARRIER_CMD_GLOBAL` (include/uapi/linux/membarrier.h).
const GLOBAL: libc::c_int = 1;

/// Someone may still be reading.
#[derive(Debug, thiserror::Error)]
pub enum NoGrace {
    /// A worker did not come round.
    #[error("a worker did not finish its pass within {WORKERS:?}; is it stopped?")]
    Worker,
    /// The kernel has no such call.
    #[error("membarrier(2) failed: {0}; the kernel needs CONFIG_MEMBARRIER")]
    Kernel(#[source] std::io::Error),
}

/// Returns once every reader of the memory that began before the call has ended: the workers, as
/// `passed` tells, and the program on every CPU. `MEMBARRIER_CMD_GLOBAL` waits for an RCU grace
/// period (kernel/sched/membarrier.c), and XDP programs run inside of RCU read sections.
///
/// # Errors
/// A reader can't be waited for; what was replaced must not be touched yet.
pub fn wait(mut passed: impl FnMut() -> bool) -> Result<(), NoGrace> {
    let start = Instant::now();
    while !passed() {
        if start.elapsed() > WORKERS {
            return Err(NoGrace::Worker);
        }
        thread::sleep(LOOK);
    }
    // SAFETY: the call takes three integers and touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result < 0 {
        return Err(NoGrace::Kernel(std::io::Error::last_os_error()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_for_the_last_worker() {
        let mut looks = 0;
        wait(|| {
            looks += 1;
            looks > 3
        })
        .unwrap();
        assert_eq!(looks, 4);
    }

    #[test]
    fn a_worker_that_hangs_is_said() {
        assert!(matches!(wait(|| false), Err(NoGrace::Worker)));
    }
}
