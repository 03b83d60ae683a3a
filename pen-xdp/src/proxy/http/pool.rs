//! Connections to servers that wait for the next request; each thread keeps its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{Builder, SendRequest};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::body::Body;
use super::guard::HEAD_MAX;
use super::io::{Last, ServerIo};
use crate::proxy::relay::Counts;
use crate::proxy::routes::Place;
use crate::proxy::stream::Stream;

/// How long a connection waits; many servers wait longer, and those that don't are noticed.
const WAITS: Duration = Duration::from_secs(30);
/// How many wait for each server.
const WAITING_MAX: usize = 128;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// Whom a connection leads to: one to another place, or from another address, is no use.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// Those of the server, which it keeps whatever else changes.
    pub(super) counts: Arc<Counts>,
    pub(super) place: Place,
    /// The port where the place names none; else 0.
    pub(super) port: u16,
    pub(super) source: Option<IpAddr>,
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) sender: SendRequest<Body>,
    last: Arc<Last>,
    key: Key,
}

#[derive(Debug, Default)]
struct Pool {
    /// By the address of the server's counts; the newest last.
    waiting: HashMap<usize, Vec<Link>>,
    /// Whether somebody looks for those that have waited long enough.
    swept: bool,
}

impl Key {
    fn number(&self) -> usize {
        Arc::as_ptr(&self.counts).addr()
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counts, &other.counts)
            && (self.port, self.source) == (other.port, other.source)
            && self.place == other.place
    }
}

impl Link {
    /// Speaks HTTP over a connection that stands. A task reads and writes it until it is over.
    ///
    /// # Errors
    /// hyper's; there are none.
    pub(super) async fn new(stream: Stream, key: Key) -> io::Result<Self> {
        let last = Arc::new(Last::new());
        let io = ServerIo::new(stream, Arc::clone(&key.counts), Arc::clone(&last));
        let mut builder = Builder::new();
        builder.title_case_headers(true).max_buf_size(HEAD_MAX);
        let made = builder.handshake(io).await;
        let (sender, connection) = made.map_err(io::Error::other)?;
        spawn_local(async move {
            // Whoever waits for an answer is told.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!("a connection to a server ended: {error}");
            }
        });
        Ok(Self { sender, last, key })
    }

    /// When a byte last went over it.
    pub(super) fn last(&self) -> &Arc<Last> {
        &self.last
    }
}

/// A connection that waits for a request to this server, the one used last.
pub(super) fn take(key: &Key) -> Option<Link> {
    POOL.with_borrow_mut(|pool| {
        let links = pool.waiting.get_mut(&key.number())?;
        links.retain(|link| !link.sender.is_closed());
        // Those that lead elsewhere may be wanted by others; if not, their time ends.
        let fits = |link: &Link| link.key.is(key) && link.sender.is_ready();
        let at = links.iter().rposition(fits)?;
        Some(links.remove(at))
    })
}

/// Keeps a connection whose last answer was read to its end.
pub(super) fn keep(link: Link) {
    if link.sender.is_closed() {
        return;
    }
    link.last.touch();
    // A thread that ends may have dropped its pool before its connections.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        let links = pool.waiting.entry(link.key.number()).or_default();
        if links.len() == WAITING_MAX {
            links.remove(0);
        }
        links.push(link);
        if !std::mem::replace(&mut pool.swept, true) {
            spawn_local(sweep());
        }
    });
}

/// Closes all of this thread that wait: their descriptors are needed. Whether there were any.
pub(in crate::proxy) fn close_all() -> bool {
    POOL.with_borrow_mut(|pool| !std::mem::take(&mut pool.waiting).is_empty())
}

/// Closes what has waited long enough, until nothing waits.
async fn sweep() {
    loop {
        sleep(WAITS / 4).await;
        let done = POOL.with_borrow_mut(|pool| {
            pool.waiting.retain(|_, links| {
                links.retain(|link| link.last.left(WAITS).is_some() && !link.sender.is_closed());
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
