//! What can be seen of workers from outside while they run.
//!
//! Each word has one writer. Words of different workers stand in different cache lines.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use super::port::{Accounting, Losses, Polled};

const PLACE_BITS: u32 = 21;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;

/// Most frames that one port may have, so that its three places fit into one word.
pub const FRAMES_MAX: u32 = PLACE_MASK as u32;

/// One queue as its worker sees it.
#[repr(align(128))]
pub(super) struct QueueStatus {
    number: u32,
    total: u32,
    /// Receive, hand and send in one word: whoever reads it never sees a frame twice.
    places: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    not_whole: AtomicU64,
    losses: [AtomicU64; 5],
    failing: AtomicBool,
}

/// What a queue says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueReport {
    /// Number of the queue.
    pub queue: u32,
    /// Where its frames are; all three places are of the same moment.
    pub accounting: Accounting,
    /// Packets taken.
    pub received: u64,
    /// Packets posted for send.
    pub sent: u64,
    /// Packets in too many pieces.
    pub not_whole: u64,
    /// What the kernel's side of the port lost; up to a quarter of a second old.
    pub losses: Losses,
    /// Whether the port does not work at present.
    pub failing: bool,
}

impl QueueStatus {
    pub(super) fn new(number: u32, accounting: Accounting) -> Self {
        let status = Self {
            number,
            total: accounting.total,
            places: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            not_whole: AtomicU64::new(0),
            losses: Default::default(),
            failing: AtomicBool::new(false),
        };
        status.set_accounting(accounting);
        status
    }

    pub(super) fn set_accounting(&self, accounting: Accounting) {
        let Accounting {
            receive,
            hand,
            send,
            ..
        } = accounting;
        let word = u64::from(receive)
            | u64::from(hand) << PLACE_BITS
            | u64::from(send) << (2 * PLACE_BITS);
        self.places.store(word, Ordering::Relaxed);
    }

    pub(super) fn add(&self, polled: Polled) {
        grow(&self.received, polled.received);
        grow(&self.sent, polled.sent);
        if polled.not_whole > 0 {
            grow(&self.not_whole, polled.not_whole);
        }
    }

    pub(super) fn set_losses(&self, losses: Losses) {
        let Losses {
            dropped,
            ring_full,
            fill_empty,
            invalid,
            unsent,
        } = losses;
        let now = [dropped, ring_full, fill_empty, invalid, unsent];
        for (word, value) in self.losses.iter().zip(now) {
            word.store(value, Ordering::Relaxed);
        }
    }

    pub(super) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    fn report(&self) -> QueueReport {
        let places = self.places.load(Ordering::Relaxed);
        let place = |index: u32| (places >> (index * PLACE_BITS) & PLACE_MASK) as u32;
        let [dropped, ring_full, fill_empty, invalid, unsent] =
            [0, 1, 2, 3, 4].map(|index: usize| self.losses[index].load(Ordering::Relaxed));
        QueueReport {
            queue: self.number,
            accounting: Accounting {
                receive: place(0),
                hand: place(1),
                send: place(2),
                total: self.total,
            },
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            not_whole: self.not_whole.load(Ordering::Relaxed),
            losses: Losses {
                dropped,
                ring_full,
                fill_empty,
                invalid,
                unsent,
            },
            failing: self.failing.load(Ordering::Relaxed),
        }
    }
}

/// The word has one writer, so a load and a store will do.
fn grow(word: &AtomicU64, by: usize) {
    let value = word.load(Ordering::Relaxed) + by as u64;
    word.store(value, Ordering::Relaxed);
}

/// One worker as it can be seen from outside.
///
/// `epoch` is odd while the worker is parked (or has ended) and even while it runs. It changes
/// whenever the worker begins a pass; at that moment no frame that it has looked at is left in
/// its hand. After storing it the worker runs a full fence before it reads any table; whoever
/// publishes a table runs one between the publication and reading `epoch`. So either the worker
/// sees the new table, or the publisher sees the old epoch and waits for it to change.
#[repr(align(128))]
pub(super) struct WorkerStatus {
    epoch: AtomicU64,
    pinned: AtomicBool,
    events_lost: AtomicU64,
    pub(super) queues: Vec<QueueStatus>,
}

/// What a worker says at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerReport {
    /// Whether it has the core that it was to have.
    pub pinned: bool,
    /// Events that did not fit into the channel.
    pub events_lost: u64,
    /// Its queues.
    pub queues: Vec<QueueReport>,
}

impl WorkerStatus {
    /// A worker that has not begun counts as parked.
    pub(super) fn new(queues: Vec<QueueStatus>) -> Self {
        Self {
            epoch: AtomicU64::new(1),
            pinned: AtomicBool::new(false),
            events_lost: AtomicU64::new(0),
            queues,
        }
    }

    /// A pass begins; tables may be read from here on.
    pub(super) fn begin_pass(&self) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        // Even, and another one than before.
        self.epoch.store((epoch | 1) + 1, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// No table is read until the next pass begins.
    pub(super) fn park(&self) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        self.epoch.store(epoch | 1, Ordering::Release);
    }

    /// As the publisher must read it.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn set_pinned(&self, pinned: bool) {
        self.pinned.store(pinned, Ordering::Relaxed);
    }

    pub(super) fn set_events_lost(&self, lost: u64) {
        self.events_lost.store(lost, Ordering::Relaxed);
    }

    pub(super) fn report(&self) -> WorkerReport {
        WorkerReport {
            pinned: self.pinned.load(Ordering::Relaxed),
            events_lost: self.events_lost.load(Ordering::Relaxed),
            queues: self.queues.iter().map(QueueStatus::report).collect(),
        }
    }
}

/// The epochs of all workers at the moment of a publication; see
/// [`super::Workers::epochs`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epochs(pub(super) Vec<u64>);

impl Epochs {
    /// Whether every worker has begun another pass since, or was parked, or is so `now`.
    pub fn passed(&self, now: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&now.0);
        pairs.all(|(then, now)| then & 1 == 1 || now & 1 == 1 || then != now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_the_packing() {
        let accounting = Accounting {
            receive: FRAMES_MAX,
            hand: 5,
            send: FRAMES_MAX - 1,
            total: 7,
        };
        let status = QueueStatus::new(3, accounting);
        assert_eq!(status.report().accounting, accounting);
        assert_eq!(status.report().queue, 3);
    }

    #[test]
    fn a_publication_is_passed_by_a_new_pass_or_a_parked_worker() {
        let worker = WorkerStatus::new(Vec::new());
        let look = || Epochs(vec![worker.epoch()]);
        let unborn = look();
        assert!(unborn.passed(&unborn));
        worker.begin_pass();
        let running = look();
        assert!(!running.passed(&look()));
        worker.park();
        assert!(running.passed(&look()));
        worker.begin_pass();
        assert!(running.passed(&look()));
        let again = look();
        assert!(!again.passed(&look()));
        worker.begin_pass();
        assert!(again.passed(&look()));
    }
}
