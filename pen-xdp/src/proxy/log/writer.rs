//! The thread that makes lines of records and writes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::ring::RECORDS;
use super::{Ring, Sink};

/// How long a record waits for others, unless many come or it is wanted at once. The writer looks by
/// itself, so that no client pays for waking it.
const GATHER: Duration = Duration::from_millis(50);
/// Records between two flushes, however many more there are.
const ROUND: usize = 1024;

/// What the writer is told.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) stop: AtomicBool,
    pub(super) reopen: AtomicBool,
    /// Those in use, of which each target has one.
    sinks: Mutex<Vec<Weak<Sink>>>,
}

impl Orders {
    pub(super) fn sinks(&self) -> MutexGuard<'_, Vec<Weak<Sink>>> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until it is told to stop, and then what there still is.
pub(super) fn run(ring: &Ring, orders: &Orders) {
    loop {
        // Asked first: what came before the order is written.
        let stop = orders.stop.load(Ordering::Acquire);
        if orders.reopen.swap(false, Ordering::AcqRel) {
            // In the old files is what was logged before.
            round(ring, RECORDS);
            let sinks: Vec<_> = orders.sinks().iter().filter_map(Weak::upgrade).collect();
            for sink in sinks {
                sink.reopen();
            }
        }
        let full = round(ring, ROUND);
        if !full {
            let sinks: Vec<_> = orders.sinks().iter().filter_map(Weak::upgrade).collect();
            sinks.iter().for_each(|sink| sink.finish());
        }
        match (full, stop) {
            (true, _) => {}
            (false, true) => return,
            (false, false) => thread::park_timeout(GATHER),
        }
    }
}

/// Writes so many records at most; whether there may be more.
fn round(ring: &Ring, most: usize) -> bool {
    let mut touched: Vec<Arc<Sink>> = Vec::new();
    let mut count = 0;
    while count < most
        && let Some(entry) = ring.pop()
    {
        count += 1;
        if !touched
            .iter()
            .any(|sink| Arc::ptr_eq(sink, &entry.log.sink))
        {
            touched.push(Arc::clone(&entry.log.sink));
        }
        let sink = Arc::clone(&entry.log.sink);
        sink.add(entry);
    }
    for sink in touched {
        sink.flush();
    }
    count == most
}
