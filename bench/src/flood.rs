//! Frames as fast as they come back: a closed loop of a packet socket and a [`Sink`].
//!
//! No more than [`WINDOW`] frames are ever under way, fewer than any ring between here and the sink
//! holds. So nothing is lost for want of room, at whatever rate the forwarder has, and a frame that
//! is lost is a fault.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;
use crate::pass::enter;
use crate::raw_socket::RawSocket;
use crate::sink::Sink;

/// Frames under way at most: below the 256 that a veth end with a program holds.
const WINDOW: u64 = 240;
/// Frames sent by one system call.
const BATCH: usize = 32;
/// Nothing came back for so long: what is under way is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// A frame to be sent, and whether it must come back for a back end.
#[derive(Debug, Clone)]
pub struct Offer {
    pub frame: Vec<u8>,
    pub returns: bool,
}

/// A flood under way, on a thread of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    thread: Option<JoinHandle<Result<Flooded>>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

/// What a flood came to.
#[derive(Debug, Clone, Copy)]
pub struct Flooded {
    /// Frames that the kernel took.
    pub sent: u64,
    /// Of them, frames that had to come back.
    pub returning: u64,
    pub elapsed: Duration,
}

impl Flooded {
    /// Frames a second.
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64()
    }
}

impl Flood {
    /// Sends `offers` by turns out of `interface`, `count` frames in all or until it is stopped.
    /// The sink stands where they come back, and nothing else goes there.
    pub fn start(
        machine: &Namespace,
        interface: &str,
        offers: Vec<Offer>,
        count: u64,
        sink: Arc<Sink>,
    ) -> Self {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (file, interface) = (machine.file(), interface.to_owned());
        let signals = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || run(&file, &interface, &offers, count, &sink, &signals));
        Self {
            thread: Some(thread),
            stop,
            sent,
        }
    }

    /// Frames that the kernel took so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it, and waits for what is under way.
    ///
    /// # Errors
    /// It could not send.
    pub fn stop(self) -> Result<Flooded> {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until all frames were sent and are back.
    ///
    /// # Errors
    /// It could not send.
    pub fn finish(mut self) -> Result<Flooded> {
        let thread = self.thread.take().context("a flood ends once")?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever wants its result has asked for it.
            let _ = thread.join();
        }
    }
}

fn run(
    file: &Path,
    interface: &str,
    offers: &[Offer],
    count: u64,
    sink: &Sink,
    (stop, progress): &(Arc<AtomicBool>, Arc<AtomicU64>),
) -> Result<Flooded> {
    ensure!(!offers.is_empty(), "there is nothing to send");
    enter(file)?;
    let mut socket = RawSocket::open(interface).context("opening a packet socket")?;
    let start = Instant::now();
    let (mut sent, mut returning) = (0, 0);
    let mut back = Back::new(sink);
    while sent < count && !stop.load(Ordering::Relaxed) {
        let room = WINDOW.saturating_sub(returning - back.settled(returning)) as usize;
        if room < BATCH {
            // The forwarder may be waiting for this very core.
            thread::yield_now();
            continue;
        }
        let batch = (count - sent).min(BATCH as u64) as usize;
        let first = (sent % offers.len() as u64) as usize;
        let next = || (first..first + batch).map(|number| &offers[number % offers.len()]);
        let frames = next().map(|offer| offer.frame.as_slice());
        let taken = socket.send_many(frames).context("sending a flood")?;
        returning += next().take(taken).filter(|offer| offer.returns).count() as u64;
        sent += taken as u64;
        progress.store(sent, Ordering::Relaxed);
    }
    while back.settled(returning) < returning {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(Flooded {
        sent,
        returning,
        elapsed: start.elapsed(),
    })
}

/// What came back, or was given up.
struct Back<'a> {
    sink: &'a Sink,
    /// What the sink showed at the last progress, and when that was.
    seen: u64,
    at: Instant,
    settled: u64,
}

impl<'a> Back<'a> {
    fn new(sink: &'a Sink) -> Self {
        Self {
            sink,
            seen: sink.total(),
            at: Instant::now(),
            settled: 0,
        }
    }

    /// How many of the `returning` frames are no longer under way.
    fn settled(&mut self, returning: u64) -> u64 {
        let total = self.sink.total();
        if total != self.seen {
            self.settled = (self.settled + total - self.seen).min(returning);
            self.seen = total;
            self.at = Instant::now();
        } else if self.settled == returning {
            self.at = Instant::now();
        } else if self.at.elapsed() > LOST_AFTER {
            self.settled = returning;
        }
        self.settled
    }
}
