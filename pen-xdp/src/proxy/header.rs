//! The PROXY protocol on connections: the header that a client begins with, and the one that a
//! server is sent before the client's first byte.
//!
//! A header is looked at until it is whole, and only then taken from the stream, all of it and no
//! more: what follows is the client's, and goes the way of all its bytes.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use pen_common::config::SendProxy;
use pen_common::proxy_protocol::{
    Addresses, HEADER_MAX, Header, ParseError, Parsed, Tlv, parse, tlv, write_v1, write_v2,
};
use tokio::io::Interest;
use tokio::time::timeout;

use super::stream::{Address, Stream};

/// Why there is no header.
#[derive(Debug)]
pub(super) enum Missing {
    /// It is wrong.
    Wrong(ParseError),
    /// It had not come in time.
    Late,
    /// The stream ended before it was whole.
    Ended,
    /// The client left without a byte, as somebody does who only looks whether we are there.
    Nothing,
    /// The connection broke.
    Broken(io::Error),
}

/// Takes the header that a client begins with, if it comes within `limit`.
///
/// # Errors
/// There is none; then nothing was taken.
pub(super) async fn receive(client: &Stream, limit: Duration) -> Result<Header, Missing> {
    let whole = timeout(limit, async {
        loop {
            // Asked before the look: an end that was known by then is behind all that is seen.
            let ready = client.ready(Interest::READABLE).await?;
            match look(client)? {
                Some(found) => return Ok(found),
                None if ready.is_read_closed() => {
                    return Err(match client.peek(&mut [0]) {
                        Ok(0) => Missing::Nothing,
                        _ => Missing::Ended,
                    });
                }
                None => {}
            }
        }
    });
    let (used, header) = whole.await.unwrap_or(Err(Missing::Late))?;
    take(client, used)?;
    Ok(header)
}

/// What a server is sent about a client: who it is and where it went to, what its own proxy said
/// beside that, and what its TLS with us is, which counts for more than what a proxy said of it.
pub(super) fn written(
    version: SendProxy,
    addresses: Option<Addresses>,
    (said, tls): (Option<Header>, Option<Tlv>),
) -> Option<Vec<u8>> {
    let said = said.map(|header| header.tlvs).unwrap_or_default();
    let passes = |one: &Tlv| match one.kind {
        tlv::NOOP => false,
        tlv::SSL => tls.is_none(),
        _ => true,
    };
    let said: Vec<_> = said.into_iter().filter(passes).collect();
    let mut header = Header {
        local: addresses.is_none(),
        addresses,
        checksum: true,
        tlvs: tls.clone().into_iter().chain(said).collect(),
    };
    match version {
        SendProxy::Off => None,
        SendProxy::V1 => Some(write_v1(header.addresses.as_ref())),
        SendProxy::V2 => write_v2(&header)
            .or_else(|| {
                // With the checksum it may be longer than the one that came.
                header.checksum = false;
                write_v2(&header)
            })
            .or_else(|| {
                // What is known here is worth more than what was said.
                header.tlvs = tls.into_iter().collect();
                write_v2(&header)
            }),
    }
}

/// What a proxy said of a client, if there is one, and the name that the client asks for, which was
/// heard here and counts for more than what the proxy says of it.
pub(super) fn asking(said: Option<Header>, name: String) -> Header {
    let mut header = said.unwrap_or_default();
    header.tlvs.retain(|said| said.kind != tlv::AUTHORITY);
    header.tlvs.push(Tlv {
        kind: tlv::AUTHORITY,
        value: name.into_bytes(),
    });
    header
}

/// The name that a client asks for, as it was heard here or a proxy says it.
pub(super) fn asked_for(said: Option<&Header>) -> Option<String> {
    let mut all = said?.tlvs.iter();
    let name = all.find(|said| said.kind == tlv::AUTHORITY)?;
    Some(String::from_utf8_lossy(&name.value).into_owned())
}

/// Both ends of a client's connection, as its own proxy has them or else as they are here.
pub(super) fn ends(
    client: &Stream,
    peer: Option<SocketAddr>,
    said: Option<&Header>,
) -> Option<Addresses> {
    said.and_then(|header| header.addresses).or_else(|| {
        let Ok(Address::Ip(local)) = client.local() else {
            return None;
        };
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        Addresses::new(peer?, local)
    })
}

