//! One request, from its head to the end of its answer.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{StatusCode, Uri};
use pen_common::control::{Ended, Refused, Stage};

use super::answers::Words;
use super::chunks::Sender;
use super::client::Client;
use super::exchange::{Exchange, Facts, Outcome};
use super::fields::Field;
use super::head::{self, Fault, Framing, Request};
use super::headers::{self, Given, Told};
use super::kept::{Busy, Kept};
use super::pending::Pending;
use super::pool::{self, Key, Link};
use super::redirect::{self, Wanted};
use super::transfer::{Body, Coding, Taken, Trailing, Transfer};
use super::upgrade;
use crate::proxy::accept::is_exhaustion;
use crate::proxy::connect::{connect, has_no_way, is_ours};
use crate::proxy::connections::Underway;
use crate::proxy::log::{Line, Requested};
use crate::proxy::routes::Place;
use crate::proxy::service::{Point, Visit};
use crate::proxy::session::{connect_patiently, how, missed, no_way};

/// A request whose head is read.
#[derive(Debug)]
pub(super) struct Asked {
    facts: Facts,
    task: Task,
    /// While it is here the client's connection is not idle.
    _busy: Busy,
}

/// What is to be done for it.
#[derive(Debug)]
enum Task {
    /// To be sent to a server.
    Send(Send),
    /// To be answered here.
    Say(Words, Option<Box<Line>>, Ended),
}

#[derive(Debug)]
struct Send {
    visit: Visit,
    /// As the server gets it, without the empty line at its end.
    head: Vec<u8>,
    has_host: bool,
    _underway: Underway,
}

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It waits for the next request.
    Keep,
    /// It ends in order.
    Close,
    /// It is over already.
    Leave,
    /// It ends, and the client may still be sending.
    Drain,
    /// It ends so that nobody takes what was sent for the whole.
    Reset,
}

/// Takes a request if its head is whole.
///
/// # Errors
/// Why it is none.
pub(super) fn take(client: &mut Client<'_>, kept: &Kept) -> Result<Option<Asked>, Fault> {
    let mut room = head::room();
    let Some(request) = head::request(client.inbox.bytes(), &mut room)? else {
        return Ok(None);
    };
    let busy = kept.begin();
    let service = client.service();
    let mut line = service.line(&client.visitor);
    if let Some(line) = &mut line {
        line.belongs_to(client.connection);
        line.speaks(client.stream);
        line.asks(&requested(&request));
    }
    let mut facts = facts(&request);
    let task = if request.method == "CONNECT" {
        let status = StatusCode::NOT_IMPLEMENTED;
        let words = Words::plain(status, "there are no tunnels here");
        Task::Say(words, line, Ended::Whole)
    } else {
        match service.admit(client.visitor.client(), &mut line) {
            Ok(visit) => prepare(client, visit, &request, &mut facts),
            Err(why) => {
                let told = service.settings().reason_header;
                Task::Say(Words::refusal(why, told), line, Ended::Refused)
            }
        }
    };
    let length = request.length;
    client.inbox.consume(length);
    Ok(Some(Asked {
        facts,
        task,
        _busy: busy,
    }))
}

/// What the log wants to know.
fn requested<'a>(request: &'a Request<'_, 'a>) -> Requested<'a> {
    let named = |name: &str| {
        let mut fields = request.fields.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name));
        field.map(|field| field.value)
    };
    Requested {
        method: request.method,
        target: request.target,
        minor: request.minor,
        host: named("host"),
        referer: named("referer"),
        user_agent: named("user-agent"),
    }
}

fn facts(request: &Request<'_, '_>) -> Facts {
    let idempotent = matches!(
        request.method,
        "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE"
    );
    Facts {
        minor: request.minor,
        head_alone: request.method == "HEAD",
        keep: request.wish.keeps(request.minor),
        framing: request.framing,
        waits: headers::waits(request),
        trailers: headers::takes_trailers(request),
        switches: false,
        repeatable: idempotent && request.framing == Framing::Length(0),
        trusted: false,
    }
}

