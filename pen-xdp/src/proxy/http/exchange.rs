//! A request over a connection to a server, and its answer. Both pass at the same time: a server may
//! answer before it has the whole request.
//!
//! As in a relay, what can be done is tried first and waited for second, so that a small request and
//! its answer are two reads, two writes and two wake-ups.

use std::future::{pending, poll_fn};
use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use pen_common::control::{Ended, Refused};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::chunks::Sender;
use super::client::Client;
use super::head::{self, Answer, Framing, HEAD_MAX, Search};
use super::headers::{self, Given};
use super::pending::Got;
use super::pool::{self, Link};
use super::transfer::{Body, Break, Coding, Rest, Trailing, Transfer, Way};
use crate::proxy::buffers::SIZE;
use crate::proxy::relay::Counts;
use crate::proxy::service::Visit;
use crate::proxy::stream::Stream;

/// Tells a client that its body is wanted (RFC 9110, 10.1.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Most answers on the way to the answer.
const INTERIM_MAX: u32 = 16;

/// What is to be known of a request once its head is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// Of HTTP/1.
    pub(super) minor: u8,
    /// Whether the answer has no body, whatever its head says.
    pub(super) head_alone: bool,
    /// Whether the client wants the connection to last.
    pub(super) keep: bool,
    pub(super) framing: Framing,
    /// Whether the client waits to be told that its body is wanted.
    pub(super) waits: bool,
    /// Whether it takes trailers.
    pub(super) trailers: bool,
    /// Whether it asks for another protocol.
    pub(super) switches: bool,
    /// Whether doing it twice is as good as once, and it can be said twice.
    pub(super) repeatable: bool,
    /// Whether the client's word counts for where the request comes from.
    pub(super) trusted: bool,
}

/// How an exchange ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The answer is given. Whether the client's connection can go on.
    Given { keep: bool },
    /// There is none. Whether the request can be sent once more, over a new connection; whether all
    /// of it was read.
    Unanswered {
        why: Refused,
        again: bool,
        read: bool,
    },
    /// An answer began and broke off.
    Broken(Ended),
    /// The client is gone.
    Left,
    /// Both sides agreed on another protocol.
    Switched(Link),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Exchange<'a, 'c> {
    client: &'a mut Client<'c>,
    visit: &'a mut Visit,
    facts: Facts,
    /// Until the server is not needed any more.
    link: Option<Link>,
    up: Transfer,
    /// The server takes no more of the request.
    stopped: bool,
    /// Since the answer has begun.
    down: Option<Transfer>,
    search: Search,
    /// Whether a part of the answer's head has come.
    partial: bool,
    /// Answers on the way to the answer.
    interim: u32,
    /// Whether the client is worth watching for errors while it is not read.
    watches: bool,
    /// Whether the connections can go on after it.
    keep: [bool; 2],
    /// When a byte last passed.
    last: Instant,
    moved: bool,
}

impl<'a, 'c> Exchange<'a, 'c> {
    /// Of a request with this head, which wants only its empty line.
    pub(super) fn new(
        client: &'a mut Client<'c>,
        visit: &'a mut Visit,
        (facts, head): (Facts, &[u8]),
        mut link: Link,
    ) -> Self {
        link.outbox.push(head);
        link.outbox.push(b"\r\n");
        let body = Body::of(facts.framing, Sender::Client);
        let coding = match facts.framing {
            Framing::Length(_) => Coding::Plain,
            Framing::Chunked => Coding::Chunked,
        };
        let trailing = match facts.trusted {
            true => Trailing::All,
            false => Trailing::Unclaimed,
        };
        let up = Transfer::new(body, coding, trailing);
        if facts.waits && !up.is_read() && client.inbox.is_empty() {
            client.outbox.push(CONTINUE);
        }
        Self {
            client,
            visit,
            facts,
            link: Some(link),
            up,
            stopped: false,
            down: None,
            search: Search::default(),
            partial: false,
            interim: 0,
            watches: true,
            keep: [facts.keep, false],
            last: Instant::now(),
            moved: false,
        }
    }

    /// Until it is over.
    pub(super) async fn run(mut self) -> Outcome {
        loop {
            if let ControlFlow::Break(outcome) = self.pass() {
                return outcome;
            }
            if std::mem::take(&mut self.moved) {
                self.last = Instant::now();
            }
            let down = self.down.as_ref().map_or(Rest::Empty, Transfer::rest);
            let up_shares = !self.stopped && self.up.rest() == Rest::Share;
            if up_shares || down == Rest::Share {
                yield_now().await;
            } else if let Some(outcome) = self.wait(down).await {
                return outcome;
            }
        }
    }

