//! One direction of a connection: bytes from one socket to the other.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::Shutdown,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    buffers::{self, Buffer},
    pipes::{self, Pipe},
    relay::Witness,
    stream::Stream,
};

/// Bytes that a direction may pass before the other connections of the thread get their turn; a
/// call counts as a buffer's worth at least.
const SHARE: usize = 16 * buffers::SIZE;

/// Who is at one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who asked.
    Client,
    /// The back end.
    Server,
}

impl Side {
    /// Who is at the other end.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

/// What broke, and whose connection it is.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) side: Side,
    pub(super) error: io::Error,
}

/// Why a direction stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// The source has nothing.
    Empty,
    /// The destination takes nothing.
    Full,
    /// It had its share; there may be more.
    Share,
    /// All bytes are delivered, and no more come.
    Ended,
}

/// A buffer with bytes from `start` to `end`.
#[derive(Debug)]
struct Filled {
    buffer: Buffer,
    start: usize,
    end: usize,
}

/// What a look at the source gave.
enum Fetched {
    Bytes(usize),
    Nothing,
    End,
}

/// Passes bytes from one side to the other. It reads only when it holds nothing, so that it never
/// holds more than one buffer or one pipe, and a slow reader slows the writer.
///
/// Bytes are copied at first, and spliced once `splice_after` bytes came without a pause. A pause
/// is a turn, from one time that the source was found empty to the next, that brought less than a
/// buffer: small messages never add up however fast they follow each other, and a stream needs no
/// clock to be known.
#[derive(Debug)]
pub(super) struct Direction<'a> {
    source: &'a Stream,
    destination: &'a Stream,
    side: Side,
    count: &'a AtomicU64,
    /// Of this connection alone.
    own_count: Option<&'a AtomicU64>,
    splice_after: u64,
    /// The kernel has not refused to splice.
    can_splice: bool,
    /// Bytes since the last pause.
    streak: u64,
    /// Bytes since the source was last found empty.
    turn: u64,
    /// The last read took all there was.
    drained: bool,
    filled: Option<Filled>,
    pipe: Option<Pipe>,
    moved: bool,
    rest: Rest,
    /// Where the bytes of this connection alone are counted.
    own: Option<&'a AtomicU64>,
    /// Who wants to see the first bytes, until then.
    first: Option<&'a dyn Witness>,
}

