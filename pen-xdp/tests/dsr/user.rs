//! The data plane as another user than root (`-u`): the process that has it can do nothing else, and
//! its keeper does for it what the configuration names.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    thread,
    time::Duration,
};

use crate::{
    reload::write,
    rig::{Pen, START, assert_nothing_left, service},
    stolen::serving,
};
use lab::{Lab, Load, Peer, Process, Signal, Station};

pub(crate) const UDP: &[&str] = &["5353/udp"];
/// Frames in little memory: a container's root may not lock more than 8 MiB for another user.
pub(crate) const SMALL: &str = "user = \"nobody\"\nring_size = 128\n";

pub(crate) fn top(plane: &str) -> String {
    format!("plane = \"{plane}\"\n{SMALL}")
}

pub(crate) fn echoes(lab: &Lab) -> Vec<Peer> {
    let all = 0..lab.backends().len();
    all.map(|index| Peer::udp(lab, index, 5353).unwrap())
        .collect()
}

fn load(vip: IpAddr, count: u64) -> Load {
    Load {
        to: SocketAddr::new(vip, 5353),
        flows: 40,
        count,
        rate: 1000,
        tcp: false,
    }
}

/// Under way, and every flow asked on.
fn running(lab: &Lab, load: Load) -> Process {
    let process = load.spawn(lab.client()).unwrap();
    process.wait_for_line("started", START).unwrap();
    thread::sleep(Duration::from_millis(500));
    process
}

/// All that is sent to each VIP is answered, by so many back ends.
pub(crate) fn all_answer(lab: &Lab, backends: usize) {
    for vip in lab.vips() {
        let tally = load(vip, 400).run(lab.client()).unwrap();
        let seen = (tally.answered, tally.strayed, tally.by_backend.len());
        assert_eq!(seen, (400, 0, backends), "{vip}: {tally:?}");
    }
}

/// A line of `/proc/PID/status`, of each thread.
fn all_threads(process: u32, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let lines = tasks.map(|task| {
        let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line[key.len()..].trim().to_owned()
    });
    let mut all: Vec<_> = lines.collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn every_plane_forwards_and_changes_without_any_right() {
    if !lab::ready("every_plane_forwards_and_changes_without_any_right") {
        return;
    }
    for plane in ["af_xdp", "xdp", "af_packet"] {
        let lab = Lab::builder().backends(3).queues(2).build().unwrap();
        let _echoes = echoes(&lab);
        let pen = Pen::start(&lab, &top(plane), &service(&lab, UDP, 2));
        assert_eq!(pen.status().dsr().plane.actual.to_string(), plane);
        all_answer(&lab, 2);
        let (keeper, serving) = (pen.process.id(), serving(pen.process.id()));
        assert_eq!(pen.status().pid, keeper);
        for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"] {
            assert_eq!(all_threads(serving, set), ["0000000000000000"], "{set}");
        }
        assert_eq!(all_threads(serving, "Seccomp:"), ["2"]);
        assert_eq!(all_threads(serving, "NoNewPrivs:"), ["1"]);
        assert_eq!(all_threads(keeper, "Threads:"), ["1"]);
        // The MAC of one that is new is asked for as root, and so is that of one that goes let go.
        let new = Station::backend(2).v4();
        pen.change(&format!("server add {new}"));
        all_answer(&lab, 3);
        let known = || {
            let entries = lab.balancer().ip("neigh show dev eth0").unwrap().stdout;
            entries.contains(&format!("{new} "))
        };
        assert!(known());
        write(&lab, &service(&lab, UDP, 2));
        pen.change("reload");
        all_answer(&lab, 2);
        assert!(!known(), "its entry is still there");
        pen.stop(&lab, lab.balancer());
        let left = lab.balancer().ip("neigh show proto 80").unwrap().stdout;
        assert_eq!(left, "");
    }
}

/// What it drives itself is asked of its keeper, and the interface's settings are made and given back.
#[test]
fn a_worker_without_rights_polls_its_device() {
    if !lab::ready("a_worker_without_rights_polls_its_device") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let _echoes = echoes(&lab);
    let top = format!("{}busy = \"always\"\n", top("af_xdp"));
    let pen = Pen::start(&lab, &top, &service(&lab, UDP, 1));
    let status = pen.status();
    assert!(status.dsr().queues[0].busy_poll, "{:?}", status.degraded);
    assert!(!status.dsr().nic_changes.is_empty());
    all_answer(&lab, 1);
    pen.stop(&lab, lab.balancer());
}

