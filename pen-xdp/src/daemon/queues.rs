//! How many queues a socket may be bound to: those that were there before the program came.
//!
//! Some drivers add queues when a program is attached, and can't send from them. A daemon that
//! takes over an attached program sees the larger number only, so the one before leaves it a note,
//! which holds as long as nobody has changed the queues since.

use crate::mapped::Mapped;

/// Receive and transmit queues.
pub(super) type Queues = (u32, u32);

/// What one daemon leaves to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    /// Of this interface.
    pub(super) ifindex: u32,
    /// Queues for sockets, counted before the program came.
    pub(super) before: u32,
    /// All queues with the program attached; none while it is being attached.
    pub(super) after: Queues,
}

impl Note {
    pub(super) fn leave(&self, memory: &Mapped) {
        let Self {
            ifindex,
            before,
            after: (rx, tx),
        } = *self;
        memory.leave_note([
            u64::from(before),
            u64::from(rx) | u64::from(tx) << 32,
            u64::from(ifindex),
        ]);
    }

    fn read(memory: &Mapped) -> Self {
        let [before, after, ifindex] = memory.note();
        Self {
            ifindex: ifindex as u32,
            before: before as u32,
            after: (after as u32, (after >> 32) as u32),
        }
    }
}

/// The queues for sockets. `today` is what interface `ifindex` has now; new memory has no note.
pub(super) fn usable(memory: &Mapped, ifindex: u32, today: Queues) -> u32 {
    let note = Note::read(memory);
    // The operator's `ethtool -L`, or another interface of the same name, makes it void.
    if note.before > 0 && (note.ifindex, note.after) == (ifindex, today) {
        note.before
    } else {
        today.0.min(today.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapped::Shape;

    #[test]
    fn the_note_holds_while_the_queues_are_what_they_were() {
        let memory = Mapped::of_process(Shape::new(4096, 1, 1)).unwrap();
        // A driver that adds transmit queues for the program: 2 become 4.
        assert_eq!(usable(&memory, 7, (2, 2)), 2);
        let mut note = Note {
            ifindex: 7,
            before: 2,
            after: (0, 0),
        };
        note.leave(&memory);
        note.after = (4, 4);
        note.leave(&memory);
        assert_eq!(usable(&memory, 7, (4, 4)), 2, "killed and started");
        assert_eq!(usable(&memory, 7, (3, 3)), 3, "ethtool -L meanwhile");
        assert_eq!(usable(&memory, 8, (4, 4)), 4, "another interface");
        let other = Mapped::of_process(Shape::new(4096, 1, 1)).unwrap();
        assert_eq!(usable(&other, 7, (4, 4)), 4, "other memory");
    }

    #[test]
    fn without_a_note_what_is_there_counts() {
        let memory = Mapped::of_process(Shape::new(4096, 1, 1)).unwrap();
        assert_eq!(usable(&memory, 7, (4, 2)), 2);
        // Killed between the two halves of attaching.
        let note = Note {
            ifindex: 7,
            before: 2,
            after: (0, 0),
        };
        note.leave(&memory);
        assert_eq!(usable(&memory, 7, (4, 4)), 4);
    }
}