    /// Passes what can be passed both ways.
    fn pass(&mut self) -> ControlFlow<Outcome> {
        if !self.stopped && self.up.rest() != Rest::Whole {
            self.pass_up()?;
        }
        if self.down.is_none() {
            if let Err(error) = self.client.flush() {
                tracing::trace!("a client is gone: {error}");
                return ControlFlow::Break(Outcome::Left);
            }
            self.await_answer()?;
        }
        self.pass_down()?;
        if self.is_asked_no_more() {
            // The next request may come meanwhile. Who leaves takes no answer.
            match self.client.read(SIZE) {
                Ok(Got::Bytes(_) | Got::Nothing) => {}
                Ok(Got::End) | Err(_) => return ControlFlow::Break(Outcome::Left),
            }
        }
        ControlFlow::Continue(())
    }

    fn pass_up(&mut self) -> ControlFlow<Outcome> {
        let Some(link) = &mut self.link else {
            return ControlFlow::Continue(());
        };
        let mut way = Way {
            source: self.client.stream,
            inbox: &mut self.client.inbox,
            destination: &link.stream,
            outbox: &mut link.outbox,
            received: 0,
            sent: 0,
        };
        let passed = self.up.advance(&mut way);
        let (received, sent) = (way.received, way.sent);
        link.counts().up.fetch_add(sent as u64, Ordering::Relaxed);
        self.moved |= received + sent > 0;
        self.client.received(received);
        if let Some(own) = own(self.visit) {
            own.up.store(self.up.passed(), Ordering::Relaxed);
        }
        match passed {
            Ok(_) => {}
            Err(Break::Source(error)) => {
                tracing::trace!("a client left within its request: {error}");
                return ControlFlow::Break(Outcome::Left);
            }
            Err(Break::Destination(error)) => {
                // It may have said why before it stopped.
                tracing::debug!("a server takes no more of a request: {error}");
                self.stopped = true;
                self.keep = [self.keep[0] && self.up.is_read(), false];
            }
            Err(Break::Fault(fault)) => {
                tracing::debug!("a request is refused: {fault:?}");
                return ControlFlow::Break(match self.down {
                    None => self.unanswered(Refused::BadRequest, false),
                    Some(_) => {
                        self.visit.refused(Refused::BadRequest);
                        Outcome::Broken(Ended::Client)
                    }
                });
            }
        }
        ControlFlow::Continue(())
    }

    /// Reads until the head of the answer is whole.
    fn await_answer(&mut self) -> ControlFlow<Outcome> {
        loop {
            self.look_at_answer()?;
            let Some(link) = self.link.as_mut().filter(|_| self.down.is_none()) else {
                return ControlFlow::Continue(());
            };
            let error = match link.inbox.read(&link.stream, HEAD_MAX) {
                Ok(Got::Bytes(count)) => {
                    self.moved = true;
                    let down = &link.counts().down;
                    down.fetch_add(count as u64, Ordering::Relaxed);
                    continue;
                }
                Ok(Got::Nothing) => return ControlFlow::Continue(()),
                Ok(Got::End) => io::ErrorKind::UnexpectedEof.into(),
                Err(error) => error,
            };
            let (name, silent) = (&link.point().name, link.inbox.is_empty());
            tracing::debug!("no answer from server {name}: {error}");
            let again = link.used && silent && self.facts.repeatable;
            return ControlFlow::Break(self.unanswered(Refused::BadAnswer, again));
        }
    }

