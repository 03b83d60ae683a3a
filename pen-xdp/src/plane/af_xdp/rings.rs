//! The four rings of a queue, its frames, and where each of them is.
//!
//! Every SAFETY note below appeals to one sentence: **a frame is in exactly one place**. A
//! descriptor is in hand from its consumption (rx or completion ring) until its production (fill
//! or tx ring), it is in hand once, and only frames in hand are touched. All descriptors stem
//! from the UMEM that the rings belong to. No descriptor leaves this file.
#![allow(
    unsafe_code,
    reason = "the rings share memory with the kernel; ownership of a frame is ours to keep"
)]

use std::{hint::black_box, io, ops::Range};

use pen_common::frame::SliceFrame;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue, Umem};

use crate::plane::{
    hand::{Group, Hand},
    port::{Accounting, BATCH, Fate, Losses, Polled, SEGMENTS_MAX},
};

/// Rings of one socket over a UMEM of its own.
pub(super) struct Rings {
    fill: FillQueue,
    completion: CompQueue,
    rx: RxQueue,
    tx: TxQueue,
    /// Places of the tx ring.
    tx_places: u32,
    umem: Umem,
    /// Received and not yet decided about.
    hand: Hand<FrameDesc>,
    /// Decided: to be posted for send, and for receive. Empty between two calls.
    send: Vec<FrameDesc>,
    release: Vec<FrameDesc>,
    accounting: Accounting,
}

/// What a socket is made of.
pub(super) struct Parts {
    pub(super) umem: Umem,
    pub(super) fill: FillQueue,
    pub(super) completion: CompQueue,
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
}

impl Rings {
    /// Posts all frames for receive.
    ///
    /// # Errors
    /// When the fill ring has no room for all of them.
    ///
    /// # Safety
    /// The rings belong to one socket over `parts.umem` and to nobody else; `frames` are all of
    /// that UMEM's frames, each once, and none was posted before.
    pub(super) unsafe fn new(parts: Parts, frames: &[FrameDesc]) -> io::Result<Self> {
        let Parts {
            umem,
            fill,
            completion,
            rx,
            mut tx,
        } = parts;
        let total = u32::try_from(frames.len()).map_err(io::Error::other)?;
        let mut rings = Self {
            fill,
            completion,
            rx,
            // Nothing was sent yet, so all places are free.
            tx_places: tx.nb_free_exact(),
            tx,
            umem,
            hand: Hand::new(),
            send: Vec::with_capacity(BATCH + SEGMENTS_MAX),
            release: Vec::with_capacity(BATCH + SEGMENTS_MAX),
            accounting: Accounting::new(total),
        };
        // SAFETY: by this function's contract all frames are in hand, and of this UMEM.
        let posted = unsafe { rings.fill.produce(frames) };
        rings.accounting.post_receive(posted);
        if posted < frames.len() {
            return Err(io::Error::other("fill ring smaller than the UMEM"));
        }
        Ok(rings)
    }

    pub(super) fn accounting(&self) -> Accounting {
        self.accounting
    }

    pub(super) fn tx(&self) -> &TxQueue {
        &self.tx
    }

    /// Completion ring to fill ring; how many frames.
    pub(super) fn take_back(&mut self) -> usize {
        let mut taken = 0;
        let mut sent = [FrameDesc::default(); BATCH];
        loop {
            // SAFETY: overwrites descriptors that stand for no frame with those of frames that
            // the kernel has done sending; they are in hand now.
            let count = unsafe { self.completion.consume(&mut sent) };
            if count == 0 {
                return taken;
            }
            self.accounting.complete(count);
            self.post_receive(&sent[..count]);
            taken += count;
            if count < BATCH {
                return taken;
            }
        }
    }

    /// Rx ring to hand; how many frames.
    pub(super) fn receive(&mut self) -> usize {
        // SAFETY: the room lent by the hand stands for no frame; the descriptors written there
        // are of frames that the kernel has filled; they are in hand now.
        let count = unsafe { self.rx.consume(self.hand.room()) };
        self.hand.filled(count);
        self.accounting.receive(count);
        count
    }

