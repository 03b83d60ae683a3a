//! Access lists of services in DSR, as the tables have them ([`crate::ranges`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Acl, AclLine, Config};
use crate::flow::Address;
use crate::ranges::{PLACES, RANGES_MAX, TARPIT};

/// First and last of the addresses that stand for IPv4 (RFC 4291, section 2.5.5.2).
const V4_FIRST: u128 = 0xffff_0000_0000;
const V4_LAST: u128 = 0xffff_ffff_ffff;

/// Ends of ranges that all lists of services in DSR may have together.
pub const RANGE_ENDS_MAX: usize = (RANGES_MAX - PLACES) as usize;

/// The lists of services in DSR do not fit into the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the access lists of services in DSR make ranges of addresses with {ends} ends, more than the \
     {RANGE_ENDS_MAX} that the tables have room for: write fewer or larger networks; the longest list \
     is acl {longest}"
)]
pub struct RangesFull {
    ends: usize,
    /// Number of the list that has most of them.
    pub(super) longest: u8,
}

/// The rows of the lists that services in DSR go by, each by the number of its list in the tables.
pub type Rows = BTreeMap<u8, Vec<Address>>;

impl Config {
    /// The number in the tables of the list that clients of a service must pass; 0 if all may.
    pub fn table_acl(&self, client_acl: u8) -> u8 {
        let acl = self.acls.get(usize::from(client_acl));
        let is_empty = acl.is_none_or(|acl| acl.lines.is_empty());
        if is_empty {
            0
        } else {
            client_acl.saturating_add(1)
        }
    }

    /// The list of the tarpit, if there is a service in DSR: without one nothing is past the kernel.
    pub fn tarpit(&self) -> Option<&Acl> {
        let number = self.tarpit_acl?;
        self.dsr_services().next()?;
        self.acls.get(usize::from(number))
    }

    /// Addresses that somebody has, as far as the configuration knows, and who.
    pub(super) fn inhabited(&self) -> impl Iterator<Item = (IpAddr, String)> {
        let services = self.services.iter();
        let listeners = services.flat_map(|service| {
            let listeners = service.listeners.iter();
            listeners.map(move |at| (at.address, format!("service {:?}", service.name)))
        });
        let pools = self.pools.iter();
        let backends = pools.flat_map(|pool| pool.backends.iter().map(move |b| (pool, b)));
        let backends = backends.filter(|(_, backend)| backend.path().is_none());
        let backends = backends.map(|(pool, b)| {
            let who = format!("back end {:?} of pool {:?}", b.name, pool.name);
            (b.address, who)
        });
        let given = listeners.chain(backends);
        given.filter(|(address, _)| !address.is_unspecified())
    }

    /// What the tables are to have of the lists that services in DSR go by, and of the tarpit, which
    /// takes none of the addresses in `others`.
    ///
    /// # Errors
    /// It does not fit into them.
    pub fn acl_rows(&self, others: &BTreeSet<IpAddr>) -> Result<Rows, RangesFull> {
        let numbers = self.dsr_services().map(|service| service.proxy.client_acl);
        let numbers: BTreeSet<u8> = numbers.collect();
        let mut rows = Rows::new();
        for number in numbers {
            let place = self.table_acl(number);
            if let Some(acl) = self.acls.get(usize::from(number)).filter(|_| place > 0) {
                rows.insert(place, acl.ranges());
            }
        }
        let tarpit = self.tarpit().filter(|acl| !acl.lines.is_empty());
        rows.extend(tarpit.map(|acl| (TARPIT, acl.trapped(self.inhabited(), others))));
        let ends = rows.values().map(Vec::len).sum();
        if ends <= RANGE_ENDS_MAX {
            return Ok(rows);
        }
        let longest = rows.iter().max_by_key(|(_, row)| row.len());
        let longest = match longest {
            Some((&TARPIT, _)) => self.tarpit_acl.unwrap_or_default(),
            Some((place, _)) => place - 1,
            None => 0,
        };
        Err(RangesFull { ends, longest })
    }
}

impl Acl {
    /// Where the ranges of those whom this list lets pass begin and end, in rising order: a first
    /// address, the first one behind that range, and so on. The last range may have no end.
    pub fn ranges(&self) -> Vec<Address> {
        self.ends(self.lines.last().is_none_or(|last| !last.permit))
    }

    /// The same for the tarpit, which takes what a line permits and nothing else, and nobody's own
    /// address.
    fn trapped(
        &self,
        inhabited: impl Iterator<Item = (IpAddr, String)>,
        others: &BTreeSet<IpAddr>,
    ) -> Vec<Address> {
        let addresses = inhabited.map(|(address, _)| address);
        let addresses: BTreeSet<IpAddr> = addresses.chain(others.iter().copied()).collect();
        let free = addresses.into_iter().filter(|address| self.traps(*address));
        let mut lines: Vec<AclLine> = free.map(AclLine::deny_one).collect();
        lines.extend_from_slice(&self.lines);
        Self { lines }.ends(false)
    }

    /// As [`Acl::ranges`], whom no line matches passing if `otherwise` says so.
    fn ends(&self, otherwise: bool) -> Vec<Address> {
        let v6 = self.verdicts(otherwise, |network| matches!(network, IpAddr::V6(_)));
        let v4 = self.verdicts(otherwise, |network| matches!(network, IpAddr::V4(_)));
        // The place of IPv4 has its own verdicts, and behind it those before go on.
        let last_in = |verdicts: &BTreeMap<u128, bool>, at: u128| {
            let last = verdicts.range(..=at).next_back();
            last.is_none_or(|(_, verdict)| *verdict)
        };
        let mut all: BTreeMap<u128, bool> = v6.clone();
        all.retain(|at, _| !(V4_FIRST..=V4_LAST).contains(at));
        all.insert(V4_FIRST, last_in(&v4, V4_FIRST));
        all.extend(v4.range(V4_FIRST..=V4_LAST));
        all.insert(V4_LAST + 1, last_in(&v6, V4_LAST + 1));
        let mut ends = Vec::new();
        let mut before = false;
        for (at, verdict) in all {
            if verdict != before {
                ends.push(Address::v6(at.to_be_bytes()));
                before = verdict;
            }
        }
        ends
    }

    /// What the lines of one family say, from each of these addresses to the next: the first line
    /// that covers a place decides there.
    fn verdicts(&self, otherwise: bool, family: impl Fn(IpAddr) -> bool) -> BTreeMap<u128, bool> {
        let mut changes: BTreeMap<u128, Vec<usize>> = BTreeMap::from([(0, Vec::new())]);
        let lines = self.lines.iter().enumerate();
        for (index, line) in lines.filter(|(_, line)| family(line.network)) {
            let (first, bits) = match line.network {
                IpAddr::V4(v4) => (V4_FIRST | u128::from(v4.to_bits()), 32),
                IpAddr::V6(v6) => (v6.to_bits(), 128),
            };
            let free = u32::from(bits - line.prefix);
            let last = first | u128::MAX.checked_shr(128 - free).unwrap_or(0);
            changes.entry(first).or_default().push(index);
            if let Some(behind) = last.checked_add(1) {
                changes.entry(behind).or_default().push(index);
            }
        }
        let mut covering = BTreeSet::new();
        let verdicts = changes.into_iter().map(|(at, lines)| {
            for line in lines {
                // A network begins once and ends once.
                if !covering.insert(line) {
                    covering.remove(&line);
                }
            }
            let first = covering.first().and_then(|first| self.lines.get(*first));
            (at, first.map_or(otherwise, |line| line.permit))
        });
        verdicts.collect()
    }
}