/// What is to be done for a request that was let in.
fn prepare(
    client: &Client<'_>,
    mut visit: Visit,
    request: &Request<'_, '_>,
    facts: &mut Facts,
) -> Task {
    let underway = client.connection.request();
    let address = client.visitor.address.map(|address| address.ip());
    facts.trusted = headers::trusts(address, &visit.settings.trusted);
    if let Some(to) = visit.redirect() {
        let uri = request.target.parse::<Uri>();
        let words = uri.ok().and_then(|uri| {
            let wanted = Wanted {
                method: request.method,
                target: &uri,
                host: headers::of(request.fields, Field::Host).next(),
            };
            redirect::answer(to, wanted)
        });
        return match words {
            Some(words) => Task::Say(words, visit.line.take(), Ended::Whole),
            None => refused(visit, facts, Refused::BadRequest),
        };
    }
    let Some((target, host)) = origin(request) else {
        return refused(visit, facts, Refused::BadRequest);
    };
    let said = headers::of(request.fields, Field::Host).next();
    let meant = host.as_deref().map(str::as_bytes).or(said);
    if meant.is_some_and(|host| client.is_for_another(host)) {
        return refused(visit, facts, Refused::Misdirected);
    }
    let protocols = headers::protocols(request);
    facts.switches = protocols.is_some();
    let told = Told {
        target: &target,
        host: host.as_deref(),
        client: address,
        trusted: facts.trusted,
        scheme: client.scheme(),
        standing: client.stream.standing(),
    };
    let (head, has_host) = headers::write_request(request, protocols.as_deref(), told);
    Task::Send(Send {
        visit,
        head,
        has_host,
        _underway: underway,
    })
}

/// It goes nowhere.
fn refused(mut visit: Visit, facts: &mut Facts, why: Refused) -> Task {
    visit.refused(why);
    facts.keep &= why != Refused::BadRequest;
    let words = Words::refusal(why, visit.settings.reason_header);
    Task::Say(words, visit.line.take(), Ended::Refused)
}

/// The path alone, as servers are asked for it, and a host that the target names.
fn origin<'a>(request: &Request<'_, 'a>) -> Option<(Cow<'a, str>, Option<String>)> {
    let target = request.target;
    if target.starts_with('/') && !target.contains('#') {
        return Some((Cow::Borrowed(target), None));
    }
    let uri = target.parse::<Uri>().ok()?;
    let host = uri.authority().map(|authority| {
        let host = authority.as_str().rsplit('@').next();
        host.unwrap_or_default().to_owned()
    });
    let path = uri.path_and_query()?.as_str();
    // RFC 9112, 3.2.4: without a path it is the host itself that is asked about.
    let asks_host = request.method == "OPTIONS" && (path == "*" || is_bare(target));
    let path = match path {
        _ if asks_host => "*".to_owned(),
        path if path.starts_with('?') => format!("/{path}"),
        path => path.to_owned(),
    };
    let sound = asks_host || path.starts_with('/');
    sound.then_some((Cow::Owned(path), host))
}

/// Whether a target is a host alone.
fn is_bare(target: &str) -> bool {
    let rest = target.split_once("://").map(|(_, rest)| rest);
    rest.is_some_and(|rest| !rest.contains(['/', '?']))
}

/// Does what a request asks for.
pub(super) async fn serve(client: &mut Client<'_>, asked: Asked) -> Next {
    let Asked { facts, task, _busy } = asked;
    match task {
        Task::Say(words, mut line, how) => {
            let read = skip(client, &facts);
            say(client, &facts, (&words, line.as_deref_mut(), how), read).await
        }
        Task::Send(send) => forward(client, facts, send).await,
    }
}

