//! When a worker spins and when it parks.

use std::time::{Duration, Instant};

/// How eagerly a worker polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Busy {
    /// Spin while there is work, park after [`SPIN`] without.
    #[default]
    Auto,
    /// Never park. For cores that have nothing else to do; never for all of a machine's cores.
    Always,
    /// Park as soon as nothing is there.
    Never,
}

/// How long an idle worker goes on looking under [`Busy::Auto`].
pub const SPIN: Duration = Duration::from_micros(50);

/// Since when a worker has been idle.
pub(super) struct Idle {
    busy: Busy,
    since: Option<Instant>,
}

impl Idle {
    pub(super) fn new(busy: Busy) -> Self {
        Self { busy, since: None }
    }

    /// Something arrived.
    pub(super) fn interrupt(&mut self) {
        self.since = None;
    }

    /// Nothing arrived in this pass: whether to park now.
    pub(super) fn may_park(&mut self, now: impl FnOnce() -> Instant) -> bool {
        match self.busy {
            Busy::Always => false,
            Busy::Never => true,
            Busy::Auto => {
                let now = now();
                now.duration_since(*self.since.get_or_insert(now)) >= SPIN
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_spins_for_a_while_and_starts_anew_after_work() {
        let start = Instant::now();
        let mut idle = Idle::new(Busy::Auto);
        assert!(!idle.may_park(|| start));
        assert!(!idle.may_park(|| start + SPIN / 2));
        assert!(idle.may_park(|| start + SPIN));
        idle.interrupt();
        assert!(!idle.may_park(|| start + SPIN * 2));
    }

    #[test]
    fn always_and_never_mean_it() {
        let late = Instant::now() + SPIN * 1000;
        let mut always = Idle::new(Busy::Always);
        assert!(!always.may_park(Instant::now) && !always.may_park(|| late));
        assert!(Idle::new(Busy::Never).may_park(Instant::now));
    }
}
