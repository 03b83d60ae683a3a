//! Descriptors in hand, grouped into packets.
//!
//! The kernel may spread a packet over several descriptors, and a batch may end in the middle of
//! one. What is not complete stays in hand until the next batch brings the rest: whether a
//! descriptor begins a packet or goes on with one is a matter of the socket, not of the batch.

use std::ops::Range;

use super::port::{BATCH, SEGMENTS_MAX};

/// Descriptors of one socket in the order in which they arrived.
pub(super) struct Hand<D> {
    descriptors: Box<[D]>,
    /// Those that are filled.
    len: usize,
    /// Those of them that were given out by [`Hand::next`].
    done: usize,
    /// In the middle of a packet with too many pieces.
    excess: bool,
}

/// Some descriptors that belong together; indices for [`Hand::at`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// A packet, from first piece to last.
    Packet(Range<usize>),
    /// Pieces of a packet that has too many; `last` once for every such packet.
    Excess { pieces: Range<usize>, last: bool },
}

impl<D: Copy + Default> Hand<D> {
    pub(super) fn new() -> Self {
        Self {
            descriptors: vec![D::default(); BATCH + SEGMENTS_MAX].into(),
            len: 0,
            done: 0,
            excess: false,
        }
    }

    /// Moves the incomplete packet to the front, and lends the room behind it for a batch.
    pub(super) fn room(&mut self) -> &mut [D] {
        if self.done > 0 {
            self.descriptors.copy_within(self.done..self.len, 0);
            self.len -= self.done;
            self.done = 0;
        }
        &mut self.descriptors[self.len..self.len + BATCH]
    }

    /// `count` descriptors were written to the front of [`Hand::room`].
    pub(super) fn filled(&mut self, count: usize) {
        self.len += count;
    }

    /// Those that were not given out yet.
    pub(super) fn waiting(&self) -> &[D] {
        &self.descriptors[self.done..self.len]
    }

    /// A copy of one.
    pub(super) fn at(&self, index: usize) -> D {
        self.descriptors[index]
    }

    /// The next packet; `None` when no whole one is left. `goes_on` says whether another piece
    /// follows a descriptor.
    #[inline]
    pub(super) fn next(&mut self, goes_on: impl Fn(&D) -> bool) -> Option<Group> {
        let start = self.done;
        for index in start..self.len {
            let last = !goes_on(&self.descriptors[index]);
            let pieces = start..index + 1;
            if last && !self.excess {
                self.done = pieces.end;
                return Some(Group::Packet(pieces));
            }
            if last || pieces.len() >= SEGMENTS_MAX {
                self.done = pieces.end;
                self.excess = !last;
                return Some(Group::Excess { pieces, last });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet number and whether more of it follows.
    type Fake = (u32, bool);

    fn groups(hand: &mut Hand<Fake>, batch: &[Fake]) -> Vec<Group> {
        hand.room()[..batch.len()].copy_from_slice(batch);
        hand.filled(batch.len());
        std::iter::from_fn(|| hand.next(|piece| piece.1)).collect()
    }

    #[test]
    fn a_packet_split_over_two_batches_is_given_out_whole() {
        let mut hand = Hand::new();
        let first = groups(&mut hand, &[(1, false), (2, true), (2, true)]);
        assert_eq!(first, [Group::Packet(0..1)]);
        // What was given out is still there, and waits no more.
        assert_eq!(hand.waiting(), [(2, true), (2, true)]);
        assert_eq!(groups(&mut hand, &[]), []);
        let second = groups(&mut hand, &[(2, false), (3, false)]);
        assert_eq!(second, [Group::Packet(0..3), Group::Packet(3..4)]);
        assert_eq!(hand.at(0).0, 2);
        assert_eq!(hand.at(3).0, 3);
    }

    #[test]
    fn a_full_batch_behind_the_longest_incomplete_packet_fits() {
        let mut hand = Hand::new();
        assert_eq!(groups(&mut hand, &[(1, true); SEGMENTS_MAX - 1]), []);
        let mut batch = [(2, false); BATCH];
        batch[0] = (1, false);
        let found = groups(&mut hand, &batch);
        assert_eq!(found.len(), BATCH);
        assert_eq!(found[0], Group::Packet(0..SEGMENTS_MAX));
    }

    #[test]
    fn too_many_pieces_are_given_up_to_the_last_one() {
        let mut hand = Hand::new();
        let first = groups(&mut hand, &[(1, true); SEGMENTS_MAX + 1]);
        let pieces = 0..SEGMENTS_MAX;
        assert_eq!(
            first,
            [Group::Excess {
                pieces,
                last: false
            }]
        );
        let second = groups(&mut hand, &[(1, false), (2, false)]);
        let pieces = 0..2;
        assert_eq!(
            second,
            [Group::Excess { pieces, last: true }, Group::Packet(2..3)]
        );
    }
}
