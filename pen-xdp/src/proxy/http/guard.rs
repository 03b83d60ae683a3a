//! Watches what a client sends, from its first byte on, and lets nothing through that a server
//! could read differently from hyper.
//!
//! hyper refuses most of that itself, but it mends some: where a request has both a length and an
//! encoding it drops the length, where an encoding ends in `chunked` it takes the others along.
//! Afterwards nobody can tell. So heads are checked before hyper has them, and to find the next
//! head the guard counts the bytes of bodies. It is stricter than hyper everywhere, so that the two
//! can't disagree about where a body ends.

use super::head::{Fault, Framing, field, framing, without_return};

/// Longest head, bytes.
pub(super) const HEAD_MAX: usize = 64 << 10;
/// Longest line that begins a chunk, bytes.
const CHUNK_LINE_MAX: usize = 1024;
/// Longest trailers, bytes.
const TRAILERS_MAX: usize = 16 << 10;
/// More digits would be more than 64 bits.
const CHUNK_DIGITS_MAX: usize = 16;

/// What becomes of the bytes that come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// So many of them, at least one, go on.
    Pass(usize),
    /// It takes more of them to know; they are to be shown again.
    Hold,
    /// The head is longer than any may be: there are [`HEAD_MAX`] bytes of it without an end. More
    /// must not go on.
    TooLong,
    /// They are no request, or not a clear one.
    Refuse(Fault),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Guard {
    part: Part,
    /// Where the search for the end of a line goes on among bytes that were held.
    scanned: usize,
    /// Where that line begins.
    line: usize,
    /// Whether a line that is not empty came before it.
    begun: bool,
}

/// Of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Body(u64),
    ChunkLine,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

impl Guard {
    pub(super) const fn new() -> Self {
        Self {
            part: Part::Head,
            scanned: 0,
            line: 0,
            begun: false,
        }
    }

    /// Whether the next bytes are those of a head.
    pub(super) fn expects_head(&self) -> bool {
        self.part == Part::Head
    }

    /// Looks at the bytes that come next, of which there is one at least. After `Hold` the same
    /// bytes are shown again, with more behind them.
    pub(super) fn look(&mut self, bytes: &[u8]) -> Step {
        let step = match self.part {
            Part::Head => self.head(bytes),
            Part::Body(left) => {
                let (now, left) = counted(bytes, left);
                self.part = if left > 0 {
                    Part::Body(left)
                } else {
                    Part::Head
                };
                Ok(Step::Pass(now))
            }
            Part::ChunkLine => self.chunk_line(bytes),
            Part::ChunkData(left) => {
                let (now, left) = counted(bytes, left);
                self.part = if left > 0 {
                    Part::ChunkData(left)
                } else {
                    Part::ChunkEnd
                };
                Ok(Step::Pass(now))
            }
            Part::ChunkEnd => self.chunk_end(bytes),
            Part::Trailers => self.trailers(bytes),
        };
        step.unwrap_or_else(Step::Refuse)
    }

    fn head(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        let end = match within(self.blank_line(bytes), bytes, HEAD_MAX) {
            Ok(Some(end)) => end,
            Ok(None) => return Ok(Step::Hold),
            Err(()) => return Ok(Step::TooLong),
        };
        self.part = match framing(&bytes[..end])? {
            Framing::Length(0) => Part::Head,
            Framing::Length(left) => Part::Body(left),
            Framing::Chunked => Part::ChunkLine,
        };
        Ok(Step::Pass(end))
    }

    fn chunk_line(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        let end = within(self.line_end(bytes), bytes, CHUNK_LINE_MAX);
        let Some(end) = end.map_err(|()| Fault::Chunk)? else {
            return Ok(Step::Hold);
        };
        (self.scanned, self.line) = (0, 0);
        self.part = match chunk_size(&bytes[..end])? {
            0 => {
                // Trailers may be none: then their first line is the empty one.
                self.begun = true;
                Part::Trailers
            }
            size => Part::ChunkData(size),
        };
        Ok(Step::Pass(end))
    }

    fn chunk_end(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        match bytes {
            [b'\r', b'\n', ..] => {
                self.part = Part::ChunkLine;
                Ok(Step::Pass(2))
            }
            [b'\r'] => Ok(Step::Hold),
            _ => Err(Fault::Chunk),
        }
    }

    fn trailers(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        let end = within(self.blank_line(bytes), bytes, TRAILERS_MAX);
        let Some(end) = end.map_err(|()| Fault::Trailers)? else {
            return Ok(Step::Hold);
        };
        let lines = bytes[..end].split(|byte| *byte == b'\n');
        for line in lines.map(without_return).filter(|line| !line.is_empty()) {
            field(line)?;
        }
        self.part = Part::Head;
        Ok(Step::Pass(end))
    }

