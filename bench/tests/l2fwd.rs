//! A bare forwarder through the lab: the wiring that every test of the data plane stands on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lab::{Capture, Iperf, Lab, Load, NIC, Nginx, Offloads, Peer, Process, Signal, Station};

const LIMIT: Duration = Duration::from_secs(10);

/// Starts the forwarder in the load balancer, towards back end 0.
fn forward(lab: &Lab, options: &[&str]) -> Process {
    let object = lab::object();
    let to = Station::backend(0).mac().to_string();
    let words = [
        "--interface",
        NIC,
        "--to",
        &to,
        "--object",
        object.to_str().unwrap(),
    ];
    let words = words.iter().chain(options);
    let l2fwd = lab
        .balancer()
        .spawn(lab::binary("l2fwd").unwrap(), words)
        .unwrap();
    l2fwd.wait_for_line("ready", LIMIT).unwrap();
    lab.point_vips_at_balancer(0).unwrap();
    l2fwd
}

fn pages_and_a_download_pass(queues: u32, options: &[&str]) {
    let offloads = Offloads::SwitchPortTxOff;
    let lab = Lab::builder()
        .backends(2)
        .queues(queues)
        .offloads(offloads)
        .build()
        .unwrap();
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let queue_count = queues.to_string();
    let mut l2fwd = forward(&lab, &[&["--queues", &queue_count], options].concat());
    for (vip, client) in lab.vips().zip(Station::client().addresses()) {
        for _ in 0..20 {
            let page = lab::fetch(lab.client(), vip, 80, "/").unwrap();
            assert!(page.starts_with(&format!("be0 {client} ")), "{page}");
        }
        assert!(lab::download_is_intact(&lab, vip, 80).unwrap());
    }
    for queue in 0..queues {
        let name = format!("rx_queue_{queue}_xdp_packets");
        let frames = lab::driver_counter(lab.balancer(), NIC, &name).unwrap();
        let generic = options.contains(&"--generic");
        assert_eq!(
            frames == 0,
            generic,
            "{frames} frames in queue {queue} by native XDP"
        );
    }
    assert_eq!(
        lab::snmp_counter(lab.backend(0), "TcpInCsumErrors").unwrap(),
        0
    );
    // Only the forwarder can have forwarded: without it nothing passes.
    l2fwd.stop(Signal::Term, LIMIT).unwrap();
    let url = format!("http://{}/", Station::vip(0).v4());
    assert!(lab::fetch_within(Duration::from_secs(1), lab.client(), &url).is_err());
}

#[test]
fn tcp_passes_native_one_queue() {
    if lab::ready("tcp_passes_native_one_queue") {
        pages_and_a_download_pass(1, &[]);
    }
}

#[test]
fn tcp_passes_native_four_queues() {
    if lab::ready("tcp_passes_native_four_queues") {
        pages_and_a_download_pass(4, &[]);
    }
}

#[test]
fn tcp_passes_generic_and_busy() {
    if lab::ready("tcp_passes_generic_and_busy") {
        pages_and_a_download_pass(1, &["--generic"]);
        pages_and_a_download_pass(1, &["--busy"]);
    }
}

#[test]
fn no_datagram_is_lost_and_jumbo_passes() {
    if !lab::ready("no_datagram_is_lost_and_jumbo_passes") {
        return;
    }
    let offloads = Offloads::SwitchPortTxOff;
    let lab = Lab::builder()
        .backends(1)
        .queues(2)
        .mtu(9000)
        .offloads(offloads)
        .build()
        .unwrap();
    let _l2fwd = forward(&lab, &["--queues", "2", "--multi-buffer"]);
    let _udp = Peer::udp(&lab, 0, 9000).unwrap();
    let to = (Station::vip(0).v4(), 9000).into();
    let load = Load {
        to,
        flows: 16,
        count: 4000,
        rate: 4000,
        tcp: false,
    };
    let tally = load.run(lab.client()).unwrap();
    assert_eq!((tally.answered, tally.strayed), (4000, 0));
    let _iperf = Iperf::start(&lab, 0).unwrap();
    let rate = Iperf::measure(lab.client(), Station::vip(0).v4().into(), 1, false).unwrap();
    assert!(rate > 1e7, "{rate} bits a second");
}

#[test]
fn unfinished_checksums_are_lost_behind_a_bare_forwarder() {
    if !lab::ready("unfinished_checksums_are_lost_behind_a_bare_forwarder") {
        return;
    }
    // What Pen must mend: with offloads as the kernel sets them, AF_XDP takes frames without their
    // sums.
    let lab = Lab::builder().backends(1).build().unwrap();
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let _l2fwd = forward(&lab, &[]);
    let url = format!("http://{}/", Station::vip(0).v4());
    assert!(lab::fetch_within(Duration::from_secs(2), lab.client(), &url).is_err());
    assert!(lab::snmp_counter(lab.backend(0), "TcpInCsumErrors").unwrap() > 0);
}

#[test]
fn what_a_program_sends_back_arrives() {
    if !lab::ready("what_a_program_sends_back_arrives") {
        return;
    }
    for queues in [1, 4] {
        let lab = Lab::builder().backends(1).queues(queues).build().unwrap();
        let _swap = forward(&lab, &["--program", "swap"]);
        let (client, balancer) = (Station::client().mac().0, Station::balancer(0).mac().0);
        let frame = |to: [u8; 6], from: [u8; 6], number: u8| {
            [&to[..], &from, &[0x88, 0xb5], &[number; 46]].concat()
        };
        let sent: Vec<_> = (0..100)
            .map(|number| frame(balancer, client, number))
            .collect();
        let back: Vec<_> = (0..100)
            .map(|number| frame(client, balancer, number))
            .collect();
        let filter = format!(
            "ether proto 0x88b5 and ether src {}",
            Station::balancer(0).mac()
        );
        let capture = Capture::start(lab.client(), NIC, &filter).unwrap();
        lab::send_frames(lab.client(), NIC, &sent).unwrap();
        capture.wait_for(back.len(), LIMIT).unwrap();
        let mut caught = capture.stop().unwrap();
        // Each core has a queue of its own on the way back.
        caught.sort();
        assert_eq!(caught, back);
    }
}
