//! The operator changes the number of queues while Pen runs: all are served, and no flow moves.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use lab::{Lab, Load, Peer};
use pen_common::control::{QueueStatus, ServedBy};

use crate::{
    rig::{Pen, START, service},
    user::SMALL,
};

fn load(vip: IpAddr, count: u64) -> Load {
    Load {
        to: SocketAddr::new(vip, 5353),
        flows: 40,
        count,
        rate: 500,
        tcp: false,
    }
}

/// So many queues on the balancer's end of the cable. The driver wants one to receive on for each that
/// the other end may send from; the other end's own stay as they are.
pub(crate) fn set(lab: &Lab, count: u32) {
    let own = || {
        let words = format!("-L eth0 rx {count} tx {count}");
        lab.balancer().ethtool(&words)
    };
    let peer = || lab.switch().ethtool(&format!("-L lb0 tx {count}"));
    // Before it where there are fewer, and after it where there are more: one of the two is refused.
    let _ = peer();
    own().unwrap();
    let _ = peer();
}

/// Waits until each of so many queues is served so; the kernel tells nobody of their number.
pub(crate) fn served(pen: &Pen, count: usize, by: ServedBy) {
    let end = Instant::now() + START;
    loop {
        let queues = pen.status().dsr().queues.clone();
        let is_served = |queue: &QueueStatus| queue.served_by == by;
        if queues.len() == count && queues.iter().all(is_served) {
            return;
        }
        assert!(Instant::now() < end, "{queues:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn queues_that_come_and_go_are_served() {
    if !lab::ready("queues_that_come_and_go_are_served") {
        return;
    }
    for (plane, by, user) in [
        ("af_xdp", ServedBy::Worker, ""),
        ("af_xdp", ServedBy::Worker, SMALL),
        ("xdp", ServedBy::Program, ""),
    ] {
        let lab = Lab::builder().backends(2).queues(2).build().unwrap();
        let _echoes: Vec<Peer> = (0..2)
            .map(|index| Peer::udp(&lab, index, 5353).unwrap())
            .collect();
        set(&lab, 1);
        let top = format!("plane = {plane:?}\nworkers = 2\n{user}");
        let pen = Pen::start(&lab, &top, &service(&lab, &["5353/udp"], 2));
        served(&pen, 1, by);
        let mut vips = lab.vips();
        let flows = load(vips.next().unwrap(), 5_000);
        let process = flows.spawn(lab.client()).unwrap();
        process.wait_for_line("started", START).unwrap();
        set(&lab, 2);
        served(&pen, 2, by);
        let reason = match by {
            ServedBy::Worker => "redirected",
            ServedBy::Program => "forwarded",
        };
        let before = pen.count(reason);
        let new = load(vips.next().unwrap(), 400).run(lab.client()).unwrap();
        assert_eq!((new.answered, new.strayed), (400, 0), "{new:?}");
        assert!(pen.count(reason) >= before + 400);
        let status = pen.status();
        let adds_up = |queue: &QueueStatus| queue.frames.is_none_or(|f| f.adds_up());
        assert!(status.dsr().queues.iter().all(adds_up));
        let of_queues = |what: &str| what.starts_with("queue");
        assert!(!status.degraded.iter().any(|lack| of_queues(&lack.what)));
        // The kernel takes no queue away from a socket.
        if by == ServedBy::Program {
            set(&lab, 1);
            served(&pen, 1, by);
        }
        assert!(process.is_running(), "the load ended before the changes");
        let tally = flows.finish(process).unwrap();
        // The driver takes the link down while its queues are made anew, and new ones are without the
        // program for a moment: 40 to 103 were seen to be lost, as many where no worker is bound anew.
        assert_eq!(tally.strayed, 0, "{tally:?}");
        assert!(tally.sent - tally.answered <= 250, "{tally:?}");
        pen.stop(&lab, lab.balancer());
    }
}