/// It ends, it hangs, its keeper ends: the program goes on, and the next one takes over.
#[test]
fn without_the_one_that_serves_the_program_forwards() {
    if !lab::ready("without_the_one_that_serves_the_program_forwards") {
        return;
    }
    let lab = Lab::builder().backends(3).queues(2).build().unwrap();
    let _echoes = echoes(&lab);
    let vip = lab.vips().next().unwrap();
    let services = service(&lab, UDP, 3);
    let kill = |signal: &str, pid: u32| {
        let words = [signal.to_owned(), pid.to_string()];
        lab.balancer().run_ok("kill", words).unwrap()
    };
    let mut pen = Pen::start(&lab, &top("af_xdp"), &services);
    let load = load(vip, 12_000);
    let under_way = running(&lab, load);
    let served = serving(pen.process.id());
    kill("-STOP", served);
    thread::sleep(Duration::from_secs(1));
    kill("-CONT", served);
    thread::sleep(Duration::from_millis(500));
    let by_program = pen.count("forwarded") - pen.count("redirected");
    assert!(by_program > 300, "{by_program} forwarded while it hung");
    for keeper in [false, true] {
        let killed = if keeper { pen.process.id() } else { served };
        kill("-KILL", killed);
        pen.process.wait(Duration::from_secs(10)).unwrap();
        thread::sleep(Duration::from_millis(500));
        pen = Pen::start(&lab, &top("af_xdp"), &services);
        assert!(pen.process.output().contains("adopted"));
    }
    let redirected = pen.count("redirected");
    thread::sleep(Duration::from_secs(1));
    assert!(under_way.is_running(), "the load ended too early");
    assert!(pen.count("redirected") > redirected + 300);
    let tally = load.finish(under_way).unwrap();
    assert_eq!(tally.strayed, 0, "{tally:?}");
    // What stood in the rings of one that hung, and of two that were killed.
    assert!(tally.sent - tally.answered <= 3 * 64, "{tally:?}");
    pen.stop(&lab, lab.balancer());
}

/// Another program file in the place of the one that runs, and a restart: an upgrade.
#[test]
fn an_upgrade_loses_nothing() {
    if !lab::ready("an_upgrade_loses_nothing") {
        return;
    }
    let lab = Lab::builder().backends(3).build().unwrap();
    let _echoes = echoes(&lab);
    let own = lab.folder().join("pen");
    fs::copy(env!("CARGO_BIN_EXE_pen"), &own).unwrap();
    let place = env!("CARGO_BIN_EXE_pen");
    let lines = format!(
        "{}on_stop = \"keep\"\n{}",
        top("af_xdp"),
        service(&lab, UDP, 3)
    );
    let mut pen = Pen::start(&lab, "", &lines);
    let load = load(lab.vips().next().unwrap(), 6_000);
    let under_way = running(&lab, load);
    let status = pen.process.stop(Signal::Term, START).unwrap();
    assert!(status.success(), "{}", pen.process.output());
    // In its own view of the files there is the new one where the old one is.
    let mut next = Pen::start_with(&lab, &own, place, &lines);
    let said = next.process.output();
    assert!(said.contains("adopted"), "{said}");
    let redirected = next.count("redirected");
    thread::sleep(Duration::from_secs(1));
    assert!(under_way.is_running(), "the load ended too early");
    assert!(next.count("redirected") > redirected + 300);
    let tally = load.finish(under_way).unwrap();
    assert_eq!((tally.answered, tally.strayed), (6_000, 0), "{tally:?}");
    next.change("stop");
    assert!(next.process.wait(START).unwrap().success());
    assert_nothing_left(&lab, lab.balancer());
}

/// What others than root may write is not root's word: no interface is had by it.
#[test]
fn an_interface_is_had_by_roots_word_alone() {
    if !lab::ready("an_interface_is_had_by_roots_word_alone") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let script = "cp \"$3\" \"$3.own\"; chown nobody \"$3.own\"; exec \"$1\" \"$2\" \"$3.own\"";
    let by = ["sh", "-c", script, "sh"];
    let lines = format!("{}{}", top("af_xdp"), service(&lab, UDP, 1));
    let mut pen = Pen::launch_by(&lab, (0, "eth0"), &by, &lines);
    let status = pen.process.wait(START).unwrap();
    let said = pen.process.output();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("no interface is had as root"), "{said}");
    assert_nothing_left(&lab, lab.balancer());
}
