//! One type for all kinds of connections: TCP and Unix, and either with TLS in it.

use std::{
    fmt,
    future::poll_fn,
    io::{self, ErrorKind, IoSlice},
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::PathBuf,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv};
use pen_common::proxy_protocol::Tlv;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, sendmsg};
use socket2::SockRef;
use tokio::{
    io::{Interest, Ready},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::tls::Standing;
use super::tls::stream::Encrypted;

/// Where one end of a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Ip(SocketAddr),
    /// A Unix socket; most clients' have no path.
    Unix(Option<PathBuf>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(Some(path)) => write!(f, "unix:{}", path.display()),
            Self::Unix(None) => f.write_str("unix"),
        }
    }
}

/// A connection, to a client or to a server.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TLS, in one of the others. Boxed: those who speak none need no room for it.
    Tls(Box<Encrypted>),
}

/// Calls a method that both kinds of sockets have.
macro_rules! either {
    ($stream:expr, $name:ident => $call:expr) => {
        match $stream.socket() {
            Socket::Tcp($name) => $call,
            Socket::Unix($name) => $call,
        }
    };
}

/// What carries a stream.
enum Socket<'a> {
    Tcp(&'a TcpStream),
    Unix(&'a UnixStream),
}

impl Stream {
    fn socket(&self) -> Socket<'_> {
        match self {
            Self::Tcp(stream) => Socket::Tcp(stream),
            Self::Unix(stream) => Socket::Unix(stream),
            Self::Tls(stream) => stream.below().socket(),
        }
    }

    /// Whether what is read and written travels encrypted. Then the socket is no place to look for
    /// bytes: calls of the kernel by way of [`Stream::try_io`] see what is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// The name of the server that the client asked for when it began to speak TLS (SNI), in lower
    /// case.
    pub fn server_name(&self) -> Option<String> {
        match self {
            Self::Tls(stream) => stream.server_name(),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Who the client is by the certificate that it has shown.
    pub(super) fn standing(&self) -> &Standing {
        match self {
            Self::Tls(stream) => stream.standing(),
            Self::Tcp(_) | Self::Unix(_) => &Standing::Unasked,
        }
    }

    /// What servers are told of a client's TLS by the PROXY protocol.
    pub(super) fn told(&self) -> Option<Tlv> {
        match self {
            Self::Tls(stream) => stream.told(),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Waits until there is something to read, the end of the stream and errors included.
    ///
    /// # Errors
    /// The runtime is about to end.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => poll_fn(|context| stream.poll_readable(context)).await,
            Self::Tcp(_) | Self::Unix(_) => either!(self, stream => stream.readable().await),
        }
    }

    /// Waits until the socket is ready for something of this kind, and says for what.
    ///
    /// # Errors
    /// As [`Stream::readable`].
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, stream => stream.ready(interest).await)
    }

    /// Waits until something can be written, or writing would fail.
    ///
    /// # Errors
    /// The runtime is about to end.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => poll_fn(|context| stream.poll_writable(context)).await,
            Self::Tcp(_) | Self::Unix(_) => either!(self, stream => stream.writable().await),
        }
    }

    /// As [`Stream::readable`]; only the task that polled last is woken.
    ///
    /// # Errors
    /// As there.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(context),
            Self::Unix(stream) => stream.poll_read_ready(context),
            Self::Tls(stream) => stream.poll_readable(context),
        }
    }

    /// As [`Stream::writable`]; only the task that polled last is woken.
    ///
    /// # Errors
    /// As there.
    pub fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(context),
            Self::Unix(stream) => stream.poll_write_ready(context),
            Self::Tls(stream) => stream.poll_writable(context),
        }
    }

    /// Ready when the kernel has all that was written and said by [`Stream::shutdown`]. Without TLS
    /// that is always so.
    ///
    /// # Errors
    /// What broke the connection.
    pub fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream.poll_flush(context),
        }
    }

    /// Ends an orderly connection: over TLS the other end is told so, unless that takes longer than
    /// `limit`. Else dropping it does.
    pub async fn close(&self, limit: Duration) {
        if self.is_tls() && self.shutdown(Shutdown::Write).is_ok() {
            // Who does not take it has lost nothing but the word.
            let _ = timeout(limit, poll_fn(|context| self.poll_flush(context))).await;
        }
    }

    /// Waits until the connection is broken, for who neither reads nor writes at the moment.
    ///
    /// # Errors
    /// The runtime is about to end.
    pub async fn broken(&self) -> io::Result<Ready> {
        self.ready(Interest::ERROR).await
    }

    /// The error that the kernel keeps for the connection; it is told once.
    ///
    /// # Errors
    /// The kernel can't say.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        either!(self, stream => stream.take_error())
    }

    /// Reads what is there; 0 is the end of the stream.
    ///
    /// Whoever gets less than the buffer holds has got all there was (over TLS there may be more), and
    /// the next try is answered `WouldBlock` without a call of the kernel. (Out-of-band data is the
    /// exception: a read stops in front of it, and what follows is read when more comes.)
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there; else what broke the connection.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Tls(stream) = self {
            return stream.try_read(buffer);
        }
        let all = buffer.len();
        let mut got = 0;
        let tried = self.try_io(Interest::READABLE, || {
            // By rustix, whose calls go to the kernel and not through libc, which has each of them
            // watch for the end of its thread: two of a hundred parts of a small request.
            (got, _) = rustix::net::recv(self, &mut *buffer, RecvFlags::empty())?;
            whole(got, all)
        });
        if got > 0 { Ok(got) } else { tried.map(|()| 0) }
    }

    /// Looks at what is there, and leaves it there; a bare call of the kernel, for
    /// [`Stream::try_io`].
    ///
    /// # Errors
    /// As [`Stream::try_read`].
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_PEEK)?)
    }

    /// Whether there is something to read now, which the event loop may not have been told of yet.
    /// Over TLS it may turn out to be less than a record, or the end of the stream.
    pub(super) fn has_bytes(&self) -> bool {
        if let Self::Tls(stream) = self
            && stream.has_news()
        {
            return true;
        }
        self.peek(&mut [0]).is_ok_and(|there| there > 0)
    }

    /// How many bytes there are to read, as far as the buffer would hold them: they are not copied
    /// there (MSG_TRUNC, tcp(7)), and stay. A bare call of the kernel, as [`Stream::peek`].
    ///
    /// # Errors
    /// As [`Stream::try_read`].
    pub(super) fn count(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        Ok(recv(self.as_fd().as_raw_fd(), buffer, flags)?)
    }

    /// Whether the other end is known to have ended its stream; what it sent before may still be
    /// there to read.
    pub fn is_read_closed(&self) -> bool {
        if let Self::Tls(stream) = self {
            return stream.is_read_closed();
        }
        // Nearly every connection is ready to be written, so that this is told at once.
        let mut ready = pin!(self.ready(Interest::READABLE | Interest::WRITABLE));
        match ready.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) | Poll::Pending => false,
        }
    }

    /// Writes what the kernel takes; after less than all, the next try is answered `WouldBlock`
    /// without a call of the kernel. Over TLS, who is told `WouldBlock` comes again with the same
    /// bytes, or with none at all.
    ///
    /// # Errors
    /// `WouldBlock` if it takes nothing; else what broke the connection.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write_before(bytes, false)
    }

    /// As [`Stream::try_write`], for bytes that the end of the stream follows at once: they travel
    /// in one packet (MSG_MORE, tcp(7)).
    ///
    /// # Errors
    /// As there.
    pub fn try_write_last(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write_before(bytes, true)
    }

    fn try_write_before(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match self {
            Self::Tls(stream) => stream.try_write(bytes, more),
            Self::Tcp(_) | Self::Unix(_) => self.try_send(&[IoSlice::new(bytes)], more),
        }
    }

    /// Gives bytes to the socket as they are. `more` follow at once.
    pub(super) fn try_send(&self, pieces: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        let flags = if more {
            SendFlags::MORE
        } else {
            SendFlags::empty()
        };
        let mut sent = 0;
        let tried = self.try_io(Interest::WRITABLE, || {
            sent = match pieces {
                [piece] => rustix::net::send(self, piece, flags)?,
                pieces => sendmsg(self, pieces, &mut SendAncillaryBuffer::default(), flags)?,
            };
            whole(sent, pieces.iter().map(|piece| piece.len()).sum())
        });
        if sent > 0 {
            Ok(sent)
        } else {
            tried.map(|()| 0)
        }
    }

    /// Makes a call of the kernel if the socket is not known to be unready for it, and takes down
    /// that it is if the call says `WouldBlock`.
    ///
    /// # Errors
    /// `WouldBlock`, or what the call says.
    pub fn try_io<R>(
        &self,
        interest: Interest,
        call: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        either!(self, stream => stream.try_io(interest, call))
    }

    /// Closes one half, or both, for this process and everyone who shares the connection. Over TLS
    /// the other end is told so before, by a close_notify; [`Stream::poll_flush`] says when it has
    /// gone out.
    ///
    /// # Errors
    /// `NotConnected` if the connection is broken.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tls(stream) => stream.shutdown(how),
            Self::Tcp(_) | Self::Unix(_) => SockRef::from(self).shutdown(how),
        }
    }

    /// The other end.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn peer(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(stream) => Address::Ip(stream.peer_addr()?),
            Self::Unix(stream) => path(&stream.peer_addr()?),
            Self::Tls(stream) => stream.below().peer()?,
        })
    }

    /// This end.
    ///
    /// # Errors
    /// The kernel can't say.
    pub fn local(&self) -> io::Result<Address> {
        Ok(match self {
            Self::Tcp(stream) => Address::Ip(stream.local_addr()?),
            Self::Unix(stream) => path(&stream.local_addr()?),
            Self::Tls(stream) => stream.below().local()?,
        })
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, stream => stream.as_fd())
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

