//! One client from its coming to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::balance::Client;
use super::connect::{How, connect};
use super::gate::Pass;
use super::relay::relay;
use super::service::{Point, Service, Visit};
use super::stream::Stream;

/// Who has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visitor {
    /// `None` over a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// The port that it came to; 0 over a Unix socket.
    pub(super) port: u16,
}

/// Finds a server for a client and passes bytes until both are done. `_place` is the client's place
/// in the service.
pub(super) async fn serve(service: Arc<Service>, client: Stream, visitor: Visitor, _place: Pass) {
    let who = Client {
        address: visitor.address.map(|address| address.ip()),
        port: visitor.address.map_or(0, |address| address.port()),
    };
    let Ok(mut visit) = service.admit(who) else {
        return;
    };
    let Some((server, point)) = reach(&service, &mut visit, visitor.port).await else {
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
    let how = How {
        timeout: visit.settings.timeout,
        source: visit.settings.source,
        port,
        keepalive: visit.settings.keepalive,
    };
    let _pending = service.pending.push_in();
    loop {
        let point = visit.next()?;
        match connect(&point.place, how).await {
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

fn missed(service: &Service, point: &Point, error: &io::Error) {
    let (service, name, place) = (&service.name, &point.name, &point.place);
    tracing::debug!("service {service}: no connection to server {name} ({place}): {error}");
}
