//! All workers of an interface: started together, seen together, stopped together.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, fence},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, ensure};
use core_affinity::CoreId;
use crossbeam::channel::Sender;
use pen_common::tables::Memory;

use super::{
    busy::Busy,
    event::{Event, Events},
    port::Port,
    status::{Epochs, FRAMES_MAX, QueueStatus, WorkerReport, WorkerStatus},
    worker::{Counting, Queue, Worker},
};

/// What one worker is to do.
pub struct WorkerConfig<P, M> {
    /// Core to stay on; `None` leaves it to the scheduler.
    pub core: Option<usize>,
    /// When to spin. The caller sees to it that fewer workers than cores spin without end.
    pub busy: Busy,
    /// Queues to serve.
    pub queues: Vec<Queue<P, M>>,
}

/// Running workers. Dropping it stops them.
pub struct Workers {
    status: Vec<Arc<WorkerStatus>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    /// Closed to wake those that are parked.
    waker: Option<PipeWriter>,
}

impl Workers {
    /// Starts one thread for each entry. They serve at once; let the program hand frames to a
    /// queue after its port is open.
    ///
    /// # Errors
    /// When a port has more frames than can be accounted for, or no thread can be made; then
    /// none is left running.
    pub fn start<P, M>(
        configs: Vec<WorkerConfig<P, M>>,
        events: &Sender<Event>,
    ) -> anyhow::Result<Self>
    where
        P: Port + Send + 'static,
        M: Memory + Counting + Send + 'static,
    {
        let (listener, waker) = io::pipe().context("no pipe to wake workers by")?;
        let mut workers = Self {
            status: Vec::new(),
            threads: Vec::new(),
            stop: Arc::default(),
            waker: Some(waker),
        };
        for (number, config) in configs.into_iter().enumerate() {
            let queues = &config.queues;
            for Queue { number, port, .. } in queues {
                let total = port.accounting().total;
                ensure!(
                    total <= FRAMES_MAX,
                    "queue {number} has {total} frames; at most {FRAMES_MAX} can be accounted for"
                );
            }
            let rows = queues
                .iter()
                .map(|queue| QueueStatus::new(queue.number, queue.port.accounting()));
            let start = Start {
                number,
                status: Arc::new(WorkerStatus::new(rows.collect())),
                stop: Arc::clone(&workers.stop),
                listener: listener.try_clone().context("no pipe to wake workers by")?,
                events: events.clone(),
            };
            workers.status.push(Arc::clone(&start.status));
            let thread = thread::Builder::new()
                .name(format!("pen-worker-{number}"))
                .spawn(move || start.run(config))
                .with_context(|| format!("no thread for worker {number}"))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// What they are doing.
    pub fn report(&self) -> Vec<WorkerReport> {
        self.status.iter().map(|worker| worker.report()).collect()
    }

    /// Where they are in their passes. Taken after a publication, it tells by
    /// [`Epochs::passed`] when no worker uses what stood there before.
    pub fn epochs(&self) -> Epochs {
        self.watcher().epochs()
    }

    /// For a thread of its own that waits for them.
    pub fn watcher(&self) -> Watcher {
        Watcher(self.status.clone())
    }

    /// Lets every worker forward what it has, waits for what was sent, and closes the ports.
    /// Take the sockets out of the program's map before.
    pub fn stop(mut self) -> Vec<WorkerReport> {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic; its queues were left to the program");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sees the workers' passes, and nothing else of them.
pub struct Watcher(Vec<Arc<WorkerStatus>>);

impl Watcher {
    /// As [`Workers::epochs`].
    pub fn epochs(&self) -> Epochs {
        fence(Ordering::SeqCst);
        Epochs(self.0.iter().map(|worker| worker.epoch()).collect())
    }
}

/// What a worker's thread begins with, its queues apart.
struct Start {
    number: usize,
    status: Arc<WorkerStatus>,
    stop: Arc<AtomicBool>,
    listener: PipeReader,
    events: Sender<Event>,
}

impl Start {
    fn run<P: Port, M: Memory + Counting>(self, config: WorkerConfig<P, M>) {
        let pinned = config
            .core
            .is_none_or(|id| core_affinity::set_for_current(CoreId { id }));
        self.status.set_pinned(pinned && config.core.is_some());
        let _ended = Ended {
            number: self.number,
            status: Arc::clone(&self.status),
            events: self.events.clone(),
        };
        Worker::new(
            config.queues,
            self.status,
            config.busy,
            (self.stop, self.listener.as_fd()),
            Events::new(self.events),
        )
        .run();
    }
}

/// Tells on every way out of a worker's thread, a panic too, that it serves no more.
struct Ended {
    number: usize,
    status: Arc<WorkerStatus>,
    events: Sender<Event>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.status.park();
        let worker = self.number;
        // A full channel has worse news in it already.
        let _ = self.events.try_send(Event::Ended { worker });
    }
}
