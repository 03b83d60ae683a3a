//! Access lists of services in DSR, as the tables have them ([`crate::ranges`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Acl, Config};
use crate::flow::Address;
use crate::ranges::{PLACES, RANGES_MAX};

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

    /// What the tables are to have of the lists that services in DSR go by.
    ///
    /// # Errors
    /// It does not fit into them.
    pub fn acl_rows(&self) -> Result<Rows, RangesFull> {
        let numbers = self.dsr_services().map(|service| service.proxy.client_acl);
        let numbers: BTreeSet<u8> = numbers.collect();
        let mut rows = Rows::new();
        for number in numbers {
            let place = self.table_acl(number);
            if let Some(acl) = self.acls.get(usize::from(number)).filter(|_| place > 0) {
                rows.insert(place, acl.ranges());
            }
        }
        let ends = rows.values().map(Vec::len).sum();
        if ends <= RANGE_ENDS_MAX {
            return Ok(rows);
        }
        let longest = rows.iter().max_by_key(|(_, row)| row.len());
        let longest = longest.map_or(0, |(place, _)| place - 1);
        Err(RangesFull { ends, longest })
    }
}

impl Acl {
    /// Where the ranges of those whom this list lets pass begin and end, in rising order: a first
    /// address, the first one behind that range, and so on. The last range may have no end.
    pub fn ranges(&self) -> Vec<Address> {
        let v6 = self.verdicts(|network| matches!(network, IpAddr::V6(_)));
        let v4 = self.verdicts(|network| matches!(network, IpAddr::V4(_)));
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
    fn verdicts(&self, family: impl Fn(IpAddr) -> bool) -> BTreeMap<u128, bool> {
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
        let otherwise = self.lines.last().is_none_or(|last| !last.permit);
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
