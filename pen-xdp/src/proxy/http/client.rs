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
use crate::proxy::service::{Service, Settings};
use crate::proxy::session::Visitor;
use crate::proxy::stream::Stream;

/// See the module.
#[derive(Debug)]
pub(super) struct Client<'a> {
    pub(super) stream: &'a Stream,
    pub(super) visitor: Visitor,
    pub(super) connection: &'a Arc<Connection>,
    /// The host that it named in the handshake, over TLS.
    name: Option<String>,
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
            name: stream.server_name(),
            inbox: Pending::default(),
            outbox: Pending::default(),
            alarm: Alarm::default(),
        }
    }

    pub(super) fn service(&self) -> &'a Arc<Service> {
        &self.connection.service
    }

    /// `http` or `https`.
    pub(super) fn scheme(&self) -> &'static str {
        match self.stream.is_tls() {
            true => "https",
            false => "http",
        }
    }

    /// What its answers say of HTTPS: over clear HTTP nobody could believe it (RFC 6797, 7.2).
    pub(super) fn hsts<'s>(&self, settings: &'s Settings) -> Option<&'s str> {
        settings.hsts.as_deref().filter(|_| self.stream.is_tls())
    }

    /// Whether a request for this host, `HOST[:PORT]`, belongs to another connection: who named a
    /// host in the handshake was shown that one's certificate (RFC 9110, 15.5.20).
    pub(super) fn is_for_another(&self, host: &[u8]) -> bool {
        (self.name.as_ref()).is_some_and(|name| !is_host(host, name.as_bytes()))
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

    /// As [`Client::flush`], where the end of the connection follows at once.
    ///
    /// # Errors
    /// As there.
    pub(super) fn flush_last(&mut self) -> io::Result<bool> {
        let sent = self.outbox.write_last(self.stream)?;
        self.sent(sent);
        Ok(self.outbox.is_empty())
    }

    /// Writes all that waits. A client that takes nothing for so long is given up.
    ///
    /// # Errors
    /// What broke the connection, or `TimedOut`.
    pub(super) async fn write_all(&mut self, idle: Option<Duration>) -> io::Result<()> {
        let before = self.outbox.len();
        let written = write_all(self.stream, &mut self.outbox, &mut self.alarm, idle).await;
        self.sent(before - self.outbox.len());
        written
    }
}

/// Writes all that waits. Who takes nothing for so long is given up.
///
/// # Errors
/// What broke the connection, or `TimedOut`.
pub(super) async fn write_all(
    stream: &Stream,
    outbox: &mut Pending,
    alarm: &mut Alarm,
    idle: Option<Duration>,
) -> io::Result<()> {
    let mut due = idle.map(|idle| Instant::now() + idle);
    loop {
        let sent = outbox.write(stream)?;
        if outbox.is_empty() {
            return Ok(());
        }
        if sent > 0 {
            due = idle.map(|idle| Instant::now() + idle);
        }
        poll_fn(|context| match stream.poll_writable(context) {
            Poll::Ready(ready) => Poll::Ready(ready),
            Poll::Pending => {
                let late = alarm.poll(due, context);
                late.map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        })
        .await?;
    }
}

/// Whether `said`, with a port or without, is this host.
fn is_host(said: &[u8], name: &[u8]) -> bool {
    let said = match said.iter().rposition(|byte| *byte == b':') {
        Some(at) if !said.ends_with(b"]") => &said[..at],
        Some(_) | None => said,
    };
    said.strip_suffix(b".")
        .unwrap_or(said)
        .eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_same_with_a_port_and_in_any_spelling() {
        for (said, same) in [
            ("a.example", true),
            ("A.Example:8443", true),
            ("a.example.", true),
            ("a.example.:", true),
            ("b.example", false),
            ("a.example.b", false),
            ("xa.example", false),
            ("[::1]", false),
            ("", false),
        ] {
            assert_eq!(is_host(said.as_bytes(), b"a.example"), same, "{said}");
        }
    }
}