    /// Where the empty line ends that comes after others.
    fn blank_line(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(end) = self.line_end(bytes) {
            let line = without_return(&bytes[self.line..end - 1]);
            let over = line.is_empty() && self.begun;
            self.begun |= !line.is_empty();
            self.line = end;
            if over {
                (self.scanned, self.line, self.begun) = (0, 0, false);
                return Some(end);
            }
        }
        None
    }

    /// Behind the next end of a line.
    fn line_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let found = bytes[self.scanned..].iter().position(|b| *b == b'\n');
        self.scanned = found.map_or(bytes.len(), |at| self.scanned + at + 1);
        found.map(|_| self.scanned)
    }
}

/// The end of something that is no longer than `max`, if it is there. Nothing hangs on how many bytes
/// come at once.
fn within(end: Option<usize>, bytes: &[u8], max: usize) -> Result<Option<usize>, ()> {
    match end {
        Some(end) if end <= max => Ok(Some(end)),
        None if bytes.len() < max => Ok(None),
        Some(_) | None => Err(()),
    }
}

/// How many of the bytes belong to what still has so many to come, and how many come later.
fn counted(bytes: &[u8], left: u64) -> (usize, u64) {
    let now = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (now, left - now as u64)
}

/// The size in a line that begins a chunk: digits, and at most an extension.
fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    let line = line.strip_suffix(b"\r\n").ok_or(Fault::Chunk)?;
    let (digits, extension) = match line.iter().position(|byte| *byte == b';') {
        Some(at) => line.split_at(at),
        None => (line, &[][..]),
    };
    let sound = (1..=CHUNK_DIGITS_MAX).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_hexdigit)
        && !extension.iter().any(|byte| matches!(byte, b'\r' | 0));
    let digits = std::str::from_utf8(digits).ok().filter(|_| sound);
    let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    size.ok_or(Fault::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes on of `bytes` if they come `piece` at a time, and what ended it.
    fn passed(bytes: &[u8], piece: usize) -> (Vec<u8>, Step) {
        let mut guard = Guard::new();
        let (mut held, mut out) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            held.extend_from_slice(piece);
            while !held.is_empty() {
                match guard.look(&held) {
                    Step::Pass(count) => out.extend(held.drain(..count)),
                    Step::Hold => break,
                    end @ (Step::TooLong | Step::Refuse(_)) => return (out, end),
                }
            }
        }
        (out, Step::Hold)
    }

    const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn requests_one_after_the_other_pass_however_they_are_cut() {
        let all = format!(
            "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n\
             GET / \r\n\r\n{CHUNKED}a;x=\"y\"\r\n0123456789\r\n1\r\n\n\r\n0\r\nX: y\r\n\r\n\
             {CHUNKED}0\r\n\r\n\r\nGET /3 HTTP/1.0\n\n"
        );
        // The body is nine bytes, so that the tenth is of the next request: an empty line.
        for piece in 1..all.len() {
            let (out, end) = passed(all.as_bytes(), piece);
            assert_eq!((out.len(), end), (all.len(), Step::Hold), "{piece}");
        }
    }

    #[test]
    fn what_follows_a_body_is_looked_at() {
        let first = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let bad = "GET / HTTP/1.1\r\nHost : a\r\n\r\n";
        for piece in 1..first.len() {
            let (out, end) = passed(format!("{first}{bad}").as_bytes(), piece);
            assert_eq!(out, first.as_bytes());
            assert_eq!(end, Step::Refuse(Fault::Name));
        }
    }

    #[test]
    fn chunks_are_delimited_as_they_should_be() {
        for bad in [
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
            "\r\n",
            ";a\r\n",
            "00000000000000005\r\nhello\r\n0\r\n\r\n",
            "5\r\nhelloworld\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
        ] {
            for piece in [1, 2, 1000] {
                let (out, end) = passed(format!("{CHUNKED}{bad}").as_bytes(), piece);
                assert_eq!(end, Step::Refuse(Fault::Chunk), "{bad:?}");
                assert!(!out.ends_with(b"0\r\n\r\n"), "{bad:?}");
            }
        }
        for (trailers, fault) in [
            ("a : b\r\n\r\n", Fault::Name),
            ("a: b\r\n c\r\n\r\n", Fault::Fold),
        ] {
            let (_, end) = passed(format!("{CHUNKED}0\r\n{trailers}").as_bytes(), 7);
            assert_eq!(end, Step::Refuse(fault));
        }
        let endless = format!("{CHUNKED}1;{}", "x".repeat(CHUNK_LINE_MAX));
        assert_eq!(passed(endless.as_bytes(), 9).1, Step::Refuse(Fault::Chunk));
    }

    #[test]
    fn a_head_has_a_length() {
        let endless = "GET / HTTP/1.1\r\n".to_owned() + &"a: b\r\n".repeat(HEAD_MAX / 6);
        let (out, end) = passed(endless.as_bytes(), 1000);
        assert_eq!((out.len(), end), (0, Step::TooLong));
    }
}
