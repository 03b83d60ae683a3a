//! Bodies on their way, frame by frame; nothing is kept of them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::io::{Last, Signs};
use super::pool::{self, Link};
use crate::proxy::service::Visit;

/// Of a request to a server or of an answer to a client.
#[derive(Debug)]
pub(super) struct Body {
    source: Source,
    idle: Option<Idle>,
    held: Option<Held>,
}

#[derive(Debug)]
enum Source {
    Text(Option<Bytes>),
    Relayed(Incoming),
}

/// What an answer holds until it is whole. If it never is, the connection is closed.
#[derive(Debug)]
pub(super) struct Held {
    /// The place at the server.
    pub(super) visit: Visit,
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
        }
    }

    /// Nothing.
    pub(super) fn empty() -> Self {
        Self {
            source: Source::Text(None),
            idle: None,
            held: None,
        }
    }

    /// What a client sends.
    pub(super) fn of_request(incoming: Incoming) -> Self {
        Self {
            source: Source::Relayed(incoming),
            idle: None,
            held: None,
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
        };
        body.end_if_whole();
        body
    }

    /// Gives back at once what is held: the next request may be here before hyper asks for more.
    fn end_if_whole(&mut self) {
        if self.is_end_stream()
            && let Some(held) = self.held.take()
        {
            drop(held.visit);
            pool::keep(held.link);
        }
    }

    fn broke_off(&mut self) {
        if let Some(held) = self.held.take() {
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
        let incoming = match &mut this.source {
            Source::Text(text) => return Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Source::Relayed(incoming) => incoming,
        };
        let polled = Pin::new(incoming).poll_frame(context);
        let Poll::Ready(frame) = polled else {
            if let Some(idle) = &mut this.idle {
                ready!(idle.poll(context));
                this.broke_off();
                return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
            }
            return Poll::Pending;
        };
        if let Some(idle) = &mut this.idle {
            idle.timer = None;
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                this.end_if_whole();
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                this.broke_off();
                Some(Err(io::Error::other(error)))
            }
            None => {
                this.end_if_whole();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Relayed(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Relayed(incoming) => incoming.size_hint(),
        }
    }
}

impl Idle {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let timer = match &mut self.timer {
                Some(timer) => timer,
                None => match self.last.left(self.limit) {
                    Some(left) => self.timer.insert(Box::pin(sleep(left))),
                    None => return Poll::Ready(()),
                },
            };
            ready!(timer.as_mut().poll(context));
            self.timer = None;
        }
    }
}
