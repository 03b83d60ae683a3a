//! A line while its connection, flow or request lasts. It is handed over when it is dropped, so
//! that none is forgotten, however that ends.

use std::cell::{Cell, OnceCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use pen_common::config::LogFormat;
use pen_common::control::{ChosenBy, Ended, Refused};

use super::record::{field, first_line, method, target};
use super::{At, Entry, Http, Log, Record, ServedBy};
use crate::proxy::connections::Connection;
use crate::proxy::relay::{Counts, End, Side, Witness};
use crate::proxy::routes::Place;
use crate::proxy::service::Point;
use crate::proxy::stream::Stream;
use crate::proxy::tls::Standing;

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) struct Line {
    log: Arc<Log>,
    begun: Instant,
    /// The port that the client came to.
    port: u16,
    /// Until it is handed over.
    record: Option<Box<Record>>,
    counts: Arc<Counts>,
    first: OnceCell<Box<[u8]>>,
    /// Whose it is, where a command may end that.
    connection: Option<Arc<Connection>>,
    /// Whether penlogd has it.
    told_early: Cell<bool>,
}

/// What the log wants to know of a request.
#[derive(Debug)]
pub(in crate::proxy) struct Requested<'a> {
    pub(in crate::proxy) method: &'a str,
    pub(in crate::proxy) target: &'a str,
    /// Of HTTP/1.
    pub(in crate::proxy) minor: u8,
    pub(in crate::proxy) host: Option<&'a [u8]>,
    pub(in crate::proxy) referer: Option<&'a [u8]>,
    pub(in crate::proxy) user_agent: Option<&'a [u8]>,
}

impl Line {
    /// For a client that comes now: its address, the port that it came to.
    pub(in crate::proxy) fn new(
        log: Arc<Log>,
        listener: Arc<str>,
        client: Option<SocketAddr>,
        port: u16,
    ) -> Box<Self> {
        let record = Box::new(Record {
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
            sni: None,
            common_name: None,
            http: None,
        });
        Box::new(Self {
            log,
            begun: Instant::now(),
            port,
            record: Some(record),
            counts: Arc::default(),
            first: OnceCell::new(),
            connection: None,
            told_early: Cell::new(false),
        })
    }

    /// A command that closes this connection ends it.
    pub(in crate::proxy) fn belongs_to(&mut self, connection: &Arc<Connection>) {
        self.connection = Some(Arc::clone(connection));
    }

    /// What its client said when it began to speak TLS with us.
    pub(in crate::proxy) fn speaks(&mut self, client: &Stream) {
        if self.log.format == LogFormat::Json && client.is_tls() {
            let name = client.server_name();
            let common_name = match client.standing() {
                Standing::Known(identity) => identity.common_name.clone(),
                Standing::Unasked | Standing::Anonymous => None,
            };
            self.note(|record| (record.sni, record.common_name) = (name, common_name));
        }
    }

    /// The name that its client asks for by TLS that is not ours.
    pub(in crate::proxy) fn names(&mut self, server: &str) {
        self.note(|record| record.sni = Some(server.to_owned()));
    }

    /// What its client asks for. Who leaves before the answer is whole ended it.
    pub(in crate::proxy) fn asks(&mut self, request: &Requested<'_>) {
        let http = Http {
            method: Some(method(request.method)),
            target: target(request.target.as_bytes()),
            version: match request.minor {
                0 => "HTTP/1.0",
                _ => "HTTP/1.1",
            },
            status: 0,
            host: request.host.map(field),
            referer: request.referer.map(field),
            user_agent: request.user_agent.map(field),
        };
        self.note(|record| (record.ended, record.http) = (Ended::Client, Some(http)));
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
        let server = ServedBy { name, at };
        self.note(|record| (record.server, record.chosen) = (Some(server), chosen));
    }

    /// There is nobody to send it to.
    pub(in crate::proxy) fn goes_nowhere(&mut self) {
        self.note(|record| (record.server, record.chosen) = (None, None));
    }

    /// The server could not be reached.
    pub(in crate::proxy) fn missed(&mut self) {
        self.told_early.set(false);
        self.note(|record| (record.tries, record.connect) = (record.tries + 1, None));
    }

    /// The server is reached.
    pub(in crate::proxy) fn reached(&mut self) {
        let connect = self.begun.elapsed();
        self.note(|record| record.connect = record.connect.or(Some(connect)));
    }

    /// Nobody serves it.
    pub(in crate::proxy) fn refused(&mut self, why: Refused) {
        self.note(|record| (record.refused, record.ended) = (Some(why), Ended::Refused));
    }

    /// How it ended.
    pub(in crate::proxy) fn ended(&mut self, how: Ended) {
        self.note(|record| record.ended = how);
    }

    /// What the client is answered; of requests that nobody could read, too.
    pub(in crate::proxy) fn answered(&mut self, status: u16) {
        self.note(|record| record.http.get_or_insert_default().status = status);
    }

    /// Where its bytes are counted.
    pub(in crate::proxy) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Hands the line over at once, if it goes to penlogd: all that this wants is known when the
    /// request is.
    pub(in crate::proxy) fn asked(&self) {
        if let Some(record) = &self.record
            && self.log.is_early()
            && !self.told_early.replace(true)
        {
            let mut record = record.clone();
            record.first = self.first.get().cloned();
            self.hand_over(record);
        }
    }

    fn note(&mut self, what: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            what(record);
        }
    }

    fn hand_over(&self, record: Box<Record>) {
        let entry = Entry {
            log: Arc::clone(&self.log),
            record,
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
        let Some(mut record) = self.record.take().filter(|_| !self.log.is_early()) else {
            return;
        };
        let cut = [Ended::Client, Ended::Stopped].contains(&record.ended);
        let closing = |connection: &Arc<Connection>| connection.is_closing();
        if cut && self.connection.as_ref().is_some_and(closing) {
            record.ended = Ended::Closed;
        } else if record.ended == Ended::Client && self.log.ring.is_closing() {
            // Requests that are under way can't tell whether the client left or we did.
            record.ended = Ended::Stopped;
        }
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
