//! Heads of requests and answers, as they are read: whether everybody who reads one reads the same.
//!
//! httparse reads the lines, and refuses what is no line of a head: a fold, a bare return, a blank
//! before the colon. What follows from the lines is decided here, once: servers get a head that is
//! written anew, so that nobody reads what a client wrote but us.

use std::mem::MaybeUninit;

use httparse::{Error, Header, ParserConfig, Status};

use super::chunks::Sender;
use super::fields::Field;

/// Longest head, bytes.
pub(super) const HEAD_MAX: usize = 64 << 10;
/// Most headers.
const FIELDS_MAX: usize = 100;

/// Most headers that `Connection` may name: each is looked for among all.
const NAMED_MAX: usize = 32;

/// Room for the headers of one head.
pub(super) type Room<'a> = [MaybeUninit<Header<'a>>; FIELDS_MAX];

/// An empty one.
pub(super) const fn room<'a>() -> Room<'a> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// How the body that follows a request's head is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes, which may be none.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Why a head, or a body, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A line is none of a head: folded, no name, a bare return, a NUL, no `METHOD TARGET HTTP/1.x`.
    Line(Error),
    /// It has more headers, or more bytes, than any may.
    TooLong,
    /// Both Content-Length and Transfer-Encoding.
    BothFramings,
    /// Content-Length more than once, or not one number.
    Length,
    /// Transfer-Encoding more than once, other than `chunked`, or in HTTP/1.0.
    Encoding,
    /// No Host in HTTP/1.1, or several.
    Host,
    /// A chunk that is not delimited as it should be.
    Chunk,
    /// Trailers that are none, or too many.
    Trailers,
}

/// What a `Connection` header asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wish<'a> {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// Headers that are meant for the next hop alone.
    pub(super) others: Vec<&'a str>,
}

/// The head of a request.
#[derive(Debug)]
pub(super) struct Request<'h, 'b> {
    pub(super) method: &'b str,
    pub(super) target: &'b str,
    /// Of HTTP/1.
    pub(super) minor: u8,
    pub(super) fields: &'h [Header<'b>],
    pub(super) framing: Framing,
    pub(super) wish: Wish<'b>,
    /// Bytes, the empty line included.
    pub(super) length: usize,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Answer<'h, 'b> {
    pub(super) status: u16,
    pub(super) reason: &'b str,
    pub(super) minor: u8,
    pub(super) fields: &'h [Header<'b>],
    /// `None` if it says nothing of it.
    pub(super) framing: Option<Framing>,
    pub(super) wish: Wish<'b>,
    pub(super) length: usize,
}

/// Finds out cheaply whether a head that came in part is whole now: it would cost much to read it
/// anew for each byte.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Bytes that were looked at.
    scanned: usize,
    /// Whether the line that is being looked at has anything in it.
    in_line: bool,
    /// Whether there was such a line.
    begun: bool,
}

impl Search {
    /// Whether the empty line has come that ends a head. The same bytes are shown again, with more
    /// behind them.
    pub(super) fn finds_end(&mut self, bytes: &[u8]) -> bool {
        while let Some(byte) = bytes.get(self.scanned) {
            self.scanned += 1;
            match byte {
                b'\n' if self.begun && !self.in_line => return true,
                b'\n' => self.in_line = false,
                b'\r' => {}
                _ => (self.in_line, self.begun) = (true, true),
            }
        }
        false
    }
}

/// Reads the head of a request; `None` if it is not whole.
///
/// # Errors
/// Why it is no clear request.
pub(super) fn request<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut Room<'b>,
) -> Result<Option<Request<'h, 'b>>, Fault> {
    let mut read = httparse::Request::new(&mut []);
    let status = read.parse_with_uninit_headers(bytes, room);
    let Some(length) = whole(status, bytes)? else {
        return Ok(None);
    };
    let minor = read.version.unwrap_or_default();
    let said = Said::of(read.headers, minor, Sender::Client)?;
    if said.hosts > 1 || (said.hosts == 0 && minor == 1) {
        return Err(Fault::Host);
    }
    Ok(Some(Request {
        method: read.method.unwrap_or_default(),
        target: read.path.unwrap_or_default(),
        minor,
        fields: read.headers,
        framing: match (said.length, said.chunked) {
            (Some(_), true) => return Err(Fault::BothFramings),
            (_, true) => Framing::Chunked,
            (length, false) => Framing::Length(length.unwrap_or(0)),
        },
        wish: said.wish,
        length,
    }))
}

