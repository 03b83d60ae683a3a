//! Reads what the guard lets through as others would: hyper's parser, and a server that takes
//! whatever looks like a message. Both must find the messages where the guard says they are.
//!
//! For tests and the fuzz target, which takes this file and those of the guard as they are.

use super::guard::{Guard, HEAD_MAX, Step};
use super::head::without_return;

/// As many as hyper takes.
const FIELDS_MAX: usize = 100;

/// What the guard made of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    /// How much of it went on.
    count: usize,
    /// Where heads begin and end.
    heads: Vec<(usize, usize)>,
    /// What ended it; `Hold` if it only waits for more.
    end: Step,
}

/// How a reader finds the end of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delimited {
    By(u64),
    InChunks,
}

/// Shows the guard the bytes whole, and in pieces of these sizes one after the other, over and
/// over; then has others read what it let through.
///
/// # Panics
/// The guard depends on the pieces, or somebody reads something else than it did.
pub(super) fn agree(bytes: &[u8], sizes: &[usize]) {
    let whole = watch(bytes, &[bytes.len().max(1)]);
    let pieces = watch(bytes, sizes);
    assert_eq!(whole, pieces, "pieces of {sizes:?}");
    let through = &bytes[..whole.count];
    let mut at = 0;
    for (begin, end) in whole.heads {
        assert_eq!(at, begin, "a body ends elsewhere than the guard says");
        let head = &through[begin..end];
        let Some(strict) = by_hyper(head) else {
            // hyper answers 400 to it and reads no more.
            return;
        };
        assert_eq!(strict, leniently(head));
        let body = &through[end..];
        let length = match strict {
            Delimited::By(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Delimited::InChunks => chunks(body),
        };
        // A body that has not come whole yet is the last thing that passed.
        at = end.saturating_add(length);
    }
    assert!(at >= through.len(), "something follows the last body");
    if whole.end == Step::TooLong {
        // So much of the head goes on, for hyper to refuse.
        let head = &bytes[whole.count..][..HEAD_MAX];
        assert!(is_no_head(head), "a head passes that nobody looked at");
    }
}

/// What the guard lets through if the bytes come in pieces of these sizes.
fn watch(bytes: &[u8], sizes: &[usize]) -> Passed {
    let mut guard = Guard::new();
    let mut passed = Passed {
        count: 0,
        heads: Vec::new(),
        end: Step::Hold,
    };
    let mut sizes = sizes.iter().cycle();
    let mut shown = 0;
    while shown < bytes.len() {
        let size = sizes.next().map_or(1, |size| *size.max(&1));
        shown = shown.saturating_add(size).min(bytes.len());
        while passed.count < shown {
            let is_head = guard.expects_head();
            match guard.look(&bytes[passed.count..shown]) {
                Step::Pass(count) => {
                    let begin = passed.count;
                    passed.count += count;
                    assert!(count > 0 && passed.count <= shown, "{count} of {shown}");
                    if is_head {
                        passed.heads.push((begin, passed.count));
                    }
                }
                Step::Hold => break,
                end @ (Step::TooLong | Step::Refuse(_)) => return Passed { end, ..passed },
            }
        }
    }
    passed
}

/// Whether hyper finds no whole head in this.
fn is_no_head(bytes: &[u8]) -> bool {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    !matches!(request.parse(bytes), Ok(httparse::Status::Complete(_)))
}

/// How hyper would go on after this head; `None` if it refuses it.
fn by_hyper(head: &[u8]) -> Option<Delimited> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) => assert_eq!(length, head.len()),
        Ok(httparse::Status::Partial) => panic!("hyper would take the body for the head's rest"),
        Err(_) => return None,
    }
    let of = |name: &str| {
        let named = request.headers.iter();
        let named = named.filter(|field| field.name.eq_ignore_ascii_case(name));
        named
            .map(|field| field.value.trim_ascii())
            .collect::<Vec<_>>()
    };
    let (encodings, lengths) = (of("transfer-encoding"), of("content-length"));
    assert!(encodings.len() + lengths.len() <= 1, "two framings");
    Some(match (encodings.first(), lengths.first()) {
        (Some(encoding), _) => {
            assert!(encoding.eq_ignore_ascii_case(b"chunked"));
            assert_eq!(request.version, Some(1), "chunks in HTTP/1.0");
            Delimited::InChunks
        }
        (None, Some(length)) => {
            let length = std::str::from_utf8(length)
                .ok()
                .and_then(|l| l.parse().ok());
            Delimited::By(length.expect("a length is a number"))
        }
        (None, None) => Delimited::By(0),
    })
}

/// How somebody would go on who ends lines at every return, joins those that are folded, takes
/// blanks around names and digits before nonsense, and `chunked` wherever it stands.
fn leniently(head: &[u8]) -> Delimited {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for line in head.split(|byte| matches!(byte, b'\r' | b'\n')) {
        match (line.first(), lines.last_mut()) {
            (Some(b' ' | b'\t'), Some(last)) => last.extend_from_slice(line),
            _ => lines.push(line.to_ascii_lowercase()),
        }
    }
    let mut found = None;
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let value = &line[colon + 1..];
        let name: Vec<u8> = line[..colon]
            .iter()
            .copied()
            .filter(|byte| *byte > b' ')
            .collect();
        let is_chunked = value.windows(7).any(|word| word == b"chunked");
        if name == b"transfer-encoding" && is_chunked {
            return Delimited::InChunks;
        }
        if name == b"content-length" {
            let digits = value.iter().filter(|byte| byte.is_ascii_digit());
            let length = digits.fold(0u64, |sum, digit| {
                sum.saturating_mul(10)
                    .saturating_add(u64::from(digit - b'0'))
            });
            found = found.or(Some(length));
        }
    }
    Delimited::By(found.unwrap_or(0))
}

