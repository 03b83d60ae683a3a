//! Buffers that bytes pass through on their way from one socket to the other.
//!
//! A buffer is taken when there is something to read and given back as soon as it is empty: a
//! thread needs as many as it has connections that wait for a slow reader, and an idle connection
//! holds none.

use std::{
    convert::Infallible,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use super::spares::{Gauge, Spares};

/// Bytes in one buffer.
pub const SIZE: usize = 16 * 1024;
/// Buffers that a thread keeps: 4 MiB.
const KEPT: usize = 256;

thread_local! {
    static SPARES: Spares<Box<[u8]>> = Spares::new(KEPT);
}

/// This thread's count of buffers.
pub fn gauge() -> Arc<Gauge> {
    SPARES.with(Spares::gauge)
}

/// A buffer of [`SIZE`] bytes; goes back to its thread when dropped. What is in it at first is
/// left from its last use.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

impl Buffer {
    /// One of this thread's, or a new one.
    pub fn take() -> Self {
        let make = || Ok::<_, Infallible>(vec![0; SIZE].into_boxed_slice());
        let Ok(bytes) = SPARES.with(|spares| spares.take(make));
        Self(bytes)
    }

    /// Makes it twice as long; the bytes stay where they are. One that is longer is nobody's next.
    pub fn double(&mut self) {
        let mut longer = vec![0; 2 * self.0.len()].into_boxed_slice();
        longer[..self.0.len()].copy_from_slice(&self.0);
        self.0 = longer;
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // A thread that ends may have dropped its spares before its connections.
        let _ = SPARES.try_with(|spares| match bytes.len() {
            SIZE => spares.give_back(bytes),
            _ => spares.lost(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_the_next_one_taken() {
        let gauge = gauge();
        let mut buffer = Buffer::take();
        assert_eq!((buffer.len(), gauge.used()), (SIZE, 1));
        buffer[0] = 7;
        let place = buffer.as_ptr();
        drop(buffer);
        assert_eq!(gauge.used(), 0);
        let again = Buffer::take();
        assert_eq!((again.as_ptr(), again[0]), (place, 7));
    }

    #[test]
    fn a_longer_buffer_is_nobodys_next() {
        let mut buffer = Buffer::take();
        buffer[SIZE - 1] = 7;
        buffer.double();
        assert_eq!((buffer.len(), buffer[SIZE - 1]), (2 * SIZE, 7));
        drop(buffer);
        assert_eq!(gauge().used(), 0);
        assert_eq!(Buffer::take().len(), SIZE);
    }
}
