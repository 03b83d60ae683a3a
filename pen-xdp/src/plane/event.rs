//! What workers tell control beside counters.

use std::io;

use crossbeam::channel::Sender;

/// Something that control should hear of at once.
#[derive(Debug)]
pub enum Event {
    /// Frames were dropped because a back end's MAC address is not known.
    NoMac {
        /// Queue that they arrived on.
        queue: u32,
    },
    /// A port stopped working; its queue is left to the program until it works again.
    PortError {
        /// Its queue.
        queue: u32,
        /// What the kernel said.
        error: io::Error,
    },
    /// A port works again.
    PortBack {
        /// Its queue.
        queue: u32,
    },
    /// A worker ended, by request or by a panic; its queues are left to the program.
    Ended {
        /// Number of the worker.
        worker: usize,
    },
}

/// Least time between two events that packets cause, nanoseconds.
const REST_NS: u64 = 100_000_000;

/// A worker's end of the channel: never blocks, and counts what did not fit.
pub(super) struct Events {
    channel: Sender<Event>,
    no_mac_ns: u64,
    lost: u64,
}

impl Events {
    pub(super) fn new(channel: Sender<Event>) -> Self {
        Self {
            channel,
            no_mac_ns: 0,
            lost: 0,
        }
    }

    pub(super) fn send(&mut self, event: Event) {
        self.lost += u64::from(self.channel.try_send(event).is_err());
    }

    /// At most one in [`REST_NS`]: packets can't flood control.
    pub(super) fn no_mac(&mut self, queue: u32, now_ns: u64) {
        if now_ns >= self.no_mac_ns + REST_NS {
            self.no_mac_ns = now_ns;
            self.send(Event::NoMac { queue });
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_cannot_flood_and_a_full_channel_is_counted() {
        let (sender, receiver) = crossbeam::channel::bounded(2);
        let mut events = Events::new(sender);
        for now in 0..1_000 {
            events.no_mac(3, REST_NS + now);
        }
        assert_eq!((receiver.len(), events.lost()), (1, 0));
        events.send(Event::PortBack { queue: 1 });
        events.send(Event::PortBack { queue: 2 });
        assert_eq!((receiver.len(), events.lost()), (2, 1));
    }
}
