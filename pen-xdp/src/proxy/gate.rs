//! A gate that lets so many through at a time, first come, first served: clients of a service,
//! those who wait for a server, all who take descriptors.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// See the module. Shared by all threads; how many it lets through can change at any time.
#[derive(Debug)]
pub(super) struct Gate {
    /// What is taken of them is in the hands of passes.
    places: Semaphore,
    /// How many it lets through, and how many of those inside are to leave no place behind because
    /// it was narrowed while they were in.
    width: Mutex<Width>,
    inside: AtomicU32,
}

#[derive(Debug)]
struct Width {
    max: u32,
    debt: u32,
}

/// A place inside; given back when dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Arc<Gate>,
}

impl Gate {
    pub(super) fn new(max: u32) -> Self {
        Self {
            places: Semaphore::new(max as usize),
            width: Mutex::new(Width { max, debt: 0 }),
            inside: AtomicU32::new(0),
        }
    }

    /// Lets more or fewer through from now on; nobody who is inside is sent out.
    pub(super) fn set_max(&self, max: u32) {
        let mut width = self.width();
        if let Some(more) = max.checked_sub(width.max) {
            let paid = more.min(width.debt);
            width.debt -= paid;
            self.places.add_permits((more - paid) as usize);
        } else {
            let fewer = width.max - max;
            let free = self.places.forget_permits(fewer as usize);
            width.debt += fewer - free as u32;
        }
        width.max = max;
    }

    /// How many are inside.
    pub(super) fn inside(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }

    /// How many it lets through.
    pub(super) fn max(&self) -> u32 {
        self.width().max
    }

    /// Whether somebody who came now would wait.
    pub(super) fn is_full(&self) -> bool {
        self.places.available_permits() == 0
    }

    /// Whether a quarter of the places is free: it will not be full again in a moment.
    pub(super) fn has_ample_room(&self) -> bool {
        self.places.available_permits() * 4 >= self.max() as usize
    }

    /// Waits until there is room, behind those who came before, and takes it.
    pub(super) async fn enter(self: &Arc<Self>) -> Pass {
        // Nobody closes the semaphore: there is always a permit in the end.
        if let Ok(permit) = self.places.acquire().await {
            permit.forget();
        }
        self.pass()
    }

    /// Takes a place if there is room and nobody waits for it.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Pass> {
        self.places.try_acquire().ok()?.forget();
        Some(self.pass())
    }

    fn pass(self: &Arc<Self>) -> Pass {
        self.inside.fetch_add(1, Ordering::Relaxed);
        Pass {
            gate: Arc::clone(self),
        }
    }

    fn width(&self) -> std::sync::MutexGuard<'_, Width> {
        self.width.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.inside.fetch_sub(1, Ordering::Relaxed);
        let mut width = self.gate.width();
        match width.debt.checked_sub(1) {
            Some(debt) => width.debt = debt,
            None => self.gate.places.add_permits(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test(flavor = "current_thread")]
    async fn no_more_than_the_most_are_inside_and_leaving_makes_room() {
        let gate = Arc::new(Gate::new(2));
        let (first, _second) = (gate.enter().await, gate.enter().await);
        assert!(gate.is_full());
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
    async fn who_does_not_wait_gets_a_free_place_or_none() {
        let gate = Arc::new(Gate::new(1));
        let first = gate.try_enter().unwrap();
        assert!(gate.try_enter().is_none());
        assert_eq!(gate.inside(), 1);
        drop(first);
        assert!(gate.try_enter().is_some());
        assert_eq!(gate.inside(), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_wider_gate_lets_those_in_who_wait() {
        let gate = Arc::new(Gate::new(0));
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.enter().await }
        });
        tokio::task::yield_now().await;
        gate.set_max(1);
        let _inside = timeout(SOON, waiting).await.unwrap().unwrap();
        assert_eq!((gate.inside(), gate.max()), (1, 1));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_narrower_gate_throws_nobody_out_and_holds_from_then_on() {
        let gate = Arc::new(Gate::new(3));
        let mut inside = vec![gate.enter().await, gate.enter().await, gate.enter().await];
        gate.set_max(1);
        assert_eq!((gate.inside(), gate.max()), (3, 1));
        for left in [2, 1] {
            inside.pop();
            assert_eq!(gate.inside(), left);
            assert!(timeout(SOON, gate.enter()).await.is_err());
        }
        inside.pop();
        let _last = timeout(SOON, gate.enter()).await.unwrap();
        // What was taken away comes back whole.
        gate.set_max(3);
        let _second = timeout(SOON, gate.enter()).await.unwrap();
        let _third = timeout(SOON, gate.enter()).await.unwrap();
        assert!(gate.is_full());
    }
}
