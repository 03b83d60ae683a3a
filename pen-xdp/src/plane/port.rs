//! A port: where a worker's frames come from and go to.
//!
//! The life of a frame, whatever the port is made of:
//!
//! ```text
//!            post_receive                 receive
//!   hand ------------------> receive --------------------> hand
//!     ^   (fill ring)                    (rx ring)           |
//!     |                                                      | the worker's closure says
//!     |                                                      |   Release: posted for receive
//!     |   complete                  post_send                |   Send:    posted for send
//!     +--------------- send <--------------------------------+
//!       (completion ring)           (tx ring)
//! ```
//!
//! **A frame is in exactly one place**: posted for receive, in hand, or posted for send. Only a
//! frame in hand may be touched. [`Accounting`] counts the places from the port's own produce and
//! consume calls; its four steps are the only way a frame moves, and they refuse to move a frame
//! that is not there.

use std::{io, os::fd::BorrowedFd, sync::Arc};

use crossbeam::queue::SegQueue;
use pen_common::frame::SliceFrame;

/// Packets that a port takes in one go.
pub const BATCH: usize = 64;

/// Buffers that one packet may be spread over: what the kernel can send from an skb
/// (`MAX_SKB_FRAGS`) and the linear part.
pub const SEGMENTS_MAX: usize = 18;

/// What the worker wants done with a frame in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Send it out of the port that it came from.
    Send,
    /// Use its memory for the next one.
    Release,
}

/// What one call of [`Port::poll`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Polled {
    /// Packets shown to the closure.
    pub received: usize,
    /// Of them, packets posted for send.
    pub sent: usize,
    /// Frames that came back from sending.
    pub completed: usize,
    /// Packets in more than [`SEGMENTS_MAX`] pieces, released unseen.
    pub not_whole: usize,
}

/// What a port lost, as far as its own kernel interface tells; counted since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Packets that did not fit, or could not be taken for want of memory.
    pub dropped: u64,
    /// Packets that found the receive ring full.
    pub ring_full: u64,
    /// Times the kernel found no frame posted for receive.
    pub fill_empty: u64,
    /// Descriptors of ours that the kernel refused, both directions.
    pub invalid: u64,
    /// Packets that the worker sent and the kernel refused.
    pub unsent: u64,
}

/// Where a worker's frames come from and go to.
pub trait Port {
    /// Whether the kernel sees every frame as well, so that what is not ours needs no passing on.
    const KERNEL_HAS_COPY: bool = false;

    /// Takes back what was sent, takes a batch of packets, asks `each` for the fate of every one
    /// and lets it happen. Never blocks. A packet in several buffers is shown whole; only its
    /// first buffer can be written.
    ///
    /// # Errors
    /// The port can't be used for now (link down, device gone). No frame is lost by it: the
    /// next call goes on where this one stopped.
    fn poll<F>(&mut self, each: F) -> io::Result<Polled>
    where
        F: FnMut(&mut SliceFrame<'_>) -> Fate;

    /// Takes back what was sent without taking anything new; how many frames are still posted
    /// for send.
    ///
    /// # Errors
    /// As for [`Port::poll`].
    fn drain(&mut self) -> io::Result<u32>;

    /// What becomes readable when a packet arrives.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Where the frames are.
    fn accounting(&self) -> Accounting;

    /// What was lost; a system call, not for every packet.
    fn losses(&mut self) -> Losses;
}

/// How many of a port's frames are in which place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accounting {
    /// Posted for receive: fill ring, kernel, rx ring.
    pub receive: u32,
    /// In hand.
    pub hand: u32,
    /// Posted for send: tx ring, kernel, completion ring.
    pub send: u32,
    /// All there are.
    pub total: u32,
}

/// Text of the panic when a step moves a frame that is not there: memory that the kernel may be
/// writing to would be used twice, so nothing may go on.
const ONE_PLACE: &str = "a frame is in exactly one place";

impl Accounting {
    /// All frames in hand.
    pub const fn new(total: u32) -> Self {
        Self {
            receive: 0,
            hand: total,
            send: 0,
            total,
        }
    }

    /// The invariant, for tests and for whoever reads it from elsewhere.
    pub const fn is_conserved(&self) -> bool {
        self.receive as u64 + self.hand as u64 + self.send as u64 == self.total as u64
    }

    /// Hand to receive.
    pub fn post_receive(&mut self, frames: usize) {
        step(&mut self.hand, &mut self.receive, frames);
    }

    /// Receive to hand.
    pub fn receive(&mut self, frames: usize) {
        step(&mut self.receive, &mut self.hand, frames);
    }

    /// Hand to send.
    pub fn post_send(&mut self, frames: usize) {
        step(&mut self.hand, &mut self.send, frames);
    }

    /// Send to hand.
    pub fn complete(&mut self, frames: usize) {
        step(&mut self.send, &mut self.hand, frames);
    }
}

fn step(from: &mut u32, to: &mut u32, frames: usize) {
    let frames = u32::try_from(frames).expect(ONE_PLACE);
    *from = from.checked_sub(frames).expect(ONE_PLACE);
    *to += frames;
}

/// A port in memory, for tests: what is pushed into its [`MemLine`] is received, what is sent
/// can be taken from there.
pub struct MemPort {
    line: Arc<MemLine>,
    /// Bytes of a first buffer.
    room: usize,
    accounting: Accounting,
}

