//! Which servers a client's address stands for, and in which order.

use std::net::IpAddr;

use pen_common::hash::NameKey;
use pen_common::maglev::{self, Member};
use pen_common::tables::BackendId;

use super::attempt::Client;
use super::servers::{Servers, Standing};

/// Slots of a table where the smallest share is at least one in [`SMALL_SHARE`]: prime. Servers
/// that come or go beyond that move most clients once, which is why there are two sizes only.
const SIZE_SMALL: u32 = 4099;
/// With it the smallest share has a hundred slots, so that it is right to a percent.
const SMALL_SHARE: u64 = 40;
/// Slots that are looked at for one client. Nearly always the first will do.
const PROBES: usize = 64;

/// A Maglev table over the servers as they are configured, available or not.
#[derive(Debug)]
pub(super) struct Hashing {
    seed: u64,
    key: NameKey,
    /// What the table was built from, in the order of the configuration.
    members: Vec<(String, u32)>,
    slots: Vec<BackendId>,
}

impl Hashing {
    /// The table for these servers: `before`, if it is still right.
    pub(super) fn build(servers: &Servers, seed: u64, before: Option<Self>) -> Self {
        let members: Vec<(String, u32)> = servers
            .present()
            .map(|standing| {
                let weight = match servers.weighted() {
                    true => u32::from(standing.server.weight),
                    false => 1,
                };
                (standing.server.name.clone(), weight)
            })
            .collect();
        if let Some(before) = before.filter(|b| b.seed == seed && b.members == members) {
            return before;
        }
        let key = NameKey::from_seed(seed);
        // 0 is nobody's, and no pool has more servers than there are numbers.
        let named: Vec<Member<'_>> = (1..=BackendId::MAX)
            .zip(&members)
            .map(|(id, (name, weight))| Member {
                id,
                name,
                weight: *weight,
            })
            .collect();
        let slots = maglev::build(&named, size(&members), key);
        Self {
            seed,
            key,
            members,
            slots,
        }
    }

    /// The client's hash. A connection can afford a pseudo-random function, which tells a client
    /// nothing about who shares its server. All clients of Unix sockets are one.
    pub(super) fn hash(&self, client: Client, with_port: bool) -> u64 {
        let mut bytes = [0; 18];
        let octets = match client.address {
            Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
            Some(IpAddr::V6(v6)) => v6.octets(),
            None => [0; 16],
        };
        bytes[..16].copy_from_slice(&octets);
        if with_port {
            bytes[16..].copy_from_slice(&client.port.to_be_bytes());
        }
        self.key.hash_bytes(&bytes)
    }

    /// Indices of the servers that a hash stands for, the first one first. The order does not
    /// depend on who is available, so that only the clients of a server that is not are moved.
    pub(super) fn probes(&self, hash: u64) -> impl Iterator<Item = usize> {
        let next = |hash: &u64| Some(self.key.hash_bytes(&hash.to_le_bytes()));
        let hashes = std::iter::successors(Some(hash), next).take(PROBES);
        hashes.filter_map(|hash| {
            let at = hash % self.slots.len() as u64;
            usize::from(*self.slots.get(at as usize)?).checked_sub(1)
        })
    }

    /// Who is lowest comes next for a hash when the probes found nobody: the order is another one
    /// for every client, as theirs is.
    pub(super) fn rank(&self, hash: u64, standing: &Standing) -> u64 {
        let name = self.key.hash_bytes(standing.server.name.as_bytes());
        self.key.hash_bytes(&(hash ^ name).to_le_bytes())
    }
}

fn size(members: &[(String, u32)]) -> u32 {
    let weights = members.iter().map(|(_, weight)| u64::from(*weight));
    let total: u64 = weights.clone().sum();
    let least = weights.filter(|weight| *weight > 0).min().unwrap_or(1);
    match total <= least * SMALL_SHARE {
        true => SIZE_SMALL,
        false => maglev::SIZE_DEFAULT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_prime_and_large_enough() {
        let equal = |count: usize| vec![("a".to_owned(), 3); count];
        assert!(maglev::is_prime(SIZE_SMALL));
        assert!(u64::from(SIZE_SMALL) >= 100 * SMALL_SHARE);
        assert_eq!(size(&[]), SIZE_SMALL);
        assert_eq!(size(&equal(40)), SIZE_SMALL);
        assert_eq!(size(&equal(41)), maglev::SIZE_DEFAULT);
        let steep = [("a".to_owned(), 60), ("b".to_owned(), 1)];
        assert_eq!(size(&steep), maglev::SIZE_DEFAULT);
    }
}
