//! One request, from its head to the head of its answer.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::{Body as HttpBody, Incoming};
use hyper::client::conn::TrySendError;
use hyper::header::{CONNECTION, HOST, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use pen_common::control::{Ended, Refused, Stage};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::answers;
use super::body::{Body, Held};
use super::headers;
use super::io::{Last, Signs};
use super::pool::{self, Key, Link};
use super::redirect;
use super::upgrade::{self, Switch};
use crate::proxy::accept::is_exhaustion;
use crate::proxy::connect::{connect, has_no_way, is_ours};
use crate::proxy::connections::Underway;
use crate::proxy::log::Line;
use crate::proxy::routes::Place;
use crate::proxy::service::{Point, Service, Visit};
use crate::proxy::session::{Places, Visitor, connect_patiently, how, missed, no_way};

/// Who sends requests.
pub(super) struct Client {
    pub(super) service: Arc<Service>,
    pub(super) visitor: Visitor,
    pub(super) signs: Arc<Signs>,
    pub(super) places: Places,
}

/// A connection to a server that a request can go over.
struct Reached {
    link: Link,
    point: Arc<Point>,
    /// Whether it has carried others: then the server may be closing it just now.
    used: bool,
}

/// An answer has begun.
struct Answered {
    response: Response<Incoming>,
    reached: Reached,
}

/// Answers a request by a server's answer, or says why there is none.
pub(super) async fn forward(client: Rc<Client>, request: Request<Incoming>) -> Response<Body> {
    let mut line = client.service.line(&client.visitor);
    if let Some(line) = &mut line {
        line.belongs_to(&client.places.connection);
    }
    if let Some(line) = &mut line {
        line.asks(&request);
    }
    if request.method() == Method::CONNECT {
        let answer = answers::plain(StatusCode::NOT_IMPLEMENTED, "there are no tunnels here");
        return logged(answer, line.as_deref_mut(), Ended::Whole);
    }
    let mut visit = match client.service.admit(client.visitor.client(), &mut line) {
        Ok(visit) => visit,
        Err(why) => {
            let told = client.service.settings().reason_header;
            let answer = answers::refusal(why, told);
            return logged(answer, line.as_deref_mut(), Ended::Refused);
        }
    };
    let underway = client.places.connection.request();
    if let Some(to) = visit.redirect() {
        return match redirect::answer(to, &request) {
            Some(answer) => logged(answer, visit.line.as_deref_mut(), Ended::Whole),
            None => refused(&mut visit, Refused::BadRequest),
        };
    }
    match exchange(&client, &mut visit, request).await {
        Ok((answered, asked)) => pass_on(client, (visit, underway), answered, asked),
        Err(why) => refused(&mut visit, why),
    }
}

/// The answer to a request that no server answers; it is counted why.
fn refused(visit: &mut Visit, why: Refused) -> Response<Body> {
    visit.refused(why);
    let answer = answers::refusal(why, visit.settings.reason_header);
    logged(answer, visit.line.as_deref_mut(), Ended::Refused)
}

/// Notes an answer of our own in the log, which is short enough to be taken for sent.
fn logged(answer: Response<Body>, line: Option<&mut Line>, how: Ended) -> Response<Body> {
    if let Some(line) = line {
        line.answered(answer.status());
        line.ended(how);
        let length = answer.body().size_hint().exact().unwrap_or(0);
        if !line.asks_for_head() {
            line.counts().down.store(length, Ordering::Relaxed);
        }
    }
    answer
}

/// What is kept of a request that asks for another protocol.
struct Asked(Option<hyper::upgrade::OnUpgrade>);

/// Sends a request to a server that can be reached, and waits for its answer.
///
/// # Errors
/// Why there is none.
async fn exchange(
    client: &Client,
    visit: &mut Visit,
    mut request: Request<Incoming>,
) -> Result<(Answered, Asked), Refused> {
    let on_upgrade =
        (request.headers().contains_key(UPGRADE)).then(|| hyper::upgrade::on(&mut request));
    let address = client.visitor.address.map(|address| address.ip());
    let trusted = headers::trusts(address, &visit.settings.trusted);
    let line = visit.line.as_deref();
    let counts = line.map(|line| Arc::clone(line.counts()));
    let mut request = request.map(|body| Body::of_request(body, trusted, counts));
    let protocol = headers::prepare(request.headers_mut());
    let asked = Asked(on_upgrade.filter(|_| protocol.is_some()));
    let Ok(()) = to_origin(&mut request) else {
        return Err(Refused::BadRequest);
    };
    headers::tell_client(request.headers_mut(), address, trusted);
    let mut reached = reach(client, visit, None).await?;
    client.places.connection.reached(Stage::Open);
    if let Some(line) = &visit.line {
        line.asked();
    }
    name_host(request.headers_mut(), &reached.point.place);
    loop {
        // A copy, for the case that the server closes the connection while it comes.
        let again = (reached.used && is_repeatable(&request)).then(|| copy(&request));
        let sent = reached.link.sender.try_send_request(request);
        match in_time(sent, visit, reached.link.last()).await {
            Ok(response) => return Ok((Answered { response, reached }, asked)),
            Err(Failure::TooLate) => return Err(Refused::TooLate),
            Err(Failure::Broken(mut error)) => {
                let unsent = error.take_message();
                match unsent.or(again).filter(|_| reached.used) {
                    Some(whole) => request = whole,
                    None => return Err(broken(client, &reached.point, &error)),
                }
            }
        }
        let point = Arc::clone(&reached.point);
        reached = match open(client, visit, &point).await {
            Ok(reached) => reached,
            Err(error) => {
                let why = unreached(client, visit, &point, &error)?;
                reach(client, visit, Some(why)).await?
            }
        };
        client.places.connection.reached(Stage::Open);
    }
}

/// Gives a server's answer to the client.
fn pass_on(
    client: Rc<Client>,
    (mut visit, underway): (Visit, Underway),
    answered: Answered,
    asked: Asked,
) -> Response<Body> {
    let Answered {
        mut response,
        reached,
    } = answered;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Asked(Some(on_client)) = asked else {
            return refused(&mut visit, Refused::BadAnswer);
        };
        note_status(&mut visit, &response);
        let server = hyper::upgrade::on(&mut response);
        client.signs.switched.store(true, Ordering::Relaxed);
        let switch = Switch {
            client: on_client,
            server,
            point: reached.point,
            visit,
            _underway: underway,
        };
        let connection = Arc::clone(&client.places.connection);
        let task = spawn_local(upgrade::pass(switch, client));
        connection.served_by(task.abort_handle());
        let mut response = response.map(|_| Body::empty());
        let protocol = headers::take_hop_by_hop(response.headers_mut());
        if let Some(protocol) = protocol {
            response.headers_mut().insert(UPGRADE, protocol);
        }
        let upgrade = HeaderValue::from_static("upgrade");
        response.headers_mut().insert(CONNECTION, upgrade);
        return response;
    }
    if !is_clear(response.headers()) {
        return refused(&mut visit, Refused::BadAnswer);
    }
    note_status(&mut visit, &response);
    headers::take_hop_by_hop(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    let idle = visit.settings.relay.idle;
    let held = Held {
        visit,
        underway,
        link: reached.link,
        signs: Arc::clone(&client.signs),
    };
    response.map(|incoming| Body::of_answer(incoming, idle, held))
}

fn note_status(visit: &mut Visit, response: &Response<Incoming>) {
    if let Some(line) = &mut visit.line {
        line.answered(response.status());
    }
}

/// The first server that can be reached, over a connection that waits or a new one. `failed` is why
/// one could not be before.
///
/// # Errors
/// Why there is none.
async fn reach(
    client: &Client,
    visit: &mut Visit,
    mut failed: Option<Refused>,
) -> Result<Reached, Refused> {
    loop {
        let point = match visit.next() {
            Ok(point) => point,
            // Servers that can't be reached say more than that none is left.
            Err(why) => return Err(failed.unwrap_or(why)),
        };
        client.places.connection.tries(&point, visit.chosen_by());
        if let Some(link) = pool::take(&key(client, visit, &point)) {
            visit.connected();
            let used = true;
            return Ok(Reached { link, point, used });
        }
        match open(client, visit, &point).await {
            Ok(reached) => {
                visit.connected();
                return Ok(reached);
            }
            Err(error) => failed = Some(unreached(client, visit, &point, &error)?),
        }
    }
}

/// Why a server could not be reached, if another one may be.
///
/// # Errors
/// This host lacks what it takes, for any server.
fn unreached(
    client: &Client,
    visit: &mut Visit,
    point: &Point,
    error: &io::Error,
) -> Result<Refused, Refused> {
    let from = how(&visit.settings, client.visitor).from;
    if has_no_way(error, &point.place, from) {
        no_way(&client.service, point, error);
        visit.passed_by();
        return Ok(Refused::HostLacks);
    }
    if is_ours(error) {
        no_way(&client.service, point, error);
        return Err(Refused::HostLacks);
    }
    let taken_out = visit.failed(point);
    missed(&client.service, point, error, taken_out);
    Ok(match error.kind() == io::ErrorKind::TimedOut {
        true => Refused::TooLate,
        false => Refused::ConnectFailed,
    })
}

/// A new connection.
async fn open(client: &Client, visit: &Visit, point: &Arc<Point>) -> io::Result<Reached> {
    let _pending = client.service.pending.enter().await;
    let how = how(&visit.settings, client.visitor);
    let stream = match connect(&point.place, how).await {
        Err(error) if is_exhaustion(&error) => {
            // Ours that wait give theirs up before we wait for those of others.
            pool::close_all();
            connect_patiently(&point.place, how).await?
        }
        result => result?,
    };
    let link = Link::new(stream, key(client, visit, point)).await?;
    Ok(Reached {
        link,
        point: Arc::clone(point),
        used: false,
    })
}

fn key(client: &Client, visit: &Visit, point: &Point) -> Key {
    Key {
        counts: Arc::clone(&point.counts),
        place: point.place.clone(),
        port: match point.place {
            Place::Tcp(address) if address.port() == 0 => client.visitor.port,
            Place::Tcp(_) | Place::Unix(_) => 0,
        },
        source: visit.settings.source,
    }
}

/// Why no answer has begun.
enum Failure {
    TooLate,
    Broken(Box<TrySendError<Request<Body>>>),
}

impl Failure {
    fn broken(error: TrySendError<Request<Body>>) -> Self {
        Self::Broken(Box::new(error))
    }
}

/// Waits for an answer as long as bytes go over the connection.
async fn in_time(
    sent: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Body>>>>,
    visit: &Visit,
    last: &Last,
) -> Result<Response<Incoming>, Failure> {
    let Some(limit) = visit.settings.relay.idle else {
        return sent.await.map_err(Failure::broken);
    };
    last.touch();
    let mut sent = std::pin::pin!(sent);
    while let Some(left) = last.left(limit) {
        if let Ok(result) = timeout(left, &mut sent).await {
            return result.map_err(Failure::broken);
        }
    }
    Err(Failure::TooLate)
}

/// Whose fault it is that a request was sent and not answered.
fn broken(client: &Client, point: &Point, error: &TrySendError<Request<Body>>) -> Refused {
    let (service, name, why) = (&client.service.name, &point.name, error.error());
    tracing::debug!("service {service}: no answer from server {name}: {why}");
    match client.signs.refused.load(Ordering::Relaxed) {
        true => Refused::BadRequest,
        false => Refused::BadAnswer,
    }
}

/// Whether an answer says in one way how long it is.
fn is_clear(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = encodings.next();
    let chunked = first.is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    chunked && encodings.next().is_none()
}

/// Whether doing it twice is as good as once, and it can be said twice.
fn is_repeatable(request: &Request<Body>) -> bool {
    request.method().is_idempotent() && request.body().is_end_stream()
}

/// The same request; it has no body.
fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    copy
}

