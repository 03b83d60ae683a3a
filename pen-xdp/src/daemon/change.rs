//! Where the latest change stands: observed or asked for, published, waited for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use pen_common::control::Request;
use tokio::task::JoinHandle;

use super::{conflict, start::NEIGHBORS};
use crate::{
    control::{
        grace::NoGrace,
        socket::ReplyTo,
        state::{Command, State},
    },
    plane::Epochs,
};

/// Before an observation that could not be published is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Before each later try, at most.
const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// Between two waits for readers, if the first one failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an asker hears nothing while the wait for readers fails.
const PATIENCE: Duration = Duration::from_secs(8);

/// What is wanted and known, and where the latest change of it stands.
pub(super) struct Change {
    /// With every change so far.
    pub(super) state: State,
    /// As it was last published: what a refusal goes back to.
    published: State,
    /// What was observed differs from what was published.
    observed: bool,
    /// When that can be tried again, and the wait before; `None` if it was not tried yet.
    retry: Option<(Instant, Duration)>,
    /// Where the workers were at the last publication.
    pub(super) epochs: Option<Epochs>,
    /// The wait for readers of what the last publication replaced.
    pub(super) grace: Option<JoinHandle<Result<(), NoGrace>>>,
    /// Since when that wait fails again and again.
    failing: Option<Instant>,
    sought: Option<Sought>,
    /// Who asked for changes that are not published yet.
    pub(super) waiting: Vec<Waiting>,
    /// Who asked for changes that are published, and may still be read otherwise.
    pub(super) graced: Vec<Waiting>,
}

/// An asker who hears of his change when it is in force.
pub(super) struct Waiting {
    pub(super) request: Request,
    /// `None` for a signal: the log hears of it.
    pub(super) answer: Option<ReplyTo>,
}

impl Waiting {
    /// Somebody at the control socket.
    pub(super) fn for_client(request: Request, answer: ReplyTo) -> Self {
        Self {
            request,
            answer: Some(answer),
        }
    }
}

/// Back ends that are new, and how long a change waits for them to be found: until they are, flows
/// that would go there would go elsewhere.
struct Sought {
    addresses: BTreeSet<IpAddr>,
    until: Instant,
}

impl Change {
    /// Nothing is under way.
    pub(super) fn new(state: State) -> Self {
        Self {
            published: state.clone(),
            state,
            observed: false,
            retry: None,
            epochs: None,
            grace: None,
            failing: None,
            sought: None,
            waiting: Vec::new(),
            graced: Vec::new(),
        }
    }

    /// A change that nobody asked for: it can't be refused.
    pub(super) fn observe(&mut self, command: Command) {
        match self.state.apply(command) {
            Ok(true) => self.observed(),
            Ok(false) => {}
            Err(refusal) => tracing::error!("an observation was refused: {refusal}"),
        }
    }

    /// Goes back to what was asked for when it was last published.
    pub(super) fn take_back(&mut self) {
        self.sought = None;
        self.state.take_back(&self.published);
    }

    /// Looks for this host's gateways if the tarpit is to take other addresses than before, or this
    /// host has others: routes come and go with those.
    ///
    /// # Errors
    /// The kernel does not list its routes.
    pub(super) fn look_for_gateways(&mut self) -> anyhow::Result<()> {
        let config = self.state.config();
        let same = config.tarpit() == self.published.config().tarpit();
        if same && self.state.has_addresses_of(&self.published) {
            return Ok(());
        }
        let gateways = conflict::gateways(config)?;
        if let Err(refusal) = self.state.apply(Command::Gateways(gateways)) {
            tracing::error!("an observation was refused: {refusal}");
        }
        Ok(())
    }

    /// Something was observed that nobody asked for, and is to be published at once.
    pub(super) fn observed(&mut self) {
        (self.observed, self.retry) = (true, None);
    }