/// Reads the head of an answer; `None` if it is not whole.
///
/// # Errors
/// Why it is no clear answer.
pub(super) fn answer<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut Room<'b>,
) -> Result<Option<Answer<'h, 'b>>, Fault> {
    let mut read = httparse::Response::new(&mut []);
    let config = ParserConfig::default();
    let status = config.parse_response_with_uninit_headers(&mut read, bytes, room);
    let Some(length) = whole(status, bytes)? else {
        return Ok(None);
    };
    let minor = read.version.unwrap_or_default();
    let said = Said::of(read.headers, minor, Sender::Server)?;
    Ok(Some(Answer {
        status: read.code.unwrap_or_default(),
        reason: read.reason.unwrap_or_default(),
        minor,
        fields: read.headers,
        // A length beside an encoding means nothing (RFC 9112, 6.3).
        framing: match said.chunked {
            true => Some(Framing::Chunked),
            false => said.length.map(Framing::Length),
        },
        wish: said.wish,
        length,
    }))
}

/// How long a head is; `None` if its end has not come.
fn whole(status: httparse::Result<usize>, bytes: &[u8]) -> Result<Option<usize>, Fault> {
    match status.map_err(line)? {
        Status::Complete(length) if length <= HEAD_MAX => Ok(Some(length)),
        Status::Partial if bytes.len() < HEAD_MAX => Ok(None),
        Status::Complete(_) | Status::Partial => Err(Fault::TooLong),
    }
}

fn line(error: Error) -> Fault {
    match error {
        Error::TooManyHeaders => Fault::TooLong,
        Error::HeaderName
        | Error::HeaderValue
        | Error::NewLine
        | Error::Status
        | Error::Token
        | Error::Version => Fault::Line(error),
    }
}

/// What the headers of a head say of it.
#[derive(Debug, Default)]
struct Said<'a> {
    length: Option<u64>,
    chunked: bool,
    hosts: usize,
    wish: Wish<'a>,
}

impl<'a> Said<'a> {
    fn of(fields: &[Header<'a>], minor: u8, sender: Sender) -> Result<Self, Fault> {
        let mut said = Self::default();
        for field in fields {
            said.hear(field, minor, sender)?;
        }
        Ok(said)
    }

    /// Servers may say a length twice, if it is the same: what we write says it once.
    fn hear(&mut self, field: &Header<'a>, minor: u8, sender: Sender) -> Result<(), Fault> {
        let by_server = sender == Sender::Server;
        match Field::of(field.name) {
            Field::ContentLength => {
                let number = number(field.value).ok_or(Fault::Length)?;
                match self.length.replace(number) {
                    Some(before) if !by_server || before != number => return Err(Fault::Length),
                    Some(_) | None => {}
                }
            }
            Field::TransferEncoding => {
                let chunked = field.value.eq_ignore_ascii_case(b"chunked");
                let twice = std::mem::replace(&mut self.chunked, true);
                if !chunked || twice || (minor == 0 && !by_server) {
                    return Err(Fault::Encoding);
                }
            }
            Field::Host => self.hosts += 1,
            Field::Connection => self.wish.hear(field.value)?,
            Field::Date
            | Field::Expect
            | Field::Hsts
            | Field::Te
            | Field::Trailer
            | Field::Upgrade
            | Field::Hop
            | Field::For
            | Field::Proto
            | Field::ForwardedHost
            | Field::Claim
            | Field::Identity
            | Field::Other => {}
        }
        Ok(())
    }
}

impl<'a> Wish<'a> {
    fn hear(&mut self, value: &'a [u8]) -> Result<(), Fault> {
        let words = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        for word in words.filter(|word| !word.is_empty()) {
            if word.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if word.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if word.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                // What is no text names no header.
                self.others.extend(std::str::from_utf8(word));
            }
        }
        match self.others.len() <= NAMED_MAX {
            true => Ok(()),
            false => Err(Fault::TooLong),
        }
    }

    /// Whether the connection lasts, as far as this side is concerned (RFC 9112, 9.3).
    pub(super) fn keeps(&self, minor: u8) -> bool {
        !self.close && (minor == 1 || self.keep_alive)
    }
}