/// How long a chunked body is, or the whole rest if it goes on: to somebody who takes any end of a
/// line, blanks around the size, and for the end of a chunk whatever stands there up to one.
fn chunks(body: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let Some(line) = next_line(body, &mut at) else {
            return usize::MAX;
        };
        let size = line
            .trim_ascii_start()
            .iter()
            .map_while(|byte| (*byte as char).to_digit(16));
        let size = size.fold(0u64, |sum, digit| {
            sum.saturating_mul(16).saturating_add(digit.into())
        });
        if size == 0 {
            break;
        }
        at = at.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        match next_line(body, &mut at) {
            Some(rest) => assert!(rest.is_empty(), "{rest:?} belongs to a chunk"),
            None => return usize::MAX,
        }
    }
    loop {
        match next_line(body, &mut at) {
            Some([]) => return at,
            Some(_) => {}
            None => return usize::MAX,
        }
    }
}

/// The next line, without its end.
fn next_line<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let rest = bytes.get(*at..)?;
    let length = rest.iter().position(|byte| *byte == b'\n')?;
    *at += length + 1;
    Some(without_return(&rest[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams to begin with; `|` ends a line.
    const SEEDS: &[&str] = &[
        "GET / HTTP/1.1|Host: a||GET /2 HTTP/1.0||",
        "||GET / HTTP/1.1|Host: a|X: \tb ||",
        "POST / HTTP/1.1|Host: a|Content-Length: 9||GET / ||abPOST /2 HTTP/1.1|Host: a||",
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: chunked||a;x=\"y\"|0123456789|1|\n|0|X: y||G",
        "POST / HTTP/1.1|Host: a|Transfer-Encoding: Chunked||00|||GET / HTTP/1.1|Host: a||",
        "POST / HTTP/1.1|Host: a|Content-Length: 3|Transfer-Encoding: chunked||0||",
        "POST / HTTP/1.1|Host: a|Content-Length: 3, 3||abc",
        "POST / HTTP/1.1|Host: a|Content-Length : 3||abc",
        "GET / HTTP/1.1|Host: a|X: b|Transfer-Encoding:| chunked||0||",
        "GET / HTTP/1.1|Host: a|X: b\rTransfer-Encoding: chunked||",
        "OPTIONS * HTTP/1.1|Host: [::1]:80|Upgrade: ws|Connection: upgrade||",
        "GET / HTTP/1.1\nHost: a\n\nGET / HTTP/1.1\r\nHost: a\n\r\n",
        "CONNECT a:1 HTTP/1.1|Host: a:1||abc",
    ];
    /// What replaces a byte, or comes in before it.
    const BYTES: &[u8] = b"\r\n \t:;,0159afFxX-_\0\x0b\x0c\x7f\xff/+\"";

    fn seeds() -> impl Iterator<Item = Vec<u8>> {
        let seeds = SEEDS.iter();
        seeds.map(|seed| seed.replace('|', "\r\n").into_bytes())
    }

    #[test]
    fn all_read_the_same_in_pieces_of_every_size() {
        for seed in seeds() {
            for size in 1..=seed.len() {
                agree(&seed, &[size]);
            }
        }
    }

    #[test]
    fn all_read_the_same_of_what_is_almost_right() {
        // Any numbers do, as long as they are the same each time (Marsaglia's xorshift).
        let mut number = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = move |end: usize| {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            usize::try_from(number % end as u64).unwrap()
        };
        for seed in seeds() {
            for _ in 0..2000 {
                let mut bytes = seed.clone();
                for _ in 0..=below(3) {
                    let (at, byte) = (below(bytes.len()), BYTES[below(BYTES.len())]);
                    match below(3) {
                        0 => bytes[at] = byte,
                        1 => bytes.insert(at, byte),
                        _ => drop(bytes.remove(at)),
                    }
                }
                agree(&bytes, &[1 + below(9), 1 + below(40)]);
            }
        }
    }

    #[test]
    fn what_is_too_long_is_so_in_one_piece_as_well() {
        let head = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(HEAD_MAX)
        );
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let line = format!("{chunked}1;{}\r\na\r\n0\r\n\r\n", "x".repeat(2000));
        let trailers = format!("{chunked}0\r\n{}\r\n", "X: y\r\n".repeat(4000));
        // What follows is none of it, and the head may end anywhere behind its longest.
        let just = format!("{}\r\n\r\n", &head[..HEAD_MAX]);
        let lines = "\r\n".repeat(HEAD_MAX / 2) + "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for bytes in [head, just, lines, line, trailers] {
            for size in [1, 7, 1000, bytes.len()] {
                agree(bytes.as_bytes(), &[size]);
            }
        }
    }
}
