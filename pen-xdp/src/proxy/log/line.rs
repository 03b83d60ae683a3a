//! A line while its connection, flow or request lasts. It is handed over when it is dropped, so
//! that none is forgotten, however that ends.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use hyper::header::{HOST, HeaderName, REFERER, USER_AGENT};
use hyper::{Request, StatusCode, Version};
use pen_common::config::LogFormat;
use pen_common::control::{ChosenBy, Ended, Refused};

use super::record::{field, first_line, target};
use super::{At, Entry, Http, Log, Record, ServedBy};
use crate::proxy::relay::{Counts, End, Side, Witness};
use crate::proxy::routes::Place;
use crate::proxy::service::Point;

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) struct Line {
    log: Arc<Log>,
    begun: Instant,
    /// The port that the client came to.
    port: u16,
    record: Record,
    counts: Arc<Counts>,
    first: OnceCell<Box<[u8]>>,
    handed_over: Cell<bool>,
}

impl Line {
    /// For a client that comes now: its address, the port that it came to.
    pub(in crate::proxy) fn new(
        log: Arc<Log>,
        listener: Arc<str>,
        client: Option<SocketAddr>,
        port: u16,
    ) -> Box<Self> {
        let record = Record {
            begun: SystemTime::now(),
            service: Arc::clone(&log.service),
            listener,
            client,
            server: None,
            chosen: None,
            refused: None,
            tries: 0,
            bytes_in: 0,
            bytes_out: 0,
            connect: None,
            duration: Duration::ZERO,
            ended: Ended::Stopped,
            first: None,
            http: None,
        };
        Box::new(Self {
            log,
            begun: Instant::now(),
            port,
            record,
            counts: Arc::default(),
            first: OnceCell::new(),
            handed_over: Cell::new(false),
        })
    }

    /// What its client asks for. Who leaves before the answer is whole ended it.
    pub(in crate::proxy) fn asks<B>(&mut self, request: &Request<B>) {
        let header = |name: HeaderName| {
            let value = request.headers().get(name);
            value.map(|value| field(value.as_bytes()))
        };
        self.record.ended = Ended::Client;
        self.record.http = Some(Http {
            method: Some(request.method().to_string()),
            target: target(request.uri().to_string().as_bytes()),
            version: match request.version() {
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            status: 0,
            host: header(HOST),
            referer: header(REFERER),
            user_agent: header(USER_AGENT),
        });
    }

    /// The client is sent there next, and why.
    pub(in crate::proxy) fn goes_to(&mut self, point: &Point, chosen: Option<ChosenBy>) {
        let at = match &point.place {
            Place::Tcp(address) if address.port() == 0 => {
                At::Ip(SocketAddr::new(address.ip(), self.port))
            }
            Place::Tcp(address) => At::Ip(*address),
            Place::Unix(path) => At::Path(path.display().to_string()),
        };
        let name = point.name.clone();
        self.record.server = Some(ServedBy { name, at });
        self.record.chosen = chosen;
    }

    /// There is nobody to send it to.
    pub(in crate::proxy) fn goes_nowhere(&mut self) {
        (self.record.server, self.record.chosen) = (None, None);
    }

    /// The server could not be reached.
    pub(in crate::proxy) fn missed(&mut self) {
        self.record.tries += 1;
    }

    /// The server is reached.
    pub(in crate::proxy) fn reached(&mut self) {
        self.record.connect.get_or_insert(self.begun.elapsed());
    }

    /// Nobody serves it.
    pub(in crate::proxy) fn refused(&mut self, why: Refused) {
        (self.record.refused, self.record.ended) = (Some(why), Ended::Refused);
    }

    /// How it ended.
    pub(in crate::proxy) fn ended(&mut self, how: Ended) {
        self.record.ended = how;
    }

    /// What the client is answered; of requests that nobody could read, too.
    pub(in crate::proxy) fn answered(&mut self, status: StatusCode) {
        let http = self.record.http.get_or_insert_default();
        http.status = status.as_u16();
    }

    /// Whether the answer has no body, whatever its head says.
    pub(in crate::proxy) fn asks_for_head(&self) -> bool {
        let http = self.record.http.as_ref();
        http.is_some_and(|http| http.method.as_deref() == Some("HEAD"))
    }

    /// Where its bytes are counted.
    pub(in crate::proxy) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Hands the line over at once, if it goes to penlogd: all that this wants is known when the
    /// request is.
    pub(in crate::proxy) fn asked(&self) {
        if self.log.is_early() && !self.handed_over.replace(true) {
            let mut record = self.record.clone();
            record.first = self.first.get().cloned();
            self.hand_over(record);
        }
    }

    fn hand_over(&self, record: Record) {
        let entry = Entry {
            log: Arc::clone(&self.log),
            record: Box::new(record),
        };
        self.log.ring.push(entry, self.log.is_early());
    }
}

impl Witness for Line {
    fn counts(&self) -> &Counts {
        &self.counts
    }

    fn heard(&self, first: &[u8]) {
        if self.log.format == LogFormat::Pen && !first.is_empty() {
            let _ = self.first.set(first_line(first).into());
            self.asked();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.log.is_early() {
            return;
        }
        let mut record = self.record.clone();
        record.duration = self.begun.elapsed();
        record.bytes_in = self.counts.up.load(Ordering::Relaxed);
        record.bytes_out = self.counts.down.load(Ordering::Relaxed);
        record.first = self.first.take();
        self.hand_over(record);
    }
}

/// How a connection ended, as the log says it.
pub(in crate::proxy) fn ended(end: &End) -> Ended {
    match end {
        End::Closed => Ended::Whole,
        End::Idle => Ended::Idle,
        End::FastClose(Side::Client) => Ended::ClientClosed,
        End::FastClose(Side::Server) => Ended::ServerClosed,
        End::Failed {
            side: Side::Client, ..
        } => Ended::Client,
        End::Failed {
            side: Side::Server, ..
        } => Ended::Server,
    }
}