    /// Shows every whole packet in hand, and posts its frames as told.
    pub(super) fn serve<F>(&mut self, mut each: F) -> Polled
    where
        F: FnMut(&mut SliceFrame<'_>) -> Fate,
    {
        let mut polled = Polled::default();
        self.touch();
        while let Some(group) = self.hand.next(FrameDesc::has_more_frames) {
            match group {
                Group::Packet(pieces) => {
                    polled.received += 1;
                    polled.sent += usize::from(self.decide(pieces, &mut each) == Fate::Send);
                }
                Group::Excess { pieces, last } => {
                    polled.not_whole += usize::from(last);
                    self.release.extend(pieces.map(|index| self.hand.at(index)));
                }
            }
        }
        self.post();
        polled
    }

    /// Reads a byte of every frame in hand. Where another core or the device wrote them, the first look
    /// at each waits for memory; reads that nothing hangs on are waited for together. On veth, in
    /// copy mode, waiting for one after the other took a third of the worker's own time.
    #[inline]
    fn touch(&self) {
        for frame in self.hand.waiting() {
            // SAFETY: a frame in hand is in no ring, and of this UMEM, so that the kernel does not
            // write to it; whoever is shown it gets a slice of it later, when this one is gone.
            let data = unsafe { self.umem.data(frame) };
            black_box(data.contents().first().copied());
        }
    }

    /// Shows one packet; its frames go to the list that the answer names.
    #[inline]
    fn decide<F>(&mut self, pieces: Range<usize>, each: &mut F) -> Fate
    where
        F: FnMut(&mut SliceFrame<'_>) -> Fate,
    {
        let others = pieces.start + 1..pieces.end;
        let mut first = self.hand.at(pieces.start);
        let fate = if others.is_empty() {
            self.show(&mut first, &[], each)
        } else {
            let mut rest: [&[u8]; SEGMENTS_MAX] = [&[]; SEGMENTS_MAX];
            for (part, index) in rest.iter_mut().zip(others.clone()) {
                let piece = self.hand.at(index);
                // SAFETY: the frame is in hand and of this UMEM; nothing writes to it before the
                // packet is posted, and the slice is not used after that.
                *part = unsafe { self.umem.data(&piece) }.contents();
            }
            self.show(&mut first, &rest[..others.len()], each)
        };
        let list = match fate {
            Fate::Send => &mut self.send,
            Fate::Release => &mut self.release,
        };
        list.push(first);
        list.extend(others.map(|index| self.hand.at(index)));
        fate
    }

    /// Lends the first frame with all its room, and keeps the length it is given.
    #[inline]
    fn show<F>(&self, first: &mut FrameDesc, rest: &[&[u8]], each: &mut F) -> Fate
    where
        F: FnMut(&mut SliceFrame<'_>) -> Fate,
    {
        // SAFETY: the frame is in hand and of this UMEM, and is no other piece of any packet.
        let mut data = unsafe { self.umem.data_mut(first) };
        let len = data.contents().len();
        data.cursor().set_pos(usize::MAX);
        let mut frame = SliceFrame::with_rest(data.contents_mut(), len, rest);
        let fate = each(&mut frame);
        let len = frame.bytes().len();
        data.cursor().set_pos(len);
        fate
    }

    /// Posts what was decided about.
    fn post(&mut self) {
        // SAFETY: the list holds frames in hand, each once, of this UMEM; it is emptied below.
        let sent = unsafe { self.tx.produce(&self.send) };
        self.accounting.post_send(sent);
        assert_eq!(sent, self.send.len(), "the tx ring has room for all frames");
        self.send.clear();
        let release = std::mem::take(&mut self.release);
        self.post_receive(&release);
        self.release = release;
        self.release.clear();
    }

    /// Hand to fill ring. The caller forgets the descriptors.
    fn post_receive(&mut self, frames: &[FrameDesc]) {
        // SAFETY: the caller has these frames in hand, each once, and forgets them.
        let posted = unsafe { self.fill.produce(frames) };
        self.accounting.post_receive(posted);
        assert_eq!(
            posted,
            frames.len(),
            "the fill ring has room for all frames"
        );
    }

    /// Frames in the tx ring that the kernel has not looked at.
    pub(super) fn unsent(&mut self) -> u32 {
        if self.accounting.send == 0 {
            return 0;
        }
        self.tx_places.saturating_sub(self.tx.nb_free_exact())
    }

    /// Whether the kernel sends only when it is asked to.
    pub(super) fn send_needs_wakeup(&self) -> bool {
        self.tx.needs_wakeup()
    }

    /// Whether the kernel looks at the fill ring only when it is asked to.
    pub(super) fn receive_needs_wakeup(&self) -> bool {
        self.fill.needs_wakeup()
    }

    /// The kernel's own count (`XDP_STATISTICS`).
    pub(super) fn losses(&self) -> Losses {
        let Ok(kernel) = self.rx.fd().xdp_statistics() else {
            return Losses::default();
        };
        Losses {
            dropped: kernel.rx_dropped(),
            ring_full: kernel.rx_ring_full(),
            fill_empty: kernel.rx_fill_ring_empty_descs(),
            invalid: kernel.rx_invalid_descs() + kernel.tx_invalid_descs(),
            unsent: 0,
        }
    }
}
