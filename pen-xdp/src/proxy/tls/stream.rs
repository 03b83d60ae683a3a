//! A connection over TLS, to a client or to a server, with the interface of a [`Stream`].
//!
//! The socket's readiness is not that of the bytes inside: decrypted bytes may wait while the socket
//! has nothing, and a socket with a piece of a record has nothing to read. So whoever waits asks
//! here, and what is encrypted and not sent is sent by whoever waits for anything.

use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use pen_common::config::ClientCertificate;
use pen_common::proxy_protocol::{Ssl, SslCertificate, Tlv};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::clients::{Identity, Standing};
use super::handshake::Failed;
use super::session::{Session, is_blocked};
use super::store::now;
use crate::proxy::stream::Stream;

/// Times that a read looks at the socket before somebody else has a turn: records that hold nothing
/// must not keep a thread busy.
const LOOKS: u32 = 4;

/// See the module. Locked for moments: all tasks of a connection are on one thread.
#[derive(Debug)]
pub struct Encrypted {
    below: Stream,
    session: Mutex<Session>,
    standing: Standing,
}

impl Encrypted {
    /// A connection whose client is expected to begin with a handshake.
    ///
    /// # Errors
    /// The configuration is none for a server.
    pub(in crate::proxy) fn new(
        below: Stream,
        config: Arc<ServerConfig>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            below,
            session: Mutex::new(Session::new(ServerConnection::new(config)?)),
            standing: Standing::Unasked,
        })
    }

    /// A connection to a server of this name, with which a handshake is to begin.
    ///
    /// # Errors
    /// The configuration is none for a client.
    pub(super) fn to_server(
        below: Stream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        Ok(Self {
            below,
            session: Mutex::new(Session::new(ClientConnection::new(config, name)?)),
            standing: Standing::Unasked,
        })
    }

    /// The connection that carries this one.
    pub(in crate::proxy) fn below(&self) -> &Stream {
        &self.below
    }

    /// The name that the client asked for (SNI).
    pub(in crate::proxy) fn server_name(&self) -> Option<String> {
        self.session().server_name().map(str::to_owned)
    }

    /// Finds out who the client is, after the handshake.
    ///
    /// # Errors
    /// It has to have a certificate that is valid now, and has none.
    pub(in crate::proxy) fn recognize(&mut self, asked: ClientCertificate) -> Result<(), Failed> {
        if asked == ClientCertificate::Off {
            return Ok(());
        }
        let refused = |why: &str| Err(Failed::Refused(why.to_owned()));
        let session = self.session();
        let standing = match session.certificate() {
            Some(certificate) => {
                let identity = Identity::of(certificate, session.is_resumed());
                let identity = identity.map_err(Failed::Refused)?;
                if !identity.is_valid(now()) {
                    return refused("its certificate, of the session that is resumed, has expired");
                }
                Standing::Known(Box::new(identity))
            }
            None if asked == ClientCertificate::Required => {
                return refused("there is no certificate in the session that is resumed");
            }
            None => Standing::Anonymous,
        };
        drop(session);
        self.standing = standing;
        Ok(())
    }

    /// Who the client is by its certificate.
    pub(in crate::proxy) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// What servers are told of it by the PROXY protocol.
    pub(in crate::proxy) fn told(&self) -> Option<Tlv> {
        let (version, cipher) = self.session().spoken()?;
        let certificate = match &self.standing {
            Standing::Known(identity) => Some(SslCertificate {
                common_name: identity.common_name.as_deref(),
                resumed: identity.resumed,
            }),
            Standing::Unasked | Standing::Anonymous => None,
        };
        let ssl = Ssl {
            version,
            cipher,
            certificate,
        };
        ssl.tlv()
    }

    /// The other end's certificate in DER, as far as there is one.
    pub(super) fn certificate(&self) -> Option<Vec<u8>> {
        self.session().certificate().map(|one| one.to_vec())
    }

    /// What is spoken, after the handshake.
    pub(super) fn version(&self) -> Option<&'static str> {
        self.session().spoken().map(|(version, _)| version)
    }

    /// Whether the client has said anything.
    pub(super) fn has_heard(&self) -> bool {
        self.session().has_heard()
    }

    /// Goes on with the handshake as far as it goes without waiting; whether it is over.
    ///
    /// # Errors
    /// It has failed (`InvalidData`), the other end has left (`UnexpectedEof`), or the connection is
    /// broken.
    pub(super) fn shake_hands(&self) -> io::Result<bool> {
        let mut session = self.session();
        while session.is_handshaking() {
            match session.take_in(&self.below) {
                Ok(()) if session.has_ended() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(()) => {}
                Err(error) if is_blocked(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// As [`Stream::try_read`].
    pub(in crate::proxy) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session();
        for _ in 0..LOOKS {
            match session.read(buffer) {
                Err(error) if is_blocked(&error) => session.take_in(&self.below)?,
                read => return read,
            }
        }
        session.read(buffer)
    }

    /// As [`Stream::try_write`], and with `more` as [`Stream::try_write_last`]. Who is told
    /// `WouldBlock` comes again with the same bytes.
    pub(in crate::proxy) fn try_write(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        self.session().write(&self.below, bytes, more)
    }

    /// As [`Stream::is_read_closed`].
    pub(in crate::proxy) fn is_read_closed(&self) -> bool {
        self.session().is_read_closed() || self.below.is_read_closed()
    }

    /// Whether there is something to read that the socket does not have any more: bytes, the end of the
    /// stream or an error.
    pub(in crate::proxy) fn has_news(&self) -> bool {
        self.session().has_news()
    }

    /// As [`Stream::poll_readable`].
    pub(in crate::proxy) fn poll_readable(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_news() {
            return Poll::Ready(Ok(()));
        }
        // A connection that can't be written is told to whoever writes.
        let _ = self.poll_flush(context);
        self.below.poll_readable(context)
    }

    /// As [`Stream::poll_writable`].
    pub(in crate::proxy) fn poll_writable(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(context))?;
        match self.session().owes() {
            true => Poll::Ready(Ok(())),
            false => self.below.poll_writable(context),
        }
    }

    /// As [`Stream::poll_flush`].
    pub(in crate::proxy) fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let flushed = self.session().flush(&self.below, false);
            match flushed {
                Err(error) if is_blocked(&error) => ready!(self.below.poll_writable(context))?,
                flushed => return Poll::Ready(flushed),
            }
        }
    }

    /// As [`Stream::shutdown`]: the client is told by a close_notify, and then by the end of the
    /// connection below. What the kernel does not take at once [`Encrypted::poll_flush`] sends.
    pub(in crate::proxy) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Read {
            self.session().end(&self.below)?;
        }
        if how != Shutdown::Write {
            self.below.shutdown(how)?;
        }
        Ok(())
    }

    /// Whole at every point where whoever holds it could break down.
    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
