//! A daemon that is killed, frozen or restarted does not stop traffic.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use lab::{Lab, Load, Peer, Signal};

use crate::rig::{Pen, START, assert_nothing_left, service};

const SERVICE: &[&str] = &["5353/udp"];

fn load(lab: &Lab, seconds: u64) -> Load {
    let vip = lab.vips().next().unwrap();
    Load {
        to: SocketAddr::new(vip, 5353),
        flows: 20,
        count: 1000 * seconds,
        rate: 1000,
        tcp: false,
    }
}

#[test]
fn killed_the_program_carries_on_and_the_next_one_takes_over() {
    if !lab::ready("killed_the_program_carries_on_and_the_next_one_takes_over") {
        return;
    }
    let lab = Lab::builder().backends(3).queues(2).build().unwrap();
    let _echoes: Vec<Peer> = (0..3)
        .map(|index| Peer::udp(&lab, index, 5353).unwrap())
        .collect();
    let services = service(&lab, SERVICE, 3);
    let top = "plane = \"af_xdp\"\n";
    let mut pen = Pen::start(&lab, top, &services);
    let load = load(&lab, 12);
    let running = load.spawn(lab.client()).unwrap();
    running
        .wait_for_line("started", Duration::from_secs(10))
        .unwrap();
    thread::sleep(Duration::from_secs(1));
    let generation = pen.status().generation;
    pen.process
        .stop(Signal::Kill, Duration::from_secs(5))
        .unwrap();
    thread::sleep(Duration::from_secs(1));
    let next = Pen::start(&lab, top, &services);
    let redirected = next.count("redirected");
    thread::sleep(Duration::from_secs(1));
    assert!(
        running.is_running(),
        "the load ended before the workers could take over"
    );
    assert!(
        next.count("redirected") > redirected,
        "workers did not take over"
    );
    let tally = load.finish(running).unwrap();
    // What stood in the killed worker's rings is lost; the flow moves nowhere else.
    assert_eq!(tally.strayed, 0, "{tally:?}");
    assert!(tally.sent - tally.answered <= 64, "{tally:?}");
    assert!(next.status().generation > generation);
    next.stop(&lab, &lab.balancers()[0]);
}

/// Three back ends, then two, then three: every flow that is not the missing one's stays where it
/// is, and none is steered by a table that is half written.
#[test]
fn a_restart_with_other_back_ends_moves_only_what_it_must() {
    if !lab::ready("a_restart_with_other_back_ends_moves_only_what_it_must") {
        return;
    }
    let lab = Lab::builder().backends(3).queues(2).build().unwrap();
    let _echoes: Vec<Peer> = (0..3)
        .map(|index| Peer::udp(&lab, index, 5353).unwrap())
        .collect();
    let top = "plane = \"af_xdp\"\n";
    let mut pen = Pen::start(&lab, top, &service(&lab, SERVICE, 3));
    let load = load(&lab, 14);
    let running = load.spawn(lab.client()).unwrap();
    running
        .wait_for_line("started", Duration::from_secs(10))
        .unwrap();
    let mut restarts = 0;
    for backends in [2, 3, 2] {
        thread::sleep(Duration::from_millis(500));
        pen.process
            .stop(Signal::Kill, Duration::from_secs(5))
            .unwrap();
        pen = Pen::start(&lab, top, &service(&lab, SERVICE, backends));
        let slots: u32 = pen.status().dsr().pools[0]
            .backends
            .iter()
            .map(|b| b.slots)
            .sum();
        assert_eq!(slots, 65_537);
        restarts += 1;
    }
    assert!(running.is_running(), "the load ended before the restarts");
    let tally = load.finish(running).unwrap();
    // What stood in the killed workers' rings is lost, and nothing else.
    assert!(tally.sent - tally.answered <= 64 * restarts, "{tally:?}");
    pen.stop(&lab, lab.balancer());
}

/// A table in the middle of the memory, and a larger one after the restart: there is room enough,
/// but not in one piece.
#[test]
fn tables_that_do_not_fit_beside_those_in_force_get_memory_of_their_own() {
    if !lab::ready("tables_that_do_not_fit_beside_those_in_force_get_memory_of_their_own") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let _echoes: Vec<Peer> = (0..2)
        .map(|index| Peer::udp(&lab, index, 5353).unwrap())
        .collect();
    let top = "plane = \"af_xdp\"\ntable_memory = \"1MiB\"\n";
    let sized = |slots: u32| {
        let services = service(&lab, SERVICE, 2);
        let pool = "[[pool]]\n";
        services.replace(pool, &format!("{pool}table_size = {slots}\n"))
    };
    let mut pen = Pen::start(&lab, top, &sized(160_001));
    let generation = pen.change("server 0 weight 2");
    let load = load(&lab, 6);
    let running = load.spawn(lab.client()).unwrap();
    running
        .wait_for_line("started", Duration::from_secs(10))
        .unwrap();
    thread::sleep(Duration::from_millis(500));
    pen.process
        .stop(Signal::Kill, Duration::from_secs(5))
        .unwrap();
    let next = Pen::start(&lab, top, &sized(259_001));
    assert!(running.is_running(), "the load ended before the restart");
    let said = next.process.output();
    assert!(said.contains("new memory"), "{said}");
    let slots: u32 = next.status().dsr().pools[0]
        .backends
        .iter()
        .map(|b| b.slots)
        .sum();
    assert_eq!(slots, 259_001);
    assert!(next.status().generation > generation);
    let tally = load.finish(running).unwrap();
    assert!(tally.sent - tally.answered <= 64, "{tally:?}");
    next.stop(&lab, lab.balancer());
}

