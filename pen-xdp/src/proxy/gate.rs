//! A gate that lets so many through at a time: connections of a service, or those to servers that
//! are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// See the module. Shared by all threads; how many it lets through can change at any time.
#[derive(Debug)]
pub(super) struct Gate {
    max: AtomicU32,
    inside: AtomicU32,
    left: Notify,
}

/// A place inside; given back when dropped.
#[derive(Debug)]
pub(super) struct Pass(Arc<Gate>);

impl Gate {
    pub(super) fn new(max: u32) -> Self {
        Self {
            max: AtomicU32::new(max),
            inside: AtomicU32::new(0),
            left: Notify::new(),
        }
    }

    /// Lets more or fewer through from now on; nobody who is inside is sent out.
    pub(super) fn set_max(&self, max: u32) {
        self.max.store(max, Ordering::Relaxed);
        self.left.notify_waiters();
    }

    /// How many are inside.
    pub(super) fn inside(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }

    /// How many it lets through.
    pub(super) fn max(&self) -> u32 {
        self.max.load(Ordering::Relaxed)
    }

    /// Waits until there is room, and takes it.
    pub(super) async fn enter(self: &Arc<Self>) -> Pass {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            // From here on no leaving is missed.
            left.as_mut().enable();
            if self.take() {
                return Pass(Arc::clone(self));
            }
            left.await;
        }
    }

    /// Goes in, room or not.
    pub(super) fn push_in(self: &Arc<Self>) -> Pass {
        self.inside.fetch_add(1, Ordering::Relaxed);
        Pass(Arc::clone(self))
    }

    /// Waits until there is room, and takes none.
    pub(super) async fn open(self: &Arc<Self>) {
        drop(self.enter().await);
    }

    fn take(&self) -> bool {
        let max = self.max();
        let taken = self
            .inside
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |inside| {
                (inside < max).then_some(inside + 1)
            });
        taken.is_ok()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use tokio::time::timeout;

    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test(flavor = "current_thread")]
    async fn no_more_than_the_most_are_inside_and_leaving_makes_room() {
        let gate = Arc::new(Gate::new(2));
        let (first, _second) = (gate.enter().await, gate.enter().await);
        assert!(timeout(SOON, gate.enter()).await.is_err());
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { drop(gate.enter().await) }
        });
        tokio::task::yield_now().await;
        drop(first);
        timeout(SOON, waiting).await.unwrap().unwrap();
        assert_eq!(gate.inside(), 1);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_wider_gate_lets_those_in_who_wait_and_a_narrower_one_throws_nobody_out() {
        let gate = Arc::new(Gate::new(0));
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await }
        });
        tokio::task::yield_now().await;
        gate.set_max(1);
        let _inside = timeout(SOON, waiting).await.unwrap().unwrap();
        let _more = gate.push_in();
        gate.set_max(1);
        assert_eq!((gate.inside(), gate.max()), (2, 1));
        assert!(timeout(SOON, gate.open()).await.is_err());
    }
}
