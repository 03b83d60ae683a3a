//! Records on their way to the writer. Bounded: nobody ever waits for room in it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use crossbeam::queue::ArrayQueue;

use super::{Log, Record};

/// Records that may wait: as many as come in 50 ms at 160,000 a second. Each is a few hundred
/// bytes, and never more than some 4 KiB.
pub(super) const RECORDS: usize = 8192;

/// A record, and where it goes.
#[derive(Debug)]
pub(in crate::proxy) struct Entry {
    pub(in crate::proxy) log: Arc<Log>,
    pub(in crate::proxy) record: Box<Record>,
}

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) struct Ring {
    entries: ArrayQueue<Entry>,
    /// Who is woken when it can't wait: it looks by itself, but not often.
    writer: OnceLock<Thread>,
    /// Whether Pen stops.
    closing: AtomicBool,
    dropped: AtomicU64,
}

impl Ring {
    pub(super) fn new(records: usize) -> Self {
        Self {
            entries: ArrayQueue::new(records),
            writer: OnceLock::new(),
            closing: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        }
    }

    /// From now on connections end because Pen does.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// From now on this thread is woken.
    pub(super) fn wakes(&self, writer: Thread) {
        let _ = self.writer.set(writer);
    }

    /// Takes a record, or counts it as dropped. With `urgent` it is to be written at once.
    pub(super) fn push(&self, entry: Entry, urgent: bool) {
        if let Err(entry) = self.entries.push(entry) {
            entry.log.counts.dropped();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if (urgent || self.entries.len() >= self.entries.capacity() / 2)
            && let Some(writer) = self.writer.get()
        {
            writer.unpark();
        }
    }

    /// Records that found no room, of all logs.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn pop(&self) -> Option<Entry> {
        self.entries.pop()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::time::{Duration, Instant};

    use pen_common::config::LogTarget;

    use super::*;
    use crate::proxy::log::record::tests::record;
    use crate::proxy::log::{LineCounts, Sink};

    #[test]
    fn what_a_full_ring_does_not_take_is_counted_and_nobody_waits() {
        let target = LogTarget::File("/dev/null".into());
        let ring = Arc::new(Ring::new(4));
        let log = Arc::new(Log {
            service: "web".into(),
            format: pen_common::config::LogFormat::Pen,
            sink: Arc::new(Sink::open(target).unwrap()),
            ring: Arc::clone(&ring),
            counts: Arc::new(LineCounts::default()),
        });
        let begun = Instant::now();
        for number in 0..10 {
            let mut record = Box::new(record());
            record.tries = number;
            let log = Arc::clone(&log);
            ring.push(Entry { log, record }, false);
        }
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!((log.counts.read(), ring.dropped()), ([0, 6, 0], 6));
        // Those that were first are there.
        let kept = std::iter::from_fn(|| ring.pop());
        let kept: Vec<u32> = kept.map(|entry| entry.record.tries).collect();
        assert_eq!(kept, [0, 1, 2, 3]);
    }
}