impl<'a> Direction<'a> {
    /// From `side` to the other one; `count` is of bytes that the destination's kernel has taken.
    pub(super) fn new(
        side: Side,
        [source, destination]: [&'a Stream; 2],
        count: &'a AtomicU64,
        splice_after: u64,
    ) -> Self {
        Self {
            source,
            destination,
            side,
            count,
            own_count: None,
            splice_after,
            can_splice: true,
            streak: 0,
            turn: 0,
            drained: false,
            filled: None,
            pipe: None,
            moved: false,
            rest: Rest::Empty,
            own: None,
            first: None,
        }
    }

    /// Its bytes are counted there as well.
    pub(super) fn counted_in(self, own_count: Option<&'a AtomicU64>) -> Self {
        Self { own_count, ..self }
    }

    /// Bytes are counted for a witness, too, who is shown the client's first ones.
    pub(super) fn before(mut self, witness: Option<&'a dyn Witness>) -> Self {
        let Some(witness) = witness else { return self };
        match self.side {
            Side::Client => {
                (self.own, self.first) = (Some(&witness.counts().up), Some(witness));
            }
            Side::Server => self.own = Some(&witness.counts().down),
        }
        self
    }

    /// Why it stands still.
    pub(super) fn rest(&self) -> Rest {
        self.rest
    }

    /// Whether bytes were read or written since this was last asked.
    pub(super) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Nothing more is to be passed; what is held is thrown away.
    pub(super) fn end(&mut self) {
        self.rest = Rest::Ended;
        self.filled = None;
        self.pipe = None;
    }

    /// Passes what can be passed, at most a share.
    pub(super) fn advance(&mut self) -> Result<Rest, Failure> {
        // What was held back is this share's, or a pipe could pass twice what it holds.
        let mut spent = self.pipe.as_ref().map_or(0, Pipe::held);
        self.rest = loop {
            if !self.deliver()? {
                break Rest::Full;
            }
            if std::mem::take(&mut self.drained) && !self.source.is_read_closed() {
                self.pause();
                break Rest::Empty;
            }
            if spent >= SHARE {
                break Rest::Share;
            }
            match self.fetch()? {
                Fetched::Bytes(got) => {
                    self.moved = true;
                    self.turn += got as u64;
                    self.streak += got as u64;
                    spent += got.max(buffers::SIZE);
                }
                Fetched::Nothing => {
                    self.pause();
                    break Rest::Empty;
                }
                Fetched::End => break Rest::Ended,
            }
        };
        if matches!(self.rest, Rest::Empty | Rest::Ended) {
            self.filled = None;
            self.pipe = None;
        }
        Ok(self.rest)
    }

    /// Tells the destination that no more comes.
    pub(super) fn pass_end(&self) -> Result<(), Failure> {
        let Err(error) = self.destination.shutdown(Shutdown::Write) else {
            return Ok(());
        };
        // It is broken, and the kernel may still know by what.
        let reason = self.destination.take_error().ok().flatten();
        Err(self.destination_failed(reason.unwrap_or(error)))
    }

    fn pause(&mut self) {
        if self.turn < buffers::SIZE as u64 {
            self.streak = 0;
        }
        self.turn = 0;
    }

    /// Writes what is held; whether that is all of it.
    fn deliver(&mut self) -> Result<bool, Failure> {
        loop {
            let sent = if let Some(filled) = &mut self.filled
                && filled.start < filled.end
            {
                let bytes = &filled.buffer[filled.start..filled.end];
                let sent = match self.drained && self.source.is_read_closed() {
                    true => self.destination.try_write_last(bytes),
                    false => self.destination.try_write(bytes),
                };
                filled.start += *sent.as_ref().unwrap_or(&0);
                sent
            } else if let Some(pipe) = &mut self.pipe
                && pipe.held() > 0
            {
                if !self.can_splice {
                    self.take_back()?;
                    continue;
                }
                pipe.empty(self.destination)
            } else {
                return Ok(true);
            };
            match sent {
                Ok(0) => return Err(self.destination_failed(ErrorKind::WriteZero.into())),
                Ok(sent) => {
                    self.moved = true;
                    self.count.fetch_add(sent as u64, Relaxed);
                    // Nobody else counts there.
                    for own in [self.own_count, self.own].into_iter().flatten() {
                        own.store(own.load(Relaxed) + sent as u64, Relaxed);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if self.refuses_splice(&error) => self.can_splice = false,
                Err(error) => return Err(self.destination_failed(error)),
            }
        }
    }

    fn destination_failed(&self, error: io::Error) -> Failure {
        let side = self.side.other();
        Failure { side, error }
    }

    fn source_failed(&self, error: io::Error) -> Failure {
        let side = self.side;
        Failure { side, error }
    }

    /// Whether the error is the kernel's answer to a splice, not to a write.
    fn refuses_splice(&self, error: &io::Error) -> bool {
        self.can_splice && self.pipe.is_some() && pipes::refused(error)
    }

    /// Puts bytes of a pipe into a buffer: the destination can't be spliced to.
    fn take_back(&mut self) -> Result<(), Failure> {
        let mut buffer = match self.filled.take() {
            Some(filled) => filled.buffer,
            None => Buffer::take(),
        };
        let got = match &mut self.pipe {
            Some(pipe) => pipe.read(&mut buffer),
            None => Ok(0),
        };
        let end = got.map_err(|error| self.source_failed(error))?;
        self.filled = Some(Filled {
            buffer,
            start: 0,
            end,
        });
        Ok(())
    }

    /// Takes bytes from the source. Nothing may be held.
    fn fetch(&mut self) -> Result<Fetched, Failure> {
        let got = match self.fetch_by_splice() {
            Some(got) => got,
            None => self.fetch_by_copy(),
        };
        match got {
            Ok(0) => Ok(Fetched::End),
            Ok(got) => Ok(Fetched::Bytes(got)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Fetched::Nothing),
            Err(error) => Err(self.source_failed(error)),
        }
    }

    fn fetch_by_copy(&mut self) -> io::Result<usize> {
        let filled = self.filled.get_or_insert_with(|| Filled {
            buffer: Buffer::take(),
            start: 0,
            end: 0,
        });
        filled.start = 0;
        filled.end = 0;
        filled.end = self.source.try_read(&mut filled.buffer)?;
        self.drained = filled.end > 0 && filled.end < buffers::SIZE;
        if let Some(witness) = self.first.take() {
            witness.heard(&filled.buffer[..filled.end]);
        }
        Ok(filled.end)
    }

    /// `None` if it is not the time to splice, or the kernel can't.
    fn fetch_by_splice(&mut self) -> Option<io::Result<usize>> {
        if !self.can_splice || self.streak < self.splice_after {
            return None;
        }
        if self.pipe.is_none() {
            self.pipe = Pipe::take().ok();
        }
        let got = self.pipe.as_mut().map(|pipe| pipe.fill(self.source));
        match got {
            Some(Err(error)) if pipes::refused(&error) => self.can_splice = false,
            Some(got) => {
                self.filled = None;
                return Some(got);
            }
            // Descriptors or pipe memory are short: what can't be had is not asked for again.
            None => self.can_splice = false,
        }
        self.pipe = None;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    fn pair() -> (UnixStream, Stream) {
        let (far, near) = UnixStream::pair().unwrap();
        (far, Stream::from(near))
    }

    #[tokio::test]
    async fn small_messages_are_never_spliced_and_a_stream_is_until_it_pauses() {
        let (mut writer, source) = pair();
        let (mut reader, destination) = pair();
        let count = AtomicU64::new(0);
        let ends = [&source, &destination];
        let mut direction = Direction::new(Side::Client, ends, &count, 40_000);
        let mut bytes = vec![0; 4 * buffers::SIZE];
        destination.writable().await.unwrap();

        for _ in 0..100 {
            writer.write_all(&[1; 1000]).await.unwrap();
            source.readable().await.unwrap();
            assert_eq!(direction.advance().unwrap(), Rest::Empty);
            reader.read_exact(&mut bytes[..1000]).await.unwrap();
        }
        assert_eq!(pipes::gauge().spare(), 0, "no pipe was taken");

        writer.write_all(&[2; 4 * buffers::SIZE]).await.unwrap();
        source.readable().await.unwrap();
        assert_eq!(direction.advance().unwrap(), Rest::Empty);
        reader.read_exact(&mut bytes).await.unwrap();
        assert!(bytes.iter().all(|&byte| byte == 2));
        let gauge = pipes::gauge();
        assert_eq!((gauge.used(), gauge.spare()), (0, 1), "used and back");
        assert!(direction.streak > 40_000);

        writer.write_all(&[3; 10]).await.unwrap();
        source.readable().await.unwrap();
        assert_eq!(direction.advance().unwrap(), Rest::Empty);
        assert_eq!(direction.streak, 0, "ten bytes in a turn are a pause");
        assert_eq!(count.load(Relaxed), 100_000 + 4 * 16_384 + 10);
        assert_eq!(buffers::gauge().used(), 0);
    }

    #[tokio::test]
    async fn bytes_in_a_pipe_are_copied_when_the_destination_refuses_splice() {
        let (mut writer, source) = pair();
        let (mut reader, destination) = pair();
        let count = AtomicU64::new(0);
        let ends = [&source, &destination];
        let mut direction = Direction::new(Side::Server, ends, &count, 0);
        let sent: Vec<u8> = (0..50_000_u32).map(|number| number as u8).collect();
        writer.write_all(&sent).await.unwrap();
        drop(writer);
        source.readable().await.unwrap();
        destination.writable().await.unwrap();
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(&source).unwrap(), 50_000);
        direction.pipe = Some(pipe);
        let refusal = io::Error::from_raw_os_error(libc::EINVAL);
        assert!(direction.refuses_splice(&refusal));
        direction.can_splice = false;

        assert_eq!(direction.advance().unwrap(), Rest::Ended);
        direction.pass_end().unwrap();
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert!(got == sent);
        assert_eq!(count.load(Relaxed), 50_000);
        assert_eq!((pipes::gauge().used(), buffers::gauge().used()), (0, 0));
    }
}
