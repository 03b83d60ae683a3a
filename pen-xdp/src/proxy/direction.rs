//! One direction of a connection: bytes from one socket to the other.

use std::{
    fmt,
    io::{self, ErrorKind},
    mem::{replace, take},
    net::Shutdown,
    sync::atomic::Ordering::Relaxed,
};

use super::{
    buffers::{self, Buffer},
    pipes::{self, Pipe},
    relay::{Account, Counts, Witness},
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

/// What is known of what comes after the bytes that were read last.
#[derive(Debug, Default)]
enum After {
    #[default]
    Unknown,
    /// Nothing is there at the moment.
    Nothing,
    /// The end of the stream: it can travel with these bytes.
    End,
    /// The connection is broken.
    Broken(io::Error),
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
    account: &'a Account<'a>,
    splice_after: u64,
    /// Neither side is encrypted, and the kernel has not refused to splice.
    can_splice: bool,
    /// Bytes since the last pause.
    streak: u64,
    /// Bytes since the source was last found empty.
    turn: u64,
    after: After,
    filled: Option<Filled>,
    pipe: Option<Pipe>,
    moved: bool,
    rest: Rest,
    /// The client's first bytes have been shown to whoever wants to see them.
    shown: bool,
}

impl<'a> Direction<'a> {
    /// From `side` to the other one; counted are bytes that the destination's kernel has taken.
    pub(super) fn new(
        side: Side,
        [source, destination]: [&'a Stream; 2],
        account: &'a Account<'a>,
        splice_after: u64,
    ) -> Self {
        Self {
            source,
            destination,
            side,
            account,
            splice_after,
            can_splice: !source.is_tls() && !destination.is_tls(),
            streak: 0,
            turn: 0,
            after: After::Unknown,
            filled: None,
            pipe: None,
            moved: false,
            rest: Rest::Empty,
            shown: side == Side::Server,
        }
    }

    /// Why it stands still.
    pub(super) fn rest(&self) -> Rest {
        self.rest
    }

    /// Whether bytes were read or written since this was last asked.
    pub(super) fn has_moved(&mut self) -> bool {
        take(&mut self.moved)
    }

    /// Nothing more is to be passed; what is held is thrown away.
    pub(super) fn end(&mut self) {
        self.rest = Rest::Ended;
        self.after = After::Unknown;
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
            if matches!(self.after, After::Nothing) {
                self.after = After::Unknown;
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
                let sent = match self.after {
                    After::End => self.destination.try_write_last(bytes),
                    After::Unknown | After::Nothing | After::Broken(_) => {
                        self.destination.try_write(bytes)
                    }
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
                    self.count(sent as u64);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if self.refuses_splice(&error) => self.can_splice = false,
                Err(error) => return Err(self.destination_failed(error)),
            }
        }
    }

    fn count(&self, bytes: u64) {
        let of = |counts: &'a Counts| match self.side {
            Side::Client => &counts.up,
            Side::Server => &counts.down,
        };
        let Account {
            server,
            own,
            witness,
        } = self.account;
        of(server).fetch_add(bytes, Relaxed);
        let own = own.map(|own| own.counts);
        let witness = witness.map(Witness::counts);
        // Nobody else counts there.
        for alone in [own, witness].into_iter().flatten().map(of) {
            alone.store(alone.load(Relaxed) + bytes, Relaxed);
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
        let got = match take(&mut self.after) {
            After::End => Ok(0),
            After::Broken(error) => Err(error),
            After::Unknown | After::Nothing => match self.fetch_by_splice() {
                Some(got) => got,
                None => self.fetch_by_copy(),
            },
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
        // Less than a buffer is all there was, but for a record of TLS.
        if filled.end > 0 && filled.end < buffers::SIZE && !self.source.is_tls() {
            // Servers end after what they say. Clients hardly ever do, and looking costs a percent
            // of a small request.
            self.after = match self.side {
                Side::Server => look_ahead(self.source, filled),
                Side::Client => After::Nothing,
            };
        }
        if let Some(witness) = self.account.witness
            && !replace(&mut self.shown, true)
        {
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

/// What comes after a read that took all there was: where the source has ended its stream it is read
/// to the end, as far as there is room, so that nothing is held back for an end that never comes.
fn look_ahead(source: &Stream, filled: &mut Filled) -> After {
    while filled.end < buffers::SIZE {
        if !source.is_read_closed() {
            return After::Nothing;
        }
        match source.try_read(&mut filled.buffer[filled.end..]) {
            Ok(0) => return After::End,
            Ok(more) => filled.end += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return After::Nothing,
            Err(error) => return After::Broken(error),
        }
    }
    After::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::time::Duration;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        join,
        net::{TcpListener, TcpStream, UnixStream},
        task::yield_now,
    };

    fn pair() -> (UnixStream, Stream) {
        let (far, near) = UnixStream::pair().unwrap();
        (far, Stream::from(near))
    }

    #[tokio::test]
    async fn small_messages_are_never_spliced_and_a_stream_is_until_it_pauses() {
        let (mut writer, source) = pair();
        let (mut reader, destination) = pair();
        let counts = Counts::default();
        let account = Account::from(&counts);
        let ends = [&source, &destination];
        let mut direction = Direction::new(Side::Client, ends, &account, 40_000);
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
        assert_eq!(counts.up.load(Relaxed), 100_000 + 4 * 16_384 + 10);
        assert_eq!(buffers::gauge().used(), 0);
    }

    #[tokio::test]
    async fn bytes_in_a_pipe_are_copied_when_the_destination_refuses_splice() {
        let (mut writer, source) = pair();
        let (mut reader, destination) = pair();
        let counts = Counts::default();
        let account = Account::from(&counts);
        let ends = [&source, &destination];
        let mut direction = Direction::new(Side::Server, ends, &account, 0);
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
        assert_eq!(counts.down.load(Relaxed), 50_000);
        assert_eq!((pipes::gauge().used(), buffers::gauge().used()), (0, 0));
    }

    #[tokio::test]
    async fn the_end_of_a_stream_is_known_before_its_last_bytes_are_passed_and_a_break_too() {
        for broken in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            let (writer, source) = join!(TcpStream::connect(at), listener.accept());
            let (mut writer, source) = (writer.unwrap(), Stream::from(source.unwrap().0));
            let (mut reader, destination) = pair();
            let counts = Counts::default();
            let account = Account::from(&counts);
            let ends = [&source, &destination];
            let mut direction = Direction::new(Side::Server, ends, &account, u64::MAX);
            writer.write_all(b"last").await.unwrap();
            source.readable().await.unwrap();
            if broken {
                SockRef::from(&writer)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }
            drop(writer);
            while !source.is_read_closed() {
                yield_now().await;
            }
            assert!(matches!(direction.fetch().unwrap(), Fetched::Bytes(4)));
            match direction.after {
                After::End => assert!(!broken),
                After::Broken(_) => assert!(broken),
                After::Unknown | After::Nothing => panic!("{:?}", direction.after),
            }
            let passed = direction.advance();
            assert_eq!(passed.is_err(), broken, "{passed:?}");
            direction.end();
            direction.pass_end().unwrap();
            let mut got = Vec::new();
            reader.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"last");
        }
    }
}
