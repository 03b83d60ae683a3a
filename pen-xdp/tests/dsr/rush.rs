//! Changes while frames flow as fast as they can: in force when the reply comes, and none is lost.
//!
//! A flow stays where it is, so after each change the flood turns to a client that was not seen
//! before: with an odd address after a back end went, with an even one after it came.

use std::{net::Ipv4Addr, thread, time::Duration};

use lab::Flood;
use pen_common::{config::Plane, verdict::Reason};

use crate::wire::{BACKENDS, EVEN, LOSSES, Rig, assert_plane, count, dropped, lost};

/// How long nothing may arrive.
const QUIET: Duration = Duration::from_millis(200);
/// Frames that pass at least meanwhile.
const MEANWHILE: u64 = 5_000;
/// A change at this rate at least, frames a second.
const RATE: f64 = 50_000.0;
const TRIES: u32 = 5;

/// What becomes of a back end.
#[derive(Clone, Copy)]
enum Change {
    /// It is gone for every flow.
    Blacklist,
    /// It is gone for new flows.
    Weight,
}

impl Change {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Blacklist => ("blacklist 100", "blacklist 0"),
            Self::Weight => ("weight 0", "weight 1"),
        }
    }
}

/// From the reply on, back end `gone` gets nothing of what it may not get. The flood turns to
/// `next`, an odd client, when the reply is here: no frame of that one may get there, not even the
/// first.
fn assert_gone(rig: &Rig, flood: &Flood, change: Change, (gone, next): (u8, usize)) {
    let command = format!("server {gone} {}", change.words().0);
    let mac = rig.wire.backend_mac(gone);
    let before = rig.sink.from_to(true, mac);
    rig.pen.change(&command);
    flood.turn_to(next);
    let (at_reply, (_, sent)) = (flood.sent(), rig.to_backend(gone, &rig.pen.status()));
    assert!(sent > 0, "{command}");
    until("what was on its way", || rig.sink.to(mac) >= sent);
    thread::sleep(QUIET);
    until("frames meanwhile", || flood.sent() > at_reply + MEANWHILE);
    assert_eq!(rig.sink.from_to(true, mac), before, "{command}");
    let now = rig.to_backend(gone, &rig.pen.status());
    match change {
        // What Pen had sent by the reply is all that it ever sent, and that arrived.
        Change::Blacklist => assert_eq!(now, (sent, sent), "{command}"),
        // What was under way of the flows before was still its own.
        Change::Weight => assert_eq!(now.0, now.1, "{command}"),
    }
}

/// Back end `index` gets frames of `next`, an even client, again.
fn assert_back(rig: &Rig, flood: &Flood, change: Change, (index, next): (u8, usize)) {
    let mac = rig.wire.backend_mac(index);
    let before = rig.sink.from_to(false, mac);
    rig.pen
        .change(&format!("server {index} {}", change.words().1));
    flood.turn_to(next);
    until("frames again", || rig.sink.from_to(false, mac) > before);
}

/// The clients, each with flows of its own: even and odd in turn.
fn client(number: u8) -> Ipv4Addr {
    let [a, b, c, d] = EVEN.octets();
    Ipv4Addr::new(a, b, c, d + number)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}: waited for in vain");
}

/// The rate at which frames flowed meanwhile.
fn changes_while_frames_flow(plane: Plane) -> f64 {
    let rig = Rig::start(plane);
    let clients = 1 + 2 * 2 * BACKENDS;
    let lists = (0..clients).map(|number| rig.flows(client(number)));
    let flood = rig.flood(lists.collect(), u64::MAX);
    until("the first frames", || {
        (0..BACKENDS).all(|index| rig.sink.to(rig.wire.backend_mac(index)) > 0)
    });
    let mut next = 0;
    for back_end in 0..BACKENDS {
        for change in [Change::Blacklist, Change::Weight] {
            assert_gone(&rig, &flood, change, (back_end, next + 1));
            assert_back(&rig, &flood, change, (back_end, next + 2));
            next += 2;
        }
    }
    let flooded = flood.stop().unwrap();
    println!("{plane}: {flooded:?}: {:.0} a second", flooded.rate());
    thread::sleep(LOSSES);
    let status = rig.pen.status();
    assert_plane(plane, &status);
    // None was lost over it.
    assert_eq!(flooded.given_up, 0, "{plane}: {flooded:?}");
    assert_eq!(rig.sink.total(), flooded.sent, "{plane}: {status:?}");
    assert_eq!(count(&status, Reason::Forwarded), flooded.sent, "{plane}");
    assert_eq!(
        (dropped(&status), lost(&status)),
        (0, 0),
        "{plane}: {status:?}"
    );
    flooded.rate()
}

#[test]
fn changes_at_a_high_rate_are_in_force_with_the_reply() {
    if !lab::ready("changes_at_a_high_rate_are_in_force_with_the_reply") {
        return;
    }
    for plane in [Plane::AfXdp, Plane::Xdp] {
        // A machine that others keep busy may be slow once; a slow run shows nothing.
        let fast = (0..TRIES).any(|_| changes_while_frames_flow(plane) >= RATE);
        assert!(fast, "{plane}: below {RATE} frames a second, {TRIES} times");
    }
}