    /// Whether there is something to publish at `now`, and nobody reads what it would replace.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_sought = |sought: &Sought| {
            let mut addresses = sought.addresses.iter();
            now < sought.until && addresses.any(|ip| self.state.mac_of(*ip).is_none())
        };
        if self.sought.as_ref().is_some_and(is_sought) {
            return false;
        }
        let observed = self.observed && self.retry.is_none_or(|(at, _)| at <= now);
        self.grace.is_none() && (observed || !self.waiting.is_empty())
    }

    /// Waits a little for these back ends of a new configuration, from `now` on.
    pub(super) fn seeks(&mut self, addresses: BTreeSet<IpAddr>, now: Instant) {
        let until = now + NEIGHBORS;
        let before = self.sought.take().map(|sought| sought.addresses);
        let addresses = addresses.into_iter().chain(before.into_iter().flatten());
        self.sought = Some(Sought {
            addresses: addresses.collect(),
            until,
        });
    }

    /// As it was last published.
    pub(super) fn last(&self) -> &State {
        &self.published
    }

    /// Everything is published; whether that are other back ends than before.
    pub(super) fn published(&mut self) -> bool {
        let replaced = self.state.config().pools != self.published.config().pools;
        self.sought = None;
        self.state.forget_unasked();
        for why in (self.state.config()).routes_lost_since(self.published.config()) {
            tracing::warn!("{why}");
        }
        self.published.clone_from(&self.state);
        (self.observed, self.retry) = (false, None);
        replaced
    }

    /// Nothing could be published at `now`. Who asked is told so; what was observed is so all the
    /// same, and is tried again, more and more seldom.
    pub(super) fn refused(&mut self, now: Instant) {
        if self.observed {
            let wait = self.retry.map_or(RETRY, |(_, before)| before * 2);
            let wait = wait.min(RETRY_LONGEST);
            self.retry = Some((now + wait, wait));
        }
    }

    /// The wait for readers failed at `now`; whether those who asked have waited long enough.
    pub(super) fn wait_failed(&mut self, now: Instant) -> bool {
        let since = *self.failing.get_or_insert(now);
        now.duration_since(since) >= PATIENCE
    }

    /// The wait for readers is over.
    pub(super) fn waited(&mut self) {
        self.failing = None;
    }

    /// The time to let pass before the next wait for readers: what fails at once must not be
    /// tried without end.
    pub(super) fn pause(&self) -> Duration {
        self.failing.map_or(Duration::ZERO, |_| PAUSE)
    }
}

/// Ready when the running wait is over; never without one.
pub(super) async fn grace_over(
    grace: &mut Option<JoinHandle<Result<(), NoGrace>>>,
) -> Result<(), NoGrace> {
    match grace {
        Some(handle) => match handle.await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!("the wait for readers ended early: {error}");
                Err(NoGrace::Worker)
            }
        },
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::state::tests::config;

    fn nothing() -> Change {
        Change::new(State::new(config(1), 0))
    }

    #[test]
    fn a_refused_observation_is_tried_again_at_a_bounded_pace() {
        let mut change = nothing();
        let mut now = Instant::now();
        assert!(!change.is_due(now));
        change.refused(now);
        assert!(!change.is_due(now), "there was nothing to try again");
        change.observed();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(change.is_due(now));
            change.refused(now);
            let wait = Duration::from_secs(seconds);
            assert!(!change.is_due(now + wait - Duration::from_millis(1)));
            now += wait;
        }
        change.refused(now);
        change.observed();
        assert!(change.is_due(now), "what is new is tried at once");
        assert!(!change.published());
        assert!(!change.is_due(now + RETRY_LONGEST));
    }

    #[test]
    fn a_wait_that_fails_is_paced_and_askers_hear_of_it() {
        let mut change = nothing();
        let now = Instant::now();
        assert_eq!(change.pause(), Duration::ZERO);
        assert!(!change.wait_failed(now));
        assert_eq!(change.pause(), PAUSE);
        assert!(!change.wait_failed(now + PATIENCE / 2));
        assert!(change.wait_failed(now + PATIENCE));
        change.waited();
        assert_eq!(change.pause(), Duration::ZERO);
        assert!(!change.wait_failed(now + PATIENCE));
    }
}
