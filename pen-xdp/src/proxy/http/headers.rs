//! Heads as they go on: what is meant for the next hop alone stays here, and servers are told who
//! the client is.

use std::io::Write;
use std::net::IpAddr;

use httparse::Status;
use pen_common::config::Acl;

use super::date;
use super::fields::Field;
use super::head::{Answer, Fault, Framing, Request};
use super::transfer::{Coding, Trailing};
use crate::proxy::tls::Standing;

/// Most trailers.
const TRAILERS_MAX: usize = 100;

/// What a server is told of a request beside what the client says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    /// Path and query, or `*`.
    pub(super) target: &'a str,
    /// A host in the target, which counts, and not that in the header (RFC 9112, 3.2.2).
    pub(super) host: Option<&'a str>,
    /// Unknown over a Unix socket.
    pub(super) client: Option<IpAddr>,
    /// Whether it counts what the client says of where the request comes from.
    pub(super) trusted: bool,
    /// `http` or `https`, as the client asks.
    pub(super) scheme: &'a str,
    /// Who the client is by its certificate.
    pub(super) standing: &'a Standing,
}

/// What a client is told of an answer beside what the server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given<'a> {
    /// Of HTTP/1, the client's own.
    pub(super) minor: u8,
    pub(super) coding: Coding,
    /// Whether the connection lasts, if it does not switch.
    pub(super) keep: bool,
    pub(super) switches: bool,
    /// What browsers are told of HTTPS, in place of what the server says of it.
    pub(super) hsts: Option<&'a str>,
}

impl<'a> Given<'a> {
    /// Of an answer that goes out as it is.
    pub(super) const fn plain(minor: u8, keep: bool, hsts: Option<&'a str>) -> Self {
        Self {
            minor,
            coding: Coding::Plain,
            keep,
            switches: false,
            hsts,
        }
    }
}

/// Whether a client is believed what it says of where a request comes from.
pub(super) fn trusts(client: Option<IpAddr>, trusted: &Acl) -> bool {
    client.is_some_and(|client| trusted.names(client))
}

/// The protocols that a request asks to switch to; with HTTP/2 many requests would pass as one.
pub(super) fn protocols(request: &Request<'_, '_>) -> Option<String> {
    // Of older clients it may be what a proxy passed on that does not know it (RFC 9110, 7.8).
    if request.minor == 0 || !request.wish.upgrade {
        return None;
    }
    let mut named = String::new();
    for field in of(request.fields, Field::Upgrade) {
        let words = str::from_utf8(field).unwrap_or_default().split(',');
        for word in words.map(str::trim) {
            if !word.is_empty() && !word.eq_ignore_ascii_case("h2c") {
                if !named.is_empty() {
                    named.push_str(", ");
                }
                named.push_str(word);
            }
        }
    }
    Some(named).filter(|named| !named.is_empty())
}

/// Whether whoever sends this takes trailers.
pub(super) fn takes_trailers(request: &Request<'_, '_>) -> bool {
    of(request.fields, Field::Te).any(|value| value.eq_ignore_ascii_case(b"trailers"))
}

/// Whether a client waits to be told that its body is wanted.
pub(super) fn waits(request: &Request<'_, '_>) -> bool {
    let mut said = of(request.fields, Field::Expect);
    request.minor == 1 && said.any(|value| value.eq_ignore_ascii_case(b"100-continue"))
}

/// The values of a header.
pub(super) fn of<'a>(
    fields: &'a [httparse::Header<'a>],
    which: Field,
) -> impl Iterator<Item = &'a [u8]> {
    let named = fields
        .iter()
        .filter(move |field| Field::of(field.name) == which);
    named.map(|field| field.value)
}

