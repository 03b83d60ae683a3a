//! Frames as fast as they come back: a closed loop of a packet socket and a [`Sink`].
//!
//! No more than [`WINDOW`] frames are ever under way, fewer than any ring between here and the sink
//! holds. So nothing is lost for want of room, at whatever rate the forwarder has, and a frame that
//! is lost is a fault.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
    signals: Arc<Signals>,
}

/// Between the flood's thread and its owner.
#[derive(Debug, Default)]
struct Signals {
    stop: AtomicBool,
    sent: AtomicU64,
    /// Which of the lists is sent.
    list: AtomicUsize,
}

/// What a flood came to.
#[derive(Debug, Clone, Copy)]
pub struct Flooded {
    /// Frames that the kernel took.
    pub sent: u64,
    /// Of them, frames that had to come back.
    pub returning: u64,
    /// Of those, frames that were no longer waited for.
    pub given_up: u64,
    pub elapsed: Duration,
}

impl Flooded {
    /// Frames a second.
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64()
    }
}

impl Flood {
    /// Sends the frames of the first of `lists` by turns out of `interface`, `count` frames in all
    /// or until it is stopped. The sink stands where they come back, and nothing else goes there.
    pub fn start(
        machine: &Namespace,
        interface: &str,
        lists: Vec<Vec<Offer>>,
        count: u64,
        sink: Arc<Sink>,
    ) -> Self {
        let signals = Arc::new(Signals::default());
        let (file, interface) = (machine.file(), interface.to_owned());
        let seen = Arc::clone(&signals);
        let thread = thread::spawn(move || run(&file, &interface, &lists, count, &sink, &seen));
        Self {
            thread: Some(thread),
            signals,
        }
    }

    /// From now on sends list `index`: every frame of it that was not sent by an earlier turn is
    /// sent after this call.
    pub fn turn_to(&self, index: usize) {
        self.signals.list.store(index, Ordering::SeqCst);
    }

    /// Frames that the kernel took so far.
    pub fn sent(&self) -> u64 {
        self.signals.sent.load(Ordering::Relaxed)
    }

    /// Ends it, and waits for what is under way.
    ///
    /// # Errors
    /// It could not send.
    pub fn stop(self) -> Result<Flooded> {
        self.signals.stop.store(true, Ordering::Relaxed);
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
        self.signals.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever wants its result has asked for it.
            let _ = thread.join();
        }
    }
}

fn run(
    file: &Path,
    interface: &str,
    lists: &[Vec<Offer>],
    count: u64,
    sink: &Sink,
    signals: &Signals,
) -> Result<Flooded> {
    ensure!(lists.iter().all(|list| !list.is_empty()), "nothing to send");
    enter(file)?;
    let mut socket = RawSocket::open(interface).context("opening a packet socket")?;
    let start = Instant::now();
    let (mut sent, mut returning) = (0, 0);
    let mut back = Back::new(sink);
    while sent < count && !signals.stop.load(Ordering::Relaxed) {
        let room = WINDOW.saturating_sub(returning - back.settled(returning)) as usize;
        if room < BATCH {
            // The forwarder may be waiting for this very core.
            thread::yield_now();
            continue;
        }
        let batch = (count - sent).min(BATCH as u64) as usize;
        let list = signals.list.load(Ordering::SeqCst);
        let offers = lists.get(list).context("there is no such list")?;
        let first = (sent % offers.len() as u64) as usize;
        let next = || (first..first + batch).map(|number| &offers[number % offers.len()]);
        let frames = next().map(|offer| offer.frame.as_slice());
        let taken = socket.send_many(frames).context("sending a flood")?;
        returning += next().take(taken).filter(|offer| offer.returns).count() as u64;
        sent += taken as u64;
        signals.sent.store(sent, Ordering::Relaxed);
    }
    while back.settled(returning) < returning {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(Flooded {
        sent,
        returning,
        given_up: back.given_up,
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
    given_up: u64,
}

impl<'a> Back<'a> {
    fn new(sink: &'a Sink) -> Self {
        Self {
            sink,
            seen: sink.total(),
            at: Instant::now(),
            settled: 0,
            given_up: 0,
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
            self.given_up += returning - self.settled;
            self.settled = returning;
        }
        self.settled
    }
}
