//! The logs of all services: opened, opened again, closed.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use pen_common::config::LogTarget;

use super::ring::RECORDS;
use super::writer::{self, Orders};
use super::{Ring, Sink};
use crate::proxy::routes::Routes;

/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Between two looks whether they are written.
const LOOK: Duration = Duration::from_millis(5);

/// All logs; when this is dropped, what is in the ring is written.
#[derive(Debug)]
pub(in crate::proxy) struct Logs {
    ring: Arc<Ring>,
    orders: Arc<Orders>,
    /// There is none until a log is asked for.
    writer: Option<JoinHandle<()>>,
}

/// The logs of services, in the order of their routes.
#[derive(Debug)]
pub(in crate::proxy) struct Opened(pub(in crate::proxy) Vec<Option<Arc<Sink>>>);

impl Logs {
    pub(in crate::proxy) fn new() -> Self {
        Self {
            ring: Arc::new(Ring::new(RECORDS)),
            orders: Arc::default(),
            writer: None,
        }
    }

    pub(in crate::proxy) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Opens what `routes` ask for and is not open yet.
    ///
    /// # Errors
    /// Names the first one that can't be had, and what mends it. Logs that are open stay what they
    /// are.
    pub(in crate::proxy) fn open(&mut self, routes: &Routes) -> Result<Opened> {
        let mut opened = Vec::new();
        for route in routes.iter() {
            let sink = match &route.options.log {
                Some(target) => {
                    let sink = self.sink(target);
                    Some(sink.with_context(|| format!("service {:?}", route.service))?)
                }
                None => None,
            };
            opened.push(sink);
        }
        Ok(Opened(opened))
    }

    /// Has all files opened again, as their names may lead to others by now. Returns how many.
    pub(in crate::proxy) fn reopen(&self) -> usize {
        let sinks = self.orders.sinks();
        let count = sinks.iter().filter(|sink| sink.strong_count() > 0).count();
        drop(sinks);
        self.orders.reopen.store(true, Ordering::Release);
        self.wake();
        count
    }

    /// What ends from now on ends because Pen does.
    pub(in crate::proxy) fn close(&self) {
        self.ring.close();
    }

    fn sink(&mut self, target: &LogTarget) -> Result<Arc<Sink>> {
        let mut sinks = self.orders.sinks();
        sinks.retain(|sink| sink.strong_count() > 0);
        let known = sinks.iter().filter_map(Weak::upgrade);
        if let Some(sink) = known.into_iter().find(|sink| sink.target() == target) {
            return Ok(sink);
        }
        let sink = Sink::open(target.clone()).map_err(|error| {
            let mends = [
                (ErrorKind::NotFound, "; make its directory first"),
                (
                    ErrorKind::PermissionDenied,
                    "; Pen must be allowed to write there",
                ),
                (ErrorKind::IsADirectory, "; name a file in it"),
            ];
            let mend = mends.iter().find(|(kind, _)| *kind == error.kind());
            let mend = mend.map_or("", |(_, mend)| mend);
            anyhow!("can't open log {target}: {error}{mend}")
        })?;
        let sink = Arc::new(sink);
        sinks.push(Arc::downgrade(&sink));
        drop(sinks);
        if self.writer.is_none() {
            let (ring, orders) = (Arc::clone(&self.ring), Arc::clone(&self.orders));
            let writer = thread::Builder::new()
                .name("pen-log".to_owned())
                .spawn(move || writer::run(&ring, &orders))
                .context("no thread for the log")?;
            self.ring.wakes(writer.thread().clone());
            self.writer = Some(writer);
        }
        Ok(sink)
    }

    fn wake(&self) {
        if let Some(writer) = &self.writer {
            writer.thread().unpark();
        }
    }
}

impl Drop for Logs {
    /// A disk that hangs does not keep Pen from stopping.
    fn drop(&mut self) {
        self.orders.stop.store(true, Ordering::Release);
        self.wake();
        let Some(writer) = self.writer.take() else {
            return;
        };
        let end = Instant::now() + LAST_LINES;
        while !writer.is_finished() && Instant::now() < end {
            thread::sleep(LOOK);
        }
        if !writer.is_finished() {
            tracing::error!("the last lines of the log could not be written in time");
        } else if writer.join().is_err() {
            tracing::error!("the log's thread has ended before its time");
        }
        let dropped = self.ring.dropped();
        if dropped > 0 {
            tracing::warn!("{dropped} lines of the log came faster than they could be written");
        }
    }
}
