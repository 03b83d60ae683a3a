//! What rustls keeps of one connection, and the bytes on their way into it and out of it.

use std::fmt;
use std::io::{self, BufRead, ErrorKind, IoSlice, Read, Write};

use rustls::pki_types::CertificateDer;
use rustls::{Connection, HandshakeKind, ProtocolVersion};

use super::terms::word;
use crate::proxy::buffers::Buffer;
use crate::proxy::stream::Stream;

/// Plaintext that is encrypted before the kernel has taken what was encrypted before: what somebody
/// who does not read can make us hold, beside a record on its way in.
const UNSENT_MAX: usize = 64 << 10;

/// How far the end of our own stream is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// More may be written.
    Open,
    /// A close_notify waits to be sent, with all that is before it.
    Queued,
    /// It is with the kernel, and so is the end of the stream below.
    Told,
}

/// Ciphertext from `start` to `end` that rustls has not taken yet.
struct Incoming {
    buffer: Buffer,
    start: usize,
    end: usize,
}

/// One side of a TLS connection, ours.
pub(super) struct Session {
    tls: Connection,
    incoming: Option<Incoming>,
    /// Bytes that a writer gave, that are encrypted, and that it was not told of, as the kernel had
    /// not taken all of them.
    owed: usize,
    ending: Ending,
    /// Something has come.
    heard: bool,
    /// The stream below has ended.
    ended: bool,
}

impl Session {
    pub(super) fn new(tls: impl Into<Connection>) -> Self {
        let mut tls = tls.into();
        tls.set_buffer_limit(Some(UNSENT_MAX));
        Self {
            tls,
            incoming: None,
            owed: 0,
            ending: Ending::Open,
            heard: false,
            ended: false,
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// The name that the client asked for (SNI).
    pub(super) fn server_name(&self) -> Option<&str> {
        match &self.tls {
            Connection::Server(tls) => tls.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// The other end's own certificate, if it was asked for one and has shown it, here or in the
    /// session that is resumed.
    pub(super) fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.tls.peer_certificates()?.first()
    }

    /// Whether it goes on with a session of an earlier connection.
    pub(super) fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Version and cipher, by OpenSSL's names, after the handshake.
    pub(super) fn spoken(&self) -> Option<(&'static str, Option<&'static str>)> {
        let spoken = self.tls.protocol_version()?;
        let both = [
            (ProtocolVersion::TLSv1_2, "TLSv1.2"),
            (ProtocolVersion::TLSv1_3, "TLSv1.3"),
        ];
        let (_, version) = both.into_iter().find(|(version, _)| *version == spoken)?;
        let cipher = self.tls.negotiated_cipher_suite();
        Some((version, cipher.and_then(word)))
    }

    /// Whether anything has come.
    pub(super) fn has_heard(&self) -> bool {
        self.heard
    }

    /// Whether the stream below has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether a read has an answer without a look at the socket: bytes, the end, or bytes that
    /// wait to be decrypted.
    pub(super) fn has_news(&mut self) -> bool {
        self.incoming.is_some() || !is_would_block(&self.tls.reader().fill_buf())
    }

    /// Whether the other end has said that no more comes, or ended the stream below.
    pub(super) fn is_read_closed(&mut self) -> bool {
        self.ended || matches!(self.tls.reader().fill_buf(), Ok([]))
    }

    /// Gives decrypted bytes; 0 is the end, however the other end ended its stream.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.tls.reader().read(buffer) {
            // Many just leave. What that means for what they sent is known above: it is as with a
            // TCP stream, which has no other end.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }
    }

    /// Takes what the socket has, a buffer at most, and decrypts until there is something to read.
    /// What rustls has to say to it is sent as far as the kernel takes it.
    pub(super) fn take_in(&mut self, below: &Stream) -> io::Result<()> {
        if self.incoming.is_none() {
            let mut buffer = Buffer::take();
            match below.try_read(&mut buffer)? {
                0 => {
                    self.ended = true;
                    self.tls.read_tls(&mut io::empty())?;
                    return Ok(());
                }
                end => {
                    self.heard = true;
                    self.incoming = Some(Incoming {
                        buffer,
                        start: 0,
                        end,
                    });
                }
            }
        }
        let decrypted = self.decrypt();
        // A connection that can't be written is told to whoever writes.
        let _ = self.flush(below, false);
        decrypted
    }

    /// Hands on what was read until it brings bytes to read. rustls takes only so much at a time,
    /// and refuses more while there are bytes to read.
    fn decrypt(&mut self) -> io::Result<()> {
        while let Some(mut incoming) = self.incoming.take() {
            let mut rest = &incoming.buffer[incoming.start..incoming.end];
            let taken = self.tls.read_tls(&mut rest)?;
            let state = self.tls.process_new_packets();
            let state = state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            incoming.start += taken;
            // Nothing is taken behind a close_notify, nor does it mean anything.
            if taken > 0 && incoming.start < incoming.end {
                self.incoming = Some(incoming);
            }
            if state.plaintext_bytes_to_read() > 0 {
                break;
            }
        }
        Ok(())
    }

    /// Sends what is encrypted. `more` follows at once.
    ///
    /// # Errors
    /// `WouldBlock` if the kernel does not take all of it.
    pub(super) fn flush(&mut self, below: &Stream, more: bool) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut Wire { below, more })?;
        }
        if self.ending == Ending::Queued {
            self.ending = Ending::Told;
            below.shutdown(std::net::Shutdown::Write)?;
        }
        Ok(())
    }

    /// Encrypts and sends. Who is told `WouldBlock` comes again with the same bytes: they are on
    /// their way, and count as written only when the kernel has taken them all.
    pub(super) fn write(&mut self, below: &Stream, bytes: &[u8], more: bool) -> io::Result<usize> {
        self.flush(below, more)?;
        if self.owed == 0 {
            self.owed = self.tls.writer().write(bytes)?;
            self.flush(below, more)?;
        }
        let told = self.owed.min(bytes.len());
        self.owed -= told;
        Ok(told)
    }

    /// Whether a write has an answer without a look at the socket.
    pub(super) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// Tells the other end that no more comes, and ends the stream below when it is told.
    pub(super) fn end(&mut self, below: &Stream) -> io::Result<()> {
        if self.ending == Ending::Open {
            self.tls.send_close_notify();
            self.ending = Ending::Queued;
        }
        // With what was written last, and the end below, it travels in one packet.
        match self.flush(below, true) {
            Err(error) if is_blocked(&error) => Ok(()),
            flushed => flushed,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("version", &self.tls.protocol_version())
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}

/// Where rustls writes to.
struct Wire<'a> {
    below: &'a Stream,
    more: bool,
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, records: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self.below.try_send(records, self.more) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                sent => return sent,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn is_blocked(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

fn is_would_block<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(is_blocked)
}
