//! What holds for every frame, whatever is in it.

use super::world::{World, net};
use crate::{
    frame::SliceFrame,
    packet::{Link, Packet},
    steer::steer,
    tables::Mac,
    verdict::{Fate, Reason, Verdict},
};

/// Room behind the frame, and what is in it.
const ROOM: usize = 64;
const GUARD: u8 = 0xee;

/// Steers a copy of the frame and checks that the decision kept its promises: a passed or dropped
/// frame is untouched, a forwarded one differs in its MAC addresses alone, and in its checksum
/// only if that was noted as finished; nothing goes back to where it came from by our own hand.
///
/// # Panics
///
/// If a promise was broken.
pub fn checked(world: &World, frame: &[u8]) -> Verdict {
    let noted = world.noted(Reason::ChecksumFinished);
    let mut buffer = frame.to_vec();
    buffer.resize(frame.len() + ROOM, GUARD);
    let mut slice = SliceFrame::new(&mut buffer, frame.len());
    let verdict = steer(&mut slice, &world.tables());
    let out_len = slice.bytes().len();
    let finished = world.noted(Reason::ChecksumFinished) - noted;
    let out = &buffer[..out_len];
    match verdict {
        Verdict::Pass(reason) | Verdict::Drop(reason) => {
            assert_eq!(out, frame, "{verdict:?} touched the frame");
            let fate = if matches!(verdict, Verdict::Pass(_)) {
                Fate::Pass
            } else {
                Fate::Drop
            };
            assert!(
                reason.fate() == fate,
                "{verdict:?} is counted as another fate"
            );
        }
        Verdict::Forward(id) => {
            let mac = world.tables().backend(id).map(|backend| backend.mac);
            assert_sent(frame, out, mac);
            assert_eq!(out.len(), frame.len(), "{verdict:?} changed the length");
            assert_rest(frame, out, finished);
        }
        Verdict::Reply(_) => {
            let asker = Link::parse(&SliceFrame::new(&mut frame.to_vec(), frame.len()))
                .map(|link| link.source);
            let to_all = out.starts_with(&net::ALL_NODES.bytes());
            assert_sent(
                frame,
                out,
                if to_all { Some(net::ALL_NODES) } else { asker },
            );
            assert_eq!(finished, 0, "an answer has no checksum to finish");
        }
    }
    let end = frame.len().max(out_len);
    let room = buffer.get(end..).unwrap_or_default();
    assert!(
        room.iter().all(|byte| *byte == GUARD),
        "{verdict:?} wrote behind the frame"
    );
    verdict
}

/// From Pen to this station, and not something that Pen itself had sent.
fn assert_sent(frame: &[u8], out: &[u8], to: Option<Mac>) {
    let to = to.expect("a frame that is sent has a receiver");
    assert_eq!(out[..6], to.bytes(), "destination MAC");
    assert_eq!(out[6..12], net::PEN.bytes(), "source MAC");
    assert_ne!(
        frame[6..12],
        net::PEN.bytes(),
        "our own frame was sent again"
    );
}

/// All but the MAC addresses is the same, or the checksum field is another.
fn assert_rest(frame: &[u8], out: &[u8], finished: u64) {
    if finished == 0 {
        assert_eq!(out[12..], frame[12..], "a forwarded frame was changed");
        return;
    }
    let mut copy = frame.to_vec();
    let copy = SliceFrame::new(&mut copy, frame.len());
    let link = Link::parse(&copy).expect("it was forwarded");
    let packet = match link.ethertype {
        crate::packet::ETHERTYPE_IPV4 => Packet::parse_v4(&copy, link.l3),
        _ => Packet::parse_v6(&copy, link.l3),
    };
    let packet = packet.expect("it was forwarded");
    let at = packet.checksum_at().expect("it was finished");
    assert_eq!(
        out[12..at],
        frame[12..at],
        "more than the checksum was changed"
    );
    assert_eq!(
        out[at + 2..],
        frame[at + 2..],
        "more than the checksum was changed"
    );
}
