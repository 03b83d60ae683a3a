//! The interface under Pen: taken down and up again, and one that filters as a real card does.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use lab::{Capture, Lab, Load, Nic, Peer, Process, Station};
use pen_common::config::{Plane, XdpMode};

use crate::rig::{Pen, service};

/// Longer than the time after which Pen announces a second time at its start.
const ANNOUNCED_TWICE: Duration = Duration::from_secs(3);

fn echoes(lab: &Lab) -> Vec<Peer> {
    let all = 0..lab.backends().len();
    all.map(|index| Peer::udp(lab, index, 5353).unwrap())
        .collect()
}

/// Every question to every VIP is answered, by every back end; gives how many there were.
fn assert_traffic(lab: &Lab, what: &str) -> u64 {
    let mut sent = 0;
    for vip in lab.vips() {
        let load = Load {
            to: SocketAddr::new(vip, 5353),
            flows: 40,
            count: 400,
            rate: 2000,
            tcp: false,
        };
        let tally = load.run(lab.client()).unwrap();
        let seen = (tally.answered, tally.strayed, tally.by_backend.len());
        assert_eq!(seen, (400, 0, lab.backends().len()), "{what} {vip}");
        sent += tally.sent;
    }
    sent
}

/// Flows that go on over what happens, some of them at every back end.
fn keep_asking(lab: &Lab) -> Vec<(Load, Process)> {
    let loads = lab.vips().map(|vip| Load {
        to: SocketAddr::new(vip, 5353),
        flows: 20,
        count: 2_000,
        rate: 200,
        tcp: false,
    });
    let running: Vec<_> = loads
        .map(|load| (load, load.spawn(lab.client()).unwrap()))
        .collect();
    for (_, process) in &running {
        process
            .wait_for_line("started", Duration::from_secs(10))
            .unwrap();
    }
    thread::sleep(Duration::from_millis(500));
    running
}

#[test]
fn after_a_link_flap_the_vips_are_announced_and_served_again() {
    if !lab::ready("after_a_link_flap_the_vips_are_announced_and_served_again") {
        return;
    }
    for plane in [Plane::AfXdp, Plane::Xdp, Plane::AfPacket] {
        let lab = Lab::builder().backends(2).queues(2).build().unwrap();
        let _echoes = echoes(&lab);
        let top = format!("plane = \"{plane}\"\n");
        let pen = Pen::start(&lab, &top, &service(&lab, &["5353/udp"], 2));
        assert_traffic(&lab, "before");
        thread::sleep(ANNOUNCED_TWICE);
        // Only what announces: the kernel asks for back ends from the same MAC.
        let filter = format!(
            "ether src {} and ((arp and arp[14:4] == arp[24:4]) or (icmp6 and ip6[40] == 136))",
            Station::balancer(0).mac()
        );
        let capture = Capture::start(lab.client(), "eth0", &filter).unwrap();
        let flows = keep_asking(&lab);
        lab.balancer().ip("link set eth0 down").unwrap();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(capture.frames().unwrap().len(), 0, "{plane}");
        lab.balancer().ip("link set eth0 up").unwrap();
        // Two of the three announcements: the bridge's port may come up after the first.
        let frames = capture.wait_for(6, Duration::from_secs(10)).unwrap();
        for vip in lab.vips() {
            // Both forms of ARP, or one advertisement; each of them twice at least.
            let wanted = if vip.is_ipv4() { 4 } else { 2 };
            let seen = frames.iter().filter(|frame| announces(frame, vip)).count();
            assert!(seen >= wanted, "{plane} {vip}: {seen} in {frames:?}");
        }
        wait_for_macs(&pen);
        for (load, process) in flows {
            let tally = load.finish(process).unwrap();
            assert_eq!(tally.strayed, 0, "{plane}: {tally:?}");
            assert!(tally.answered > tally.sent / 4, "{plane}: {tally:?}");
        }
        let before = (pen.count("forwarded"), pen.count("redirected"));
        let sent = assert_traffic(&lab, "after");
        let after = (pen.count("forwarded"), pen.count("redirected"));
        // The workers have their queues back: not a frame was left to the program.
        let by_workers = if plane == Plane::AfXdp { sent } else { 0 };
        let shares = (after.0 - before.0, after.1 - before.1);
        assert_eq!(shares, (sent, by_workers), "{plane}");
        let status = pen.status();
        assert_eq!(status.dsr().plane.actual, plane);
        let whole = |q: &pen_common::control::QueueStatus| q.frames.is_none_or(|f| f.adds_up());
        assert!(
            status.dsr().queues.iter().all(whole),
            "{:?}",
            status.dsr().queues
        );
        pen.stop(&lab, lab.balancer());
    }
}