/// Digits and nothing else: no sign, no list, no more than 64 bits.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    fn framed(head: &str) -> Result<Option<Framing>, Fault> {
        let mut room = room();
        let read = request(head.as_bytes(), &mut room)?;
        assert!(read.as_ref().is_none_or(|read| read.length == head.len()));
        Ok(read.map(|read| read.framing))
    }

    #[test]
    fn what_is_clear_is_framed() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Length(0)),
            ("\r\nGET / HTTP/1.0\r\n\r\n", Framing::Length(0)),
            ("GET / HTTP/1.0\n\n", Framing::Length(0)),
            (
                "POST / HTTP/1.1\r\nhost:\r\nCONTENT-length: \t12 \r\n\r\n",
                Framing::Length(12),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
                Framing::Chunked,
            ),
        ] {
            assert_eq!(framed(head), Ok(Some(expected)), "{head:?}");
        }
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let line = |error| Fault::Line(error);
        for (lines, fault) in [
            ("X: a\r\n b", line(Error::HeaderName)),
            (" X: a", line(Error::HeaderName)),
            ("X: a\rb", line(Error::HeaderValue)),
            ("X: a\0b", line(Error::HeaderValue)),
            ("X : a", line(Error::HeaderName)),
            ("X", line(Error::HeaderName)),
            (": a", line(Error::HeaderName)),
            ("Content-Length: 1\r\nContent-Length: 1", Fault::Length),
            ("Content-Length: +1", Fault::Length),
            ("Content-Length: 1, 1", Fault::Length),
            ("Content-Length:", Fault::Length),
            ("Content-Length: 99999999999999999999", Fault::Length),
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked",
                Fault::BothFramings,
            ),
            ("Transfer-Encoding: gzip, chunked", Fault::Encoding),
            ("Transfer-Encoding: chunked, chunked", Fault::Encoding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                Fault::Encoding,
            ),
            ("Host: b", Fault::Host),
        ] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
            assert_eq!(framed(&head), Err(fault), "{lines:?}");
        }
        for (head, fault) in [
            ("GET / HTTP/1.1\r\n\r\n", Fault::Host),
            (
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                Fault::Encoding,
            ),
            ("GET / HTTP/2.0\r\n\r\n", line(Error::Version)),
            ("GET /\r\n\r\n", line(Error::Token)),
            ("GET / /b HTTP/1.1\r\n\r\n", line(Error::Version)),
            ("GET  / HTTP/1.1\r\n\r\n", line(Error::Token)),
            ("G\rT / HTTP/1.1\r\n\r\n", line(Error::Token)),
        ] {
            assert_eq!(framed(head), Err(fault), "{head:?}");
        }
    }

    #[test]
    fn a_head_has_a_length_and_a_number_of_lines() {
        let begin = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        let long = |length: usize| format!("{begin}{}\r\n\r\n", "x".repeat(length));
        let most = HEAD_MAX - begin.len() - 4;
        assert_eq!(framed(&long(most)), Ok(Some(Framing::Length(0))));
        assert_eq!(framed(&long(most + 1)), Err(Fault::TooLong));
        assert_eq!(framed(&long(most)[..HEAD_MAX - 1]), Ok(None));
        assert_eq!(framed(&long(most + 4)[..HEAD_MAX]), Err(Fault::TooLong));
        let many = |count: usize| format!("{begin}\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert!(framed(&many(FIELDS_MAX - 2)).is_ok());
        assert_eq!(framed(&many(FIELDS_MAX)), Err(Fault::TooLong));
    }

    #[test]
    fn the_end_of_a_head_is_found_where_it_is_read() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\nGET / HTTP/1.1\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
        ] {
            let mut search = Search::default();
            for end in 0..head.len() {
                assert!(!search.finds_end(&head.as_bytes()[..end]), "{head:?}");
                assert_eq!(framed(&head[..end]), Ok(None), "{head:?}");
            }
            assert!(search.finds_end(head.as_bytes()), "{head:?}");
        }
    }

    #[test]
    fn answers_are_taken_more_leniently_where_nothing_hangs_on_it() {
        let framed = |lines: &str| {
            let head = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n");
            let mut room = room();
            answer(head.as_bytes(), &mut room).map(|read| read.unwrap().framing)
        };
        assert_eq!(framed("X: a"), Ok(None));
        let same = "Content-Length: 3\r\nContent-Length: 3";
        assert_eq!(framed(same), Ok(Some(Framing::Length(3))));
        let both = "Content-Length: 3\r\nTransfer-Encoding: chunked";
        assert_eq!(framed(both), Ok(Some(Framing::Chunked)));
        let two = "Content-Length: 3\r\nContent-Length: 4";
        assert_eq!(framed(two), Err(Fault::Length));
        assert_eq!(framed("Transfer-Encoding: gzip"), Err(Fault::Encoding));
        assert_eq!(framed("X : a"), Err(Fault::Line(Error::HeaderName)));
    }

    #[test]
    fn a_connection_lasts_if_both_versions_and_words_say_so() {
        for (value, minor, keeps) in [
            ("", 1, true),
            ("", 0, false),
            ("Keep-Alive", 0, true),
            ("close", 1, false),
            ("x, Close", 1, false),
            ("keep-alive, close", 0, false),
        ] {
            let mut wish = Wish::default();
            wish.hear(value.as_bytes()).unwrap();
            assert_eq!(wish.keeps(minor), keeps, "{value} {minor}");
        }
        let mut wish = Wish::default();
        wish.hear(b"Upgrade,, X-A , \xff").unwrap();
        assert!(wish.upgrade);
        assert_eq!(wish.others, ["X-A"]);
        let many = "a,".repeat(NAMED_MAX);
        assert_eq!(wish.hear(many.as_bytes()), Err(Fault::TooLong));
    }
}
