//! The clock that workers and the XDP program share.
#![allow(
    unsafe_code,
    reason = "clock_gettime: the standard library has no access to a clock's own numbers"
)]

/// Nanoseconds of `CLOCK_MONOTONIC_COARSE`, which the kernel moves on at every timer tick (1 to
/// 10 ms). The program reads the same clock for the age of a heartbeat.
pub fn coarse_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec for the call to write; the clock exists on every kernel
    // since 2.6.32, and with a known clock and a valid pointer the call can't fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn follows_the_monotonic_clock() {
        let (before, start) = (coarse_ns(), Instant::now());
        std::thread::sleep(Duration::from_millis(50));
        let (coarse, fine) = (coarse_ns() - before, start.elapsed().as_nanos() as u64);
        assert!(
            before > 0 && coarse.abs_diff(fine) <= 20_000_000,
            "{coarse} {fine}"
        );
    }
}
