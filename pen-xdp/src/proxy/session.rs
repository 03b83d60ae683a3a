//! One client from its coming to its end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pen_common::config::{Mode, SendProxy};
use pen_common::control::Stage;
use pen_common::proxy_protocol::Header;
use tokio::time::{Instant, sleep};

use super::accept::{EXHAUSTED_PAUSE, is_exhaustion};
use super::balance::{Client, Refused};
use super::connect::{From, How, connect, has_no_way, is_ours};
use super::connections::{Connection, Presence};
use super::gate::Pass;
use super::header::{Missing, asked_for, asking, ends, receive, send, written};
use super::http;
use super::listeners::Listener;
use super::log::ended;
use super::relay::{End, relay};
use super::routes::Place;
use super::service::{Point, Service, Settings, Visit};
use super::stream::Stream;
use super::tls::Terms;
use super::tls::handshake::{Failed, shake_hands};
use super::tls::stream::Encrypted;

/// How long a client that takes nothing more may take to be told that no more comes.
pub(super) const LAST_WORD: Duration = Duration::from_secs(5);

/// Who has come.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    /// `None` over a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// The port that it came to; 0 over a Unix socket.
    pub(super) port: u16,
    /// Where that is.
    pub(super) listener: Arc<Listener>,
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
    /// Among the service's clients.
    pub(super) _service: Pass,
    /// Among all who take descriptors.
    pub(super) _everyone: Pass,
    /// Among those that are shown.
    pub(super) connection: Presence,
}

/// Finds a server for a client and passes bytes until both are done.
pub(super) async fn serve(client: Stream, visitor: Visitor, places: Places) {
    let has_preliminaries = places.connection.service.has_preliminaries();
    let (client, (visitor, peer, said), places) = if has_preliminaries {
        // Boxed: who begins with what it wants needs no room for it.
        match Box::pin(preliminaries(client, visitor, places)).await {
            Some(known) => known,
            None => return,
        }
    } else {
        let peer = visitor.address;
        (client, (visitor, peer, None), places)
    };
    let service = &places.connection.service;
    if service.mode == Mode::Http {
        // Boxed: clients of TCP need no room for it.
        return Box::pin(http::serve(client, visitor, places)).await;
    }
    let _cut = places.connection.cuts(&client);
    {
        // Boxed: what it takes to arrive is given back before the connection lasts.
        let arrived = Box::pin(arrive(&places.connection, &client, (visitor, peer, said)));
        let Some((mut visit, server, point)) = arrived.await else {
            return;
        };
        // Nor is a server to take half of what it was sent for the whole.
        let cut_there = places.connection.cuts(&server);
        let (options, witness) = (&visit.settings.relay, visit.witness());
        let account = places.connection.account(&point.counts, witness);
        let end = relay(&client, &server, options, account).await;
        visit.ended(ended(&end));
        tracing::trace!(
            "service {}: {:?} at {}: {end:?}",
            service.name,
            places.connection,
            point.name
        );
        if let End::Closed | End::FastClose(_) = end {
            // Who is not told takes what it got for a piece. After any other end it is one.
            drop(visit);
            drop(cut_there);
            part(&client, server).await;
        }
    }
}

/// Tells both sides that all was said, as far as there is a way to say so.
async fn part(client: &Stream, server: Stream) {
    if client.is_tls() || server.is_tls() {
        // The server does not wait for the client, nor the client for the server.
        let of_server = async move { server.close(LAST_WORD).await };
        let both = async { tokio::join!(client.close(LAST_WORD), of_server) };
        Box::pin(both).await;
    }
}

/// Gets a client, who came from `peer` and is introduced by what a proxy `said`, to a server; `None`
/// if there is none for it.
async fn arrive(
    connection: &Arc<Connection>,
    client: &Stream,
    (visitor, peer, said): (Visitor, Option<SocketAddr>, Option<Header>),
) -> Option<(Visit, Stream, Arc<Point>)> {
    let service = &connection.service;
    let mut line = service.line(&visitor);
    if let Some(line) = &mut line {
        line.belongs_to(connection);
        if let Some(name) = asked_for(said.as_ref()) {
            line.names(&name);
        }
        line.speaks(client);
    }
    let mut visit = service.admit(visitor.client(), &mut line).ok()?;
    let version = visit.settings.send_proxy;
    let header = if version != SendProxy::Off {
        let both = ends(client, peer, said.as_ref());
        written(version, both, (said, client.told()))
    } else {
        None
    };
    let how = How {
        speaks_first: header.is_some() || visit.settings.spoken().is_some() || client.has_bytes(),
        ..how(&visit.settings, &visitor)
    };
    match reach(connection, &mut visit, how, header.as_deref()).await {
        Ok((server, point)) => Some((visit, server, point)),
        Err(why) => {
            visit.refused(why);
            None
        }
    }
}

