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

/// By when they became idle, and by address, as several do at once. An entry is put right when it
/// is looked at: requests take no lock, and there are many more of them.
static ALL: Mutex<BTreeMap<(u64, usize), Arc<Idle>>> = Mutex::new(BTreeMap::new());

/// A client's connection among all of them; dropped with it.
#[derive(Debug)]
pub(super) struct Kept(Arc<Idle>);

/// Held while a request is in hand, until the last of its answer was taken. It does not outlive the
/// connection.
#[derive(Debug)]
pub(super) struct Busy(Arc<Idle>);

#[derive(Debug)]
struct Idle {
    /// On the clock of [`now_ms`].
    since_ms: AtomicU64,
    /// The time of its entry, which may be an earlier one; `NEVER` if it has none. It changes under
    /// the lock. Who takes an entry away looks at `since_ms` afterwards, who sets that looks at this:
    /// one of both sees that an entry is missing.
    listed_ms: AtomicU64,
    close: Notify,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self(Arc::new(Idle {
            since_ms: AtomicU64::new(NEVER),
            listed_ms: AtomicU64::new(NEVER),
            close: Notify::new(),
        }))
    }

    /// A request begins.
    pub(super) fn begin(&self) -> Busy {
        self.0.since_ms.store(NEVER, Ordering::SeqCst);
        Busy(Arc::clone(&self.0))
    }

    /// Waits until it is to make room, if it is still idle then.
    pub(super) async fn is_to_end(&self) {
        self.0.close.notified().await;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut all = all();
        let listed = self.0.listed_ms.swap(NEVER, Ordering::SeqCst);
        all.remove(&(listed, number(&self.0)));
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.since_ms.store(now_ms(), Ordering::SeqCst);
        if self.0.listed_ms.load(Ordering::SeqCst) == NEVER {
            list(&self.0, &mut all());
        }
    }
}

/// Has so many connections closed, the one that was idle for longest first. Of those one stays that
/// a part of a request has reached just then, and one that has a whole one answers it before.
pub(in crate::proxy) fn close_oldest(count: usize) {
    let mut all = all();
    let mut left = count;
    while left > 0 {
        let Some(((listed, _), oldest)) = all.pop_first() else {
            return;
        };
        oldest.listed_ms.store(NEVER, Ordering::SeqCst);
        // No entry is later than it should be: one that is right is the oldest of all.
        let (since, order) = (&oldest.since_ms, Ordering::SeqCst);
        if since.compare_exchange(listed, NEVER, order, order).is_ok() {
            oldest.close.notify_one();
            left -= 1;
        } else {
            // A request came since, or is in hand: then it is listed again after that.
            list(&oldest, &mut all);
        }
    }
}

/// Enters one that is idle and has no entry.
fn list(idle: &Arc<Idle>, all: &mut BTreeMap<(u64, usize), Arc<Idle>>) {
    let since = idle.since_ms.load(Ordering::SeqCst);
    if since != NEVER && idle.listed_ms.load(Ordering::SeqCst) == NEVER {
        idle.listed_ms.store(since, Ordering::SeqCst);
        all.insert((since, number(idle)), Arc::clone(idle));
    }
}

fn number(idle: &Arc<Idle>) -> usize {
    Arc::as_ptr(idle).addr()
}

/// Nothing that is done with it can fail half way.
fn all() -> MutexGuard<'static, BTreeMap<(u64, usize), Arc<Idle>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use std::thread;
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    /// Whoever has connections closed closes those of other tests, too.
    pub(in crate::proxy::http) static ALONE: tokio::sync::Mutex<()> =
        tokio::sync::Mutex::const_new(());

    async fn ends(kept: &Kept) -> bool {
        let soon = Duration::from_millis(20);
        timeout(soon, kept.is_to_end()).await.is_ok()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_longest_idle_goes_first_and_nobody_who_is_busy() {
        let _alone = ALONE.lock().await;
        let (first, second, third) = (Kept::new(), Kept::new(), Kept::new());
        let busy = first.begin();
        for kept in [&third, &second, &third] {
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

    #[tokio::test(flavor = "current_thread")]
    async fn nobody_is_lost_who_is_looked_at_while_its_request_ends() {
        let _alone = ALONE.lock().await;
        let kept: Vec<_> = (0..8).map(|_| Kept::new()).collect();
        for _ in 0..50 {
            thread::scope(|scope| {
                for one in &kept {
                    scope.spawn(|| (0..200).for_each(|_| drop(one.begin())));
                }
                scope.spawn(|| (0..200).for_each(|_| close_oldest(2)));
            });
            for one in &kept {
                drop(one.begin());
                let since = one.0.since_ms.load(Ordering::SeqCst);
                let listed = one.0.listed_ms.load(Ordering::SeqCst);
                assert!(listed <= since, "{listed} {since}");
                assert!(all().contains_key(&(listed, number(&one.0))));
            }
        }
        drop(kept);
        assert!(all().is_empty());
    }
}
