//! Connections to servers that wait for the next request; each thread keeps its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;

use super::pending::{Got, Pending};
use crate::proxy::relay::Counts;
use crate::proxy::routes::Place;
use crate::proxy::service::{Point, Settings, now_ms};
use crate::proxy::stream::Stream;
use crate::proxy::tls::servers::Spoken;

/// How long a connection waits; many servers wait longer, and those that don't are noticed.
const WAITS: Duration = Duration::from_secs(30);
/// How often those are looked for that have waited long enough, or that the server has closed.
const SWEEP: Duration = Duration::from_secs(2);
/// How many wait for each server.
const WAITING_MAX: usize = 128;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// Whom a connection leads to: one to another place, or from another address, is no use.
#[derive(Debug, Clone)]
pub(super) struct Key {
    point: Arc<Point>,
    /// The port where the place names none; else 0.
    port: u16,
    source: Option<IpAddr>,
    /// By what TLS is spoken with it, if it is.
    spoken: Option<Arc<Spoken>>,
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) stream: Stream,
    /// What it sent and nobody took yet.
    pub(super) inbox: Pending,
    /// What it is to get first.
    pub(super) outbox: Pending,
    /// Whether it has carried requests: then the server may be closing it just now.
    pub(super) used: bool,
    key: Key,
    /// Since when it waits, on the clock of [`now_ms`].
    waits_ms: u64,
}

#[derive(Debug, Default)]
struct Pool {
    /// By the address of the server's counts; the newest last.
    waiting: HashMap<usize, Vec<Link>>,
    /// Whether somebody looks for those that have waited long enough.
    swept: bool,
}

impl Key {
    /// `port` is the one that the client came to.
    pub(super) fn new(point: &Arc<Point>, port: u16, settings: &Settings) -> Self {
        Self {
            point: Arc::clone(point),
            port: match point.place {
                Place::Tcp(address) if address.port() == 0 => port,
                Place::Tcp(_) | Place::Unix(_) => 0,
            },
            source: settings.source,
            spoken: settings.spoken(),
        }
    }

    /// How TLS is spoken with the server.
    pub(super) fn spoken(&self) -> Option<&Arc<Spoken>> {
        self.spoken.as_ref()
    }

    /// The server keeps its counts whatever else changes.
    fn number(&self) -> usize {
        Arc::as_ptr(&self.point.counts).addr()
    }

    fn is(&self, other: &Self) -> bool {
        self.number() == other.number()
            && (self.port, self.source) == (other.port, other.source)
            && self.point.place == other.point.place
            && self.spoken.as_ref().map(Arc::as_ptr) == other.spoken.as_ref().map(Arc::as_ptr)
    }
}

impl Link {
    pub(super) fn new(stream: Stream, key: Key) -> Self {
        Self {
            stream,
            inbox: Pending::default(),
            outbox: Pending::default(),
            used: false,
            key,
            waits_ms: 0,
        }
    }

    /// Ends it in order: nothing is under way on it. What is not sent at once is not sent.
    pub(super) fn dismiss(self) {
        if self.stream.is_tls() {
            // Who is gone hears nothing.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// The server that it leads to.
    pub(super) fn point(&self) -> &Arc<Point> {
        &self.key.point
    }

    /// Those of the server.
    pub(super) fn counts(&self) -> &Counts {
        &self.key.point.counts
    }

    /// Whether the server neither ended it nor said anything that nobody asked for. What the event
    /// loop was not told of yet is not seen; it costs no call of the kernel where there is nothing.
    fn is_alive(&mut self) -> bool {
        matches!(self.inbox.read(&self.stream, 1), Ok(Got::Nothing))
    }

    /// As [`Link::is_alive`], and the kernel is asked.
    fn is_alive_now(&mut self) -> bool {
        let nothing = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.is_alive() && self.stream.peek(&mut [0]).is_err_and(nothing)
    }
}

/// A connection that waits for a request to this server, the one used last. One that can't be sent
/// again, because it is not `repeatable`, goes over none that the kernel knows to be over.
pub(super) fn take(key: &Key, repeatable: bool) -> Option<Link> {
    POOL.with_borrow_mut(|pool| {
        let links = pool.waiting.get_mut(&key.number())?;
        // Those that lead elsewhere may be wanted by others; if not, their time ends.
        while let Some(at) = links.iter().rposition(|link| link.key.is(key)) {
            let mut link = links.remove(at);
            let alive = match repeatable {
                true => link.is_alive(),
                false => link.is_alive_now(),
            };
            if alive {
                return Some(link);
            }
        }
        None
    })
}

/// Keeps a connection whose last answer was read to its end, and which has nothing to write.
pub(super) fn keep(mut link: Link) {
    if !link.inbox.is_empty() || !link.outbox.is_empty() {
        return link.dismiss();
    }
    link.used = true;
    link.waits_ms = now_ms();
    // A thread that ends may have dropped its pool before its connections.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let links = pool.waiting.entry(link.key.number()).or_default();
        if links.len() == WAITING_MAX {
            links.remove(0).dismiss();
        }
        links.push(link);
        if !std::mem::replace(&mut pool.swept, true) {
            spawn_local(sweep());
        }
    });
}

/// Closes all of this thread that wait: their descriptors are needed. Whether there were any.
pub(in crate::proxy) fn close_all() -> bool {
    let all = POOL.with_borrow_mut(|pool| std::mem::take(&mut pool.waiting));
    let any = !all.is_empty();
    all.into_values().flatten().for_each(Link::dismiss);
    any
}

/// Closes what has waited long enough, until nothing waits.
async fn sweep() {
    loop {
        sleep(SWEEP).await;
        let (now, waits) = (now_ms(), WAITS.as_millis());
        let done = POOL.with_borrow_mut(|pool| {
            pool.waiting.retain(|_, links| {
                let is_over = |link: &mut Link| {
                    u128::from(now.saturating_sub(link.waits_ms)) >= waits || !link.is_alive()
                };
                links
                    .extract_if(.., |link| is_over(link))
                    .for_each(Link::dismiss);
                !links.is_empty()
            });
            pool.swept = !pool.waiting.is_empty();
            !pool.swept
        });
        if done {
            return;
        }
    }
}
