//! Clients' connections that are kept for the next request. Where open files are used up, those
//! without a request make room for those who have one; the one that has waited longest goes first.
//!
//! All threads share this: who waits at one of them must not depend on what is idle there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::proxy::service::now_ms;

/// Stands for no time: a request is in hand, or none was there yet.
const NEVER: u64 = u64::MAX;

/// By address, so that each finds itself.
static ALL: Mutex<BTreeMap<usize, Arc<Idle>>> = Mutex::new(BTreeMap::new());

/// A client's connection among all of them; dropped with it.
#[derive(Debug)]
pub(super) struct Kept(Arc<Idle>);

/// Held while a request is in hand, until the last of its answer was taken.
#[derive(Debug)]
pub(super) struct Busy(Arc<Idle>);

#[derive(Debug)]
struct Idle {
    /// On the clock of [`now_ms`].
    since_ms: AtomicU64,
    close: Notify,
}

impl Kept {
    pub(super) fn new() -> Self {
        let idle = Arc::new(Idle {
            since_ms: AtomicU64::new(NEVER),
            close: Notify::new(),
        });
        all().insert(number(&idle), Arc::clone(&idle));
        Self(idle)
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Busy {
        self.0.since_ms.store(NEVER, Ordering::Relaxed);
        Busy(Arc::clone(&self.0))
    }

    /// Waits until it is to make room.
    pub(super) async fn is_to_end(&self) {
        self.0.close.notified().await;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        all().remove(&number(&self.0));
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.since_ms.store(now_ms(), Ordering::Relaxed);
    }
}

/// Has so many connections closed, the one that was idle for longest first. One that gets a request
/// just then answers it before.
pub(in crate::proxy) fn close_oldest(count: usize) {
    let all = all();
    for _ in 0..count {
        let since = |idle: &Arc<Idle>| idle.since_ms.load(Ordering::Relaxed);
        let waiting = all.values().filter(|idle| since(idle) != NEVER);
        let Some(oldest) = waiting.min_by_key(|idle| since(idle)) else {
            return;
        };
        oldest.since_ms.store(NEVER, Ordering::Relaxed);
        oldest.close.notify_one();
    }
}

fn number(idle: &Arc<Idle>) -> usize {
    Arc::as_ptr(idle).addr()
}

/// Nothing that is done with it can fail half way.
fn all() -> MutexGuard<'static, BTreeMap<usize, Arc<Idle>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    async fn ends(kept: &Kept) -> bool {
        let soon = Duration::from_millis(20);
        timeout(soon, kept.is_to_end()).await.is_ok()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_longest_idle_goes_first_and_nobody_who_is_busy() {
        let (first, second, third) = (Kept::new(), Kept::new(), Kept::new());
        let busy = first.begin();
        for kept in [&second, &third] {
            drop(kept.begin());
            // The clock is a coarse one.
            sleep(Duration::from_millis(20)).await;
        }
        close_oldest(1);
        assert_eq!(
            [ends(&first).await, ends(&second).await, ends(&third).await],
            [false, true, false]
        );
        drop(busy);
        drop(third);
        close_oldest(9);
        assert_eq!([ends(&first).await, ends(&second).await], [true, false]);
    }
}
