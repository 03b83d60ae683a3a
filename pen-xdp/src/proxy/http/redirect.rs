//! Requests that are sent elsewhere: to the same host and target, over HTTPS.
//!
//! What the client sent comes back in a header of ours, so that nothing goes in there that is not a
//! host or a target to the letter. That it may come over HTTPS alone (HSTS) is never said here:
//! over clear HTTP nobody could believe it (RFC 6797, 7.2).

use std::fmt::Write;
use std::net::Ipv6Addr;

use http::{StatusCode, Uri};
use pen_common::config::Redirect;

use super::answers::Words;

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) method: &'a str,
    pub(super) target: &'a Uri,
    /// As its header says it.
    pub(super) host: Option<&'a [u8]>,
}

/// Longest name of a host (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;

/// The answer that sends a client where it should have asked; `None` if what it asked for is nowhere.
pub(super) fn answer(to: Redirect, wanted: Wanted<'_>) -> Option<Words> {
    let location = location(to, wanted)?;
    // Others than these two must not become a GET on the way (RFC 9110, 15.4.2).
    let status = match wanted.method {
        "GET" | "HEAD" => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    let why = "this is served over HTTPS";
    Some(Words::elsewhere(status, why, location))
}

fn location(to: Redirect, wanted: Wanted<'_>) -> Option<String> {
    let uri = wanted.target;
    // A host in the target counts, and not that in the header (RFC 9112, 3.2.2).
    let said = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => str::from_utf8(wanted.host?).ok()?,
    };
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    let is_absolute = uri.scheme().is_some();
    let target = match path {
        // It is the host itself that is asked about, as a target without a path does elsewhere
        // (RFC 9112, 3.2.4).
        "*" if wanted.method == "OPTIONS" => "",
        _ if path.starts_with('/') || is_absolute => path,
        _ => return None,
    };
    let mut location = format!("https://{}", host(said)?);
    if let Some(port) = to.said_port() {
        write!(location, ":{port}").ok()?;
    }
    if target.starts_with('?') {
        location.push('/');
    }
    location.push_str(target);
    Some(location)
}

/// The host of `HOST[:PORT]`, if it is one: a name, an IPv4 address, or an IPv6 address in brackets.
fn host(said: &str) -> Option<&str> {
    let (host, rest) = match said.strip_prefix('[') {
        Some(inside) => {
            let length = inside.find(']')?;
            inside[..length].parse::<Ipv6Addr>().ok()?;
            said.split_at(length + 2)
        }
        None => {
            let (host, rest) = said.split_at(said.find(':').unwrap_or(said.len()));
            let is_name = (1..=NAME_MAX).contains(&host.len())
                && (host.bytes()).all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            is_name.then_some((host, rest))?
        }
    };
    let is_port = match rest.strip_prefix(':') {
        // RFC 3986, 3.2.3: a port may be empty.
        Some(port) => port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()),
        None => rest.is_empty(),
    };
    is_port.then_some(host)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::super::headers::Given;
    use super::*;

    const HTTPS: Redirect = Redirect { port: 443 };

    fn sent(to: Redirect, method: &str, target: &str, host: Option<&str>) -> Option<(u16, String)> {
        let wanted = Wanted {
            method,
            target: &target.parse().unwrap(),
            host: host.map(str::as_bytes),
        };
        let given = Given::plain(1, true, None);
        let answer = answer(to, wanted)?;
        let text = String::from_utf8(answer.written(given, false)).unwrap();
        assert!(!text.to_lowercase().contains("strict-transport-security"));
        let mut lines = text.split("\r\n");
        let location = lines.find_map(|line| line.strip_prefix("Location: "));
        Some((answer.status.as_u16(), location.unwrap().to_owned()))
    }

    #[test]
    fn the_same_host_and_target_over_https() {
        for (target, host, expected) in [
            ("/", "a.example", "https://a.example/"),
            (
                "/b/../c?d=e&f=%0d%0a",
                "A.Example:80",
                "https://A.Example/b/../c?d=e&f=%0d%0a",
            ),
            ("//other/x", "a", "https://a//other/x"),
            ("/?", "a:", "https://a/?"),
            ("/", "192.0.2.1:8080", "https://192.0.2.1/"),
            ("/", "[2001:db8::1]", "https://[2001:db8::1]/"),
            ("/", "[::1]:80", "https://[::1]/"),
            ("http://other:81/x?y", "a", "https://other/x?y"),
            ("http://[::2]:81/x", "a", "https://[::2]/x"),
            ("http://other", "a", "https://other/"),
            ("http://other?x", "a", "https://other/?x"),
        ] {
            let get = sent(HTTPS, "GET", target, Some(host));
            assert_eq!(get, Some((301, expected.to_owned())));
        }
        let elsewhere = sent(Redirect { port: 8443 }, "GET", "/x", Some("[::1]:80"));
        assert_eq!(elsewhere, Some((301, "https://[::1]:8443/x".to_owned())));
    }

    #[test]
    fn methods_stay_what_they_are() {
        for (method, status) in [
            ("GET", 301),
            ("HEAD", 301),
            ("POST", 308),
            ("OPTIONS", 308),
            ("BREW", 308),
        ] {
            let (said, _) = sent(HTTPS, method, "/x", Some("a")).unwrap();
            assert_eq!(said, status, "{method}");
        }
        let all = sent(HTTPS, "OPTIONS", "*", Some("a:80"));
        assert_eq!(all, Some((308, "https://a".to_owned())));
        assert_eq!(sent(HTTPS, "GET", "*", Some("a")), None);
    }

    #[test]
    fn what_is_no_host_comes_back_to_nobody() {
        let long = "a".repeat(NAME_MAX + 1);
        for host in [
            "",
            ":80",
            "a b",
            "a/b",
            "a\tb",
            "a@b",
            "a?b",
            "a#b",
            "a%0d%0ab",
            "a\\b",
            "a,b",
            "a:b",
            "a:80:80",
            "a\"",
            "<a>",
            "\u{e9}",
            "[::1",
            "::1",
            "[]",
            "[a]",
            "[::1]x",
            "[::1]:x",
            "[fe80::1%25eth0]",
            "[127.0.0.1]",
            &long,
        ] {
            assert_eq!(sent(HTTPS, "GET", "/", Some(host)), None, "{host:?}");
        }
        assert_eq!(sent(HTTPS, "GET", "/", None), None);
        assert_eq!(sent(HTTPS, "GET", "http://user@a/", Some("a")), None);
        // A target that is a host alone is that of CONNECT.
        assert_eq!(sent(HTTPS, "GET", "a:80", Some("a")), None);
    }
}
