//! Bytes that were read and wait for more, or that wait to be written.

use std::io::{self, ErrorKind};

use crate::proxy::buffers::{Buffer, SIZE};
use crate::proxy::stream::Stream;

/// See the module. It has a buffer while it has bytes, and none when it is empty.
#[derive(Debug, Default)]
pub(super) struct Pending {
    buffer: Option<Buffer>,
    start: usize,
    end: usize,
}

/// What an attempt to read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing is there at the moment, or there is no room for it.
    Nothing,
    /// The end of the stream.
    End,
}

impl Pending {
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => &buffer[self.start..self.end],
            None => &[],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// So many of the first bytes are done with.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end, "more is done with than was there");
        if self.is_empty() {
            self.clear();
        }
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Puts these behind the others, however many there are.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = self.end + bytes.len();
        let buffer = self.buffer.get_or_insert_with(Buffer::take);
        while buffer.len() < end {
            buffer.double();
        }
        buffer[self.end..end].copy_from_slice(bytes);
        self.end = end;
    }

    /// Reads what is there, until `most` bytes are held.
    ///
    /// # Errors
    /// What broke the connection.
    pub(super) fn read(&mut self, stream: &Stream, most: usize) -> io::Result<Got> {
        let Some(room) = self.room(most) else {
            return Ok(Got::Nothing);
        };
        let read = loop {
            match stream.try_read(room) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        let got = match read {
            Ok(0) => Ok(Got::End),
            Ok(count) => {
                self.end += count;
                Ok(Got::Bytes(count))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Got::Nothing),
            Err(error) => Err(error),
        };
        if self.is_empty() {
            self.clear();
        }
        got
    }

    /// Writes what the kernel takes, and how much that was; all of it if nothing is left.
    ///
    /// # Errors
    /// What broke the connection.
    pub(super) fn write(&mut self, stream: &Stream) -> io::Result<usize> {
        self.write_before(stream, false)
    }

    /// As [`Pending::write`], for bytes that the end of the stream follows at once: they travel in one
    /// packet.
    ///
    /// # Errors
    /// As there.
    pub(super) fn write_last(&mut self, stream: &Stream) -> io::Result<usize> {
        self.write_before(stream, true)
    }

    fn write_before(&mut self, stream: &Stream, end: bool) -> io::Result<usize> {
        let mut sent = 0;
        while !self.is_empty() {
            let count = try_write(stream, self.bytes(), end)?;
            if count == 0 {
                break;
            }
            sent += count;
            self.consume(count);
        }
        Ok(sent)
    }

    /// Room for what comes next: a good part of a buffer at least, unless `most` is near.
    fn room(&mut self, most: usize) -> Option<&mut [u8]> {
        if self.len() >= most {
            return None;
        }
        let buffer = self.buffer.get_or_insert_with(Buffer::take);
        if self.start > 0 && buffer.len() - self.end < SIZE / 2 {
            buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == buffer.len() {
            buffer.double();
        }
        let end = buffer.len().min(self.start + most);
        Some(&mut buffer[self.end..end])
    }
}

/// Writes what the kernel takes; 0 if that is nothing at the moment. `end`: that of the stream follows
/// at once.
///
/// # Errors
/// What broke the connection.
pub(super) fn try_write(stream: &Stream, bytes: &[u8], end: bool) -> io::Result<usize> {
    loop {
        let written = match end {
            true => stream.try_write_last(bytes),
            false => stream.try_write(bytes),
        };
        match written {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::proxy::buffers::gauge;

    #[tokio::test(flavor = "current_thread")]
    async fn it_grows_up_to_the_most_and_has_no_buffer_when_it_is_empty() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let near = Stream::from(near);
        let sent: Vec<u8> = (0..50_000_u32).map(|number| number as u8).collect();
        far.write_all(&sent).await.unwrap();
        near.readable().await.unwrap();
        let mut held = Pending::default();
        let most = 3 * SIZE - 5;
        while held.read(&near, most).unwrap() != Got::Nothing {}
        assert_eq!(held.bytes(), &sent[..most]);
        held.consume(most - 3);
        while held.read(&near, most).unwrap() != Got::Nothing {}
        assert_eq!(held.bytes(), &sent[most - 3..]);
        held.consume(held.len());
        assert_eq!(gauge().used(), 0);
        assert_eq!(held.read(&near, most).unwrap(), Got::Nothing);
        assert_eq!(gauge().used(), 0);
        drop(far);
        near.readable().await.unwrap();
        assert_eq!(held.read(&near, most).unwrap(), Got::End);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_pushed_is_written_in_order() {
        let (near, far) = UnixStream::pair().unwrap();
        let (near, far) = (Stream::from(near), Stream::from(far));
        let mut held = Pending::default();
        let sent: Vec<u8> = (0..500_000_u32).map(|number| number as u8).collect();
        for piece in sent.chunks(7000) {
            held.push(piece);
        }
        let (mut count, mut got) = (0, Vec::new());
        while count < sent.len() {
            near.writable().await.unwrap();
            count += held.write(&near).unwrap();
            let mut back = Pending::default();
            far.readable().await.unwrap();
            while let Got::Bytes(_) = back.read(&far, SIZE).unwrap() {
                got.extend_from_slice(back.bytes());
                back.clear();
            }
        }
        assert!(held.is_empty() && got == sent);
    }
}