/// The head of a request as the server gets it, without the empty line at its end, and whether it
/// names a host.
pub(super) fn write_request(
    request: &Request<'_, '_>,
    protocols: Option<&str>,
    told: Told<'_>,
) -> (Vec<u8>, bool) {
    let mut out = Vec::with_capacity(request.length + 256);
    for word in [request.method, " ", told.target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(word.as_bytes());
    }
    let mut host = told.host.map(str::as_bytes);
    if let Some(host) = host {
        put(&mut out, "Host", host);
    }
    let (mut proto, mut forwarded_host) = (false, false);
    for field in request.fields {
        let passes = match Field::of(field.name) {
            Field::Host if told.host.is_some() => false,
            Field::Host => {
                host = Some(field.value);
                true
            }
            Field::ContentLength | Field::Trailer | Field::Date | Field::Hsts => true,
            Field::Connection
            | Field::Expect
            | Field::Hop
            | Field::Te
            | Field::TransferEncoding
            | Field::Upgrade
            | Field::For => false,
            Field::Proto => {
                proto |= told.trusted;
                told.trusted
            }
            Field::ForwardedHost => {
                forwarded_host |= told.trusted;
                told.trusted
            }
            Field::Claim => told.trusted && !is_named(&request.wish.others, field.name),
            // Where clients are asked for certificates nobody else says who they are.
            Field::Identity => {
                let unasked = matches!(told.standing, Standing::Unasked);
                unasked && told.trusted && !is_named(&request.wish.others, field.name)
            }
            Field::Other => !is_named(&request.wish.others, field.name),
        };
        if passes {
            put(&mut out, field.name, field.value);
        }
    }
    if request.framing == Framing::Chunked {
        put(&mut out, "Transfer-Encoding", b"chunked");
    }
    if let Some(protocols) = protocols {
        put(&mut out, "Upgrade", protocols.as_bytes());
        put(&mut out, "Connection", b"upgrade");
    } else if takes_trailers(request) {
        put(&mut out, "TE", b"trailers");
        put(&mut out, "Connection", b"te");
    }
    write_way(&mut out, request, told);
    if !proto {
        put(&mut out, "X-Forwarded-Proto", told.scheme.as_bytes());
    }
    if let Some(host) = host.filter(|_| !forwarded_host) {
        put(&mut out, "X-Forwarded-Host", host);
    }
    write_standing(&mut out, told.standing);
    (out, host.is_some())
}

/// Whom the request has come through. What a client says itself counts only if it is trusted.
fn write_way(out: &mut Vec<u8>, request: &Request<'_, '_>, told: Told<'_>) {
    let said = of(request.fields, Field::For).filter(|_| told.trusted);
    let mut begun = false;
    let mut begin = |out: &mut Vec<u8>| {
        let before: &[u8] = match std::mem::replace(&mut begun, true) {
            true => b", ",
            false => b"X-Forwarded-For: ",
        };
        out.extend_from_slice(before);
    };
    for value in said {
        begin(out);
        out.extend_from_slice(value);
    }
    if let Some(client) = told.client {
        begin(out);
        // Writing to memory does not fail.
        let _ = write!(out, "{client}");
    }
    if begun {
        out.extend_from_slice(b"\r\n");
    }
}

/// Who the client is by its certificate, in nginx's words.
fn write_standing(out: &mut Vec<u8>, standing: &Standing) {
    let verify = "X-SSL-Client-Verify";
    match standing {
        Standing::Unasked => {}
        Standing::Anonymous => put(out, verify, b"NONE"),
        Standing::Known(identity) => {
            put(out, verify, b"SUCCESS");
            for (name, value) in identity.fields() {
                put(out, name, value.as_bytes());
            }
        }
    }
}

