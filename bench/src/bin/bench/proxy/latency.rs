//! How much later answers come than from the back end itself.

use anyhow::{Result, ensure};

use super::client::Paced;
use super::contender::Contender;
use super::figures::{Bench, Measured, Row};
use super::load::{CONNECTIONS, Load};
use crate::figure::{Target, median};

/// Against whom.
pub(super) const ROW: Row = Row {
    what: "TCP, added latency at half load, 99th percentile",
    ours: Contender::Pen,
    others: &[
        (Contender::Haproxy, Target::AtMost(1.0)),
        (Contender::Nginx, Target::None),
        (Contender::DebianPen, Target::None),
    ],
};

impl Bench {
    /// By requests at half the rate that the slower one of the two answers.
    pub(super) fn latency(&self, other: Contender) -> Result<Measured> {
        let (ours, theirs) = (self.proxy(Contender::Pen)?, self.proxy(other)?);
        let seconds = self.effort.seconds;
        let mut slower = f64::INFINITY;
        for proxy in [ours, theirs] {
            let work = self.site.measure(proxy, Load::Kept, seconds.min(2))?;
            slower = slower.min(work.per_second());
        }
        let (mut samples, mut all) = (Vec::new(), [const { Vec::new() }; 3]);
        let ports = [self.site.direct().port(), ours.port, theirs.port];
        for _ in 0..self.effort.rounds {
            let pace = |port| self.site.pace(port, slower / 2.0, seconds);
            let [direct, ours, theirs] = [pace(ports[0])?, pace(ports[1])?, pace(ports[2])?];
            for (times, paced) in all.iter_mut().zip([direct, ours, theirs]) {
                times.push(paced.p99);
            }
            samples.extend(added(direct, ours, theirs));
        }
        ensure!(
            2 * samples.len() > self.effort.rounds,
            "answers through a proxy were not later than without one in most rounds: the machine \
             is too busy to tell"
        );
        let [direct, ours, theirs] = all.map(|times| median(&times).unwrap_or_default());
        let mut note = format!(
            "{ours:.0} us against {theirs:.0} us, {direct:.0} us without a proxy, at {:.0} \
             requests a second over {CONNECTIONS} connections, from when each was due",
            slower / 2.0
        );
        let dropped = self.effort.rounds - samples.len();
        if dropped > 0 {
            note += &format!("; {dropped} rounds in which a proxy added nothing are left out");
        }
        Ok(Measured { samples, note })
    }
}

/// The ratio of what two proxies add; nothing if one seems to add nothing.
fn added(direct: Paced, ours: Paced, theirs: Paced) -> Option<f64> {
    let (ours, theirs) = (ours.p99 - direct.p99, theirs.p99 - direct.p99);
    (ours > 0.0 && theirs > 0.0).then(|| ours / theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_added_counts() {
        let paced = |p99| Paced {
            answers: 1,
            rate: 1.0,
            p50: 1.0,
            p99,
        };
        assert_eq!(added(paced(100.0), paced(150.0), paced(200.0)), Some(0.5));
        assert_eq!(added(paced(100.0), paced(90.0), paced(200.0)), None);
    }
}
