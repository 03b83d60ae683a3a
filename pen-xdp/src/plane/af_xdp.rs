//! AF_XDP: one queue of an interface, its frames in memory that kernel and worker share.
//!
//! The life of a frame (UMEM chunk of [`FRAME_SIZE`] bytes):
//!
//! ```text
//!                        kernel                               worker
//!            +------------------------------+
//!  all at    |  driver or skb copy writes a |
//!  open ---> fill ring ----> packet ----> rx ring ----> hand: steered, rewritten in place
//!     ^      |                              |             |                  |
//!     |      |  driver or skb copy reads it |             | Send             | Release
//!     |      completion ring <---- tx ring <--------------+                  |
//!     |      +------|-----------------------+                                |
//!     +-------------+--------------------------------------------------------+
//! ```
//!
//! A frame is in exactly one place: posted for receive (fill ring until rx ring), in hand, or
//! posted for send (tx ring until completion ring). Fill and tx ring have room for twice the frames,
//! because the kernel is late in giving up their places, and the completion ring for all of them: so
//! posting never fails and nothing has to wait in hand for room.
//!
//! A packet in several frames (multi-buffer) stays in hand until its last frame has come, and
//! leaves as it came, in order, with the kernel's continuation option on all but the last.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use pen_common::frame::SliceFrame;

use super::port::{Accounting, Fate, Losses, Polled, Port};

mod open;
mod options;
mod rings;

pub use open::{Degraded, OpenError, XskConfig, ZeroCopy};

use options::Socket;
pub(crate) use options::prefer_busy_poll;
use rings::Rings;

/// Bytes of a frame; a packet gets what the kernel's headroom of 256 leaves.
pub const FRAME_SIZE: u32 = 4_096;
/// Longest packet in one frame, bytes.
pub const PACKET_MAX: u32 = FRAME_SIZE - 256;
/// Frames of a queue unless configured otherwise: 16 MiB.
pub const FRAMES_DEFAULT: u32 = 4_096;

/// One queue of an interface, taken by AF_XDP.
pub struct XskPort {
    rings: Rings,
    socket: Socket,
    mode: Mode,
}

/// How a port works, as the kernel tells it after the bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode {
    /// Whether the driver uses the frames itself.
    pub zero_copy: bool,
    /// Whether packets longer than [`PACKET_MAX`] are taken, in several frames.
    pub multi_buffer: bool,
    /// Whether the worker drives the device's NAPI itself.
    pub busy_poll: bool,
    /// Packets that one wake-up may send in copy mode, where the kernel lets us say so.
    pub send_budget: Option<u32>,
    /// What was wanted and could not be had.
    pub degraded: Vec<Degraded>,
}

impl XskPort {
    /// Takes the queue and posts all frames for receive. Put [`Port::descriptor`] into the
    /// program's map to get packets.
    ///
    /// # Errors
    /// See [`OpenError`]. A queue or memory that another socket has just given up is waited for.
    pub fn open(config: &XskConfig) -> Result<Self, OpenError> {
        open::open(config)
    }

    /// How it works.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// Makes the kernel send what stands in the tx ring. In copy mode a call moves a budget's
    /// worth at most, so it is repeated while that helps.
    fn kick(&mut self) -> io::Result<()> {
        let mut waiting = self.rings.unsent();
        while waiting > 0 && self.rings.send_needs_wakeup() {
            self.socket.kick()?;
            let left = self.rings.unsent();
            if left >= waiting {
                break;
            }
            waiting = left;
        }
        Ok(())
    }
}

impl Port for XskPort {
    fn poll<F>(&mut self, each: F) -> io::Result<Polled>
    where
        F: FnMut(&mut SliceFrame<'_>) -> Fate,
    {
        let completed = self.rings.take_back();
        let arrived = self.rings.receive();
        let polled = Polled {
            completed,
            ..self.rings.serve(each)
        };
        if arrived == 0 && (self.mode.busy_poll || self.rings.receive_needs_wakeup()) {
            self.socket.pull()?;
        }
        self.kick()?;
        Ok(polled)
    }

    fn drain(&mut self) -> io::Result<u32> {
        self.kick()?;
        self.rings.take_back();
        Ok(self.rings.accounting().send)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn accounting(&self) -> Accounting {
        self.rings.accounting()
    }

    fn losses(&mut self) -> Losses {
        self.rings.losses()
    }
}
