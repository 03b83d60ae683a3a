//! Things that a thread keeps to use them again: buffers, pipes.

use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// How many there are on one thread, as other threads may see it.
#[derive(Debug, Default)]
pub struct Gauge {
    used: AtomicUsize,
    spare: AtomicUsize,
}

impl Gauge {
    /// In someone's hand.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Kept for the next one who asks.
    pub fn spare(&self) -> usize {
        self.spare.load(Relaxed)
    }
}

/// What one thread keeps. It belongs in a `thread_local`.
#[derive(Debug)]
pub(super) struct Spares<T> {
    kept: RefCell<Vec<T>>,
    most: usize,
    gauge: Arc<Gauge>,
}

impl<T> Spares<T> {
    /// Keeps up to `most`; what is given back beyond that is dropped.
    pub(super) fn new(most: usize) -> Self {
        Self {
            kept: RefCell::default(),
            most,
            gauge: Arc::default(),
        }
    }

    pub(super) fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.gauge)
    }

    /// The one given back last, which is the likeliest to be in the processor's cache, or a new
    /// one.
    pub(super) fn take<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let kept = self.kept.borrow_mut().pop();
        let taken = kept.map_or_else(make, Ok)?;
        self.show(self.gauge.used() + 1);
        Ok(taken)
    }

    pub(super) fn give_back(&self, item: T) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() < self.most {
            kept.push(item);
        }
        drop(kept);
        self.lost();
    }

    /// One that was taken won't come back.
    pub(super) fn lost(&self) {
        self.show(self.gauge.used() - 1);
    }

    /// Plain stores: the thread that owns the spares is the only one that writes.
    fn show(&self, used: usize) {
        self.gauge.used.store(used, Relaxed);
        self.gauge.spare.store(self.kept.borrow().len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(number: u32) -> Result<u32, ()> {
        Ok(number)
    }

    #[test]
    fn the_last_one_given_back_is_taken_first_and_no_more_are_kept_than_allowed() {
        let spares = Spares::new(2);
        let gauge = spares.gauge();
        for number in 1..=3 {
            assert_eq!(spares.take(|| make(number)), Ok(number));
        }
        assert_eq!((gauge.used(), gauge.spare()), (3, 0));
        for number in 1..=3 {
            spares.give_back(number);
        }
        assert_eq!((gauge.used(), gauge.spare()), (0, 2));
        assert_eq!(spares.take(|| make(4)), Ok(2));
        spares.lost();
        assert_eq!((gauge.used(), gauge.spare()), (0, 1));
    }

    #[test]
    fn one_that_could_not_be_made_is_not_counted() {
        let spares = Spares::<u32>::new(2);
        assert_eq!(spares.take(|| Err("no")), Err("no"));
        assert_eq!(spares.gauge().used(), 0);
    }
}