/// Sends a request to a server that can be reached, and passes its answer.
async fn forward(client: &mut Client<'_>, facts: Facts, mut send: Send) -> Next {
    let visit = &mut send.visit;
    let repeatable = facts.repeatable;
    let mut reached = reach(client, visit, repeatable, None).await;
    loop {
        let link = match reached {
            Ok(link) => link,
            Err(why) => {
                let read = skip(client, &facts);
                return refuse(client, &facts, visit, (why, read)).await;
            }
        };
        client.connection.reached(Stage::Open);
        if let Some(line) = &visit.line {
            line.asked();
        }
        let point = Arc::clone(link.point());
        if !std::mem::replace(&mut send.has_host, true) {
            headers::put(&mut send.head, "Host", host(&point.place).as_bytes());
        }
        let exchange = Exchange::new(client, visit, (facts, &send.head), link);
        match exchange.run().await {
            Outcome::Given { keep } => {
                visit.ended(Ended::Whole);
                return match keep {
                    true => Next::Keep,
                    false if facts.framing == Framing::Length(0) => Next::Close,
                    false => Next::Drain,
                };
            }
            Outcome::Unanswered { again: true, .. } => {
                reached = match open(client, visit, &point).await {
                    Ok(link) => Ok(link),
                    Err(error) => match unreached(client, visit, &point, &error) {
                        Ok(why) => reach(client, visit, repeatable, Some(why)).await,
                        Err(why) => Err(why),
                    },
                };
            }
            Outcome::Unanswered { why, read, .. } => {
                return refuse(client, &facts, visit, (why, read)).await;
            }
            Outcome::Broken(how) => {
                visit.ended(how);
                return Next::Reset;
            }
            Outcome::Left => return Next::Leave,
            Outcome::Switched(link) => {
                // Boxed: few requests come to this.
                return match Box::pin(upgrade::pass(client, visit, link)).await {
                    true => Next::Close,
                    false => Next::Leave,
                };
            }
        }
    }
}

/// Answers a request that no server answers; it is counted why. Whether all of it was `read`.
async fn refuse(
    client: &mut Client<'_>,
    facts: &Facts,
    visit: &mut Visit,
    (why, read): (Refused, bool),
) -> Next {
    visit.refused(why);
    let read = read && why != Refused::BadRequest;
    let words = Words::refusal(why, visit.settings.reason_header);
    let line = visit.line.as_deref_mut();
    say(client, facts, (&words, line, Ended::Refused), read).await
}

/// Gives an answer of our own, and notes it in the log.
async fn say(
    client: &mut Client<'_>,
    facts: &Facts,
    (words, line, how): (&Words, Option<&mut Line>, Ended),
    read: bool,
) -> Next {
    let settings = client.service().settings();
    let given = Given::plain(facts.minor, facts.keep && read, client.hsts(&settings));
    if let Some(line) = line {
        line.answered(words.status.as_u16());
        line.ended(how);
        if !facts.head_alone {
            let down = &line.counts().down;
            down.store(words.length() as u64, Ordering::Relaxed);
        }
    }
    client.outbox.push(&words.written(given, facts.head_alone));
    match client.write_all(settings.relay.idle).await {
        Ok(()) if given.keep => Next::Keep,
        Ok(()) if read => Next::Close,
        Ok(()) => Next::Drain,
        Err(_) => Next::Leave,
    }
}

/// Reads over the body of a request that goes nowhere, if it is here; whether it was.
fn skip(client: &mut Client<'_>, facts: &Facts) -> bool {
    let body = Body::of(facts.framing, Sender::Client);
    let mut body = Transfer::new(body, Coding::Discarded, Trailing::Nothing);
    let taken = body.take(&mut client.inbox, &mut Pending::default());
    matches!(taken, Ok(Taken::Whole))
}

