//! A worker: one thread, one core, some queues.
//!
//! ```text
//!  begin pass -> for each queue: completions, a batch, steer each packet, send -> heartbeat
//!      ^                                                                            |
//!      +---- something arrived, or not idle for long <------------------------------+
//!      +---- park in poll(2), at most 50 ms <------- idle --------------------------+
//! ```
//!
//! No lock, no allocation and no waiting between the reception of a packet and its sending. A
//! port that fails is left alone for a while and so is its heartbeat: the program serves the
//! queue meanwhile.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use pen_common::{
    frame::{Frame, SliceFrame},
    steer::steer,
    tables::{BackendId, Memory, Tables},
    verdict::{Reason, Verdict},
};

use crate::mapped::now_ns;

use super::{
    busy::{Busy, Idle},
    event::{Event, Events},
    port::{Fate, Polled, Port},
    status::WorkerStatus,
    wait::Waiter,
};

/// Longest park; a heartbeat is due well before the program loses patience
/// ([`pen_common::tables::HEARTBEAT_NS_MAX`]).
const PARK: Duration = Duration::from_millis(50);
/// Park of a worker that is waiting for something that wakes nobody.
const NAP: Duration = Duration::from_millis(1);
/// First and longest time for which a failed port is left alone, nanoseconds.
const RETRY_NS: u64 = 50_000_000;
const RETRY_NS_MAX: u64 = 1_000_000_000;
/// How often losses are read, nanoseconds.
const LOSSES_NS: u64 = 250_000_000;
/// How long a stopping worker goes on with what was already received and sent.
const DRAIN: Duration = Duration::from_millis(200);

const _: () = assert!(PARK.as_nanos() * 2 < pen_common::tables::HEARTBEAT_NS_MAX as u128);

/// What a worker tells about a queue beside the frames' own bytes. Nobody else writes there.
pub trait Counting {
    /// One more frame with this fate.
    fn count(&self, reason: Reason);
    /// A frame of so many bytes went to this back end.
    fn traffic(&self, backend: BackendId, bytes: u64);
    /// The queue is served, at this moment of [`now_ns`].
    fn heartbeat(&self, queue: u32, now_ns: u64);
}

/// A queue to be served: its port, and the memory to decide by and to count in.
pub struct Queue<P, M> {
    /// Number on the interface.
    pub number: u32,
    /// Where its frames are.
    pub port: P,
    /// Tables, and this queue's counters.
    pub memory: M,
}

/// How a port is doing.
#[derive(Clone, Copy)]
enum Health {
    Good,
    /// Not to be touched before `retry_ns`; the next wait is twice `wait_ns`.
    Failing {
        retry_ns: u64,
        wait_ns: u64,
    },
}

/// One worker, on the thread that it was made for.
pub(super) struct Worker<P, M> {
    pub(super) queues: Vec<Queue<P, M>>,
    pub(super) status: Arc<WorkerStatus>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) events: Events,
    idle: Idle,
    health: Vec<Health>,
    waiter: Waiter,
    /// Whether poll(2) sees all of the ports.
    wakeable: bool,
    beat_ns: u64,
    losses_ns: u64,
}

impl<P: Port, M: Memory + Counting> Worker<P, M> {
    pub(super) fn new(
        queues: Vec<Queue<P, M>>,
        status: Arc<WorkerStatus>,
        busy: Busy,
        stop: (Arc<AtomicBool>, BorrowedFd<'_>),
        events: Events,
    ) -> Self {
        let ports = queues.iter().map(|queue| queue.port.descriptor());
        Self {
            waiter: Waiter::new(stop.1.as_fd(), ports),
            wakeable: queues.iter().all(|queue| queue.port.descriptor().is_some()),
            health: vec![Health::Good; queues.len()],
            idle: Idle::new(busy),
            stop: stop.0,
            queues,
            status,
            events,
            beat_ns: 0,
            losses_ns: 0,
        }
    }

    /// Serves until told to stop, then brings in what is under way.
    pub(super) fn run(&mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            if self.pass(now_ns()) > 0 {
                self.idle.interrupt();
            } else if self.idle.may_park(Instant::now) {
                self.park();
            }
        }
        self.drain();
    }

    /// One batch of every queue; how many packets there were.
    fn pass(&mut self, now_ns: u64) -> usize {
        self.status.begin_pass();
        let tick = now_ns != self.beat_ns;
        let mut received = 0;
        for index in 0..self.queues.len() {
            match self.health[index] {
                Health::Failing { retry_ns, .. } if now_ns < retry_ns => continue,
                Health::Failing { .. } | Health::Good => {}
            }
            match self.serve(index, now_ns) {
                Ok(polled) => {
                    received += polled.received;
                    self.recover(index);
                    if tick {
                        let queue = &self.queues[index];
                        queue.memory.heartbeat(queue.number, now_ns);
                    }
                }
                Err(error) => self.fail(index, error, now_ns),
            }
        }
        if tick {
            self.tick(now_ns);
        }
        received
    }