/// The head of an answer as the client gets it.
pub(super) fn write_answer(answer: &Answer<'_, '_>, given: Given<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(answer.length + 128);
    // Writing to memory does not fail.
    let _ = write!(out, "HTTP/1.{} {:03} ", given.minor, answer.status);
    out.extend_from_slice(answer.reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    let (mut dated, mut measured) = (false, answer.framing == Some(Framing::Chunked));
    for field in answer.fields {
        let passes = match Field::of(field.name) {
            // Said twice it is said once.
            Field::ContentLength => !std::mem::replace(&mut measured, true),
            Field::Upgrade => given.switches,
            Field::Hsts => given.hsts.is_none(),
            Field::Date => {
                dated = true;
                true
            }
            Field::Connection | Field::Hop | Field::Te | Field::TransferEncoding => false,
            Field::Trailer => true,
            Field::Expect
            | Field::Host
            | Field::For
            | Field::Proto
            | Field::ForwardedHost
            | Field::Claim
            | Field::Identity
            | Field::Other => !is_named(&answer.wish.others, field.name),
        };
        if passes {
            put(&mut out, field.name, field.value);
        }
    }
    if !dated {
        put(&mut out, "Date", &date::now());
    }
    if given.coding == Coding::Chunked {
        put(&mut out, "Transfer-Encoding", b"chunked");
    }
    write_given(&mut out, given);
    out.extend_from_slice(b"\r\n");
    out
}

/// What every answer says: of HTTPS, and what becomes of the connection, where that does not go
/// without saying (RFC 9112, 9.3).
pub(super) fn write_given(out: &mut Vec<u8>, given: Given<'_>) {
    if let Some(hsts) = given.hsts {
        put(out, "Strict-Transport-Security", hsts.as_bytes());
    }
    match (given.switches, given.keep, given.minor) {
        (true, _, _) => put(out, "Connection", b"upgrade"),
        (_, false, 1) => put(out, "Connection", b"close"),
        (_, true, 0) => put(out, "Connection", b"keep-alive"),
        (_, _, _) => {}
    }
}

/// The trailers that go along, without the empty line at their end.
///
/// # Errors
/// They are none.
pub(super) fn trailers(bytes: &[u8], which: Trailing) -> Result<Vec<u8>, Fault> {
    if matches!(bytes, b"\r\n" | b"\n") {
        return Ok(Vec::new());
    }
    let mut room = [httparse::EMPTY_HEADER; TRAILERS_MAX];
    let fields = match httparse::parse_headers(bytes, &mut room) {
        Ok(Status::Complete((length, fields))) if length == bytes.len() => fields,
        Ok(_) | Err(_) => return Err(Fault::Trailers),
    };
    let mut out = Vec::new();
    for field in fields {
        let known = Field::of(field.name);
        let passes = match which {
            Trailing::All => true,
            Trailing::Unclaimed => !known.claims(),
            Trailing::Nothing => false,
        };
        if passes && known.may_trail(field.name) {
            put(&mut out, field.name, field.value);
        }
    }
    Ok(out)
}

/// Writes one line.
pub(super) fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn is_named(names: &[&str], name: &str) -> bool {
    names.iter().any(|other| other.eq_ignore_ascii_case(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use pen_common::config::ProxyOptions;

    use super::super::head::{answer, request, room};
    use super::*;

    fn acl(network: &str) -> Acl {
        let mut service = pen_common::config::Service::new("s");
        service.mode = pen_common::config::Mode::Http;
        service.set("trusted", network).unwrap();
        service.proxy.trusted
    }

    /// The lines that a server gets for a request with these, and what it is asked to switch to.
    fn sent(lines: &[&str], client: Option<&str>, trusted: bool) -> (Vec<String>, Option<String>) {
        sent_by(lines, client, (trusted, &Standing::Unasked))
    }

    fn sent_by(
        lines: &[&str],
        client: Option<&str>,
        (trusted, standing): (bool, &Standing),
    ) -> (Vec<String>, Option<String>) {
        let head = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n",
            lines.join("\r\n")
        );
        let mut room = room();
        let request = request(head.as_bytes(), &mut room).unwrap().unwrap();
        let told = Told {
            target: "/x",
            host: None,
            client: client.map(|client| client.parse().unwrap()),
            trusted,
            scheme: "http",
            standing,
        };
        let protocols = protocols(&request);
        let (out, has_host) = write_request(&request, protocols.as_deref(), told);
        assert!(has_host);
        let text = String::from_utf8(out).unwrap();
        let mut lines = text.split_terminator("\r\n").map(str::to_owned);
        assert_eq!(lines.next().unwrap(), "GET /x HTTP/1.1");
        assert_eq!(lines.next().unwrap(), "Host: a");
        (lines.collect(), protocols)
    }

    const OURS: [&str; 2] = ["X-Forwarded-Proto: http", "X-Forwarded-Host: a"];

    fn with_ours(lines: &[&str]) -> Vec<String> {
        let all = lines.iter().chain(&OURS);
        all.map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn what_is_for_the_next_hop_stays_here() {
        let lines = [
            "Connection: close, X-Secret",
            "connection: Host, content-length, trailer",
            "X-SECRET: 1",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: close",
            "TE: trailers",
            "Upgrade: ws",
            "HTTP2-Settings: AAMA",
            "Expect: 100-continue",
            "Content-Length: 3",
            "Trailer: x-sum",
            "x-Kept: 2",
        ];
        let expected = [
            "Content-Length: 3",
            "Trailer: x-sum",
            "x-Kept: 2",
            "TE: trailers",
            "Connection: te",
        ];
        assert_eq!(sent(&lines, None, false), (with_ours(&expected), None));
    }

    #[test]
    fn an_upgrade_is_asked_for_in_two_headers_and_never_to_http_2() {
        let ask = |protocols: &str| {
            let upgrade = format!("Upgrade: {protocols}");
            sent(&["Connection: keep-alive, Upgrade", &upgrade], None, false)
        };
        let expected = with_ours(&["Upgrade: ws", "Connection: upgrade"]);
        assert_eq!(ask("ws"), (expected.clone(), Some("ws".to_owned())));
        assert_eq!(ask("h2c, ws"), (expected, Some("ws".to_owned())));
        assert_eq!(ask("H2C"), (with_ours(&[]), None));
        let old = "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: ws\r\n\r\n";
        let mut room = room();
        let old = request(old.as_bytes(), &mut room).unwrap().unwrap();
        assert_eq!(protocols(&old), None);
    }

    #[test]
    fn strangers_say_nothing_of_where_they_come_from() {
        let said = [
            "X-Forwarded-For: 1.1.1.1",
            "x-forwarded-for: 2.2.2.2",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Port: 443",
            "X_Forwarded_For: 3.3.3.3",
            "X-Forwarded_Host: b",
            "X.Forwarded!For~: 4.4.4.4",
            "Forwarded: for=1.1.1.1",
        ];
        let client: IpAddr = "10.0.0.9".parse().unwrap();
        let nobody = ProxyOptions::default().trusted;
        assert!(!trusts(Some(client), &nobody) && !trusts(None, &acl("10.0.0.0/8")));
        let expected = with_ours(&["X-Forwarded-For: 10.0.0.9"]);
        assert_eq!(sent(&said, Some("10.0.0.9"), false).0, expected);
        assert!(trusts(Some(client), &acl("10.0.0.0/8")));
        let expected = [
            "X-Forwarded-Proto: https",
            "X-Forwarded-Port: 443",
            "X_Forwarded_For: 3.3.3.3",
            "X-Forwarded_Host: b",
            "X.Forwarded!For~: 4.4.4.4",
            "Forwarded: for=1.1.1.1",
            "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.0.0.9",
            "X-Forwarded-Host: a",
        ];
        assert_eq!(sent(&said, Some("10.0.0.9"), true).0, expected);
        // Nobody knows who is behind a Unix socket.
        assert_eq!(sent(&said, None, false).0, OURS);
    }

    #[test]
    fn nobody_says_who_he_is_by_a_certificate() {
        let said = [
            "X-SSL-Client-Verify: SUCCESS",
            "x-ssl-client-verify: SUCCESS",
            "X_SSL_Client_Verify: SUCCESS",
            "X-Ssl_Client-S-DN: CN=root",
            "X.SSL.Client.S-DN: CN=root",
            "X!SSL!Client!Verify: SUCCESS",
            "x~ssl~client~verify: SUCCESS",
            "X-SSL-Client-CN: root",
            "X-SSL-Client: 1",
            "Connection: X-SSL-Client-Verify",
        ];
        let none = "X-SSL-Client-Verify: NONE".to_owned();
        let unasked = Standing::Unasked;
        assert_eq!(sent_by(&said, None, (false, &unasked)).0, OURS);
        for trusted in [false, true] {
            let got = sent_by(&said, None, (trusted, &Standing::Anonymous)).0;
            let mut expected = with_ours(&[]);
            expected.push(none.clone());
            assert_eq!(got, expected);
        }
        // A proxy before us that asked clients itself.
        let got = sent_by(&said[1..9], None, (true, &unasked)).0;
        assert_eq!(got, with_ours(&said[1..9]));
    }

    fn answered(lines: &[&str], given: Given<'_>) -> Vec<String> {
        let head = format!("HTTP/1.0 200 Fine\r\n{}\r\n\r\n", lines.join("\r\n"));
        let mut room = room();
        let answer = answer(head.as_bytes(), &mut room).unwrap().unwrap();
        let text = String::from_utf8(write_answer(&answer, given)).unwrap();
        let lines = text.strip_suffix("\r\n\r\n").unwrap().split("\r\n");
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn answers_say_once_how_long_they_are_and_what_becomes_of_the_connection() {
        let given = Given::plain(1, true, None);
        let lines = [
            "Connection: X-Hop",
            "X-Hop: 1",
            "Content-Length: 3",
            "content-length: 3",
            "date: then",
            "Upgrade: h2c",
        ];
        let expected = ["HTTP/1.1 200 Fine", "Content-Length: 3", "date: then"];
        assert_eq!(answered(&lines, given), expected);
        let close = Given {
            keep: false,
            ..given
        };
        assert_eq!(answered(&lines, close)[3..], ["Connection: close"]);
        let old = Given { minor: 0, ..given };
        let expected = ["Connection: keep-alive"];
        assert_eq!(answered(&lines, old)[3..], expected);
        let both = ["Transfer-Encoding: chunked", "Content-Length: 9"];
        let chunked = Given {
            coding: Coding::Chunked,
            ..given
        };
        let lines = answered(&both, chunked);
        assert!(lines[1].starts_with("Date: ") && lines[1].ends_with(" GMT"));
        assert_eq!(lines[2..], ["Transfer-Encoding: chunked"]);
        let hsts = ["strict-transport-security: max-age=0", "Date: then"];
        assert_eq!(answered(&hsts, given)[1..], hsts);
        let told = Given {
            hsts: Some("max-age=9"),
            ..given
        };
        let expected = ["Date: then", "Strict-Transport-Security: max-age=9"];
        assert_eq!(answered(&hsts, told)[1..], expected);
    }
}
