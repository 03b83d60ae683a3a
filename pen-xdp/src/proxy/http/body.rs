//! Bodies on their way, frame by frame; nothing is kept of them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use pen_common::control::Ended;
use tokio::time::{Sleep, sleep};

use super::headers;
use super::io::{Last, Signs};
use super::kept::Busy;
use super::pool::{self, Link};
use crate::proxy::connections::Underway;
use crate::proxy::relay::Counts;
use crate::proxy::service::Visit;

/// Of a request to a server or of an answer to a client.
#[derive(Debug)]
pub(super) struct Body {
    source: Source,
    idle: Option<Idle>,
    held: Option<Held>,
    /// Where a request's bytes are counted, if they are; an answer's are by its visit.
    counts: Option<Arc<Counts>>,
    /// Of an answer: while it is here the client's connection is not idle.
    _busy: Option<Busy>,
}

#[derive(Debug)]
enum Source {
    Text(Option<Bytes>),
    Relayed(Incoming),
    /// Its trailers say nothing of where it comes from: the client is not trusted with that.
    Doubted(Incoming),
}

/// What an answer holds until it is whole. If it never is, the connection is closed.
#[derive(Debug)]
pub(super) struct Held {
    /// The place at the server.
    pub(super) visit: Visit,
    /// That the request is not over.
    pub(super) underway: Underway,
    /// The connection that it comes over.
    pub(super) link: Link,
    /// Whom to tell that it broke off.
    pub(super) signs: Arc<Signs>,
}

/// How long a connection may be silent while it is waited for.
#[derive(Debug)]
pub(super) struct Idle {
    limit: Duration,
    last: Arc<Last>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Body {
    /// Words of our own.
    pub(super) fn text(text: String) -> Self {
        Self {
            source: Source::Text(Some(text.into())),
            idle: None,
            held: None,
            counts: None,
            _busy: None,
        }
    }

    /// Nothing.
    pub(super) fn empty() -> Self {
        Self {
            source: Source::Text(None),
            idle: None,
            held: None,
            counts: None,
            _busy: None,
        }
    }

    /// What a client sends, who may be trusted to say where it comes from; `counts` is of its bytes.
    pub(super) fn of_request(
        incoming: Incoming,
        trusted: bool,
        counts: Option<Arc<Counts>>,
    ) -> Self {
        Self {
            source: match trusted {
                true => Source::Relayed(incoming),
                false => Source::Doubted(incoming),
            },
            idle: None,
            held: None,
            counts,
            _busy: None,
        }
    }

    /// What a server sends.
    pub(super) fn of_answer(incoming: Incoming, idle: Option<Duration>, held: Held) -> Self {
        let last = Arc::clone(held.link.last());
        let mut body = Self {
            source: Source::Relayed(incoming),
            idle: idle.map(|limit| Idle {
                limit,
                last,
                timer: None,
            }),
            held: Some(held),
            counts: None,
            _busy: None,
        };
        body.end_if_whole();
        body
    }

    /// Makes the client's connection count as busy until this is dropped.
    pub(super) fn with(self, busy: Busy) -> Self {
        Self {
            _busy: Some(busy),
            ..self
        }
    }

    /// Gives back at once what is held: the next request may be here before hyper asks for more.
    fn end_if_whole(&mut self) {
        if self.is_end_stream() {
            self.end();
        }
    }

    /// Gives back what is held: nothing comes after this.
    fn end(&mut self) {
        if let Some(mut held) = self.held.take() {
            held.visit.ended(Ended::Whole);
            drop((held.visit, held.underway));
            pool::keep(held.link);
        }
    }

    /// Counts bytes for the log.
    fn count(&self, length: u64) {
        let line = (self.held.as_ref()).and_then(|held| held.visit.line.as_ref());
        if let Some(line) = line {
            line.counts().down.fetch_add(length, Ordering::Relaxed);
        } else if let Some(counts) = &self.counts {
            counts.up.fetch_add(length, Ordering::Relaxed);
        }
    }

    fn broke_off(&mut self, how: Ended) {
        if let Some(mut held) = self.held.take() {
            held.visit.ended(how);
            held.signs.broken.store(true, Ordering::Relaxed);
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        let (incoming, doubted) = match &mut this.source {
            Source::Text(text) => return Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Source::Relayed(incoming) => (incoming, false),
            Source::Doubted(incoming) => (incoming, true),
        };
        let polled = Pin::new(incoming).poll_frame(context);
        let Poll::Ready(frame) = polled else {
            if let Some(idle) = &mut this.idle {
                ready!(idle.poll(context));
                this.broke_off(Ended::Idle);
                return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
            }
            return Poll::Pending;
        };
        if let Some(idle) = &mut this.idle {
            idle.timer = None;
        }
        Poll::Ready(match frame {
            Some(Ok(mut frame)) => {
                this.count(frame.data_ref().map_or(0, Bytes::len) as u64);
                match frame.trailers_mut() {
                    // How long a chunked answer is nobody knows before.
                    Some(trailers) => {
                        if doubted {
                            headers::take_claims(trailers);
                        }
                        this.end();
                    }
                    None => this.end_if_whole(),
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                this.broke_off(Ended::Server);
                Some(Err(io::Error::other(error)))
            }
            None => {
                this.end();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Relayed(incoming) | Source::Doubted(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Relayed(incoming) | Source::Doubted(incoming) => incoming.size_hint(),
        }
    }
}

impl Idle {
    /// Silence counts from when it is waited for: before, it was the reader's, who may be slow.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let timer = (self.timer).get_or_insert_with(|| Box::pin(sleep(limit)));
        loop {
            ready!(timer.as_mut().poll(context));
            match self.last.left(limit) {
                Some(left) => timer.set(sleep(left)),
                None => return Poll::Ready(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn silence_counts_from_when_it_is_waited_for() {
        let limit = Duration::from_millis(100);
        let last = Arc::new(Last::new());
        let timer = None;
        sleep(2 * limit).await;
        let mut idle = Idle { limit, last, timer };
        let begun = Instant::now();
        poll_fn(|context| idle.poll(context)).await;
        assert!(begun.elapsed() >= limit, "{:?}", begun.elapsed());
        // A byte that came meanwhile makes it longer.
        idle.timer = None;
        let ended = timeout(limit / 2, poll_fn(|context| idle.poll(context))).await;
        assert!(ended.is_err());
        idle.last.touch();
        let begun = Instant::now();
        poll_fn(|context| idle.poll(context)).await;
        // The clock of the last byte is a coarse one.
        assert!(begun.elapsed() > limit * 3 / 4, "{:?}", begun.elapsed());
    }
}
