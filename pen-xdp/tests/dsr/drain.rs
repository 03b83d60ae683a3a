//! Weight 0: a back end gets no new flows and keeps those that it has.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use lab::{Lab, Load, Peer, Process, Signal, Tally};
use pen_common::{
    config::Plane,
    control::{BackendState, BackendStatus},
};

use crate::rig::{Pen, service};

const STARTED: Duration = Duration::from_secs(10);
/// The port that both servers of each back end listen on.
const PORT: u16 = 5353;
/// Questions of a load that runs over the change, and how many in a second.
const COUNT: u64 = 2400;
const RATE: u64 = 400;

fn servers(lab: &Lab) -> Vec<Peer> {
    let all = 0..lab.backends().len();
    all.flat_map(|index| {
        [
            Peer::udp(lab, index, PORT).unwrap(),
            Peer::tcp(lab, index, PORT).unwrap(),
        ]
    })
    .collect()
}

fn both() -> [&'static str; 2] {
    ["5353/udp", "5353/tcp"]
}

/// A load of each protocol to each VIP.
fn loads(lab: &Lab, count: u64) -> Vec<Load> {
    let to = |vip: IpAddr| {
        [false, true].map(|tcp| Load {
            to: SocketAddr::new(vip, PORT),
            flows: 24,
            count,
            rate: RATE,
            tcp,
        })
    };
    lab.vips().flat_map(to).collect()
}

fn start(lab: &Lab) -> Vec<(Load, Process)> {
    let loads = loads(lab, COUNT).into_iter();
    let running: Vec<_> = loads
        .map(|load| (load, load.spawn(lab.client()).unwrap()))
        .collect();
    for (_, process) in &running {
        process.wait_for_line("started", STARTED).unwrap();
    }
    // Every flow has been asked on.
    thread::sleep(Duration::from_millis(500));
    running
}

/// New flows of each kind: none of them may go to the first back end.
fn assert_new_flows_avoid_it(lab: &Lab, what: &str) {
    for load in loads(lab, 48) {
        let tally = load.run(lab.client()).unwrap();
        assert_eq!((tally.answered, tally.strayed), (48, 0), "{what} {load:?}");
        assert_eq!(tally.by_backend.len(), 2, "{what} {load:?}: {tally:?}");
        assert!(!tally.by_backend.contains_key("be0"), "{what}: {tally:?}");
    }
}

fn finish(running: Vec<(Load, Process)>) -> Vec<Tally> {
    let ended = running.into_iter();
    ended
        .map(|(load, process)| load.finish(process).unwrap())
        .collect()
}

fn first(pen: &Pen) -> BackendStatus {
    pen.status().dsr().pools[0].backends[0].clone()
}

#[test]
fn a_back_end_without_weight_keeps_its_flows_and_gets_no_new_ones() {
    if !lab::ready("a_back_end_without_weight_keeps_its_flows_and_gets_no_new_ones") {
        return;
    }
    for plane in [Plane::AfXdp, Plane::Xdp, Plane::AfPacket] {
        let lab = Lab::builder().backends(3).queues(2).build().unwrap();
        let _servers = servers(&lab);
        let top = format!("plane = \"{plane}\"\n");
        let pen = Pen::start(&lab, &top, &service(&lab, &both(), 3));
        let running = start(&lab);
        pen.change("server 0 weight 0");
        let drained = first(&pen);
        assert_eq!((drained.slots, drained.state), (0, BackendState::Drained));
        assert!(drained.flows > 0, "{plane}: {drained:?}");
        assert_new_flows_avoid_it(&lab, &plane.to_string());
        let frames = first(&pen).frames;
        assert!(frames > drained.frames, "{plane}: its flows have left");
        for tally in finish(running) {
            assert_eq!(
                (tally.answered, tally.strayed),
                (COUNT, 0),
                "{plane}: {tally:?}"
            );
            assert!(tally.by_backend.contains_key("be0"), "{plane}: {tally:?}");
        }
        assert_eq!(pen.settled().dsr().plane.actual, plane);
        // Not a frame was left to the program, or given to a worker.
        let forwarded = pen.count("forwarded");
        let by_workers = if plane == Plane::AfXdp { forwarded } else { 0 };
        assert_eq!(pen.count("redirected"), by_workers, "{plane}");
        pen.stop(&lab, lab.balancer());
    }
}

/// The flows are known to the program while no daemon lives, and to the next daemon.
#[test]
fn flows_outlive_the_daemon() {
    if !lab::ready("flows_outlive_the_daemon") {
        return;
    }
    let lab = Lab::builder().backends(3).queues(2).build().unwrap();
    let _servers = servers(&lab);
    let top = "plane = \"af_xdp\"\n";
    let services = service(&lab, &both(), 3);
    let mut pen = Pen::start(&lab, top, &services);
    let running = start(&lab);
    pen.change("server 0 weight 0");
    let before = first(&pen);
    let stop = pen.process.stop(Signal::Kill, Duration::from_secs(5));
    stop.unwrap();
    thread::sleep(Duration::from_millis(500));
    let address = before.address.to_string();
    let without = format!("{{ address = \"{address}\", weight = 0 }}");
    let next = Pen::start(
        &lab,
        top,
        &services.replace(&format!("\"{address}\""), &without),
    );
    let after = first(&next);
    assert_eq!((after.slots, after.id), (0, before.id));
    assert!(after.flows >= before.flows, "{before:?} {after:?}");
    let alone = next.count("forwarded") - next.count("redirected");
    assert!(alone > 100, "{alone} frames by the program");
    assert!(after.frames > before.frames, "its flows have left");
    let redirected = next.count("redirected");
    assert_new_flows_avoid_it(&lab, "after a restart");
    for tally in finish(running) {
        // What stood in the killed workers' rings is lost; TCP sends it again.
        assert_eq!(tally.strayed, 0, "{tally:?}");
        assert!(tally.sent - tally.answered <= 64, "{tally:?}");
        assert!(tally.by_backend.contains_key("be0"), "{tally:?}");
    }
    assert!(next.count("redirected") > redirected + 1_000, "no workers");
    assert!(first(&next).frames > after.frames, "its flows have left");
    next.stop(&lab, lab.balancer());
}
