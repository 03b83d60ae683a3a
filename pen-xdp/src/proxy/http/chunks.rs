//! Bodies in chunks (RFC 9112, 7.1), as they are read.

use super::head::Fault;

/// Longest line that begins a chunk, bytes.
const LINE_MAX: usize = 1024;
/// Longest trailers, bytes.
const TRAILERS_MAX: usize = 16 << 10;
/// More digits would be more than 64 bits.
const DIGITS_MAX: usize = 16;

/// What the bytes that come next are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// So many delimit what comes; they are done with.
    Frame(usize),
    /// So many of the body, at least one.
    Data(usize),
    /// So many are the trailers, the empty line included; the body is over.
    Trailers(usize),
    /// It takes more of them to know; they are to be shown again.
    Hold,
}

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// What it sends is taken to the letter.
    Client,
    /// Blanks behind a size are taken: there are servers that write them, and nobody else reads it.
    Server,
}

/// Where a body is.
#[derive(Debug, Clone)]
pub(super) struct Chunks {
    part: Part,
    sender: Sender,
    /// Where the search for the end of a line goes on among bytes that were held.
    scanned: usize,
    /// Where that line begins.
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Line,
    Data(u64),
    /// The line end behind a chunk.
    End,
    Trailers,
}

impl Chunks {
    pub(super) const fn by(sender: Sender) -> Self {
        Self {
            part: Part::Line,
            sender,
            scanned: 0,
            line: 0,
        }
    }

    /// Looks at the bytes that come next, of which there is one at least. After `Hold` the same
    /// bytes are shown again, with more behind them.
    ///
    /// # Errors
    /// They are no body in chunks.
    pub(super) fn look(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        match self.part {
            Part::Line => self.size(bytes),
            Part::Data(left) => {
                let now = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let left = left - now as u64;
                self.part = match left {
                    0 => Part::End,
                    _ => Part::Data(left),
                };
                Ok(Step::Data(now))
            }
            Part::End => match bytes {
                [b'\r', b'\n', ..] => {
                    self.part = Part::Line;
                    Ok(Step::Frame(2))
                }
                [b'\r'] => Ok(Step::Hold),
                _ => Err(Fault::Chunk),
            },
            Part::Trailers => self.trailers(bytes),
        }
    }

    fn size(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        let end = match self.line_end(bytes) {
            Some(end) if end <= LINE_MAX => end,
            None if bytes.len() < LINE_MAX => return Ok(Step::Hold),
            Some(_) | None => return Err(Fault::Chunk),
        };
        (self.scanned, self.line) = (0, 0);
        self.part = match size(&bytes[..end], self.sender)? {
            0 => Part::Trailers,
            size => Part::Data(size),
        };
        Ok(Step::Frame(end))
    }

    fn trailers(&mut self, bytes: &[u8]) -> Result<Step, Fault> {
        while let Some(end) = self.line_end(bytes) {
            let line = &bytes[self.line..end];
            self.line = end;
            if matches!(line, b"\n" | b"\r\n") {
                return match end <= TRAILERS_MAX {
                    true => Ok(Step::Trailers(end)),
                    false => Err(Fault::Trailers),
                };
            }
        }
        match bytes.len() < TRAILERS_MAX {
            true => Ok(Step::Hold),
            false => Err(Fault::Trailers),
        }
    }

    /// Behind the next end of a line.
    fn line_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let found = bytes[self.scanned..].iter().position(|b| *b == b'\n');
        self.scanned = found.map_or(bytes.len(), |at| self.scanned + at + 1);
        found.map(|_| self.scanned)
    }
}

/// The size in a line that begins a chunk: digits, and at most an extension.
fn size(line: &[u8], sender: Sender) -> Result<u64, Fault> {
    let line = line.strip_suffix(b"\r\n").ok_or(Fault::Chunk)?;
    let (digits, extension) = match line.iter().position(|byte| *byte == b';') {
        Some(at) => line.split_at(at),
        None => (line, &[][..]),
    };
    let digits = match sender {
        Sender::Client => digits,
        Sender::Server => digits.trim_ascii_end(),
    };
    let sound = (1..=DIGITS_MAX).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_hexdigit)
        && !extension.iter().any(|byte| matches!(byte, b'\r' | 0));
    let digits = std::str::from_utf8(digits).ok().filter(|_| sound);
    let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    size.ok_or(Fault::Chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body holds if it comes `piece` bytes at a time, and how it ended.
    fn read(body: &[u8], piece: usize, sender: Sender) -> (Vec<u8>, Result<Step, Fault>) {
        let mut chunks = Chunks::by(sender);
        let (mut held, mut data) = (Vec::new(), Vec::new());
        for piece in body.chunks(piece) {
            held.extend_from_slice(piece);
            while !held.is_empty() {
                match chunks.look(&held) {
                    Ok(Step::Frame(count)) => drop(held.drain(..count)),
                    Ok(Step::Data(count)) => data.extend(held.drain(..count)),
                    Ok(Step::Hold) => break,
                    end @ (Ok(Step::Trailers(_)) | Err(_)) => return (data, end),
                }
            }
        }
        (data, Ok(Step::Hold))
    }

    #[test]
    fn chunks_are_read_however_they_are_cut() {
        let body = b"a;x=\"y\"\r\n0123456789\r\n1\r\n\n\r\n00\r\nX: y\r\n\r\nGET";
        for piece in 1..=body.len() {
            let (data, end) = read(body, piece, Sender::Client);
            assert_eq!(data, b"0123456789\n", "{piece}");
            assert_eq!(end, Ok(Step::Trailers(8)), "{piece}");
        }
        let (data, end) = read(b"0\r\n\r\n", 1, Sender::Client);
        assert_eq!((data.len(), end), (0, Ok(Step::Trailers(2))));
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
                let (_, end) = read(bad.as_bytes(), piece, Sender::Client);
                assert_eq!(end, Err(Fault::Chunk), "{bad:?}");
            }
        }
        let padded = b"5  \r\nhello\r\n0 \r\n\r\n";
        let (data, end) = read(padded, 3, Sender::Server);
        assert_eq!(data, b"hello");
        assert_eq!(end, Ok(Step::Trailers(2)));
    }

    #[test]
    fn lines_and_trailers_have_a_length() {
        let endless = format!("1;{}", "x".repeat(LINE_MAX));
        let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(TRAILERS_MAX / 6 + 1));
        for piece in [1, 9, 100_000] {
            let (_, end) = read(endless.as_bytes(), piece, Sender::Client);
            assert_eq!(end, Err(Fault::Chunk));
            let (_, end) = read(trailers.as_bytes(), piece, Sender::Client);
            assert_eq!(end, Err(Fault::Trailers));
        }
    }
}
