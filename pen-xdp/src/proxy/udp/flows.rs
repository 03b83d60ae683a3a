//! The flows of one listening socket, from the longest silent to the one heard last.
//!
//! As they stand in that order, those that have been idle for too long are all at one end: no flow
//! needs a timer, and nobody looks at flows that stay.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// What tells flows apart: who sends, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The client.
    pub(super) client: SocketAddr,
    /// The address of this host that it sent to.
    pub(super) local: Local,
}

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Local {
    pub(super) address: IpAddr,
    /// Index of the interface where the address means nothing without it; else 0.
    pub(super) interface: u32,
}

/// A flow's place in the table; another flow may have it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) usize);

/// Flows and what is kept of each.
#[derive(Debug)]
pub(super) struct Flows<T> {
    slots: HashMap<Key, usize>,
    entries: Vec<Entry<T>>,
    free: Vec<usize>,
    /// The longest silent flow, and the one heard last.
    ends: Option<(usize, usize)>,
}

#[derive(Debug)]
struct Entry<T> {
    /// `None` if the place is free.
    flow: Option<(Key, T)>,
    heard_ms: u64,
    /// Silent for longer, by one.
    before: Option<usize>,
    after: Option<usize>,
}

impl<T> Flows<T> {
    pub(super) fn new() -> Self {
        Self {
            slots: HashMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            ends: None,
        }
    }

    /// Where a flow is.
    pub(super) fn find(&self, key: &Key) -> Option<Slot> {
        self.slots.get(key).copied().map(Slot)
    }

    /// The flow at a place, if there is one.
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<(&Key, &mut T)> {
        let entry = self.entries.get_mut(slot.0)?;
        entry.flow.as_mut().map(|(key, flow)| (&*key, flow))
    }

    /// A flow was heard of now: it will be the last to go.
    pub(super) fn heard(&mut self, slot: Slot, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(slot.0) else {
            return;
        };
        if entry.flow.is_none() {
            return;
        }
        entry.heard_ms = now_ms;
        if self.ends.is_some_and(|(_, last)| last != slot.0) {
            self.unlink(slot.0);
            self.link(slot.0);
        }
    }

    /// Takes a flow in, heard of now. One with the same key is replaced.
    pub(super) fn insert(&mut self, key: Key, flow: T, now_ms: u64) -> Slot {
        if let Some(old) = self.find(&key) {
            self.remove(old);
        }
        let entry = Entry {
            flow: Some((key, flow)),
            heard_ms: now_ms,
            before: None,
            after: None,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.entries[at] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        };
        self.slots.insert(key, at);
        self.link(at);
        Slot(at)
    }

    /// Where flows of this kind are.
    pub(super) fn all(&self, is: impl Fn(&T) -> bool) -> Vec<Slot> {
        let slots = self.entries.iter().enumerate();
        let found =
            slots.filter(|(_, entry)| entry.flow.as_ref().is_some_and(|(_, flow)| is(flow)));
        found.map(|(at, _)| Slot(at)).collect()
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<(Key, T)> {
        let (key, flow) = self.entries.get_mut(slot.0)?.flow.take()?;
        self.unlink(slot.0);
        self.slots.remove(&key);
        self.free.push(slot.0);
        if self.slots.is_empty() {
            // A crowd is gone: its memory goes too.
            *self = Self::new();
        }
        Some((key, flow))
    }

    /// Takes out the flow that has been silent for longest, if it has been for so long.
    pub(super) fn remove_silent(&mut self, silent_ms: u64, now_ms: u64) -> Option<(Key, T)> {
        let (first, _) = self.ends?;
        let since = now_ms.saturating_sub(self.entries[first].heard_ms);
        if since < silent_ms {
            return None;
        }
        self.remove(Slot(first))
    }

    fn link(&mut self, at: usize) {
        let last = self.ends.map(|(_, last)| last);
        self.entries[at].before = last;
        self.entries[at].after = None;
        if let Some(last) = last {
            self.entries[last].after = Some(at);
        }
        self.ends = Some((self.ends.map_or(at, |(first, _)| first), at));
    }

    fn unlink(&mut self, at: usize) {
        let (before, after) = (self.entries[at].before, self.entries[at].after);
        if let Some(before) = before {
            self.entries[before].after = after;
        }
        if let Some(after) = after {
            self.entries[after].before = before;
        }
        self.ends = self.ends.and_then(|(first, last)| {
            let first = if first == at { after } else { Some(first) };
            let last = if last == at { before } else { Some(last) };
            first.zip(last)
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn key(port: u16) -> Key {
        Key {
            client: SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), port),
            local: Local {
                address: Ipv4Addr::new(192, 0, 2, 53).into(),
                interface: 0,
            },
        }
    }

    /// Ports of the flows that go, in this order.
    fn gone(flows: &mut Flows<u16>, silent_ms: u64, now_ms: u64) -> Vec<u16> {
        let next = || flows.remove_silent(silent_ms, now_ms).map(|(_, port)| port);
        std::iter::from_fn(next).collect()
    }

    fn full(ports: std::ops::Range<u16>) -> Flows<u16> {
        let mut flows = Flows::new();
        for port in ports {
            flows.insert(key(port), port, u64::from(port));
        }
        flows
    }

    #[test]
    fn flows_go_when_they_have_been_silent_for_long_enough_and_not_before() {
        let mut flows = full(0..5);
        assert_eq!(gone(&mut flows, 10, 9), [0; 0]);
        assert_eq!(gone(&mut flows, 10, 12), [0, 1, 2]);
        assert_eq!(flows.find(&key(2)), None);
        assert!(flows.find(&key(3)).is_some());
        assert_eq!(gone(&mut flows, 10, 100), [3, 4]);
        assert!(flows.ends.is_none() && flows.entries.is_empty());
    }

    #[test]
    fn a_flow_that_is_heard_of_stays_longest() {
        let mut flows = full(0..4);
        for (port, now) in [(0, 10), (2, 11), (2, 12)] {
            let slot = flows.find(&key(port)).unwrap();
            flows.heard(slot, now);
        }
        assert_eq!(gone(&mut flows, 0, 12), [1, 3, 0, 2]);
    }

    #[test]
    fn places_are_used_again_and_nothing_of_the_old_flow_is_left() {
        let mut flows = full(0..3);
        let middle = flows.find(&key(1)).unwrap();
        assert_eq!(flows.remove(middle), Some((key(1), 1)));
        assert_eq!((flows.remove(middle), flows.get_mut(middle)), (None, None));
        flows.heard(middle, 99);
        let new = flows.insert(key(7), 7, 3);
        assert_eq!(new, middle);
        assert_eq!(flows.entries.len(), 3);
        assert_eq!(flows.get_mut(new), Some((&key(7), &mut 7)));
        assert_eq!(flows.all(|port| *port > 1), [new, Slot(2)]);
        assert_eq!(gone(&mut flows, 0, 99), [0, 2, 7]);
    }

    #[test]
    fn one_client_at_two_addresses_has_two_flows() {
        let mut flows = Flows::new();
        let mut other = key(1);
        other.local.address = Ipv4Addr::new(192, 0, 2, 54).into();
        flows.insert(key(1), 'a', 0);
        flows.insert(other, 'b', 0);
        assert_ne!(flows.find(&key(1)), flows.find(&other));
        // The same key again: the new flow takes the old one's part.
        flows.insert(key(1), 'c', 1);
        let left = std::iter::from_fn(|| flows.remove_silent(0, 1).map(|(_, flow)| flow));
        assert_eq!(left.collect::<String>(), "bc");
    }
}