    fn serve(&mut self, index: usize, now_ns: u64) -> io::Result<Polled> {
        let Queue {
            number,
            port,
            memory,
        } = &mut self.queues[index];
        let mut no_mac = false;
        let polled = port.poll(|frame| {
            let reason = handle::<P, M>(frame, memory);
            no_mac |= reason == Reason::NoMac;
            fate(reason)
        });
        if no_mac {
            self.events.no_mac(*number, now_ns);
        }
        let status = &self.status.queues[index];
        if let Ok(polled) = &polled {
            if polled.received + polled.completed + polled.not_whole > 0 {
                status.add(*polled);
                status.set_accounting(port.accounting());
            }
            for _ in 0..polled.not_whole {
                memory.count(Reason::NotWhole);
            }
        } else {
            status.set_accounting(port.accounting());
        }
        polled
    }

    fn fail(&mut self, index: usize, error: io::Error, now_ns: u64) {
        let queue = self.queues[index].number;
        let wait_ns = match self.health[index] {
            Health::Good => {
                self.status.queues[index].set_failing(true);
                self.waiter.listen(index, false);
                self.events.send(Event::PortError { queue, error });
                RETRY_NS
            }
            Health::Failing { wait_ns, .. } => (wait_ns * 2).min(RETRY_NS_MAX),
        };
        self.health[index] = Health::Failing {
            retry_ns: now_ns + wait_ns,
            wait_ns,
        };
    }

    fn recover(&mut self, index: usize) {
        if let Health::Failing { .. } = self.health[index] {
            self.health[index] = Health::Good;
            self.status.queues[index].set_failing(false);
            self.waiter.listen(index, true);
            let queue = self.queues[index].number;
            self.events.send(Event::PortBack { queue });
        }
    }

    /// What is done at most once in a tick of the coarse clock.
    fn tick(&mut self, now_ns: u64) {
        self.beat_ns = now_ns;
        if now_ns < self.losses_ns + LOSSES_NS {
            return;
        }
        self.losses_ns = now_ns;
        for (queue, status) in self.queues.iter_mut().zip(&self.status.queues) {
            status.set_losses(queue.port.losses());
        }
        self.status.set_events_lost(self.events.lost());
        // A spinning worker never waits, but has to hear of a device that is gone as well.
        self.waiter.wait(Duration::ZERO);
        self.look_for_broken(now_ns);
    }

    fn look_for_broken(&mut self, now_ns: u64) {
        for index in 0..self.queues.len() {
            if let Some(error) = self.waiter.broken(index) {
                self.fail(index, error, now_ns);
            }
        }
    }

    fn park(&mut self) {
        let busy_sending = self.queues.iter().any(|queue| {
            let frames = queue.port.accounting();
            frames.send > frames.total / 2
        });
        let timeout = if self.wakeable && !busy_sending {
            PARK
        } else {
            NAP
        };
        self.status.park();
        self.waiter.wait(timeout);
        self.look_for_broken(now_ns());
    }

    /// Forwards what was received before the end, and waits for what was sent.
    fn drain(&mut self) {
        let end = Instant::now() + DRAIN;
        while self.pass(now_ns()) > 0 && Instant::now() < end {}
        loop {
            let mut pending = 0;
            for (queue, status) in self.queues.iter_mut().zip(&self.status.queues) {
                // A port that fails now has nothing more to wait for.
                pending += queue.port.drain().unwrap_or(0);
                status.set_accounting(queue.port.accounting());
                status.set_losses(queue.port.losses());
            }
            if pending == 0 || Instant::now() >= end {
                break;
            }
            std::thread::sleep(NAP);
        }
        self.status.set_events_lost(self.events.lost());
        self.status.park();
    }
}

/// Steers one packet and counts what became of it.
#[inline(always)]
fn handle<P: Port, M: Memory + Counting>(frame: &mut SliceFrame<'_>, memory: &M) -> Reason {
    let verdict = match Tables::read(memory) {
        Some(tables) => steer(frame, &tables),
        None => Verdict::Drop(Reason::Late),
    };
    let reason = match verdict {
        Verdict::Forward(backend) => {
            memory.traffic(backend, frame.len() as u64);
            Reason::Forwarded
        }
        // The program handed it over as ours, so the tables have changed since.
        Verdict::Pass(_) if !P::KERNEL_HAS_COPY => Reason::Late,
        Verdict::Reply(reason) | Verdict::Drop(reason) | Verdict::Pass(reason) => reason,
    };
    memory.count(reason);
    reason
}

/// Only what was forwarded or answered leaves again.
#[inline(always)]
fn fate(reason: Reason) -> Fate {
    use pen_common::verdict::Fate as Kind;
    match reason.fate() {
        Kind::Forward | Kind::Reply => Fate::Send,
        Kind::Pass | Kind::Drop | Kind::Note => Fate::Release,
    }
}
