//! When a name is asked for again, and what is told of it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use pen_common::config::ADDRESSES_MAX;
use pen_common::control::NameStatus;

/// An answer that holds for less is asked for again after so long.
const HOLDS_MIN: Duration = Duration::from_secs(1);
/// However long an answer holds, a mistake in it is found after so long.
const HOLDS_MAX: Duration = Duration::from_secs(3600);
/// After a first failure.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Between failures, at most.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What was heard of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// In any order.
    pub(super) addresses: Vec<IpAddr>,
    /// How long it holds.
    pub(super) holds: Duration,
    /// What failed although there is an answer: addresses of one family can't be had.
    pub(super) lacks: Option<String>,
}

/// A name with its latest answer, and when it is asked for again.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// Sorted; never empty once there was an answer.
    addresses: Vec<IpAddr>,
    /// Addresses beyond the number that is taken.
    beyond: usize,
    /// When they were last heard.
    heard: Instant,
    next: Instant,
    /// Why the last look-up failed, with the wait after it.
    failing: Option<(String, Duration)>,
}

/// What is worth telling.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// All is as before.
    Nothing,
    /// The name stands for something else.
    Changed(Vec<IpAddr>),
    /// It can't be looked up, which was not so before.
    Failed(String),
    /// It can be looked up again, and is what it was.
    Works,
}

/// What came of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Until the next look-up.
    pub(super) wait: Duration,
    /// Whether the addresses are others.
    pub(super) changed: bool,
    pub(super) told: Told,
}

impl Pace {
    /// A name that was looked up before, to be asked for at once.
    pub(super) fn new(mut addresses: Vec<IpAddr>, now: Instant) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        Self {
            addresses,
            beyond: 0,
            heard: now,
            next: now,
            failing: None,
        }
    }

    /// What the name stands for.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Takes in what came of a look-up at `now`. A failure leaves the addresses as they are.
    pub(super) fn take(&mut self, answer: Result<Answer, String>, now: Instant) -> Taken {
        let answer = answer.and_then(|answer| match answer.addresses.is_empty() {
            true => Err("it has no address".to_owned()),
            false => Ok(answer),
        });
        let (changed, fault, holds) = match answer {
            Ok(answer) => (
                self.replace(answer.addresses, now),
                answer.lacks,
                answer.holds,
            ),
            Err(why) => (false, Some(why), HOLDS_MAX),
        };
        let failed_before = self.failing.is_some();
        let holds = holds.clamp(HOLDS_MIN, HOLDS_MAX);
        let failed = fault.clone();
        self.failing = fault.map(|why| {
            let wait = self
                .failing
                .as_ref()
                .map_or(RETRY_MIN, |(_, before)| *before * 2);
            (why, wait.min(RETRY_MAX))
        });
        let wait = match &self.failing {
            Some((_, wait)) => holds.min(*wait),
            None => holds,
        };
        self.next = now + wait;
        let told = match (failed, failed_before) {
            (Some(why), false) => Told::Failed(why),
            _ if changed => Told::Changed(self.addresses.clone()),
            (None, true) => Told::Works,
            (None, false) | (Some(_), true) => Told::Nothing,
        };
        Taken {
            wait,
            changed,
            told,
        }
    }

    /// What `status` shows.
    pub(super) fn status(&self, name: &str, mut unused: Vec<String>, now: Instant) -> NameStatus {
        if self.beyond > 0 {
            unused.push(format!(
                "{} more: a name has {ADDRESSES_MAX} at most",
                self.beyond
            ));
        }
        NameStatus {
            name: name.to_owned(),
            addresses: self.addresses.clone(),
            unused,
            age_s: now.saturating_duration_since(self.heard).as_secs(),
            next_s: self.next.saturating_duration_since(now).as_secs(),
            error: self.failing.as_ref().map(|(why, _)| why.clone()),
        }
    }

    /// Of too many addresses those are kept that were there before.
    fn replace(&mut self, mut addresses: Vec<IpAddr>, now: Instant) -> bool {
        addresses.sort_unstable();
        addresses.dedup();
        let (mut kept, new): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .partition(|address| self.addresses.contains(address));
        let all = kept.len() + new.len();
        kept.extend(new);
        kept.truncate(ADDRESSES_MAX);
        self.beyond = all - kept.len();
        kept.sort_unstable();
        self.heard = now;
        let changed = self.addresses != kept;
        self.addresses = kept;
        changed
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn answer(lasts: &[u8], seconds: u64) -> Result<Answer, String> {
        Ok(Answer {
            addresses: lasts.iter().map(|last| address(*last)).collect(),
            holds: Duration::from_secs(seconds),
            lacks: None,
        })
    }

    #[test]
    fn it_is_asked_for_when_the_answer_holds_no_more_within_bounds() {
        let now = Instant::now();
        let mut pace = Pace::new(vec![address(1)], now);
        for (seconds, wait) in [(0, 1), (30, 30), (86_400, 3600)] {
            let taken = pace.take(answer(&[1], seconds), now);
            assert_eq!(taken.wait, Duration::from_secs(wait));
            assert_eq!((taken.changed, taken.told), (false, Told::Nothing));
            assert_eq!(pace.status("web", Vec::new(), now).next_s, wait);
        }
    }

    #[test]
    fn a_failure_keeps_the_addresses_is_told_once_and_tried_more_and_more_seldom() {
        let now = Instant::now();
        let mut pace = Pace::new(vec![address(1), address(2)], now);
        let failure = || Err("the server is dead".to_owned());
        let waits = (0..9).map(|_| pace.take(failure(), now).wait.as_secs());
        assert_eq!(waits.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pace.addresses(), [address(1), address(2)]);
        let later = now + Duration::from_secs(200);
        let status = pace.status("web", Vec::new(), later);
        assert_eq!(
            (status.age_s, status.error.unwrap().as_str()),
            (200, "the server is dead")
        );
        // No address is no answer either.
        assert_eq!(pace.take(answer(&[], 5), now).told, Told::Nothing);
        assert_eq!(pace.take(answer(&[2, 1, 1], 5), now).told, Told::Works);
        let told = pace.take(failure(), now).told;
        assert_eq!(told, Told::Failed("the server is dead".to_owned()));
    }

    #[test]
    fn too_many_addresses_displace_none_that_was_there() {
        let now = Instant::now();
        let mut pace = Pace::new(vec![address(200)], now);
        let all: Vec<u8> = (0..=200).collect();
        assert!(pace.take(answer(&all, 5), now).changed);
        assert_eq!(pace.addresses().len(), ADDRESSES_MAX);
        assert!(pace.addresses().contains(&address(200)));
        let unused = pace.status("web", Vec::new(), now).unused;
        assert_eq!(unused, ["137 more: a name has 64 at most"]);
        // Another order is the same answer.
        let reversed: Vec<u8> = (0..=200).rev().collect();
        assert!(!pace.take(answer(&reversed, 5), now).changed);
    }

    #[test]
    fn half_an_answer_is_followed_and_its_fault_shown() {
        let now = Instant::now();
        let mut pace = Pace::new(vec![address(1)], now);
        let half = Answer {
            lacks: Some("IPv6: refused".to_owned()),
            ..answer(&[2], 600).unwrap()
        };
        let taken = pace.take(Ok(half), now);
        assert!(taken.changed);
        assert_eq!(taken.wait, RETRY_MIN);
        assert_eq!(taken.told, Told::Failed("IPv6: refused".to_owned()));
        assert_eq!(pace.addresses(), [address(2)]);
    }
}