/// Who a client is: as whom it counts, who came, and what a proxy said and the client asks for.
type Known = (Visitor, Option<SocketAddr>, Option<Header>);

/// What comes before what a client wants: who it is, if a proxy says so, the service that it asks
/// for, and its TLS handshake; `None` if that doesn't come. Nothing is done for a client before: no
/// server is chosen or connected to.
async fn preliminaries(
    client: Stream,
    visitor: Visitor,
    mut places: Places,
) -> Option<(Stream, Known, Places)> {
    let (address, mut said) = introduced(&places.connection, &client, &visitor).await?;
    let peer = visitor.address;
    let visitor = Visitor { address, ..visitor };
    if let Some(signpost) = places.connection.service.signpost() {
        let led = signpost.lead(&client, &visitor, places).await?;
        let name;
        (places, name) = led;
        said = match name {
            Some(name) => Some(asking(said, name)),
            None => said,
        };
    }
    let connection = &places.connection;
    let client = match connection.service.terms() {
        Some(terms) => {
            let name = asked_for(said.as_ref());
            secured(connection, client, (&visitor, name), &terms).await?
        }
        None => client,
    };
    Some((client, (visitor, peer, said), places))
}

/// Who the client is: whoever came, or whom a proxy names, and what else that says; `None` if a
/// proxy doesn't.
async fn introduced(
    connection: &Connection,
    client: &Stream,
    visitor: &Visitor,
) -> Option<(Option<SocketAddr>, Option<Header>)> {
    let service = &connection.service;
    let Some(peer) = visitor.address else {
        return Some((None, None));
    };
    let Some(patience) = service.expects_header(peer.ip()) else {
        return Some((Some(peer), None));
    };
    let _cut = connection.cuts(client);
    connection.reached(Stage::Header);
    match Box::pin(receive(client, patience)).await {
        Ok(header) => {
            let source = header.addresses.map_or(peer, |both| both.source());
            let source = SocketAddr::new(source.ip().to_canonical(), source.port());
            connection.comes_from(Some(source));
            connection.reached(Stage::Connecting);
            Some((Some(source), Some(header)))
        }
        // Proxies look whether we are there: that is no client who was not served.
        Err(Missing::Nothing) => None,
        Err(missing) => {
            service.turn_away(Refused::BadProxyHeader, visitor);
            let service = &service.name;
            tracing::debug!("service {service}: no PROXY header from {peer}: {missing}");
            None
        }
    }
}

/// The connection over TLS of a client, who asked for a name before if it was led here; `None` if
/// the client speaks none.
async fn secured(
    connection: &Connection,
    client: Stream,
    (visitor, name): (&Visitor, Option<String>),
    terms: &Terms,
) -> Option<Stream> {
    let service = &connection.service;
    connection.reached(Stage::Handshake);
    let address = visitor.address.map(|address| address.ip());
    let why = match encrypted(connection, client, address, terms).await {
        Ok(client) => {
            connection.reached(Stage::Connecting);
            return Some(client);
        }
        // As without TLS: who only looks whether we are there is no client who was not served.
        Err(Failed::Nothing) => return None,
        Err(why) => why,
    };
    let refused = match why {
        Failed::Late => Refused::SlowHandshake,
        Failed::Refused(_) | Failed::Left | Failed::Nothing | Failed::Broken(_) => {
            Refused::BadHandshake
        }
    };
    if let (Some(mut line), Some(name)) = (service.turn_away(refused, visitor), name) {
        line.names(&name);
    }
    let service = &service.name;
    tracing::debug!("service {service}: no handshake with {visitor:?}: {why}");
    None
}

async fn encrypted(
    connection: &Connection,
    client: Stream,
    address: Option<IpAddr>,
    terms: &Terms,
) -> Result<Stream, Failed> {
    let mut client = Encrypted::new(client, terms.config())?;
    let cut = connection.cuts(client.below());
    shake_hands(&client, address, terms).await?;
    drop(cut);
    client.recognize(terms.asked())?;
    Ok(Stream::Tls(Box::new(client)))
}