/// The other end of a [`MemPort`].
#[derive(Default)]
pub struct MemLine {
    /// Packets on their way in, each in one or more pieces.
    inbox: SegQueue<Vec<Vec<u8>>>,
    /// Packets sent.
    outbox: SegQueue<Vec<u8>>,
    /// Errors that the next polls answer with, in place of doing anything.
    errors: SegQueue<io::Error>,
}

impl MemLine {
    /// Lets a packet arrive, in one piece or in several.
    pub fn push(&self, pieces: Vec<Vec<u8>>) {
        self.inbox.push(pieces);
    }

    /// The next packet that was sent, its pieces joined.
    pub fn take(&self) -> Option<Vec<u8>> {
        self.outbox.pop()
    }

    /// Packets that nobody has received yet.
    pub fn waiting(&self) -> usize {
        self.inbox.len()
    }

    /// Makes one poll fail.
    pub fn fail(&self, error: io::Error) {
        self.errors.push(error);
    }
}

impl MemPort {
    /// A port of `frames` frames whose first buffers have `room` bytes.
    pub fn new(frames: u32, room: usize) -> (Self, Arc<MemLine>) {
        let line = Arc::new(MemLine::default());
        let mut accounting = Accounting::new(frames);
        accounting.post_receive(frames as usize);
        let port = Self {
            line: Arc::clone(&line),
            room,
            accounting,
        };
        (port, line)
    }

    fn take_back(&mut self) -> usize {
        let completed = self.accounting.send as usize;
        self.accounting.complete(completed);
        self.accounting.post_receive(completed);
        completed
    }
}

impl Port for MemPort {
    fn poll<F>(&mut self, mut each: F) -> io::Result<Polled>
    where
        F: FnMut(&mut SliceFrame<'_>) -> Fate,
    {
        if let Some(error) = self.line.errors.pop() {
            return Err(error);
        }
        let mut polled = Polled {
            completed: self.take_back(),
            ..Polled::default()
        };
        while polled.received < BATCH && self.accounting.receive as usize >= SEGMENTS_MAX {
            let Some(mut pieces) = self.line.inbox.pop() else {
                break;
            };
            let frames = pieces.len();
            self.accounting.receive(frames);
            if frames == 0 || frames > SEGMENTS_MAX {
                polled.not_whole += 1;
                self.accounting.post_receive(frames);
                continue;
            }
            polled.received += 1;
            let mut first = pieces.remove(0);
            let len = first.len();
            first.resize(self.room.max(len), 0);
            let rest: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let mut frame = SliceFrame::with_rest(&mut first, len, &rest);
            match each(&mut frame) {
                Fate::Send => {
                    let whole = [&[frame.bytes()], rest.as_slice()].concat().concat();
                    self.line.outbox.push(whole);
                    self.accounting.post_send(frames);
                    polled.sent += 1;
                }
                Fate::Release => self.accounting.post_receive(frames),
            }
        }
        Ok(polled)
    }

    fn drain(&mut self) -> io::Result<u32> {
        self.take_back();
        Ok(self.accounting.send)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn accounting(&self) -> Accounting {
        self.accounting
    }

    fn losses(&mut self) -> Losses {
        Losses::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pen_common::frame::Frame;

    #[test]
    fn every_step_conserves_the_frames() {
        let mut frames = Accounting::new(10);
        frames.post_receive(10);
        frames.receive(4);
        frames.post_send(3);
        frames.post_receive(1);
        frames.complete(2);
        assert!(frames.is_conserved());
        let Accounting {
            receive,
            hand,
            send,
            ..
        } = frames;
        assert_eq!((receive, hand, send), (7, 2, 1));
    }

    #[test]
    #[should_panic(expected = "a frame is in exactly one place")]
    fn a_frame_cannot_be_completed_twice() {
        let mut frames = Accounting::new(2);
        frames.post_send(1);
        frames.complete(2);
    }

    #[test]
    fn a_packet_in_pieces_is_shown_and_sent_whole() {
        let (mut port, line) = MemPort::new(64, 128);
        line.push(vec![vec![1; 60], vec![2; 30], vec![3; 5]]);
        line.push(vec![vec![9; 60]; SEGMENTS_MAX + 1]);
        let mut seen = Vec::new();
        let polled = port
            .poll(|frame| {
                seen.push((frame.len(), frame.bytes().len()));
                frame.set(0, [7; 6]);
                Fate::Send
            })
            .unwrap();
        assert_eq!((polled.received, polled.sent, polled.not_whole), (1, 1, 1));
        assert_eq!(seen, [(95, 60)]);
        let sent = line.take().unwrap();
        assert_eq!((sent.len(), &sent[..7]), (95, &[7, 7, 7, 7, 7, 7, 1][..]));
        assert_eq!(port.accounting().send, 3);
        assert_eq!(port.drain().unwrap(), 0);
        assert_eq!(port.accounting().receive, 64);
    }

    #[test]
    fn a_frame_may_grow_into_its_room_and_no_further() {
        let (mut port, line) = MemPort::new(64, 128);
        line.push(vec![vec![1; 60]]);
        port.poll(|frame| {
            assert_eq!(frame.resize(129), None);
            frame.resize(100).unwrap();
            Fate::Send
        })
        .unwrap();
        assert_eq!(line.take().unwrap().len(), 100);
    }
}