    /// Begins the answer if its head is here.
    fn look_at_answer(&mut self) -> ControlFlow<Outcome> {
        while let Some(link) = &mut self.link {
            let bytes = link.inbox.bytes();
            if bytes.is_empty() {
                break;
            }
            if self.partial && !self.search.finds_end(bytes) {
                if bytes.len() >= HEAD_MAX {
                    return ControlFlow::Break(self.unanswered(Refused::BadAnswer, false));
                }
                break;
            }
            let mut room = head::room();
            let answer = match head::answer(bytes, &mut room) {
                Ok(Some(answer)) => answer,
                Ok(None) if !self.partial => {
                    self.partial = true;
                    continue;
                }
                Ok(None) | Err(_) => {
                    return ControlFlow::Break(self.unanswered(Refused::BadAnswer, false));
                }
            };
            let (length, status) = (answer.length, answer.status);
            if (100..200).contains(&status) && status != 101 && self.interim < INTERIM_MAX {
                // Who waited for that was told.
                self.interim += 1;
                link.inbox.consume(length);
                (self.search, self.partial) = (Search::default(), false);
                continue;
            }
            let switches = status == 101;
            // What is left of a request would be taken for the other protocol.
            let agreed = self.facts.switches && self.up.rest() == Rest::Whole;
            if (100..200).contains(&status) && !(switches && agreed) {
                return ControlFlow::Break(self.unanswered(Refused::BadAnswer, false));
            }
            let (body, coding) = passage(&answer, &self.facts);
            let measured = matches!(body, Body::Length(_)) || coding == Coding::Chunked;
            let lasts = answer.wish.keeps(answer.minor) && !matches!(body, Body::UntilEnd);
            // Where its next request begins is not known before all of this one is read.
            let client_lasts = self.keep[0] && measured && self.up.is_read();
            self.keep = [client_lasts, lasts && !self.stopped];
            let given = Given {
                minor: self.facts.minor,
                coding,
                keep: self.keep[0],
                switches,
                hsts: self.client.hsts(&self.visit.settings),
            };
            let head = headers::write_answer(&answer, given);
            link.inbox.consume(length);
            self.client.outbox.push(&head);
            if let Some(line) = &mut self.visit.line {
                line.answered(status);
            }
            if switches && let Some(link) = self.link.take() {
                return ControlFlow::Break(Outcome::Switched(link));
            }
            let trailing = match self.facts.trailers {
                true => Trailing::All,
                false => Trailing::Nothing,
            };
            self.down = Some(Transfer::new(body, coding, trailing));
            break;
        }
        ControlFlow::Continue(())
    }

    fn pass_down(&mut self) -> ControlFlow<Outcome> {
        let Some(down) = &mut self.down else {
            return ControlFlow::Continue(());
        };
        let mut broken = None;
        if let Some(link) = &mut self.link
            && !down.is_read()
        {
            let mut way = Way {
                source: &link.stream,
                inbox: &mut link.inbox,
                destination: self.client.stream,
                outbox: &mut self.client.outbox,
                received: 0,
                sent: 0,
            };
            // Of a short one all is here: then the server is free before the client has it.
            let taken = down.take(way.inbox, way.outbox).map_err(Break::Fault);
            broken = match taken {
                Ok(_) if !down.is_read() => down.advance(&mut way).err(),
                Ok(_) => None,
                Err(error) => Some(error),
            };
            let (received, sent) = (way.received, way.sent);
            let counted = &link.counts().down;
            counted.fetch_add(received as u64, Ordering::Relaxed);
            self.moved |= received + sent > 0;
            self.client.sent(sent);
        }
        if let Some(own) = own(self.visit) {
            own.down.store(down.passed(), Ordering::Relaxed);
        }
        match broken {
            None => {}
            Some(Break::Destination(_)) => return ControlFlow::Break(Outcome::Left),
            Some(why @ (Break::Source(_) | Break::Fault(_))) => {
                tracing::debug!("an answer breaks off: {why:?}");
                return ControlFlow::Break(Outcome::Broken(Ended::Server));
            }
        }
        match down.is_read() {
            true => self.finish(),
            false => ControlFlow::Continue(()),
        }
    }

    /// The whole answer is here: the server is done, and the client gets the rest of it.
    fn finish(&mut self) -> ControlFlow<Outcome> {
        let whole = self.up.rest() == Rest::Whole;
        if whole && let Some(link) = self.link.take() {
            self.visit.leave();
            match self.keep[1] {
                true => pool::keep(link),
                false => link.dismiss(),
            }
        }
        let before = self.client.outbox.len();
        let flushed = match self.keep[0] {
            true => self.client.flush(),
            false => self.client.flush_last(),
        };
        self.moved |= self.client.outbox.len() < before;
        match flushed {
            Ok(false) => ControlFlow::Continue(()),
            Ok(true) => ControlFlow::Break(Outcome::Given { keep: self.keep[0] }),
            Err(_) => ControlFlow::Break(Outcome::Left),
        }
    }

    fn unanswered(&self, why: Refused, again: bool) -> Outcome {
        let read = self.up.is_read();
        Outcome::Unanswered { why, again, read }
    }

    /// Whether nothing of the client is read for this request any more, and there is room for the
    /// next one.
    fn is_asked_no_more(&self) -> bool {
        (self.stopped || self.up.rest() == Rest::Whole) && self.client.inbox.len() < SIZE
    }

