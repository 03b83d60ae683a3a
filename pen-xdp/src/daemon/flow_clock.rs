//! The clock by which flows age: it counts the time that a daemon was there to count.
//!
//! While none is, or it is held up, the program goes on stamping flows with the last second that it
//! was told. A clock that then jumped would make all of them old at once.

/// Longest time that can have passed between two ticks, milliseconds.
const STEP_MS: u64 = 1_000;

/// See the module.
pub(super) struct FlowClock {
    ms: u64,
    ticked_ms: u64,
}

impl FlowClock {
    /// Goes on from where the daemon before came to; `now_ms` is of the monotonic clock.
    pub(super) fn from(seconds: u64, now_ms: u64) -> Self {
        Self {
            ms: seconds * 1_000,
            ticked_ms: now_ms,
        }
    }

    /// Time went on to `now_ms`.
    pub(super) fn go_on(&mut self, now_ms: u64) {
        self.ms += now_ms.saturating_sub(self.ticked_ms).min(STEP_MS);
        self.ticked_ms = now_ms;
    }

    /// Where it stands.
    pub(super) fn seconds(&self) -> u64 {
        self.ms / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_passes_while_nobody_counts() {
        let mut clock = FlowClock::from(77, 1_000_000);
        for now_ms in (1_000_000..=1_005_000).step_by(100) {
            clock.go_on(now_ms);
        }
        assert_eq!(clock.seconds(), 82);
        // Stopped for an hour.
        clock.go_on(4_605_000);
        assert_eq!(clock.seconds(), 83);
    }
}
