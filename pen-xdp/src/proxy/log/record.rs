//! What one line of the access log tells, as plain data.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pen_common::control::{ChosenBy, Ended, Refused};

/// Bytes of a client's first line that are kept, as in Pen.
pub(super) const FIRST_MAX: usize = 100;
/// Bytes of a method that are kept: none that anybody knows is longer.
const METHOD_MAX: usize = 32;
/// Bytes of a request's target that are kept.
const TARGET_MAX: usize = 2048;
/// Bytes of a header that are kept.
const FIELD_MAX: usize = 512;

/// One connection, flow or request that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Record {
    /// When it began.
    pub(in crate::proxy) begun: SystemTime,
    /// Name of the service.
    pub(in crate::proxy) service: Arc<str>,
    /// Where the client connected to.
    pub(in crate::proxy) listener: Arc<str>,
    /// The client, as a proxy before us names it; `None` over a Unix socket.
    pub(in crate::proxy) client: Option<SocketAddr>,
    /// Who served, or was to.
    pub(in crate::proxy) server: Option<ServedBy>,
    /// Why that one.
    pub(in crate::proxy) chosen: Option<ChosenBy>,
    /// Why nobody did.
    pub(in crate::proxy) refused: Option<Refused>,
    /// Servers that could not be reached before.
    pub(in crate::proxy) tries: u32,
    /// From the client.
    pub(in crate::proxy) bytes_in: u64,
    /// To the client.
    pub(in crate::proxy) bytes_out: u64,
    /// From the beginning until a server was reached.
    pub(in crate::proxy) connect: Option<Duration>,
    /// From the beginning to the end.
    pub(in crate::proxy) duration: Duration,
    pub(in crate::proxy) ended: Ended,
    /// The first line of what the client sent, if it was kept.
    pub(in crate::proxy) first: Option<Box<[u8]>>,
    /// The name that it asked for when it began to speak TLS (SNI), if that was heard.
    pub(in crate::proxy) sni: Option<String>,
    /// The common name in the certificate that it showed.
    pub(in crate::proxy) common_name: Option<String>,
    /// In HTTP mode.
    pub(in crate::proxy) http: Option<Http>,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct ServedBy {
    pub(in crate::proxy) name: String,
    pub(in crate::proxy) at: At,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum At {
    Ip(SocketAddr),
    Path(String),
}

/// A request and its answer. Without a method nobody could read the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) struct Http {
    pub(in crate::proxy) method: Option<String>,
    /// At most [`TARGET_MAX`] bytes of it.
    pub(in crate::proxy) target: Vec<u8>,
    /// `HTTP/1.1`.
    pub(in crate::proxy) version: &'static str,
    /// Of the answer; 0 if there was none.
    pub(in crate::proxy) status: u16,
    /// At most [`FIELD_MAX`] bytes of each.
    pub(in crate::proxy) host: Option<Vec<u8>>,
    pub(in crate::proxy) referer: Option<Vec<u8>>,
    pub(in crate::proxy) user_agent: Option<Vec<u8>>,
}

/// The first line of `bytes`, as much as is kept of it.
pub(super) fn first_line(bytes: &[u8]) -> &[u8] {
    let kept = &bytes[..bytes.len().min(FIRST_MAX)];
    let end = kept.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    &kept[..end.unwrap_or(kept.len())]
}

/// What is kept of a method.
pub(super) fn method(name: &str) -> String {
    name.chars().take(METHOD_MAX).collect()
}

/// What is kept of a target.
pub(super) fn target(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().min(TARGET_MAX)].to_vec()
}

/// What is kept of a header.
pub(super) fn field(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().min(FIELD_MAX)].to_vec()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
pub(super) mod tests {
    use super::*;

    /// A request that was answered, from which tests differ.
    pub(in crate::proxy::log) fn record() -> Record {
        Record {
            begun: SystemTime::UNIX_EPOCH + Duration::from_millis(971_186_136_123),
            service: "shop".into(),
            listener: "[::]:80".into(),
            client: Some("192.0.2.9:40001".parse().unwrap()),
            server: Some(ServedBy {
                name: "web1".to_owned(),
                at: At::Ip("10.0.0.1:8080".parse().unwrap()),
            }),
            chosen: Some(ChosenBy::RoundRobin),
            refused: None,
            tries: 1,
            bytes_in: 7,
            bytes_out: 2326,
            connect: Some(Duration::from_millis(3)),
            duration: Duration::from_millis(12_345),
            ended: Ended::Whole,
            first: None,
            sni: None,
            common_name: None,
            http: Some(Http {
                method: Some("GET".to_owned()),
                target: b"/a?b".to_vec(),
                version: "HTTP/1.1",
                status: 200,
                host: Some(b"example.com".to_vec()),
                referer: Some(b"http://r/".to_vec()),
                user_agent: Some(b"curl/8".to_vec()),
            }),
        }
    }

    #[test]
    fn a_line_ends_where_it_ends_or_where_no_more_is_kept() {
        assert_eq!(first_line(b"GET / HTTP/1.1\r\nHost: a"), b"GET / HTTP/1.1");
        assert_eq!(first_line(b"a\nb"), b"a");
        assert_eq!(first_line(b""), b"");
        assert_eq!(first_line(&[b'x'; 300]), [b'x'; FIRST_MAX]);
        assert_eq!(method(&"X".repeat(99)).len(), METHOD_MAX);
        assert_eq!(target(&[b'x'; 9000]).len(), TARGET_MAX);
        assert_eq!(field(&[b'x'; 9000]).len(), FIELD_MAX);
    }
}
