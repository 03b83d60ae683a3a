//! The access log: one line for each connection, flow or request that is over.
//!
//! Whoever serves a client puts a record into a ring and goes on; one thread for all services makes
//! lines of them and writes these. A ring that is full takes no more, and what it did not take is
//! counted: a slow disk costs lines and never clients.

mod current;
mod format;
mod line;
mod open;
mod record;
mod ring;
mod sink;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pen_common::config::{LogFormat, LogTarget};

pub(super) use current::Current;
pub(crate) use format::plain_time;
pub(super) use line::{Line, Requested, ended};
pub(super) use open::Logs;
pub(super) use open::Opened;
use record::{At, Http, Record, ServedBy};
use ring::{Entry, Ring};
use sink::Sink;

/// Where the lines of one service go, and how they are written.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) service: Arc<str>,
    pub(super) format: LogFormat,
    pub(super) sink: Arc<Sink>,
    pub(super) ring: Arc<Ring>,
    pub(super) counts: Arc<LineCounts>,
}

/// What became of a service's lines.
#[derive(Debug, Default)]
pub(super) struct LineCounts {
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl Log {
    /// Whether lines go to penlogd, which wants them while the server is still at work: it waits
    /// for the server's own line, and puts the client's address into that.
    pub(super) fn is_early(&self) -> bool {
        self.format == LogFormat::Pen && matches!(self.sink.target(), LogTarget::Datagrams(_))
    }
}

impl LineCounts {
    /// Written, dropped for want of room, failed to be written.
    pub(super) fn read(&self) -> [u64; 3] {
        [&self.written, &self.dropped, &self.failed].map(|count| count.load(Ordering::Relaxed))
    }

    fn wrote(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}
