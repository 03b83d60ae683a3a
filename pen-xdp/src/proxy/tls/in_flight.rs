//! Handshakes in flight, by client: a handshake is the dearest thing that a client can ask for, so
//! one client may have so many at a time, and its others wait for their turn.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All handshakes of a service that are under way or wait.
#[derive(Debug, Default)]
pub(in crate::proxy) struct InFlight(Mutex<HashMap<IpAddr, Turns>>);

/// Those of one client.
#[derive(Debug)]
struct Turns {
    free: Arc<Semaphore>,
    /// Handshakes that are under way or wait.
    all: usize,
}

/// A handshake's right to be under way; the next one's when this is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Turn {
    /// Dropped first: with the place all may be over.
    _permit: Option<OwnedSemaphorePermit>,
    _place: Place,
}

/// Counts a handshake, whatever becomes of it.
#[derive(Debug)]
struct Place {
    whole: Arc<InFlight>,
    client: IpAddr,
}

impl InFlight {
    /// Waits until the client has fewer than `max` handshakes under way; `None` if there is no limit
    /// (0), or nobody to take turns with.
    pub(in crate::proxy) async fn turn(
        self: &Arc<Self>,
        client: Option<IpAddr>,
        max: u32,
    ) -> Option<Turn> {
        match client {
            Some(client) if max > 0 => Some(self.enter(client, max).await),
            Some(_) | None => None,
        }
    }

    async fn enter(self: &Arc<Self>, client: IpAddr, max: u32) -> Turn {
        let client = whose(client);
        let free = match self.clients().entry(client) {
            Entry::Occupied(mut known) => {
                known.get_mut().all += 1;
                Arc::clone(&known.get().free)
            }
            Entry::Vacant(new) => {
                let free = Arc::new(Semaphore::new(max as usize));
                let turns = Turns { free, all: 1 };
                Arc::clone(&new.insert(turns).free)
            }
        };
        let whole = Arc::clone(self);
        // First, for who gives up while it waits.
        let place = Place { whole, client };
        // It is never closed.
        let permit = free.acquire_owned().await.ok();
        Turn {
            _permit: permit,
            _place: place,
        }
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, Turns>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.whole.clients();
        if let Entry::Occupied(mut known) = clients.entry(self.client) {
            known.get_mut().all -= 1;
            if known.get().all == 0 {
                known.remove();
            }
        }
    }
}

/// Who an address stands for: whoever has one of IPv6 has the 64 bits behind its network, too
/// (RFC 4291 section 2.5.1).
fn whose(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_clients_handshakes_wait_for_each_other_and_not_for_others() {
        let whole = Arc::new(InFlight::default());
        let [one, same, other] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"];
        let [one, same, other] = [one, same, other].map(|text| text.parse().unwrap());
        let now = |client| whole.enter(client, 2).now_or_never();
        let (first, second) = (now(one).unwrap(), now(same).unwrap());
        let third = whole.enter(one, 2);
        let mut third = pin!(third);
        assert!(third.as_mut().now_or_never().is_none());
        let others = now(other).unwrap();
        // Who gives up takes no place.
        assert!(now(same).is_none());
        drop(first);
        let third = third.now_or_never().unwrap();
        assert!(now(one).is_none());
        assert_eq!(whole.clients().len(), 2);
        drop((second, third, others));
        assert_eq!(whole.clients().len(), 0);
        assert!(now("192.0.2.1".parse().unwrap()).is_some());
    }
}
