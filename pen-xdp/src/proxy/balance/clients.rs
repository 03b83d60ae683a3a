//! The client table: who was here, how often, and at which server. The client that was not seen
//! for longest makes room for a new one.

use std::collections::HashMap;
use std::net::IpAddr;

use super::servers::ServerId;

/// A client that was here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent {
    /// IPv4 also where it came mapped into IPv6.
    pub address: IpAddr,
    /// Connections to a server, ever.
    pub connects: u64,
    /// Bytes sent to it, over connections that have ended.
    pub sent: u64,
    /// Bytes received from it, likewise.
    pub received: u64,
    /// Milliseconds since it was seen.
    pub age_ms: u64,
    /// Where it goes next time; the server may have left the configuration.
    pub server: Option<ServerId>,
    /// Where it was last, remembered or not.
    pub last: Option<ServerId>,
}

#[derive(Debug)]
struct Entry {
    address: IpAddr,
    seen_ms: u64,
    connects: u64,
    sent: u64,
    received: u64,
    server: Option<ServerId>,
    last: Option<ServerId>,
    newer: Option<u32>,
    older: Option<u32>,
}

/// Where a client is served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) server: ServerId,
    /// Whether it comes back there.
    pub(super) kept: bool,
}

/// Entries in a list from the newest to the oldest, and an index by address: every operation
/// but `recent` costs the same however many there are.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_address: HashMap<IpAddr, u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    newest: Option<u32>,
    oldest: Option<u32>,
    max: usize,
    /// 0 is for ever.
    tracking_ms: u64,
}

impl Clients {
    /// Sets how many are remembered and for how long; those beyond go.
    pub(super) fn limit(&mut self, max: u32, tracking_ms: u64) {
        self.max = max as usize;
        self.tracking_ms = tracking_ms;
        self.shrink_to(self.max);
    }

    pub(super) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// The client is here again: tells its server and makes it the newest.
    pub(super) fn seen(&mut self, address: IpAddr, now_ms: u64) -> Option<ServerId> {
        let at = *self.by_address.get(&address)?;
        if self.is_old(self.entries.get(at as usize)?, now_ms) {
            self.remove(at);
            return None;
        }
        self.unlink(at);
        self.link_newest(at);
        let entry = self.entries.get_mut(at as usize)?;
        entry.seen_ms = entry.seen_ms.max(now_ms);
        entry.server
    }

    /// The client has a connection, to a server that it is to come back to or not. Without one it
    /// keeps the one it has.
    pub(super) fn connected(&mut self, address: IpAddr, now_ms: u64, seat: Option<Seat>) {
        if self.max == 0 {
            return;
        }
        let at = match self.by_address.get(&address) {
            Some(at) => *at,
            None => {
                self.shrink_to(self.max - 1);
                self.insert(address, now_ms)
            }
        };
        self.unlink(at);
        self.link_newest(at);
        if let Some(entry) = self.entries.get_mut(at as usize) {
            entry.seen_ms = entry.seen_ms.max(now_ms);
            entry.connects += 1;
            entry.last = seat.map(|seat| seat.server);
            let kept = seat.filter(|seat| seat.kept).map(|seat| seat.server);
            entry.server = kept.or(entry.server);
        }
    }

    /// So many bytes went over a connection of the client's that has ended.
    pub(super) fn passed(&mut self, address: IpAddr, sent: u64, received: u64) {
        let at = self.by_address.get(&address);
        if let Some(entry) = at.and_then(|at| self.entries.get_mut(*at as usize)) {
            entry.sent += sent;
            entry.received += received;
        }
    }

    /// One client, if it is remembered still.
    pub(super) fn get(&self, address: IpAddr, now_ms: u64) -> Option<Recent> {
        let at = *self.by_address.get(&address)?;
        let entry = self.entries.get(at as usize)?;
        (!self.is_old(entry, now_ms)).then(|| entry.shown(now_ms))
    }

    /// Those seen within so many milliseconds, the newest first.
    pub(super) fn recent(&self, now_ms: u64, within_ms: u64) -> Vec<Recent> {
        let first = self.newest.and_then(|at| self.entries.get(at as usize));
        std::iter::successors(first, |entry| self.entries.get(entry.older? as usize))
            .filter(|entry| !self.is_old(entry, now_ms))
            .map(|entry| entry.shown(now_ms))
            .filter(|recent| recent.age_ms <= within_ms)
            .collect()
    }

    const fn is_old(&self, entry: &Entry, now_ms: u64) -> bool {
        self.tracking_ms > 0 && now_ms.saturating_sub(entry.seen_ms) >= self.tracking_ms
    }

    fn shrink_to(&mut self, len: usize) {
        while self.len() > len
            && let Some(oldest) = self.oldest
        {
            self.remove(oldest);
        }
    }

