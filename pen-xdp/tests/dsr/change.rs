//! Changes under load: in force when the reply comes, and no frame is lost over them.

use std::{net::SocketAddr, thread, time::Duration};

use lab::{Lab, Load, Peer, Station, link_counters};

use crate::{
    rig::{Pen, service},
    wire::lost,
};

fn udp(lab: &Lab, count: u64, rate: u64) -> Load {
    let vip = lab.vips().next().unwrap();
    Load {
        to: SocketAddr::new(vip, 5353),
        flows: 50,
        count,
        rate,
        tcp: false,
    }
}

fn echoes(lab: &Lab) -> Vec<Peer> {
    (0..3)
        .map(|index| Peer::udp(lab, index, 5353).unwrap())
        .collect()
}

#[test]
fn from_the_reply_on_no_frame_goes_to_a_removed_back_end() {
    if !lab::ready("from_the_reply_on_no_frame_goes_to_a_removed_back_end") {
        return;
    }
    for plane in ["af_xdp", "xdp"] {
        let lab = Lab::builder().backends(3).queues(2).build().unwrap();
        let _echoes = echoes(&lab);
        let top = format!("plane = \"{plane}\"\n");
        let pen = Pen::start(&lab, &top, &service(&lab, &["5353/udp"], 3));
        let load = udp(&lab, 12_000, 3000);
        let running = load.spawn(lab.client()).unwrap();
        running
            .wait_for_line("started", Duration::from_secs(10))
            .unwrap();
        for round in 0..6 {
            let gone = round % 3;
            pen.change(&format!("server {gone} blacklist 100"));
            let sent = |pen: &Pen| pen.servers().pools[0].servers[gone].sx;
            let at_reply = sent(&pen);
            thread::sleep(Duration::from_millis(200));
            assert_eq!(sent(&pen), at_reply, "{plane}, round {round}");
            let slots = pen.status().dsr().pools[0].backends[gone].slots;
            assert_eq!(slots, 0);
            pen.change(&format!("server {gone} blacklist 0"));
        }
        let tally = load.finish(running).unwrap();
        assert_eq!(
            (tally.sent, tally.answered),
            (12_000, 12_000),
            "{plane}: {tally:?}"
        );
        assert_eq!(tally.by_backend.len(), 3, "{plane}: {tally:?}");
    }
}

#[test]
fn weights_shift_the_share() {
    if !lab::ready("weights_shift_the_share") {
        return;
    }
    let lab = Lab::builder().backends(3).build().unwrap();
    let _echoes = echoes(&lab);
    let pen = Pen::start(&lab, "", &service(&lab, &["5353/udp"], 3));
    pen.change("server 0 weight 0");
    pen.change("server 1 weight 30");
    pen.change("server 2 weight 10");
    let slots: Vec<u32> = pen.status().dsr().pools[0]
        .backends
        .iter()
        .map(|b| b.slots)
        .collect();
    assert_eq!(slots[0], 0);
    assert!(slots[1].abs_diff(3 * 65_537 / 4) <= 656, "{slots:?}");
    let tally = udp(&lab, 500, 2000).run(lab.client()).unwrap();
    assert_eq!(tally.answered, 500);
    assert!(!tally.by_backend.contains_key("be0"), "{tally:?}");
    let refused = pen.ask("server 7 weight 1");
    assert!(!refused.ok && refused.refusal.unwrap().contains("server 7"));
}

#[test]
fn a_back_end_that_moves_or_vanishes_is_followed() {
    if !lab::ready("a_back_end_that_moves_or_vanishes_is_followed") {
        return;
    }
    let lab = Lab::builder().backends(3).build().unwrap();
    let _echoes = echoes(&lab);
    let pen = Pen::start(&lab, "", &service(&lab, &["5353/udp"], 3));
    // Another card in the same machine: the new MAC is learnt from the kernel's table.
    let moved = "02:77:00:00:99:01";
    lab.backend(1).ip("link set eth0 down").unwrap();
    lab.backend(1)
        .ip(&format!("link set eth0 address {moved}"))
        .unwrap();
    lab.backend(1).ip("link set eth0 up").unwrap();
    let address = Station::backend(1).v4();
    lab.balancer()
        .ip(&format!(
            "neigh replace {address} lladdr {moved} dev eth0 nud reachable"
        ))
        .unwrap();
    wait_for("the new MAC", || {
        pen.status().dsr().pools[0].backends[1].mac.as_deref() == Some(moved)
    });
    all_answered(&lab, &pen, 3);
    // Out of power: the kernel finds out, and the others take over.
    lab.backend(2).ip("link set eth0 down").unwrap();
    wait_for("the loss of be2", || {
        pen.status().dsr().pools[0].backends[2].slots == 0
    });
    all_answered(&lab, &pen, 2);
}

/// A load is answered whole, by so many back ends. Where the machine is busy with other tests the
/// kernel may lose a frame: one of three loads has to be whole. Who is sent to a back end that is not
/// there loses a third of each.
fn all_answered(lab: &Lab, pen: &Pen, backends: usize) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let tally = udp(lab, 300, 1000).run(lab.client()).unwrap();
        if (tally.answered, tally.by_backend.len()) == (300, backends) {
            return;
        }
        seen.push(tally);
    }
    panic!("{seen:?}\n{:?}", pen.status().dsr().counters);
}

/// Managed neighbour entries are verified by the kernel in its own time, half a minute at most.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..600 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{what} was waited for in vain");
}

#[test]
fn frames_are_conserved() {
    if !lab::ready("frames_are_conserved") {
        return;
    }
    let lab = Lab::builder().backends(1).queues(1).build().unwrap();
    let _echo = Peer::udp(&lab, 0, 5353).unwrap();
    let pen = Pen::start(
        &lab,
        "plane = \"af_xdp\"\n",
        &service(&lab, &["5353/udp"], 1),
    );
    let before = link_counters(lab.backend(0), "eth0").unwrap();
    let load = udp(&lab, 60_000, 20_000);
    let tally = load.run(lab.client()).unwrap();
    let after = link_counters(lab.backend(0), "eth0").unwrap();
    let forwarded = pen.count("forwarded");
    let status = pen.status();
    // On a busy machine the worker may be late and a ring full: then each such frame is counted.
    assert_eq!(forwarded + lost(&status), tally.sent, "{tally:?}");
    assert_eq!(pen.count("redirected"), tally.sent);
    assert!(
        after.rx_packets - before.rx_packets >= forwarded,
        "{after:?}"
    );
    let frames = status.dsr().queues[0].frames.unwrap();
    assert!(frames.adds_up() && frames.in_hand == 0, "{frames:?}");
}
