//! Headers on their way through: what is meant for the next hop alone stays here, and servers are
//! told who the client is.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use pen_common::config::Acl;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What begins the names of headers in which proxies say where a request comes from.
const PREFIX: &str = "x-forwarded-";

/// Takes away what is meant for the next hop alone (RFC 9110, 7.6.1), and gives back the protocol
/// that is to be switched to, if both headers ask for it.
pub(super) fn take_hop_by_hop(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let mut named = Vec::new();
    let mut switches = false;
    for value in headers.get_all(CONNECTION) {
        let words = value.to_str().unwrap_or_default().split(',').map(str::trim);
        for word in words {
            switches |= word.eq_ignore_ascii_case("upgrade");
            named.extend(HeaderName::from_bytes(word.as_bytes()).ok());
        }
    }
    let upgrade = headers.remove(UPGRADE).filter(|_| switches);
    // Without them the message would be another one: nobody can mean that.
    for name in named
        .iter()
        .filter(|name| **name != HOST && **name != CONTENT_LENGTH)
    {
        if *name != TRAILER {
            headers.remove(name);
        }
    }
    // A length beside an encoding means nothing, and must not come to mean something.
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
    for name in [&CONNECTION, &KEEP_ALIVE, &PROXY_CONNECTION, &TE] {
        headers.remove(name);
    }
    upgrade
}

/// Makes the headers of a client's request those of the request to a server.
pub(super) fn prepare(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let trailers = headers
        .get_all(TE)
        .iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let upgrade = take_hop_by_hop(headers).and_then(without_h2c);
    headers.remove(HTTP2_SETTINGS);
    // hyper says `100 Continue` itself as soon as the body is wanted.
    headers.remove(EXPECT);
    if let Some(protocol) = &upgrade {
        headers.insert(UPGRADE, protocol.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    upgrade
}

/// The protocols that can be switched to: with HTTP/2 many requests would pass as one.
fn without_h2c(upgrade: HeaderValue) -> Option<HeaderValue> {
    let words = upgrade.to_str().ok()?.split(',').map(str::trim);
    let others: Vec<&str> = words
        .filter(|word| !word.is_empty() && !word.eq_ignore_ascii_case("h2c"))
        .collect();
    match others.is_empty() {
        true => None,
        false => HeaderValue::from_str(&others.join(", ")).ok(),
    }
}

/// Whether a client is believed what it says of where a request comes from.
pub(super) fn trusts(client: Option<IpAddr>, trusted: &Acl) -> bool {
    client.is_some_and(|client| trusted.names(client))
}

/// Takes away what is said of where a request comes from. Servers that hand headers on as variables
/// of a program take `_` for `-`.
pub(super) fn take_claims(headers: &mut HeaderMap) {
    let claims = |name: &&HeaderName| {
        let name = name.as_str().replace('_', "-");
        name.starts_with(PREFIX) || name == FORWARDED.as_str()
    };
    let said: Vec<HeaderName> = headers.keys().filter(claims).cloned().collect();
    for name in said {
        headers.remove(name);
    }
}

/// Says who the client is. What it says itself of where the request comes from counts only if it
/// is trusted: else it is replaced, and what nobody replaces taken away.
pub(super) fn tell_client(headers: &mut HeaderMap, client: Option<IpAddr>, trusted: bool) {
    if !trusted {
        take_claims(headers);
    }
    if let Some(client) = client {
        let mut way: Vec<u8> = Vec::new();
        for value in headers.get_all(FOR) {
            way.extend_from_slice(value.as_bytes());
            way.extend_from_slice(b", ");
        }
        way.extend_from_slice(client.to_string().as_bytes());
        // Values that were values make one together.
        if let Ok(way) = HeaderValue::from_bytes(&way) {
            headers.insert(FOR, way);
        }
    }
    headers
        .entry(PROTO)
        .or_insert(HeaderValue::from_static("http"));
    if let Some(host) = headers.get(HOST).cloned() {
        headers.entry(FORWARDED_HOST).or_insert(host);
    }
}

#[cfg(test)]
mod tests {
    use pen_common::config::ProxyOptions;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn trusted(network: &str) -> Acl {
        let mut service = pen_common::config::Service::new("s");
        service.mode = pen_common::config::Mode::Http;
        service.set("trusted", network).unwrap();
        service.proxy.trusted
    }

    #[test]
    fn what_is_for_the_next_hop_stays_here() {
        let mut all = headers(&[
            ("connection", "close, X-Secret"),
            ("connection", "Host, content-length, trailer"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("host", "a"),
            ("content-length", "3"),
            ("trailer", "x-sum"),
            ("x-kept", "2"),
        ]);
        assert_eq!(prepare(&mut all), None);
        let expected = [
            ("host", "a"),
            ("content-length", "3"),
            ("trailer", "x-sum"),
            ("x-kept", "2"),
            ("te", "trailers"),
            ("connection", "te"),
        ];
        assert_eq!(all, headers(&expected));
    }

    #[test]
    fn an_upgrade_is_asked_for_in_two_headers() {
        let mut asked = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "ws")]);
        assert_eq!(prepare(&mut asked).unwrap(), "ws");
        let expected = [("upgrade", "ws"), ("connection", "upgrade")];
        assert_eq!(asked, headers(&expected));
    }

    #[test]
    fn nobody_switches_to_http_2() {
        let ask = |protocols| {
            let mut asked = headers(&[
                ("connection", "Upgrade, HTTP2-Settings"),
                ("upgrade", protocols),
            ]);
            asked.insert(HTTP2_SETTINGS, HeaderValue::from_static("AAMA"));
            (prepare(&mut asked), asked)
        };
        assert_eq!(ask("H2C"), (None, HeaderMap::new()));
        let (protocol, rest) = ask("h2c, ws");
        assert_eq!(protocol.unwrap(), "ws");
        let expected = [("upgrade", "ws"), ("connection", "upgrade")];
        assert_eq!(rest, headers(&expected));
    }

    #[test]
    fn a_length_beside_an_encoding_is_dropped() {
        let mut both = headers(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        take_hop_by_hop(&mut both);
        assert!(both.is_empty());
    }

    #[test]
    fn strangers_say_nothing_of_where_they_come_from() {
        let said = [
            ("host", "a"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x_forwarded_for", "3.3.3.3"),
            ("x-forwarded_host", "b"),
            ("forwarded", "for=1.1.1.1"),
        ];
        let client = Some("10.0.0.9".parse().unwrap());
        let mut stranger = headers(&said);
        let nobody = ProxyOptions::default().trusted;
        tell_client(&mut stranger, client, trusts(client, &nobody));
        let expected = [
            ("host", "a"),
            ("x-forwarded-for", "10.0.0.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "a"),
        ];
        assert_eq!(stranger, headers(&expected));
        let mut friend = headers(&said);
        let friends = trusted("10.0.0.0/8");
        tell_client(&mut friend, client, trusts(client, &friends));
        assert_eq!(friend["x-forwarded-for"], "1.1.1.1, 2.2.2.2, 10.0.0.9");
        assert_eq!(friend["x-forwarded-proto"], "https");
        assert_eq!(friend["forwarded"], "for=1.1.1.1");
        // Nobody knows who is behind a Unix socket.
        let mut unix = headers(&said);
        tell_client(&mut unix, None, trusts(None, &friends));
        assert!(unix.get("x-forwarded-for").is_none());
    }
}
