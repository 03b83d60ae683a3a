//! Ports and workers on real interfaces.
//!
//! Every test has two halves, each a process. The outer half builds a lab and makes traffic; the
//! inner half is the same test, run once more by the outer one inside the load balancer's
//! namespace, and holds ports and workers.
//!
//! ```text
//!   client ---- switch ---- lb0: the inner half, all of VIP to be0
//!                  |
//!                 be0: the outer half counts what arrives
//! ```
#![allow(
    clippy::unwrap_used,
    reason = "a test and its helpers say by panicking what went wrong"
)]

mod inside;
mod memory;
mod millions;
mod workers;

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use inside::{PLAN, Plan, Report, Xsk};
use lab::{Capture, Iperf, Lab, NIC, Nginx, Station};

const LIMIT: Duration = Duration::from_secs(20);
/// Under this name the folder of the load balancer stands in the environment.
const FOLDER: &str = "PEN_PORTS_FOLDER";

/// Runs `name`'s inner half with `plan` in a lab, and `outer` meanwhile; what the inner half saw.
/// `None` in the inner half itself, and where no lab can be built.
fn both(name: &str, lab: lab::Builder, plan: &Plan, outer: impl FnOnce(&Lab)) -> Option<Report> {
    if let Ok(plan) = std::env::var(PLAN) {
        let folder = std::env::var_os(FOLDER).unwrap();
        let stop = inside::stop_file(folder.as_ref());
        inside::run(&serde_json::from_str(&plan).unwrap(), &stop).unwrap();
        return None;
    }
    if !lab::ready(name) {
        return None;
    }
    let lab = lab.backends(1).build().unwrap();
    let test = std::env::current_exe().unwrap();
    let words = ["--exact", name, "--nocapture"];
    let folder = lab.balancer().folder().to_owned();
    let mut command = lab.balancer().command(&test, words);
    command
        .env(PLAN, serde_json::to_string(plan).unwrap())
        .env(FOLDER, &folder);
    let mut inner = lab.balancer().spawn_command(command, &test).unwrap();
    if let Plan::Open = plan {
    } else {
        inner.wait_for_line("ready", LIMIT).unwrap();
    }
    outer(&lab);
    fs::write(inside::stop_file(&folder), "").unwrap();
    let status = inner.wait(LIMIT).unwrap();
    let output = inner.output();
    assert!(status.success(), "{output}");
    let line = output.lines().find_map(|line| line.split_once("report "));
    Some(serde_json::from_str(line.unwrap().1).unwrap())
}

/// UDP over IPv4 from the client to the VIP, numbered, `len` bytes of payload.
fn datagram(number: u32, len: usize) -> Vec<u8> {
    let (client, vip) = (Station::client(), Station::vip(0));
    let builder =
        etherparse::PacketBuilder::ethernet2(client.mac().0, Station::balancer(0).mac().0)
            .ipv4(client.v4().octets(), vip.v4().octets(), 64)
            // Ports spread the flows over the queues, where hashing does so.
            .udp(1024 + (number % 512) as u16, 9);
    let mut payload = vec![number as u8; len];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload).unwrap();
    frame
}

/// Frames as they have to arrive at the back end.
fn forwarded(frames: &[Vec<u8>]) -> BTreeSet<Vec<u8>> {
    let (to, from) = (Station::backend(0).mac().0, Station::balancer(0).mac().0);
    let rewrite = |frame: &Vec<u8>| [&to[..], &from[..], &frame[12..]].concat();
    frames.iter().map(rewrite).collect()
}

/// Frames that a capture takes at once without losing any: its ring has room for few long ones.
const CAPTURED: u32 = 20;