    /// A new entry, in no list yet.
    fn insert(&mut self, address: IpAddr, now_ms: u64) -> u32 {
        let entry = Entry {
            address,
            seen_ms: now_ms,
            connects: 0,
            sent: 0,
            received: 0,
            server: None,
            last: None,
            newer: None,
            older: None,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        self.by_address.insert(address, at);
        at
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        if let Some(entry) = self.entries.get(at as usize) {
            self.by_address.remove(&entry.address);
            self.free.push(at);
        }
    }

    /// Takes an entry out of the list; nothing happens to one that is in none.
    fn unlink(&mut self, at: u32) {
        let Some(entry) = self.entries.get_mut(at as usize) else {
            return;
        };
        let (newer, older) = (entry.newer.take(), entry.older.take());
        match newer.and_then(|newer| self.entries.get_mut(newer as usize)) {
            Some(newer) => newer.older = older,
            None if self.newest == Some(at) => self.newest = older,
            None => {}
        }
        match older.and_then(|older| self.entries.get_mut(older as usize)) {
            Some(older) => older.newer = newer,
            None if self.oldest == Some(at) => self.oldest = newer,
            None => {}
        }
    }

    fn link_newest(&mut self, at: u32) {
        let older = self.newest.replace(at);
        if let Some(entry) = self.entries.get_mut(at as usize) {
            entry.older = older;
        }
        match older.and_then(|older| self.entries.get_mut(older as usize)) {
            Some(older) => older.newer = Some(at),
            None => self.oldest = Some(at),
        }
    }
}

impl Entry {
    const fn shown(&self, now_ms: u64) -> Recent {
        Recent {
            address: self.address,
            connects: self.connects,
            sent: self.sent,
            received: self.received,
            age_ms: now_ms.saturating_sub(self.seen_ms),
            server: self.server,
            last: self.last,
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a panic is how a test's helper says what is wrong"
)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    fn clients(max: u32, tracking_ms: u64) -> Clients {
        let mut clients = Clients::default();
        clients.limit(max, tracking_ms);
        clients
    }

    fn known(clients: &Clients) -> Vec<IpAddr> {
        let recent = clients.recent(0, u64::MAX);
        recent.iter().map(|recent| recent.address).collect()
    }

    #[test]
    fn the_one_not_seen_for_longest_goes_first() {
        let mut clients = clients(3, 0);
        for number in [1, 2, 3] {
            clients.connected(address(number), 0, None);
        }
        clients.seen(address(1), 0);
        clients.connected(address(4), 0, None);
        assert_eq!(known(&clients), [address(4), address(1), address(3)]);
        clients.limit(1, 0);
        assert_eq!(known(&clients), [address(4)]);
        clients.limit(0, 0);
        clients.connected(address(5), 0, None);
        assert_eq!((known(&clients), clients.len()), (vec![], 0));
    }

    #[test]
    fn one_not_seen_for_the_tracking_time_is_new() {
        let mut clients = clients(3, 100);
        clients.connected(address(1), 0, None);
        clients.seen(address(1), 99);
        clients.connected(address(1), 198, None);
        assert_eq!(clients.recent(198, 0)[0].connects, 2);
        assert_eq!(clients.recent(298, 1_000), []);
        clients.seen(address(1), 298);
        assert_eq!(clients.len(), 0);
    }

    #[test]
    fn bytes_are_the_clients_as_long_as_it_is_remembered() {
        let mut clients = clients(2, 0);
        clients.connected(address(1), 0, None);
        clients.passed(address(1), 10, 1);
        clients.passed(address(1), 20, 2);
        clients.passed(address(9), 99, 99);
        let shown = clients.get(address(1), 5).unwrap();
        assert_eq!((shown.sent, shown.received, shown.age_ms), (30, 3, 5));
        assert_eq!(clients.get(address(9), 5), None);
        clients.limit(0, 0);
        clients.limit(2, 0);
        clients.connected(address(1), 9, None);
        assert_eq!(clients.get(address(1), 9).unwrap().sent, 0);
    }

    #[test]
    fn the_same_memory_serves_a_million_clients() {
        let mut clients = clients(100, 0);
        for number in 0..1_000_000 {
            clients.connected(address(number), u64::from(number), None);
        }
        assert_eq!((clients.len(), clients.entries.len()), (100, 100));
        assert_eq!(clients.recent(1_000_000, 50).len(), 50);
    }

    #[test]
    fn a_clock_that_was_read_earlier_makes_nobody_older() {
        let mut clients = clients(3, 100);
        clients.connected(address(1), 500, None);
        clients.seen(address(1), 450);
        let recent = clients.recent(550, 1_000);
        assert_eq!(recent.first().unwrap().age_ms, 50);
    }
}
