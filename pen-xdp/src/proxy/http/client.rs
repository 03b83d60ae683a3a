//! A client's connection, between requests and within them.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::alarm::Alarm;
use super::pending::{Got, Pending};
use crate::proxy::connections::Connection;
use crate::proxy::service::Service;
use crate::proxy::session::Visitor;
use crate::proxy::stream::Stream;

/// See the module.
#[derive(Debug)]
pub(super) struct Client<'a> {
    pub(super) stream: &'a Stream,
    pub(super) visitor: Visitor,
    pub(super) connection: &'a Arc<Connection>,
    /// What it sent and nobody took yet.
    pub(super) inbox: Pending,
    /// What it is to get first.
    pub(super) outbox: Pending,
    pub(super) alarm: Alarm,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        stream: &'a Stream,
        visitor: Visitor,
        connection: &'a Arc<Connection>,
    ) -> Self {
        Self {
            stream,
            visitor,
            connection,
            inbox: Pending::default(),
            outbox: Pending::default(),
            alarm: Alarm::default(),
        }
    }

    pub(super) fn service(&self) -> &'a Arc<Service> {
        &self.connection.service
    }

    /// Reads what is there, until `most` bytes are held.
    ///
    /// # Errors
    /// What broke the connection.
    pub(super) fn read(&mut self, most: usize) -> io::Result<Got> {
        let got = self.inbox.read(self.stream, most)?;
        if let Got::Bytes(count) = got {
            self.received(count);
        }
        Ok(got)
    }

    /// So many bytes came from it.
    pub(super) fn received(&self, count: usize) {
        let up = &self.connection.counts.up;
        up.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// So many bytes went to it.
    pub(super) fn sent(&self, count: usize) {
        let down = &self.connection.counts.down;
        down.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Writes what waits; whether that is all of it.
    ///
    /// # Errors
    /// What broke the connection.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        let sent = self.outbox.write(self.stream)?;
        self.sent(sent);
        Ok(self.outbox.is_empty())
    }

    /// Writes all that waits. A client that takes nothing for so long is given up.
    ///
    /// # Errors
    /// What broke the connection, or `TimedOut`.
    pub(super) async fn write_all(&mut self, idle: Option<Duration>) -> io::Result<()> {
        let mut left = self.outbox.len();
        let mut since = Instant::now();
        while !self.flush()? {
            if self.outbox.len() < left {
                (left, since) = (self.outbox.len(), Instant::now());
            }
            let due = idle.map(|idle| since + idle);
            let (stream, alarm) = (self.stream, &mut self.alarm);
            poll_fn(|context| match stream.poll_writable(context) {
                Poll::Ready(ready) => Poll::Ready(ready),
                Poll::Pending => {
                    let late = alarm.poll(due, context);
                    late.map(|()| Err(io::ErrorKind::TimedOut.into()))
                }
            })
            .await?;
        }
        Ok(())
    }
}
