//! Reads the messages of a client as somebody would who takes almost anything for one, and must
//! find them where we do.
//!
//! For tests and the fuzz target, which takes this file and those that read as they are.

use super::chunks::{Chunks, Sender, Step};
use super::head::{self, Fault, Framing, Search};

/// What we make of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    /// How much of it belongs to requests that are clear.
    count: usize,
    /// Where heads begin and end.
    heads: Vec<(usize, usize)>,
    /// What ended it; `None` if it only waits for more.
    fault: Option<Fault>,
}

/// What comes next of a request.
enum Part {
    Head(Search, bool),
    Length(u64),
    Chunked(Chunks),
}

/// How a reader finds the end of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delimited {
    By(u64),
    InChunks,
}

/// Reads the bytes whole, and in pieces of these sizes one after the other, over and over; then has
/// somebody else read what was taken.
///
/// # Panics
/// Something depends on the pieces, or somebody reads something else than we do.
pub(super) fn agree(bytes: &[u8], sizes: &[usize]) {
    let whole = read(bytes, &[bytes.len().max(1)]);
    let pieces = read(bytes, sizes);
    assert_eq!(whole.heads, pieces.heads, "pieces of {sizes:?}");
    // A head that begins wrong is refused at once if that comes in one piece, else at its end.
    let refused = whole.fault.is_some() || pieces.fault.is_none();
    assert!(refused, "{:?} in pieces of {sizes:?}", pieces.fault);
    let through = &bytes[..whole.count];
    let mut at = 0;
    for (begin, end) in whole.heads {
        assert_eq!(at, begin, "a body ends elsewhere than we say");
        let body = &through[end..];
        let length = match leniently(&through[begin..end]) {
            Delimited::By(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Delimited::InChunks => chunks(body),
        };
        // A body that has not come whole yet is the last thing that passed.
        at = end.saturating_add(length);
    }
    assert!(at >= through.len(), "something follows the last body");
}

/// What we make of the bytes if they come in pieces of these sizes.
fn read(bytes: &[u8], sizes: &[usize]) -> Read {
    let mut read = Read {
        count: 0,
        heads: Vec::new(),
        fault: None,
    };
    let mut part = Part::Head(Search::default(), false);
    let mut sizes = sizes.iter().cycle();
    let mut shown = 0;
    while shown < bytes.len() {
        let size = sizes.next().map_or(1, |size| *size.max(&1));
        shown = shown.saturating_add(size).min(bytes.len());
        while read.count < shown {
            match step(&mut part, &bytes[read.count..shown]) {
                Ok(None) => break,
                Ok(Some(count)) => {
                    let begin = read.count;
                    read.count += count;
                    assert!(count > 0 && read.count <= shown, "{count} of {shown}");
                    part = next(part, &mut read.heads, (begin, read.count), bytes);
                }
                Err(fault) => {
                    read.fault = Some(fault);
                    return read;
                }
            }
        }
    }
    read
}

/// How many of these bytes are taken; `None` if it takes more of them to know.
fn step(part: &mut Part, bytes: &[u8]) -> Result<Option<usize>, Fault> {
    match part {
        Part::Head(search, partial) => {
            if *partial && !search.finds_end(bytes) {
                return match bytes.len() < head::HEAD_MAX {
                    true => Ok(None),
                    false => Err(Fault::TooLong),
                };
            }
            let mut room = head::room();
            let read = head::request(bytes, &mut room)?.map(|read| read.length);
            if read.is_none() && !std::mem::replace(partial, true) {
                assert!(
                    !search.finds_end(bytes),
                    "a head has an end and is not whole"
                );
            }
            Ok(read)
        }
        Part::Length(left) => {
            let now = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
            *left -= now as u64;
            Ok(Some(now))
        }
        Part::Chunked(chunks) => Ok(match chunks.look(bytes)? {
            Step::Hold => None,
            Step::Frame(count) | Step::Data(count) => Some(count),
            Step::Trailers(count) => {
                *part = Part::Length(0);
                Some(count)
            }
        }),
    }
}

/// What comes behind what was taken.
fn next(
    part: Part,
    heads: &mut Vec<(usize, usize)>,
    (begin, end): (usize, usize),
    bytes: &[u8],
) -> Part {
    let head = || Part::Head(Search::default(), false);
    match part {
        Part::Head(..) => {
            heads.push((begin, end));
            let mut room = head::room();
            match head::request(&bytes[begin..end], &mut room) {
                Ok(Some(request)) => match request.framing {
                    Framing::Length(0) => head(),
                    Framing::Length(length) => Part::Length(length),
                    Framing::Chunked => Part::Chunked(Chunks::by(Sender::Client)),
                },
                other => panic!("a head that was read is not read again: {other:?}"),
            }
        }
        Part::Length(0) => head(),
        Part::Length(_) | Part::Chunked(_) => part,
    }
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
    let line = &rest[..length];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
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
        let long = "x".repeat(head::HEAD_MAX);
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n");
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let line = format!("{chunked}1;{}\r\na\r\n0\r\n\r\n", "x".repeat(2000));
        let trailers = format!("{chunked}0\r\n{}\r\n", "X: y\r\n".repeat(4000));
        // What follows is none of it, and the head may end anywhere behind its longest.
        let just = format!("{}\r\n\r\n", &head[..head::HEAD_MAX]);
        let lines = "\r\n".repeat(head::HEAD_MAX / 2) + "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for bytes in [head, just, lines, line, trailers] {
            for size in [1, 7, 1000, bytes.len()] {
                agree(bytes.as_bytes(), &[size]);
            }
        }
    }
}
