//! Frames as fast as they come back: a closed loop of a packet socket and a [`Sink`].
//!
//! No more than a window's worth of frames is ever under way. With [`Offered::WINDOW`], fewer than
//! any ring between here and the sink holds, nothing is lost for want of room, at whatever rate the
//! forwarder has, and a frame that is lost is a fault. With more it is an open loop, and rings
//! overflow.

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

/// Frames sent by one system call.
const BATCH: u64 = 32;
/// Far beyond what any takes.
const LIMIT: Duration = Duration::from_secs(600);
/// Nothing came back for so long: what is under way is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// A frame to be sent, and whether it must come back for a back end.
#[derive(Debug, Clone)]
pub struct Offer {
    pub frame: Vec<u8>,
    pub returns: bool,
}

/// What a flood offers.
#[derive(Debug)]
pub struct Offered {
    /// Frames, sent by turns; the first list until [`Flood::turn_to`].
    pub lists: Vec<Vec<Offer>>,
    /// Frames in all, unless it is stopped before.
    pub count: u64,
    /// Frames under way at most.
    pub window: u64,
}

impl Offered {
    /// Below the 256 that a veth end with a program holds.
    pub const WINDOW: u64 = 240;
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
    /// Sends what is offered out of `interface`. The sink stands where it comes back, and nothing
    /// else goes there.
    pub fn start(machine: &Namespace, interface: &str, offered: Offered, sink: Arc<Sink>) -> Self {
        let signals = Arc::new(Signals::default());
        let (file, interface) = (machine.file(), interface.to_owned());
        let seen = Arc::clone(&signals);
        let thread = thread::spawn(move || run(&file, &interface, &offered, &sink, &seen));
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
    Offered {
        lists,
        count,
        window,
    }: &Offered,
    sink: &Sink,
    signals: &Signals,
) -> Result<Flooded> {
    ensure!(lists.iter().all(|list| !list.is_empty()), "nothing to send");
    enter(file)?;
    let mut socket = RawSocket::open(interface).context("opening a packet socket")?;
    let start = Instant::now();
    let (mut sent, mut returning) = (0, 0);
    let mut back = Back::new(sink);
    while sent < *count && !signals.stop.load(Ordering::Relaxed) {
        ensure!(
            start.elapsed() < LIMIT,
            "a flood of {count} stands at {sent}"
        );
        let room = window.saturating_sub(returning - back.settled(returning));
        if room < BATCH {
            // The forwarder may be waiting for this very core.
            thread::yield_now();
            continue;
        }
        let batch = (count - sent).min(BATCH) as usize;
        let list = signals.list.load(Ordering::SeqCst);
        let offers = lists.get(list).context("there is no such list")?;
        let first = (sent % offers.len() as u64) as usize;
        let next = || (first..first + batch).map(|number| &offers[number % offers.len()]);
        let frames = next().map(|offer| offer.frame.as_slice());
        let taken = match socket.send_many(frames) {
            // The other end has no room: the frame was not taken.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => 0,
            taken => taken.context("sending a flood")?,
        };
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