/// The first server that can be reached, over a connection that waits or a new one. `failed` is why
/// one could not be before.
///
/// # Errors
/// Why there is none.
async fn reach(
    client: &Client<'_>,
    visit: &mut Visit,
    repeatable: bool,
    mut failed: Option<Refused>,
) -> Result<Link, Refused> {
    loop {
        let point = match visit.next() {
            Ok(point) => point,
            // Servers that can't be reached say more than that none is left.
            Err(why) => return Err(failed.unwrap_or(why)),
        };
        client.connection.tries(&point, visit.chosen_by());
        if let Some(link) = pool::take(&key(client, visit, &point), repeatable) {
            visit.connected();
            return Ok(link);
        }
        match open(client, visit, &point).await {
            Ok(link) => {
                visit.connected();
                return Ok(link);
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
    client: &Client<'_>,
    visit: &mut Visit,
    point: &Point,
    error: &io::Error,
) -> Result<Refused, Refused> {
    let service = client.service();
    let from = how(&visit.settings, &client.visitor).from;
    if has_no_way(error, &point.place, from) {
        no_way(service, point, error);
        visit.passed_by();
        return Ok(Refused::HostLacks);
    }
    if is_ours(error) {
        no_way(service, point, error);
        return Err(Refused::HostLacks);
    }
    let taken_out = visit.failed(point);
    missed(service, point, error, taken_out);
    Ok(match error.kind() == io::ErrorKind::TimedOut {
        true => Refused::TooLate,
        false => Refused::ConnectFailed,
    })
}

/// A new connection.
async fn open(client: &Client<'_>, visit: &Visit, point: &Arc<Point>) -> io::Result<Link> {
    let _pending = client.service().pending.enter().await;
    let how = how(&visit.settings, &client.visitor);
    let stream = match connect(&point.place, how).await {
        Err(error) if is_exhaustion(&error) => {
            // Ours that wait give theirs up before we wait for those of others.
            pool::close_all();
            connect_patiently(&point.place, how).await?
        }
        result => result?,
    };
    let key = key(client, visit, point);
    let stream = match key.spoken() {
        Some(spoken) => Box::pin(spoken.secure(stream, &point.peer, how.timeout)).await?,
        None => stream,
    };
    Ok(Link::new(stream, key))
}

fn key(client: &Client<'_>, visit: &Visit, point: &Arc<Point>) -> Key {
    Key::new(point, client.visitor.port, &visit.settings)
}

/// Clients of HTTP/1.0 may name no host; servers of HTTP/1.1 want one.
fn host(place: &Place) -> String {
    match place {
        Place::Tcp(SocketAddr::V4(address)) => address.ip().to_string(),
        Place::Tcp(SocketAddr::V6(address)) => format!("[{}]", address.ip()),
        Place::Unix(_) => "localhost".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_to_those_who_were_not_named_by_their_clients() {
        for (place, name) in [
            (Place::Tcp(([10, 0, 0, 1], 81).into()), "10.0.0.1"),
            (
                Place::Tcp(([0xfd77, 0, 0, 0, 0, 0, 0, 1], 81).into()),
                "[fd77::1]",
            ),
            (Place::Unix("/run/s".into()), "localhost"),
        ] {
            assert_eq!(host(&place), name);
        }
    }

    #[test]
    fn servers_are_asked_for_the_path_alone() {
        let asked = |method: &str, target: &str| {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut room = head::room();
            let request = head::request(head.as_bytes(), &mut room).unwrap().unwrap();
            origin(&request).map(|(target, host)| (target.into_owned(), host))
        };
        let path = |path: &str| Some((path.to_owned(), None));
        let at = |path: &str, host: &str| Some((path.to_owned(), Some(host.to_owned())));
        for (target, expected) in [
            ("/a?b", path("/a?b")),
            ("/a#b", path("/a")),
            ("//a/b", path("//a/b")),
            ("http://b/c?d", at("/c?d", "b")),
            ("http://user@b:81/c", at("/c", "b:81")),
            ("http://b", at("/", "b")),
            ("http://b?x", at("/?x", "b")),
            ("http://b/?x", at("/?x", "b")),
            ("a:80", None),
            ("*", None),
            ("a", None),
        ] {
            assert_eq!(asked("GET", target), expected, "{target}");
        }
        assert_eq!(asked("OPTIONS", "*"), path("*"));
        assert_eq!(asked("OPTIONS", "http://b"), at("*", "b"));
        assert_eq!(asked("OPTIONS", "http://b/"), at("/", "b"));
    }
}
