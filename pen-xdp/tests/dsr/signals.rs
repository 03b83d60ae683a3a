//! No signal that a script may send leaves anything behind.

use std::{
    thread,
    time::{Duration, Instant},
};

use lab::{Lab, Signal};

use crate::rig::{Pen, START, assert_nothing_left, service};

#[test]
fn hangup_and_user1_are_taken_and_change_nothing() {
    if !lab::ready("hangup_and_user1_are_taken_and_change_nothing") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let pen = Pen::start(&lab, "plane = \"xdp\"\n", &service(&lab, &["5353/udp"], 1));
    let generation = pen.status().generation;
    for (signal, said) in [(Signal::Hup, "SIGHUP: "), (Signal::Usr1, "SIGUSR1: ")] {
        pen.process.signal(signal).unwrap();
        pen.process.wait_for_line(said, START).unwrap();
        assert_eq!(pen.status().generation, generation);
    }
    pen.stop(&lab, lab.balancer());
}

#[test]
fn told_to_stop_while_it_starts_it_leaves_nothing() {
    if !lab::ready("told_to_stop_while_it_starts_it_leaves_nothing") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    // Nobody has the second back end's address, so the start waits for it.
    let services = service(&lab, &["5353/udp"], 2);
    for signal in [Signal::Term, Signal::Int] {
        let mut pen = Pen::launch(&lab, (0, "eth0"), "plane = \"xdp\"\n", &services);
        let end = Instant::now() + START;
        // The socket has this name until it is answered.
        let starting = pen.control.with_extension("starting");
        while !starting.exists() {
            assert!(Instant::now() < end, "{}", pen.process.output());
            thread::sleep(Duration::from_millis(5));
        }
        let status = pen.process.stop(signal, START).unwrap();
        assert!(status.success(), "{status}: {}", pen.process.output());
        assert!(!pen.process.output().contains("serving"));
        assert_nothing_left(&lab, lab.balancer());
        assert!(!pen.control.exists() && !pen.pid_file.exists());
        let neighbours = lab.balancer().run_ok("ip", ["neigh", "show", "nud", "all"]);
        let neighbours = neighbours.unwrap().stdout;
        assert!(
            !neighbours.contains("extern_learn") && !neighbours.contains("managed"),
            "{neighbours}"
        );
    }
}