/// Asks for the path alone. A host in the target counts, and not that in the header (RFC 9112,
/// 3.2.2); hyper takes targets of every form.
fn to_origin(request: &mut Request<Body>) -> Result<(), ()> {
    *request.version_mut() = Version::HTTP_11;
    if let Some(authority) = request.uri().authority() {
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::from_str(host).map_err(drop)?;
        request.headers_mut().insert(HOST, host);
        let path = request.uri().path_and_query().ok_or(())?;
        let origin = Uri::try_from(path.as_str()).map_err(drop)?;
        *request.uri_mut() = origin;
    }
    let path = request.uri().path();
    match path.starts_with('/') || (path == "*" && request.method() == Method::OPTIONS) {
        true => Ok(()),
        false => Err(()),
    }
}

/// Clients of HTTP/1.0 may name no host; servers of HTTP/1.1 want one.
fn name_host(headers: &mut HeaderMap, place: &Place) {
    if !headers.contains_key(HOST) {
        let host = match place {
            Place::Tcp(SocketAddr::V4(address)) => Some(address.ip().to_string()),
            Place::Tcp(SocketAddr::V6(address)) => Some(format!("[{}]", address.ip())),
            Place::Unix(_) => None,
        };
        let host = host.and_then(|host| HeaderValue::from_str(&host).ok());
        let host = host.unwrap_or(HeaderValue::from_static("localhost"));
        headers.insert(HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_to_those_who_were_not_named_by_their_clients() {
        for (place, host) in [
            (Place::Tcp(([10, 0, 0, 1], 81).into()), "10.0.0.1"),
            (
                Place::Tcp(([0xfd77, 0, 0, 0, 0, 0, 0, 1], 81).into()),
                "[fd77::1]",
            ),
            (Place::Unix("/run/s".into()), "localhost"),
        ] {
            let mut headers = HeaderMap::new();
            name_host(&mut headers, &place);
            assert_eq!(headers[HOST], host);
        }
    }
}
