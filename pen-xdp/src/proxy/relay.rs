//! Passes bytes between a client and a server until the connection is over.
//!
//! One task does both directions: it tries first and waits second, for both sides at once, so that
//! a request and its response are two reads, two writes and two wake-ups. It has one timer, which
//! is set again only when it fires.

use std::{
    fmt,
    future::{Future, pending, poll_fn},
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use pen_common::config::FastClose;
use tokio::{
    task::yield_now,
    time::{Instant, Sleep, sleep},
};

pub use super::direction::Side;
use super::{
    direction::{Direction, Failure, Rest},
    stream::Stream,
};

/// What a service asks of its connections.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time without a byte in either direction after which a connection is over.
    pub idle: Option<Duration>,
    /// Whose end of the stream ends the connection at once.
    pub fast_close: FastClose,
    /// Bytes in one direction without a pause from which on the kernel moves them by splice(2);
    /// `u64::MAX` is never.
    pub splice_after: u64,
}

/// Bytes passed; they grow while the connection lasts.
#[derive(Debug, Default)]
pub struct Counts {
    /// From the client to the server.
    pub up: AtomicU64,
    /// From the server to the client.
    pub down: AtomicU64,
}

/// Who keeps an account of one connection while it lasts.
pub trait Witness: fmt::Debug {
    /// Where its bytes are counted, beside those of the server. Nobody else counts there.
    fn counts(&self) -> &Counts;

    /// What a first look at the client's stream brought.
    fn heard(&self, first: &[u8]);
}

/// What one connection shows of itself while it lasts.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Its own bytes. Nobody else counts there.
    pub counts: &'a Counts,
    /// One side has ended its stream.
    pub half_closed: &'a AtomicBool,
}

/// Where a relay writes down what it does.
#[derive(Clone, Copy, Debug)]
pub struct Account<'a> {
    /// Bytes of the server, which has other connections too.
    pub server: &'a Counts,
    /// Of this connection, if anybody wants to know.
    pub own: Option<Progress<'a>>,
    /// Who writes a line about it.
    pub witness: Option<&'a dyn Witness>,
}

impl<'a> From<&'a Counts> for Account<'a> {
    fn from(server: &'a Counts) -> Self {
        Self {
            server,
            own: None,
            witness: None,
        }
    }
}

/// Why a connection is over.
#[derive(Debug)]
pub enum End {
    /// Both sides ended their streams, and all bytes are delivered.
    Closed,
    /// No byte came or went for the idle time.
    Idle,
    /// This side ended its stream, which is all that was waited for. Its bytes are delivered; those
    /// that the other side's way held back are not.
    FastClose(Side),
    /// A connection broke; a reset is one way.
    Failed {
        /// Whose.
        side: Side,
        /// What the kernel says.
        error: io::Error,
    },
}

/// Passes bytes both ways until the connection is over. Neither stream is closed; when the future
/// is dropped, buffers and pipes are given back.
///
/// The end of one stream is passed on when its bytes are delivered, and the other direction goes
/// on. After [`End::Closed`] both streams are to be dropped at once: where neither is encrypted
/// that is what passes the last end on, with the last bytes.
///
/// A client that is gone is seen even while nothing is read from it; what a server sent before it
/// broke still goes to the client.
pub async fn relay<'a>(
    client: &'a Stream,
    server: &'a Stream,
    options: &Options,
    account: impl Into<Account<'a>>,
) -> End {
    let account = account.into();
    let after = options.splice_after;
    let mut relay = Relay {
        client,
        server,
        up: Direction::new(Side::Client, [client, server], &account, after),
        down: Direction::new(Side::Server, [server, client], &account, after),
        account: &account,
        fast_close: options.fast_close,
        lost: None,
        watches: [true; 2],
        due: [true; 2],
    };
    let mut idle = options.idle.map(Idle::new);
    loop {
        if let Some(end) = relay.pass() {
            return end;
        }
        let moved = relay.up.has_moved() | relay.down.has_moved();
        if let Some(idle) = &mut idle
            && moved
        {
            idle.last = Instant::now();
        }
        if relay.has_more() {
            relay.due = [true; 2];
            yield_now().await;
            continue;
        }
        match relay.wait(&mut idle).await {
            Woken::Ready(due) => relay.due = due,
            Woken::Idle => return End::Idle,
            Woken::Broken(side) => {
                if let Some(end) = relay.broken(side) {
                    return end;
                }
            }
        }
    }
}

/// What a wait ended with.
enum Woken {
    Ready([bool; 2]),
    Idle,
    Broken(Side),
}

struct Relay<'a> {
    client: &'a Stream,
    server: &'a Stream,
    up: Direction<'a>,
    down: Direction<'a>,
    account: &'a Account<'a>,
    fast_close: FastClose,
    /// What broke the server's connection while its bytes are still on their way to the client.
    lost: Option<io::Error>,
    /// Whether client and server are worth watching for errors while they are not read.
    watches: [bool; 2],
    /// Whether there is something to do for what the client sends, and for what the server sends.
    due: [bool; 2],
}

