//! Back ends of which most don't answer: Pen's own neighbour entries, in the kernel's table.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use lab::{Lab, Load, Peer, link_counters};
use pen_common::control::{BackendState, BackendStatus};

use crate::rig::{Pen, service};
use crate::scale::{BACKENDS, START_BOUND, large};

/// Those that there are: the first, one in the middle, the last.
const PRESENT: [usize; 3] = [0, BACKENDS / 2, BACKENDS - 1];

/// Four times as many entries as the kernel holds of ordinary ones, and each of them unresolved
/// takes up a probe again and again: those that answer must not suffer.
#[test]
fn three_of_4096_back_ends_that_answer_serve() {
    if !lab::ready("three_of_4096_back_ends_that_answer_serve") {
        return;
    }
    let lab = Lab::builder().backends(3).build().unwrap();
    let _echoes: Vec<Peer> = (0..3).map(|i| Peer::udp(&lab, i, 5353).unwrap()).collect();
    lab.balancer()
        .ip("route add 10.78.0.0/16 dev eth0")
        .unwrap();
    for (machine, index) in PRESENT.into_iter().enumerate() {
        let line = format!("addr add {}/32 dev eth0", large(index));
        lab.backend(machine).ip(&line).unwrap();
    }
    let all: Vec<String> = (0..BACKENDS).map(|i| format!("\"{}\"", large(i))).collect();
    let none = service(&lab, &["5353/udp"], 0);
    let services = none.replace("[]", &format!("[{}]", all.join(", ")));
    let begin = Instant::now();
    let pen = Pen::start(&lab, "plane = \"af_xdp\"\n", &services);
    assert!(begin.elapsed() < START_BOUND, "{:?}", begin.elapsed());
    let up = |b: &&BackendStatus| b.state == BackendState::Up;
    loop {
        let status = pen.status();
        let up: Vec<usize> = status.dsr().pools[0]
            .backends
            .iter()
            .filter(up)
            .map(|b| b.index)
            .collect();
        if up == PRESENT {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(40), "{up:?}");
        thread::sleep(Duration::from_millis(200));
    }
    let dropped = || link_counters(lab.balancer(), "eth0").unwrap().tx_dropped;
    for vip in lab.vips() {
        let load = Load {
            to: SocketAddr::new(vip, 5353),
            flows: 60,
            // Eight seconds: the kernel probes unresolved entries every five.
            count: 8_000,
            rate: 1_000,
            tcp: false,
        };
        let before = dropped();
        let tally = load.run(lab.client()).unwrap();
        let seen = (tally.sent, tally.strayed, tally.by_backend.len());
        assert_eq!(seen, (8_000, 0, 3), "{vip}: {tally:?}");
        // Below, Pen has forwarded every one. The kernel's 4,093 questions at once are more than
        // the 256 frames that a veth cable holds, and what it drops then may be one of ours.
        let lost = tally.sent - tally.answered;
        assert!(lost <= 80 && lost <= dropped() - before, "{vip}: {tally:?}");
    }
    assert_eq!(
        (pen.count("forwarded"), pen.count("redirected")),
        (16_000, 16_000)
    );
    let status = pen.status();
    let backends = &status.dsr().pools[0].backends;
    let shares: Vec<u32> = PRESENT.iter().map(|i| backends[*i].slots).collect();
    assert_eq!(shares.iter().sum::<u32>(), 65_537, "{shares:?}");
    pen.stop(&lab, lab.balancer());
    let left = lab.balancer().ip("neigh show nud all dev eth0").unwrap();
    assert!(!left.stdout.contains("10.78."), "{}", left.stdout);
}
