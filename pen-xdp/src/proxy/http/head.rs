//! One head of a request, byte by byte: whether everybody who reads it reads the same.

/// How the body that follows a head is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes, which may be none.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The first line is not `METHOD TARGET HTTP/1.x`.
    RequestLine,
    /// A carriage return that ends no line, or a NUL.
    Control,
    /// A line that goes on in the next one (obs-fold).
    Fold,
    /// A name that is empty, has blanks around it or none of a name's letters.
    Name,
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
    /// Trailers that are too many.
    Trailers,
}

/// Reads a whole head, the empty line at its end included; empty lines before it are ignored.
pub(super) fn framing(head: &[u8]) -> Result<Framing, Fault> {
    let mut lines = head.split(|byte| *byte == b'\n').map(without_return);
    let first = lines.by_ref().find(|line| !line.is_empty());
    let minor = version(first.unwrap_or_default())?;
    let (mut length, mut encoding, mut hosts) = (None, None, 0);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = number(value).ok_or(Fault::Length)?;
            if length.replace(number).is_some() {
                return Err(Fault::Length);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let chunked = value.eq_ignore_ascii_case(b"chunked");
            if !chunked || minor == 0 || encoding.replace(Framing::Chunked).is_some() {
                return Err(Fault::Encoding);
            }
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    if hosts > 1 || (hosts == 0 && minor == 1) {
        return Err(Fault::Host);
    }
    match (length, encoding) {
        (Some(_), Some(_)) => Err(Fault::BothFramings),
        (_, Some(chunked)) => Ok(chunked),
        (length, None) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// A line of a head or of trailers as name and value.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(Fault::Fold);
    }
    if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
        return Err(Fault::Control);
    }
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = line.split_at(colon.ok_or(Fault::Name)?);
    match name.is_empty() || !name.iter().all(is_token) {
        true => Err(Fault::Name),
        false => Ok((name, value[1..].trim_ascii())),
    }
}

/// A line without the carriage return at its end.
pub(super) fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The minor version of HTTP/1.
fn version(line: &[u8]) -> Result<u8, Fault> {
    if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
        return Err(Fault::Control);
    }
    let mut words = line.split(|byte| *byte == b' ');
    let parts = (words.next(), words.next(), words.next(), words.next());
    match parts {
        (Some(method), Some(target), Some(version), None)
            if !method.is_empty() && method.iter().all(is_token) && !target.is_empty() =>
        {
            match version {
                b"HTTP/1.1" => Ok(1),
                b"HTTP/1.0" => Ok(0),
                _ => Err(Fault::RequestLine),
            }
        }
        _ => Err(Fault::RequestLine),
    }
}

/// Digits and nothing else: no sign, no list, no more than 64 bits.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok()
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(framing(head.as_bytes()), Ok(expected), "{head:?}");
        }
    }

    #[test]
    fn what_two_readers_may_read_differently_is_refused() {
        let with = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        for (lines, fault) in [
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked",
                Fault::BothFramings,
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5",
                Fault::BothFramings,
            ),
            ("Content-Length: 5\r\nContent-Length: 6", Fault::Length),
            ("Content-Length: 5\r\nContent-Length: 5", Fault::Length),
            ("Content-Length: 5, 5", Fault::Length),
            ("Content-Length: +5", Fault::Length),
            ("Content-Length: 0x5", Fault::Length),
            ("Content-Length:", Fault::Length),
            ("Content-Length: 18446744073709551616", Fault::Length),
            ("Transfer-Encoding: gzip, chunked", Fault::Encoding),
            ("Transfer-Encoding: xchunked", Fault::Encoding),
            ("Transfer-Encoding: identity", Fault::Encoding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                Fault::Encoding,
            ),
            ("Transfer-Encoding : chunked", Fault::Name),
            ("Transfer-Encoding\t: chunked", Fault::Name),
            ("X: a\r\n Transfer-Encoding: chunked", Fault::Fold),
            ("X: a\r\n\tb", Fault::Fold),
            ("X: a\rTransfer-Encoding: chunked", Fault::Control),
            ("X: a\0", Fault::Control),
            (": a", Fault::Name),
            ("no colon", Fault::Name),
            ("Host: b", Fault::Host),
        ] {
            assert_eq!(framing(with(lines).as_bytes()), Err(fault), "{lines:?}");
        }
        for (head, fault) in [
            ("GET / HTTP/1.1\r\n\r\n", Fault::Host),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Fault::Fold),
            ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Fault::RequestLine),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Fault::RequestLine),
            ("GET /\r\n\r\n", Fault::RequestLine),
            ("GET / \rHTTP/1.1\r\nHost: a\r\n\r\n", Fault::Control),
            (
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                Fault::Encoding,
            ),
        ] {
            assert_eq!(framing(head.as_bytes()), Err(fault), "{head:?}");
        }
    }
}
