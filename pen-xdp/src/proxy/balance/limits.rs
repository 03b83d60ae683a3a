//! What one client may take: connections at the same time, and new ones a second.
//!
//! A client is an IPv4 address, or the first 64 bits of an IPv6 address: a host has as many of the
//! others as it likes (RFC 4291, section 2.5.4).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use pen_common::control::Refused;

/// Bits of an IPv6 address that name a network.
const NETWORK_BITS: u32 = 64;
/// How far ahead of its rate a client may be: a second's connections at once.
const BURST_US: u64 = 1_000_000;
/// Clients below which nobody looks for those to forget.
const SWEEP_MIN: usize = 1024;

/// Whom a limit is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Limited(IpAddr);

/// What each client has taken. Only clients with connections, or with some in the last second, are
/// remembered.
#[derive(Debug, Default)]
pub(super) struct Limits {
    clients: HashMap<Limited, Taken>,
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Taken {
    connections: u32,
    /// When it will have waited long enough for all that it took (GCRA's theoretical arrival time,
    /// ITU-T I.371), in microseconds.
    due_us: u64,
}

impl Limited {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & (u128::MAX << NETWORK_BITS);
                Ipv6Addr::from_bits(network).into()
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl Limits {
    /// Takes a connection for a client, unless it has `connections` or comes faster than `rate` a
    /// second; 0 is no limit.
    ///
    /// # Errors
    /// Which limit it is. Nothing is taken then.
    pub(super) fn take(
        &mut self,
        client: Limited,
        (connections, rate): (u32, u32),
        now_ms: u64,
    ) -> Result<(), Refused> {
        let now_us = now_ms.saturating_mul(1000);
        if self.clients.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.clients
                .retain(|_, taken| taken.connections > 0 || taken.due_us > now_us);
            self.sweep_at = self.clients.len() * 2;
        }
        let taken = self.clients.entry(client).or_default();
        if connections > 0 && taken.connections >= connections {
            return Err(Refused::ClientConnections);
        }
        if let Some(each_us) = BURST_US.checked_div(rate.into()) {
            let due_us = taken.due_us.max(now_us) + each_us;
            if due_us - now_us > BURST_US {
                return Err(Refused::ClientRate);
            }
            taken.due_us = due_us;
        }
        taken.connections += 1;
        Ok(())
    }

    /// Gives a connection back.
    pub(super) fn give_back(&mut self, client: Limited) {
        if let Some(taken) = self.clients.get_mut(&client) {
            debug_assert!(taken.connections > 0, "a connection was given back twice");
            taken.connections = taken.connections.saturating_sub(1);
        }
    }

    #[cfg(test)]
    pub(super) fn connections(&self) -> u32 {
        self.clients.values().map(|taken| taken.connections).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    fn client(text: &str) -> Limited {
        Limited::of(text.parse().unwrap())
    }

    #[test]
    fn connections_are_counted_by_client_and_given_back() {
        let mut limits = Limits::default();
        let (first, second) = (client("10.0.0.1"), client("10.0.0.2"));
        limits.take(first, (2, 0), 0).unwrap();
        limits.take(first, (2, 0), 0).unwrap();
        assert_eq!(
            limits.take(first, (2, 0), 0),
            Err(Refused::ClientConnections)
        );
        limits.take(second, (2, 0), 0).unwrap();
        limits.give_back(first);
        limits.take(first, (2, 0), 0).unwrap();
        assert_eq!(limits.connections(), 3);
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:1"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
    }

    #[test]
    fn a_seconds_worth_may_come_at_once_and_then_the_rate_holds() {
        let mut limits = Limits::default();
        let first = client("10.0.0.1");
        let mut taken = |ms: u64| limits.take(first, (0, 10), ms).is_ok();
        assert_eq!((0..20).filter(|_| taken(5_000)).count(), 10);
        assert!(!taken(5_099));
        assert!(taken(5_100));
        assert!(!taken(5_101));
        // Ten seconds in steps of a millisecond.
        assert_eq!((5_200..15_200).filter(|ms| taken(*ms)).count(), 100);
        // Whoever waits gets no more than a second's worth.
        assert_eq!((0..20).filter(|_| taken(60_000)).count(), 10);
    }

    #[test]
    fn those_who_left_are_forgotten() {
        let mut limits = Limits::default();
        for number in 0..100_000_u32 {
            let client = Limited::of(std::net::Ipv4Addr::from_bits(number).into());
            limits.take(client, (1, 1), u64::from(number)).unwrap();
            limits.give_back(client);
        }
        // A thousand came in the last second.
        assert!(
            limits.clients.len() < 3 * SWEEP_MIN,
            "{}",
            limits.clients.len()
        );
    }
}