fn announces(frame: &[u8], vip: IpAddr) -> bool {
    match vip {
        // The sender's protocol address of ARP, and the target of an advertisement.
        IpAddr::V4(vip) => frame[12..14] == [8, 6] && frame[28..32] == vip.octets(),
        IpAddr::V6(vip) => frame[12..14] == [0x86, 0xdd] && frame[62..78] == vip.octets(),
    }
}

/// The kernel forgets its neighbours with the link.
fn wait_for_macs(pen: &Pen) {
    let end = Instant::now() + Duration::from_secs(20);
    while pen.status().dsr().pools[0]
        .backends
        .iter()
        .any(|b| b.slots == 0)
    {
        assert!(Instant::now() < end, "{:?}", pen.status().dsr().pools);
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_filtering_interface_hears_who_asks_for_a_vip() {
    if !lab::ready("a_filtering_interface_hears_who_asks_for_a_vip") {
        return;
    }
    for (wanted, plane, mode) in [
        (Plane::Auto, Plane::Xdp, Some(XdpMode::Generic)),
        (Plane::AfXdp, Plane::AfXdp, Some(XdpMode::Generic)),
        (Plane::AfPacket, Plane::AfPacket, None),
    ] {
        let builder = Lab::builder().backends(2).vips(3).nic(Nic::Macvlan);
        let lab = builder.build().unwrap();
        let _echoes = echoes(&lab);
        assert_deaf(&lab);
        let top = format!("plane = \"{wanted}\"\n");
        let pen = Pen::start(&lab, &top, &service(&lab, &["5353/udp"], 2));
        for vip in lab.vips() {
            lab.forget_vips().unwrap();
            assert!(lab.ping(lab.client(), vip).unwrap(), "{wanted} {vip}");
            let mac = lab::neighbour(lab.client(), vip).unwrap();
            assert_eq!(mac, Some(Station::balancer(0).mac().to_string()));
        }
        assert!(pen.count("neighbor-answered") >= 3, "{wanted}");
        let sent = assert_traffic(&lab, "macvlan");
        let status = pen.status();
        assert_eq!(
            (status.dsr().plane.actual, status.dsr().xdp.mode),
            (plane, mode)
        );
        assert_eq!(pen.count("forwarded"), sent, "{wanted}");
        let by_workers = if plane == Plane::AfXdp { sent } else { 0 };
        assert_eq!(pen.count("redirected"), by_workers, "{wanted}");
        pen.stop(&lab, lab.balancer());
        assert_deaf(&lab);
    }
}

/// Without Pen not all solicitations come in: the interface filters, so that hearing them is
/// Pen's doing. One or the other may by chance, as macvlan's filter has 256 places.
fn assert_deaf(lab: &Lab) {
    let filter = "icmp6 and ip6[40] == 135";
    let capture = Capture::start(lab.balancer(), "eth0", filter).unwrap();
    lab.forget_vips().unwrap();
    let wanted: Vec<IpAddr> = lab.vips().filter(IpAddr::is_ipv6).collect();
    let ask = format!(
        "import socket\n\
         for vip in {:?}:\n\
         \x20 socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'?', (vip, 9))\n",
        wanted.iter().map(IpAddr::to_string).collect::<Vec<_>>()
    );
    lab.client().run_ok("python3", ["-c", &ask]).unwrap();
    let frames = capture.stop().unwrap();
    let heard = |vip: &&IpAddr| frames.iter().any(|frame| announces(frame, **vip));
    let heard = wanted.iter().filter(heard).count();
    assert!(heard < wanted.len(), "nothing is filtered");
}