    /// Waits until something can be passed.
    async fn wait(&mut self, down: Rest) -> Option<Outcome> {
        let idle = self.visit.settings.relay.idle;
        let due = idle.map(|idle| self.last + idle);
        let mut lost = pin!(lost(self.client.stream, self.watches && self.is_unread()));
        let woken = poll_fn(|context| {
            // All are polled, so that all can wake.
            let up = self.poll_up(context);
            let down = self.poll_down(down, context);
            if up.is_ready() || down.is_ready() {
                return Poll::Ready(Woken::Ready);
            }
            if lost.as_mut().poll(context).is_ready() {
                return Poll::Ready(Woken::Lost);
            }
            let late = self.client.alarm.poll(due, context);
            late.map(|()| Woken::Late)
        })
        .await;
        match (woken, &self.down) {
            (Woken::Ready, _) => None,
            // Asking again for an error that was told already would be a loop.
            (Woken::Lost, _) => match self.client.stream.take_error() {
                Ok(None) => {
                    self.watches = false;
                    None
                }
                Ok(Some(_)) | Err(_) => Some(Outcome::Left),
            },
            (Woken::Late, Some(_)) => Some(Outcome::Broken(Ended::Idle)),
            (Woken::Late, None) => Some(self.unanswered(self.who_is_late(), false)),
        }
    }

    /// Whether nothing is read from the client at the moment, so that nobody would see it go.
    fn is_unread(&self) -> bool {
        let reads = !self.stopped && self.up.rest() == Rest::Empty;
        !reads && !self.is_asked_no_more()
    }

    fn who_is_late(&self) -> Refused {
        match !self.stopped && self.up.rest() == Rest::Empty {
            true => Refused::SlowBody,
            false => Refused::TooLate,
        }
    }

    /// Ready when more of the request can pass, or the client has something to say. Errors are
    /// readiness: the next try tells them.
    fn poll_up(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_asked_no_more() {
            return self.client.stream.poll_readable(context).map(drop);
        }
        match (self.up.rest(), &self.link) {
            _ if self.stopped => Poll::Pending,
            (Rest::Empty, _) => self.client.stream.poll_readable(context).map(drop),
            (Rest::Full, Some(link)) => link.stream.poll_writable(context).map(drop),
            (Rest::Full, None) | (Rest::Whole, _) => Poll::Pending,
            (Rest::Share, _) => Poll::Ready(()),
        }
    }

    fn poll_down(&self, rest: Rest, context: &mut Context<'_>) -> Poll<()> {
        let is_read = self.down.as_ref().is_some_and(Transfer::is_read);
        let full = is_read || rest == Rest::Full;
        // What the client was told before waits, too.
        let told = self.down.is_none() && !self.client.outbox.is_empty();
        let writable = match full || told {
            true => self.client.stream.poll_writable(context).map(drop),
            false => Poll::Pending,
        };
        let readable = match &self.link {
            Some(link) if !full => link.stream.poll_readable(context).map(drop),
            Some(_) | None => Poll::Pending,
        };
        match writable.is_ready() || readable.is_ready() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// What a wait ended with.
enum Woken {
    Ready,
    Lost,
    Late,
}

/// Waits until a connection is broken, if it is `watched`.
async fn lost(stream: &Stream, watched: bool) {
    if !watched {
        pending::<()>().await;
    }
    // An error here means that the runtime ends, and this task with it.
    let _ = stream.broken().await;
}

/// How the body of an answer comes, and how it goes on.
fn passage(answer: &Answer<'_, '_>, facts: &Facts) -> (Body, Coding) {
    // RFC 9112, 6.3.
    if facts.head_alone || matches!(answer.status, 101 | 204 | 304) {
        return (Body::Length(0), Coding::Plain);
    }
    // Others than the newest know no chunks: for them the end of the connection is the body's.
    let unmeasured = match facts.minor {
        1 => Coding::Chunked,
        _ => Coding::Plain,
    };
    match answer.framing {
        Some(framing @ Framing::Length(_)) => (Body::of(framing, Sender::Server), Coding::Plain),
        Some(framing) => (Body::of(framing, Sender::Server), unmeasured),
        None => (Body::UntilEnd, unmeasured),
    }
}

/// Where the log counts its bytes; nobody else counts there.
fn own(visit: &Visit) -> Option<&Counts> {
    visit.line.as_ref().map(|line| &**line.counts())
}