/// Sends `rounds` times [`CAPTURED`] datagrams; every one arrives once, rewritten and otherwise
/// untouched.
fn all_arrive_whole(lab: &Lab, rounds: u32, len: usize) {
    for round in 0..rounds {
        let capture = Capture::start(lab.backend(0), NIC, "udp dst port 9").unwrap();
        let numbers = round * CAPTURED..(round + 1) * CAPTURED;
        let frames: Vec<_> = numbers.map(|number| datagram(number, len)).collect();
        lab::send_frames(lab.client(), NIC, &frames).unwrap();
        capture.wait_for(frames.len(), LIMIT).unwrap();
        let caught = capture.stop().unwrap();
        assert_eq!(caught.len(), frames.len(), "some arrived twice");
        let caught: BTreeSet<_> = caught.into_iter().collect();
        assert!(caught == forwarded(&frames), "frames were damaged");
    }
}

/// Sends `count` datagrams as fast as one socket can, and waits until the back end has as many.
fn blast(lab: &Lab, count: u32) {
    let arrived = || lab::link_counters(lab.backend(0), NIC).unwrap().rx_packets;
    let before = arrived();
    let frames: Vec<_> = (0..count).map(|number| datagram(number, 60)).collect();
    // In portions that no ring on the way is too small for.
    for portion in frames.chunks(500) {
        lab::send_frames(lab.client(), NIC, portion).unwrap();
    }
    let end = Instant::now() + LIMIT;
    while arrived() < before + u64::from(count) {
        let missing = before + u64::from(count) - arrived();
        assert!(Instant::now() < end, "{missing} of {count} did not arrive");
        thread::sleep(Duration::from_millis(20));
    }
}

fn xsk(queues: u32, generic: bool, busy: &str) -> Plan {
    Plan::Xsk(Xsk {
        queues,
        generic,
        multi_buffer: false,
        busy: busy.into(),
    })
}

/// `count` packets of `bytes` together were taken, forwarded, and no frame is missing.
fn check(report: &Report, count: u64, bytes: u64) {
    assert_eq!(report.counts.get("forwarded"), Some(&count), "{report:?}");
    assert_eq!(report.bytes, bytes, "{report:?}");
    let sum = |pick: fn(&inside::QueueLine) -> u64| report.queues.iter().map(pick).sum::<u64>();
    assert_eq!(sum(|queue| queue.sent), count, "{report:?}");
    assert!(sum(|queue| queue.received) >= count, "{report:?}");
    assert_eq!(sum(|queue| queue.lost), 0, "{report:?}");
    for queue in &report.queues {
        assert!(queue.conserved && queue.in_flight == 0, "{report:?}");
    }
    // The workers were stopped just before.
    assert!(report.heartbeat_age_ns < 1_000_000_000, "{report:?}");
}

fn forwards(name: &str, queues: u32, generic: bool, busy: &str) {
    const COUNT: u32 = 4_000;
    let lab = Lab::builder().queues(queues);
    let plan = xsk(queues, generic, busy);
    let outer = |lab: &Lab| {
        all_arrive_whole(lab, 1, 60);
        blast(lab, COUNT);
    };
    let Some(report) = both(name, lab, &plan, outer) else {
        return;
    };
    let count = u64::from(CAPTURED + COUNT);
    check(&report, count, count * 102);
    // The flows are spread by hash: no queue may have got next to nothing.
    let least = count / u64::from(queues) / 4;
    let fair = report.queues.iter().all(|queue| queue.received > least);
    assert!(fair && report.queues.len() == queues as usize, "{report:?}");
}

#[test]
fn native_one_queue() {
    forwards("native_one_queue", 1, false, "auto");
}

#[test]
fn native_four_queues() {
    forwards("native_four_queues", 4, false, "never");
}

#[test]
fn generic_one_queue() {
    forwards("generic_one_queue", 1, true, "auto");
}

#[test]
fn busy_polling() {
    forwards("busy_polling", 1, false, "always");
}

