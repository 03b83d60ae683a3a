//! The tarpit: addresses that nobody has, and whoever connects to one hangs.
//!
//! A connection is answered once and with no room to send into, and all that follows is swallowed: the
//! client waits, and nothing is remembered here. An answer is never longer than the question.

use super::can_be_answered;
use crate::{
    checksum,
    frame::Frame,
    packet::{Link, Packet},
    rewrite::{self, Trap},
    tables::{Memory, Tables},
    verdict::{Reason, Verdict},
};

/// What becomes of TCP to an address of the tarpit.
#[inline(always)]
pub(super) fn tcp<F: Frame, M: Memory>(
    frame: &mut F,
    link: &Link,
    packet: &Packet,
    tables: &Tables<'_, M>,
) -> Verdict {
    if link.source == tables.head.mac {
        return Verdict::Drop(Reason::Loop);
    }
    // Told of whole packets alone.
    if !packet.opens || !can_be_answered(packet.flow.source) {
        return Verdict::Drop(Reason::TarpitSwallowed);
    }
    let Some(hash) = tables.hash(&packet.flow) else {
        return Verdict::Drop(Reason::TarpitSwallowed);
    };
    // Where checksums are not finished here, what the frame came with says of it who will do it.
    let unfinished = !tables.finish_checksums() && checksum::is_unfinished(frame, packet);
    let trap = Trap {
        mac: tables.head.mac,
        // The same for a SYN that is sent again, and not to be told without the key.
        sequence: (hash >> 32) as u32,
        unfinished,
    };
    match rewrite::trap(frame, link, packet, &trap) {
        Some(()) => Verdict::Reply(Reason::TarpitAnswered),
        None => Verdict::Drop(Reason::TarpitSwallowed),
    }
}
