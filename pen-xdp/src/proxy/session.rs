//! One client from its coming to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pen_common::config::Mode;
use tokio::time::{Instant, sleep};

use super::accept::{EXHAUSTED_PAUSE, is_exhaustion};
use super::balance::Client;
use super::connect::{How, connect};
use super::gate::Pass;
use super::http;
use super::relay::relay;
use super::routes::Place;
use super::service::{Point, Service, Settings, Visit};
use super::stream::Stream;

/// Who has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visitor {
    /// `None` over a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// The port that it came to; 0 over a Unix socket.
    pub(super) port: u16,
}

impl Visitor {
    /// As whom the balancer knows it.
    pub(super) fn client(&self) -> Client {
        Client {
            address: self.address.map(|address| address.ip()),
            port: self.address.map_or(0, |address| address.port()),
        }
    }
}

/// The places that a client takes; given back when dropped.
#[derive(Debug)]
pub(super) struct Places {
    /// Among all who take descriptors.
    pub(super) _everyone: Pass,
    /// Among the service's clients.
    pub(super) _service: Pass,
    /// Among those who wait for a server, until there is one.
    pub(super) pending: Option<Pass>,
}

/// Finds a server for a client and passes bytes until both are done.
pub(super) async fn serve(
    service: Arc<Service>,
    client: Stream,
    visitor: Visitor,
    mut places: Places,
) {
    if service.mode == Mode::Http {
        // Boxed: clients of TCP need no room for it.
        return Box::pin(http::serve(service, client, visitor, places)).await;
    }
    let Ok(mut visit) = service.admit(visitor.client()) else {
        return;
    };
    let reached = reach(&service, &mut visit, visitor.port).await;
    drop(places.pending.take());
    let Some((server, point)) = reached else {
        return;
    };
    let end = relay(&client, &server, &visit.settings.relay, &point.counts).await;
    tracing::trace!(
        "service {}: {visitor:?} at {}: {end:?}",
        service.name,
        point.name
    );
}

/// A connection to the first server that can be reached.
async fn reach(
    service: &Arc<Service>,
    visit: &mut Visit,
    port: u16,
) -> Option<(Stream, Arc<Point>)> {
    let how = how(&visit.settings, port);
    loop {
        let point = visit.next().ok()?;
        match connect_patiently(&point.place, how).await {
            Ok(server) => {
                visit.connected();
                return Some((server, point));
            }
            Err(error) => {
                visit.failed();
                missed(service, &point, &error);
            }
        }
    }
}

/// How a client that came to `port` gets to its server.
pub(super) fn how(settings: &Settings, port: u16) -> How {
    How {
        timeout: settings.timeout,
        source: settings.source,
        port,
        keepalive: settings.keepalive,
    }
}

/// Connects to a server. What this host lacks is not the server's fault: it is waited for, as long
/// as a connection may take.
pub(super) async fn connect_patiently(place: &Place, how: How) -> io::Result<Stream> {
    let end = Instant::now() + how.timeout;
    loop {
        match connect(place, how).await {
            Err(error) if is_exhaustion(&error) && Instant::now() < end => {
                sleep(EXHAUSTED_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Says that a server could not be reached.
pub(super) fn missed(service: &Service, point: &Point, error: &io::Error) {
    let (service, name, place) = (&service.name, &point.name, &point.place);
    tracing::debug!("service {service}: no connection to server {name} ({place}): {error}");
}
