//! hyper's view of our streams, and its clock.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Read, ReadBufCursor, Sleep, Timer, Write};
use tokio::time::sleep;

use super::guard::{Guard, HEAD_MAX, Step};
use crate::proxy::buffers::Buffer;
use crate::proxy::connections::Connection;
use crate::proxy::relay::Counts;
use crate::proxy::service::now_ms;
use crate::proxy::stream::Stream;

/// What makes hyper refuse whatever part of a request it waits for.
const NONSENSE: &[u8] = b"\0\r\n\r\n";

/// Bytes that a connection keeps room for while it is idle: most heads fit.
const HELD_KEPT: usize = 2048;

/// What a client's connection and the tasks of its requests tell each other.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// Another protocol was agreed on: bytes are no requests any more.
    pub(super) switched: AtomicBool,
    /// A part of a head has come, and its end has not.
    pub(super) in_head: AtomicBool,
    /// What was sent is no clear request.
    pub(super) refused: AtomicBool,
    /// An answer broke off, and the client must not take it for a whole one.
    pub(super) broken: AtomicBool,
}

/// A client's connection, behind its guard.
#[derive(Debug)]
pub(super) struct ClientIo {
    /// Where its bytes are counted.
    connection: Arc<Connection>,
    pub(super) stream: Arc<Stream>,
    pub(super) signs: Arc<Signs>,
    guard: Guard,
    /// Bytes that were read and wait for more, or for a reader that takes them.
    held: Vec<u8>,
    /// How many of them go on in any case.
    cleared: usize,
    /// Nothing goes on any more.
    over: bool,
    /// How long a client may take no byte of an answer.
    idle: Option<Duration>,
    /// Runs while it takes none.
    stalled: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// A connection to a server; what goes over it is counted.
#[derive(Debug)]
pub(super) struct ServerIo {
    pub(super) stream: Arc<Stream>,
    counts: Arc<Counts>,
    last: Arc<Last>,
}

/// When a byte last went over a connection, on the clock of [`now_ms`].
#[derive(Debug)]
pub(super) struct Last(AtomicU64);

/// hyper's clock is that of the event loop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock;

#[derive(Debug)]
struct Alarm(Pin<Box<tokio::time::Sleep>>);

impl ClientIo {
    pub(super) fn new(
        connection: Arc<Connection>,
        stream: Arc<Stream>,
        signs: Arc<Signs>,
        idle: Option<Duration>,
    ) -> Self {
        Self {
            connection,
            stream,
            signs,
            guard: Guard::new(),
            held: Vec::new(),
            cleared: 0,
            over: false,
            idle,
            stalled: None,
        }
    }

    /// Bytes of another protocol that came with the last request.
    pub(super) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Shows the guard what is held, until it wants to see more.
    fn look(&mut self) {
        while self.cleared < self.held.len() && !self.over {
            if self.signs.switched.load(Ordering::Relaxed) {
                self.cleared = self.held.len();
                return;
            }
            match self.guard.look(&self.held[self.cleared..]) {
                Step::Pass(count) => self.cleared += count,
                Step::Hold => break,
                Step::TooLong => {
                    // hyper says so itself when it has as much as it may have and no end. It would
                    // take more at once, and with the end in it a head that nobody looked at.
                    self.held.truncate(self.cleared + HEAD_MAX);
                    self.cleared = self.held.len();
                    self.over = true;
                }
                Step::Refuse(fault) => {
                    tracing::debug!("a request is refused: {fault:?}");
                    self.signs.refused.store(true, Ordering::Relaxed);
                    self.held.truncate(self.cleared);
                    self.held.extend_from_slice(NONSENSE);
                    self.cleared = self.held.len();
                    self.over = true;
                }
            }
        }
        let begun = self.cleared < self.held.len() && self.guard.expects_head();
        self.signs.in_head.store(begun, Ordering::Relaxed);
    }
}

impl Read for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            this.look();
            if this.cleared > 0 {
                let count = this.cleared.min(into.remaining());
                into.put_slice(&this.held[..count]);
                this.held.drain(..count);
                this.cleared -= count;
                if this.held.is_empty() && this.held.capacity() > HELD_KEPT {
                    this.held = Vec::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.over {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = Buffer::take();
            let read = ready!(poll_read(&this.stream, context, &mut buffer))?;
            if read == 0 {
                return Poll::Ready(Ok(()));
            }
            let up = &this.connection.counts.up;
            up.fetch_add(read as u64, Ordering::Relaxed);
            this.held.extend_from_slice(&buffer[..read]);
        }
    }
}

impl Write for ClientIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Poll::Ready(written) = poll_write(&this.stream, context, bytes) {
            this.stalled = None;
            let down = &this.connection.counts.down;
            down.fetch_add(*written.as_ref().unwrap_or(&0) as u64, Ordering::Relaxed);
            return Poll::Ready(written);
        }
        let Some(idle) = this.idle else {
            return Poll::Pending;
        };
        let stalled = this.stalled.get_or_insert_with(|| Box::pin(sleep(idle)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(Shutdown::Write))
    }
}

impl ServerIo {
    pub(super) fn new(stream: Stream, counts: Arc<Counts>, last: Arc<Last>) -> Self {
        Self {
            stream: Arc::new(stream),
            counts,
            last,
        }
    }
}

impl Read for ServerIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = Buffer::take();
        let room = into.remaining().min(buffer.len());
        let read = ready!(poll_read(&self.stream, context, &mut buffer[..room]))?;
        into.put_slice(&buffer[..read]);
        self.counts.down.fetch_add(read as u64, Ordering::Relaxed);
        self.last.touch();
        Poll::Ready(Ok(()))
    }
}

impl Write for ServerIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = ready!(poll_write(&self.stream, context, bytes))?;
        self.counts.up.fetch_add(sent as u64, Ordering::Relaxed);
        self.last.touch();
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.shutdown(Shutdown::Write))
    }
}

impl Last {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(now_ms()))
    }

    /// How much of `limit` is left since the last byte; `None` if nothing is.
    pub(super) fn left(&self, limit: Duration) -> Option<Duration> {
        let since = now_ms().saturating_sub(self.0.load(Ordering::Relaxed));
        let left = limit.checked_sub(Duration::from_millis(since));
        left.filter(|left| !left.is_zero())
    }

    pub(super) fn touch(&self) {
        self.0.store(now_ms(), Ordering::Relaxed);
    }
}

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Alarm(Box::pin(sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Alarm(Box::pin(tokio::time::sleep_until(deadline.into()))))
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}

impl Sleep for Alarm {}

fn poll_read(
    stream: &Stream,
    context: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        match stream.try_read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ready!(stream.poll_readable(context))?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return Poll::Ready(result),
        }
    }
}

fn poll_write(stream: &Stream, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        match stream.try_write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ready!(stream.poll_writable(context))?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return Poll::Ready(result),
        }
    }
}
