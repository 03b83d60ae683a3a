//! One body on its way from one connection to another. It is never held whole: what was read is
//! written before more is read.

use std::io::{self, ErrorKind};

use super::chunks::{Chunks, Sender, Step};
use super::head::{Fault, Framing};
use super::headers;
use super::pending::{Got, Pending, try_write};
use crate::proxy::buffers::SIZE;
use crate::proxy::stream::Stream;

/// Bytes that may pass before the other connections of the thread get their turn.
const SHARE: usize = 16 * SIZE;
/// Bytes that are read at once: with what delimits them, and with most heads, they fit in a buffer.
const READ: usize = SIZE - 1024;
/// Bytes that are held before they are taken: trailers are taken whole.
const HELD_MAX: usize = 2 * SIZE;

/// How a body comes in.
#[derive(Debug)]
pub(super) enum Body {
    /// So many bytes are to come.
    Length(u64),
    Chunked(Chunks),
    /// All that comes until the end of the stream.
    UntilEnd,
}

/// How it goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Its bytes alone: whoever gets it knows its length, or takes the end of the stream for its end.
    Plain,
    /// In chunks.
    Chunked,
    /// Not at all.
    Discarded,
}

/// Which trailers go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trailing {
    All,
    /// Those that don't say where a request comes from.
    Unclaimed,
    Nothing,
}

/// Why a body stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// The source has nothing.
    Empty,
    /// The destination takes nothing.
    Full,
    /// It had its share; there may be more.
    Share,
    /// All of it was written.
    Whole,
}

/// What became of bytes that were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// The body ends with them, or did before.
    Whole,
    /// All that can be taken before more comes.
    All,
    /// As many as may wait to be written.
    Some,
}

/// Why a body breaks off.
#[derive(Debug)]
pub(super) enum Break {
    /// The source ended before its end, or broke.
    Source(io::Error),
    /// The destination takes no more.
    Destination(io::Error),
    /// It is none.
    Fault(Fault),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Transfer {
    body: Body,
    coding: Coding,
    trailing: Trailing,
    /// All of it was read.
    read: bool,
    /// Bytes of it that passed, without what delimits them.
    passed: u64,
    rest: Rest,
}

/// Both ends of a way.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) source: &'a Stream,
    /// What was read from the source.
    pub(super) inbox: &'a mut Pending,
    pub(super) destination: &'a Stream,
    /// What is to be written before anything else.
    pub(super) outbox: &'a mut Pending,
    /// Bytes that were read.
    pub(super) received: usize,
    /// Bytes that were written.
    pub(super) sent: usize,
}

impl Body {
    pub(super) fn of(framing: Framing, sender: Sender) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks::by(sender)),
        }
    }
}

impl Transfer {
    pub(super) fn new(body: Body, coding: Coding, trailing: Trailing) -> Self {
        Self {
            read: matches!(body, Body::Length(0)),
            body,
            coding,
            trailing,
            passed: 0,
            rest: Rest::Empty,
        }
    }

    /// Why it stands still.
    pub(super) fn rest(&self) -> Rest {
        self.rest
    }

    /// Whether all of it was read; what is left is to write it.
    pub(super) fn is_read(&self) -> bool {
        self.read
    }

    /// Bytes of it that passed, without what delimits them.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Takes what was read already.
    ///
    /// # Errors
    /// It is no body.
    pub(super) fn take(
        &mut self,
        inbox: &mut Pending,
        outbox: &mut Pending,
    ) -> Result<Taken, Fault> {
        while !self.read && !inbox.is_empty() {
            if outbox.len() >= SIZE {
                return Ok(Taken::Some);
            }
            let step = match &mut self.body {
                Body::Length(left) => Step::Data(at_most(inbox.len(), *left)),
                Body::UntilEnd => Step::Data(inbox.len()),
                Body::Chunked(chunks) => chunks.look(inbox.bytes())?,
            };
            match step {
                Step::Hold => break,
                Step::Frame(count) => inbox.consume(count),
                Step::Data(count) => {
                    self.put(&inbox.bytes()[..count], outbox);
                    inbox.consume(count);
                    self.pass(count, outbox);
                }
                Step::Trailers(count) => {
                    let trailers = headers::trailers(&inbox.bytes()[..count], self.trailing)?;
                    inbox.consume(count);
                    self.end(&trailers, outbox);
                }
            }
        }
        Ok(match self.read {
            true => Taken::Whole,
            false => Taken::All,
        })
    }

    /// Passes what can be passed, at most a share.
    ///
    /// # Errors
    /// Why it breaks off.
    pub(super) fn advance(&mut self, way: &mut Way<'_>) -> Result<Rest, Break> {
        let mut spent = 0;
        self.rest = loop {
            let full = self.pass_through(way)?;
            let taken = match full {
                true => Taken::Some,
                false => self.take(way.inbox, way.outbox).map_err(Break::Fault)?,
            };
            if full || !way.flush()? {
                break Rest::Full;
            }
            match taken {
                Taken::Whole => break Rest::Whole,
                Taken::Some => continue,
                Taken::All if spent >= SHARE => break Rest::Share,
                Taken::All => {}
            }
            match way.receive()? {
                Got::Bytes(count) => spent += count.max(SIZE),
                Got::Nothing => break Rest::Empty,
                Got::End if matches!(self.body, Body::UntilEnd) => self.end(&[], way.outbox),
                Got::End => return Err(Break::Source(ErrorKind::UnexpectedEof.into())),
            }
        };
        Ok(self.rest)
    }

