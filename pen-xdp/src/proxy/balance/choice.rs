//! Who is next: the rules of selection.

use pen_common::config::{Balance, Switches};
use pen_common::control::{ChosenBy, Refused};

use super::Balancer;
use super::attempt::{Attempt, Target};
use super::servers::{ServerId, Standing};

/// What chooses a server for a client that none is remembered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Prio,
    Weight,
    Hash,
    Least,
    RoundRobin,
}

impl Algorithm {
    /// The first that is switched on.
    pub(super) const fn of(switches: Switches) -> Self {
        if switches.has(Balance::Prio) {
            Self::Prio
        } else if switches.has(Balance::Weight) {
            Self::Weight
        } else if switches.has(Balance::Hash) {
            Self::Hash
        } else if switches.has(Balance::Least) {
            Self::Least
        } else {
            Self::RoundRobin
        }
    }

    const fn word(self) -> ChosenBy {
        match self {
            Self::Prio => ChosenBy::Prio,
            Self::Weight => ChosenBy::Weight,
            Self::Hash => ChosenBy::Hash,
            Self::Least => ChosenBy::Least,
            Self::RoundRobin => ChosenBy::RoundRobin,
        }
    }
}

impl Balancer {
    /// Where the client goes next. Nothing is counted yet.
    pub(super) fn choose(&self, attempt: &mut Attempt) -> Result<(Target, ChosenBy), Refused> {
        if attempt.denied {
            return match self.rules.abuse && !attempt.last_resort {
                true => Ok((Target::Abuse, ChosenBy::Abuse)),
                false => Err(Refused::AclDenied),
            };
        }
        if attempt.last_resort {
            return Err(Refused::NoServer);
        }
        if !attempt.tried.is_empty() && self.is_stubborn() {
            return Err(Refused::Stubborn);
        }
        if let Some(id) = self.remembered(attempt)? {
            return Ok((Target::Server(id), ChosenBy::Tracking));
        }
        let algorithm = Algorithm::of(self.rules.switches);
        if let Some(id) = self.by(algorithm, attempt)? {
            return Ok((Target::Server(id), algorithm.word()));
        }
        self.note_the_others(attempt);
        match self.rules.emergency {
            true => Ok((Target::Emergency, ChosenBy::Emergency)),
            false => Err(Refused::NoServer),
        }
    }

    /// The server that the client had before, if it can be had again. It is considered once, but for
    /// one that is full: that may have room when the client is asked for again.
    fn remembered(&self, attempt: &mut Attempt) -> Result<Option<ServerId>, Refused> {
        let remembered = attempt.remembered.take();
        let standing = remembered.and_then(|id| self.servers.get(id));
        let Some(standing) = standing.filter(|standing| standing.index.is_some()) else {
            return Ok(None);
        };
        // Its limit is another one, and without weight it keeps the clients that it has.
        let limit = match standing.server.max {
            0 => 0,
            max => max.max(standing.server.hard),
        };
        let Some(why) = self.unfit(standing, attempt, limit) else {
            return Ok(Some(standing.id));
        };
        if why == Refused::ServerFull {
            // Who waits for room is still this server's when there is some.
            attempt.remembered = Some(standing.id);
        }
        attempt.pass_over(Target::Server(standing.id), why);
        match self.is_stubborn() {
            true => Err(Refused::Stubborn),
            false => Ok(None),
        }
    }

    /// The best one by an algorithm among those that were not tried.
    fn by(&self, algorithm: Algorithm, attempt: &mut Attempt) -> Result<Option<ServerId>, Refused> {
        let best = match algorithm {
            Algorithm::Prio => self.lowest(attempt, |standing| u64::from(standing.server.prio)),
            Algorithm::Weight => self.lowest(attempt, |standing| {
                let weight = u64::from(standing.server.weight).max(1);
                256 * u64::from(standing.tally.connections) / weight
            }),
            Algorithm::Least => self.lowest(attempt, |s| u64::from(s.tally.connections)),
            Algorithm::Hash => return self.by_hash(attempt),
            Algorithm::RoundRobin => self
                .servers
                .present_from(self.turn)
                .find(|standing| self.is_free(standing, attempt)),
        };
        Ok(best.map(|standing| standing.id))
    }

    fn by_hash(&self, attempt: &mut Attempt) -> Result<Option<ServerId>, Refused> {
        let Some(hashing) = &self.hashing else {
            return Ok(None);
        };
        let with_port = self.rules.switches.has(Balance::RoundRobin);
        let hash = hashing.hash(attempt.client, with_port);
        for index in hashing.probes(hash) {
            let standing = self.servers.at(index);
            let Some(standing) = standing.filter(|s| !attempt.tried.contains(&s.id)) else {
                continue;
            };
            let Some(why) = self.refusal(standing, attempt) else {
                return Ok(Some(standing.id));
            };
            attempt.pass_over(Target::Server(standing.id), why);
            // The next hash would be another server than the client's own.
            if self.is_stubborn() {
                return Err(Refused::Stubborn);
            }
        }
        let next = self.lowest(attempt, |standing| hashing.rank(hash, standing));
        Ok(next.map(|standing| standing.id))
    }

    /// The free server with the lowest number; of several the first.
    fn lowest(&self, attempt: &Attempt, number: impl Fn(&Standing) -> u64) -> Option<&Standing> {
        let all = self.servers.present();
        all.filter(|standing| self.is_free(standing, attempt))
            .min_by_key(|standing| number(standing))
    }

    fn is_free(&self, standing: &Standing, attempt: &Attempt) -> bool {
        self.refusal(standing, attempt).is_none() && !attempt.tried.contains(&standing.id)
    }

    /// Why a server gets no new client now.
    fn refusal(&self, standing: &Standing, attempt: &Attempt) -> Option<Refused> {
        if standing.server.weight == 0 && self.servers.weighted() {
            return Some(Refused::NoWeight);
        }
        self.unfit(standing, attempt, standing.server.max)
    }

    /// Why a server that may have so many connections (0 is no limit) can't be had.
    fn unfit(&self, standing: &Standing, attempt: &Attempt, limit: u32) -> Option<Refused> {
        let permits = |address| standing.server.acl.permits(address);
        if standing.is_blacklisted(attempt.asked_ms) {
            Some(Refused::Blacklisted)
        } else if limit > 0 && standing.tally.connections >= limit {
            Some(Refused::ServerFull)
        } else if !attempt.client.address.is_none_or(permits) {
            Some(Refused::ServerAcl)
        } else {
            None
        }
    }

    fn note_the_others(&self, attempt: &mut Attempt) {
        for standing in self.servers.present() {
            let target = Target::Server(standing.id);
            let noted = attempt.passed_over.iter().any(|p| p.target == target);
            if let Some(why) = self.refusal(standing, attempt).filter(|_| !noted) {
                attempt.pass_over(target, why);
            }
        }
    }

    const fn is_stubborn(&self) -> bool {
        self.rules.switches.has(Balance::Stubborn)
    }
}
