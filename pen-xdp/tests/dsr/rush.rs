//! Changes while frames flow as fast as they can: in force when the reply comes, and none is lost.

use std::{thread, time::Duration};

use lab::Flood;
use pen_common::{config::Plane, verdict::Reason};

use crate::wire::{BACKENDS, EVEN, LOSSES, ODD, Rig, assert_plane, count, dropped, lost};

/// How long nothing may arrive.
const QUIET: Duration = Duration::from_millis(200);
/// Frames that pass at least meanwhile.
const MEANWHILE: u64 = 5_000;
/// A change at this rate at least, frames a second.
const RATE: f64 = 50_000.0;
const TRIES: u32 = 5;

/// From the reply on, nothing goes to back end `gone`. The flood turns to the other client when the
/// reply is here: no frame of that one may get there, not even the first.
fn assert_gone(rig: &Rig, flood: &Flood, change: &str, (gone, odd): (u8, bool)) {
    let mac = rig.wire.backend_mac(gone);
    let before = rig.sink.from_to(odd, mac);
    rig.pen.change(change);
    flood.turn_to(usize::from(odd));
    let (at_reply, (_, sent)) = (flood.sent(), rig.to_backend(gone, &rig.pen.status()));
    assert!(sent > 0, "{change}");
    until("what was on its way", || rig.sink.to(mac) >= sent);
    thread::sleep(QUIET);
    until("frames meanwhile", || flood.sent() > at_reply + MEANWHILE);
    assert_eq!(rig.sink.from_to(odd, mac), before, "{change}");
    // What Pen had sent by the reply is all that it ever sent, and that arrived.
    let now = rig.to_backend(gone, &rig.pen.status());
    assert_eq!(now, (sent, sent), "{change}");
}

/// Back end `index` gets frames again.
fn assert_back(rig: &Rig, change: &str, index: u8) {
    let mac = rig.wire.backend_mac(index);
    let before = rig.sink.to(mac);
    rig.pen.change(change);
    until("frames again", || rig.sink.to(mac) > before);
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
    let flood = rig.flood(vec![rig.flows(EVEN), rig.flows(ODD)], u64::MAX);
    until("the first frames", || {
        (0..BACKENDS).all(|index| rig.sink.to(rig.wire.backend_mac(index)) > 0)
    });
    let mut odd = false;
    for gone in 0..BACKENDS {
        for (off, on) in [("blacklist 100", "blacklist 0"), ("weight 0", "weight 1")] {
            odd = !odd;
            assert_gone(&rig, &flood, &format!("server {gone} {off}"), (gone, odd));
            assert_back(&rig, &format!("server {gone} {on}"), gone);
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