/// A connection to the first server that can be reached.
async fn reach(
    connection: &Connection,
    visit: &mut Visit,
    how: How,
    header: Option<&[u8]>,
) -> Result<(Stream, Arc<Point>), Refused> {
    let service = &connection.service;
    let end = Instant::now() + visit.settings.queue;
    let mut pending = Some(service.pending.enter().await);
    let mut lacks = false;
    loop {
        let chosen = choose(connection, visit, end, &mut pending).await;
        let point = chosen.map_err(|why| if lacks { Refused::HostLacks } else { why })?;
        connection.tries(&point, visit.chosen_by());
        match open(visit, &point, how, header).await {
            Ok(server) => {
                visit.connected();
                connection.reached(Stage::Open);
                return Ok((server, point));
            }
            Err(error) => lacks |= unreached(service, visit, &point, (&error, how.from))?,
        }
    }
}

/// Connects to a server and says what comes before all that clients say: who the client is, in
/// clear, and then our side of a handshake.
///
/// # Errors
/// What the kernel says, or why the server can't be spoken to. What is said may take as long as
/// connecting may: descriptors that were waited for are not the server's fault.
async fn open(visit: &Visit, point: &Point, how: How, header: Option<&[u8]>) -> io::Result<Stream> {
    let server = connect_patiently(&point.place, how).await?;
    let end = Instant::now() + how.timeout;
    let left = || end.saturating_duration_since(Instant::now());
    if let Some(header) = header {
        send(&server, header, left()).await?;
    }
    match visit.settings.spoken() {
        // Boxed: clients of servers that speak none need no room for it.
        Some(spoken) => Box::pin(spoken.secure(server, &point.peer, left())).await,
        None => Ok(server),
    }
}

/// Whether a server could not be reached for what this host lacks for this one.
///
/// # Errors
/// This host lacks what it takes, for any server.
fn unreached(
    service: &Service,
    visit: &mut Visit,
    point: &Point,
    (error, from): (&io::Error, From),
) -> Result<bool, Refused> {
    if has_no_way(error, &point.place, from) {
        no_way(service, point, error);
        visit.passed_by();
        return Ok(true);
    }
    if is_ours(error) {
        no_way(service, point, error);
        return Err(Refused::HostLacks);
    }
    let taken_out = visit.failed(point);
    missed(service, point, error, taken_out);
    Ok(false)
}

/// The server to try next; waited for where all are full. Who waits does not keep others from being
/// taken.
async fn choose(
    connection: &Connection,
    visit: &mut Visit,
    end: Instant,
    pending: &mut Option<Pass>,
) -> Result<Arc<Point>, Refused> {
    let service = &connection.service;
    let others_wait = service.queue.waiting() > 0 && !visit.settings.queue.is_zero();
    if !others_wait {
        match visit.next() {
            Err(_) if visit.may_wait() && Instant::now() < end => {}
            result => return result,
        }
    }
    drop(pending.take());
    connection.reached(Stage::Queue);
    service.queue.wait(visit, end).await
}

/// How a client that has said something gets to its server.
pub(super) fn how(settings: &Settings, visitor: &Visitor) -> How {
    How {
        timeout: settings.timeout,
        from: settings.from(visitor.client().address),
        port: visitor.port,
        keepalive: settings.keepalive,
        speaks_first: true,
    }
}

/// Connects to a server. Descriptors that this host lacks are waited for, as long as a connection
/// may take.
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

/// Says what this host lacks for a connection to this server.
pub(super) fn no_way(service: &Service, point: &Point, error: &io::Error) {
    let (name, place) = (&point.name, &point.place);
    service.tell(format_args!(
        "no connection to server {name} ({place}): {error}"
    ));
}

/// Says so once for each time that the server is taken out for a while.
pub(super) fn missed(service: &Service, point: &Point, error: &io::Error, taken_out: bool) {
    let (service, name, place) = (&service.name, &point.name, &point.place);
    let what = format!("service {service}: server {name} ({place}) can't be reached: {error}");
    if taken_out {
        tracing::warn!("{what}; it gets no clients for a while");
    } else {
        tracing::debug!("{what}");
    }
}