/// The interface goes down under a worker and comes back.
#[test]
fn a_link_flap_is_survived() {
    let outer = |lab: &Lab| {
        all_arrive_whole(lab, 1, 60);
        for state in ["down", "up"] {
            let words = format!("link set {NIC} {state}");
            lab.balancer().ip(&words).unwrap();
            thread::sleep(Duration::from_millis(200));
        }
        all_arrive_whole(lab, 1, 60);
    };
    let name = "a_link_flap_is_survived";
    let plan = xsk(1, false, "always");
    let Some(report) = both(name, Lab::builder(), &plan, outer) else {
        return;
    };
    let count = u64::from(2 * CAPTURED);
    check(&report, count, count * 102);
}

#[test]
fn packets_in_three_frames() {
    let plan = Plan::Xsk(Xsk {
        queues: 1,
        generic: false,
        multi_buffer: true,
        busy: "auto".into(),
    });
    let lab = Lab::builder().mtu(9_000);
    let Some(report) = both("packets_in_three_frames", lab, &plan, |lab| {
        all_arrive_whole(lab, 5, 8_900);
    }) else {
        return;
    };
    check(&report, 100, 100 * 8_942);
}

/// As many queues as the kernel likes, everything left to hardware by client and back end.
#[test]
fn packet_socket_with_offloads_as_the_kernel_sets_them() {
    let name = "packet_socket_with_offloads_as_the_kernel_sets_them";
    let outer = |lab: &Lab| {
        let _web = Nginx::start_all(lab, &[80]).unwrap();
        let vip = Station::vip(0).v4().into();
        lab.point_vips_at_balancer(0).unwrap();
        for _ in 0..20 {
            let page = lab::fetch(lab.client(), vip, 80, "/").unwrap();
            assert!(page.starts_with("be0 "), "{page}");
        }
        assert!(lab::download_is_intact(lab, vip, 80).unwrap());
        let _iperf = Iperf::start(lab, 0).unwrap();
        let upload = Iperf::measure(lab.client(), vip, 2, false).unwrap();
        assert!(
            upload > 0.5,
            "{upload} Gbit/s: segments were not kept whole"
        );
        let errors = lab::snmp_counter(lab.backend(0), "TcpInCsumErrors").unwrap();
        assert_eq!(errors, 0);
        all_arrive_whole(lab, 1, 60);
    };
    let Some(report) = both(name, Lab::builder(), &Plan::Raw, outer) else {
        return;
    };
    let count = report.counts["forwarded"];
    // Segments above one MTU show in the mean length.
    assert!(report.bytes / count > 2_000, "{report:?}");
    assert_eq!(report.counts.get("late"), None, "{report:?}");
    let [queue] = report.queues.as_slice() else {
        panic!("{report:?}");
    };
    assert!(queue.conserved && queue.in_flight == 0 && queue.sent == count);
    assert_eq!((queue.lost, queue.unsent), (0, 0), "{report:?}");
}

#[test]
fn packet_socket_keeps_vlan_tags() {
    let frames = |numbers: std::ops::Range<u32>| -> Vec<_> {
        let tagged = |number| {
            let frame = datagram(number, 60);
            [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat()
        };
        numbers.map(tagged).collect()
    };
    let outer = |lab: &Lab| {
        let capture = Capture::start(lab.backend(0), NIC, "vlan 5").unwrap();
        lab::send_frames(lab.client(), NIC, &frames(0..CAPTURED)).unwrap();
        capture.wait_for(CAPTURED as usize, LIMIT).unwrap();
        let caught: BTreeSet<_> = capture.stop().unwrap().into_iter().collect();
        assert!(
            caught == forwarded(&frames(0..CAPTURED)),
            "frames were damaged"
        );
    };
    let name = "packet_socket_keeps_vlan_tags";
    let Some(report) = both(name, Lab::builder(), &Plan::Raw, outer) else {
        return;
    };
    assert_eq!(
        report.counts["forwarded"],
        u64::from(CAPTURED),
        "{report:?}"
    );
}

#[test]
fn opening_fails_by_name_and_closing_frees_the_queue() {
    let name = "opening_fails_by_name_and_closing_frees_the_queue";
    both(name, Lab::builder(), &Plan::Open, |_| ());
}