/// A call that moved some, but not all, leaves a socket that has no more: the runtime is told so
/// by `WouldBlock`, which saves the call that would find it out.
fn whole(moved: usize, all: usize) -> io::Result<()> {
    if moved > 0 && moved < all {
        return Err(ErrorKind::WouldBlock.into());
    }
    Ok(())
}

fn path(address: &tokio::net::unix::SocketAddr) -> Address {
    Address::Unix(address.as_pathname().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    #[tokio::test]
    async fn a_short_read_is_the_last_one_until_more_comes_and_the_end_is_still_seen() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let near = Stream::from(near);
        let mut buffer = [0; 8];
        for text in ["one", "three"] {
            far.write_all(text.as_bytes()).await.unwrap();
            near.readable().await.unwrap();
            assert_eq!(near.try_read(&mut buffer).unwrap(), text.len());
            assert_eq!(&buffer[..text.len()], text.as_bytes());
            let nothing = near.try_read(&mut buffer).unwrap_err();
            assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
        }
        far.write_all(b"end").await.unwrap();
        drop(far);
        near.readable().await.unwrap();
        assert_eq!(near.try_read(&mut buffer).unwrap(), 3);
        near.readable().await.unwrap();
        assert_eq!(near.try_read(&mut buffer).unwrap(), 0);
    }

    #[tokio::test]
    async fn addresses_are_told_for_both_kinds() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let tcp = Stream::from(TcpStream::connect(at).await.unwrap());
        assert_eq!(tcp.peer().unwrap(), Address::Ip(at));
        assert_eq!(tcp.peer().unwrap().to_string(), at.to_string());
        assert_ne!(tcp.local().unwrap(), Address::Ip(at));
        let (near, _far) = UnixStream::pair().unwrap();
        let unix = Stream::from(near);
        assert_eq!(unix.peer().unwrap(), Address::Unix(None));
        assert_eq!(unix.local().unwrap().to_string(), "unix");
        let named = Address::Unix(Some("/run/web".into()));
        assert_eq!(named.to_string(), "unix:/run/web");
    }
}
