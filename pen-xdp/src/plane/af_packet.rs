//! AF_PACKET: a plain packet socket, for hosts without BPF and as the measure of what AF_XDP
//! gains.
//!
//! The life of a frame (a slot of `SLOT` bytes in our own memory; the kernel copies):
//!
//! ```text
//!   free slot -- recvmmsg copies a packet in --> hand: steered --+-- Send --> sendmmsg copies out
//!       ^                                                        | Release           |
//!       +--------------------------------------------------------+-------------------+
//! ```
//!
//! A slot is free (posted for receive), in hand, or posted for send while `sendmmsg` runs; no
//! slot outlives a [`Port::poll`] in hand.
//!
//! Before each packet stands the virtio-net header that the kernel gives and takes
//! (`PACKET_VNET_HDR`): checksums and segments that the sender left to hardware are described
//! there, and are handed through unfinished. The kernel takes VLAN tags out of the packet; they
//! are put back in front of `steer`, which has to see them, and stay there.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use pen_common::frame::SliceFrame;

use super::port::{Accounting, BATCH, Fate, Losses, Polled, Port};

mod socket;

use socket::{Arrival, Departure};

/// Room for a VLAN tag before a packet, bytes.
const TAG: usize = 4;
/// Bytes of a slot: the longest packet that a NIC or a sender in this kernel merges (64 KiB and
/// its headers), the tag, and some room for an answer to grow.
const SLOT: usize = 68 * 1024;

/// A packet socket on one interface, all of its queues.
pub struct RawPort {
    socket: OwnedFd,
    /// [`BATCH`] slots in a row.
    slots: Box<[u8]>,
    /// What arrived in which slot, of the latest batch.
    arrivals: Vec<Arrival>,
    departures: Vec<Departure>,
    accounting: Accounting,
    losses: Losses,
}

/// Why no packet socket could be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The interface does not exist.
    #[error("there is no interface {0} in this network namespace")]
    NoSuchInterface(String),
    /// A capability is missing.
    #[error("not allowed to open a packet socket: CAP_NET_RAW is missing")]
    Permission,
    /// Anything else.
    #[error("packet socket on {interface}: {what}: {error}")]
    Other {
        /// Interface.
        interface: String,
        /// The step that failed.
        what: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// The socket alone, for whoever may not open it.
///
/// # Errors
/// See [`OpenError`].
pub fn open_socket(interface: &str) -> Result<OwnedFd, OpenError> {
    socket::open(interface)
}

impl RawPort {
    /// Opens a socket that sees every packet that the interface receives, and none that it sends.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(interface: &str) -> Result<Self, OpenError> {
        open_socket(interface).map(Self::of)
    }

    /// With such a socket.
    pub fn of(socket: OwnedFd) -> Self {
        let mut accounting = Accounting::new(BATCH as u32);
        accounting.post_receive(BATCH);
        Self {
            socket,
            slots: vec![0; BATCH * SLOT].into(),
            arrivals: Vec::with_capacity(BATCH),
            departures: Vec::with_capacity(BATCH),
            accounting,
            losses: Losses::default(),
        }
    }

    /// Sends what was decided to be sent. What the kernel refuses is lost and counted, unless the
    /// refusal is about the interface.
    fn send(&mut self) -> io::Result<()> {
        let mut rest = self.departures.as_slice();
        while let Some((_, after_first)) = rest.split_first() {
            match socket::send(self.socket.as_fd(), &self.slots, rest) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(error) if is_about_the_interface(&error) => {
                    self.losses.unsent += rest.len() as u64;
                    return Err(error);
                }
                Err(_) => {
                    self.losses.unsent += 1;
                    rest = after_first;
                }
            }
        }
        Ok(())
    }
}

fn is_about_the_interface(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV)
    )
}

impl Port for RawPort {
    /// The kernel gets every packet besides.
    const KERNEL_HAS_COPY: bool = true;

    fn poll<F>(&mut self, mut each: F) -> io::Result<Polled>
    where
        F: FnMut(&mut SliceFrame<'_>) -> Fate,
    {
        self.arrivals.clear();
        match socket::receive(self.socket.as_fd(), &mut self.slots, &mut self.arrivals) {
            Ok(()) => {}
            // A packet whose segmentation the header has no words for; it is gone.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.losses.dropped += 1,
            Err(error) => return Err(error),
        }
        let taken = self.arrivals.len();
        self.accounting.receive(taken);
        let mut polled = Polled::default();
        self.departures.clear();
        for (slot, arrival) in self.slots.chunks_exact_mut(SLOT).zip(&self.arrivals) {
            if arrival.is_outgoing {
                continue;
            }
            if !arrival.is_whole {
                polled.not_whole += 1;
                continue;
            }
            polled.received += 1;
            let mut departure = arrival.departure(slot);
            let room = slot.get_mut(departure.start()..).unwrap_or_default();
            let mut frame = SliceFrame::new(room, departure.len());
            if each(&mut frame) == Fate::Send {
                departure.set_len(frame.bytes().len());
                self.departures.push(departure);
            }
        }
        polled.sent = self.departures.len();
        self.accounting.post_receive(taken - polled.sent);
        self.accounting.post_send(polled.sent);
        let done = self.send();
        self.accounting.complete(polled.sent);
        self.accounting.post_receive(polled.sent);
        done.map(|()| polled)
    }

    fn drain(&mut self) -> io::Result<u32> {
        Ok(self.accounting.send)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn accounting(&self) -> Accounting {
        self.accounting
    }

    fn losses(&mut self) -> Losses {
        self.losses.dropped += socket::drops(self.socket.as_fd()).unwrap_or(0);
        self.losses
    }
}
