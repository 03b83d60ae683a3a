//! Kernel pipes for splice(2): bytes go from one socket to the other without a copy through this
//! process.
//!
//! A pipe is filled only when it is empty. That costs a call now and then, and makes EAGAIN plain:
//! a full pipe is never filled and an empty one never emptied, so that it is always the socket that
//! has nothing, or takes nothing.

use std::{io, os::fd::OwnedFd, rc::Rc, sync::Arc};

use nix::{
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    unistd::{pipe2, read},
};
use tokio::io::Interest;

use super::{
    spares::{Gauge, Spares},
    stream::Stream,
};

/// Sizes that are tried, in bytes. The kernel refuses what would take the user beyond
/// `pipe-user-pages-soft`.
const SIZES: [i32; 2] = [1 << 20, 256 << 10];
/// A pipe that holds less, because the user has too many, is slower than copying.
const LEAST: usize = 64 << 10;
/// Pipes that a thread keeps; each is two descriptors.
const KEPT: usize = 32;
/// Pipes that a thread has in use at a time: clients that take no bytes hold them, and what is in
/// them is kernel memory that nothing else bounds for root. Beyond these bytes are copied.
const IN_USE_MAX: usize = 64;

thread_local! {
    static SPARES: Spares<Rc<Ends>> = Spares::new(KEPT);
}

/// This thread's count of pipes.
pub fn gauge() -> Arc<Gauge> {
    SPARES.with(Spares::gauge)
}

#[derive(Debug)]
struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
    capacity: usize,
}

impl Ends {
    fn open() -> io::Result<Rc<Self>> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        for size in SIZES {
            if fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size)).is_ok() {
                break;
            }
        }
        let capacity = fcntl(&writer, FcntlArg::F_GETPIPE_SZ)? as usize;
        if capacity < LEAST {
            return Err(io::Error::other("the kernel gives small pipes only"));
        }
        Ok(Rc::new(Self {
            reader,
            writer,
            capacity,
        }))
    }
}

/// A pipe and how many bytes are in it. Goes back to its thread when dropped, or is closed if it is
/// not empty: the next connection must not get this one's bytes.
#[derive(Debug)]
pub struct Pipe {
    ends: Rc<Ends>,
    held: usize,
}

impl Pipe {
    /// One of this thread's, or a new one.
    ///
    /// # Errors
    /// No descriptors are left, the user has so many pipes that new ones are small, or this thread
    /// has as many in use as it may.
    pub fn take() -> io::Result<Self> {
        if gauge().used() >= IN_USE_MAX {
            return Err(io::Error::other("as many pipes are in use as may be"));
        }
        let ends = SPARES.with(|spares| spares.take(Ends::open))?;
        Ok(Self { ends, held: 0 })
    }

    /// Bytes in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes from the socket what it has and the pipe can hold, and says how many bytes; 0 is the
    /// end of the stream. The pipe must be empty.
    ///
    /// # Errors
    /// `WouldBlock` if the socket has nothing; what [`refused`] knows if the socket can't be
    /// spliced; else what broke the socket.
    pub fn fill(&mut self, source: &Stream) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0);
        let Ends {
            writer, capacity, ..
        } = &*self.ends;
        self.held = source.try_io(Interest::READABLE, || {
            Ok(splice(source, None, writer, None, *capacity, flags())?)
        })?;
        Ok(self.held)
    }

    /// Gives the socket what it takes, and says how many bytes. The pipe must not be empty.
    ///
    /// # Errors
    /// As [`Pipe::fill`]; the bytes are still in the pipe then.
    pub fn empty(&mut self, destination: &Stream) -> io::Result<usize> {
        debug_assert_ne!(self.held, 0);
        let sent = destination.try_io(Interest::WRITABLE, || {
            let reader = &self.ends.reader;
            Ok(splice(reader, None, destination, None, self.held, flags())?)
        })?;
        self.held -= sent;
        Ok(sent)
    }

    /// Reads bytes back out of the pipe, for a socket that refuses them by splice.
    ///
    /// # Errors
    /// The kernel's; none is known for a pipe that is not empty.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = read(&self.ends.reader, buffer)?;
        self.held -= got;
        Ok(got)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // A thread that ends may have dropped its spares before its connections.
        let _ = SPARES.try_with(|spares| match self.held {
            0 => spares.give_back(Rc::clone(&self.ends)),
            _ => spares.lost(),
        });
    }
}

/// Whether the kernel says that it can't splice this socket at all.
pub fn refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS))
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use tokio::{io::AsyncWriteExt, net::UnixStream};

    #[tokio::test]
    async fn an_empty_pipe_is_used_again_and_one_with_bytes_is_closed() {
        let gauge = gauge();
        let (mut writer, source) = UnixStream::pair().unwrap();
        let source = Stream::from(source);
        let mut pipe = Pipe::take().unwrap();
        let first = pipe.ends.reader.as_raw_fd();
        let nothing = pipe.fill(&source).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(pipe);
        assert_eq!((gauge.used(), gauge.spare()), (0, 1));

        pipe = Pipe::take().unwrap();
        assert_eq!(pipe.ends.reader.as_raw_fd(), first);
        writer.write_all(b"left behind").await.unwrap();
        source.readable().await.unwrap();
        assert_eq!(pipe.fill(&source).unwrap(), 11);
        assert_eq!((gauge.used(), gauge.spare()), (1, 0));
        let mut bytes = [0; 4];
        assert_eq!(pipe.read(&mut bytes).unwrap(), 4);
        assert_eq!((&bytes, pipe.held()), (b"left", 7));
        drop(pipe);
        assert_eq!((gauge.used(), gauge.spare()), (0, 0));
    }
}