impl Relay<'_> {
    /// Passes what can be passed both ways.
    fn pass(&mut self) -> Option<End> {
        for side in [Side::Client, Side::Server] {
            let is_last = self.is_last(side);
            let direction = match side {
                Side::Client => &mut self.up,
                Side::Server => &mut self.down,
            };
            if direction.rest() == Rest::Ended || !self.due[side as usize] {
                continue;
            }
            let passed = match direction.advance() {
                Ok(Rest::Ended) if closes_fast(self.fast_close, side) && self.lost.is_none() => {
                    // Its last bytes may have been told to wait for it. A connection that is
                    // broken already is over all the same.
                    let _ = direction.pass_end();
                    return Some(End::FastClose(side));
                }
                // A call of the kernel less for each connection.
                Ok(Rest::Ended) if is_last => Ok(()),
                Ok(Rest::Ended) => {
                    if let Some(own) = self.account.own {
                        own.half_closed.store(true, Relaxed);
                    }
                    direction.pass_end()
                }
                Ok(Rest::Empty | Rest::Full | Rest::Share) => Ok(()),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = passed
                && let Some(end) = self.failed(side, failure)
            {
                return Some(end);
            }
        }
        let over = self.up.rest() == Rest::Ended && self.down.rest() == Rest::Ended;
        over.then(|| match self.lost.take() {
            Some(error) => End::Failed {
                side: Side::Server,
                error,
            },
            None => End::Closed,
        })
    }

    /// Whether the end of what comes from this side is passed on by dropping both streams: nothing of
    /// the other side is left unread, which would make a reset of it, and nobody has to be told in
    /// words.
    fn is_last(&self, side: Side) -> bool {
        let other = match side {
            Side::Client => &self.down,
            Side::Server => &self.up,
        };
        let is_told = self.client.is_tls() || self.server.is_tls();
        other.rest() == Rest::Ended && self.lost.is_none() && !is_told
    }

    /// The end, unless the server takes nothing any more but may have sent something before.
    fn failed(&mut self, from: Side, failure: Failure) -> Option<End> {
        let Failure { side, error } = failure;
        if side == Side::Client {
            return Some(End::Failed { side, error });
        }
        let error = self.lost.take().unwrap_or(error);
        if from == Side::Server || self.down.rest() == Rest::Ended {
            return Some(End::Failed { side, error });
        }
        self.lost = Some(error);
        self.up.end();
        None
    }

    /// A side that is not read has an error.
    fn broken(&mut self, side: Side) -> Option<End> {
        let stream = match side {
            Side::Client => self.client,
            Side::Server => self.server,
        };
        match stream.take_error() {
            Ok(Some(error)) | Err(error) => Some(End::Failed { side, error }),
            Ok(None) => {
                // Someone was told already; asking again would be a loop.
                self.watches[side as usize] = false;
                None
            }
        }
    }

    fn has_more(&self) -> bool {
        self.up.rest() == Rest::Share || self.down.rest() == Rest::Share
    }

    async fn wait(&self, idle: &mut Option<Idle>) -> Woken {
        // A client that is gone takes no answer, so nothing is waited for. What a server sent
        // before it broke is still to be delivered, so that it is watched when all that is read.
        let client_unread = matches!(self.up.rest(), Rest::Full | Rest::Ended);
        let server_unread = self.down.rest() == Rest::Ended;
        let mut client = pin!(broken(self.client, client_unread && self.watches[0]));
        let mut server = pin!(broken(self.server, server_unread && self.watches[1]));
        poll_fn(|context| {
            // What is left of something that was said goes out whatever else is waited for; a
            // connection that can't be written is told to whoever writes.
            let _ = self.client.poll_flush(context);
            let _ = self.server.poll_flush(context);
            // All are polled, so that all can wake.
            let up = poll_direction(self.up.rest(), [self.client, self.server], context);
            let down = poll_direction(self.down.rest(), [self.server, self.client], context);
            let due = [up.is_ready(), down.is_ready()];
            if due != [false; 2] {
                return Poll::Ready(Woken::Ready(due));
            }
            if client.as_mut().poll(context).is_ready() {
                return Poll::Ready(Woken::Broken(Side::Client));
            }
            if server.as_mut().poll(context).is_ready() {
                return Poll::Ready(Woken::Broken(Side::Server));
            }
            match idle {
                Some(idle) => idle.poll(context).map(|()| Woken::Idle),
                None => Poll::Pending,
            }
        })
        .await
    }
}

/// Ready when a direction can go on. Errors are readiness: the next try tells them.
fn poll_direction(
    rest: Rest,
    [source, destination]: [&Stream; 2],
    context: &mut Context<'_>,
) -> Poll<()> {
    match rest {
        Rest::Empty => source.poll_readable(context).map(drop),
        Rest::Full => destination.poll_writable(context).map(drop),
        Rest::Share => Poll::Ready(()),
        Rest::Ended => Poll::Pending,
    }
}

async fn broken(stream: &Stream, watched: bool) {
    if !watched {
        pending::<()>().await;
    }
    // An error here means that the runtime ends, and this task with it.
    let _ = stream.broken().await;
}

fn closes_fast(fast_close: FastClose, side: Side) -> bool {
    match fast_close {
        FastClose::Off => false,
        FastClose::Up => side == Side::Server,
        FastClose::Down => side == Side::Client,
        FastClose::Both => true,
    }
}

/// The time without bytes. Bytes only move `last`; the timer is set again when it fires.
struct Idle {
    limit: Duration,
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            last: Instant::now(),
            timer: Box::pin(sleep(limit)),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(context).is_ready() {
            if self.last.elapsed() >= self.limit {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.last + self.limit);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