/// The program of the killed daemon forwards on the settings that it was attached with: the next
/// daemon must not give them back to make them again.
#[test]
fn a_restart_leaves_the_settings_that_the_program_needs() {
    if !lab::ready("a_restart_leaves_the_settings_that_the_program_needs") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let services = service(&lab, SERVICE, 1);
    let top = "plane = \"af_xdp\"\nbusy = \"always\"\n";
    let mut pen = Pen::start(&lab, top, &services);
    pen.process
        .stop(Signal::Kill, Duration::from_secs(5))
        .unwrap();
    // A loop of the shell alone: it looks some ten thousand times a second.
    let look = "echo looking; while read -r now < /sys/class/net/eth0/gro_flush_timeout; do \
                [ \"$now\" = 200000 ] || { echo \"it was $now\"; exit; }; done";
    let looking = lab.balancer().spawn("sh", ["-c", look]).unwrap();
    looking
        .wait_for_line("looking", Duration::from_secs(5))
        .unwrap();
    let next = Pen::start(&lab, top, &services);
    assert!(looking.is_running(), "{}", looking.output());
    drop(looking);
    assert!(!next.status().dsr().nic_changes.is_empty());
    // What is no longer wanted is taken back, and what was there before is not forgotten.
    next.stop(&lab, lab.balancer());
}

#[test]
fn frozen_the_program_takes_its_queues() {
    if !lab::ready("frozen_the_program_takes_its_queues") {
        return;
    }
    let lab = Lab::builder().backends(3).build().unwrap();
    let _echoes: Vec<Peer> = (0..3)
        .map(|index| Peer::udp(&lab, index, 5353).unwrap())
        .collect();
    let pen = Pen::start(&lab, "plane = \"af_xdp\"\n", &service(&lab, SERVICE, 3));
    let load = load(&lab, 6);
    let running = load.spawn(lab.client()).unwrap();
    running
        .wait_for_line("started", Duration::from_secs(10))
        .unwrap();
    thread::sleep(Duration::from_secs(1));
    pen.process.signal(Signal::Stop).unwrap();
    thread::sleep(Duration::from_secs(2));
    pen.process.signal(Signal::Cont).unwrap();
    let tally = load.finish(running).unwrap();
    // Frames of the 200 ms until the program gives up on the worker wait in the ring and are
    // forwarded when it comes back.
    assert_eq!(tally.strayed, 0, "{tally:?}");
    assert!(tally.answered >= tally.sent * 99 / 100, "{tally:?}");
    let (redirected, forwarded) = (pen.count("redirected"), pen.count("forwarded"));
    assert!(
        forwarded - redirected >= 1500,
        "the program forwarded {}",
        forwarded - redirected
    );
    pen.stop(&lab, &lab.balancers()[0]);
}

/// A start takes a second where a back end does not answer; whoever finds the socket before is not
/// to wait for it.
#[test]
fn the_control_socket_appears_when_it_is_answered() {
    if !lab::ready("the_control_socket_appears_when_it_is_answered") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    lab.backend(0).ip("link set eth0 down").unwrap();
    let start = Instant::now();
    let pen = Pen::launch(&lab, (0, "eth0"), "", &service(&lab, SERVICE, 1));
    while !pen.control.exists() {
        assert!(start.elapsed() < START, "{}", pen.process.output());
        thread::sleep(Duration::from_millis(2));
    }
    let (started, appeared) = (start.elapsed(), Instant::now());
    assert_eq!(pen.status().dsr().pools[0].backends[0].slots, 0);
    let waited = appeared.elapsed();
    assert!(
        started > Duration::from_secs(1),
        "{started:?}: a blind test"
    );
    assert!(waited < started / 2, "{waited:?} of {started:?}");
    pen.stop(&lab, lab.balancer());
}

#[test]
fn detach_cleans_up_after_a_killed_daemon() {
    if !lab::ready("detach_cleans_up_after_a_killed_daemon") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let mut pen = Pen::start(&lab, "plane = \"af_xdp\"\n", &service(&lab, SERVICE, 1));
    pen.process
        .stop(Signal::Kill, Duration::from_secs(5))
        .unwrap();
    let link = lab
        .balancer()
        .run_ok("ip", ["link", "show", "eth0"])
        .unwrap()
        .stdout;
    assert!(link.contains("xdp"), "{link}");
    let run_dir = lab.folder().join("pen0/run");
    let words = [
        "--detach".into(),
        "eth0".into(),
        "--bpffs".into(),
        lab.bpffs().into_os_string(),
    ];
    let words = words
        .into_iter()
        .chain(["--run-dir".into(), run_dir.into_os_string()]);
    lab.balancer()
        .run_ok(env!("CARGO_BIN_EXE_pen"), words)
        .unwrap();
    assert_nothing_left(&lab, lab.balancer());
}