    /// Writes from where it was read, if nothing is to be written before and nothing is added;
    /// whether the destination is full.
    fn pass_through(&mut self, way: &mut Way<'_>) -> Result<bool, Break> {
        let left = match &self.body {
            Body::Length(left) => *left,
            Body::UntilEnd => u64::MAX,
            Body::Chunked(_) => return Ok(false),
        };
        let count = at_most(way.inbox.len(), left);
        if self.coding != Coding::Plain || count == 0 || !way.outbox.is_empty() {
            return Ok(false);
        }
        let bytes = &way.inbox.bytes()[..count];
        let sent = try_write(way.destination, bytes, false).map_err(Break::Destination)?;
        way.sent += sent;
        way.inbox.consume(sent);
        self.pass(sent, way.outbox);
        Ok(sent < count)
    }

    /// So many bytes have passed.
    fn pass(&mut self, count: usize, outbox: &mut Pending) {
        self.passed += count as u64;
        if let Body::Length(left) = &mut self.body {
            *left -= count as u64;
            if *left == 0 {
                self.end(&[], outbox);
            }
        }
    }

    fn put(&self, bytes: &[u8], outbox: &mut Pending) {
        match self.coding {
            Coding::Plain => outbox.push(bytes),
            Coding::Chunked => {
                outbox.push(format!("{:x}\r\n", bytes.len()).as_bytes());
                outbox.push(bytes);
                outbox.push(b"\r\n");
            }
            Coding::Discarded => {}
        }
    }

    fn end(&mut self, trailers: &[u8], outbox: &mut Pending) {
        self.read = true;
        if self.coding == Coding::Chunked {
            outbox.push(b"0\r\n");
            outbox.push(trailers);
            outbox.push(b"\r\n");
        }
    }
}

impl Way<'_> {
    /// Writes what waits; whether that is all of it.
    fn flush(&mut self) -> Result<bool, Break> {
        let sent = self.outbox.write(self.destination);
        self.sent += sent.map_err(Break::Destination)?;
        Ok(self.outbox.is_empty())
    }

    /// Reads more. Beyond a share of a buffer only what must be seen whole is held.
    fn receive(&mut self) -> Result<Got, Break> {
        let most = match self.inbox.len() < READ {
            true => READ,
            false => HELD_MAX,
        };
        let got = self.inbox.read(self.source, most);
        let got = got.map_err(Break::Source)?;
        if let Got::Bytes(count) = got {
            self.received += count;
        }
        Ok(got)
    }
}

/// The smaller of both.
fn at_most(count: usize, left: u64) -> usize {
    usize::try_from(left).map_or(count, |left| left.min(count))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    /// What goes out of a body that comes in pieces of this size, and what is left behind it.
    fn passed(mut transfer: Transfer, body: &[u8], piece: usize) -> (Vec<u8>, usize, u64) {
        let (mut inbox, mut outbox, mut out) = (Pending::default(), Pending::default(), Vec::new());
        for piece in body.chunks(piece) {
            inbox.push(piece);
            loop {
                let taken = transfer.take(&mut inbox, &mut outbox).unwrap();
                out.extend_from_slice(outbox.bytes());
                outbox.clear();
                if taken != Taken::Some {
                    break;
                }
            }
        }
        (out, inbox.len(), transfer.passed())
    }

    const CHUNKS: &[u8] =
        b"3;x\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 7\r\nForwarded: a\r\nHost: b\r\n\r\nGET";

    fn chunked(coding: Coding, trailing: Trailing) -> Transfer {
        Transfer::new(Body::Chunked(Chunks::by(Sender::Client)), coding, trailing)
    }

    #[test]
    fn a_body_is_written_anew_in_chunks_or_plain() {
        for piece in 1..=CHUNKS.len() {
            let out = passed(chunked(Coding::Plain, Trailing::All), CHUNKS, piece);
            assert_eq!(out, (b"abcde".to_vec(), 3, 5), "{piece}");
            let out = passed(chunked(Coding::Discarded, Trailing::All), CHUNKS, piece);
            assert_eq!(out, (Vec::new(), 3, 5), "{piece}");
        }
        for (trailing, trailers) in [
            (Trailing::All, "X-Sum: 7\r\nForwarded: a\r\n"),
            (Trailing::Unclaimed, "X-Sum: 7\r\n"),
            (Trailing::Nothing, ""),
        ] {
            let (out, left, _) = passed(chunked(Coding::Chunked, trailing), CHUNKS, 1000);
            let expected = format!("3\r\nabc\r\n2\r\nde\r\n0\r\n{trailers}\r\n");
            assert_eq!((out, left), (expected.into_bytes(), 3));
        }
    }

    #[test]
    fn a_length_is_kept_to() {
        for length in [0, 1, 5, 40_000] {
            let body = vec![b'x'; 40_000];
            for piece in [1000, 40_000] {
                let plain = Transfer::new(Body::Length(length), Coding::Plain, Trailing::All);
                let (out, left, passed) = passed(plain, &body, piece);
                let length = usize::try_from(length).unwrap();
                assert_eq!((out.len(), left), (length, body.len() - length));
                assert_eq!(passed, length as u64);
            }
        }
    }
}
