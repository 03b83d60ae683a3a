//! Frames by the million over real sockets, each of them accounted for.

use std::{thread, time::Duration};

use lab::{Offered, Signal, Wire, link_counters};
use pen_common::{config::Plane, verdict::Reason};

use crate::wire::{BACKENDS, EVEN, LOSSES, PORT, Rig, assert_plane, count, dropped, lost};

/// Ten million where time is no matter.
fn frames() -> u64 {
    match std::env::var_os("PEN_TEST_ALL") {
        Some(_) => 10_000_000,
        None => 2_000_000,
    }
}

#[test]
fn millions_of_frames_over_af_xdp_are_conserved() {
    if !lab::ready("millions_of_frames_over_af_xdp_are_conserved") {
        return;
    }
    let rig = Rig::start(Plane::AfXdp);
    // Forwarded by a worker, dropped, answered.
    let mut offers = rig.flows(EVEN);
    offers.extend((0..20).map(|flow| rig.datagram((EVEN, flow), PORT + 1, false)));
    offers.push(rig.ping());
    let before = link_counters(rig.lab.client(), Wire::NAME).unwrap();
    let flooded = rig.flood(vec![offers], frames()).finish().unwrap();
    println!("{flooded:?}: {:.0} a second", flooded.rate());
    thread::sleep(LOSSES);
    let after = link_counters(rig.lab.client(), Wire::NAME).unwrap();
    let status = rig.pen.status();
    assert_plane(Plane::AfXdp, &status);

    // Offered: delivered, or counted as lost on the wire, in a ring, or dropped for a reason.
    let wire_lost = after.tx_dropped - before.tx_dropped;
    let delivered = rig.sink.total();
    assert_eq!((flooded.sent, flooded.given_up), (frames(), 0));
    assert_eq!(
        flooded.sent,
        delivered + dropped(&status) + lost(&status) + wire_lost,
        "{flooded:?} {delivered} {status:?}"
    );
    // The window leaves room everywhere, so the only drops are those that were asked for.
    assert_eq!((lost(&status), wire_lost), (0, 0), "{status:?}");
    assert_eq!(dropped(&status), count(&status, Reason::NoService));
    assert_eq!(delivered, flooded.returning);
    let answered = count(&status, Reason::EchoAnswered);
    assert_eq!(answered, rig.sink.to(rig.wire.source_mac()));
    assert!(answered > 0 && dropped(&status) > 0);
    let mut to_backends = 0;
    for index in 0..BACKENDS {
        let (arrived, sent) = rig.to_backend(index, &status);
        assert_eq!(arrived, sent, "back end {index}");
        assert!(sent > 0, "back end {index} got nothing");
        to_backends += sent;
    }
    assert_eq!(to_backends, count(&status, Reason::Forwarded));
    assert_eq!(to_backends + answered, delivered);
    let frames = status.dsr().queues[0].frames.unwrap();
    assert!(frames.adds_up() && frames.in_hand == 0, "{frames:?}");
    assert_eq!(frames.posted_receive, frames.total, "{frames:?}");
}

/// More than can be forwarded, and a daemon that stands still for a moment: rings overflow, and each
/// frame that was lost is counted where it was.
#[test]
fn frames_lost_in_overload_are_counted() {
    const FRAMES: u64 = 1_000_000;
    // Not as long as it takes until the program does a worker's work.
    const STANDSTILL: Duration = Duration::from_millis(100);
    if !lab::ready("frames_lost_in_overload_are_counted") {
        return;
    }
    let rig = Rig::start(Plane::AfXdp);
    let dropped_at = |machine| link_counters(machine, Wire::NAME).unwrap().tx_dropped;
    let flood = rig.offer(Offered {
        lists: vec![rig.flows(EVEN)],
        count: FRAMES,
        window: u64::MAX,
    });
    while flood.sent() < FRAMES / 10 {
        thread::sleep(Duration::from_millis(1));
    }
    rig.pen.process.signal(Signal::Stop).unwrap();
    thread::sleep(STANDSTILL);
    rig.pen.process.signal(Signal::Cont).unwrap();
    let flooded = flood.finish().unwrap();
    println!("{flooded:?}: {:.0} a second", flooded.rate());
    thread::sleep(LOSSES);
    let status = rig.pen.status();
    assert_plane(Plane::AfXdp, &status);

    // What the client's end had no room for, it did not take from the flood.
    let unsent = dropped_at(rig.lab.balancer());
    let delivered = rig.sink.total();
    assert_eq!(flooded.sent, FRAMES);
    assert_eq!(dropped(&status), 0, "{status:?}");
    assert!(lost(&status) > 0, "no ring overflowed: {status:?}");
    assert_eq!(
        flooded.sent,
        delivered + lost(&status) + unsent,
        "{unsent} unsent: {flooded:?} {status:?}"
    );
    assert_eq!(count(&status, Reason::Forwarded), delivered + unsent);
    let frames = status.dsr().queues[0].frames.unwrap();
    assert!(frames.adds_up() && frames.in_hand == 0, "{frames:?}");
}