/// Sends a header; it may take as long as a connection may.
///
/// # Errors
/// What broke the connection, or that it took too long.
pub(super) async fn send(server: &Stream, header: &[u8], limit: Duration) -> io::Result<()> {
    let sent = timeout(limit, async {
        let mut rest = header;
        while !rest.is_empty() {
            server.writable().await?;
            match server.try_write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
    sent.await
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Looks for a whole header. Where there is only a part of one, the socket counts as read, so that
/// the next wait is for more.
fn look(client: &Stream) -> Result<Option<(usize, Header)>, Missing> {
    let mut wrong = None;
    let seen = client.try_io(Interest::READABLE, || {
        let mut buffer = [0; HEADER_MAX];
        let got = client.peek(&mut buffer)?;
        match parse(&buffer[..got]) {
            Ok(Parsed::Complete { used, header }) => Ok(Some((used, header))),
            Ok(Parsed::Partial { .. }) => Err(ErrorKind::WouldBlock.into()),
            Err(why) => {
                wrong = Some(why);
                Ok(None)
            }
        }
    });
    match (seen, wrong) {
        (_, Some(why)) => Err(Missing::Wrong(why)),
        (Err(error), None) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        (seen, None) => Ok(seen?),
    }
}

/// Takes so many bytes, which are there.
fn take(client: &Stream, mut count: usize) -> Result<(), Missing> {
    let mut buffer = [0; HEADER_MAX];
    while count > 0 {
        match client.try_read(&mut buffer[..count])? {
            0 => return Err(Missing::Ended),
            got => count -= got,
        }
    }
    Ok(())
}

impl From<io::Error> for Missing {
    fn from(error: io::Error) -> Self {
        // What came before a reset would have been seen before it.
        match error.kind() == ErrorKind::ConnectionReset {
            true => Self::Nothing,
            false => Self::Broken(error),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(why) => why.fmt(f),
            Self::Late => f.write_str("it did not come in time"),
            Self::Ended => f.write_str("the stream ended before it was whole"),
            Self::Nothing => f.write_str("the client left without a byte"),
            Self::Broken(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;

    const LINE: &[u8] = b"PROXY TCP4 10.1.2.3 192.0.2.80 56324 443\r\n";
    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(200);

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn what_follows_a_header_stays() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let near = Stream::from(near);
        far.write_all(&[LINE, b"GET /"].concat()).await.unwrap();
        let header = receive(&near, LONG).await.unwrap();
        assert_eq!(header.addresses.unwrap().source(), at("10.1.2.3:56324"));
        let mut rest = [0; 9];
        assert_eq!(near.try_read(&mut rest).unwrap(), 5);
        assert_eq!(&rest[..5], b"GET /");
    }

    #[tokio::test]
    async fn what_is_no_header() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.0\r\n"[..], "bad-signature"),
            (&b"PROXY TCP4\r\n"[..], "bad-line"),
            (&LINE[..20], "it did not come in time"),
            (b"", "it did not come in time"),
        ] {
            let (near, mut far) = UnixStream::pair().unwrap();
            far.write_all(bytes).await.unwrap();
            let missing = receive(&near.into(), SHORT).await.unwrap_err();
            assert_eq!(missing.to_string(), expected);
        }
    }

    /// It must not be asked again and again whether the stream that has ended has more.
    #[tokio::test]
    async fn a_header_that_is_cut_off_is_none() {
        for (bytes, expected) in [
            (&LINE[..20], "the stream ended before it was whole"),
            (b"", "the client left without a byte"),
        ] {
            let (near, mut far) = UnixStream::pair().unwrap();
            far.write_all(bytes).await.unwrap();
            drop(far);
            let missing = receive(&near.into(), LONG).await.unwrap_err();
            assert_eq!(missing.to_string(), expected);
        }
    }

    #[tokio::test]
    async fn a_server_is_told_what_the_proxy_said() {
        let client = Stream::from(UnixStream::pair().unwrap().0);
        assert_eq!(ends(&client, None, None), None);
        let said = Header {
            addresses: Addresses::new(at("10.1.2.3:1"), at("192.0.2.80:2")),
            tlvs: [tlv::NOOP, tlv::UNIQUE_ID]
                .map(|kind| Tlv {
                    kind,
                    value: vec![7],
                })
                .to_vec(),
            ..Header::default()
        };
        let both = ends(&client, None, Some(&said));
        assert_eq!(both, said.addresses);
        assert_eq!(written(SendProxy::Off, both, (None, None)), None);
        let line = written(SendProxy::V1, both, (None, None)).unwrap();
        assert_eq!(line, b"PROXY TCP4 10.1.2.3 192.0.2.80 1 2\r\n");
        let bytes = written(SendProxy::V2, both, (Some(said.clone()), None)).unwrap();
        let Ok(Parsed::Complete { header, .. }) = parse(&bytes) else {
            panic!("{bytes:?}")
        };
        assert_eq!(header.addresses, said.addresses);
        assert_eq!(
            (header.checksum, header.tlvs),
            (true, said.tlvs[1..].to_vec())
        );
        // What is known here counts, and has its room whatever else was said.
        let tls = |kind, length| Tlv {
            kind,
            value: vec![1; length],
        };
        let own = tls(tlv::SSL, 5);
        for (tlvs, left) in [
            (vec![tls(tlv::SSL, 9), tls(tlv::UNIQUE_ID, 9)], 2),
            (vec![tls(0xe0, 4060)], 1),
        ] {
            let said = Header {
                tlvs,
                ..said.clone()
            };
            let bytes = written(SendProxy::V2, both, (Some(said), Some(own.clone()))).unwrap();
            let Ok(Parsed::Complete { header, .. }) = parse(&bytes) else {
                panic!("{bytes:?}")
            };
            assert_eq!((header.tlvs.len(), header.tlvs.first()), (left, Some(&own)));
        }
        let unknown = written(SendProxy::V1, None, (None, None)).unwrap();
        assert_eq!(unknown, b"PROXY UNKNOWN\r\n");
    }
}
