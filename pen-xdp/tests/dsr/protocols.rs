//! Beside plain TCP and UDP: pings, fragments, VLANs, jumbo frames, who owns a VIP, and who not.

use std::{net::IpAddr, time::Duration};

use lab::{Capture, Lab, Nginx, Peer, Station, fetch, fetch_within, send_frames};
use pen_common::{tables::Mac, testing::v4};

use crate::rig::{Pen, answerers, service};

#[test]
fn a_vip_of_ours_answers_arp_neighbour_solicitations_and_pings() {
    if !lab::ready("a_vip_of_ours_answers_arp_neighbour_solicitations_and_pings") {
        return;
    }
    for plane in ["af_xdp", "xdp"] {
        let lab = Lab::builder().backends(1).addressed(false).build().unwrap();
        let top = format!("plane = \"{plane}\"\n");
        let pen = Pen::start(&lab, &top, &service(&lab, &["80/tcp"], 1));
        for vip in lab.vips() {
            lab.forget_vips().unwrap();
            assert!(lab.ping(lab.client(), vip).unwrap(), "{plane} {vip}");
            let mac = lab::neighbour(lab.client(), vip).unwrap();
            assert_eq!(
                mac,
                Some(Station::balancer(0).mac().to_string()),
                "{plane} {vip}"
            );
        }
        assert!(pen.count("arp-answered") > 0 && pen.count("neighbor-answered") > 0);
        assert!(pen.count("echo-answered") >= 2, "{plane}");
        // What no service takes is dropped and counted, and nobody answers for it.
        let vip = lab.vips().next().unwrap();
        let other = format!("http://{}/", lab::host_port(vip, 81));
        assert!(fetch_within(Duration::from_secs(1), lab.client(), &other).is_err());
        assert!(pen.count("no-service") > 0, "{plane}");
    }
}

#[test]
fn a_vip_of_the_kernel_stays_the_kernels() {
    if !lab::ready("a_vip_of_the_kernel_stays_the_kernels") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    for vip in lab.vips() {
        let prefix = if vip.is_ipv4() { "32" } else { "128 nodad" };
        lab.balancer()
            .ip(&format!("addr add {vip}/{prefix} dev eth0"))
            .unwrap();
    }
    let pen = Pen::start(&lab, "plane = \"af_xdp\"\n", &service(&lab, &["80/tcp"], 2));
    for vip in lab.vips() {
        lab.forget_vips().unwrap();
        assert!(
            fetch(lab.client(), vip, 80, "/").unwrap().starts_with("be"),
            "{vip}"
        );
        assert!(lab.ping(lab.client(), vip).unwrap(), "{vip}");
        // The kernel refuses a port that nobody listens on: a reset, not silence.
        let url = format!("http://{}/", lab::host_port(vip, 81));
        let refused = fetch_within(Duration::from_secs(5), lab.client(), &url).unwrap_err();
        assert!(
            format!("{refused:#}").contains("exit status: 7"),
            "{refused:#}"
        );
    }
    assert_eq!(
        (pen.count("arp-answered"), pen.count("echo-answered")),
        (0, 0)
    );
    assert!(pen.count("kernel-owned") > 0 && pen.count("forwarded") > 0);
    let owners: Vec<_> = pen
        .status()
        .dsr()
        .vips
        .iter()
        .map(|vip| vip.owner)
        .collect();
    assert!(
        owners
            .iter()
            .all(|owner| *owner == pen_common::control::Owner::Kernel)
    );
    // Taken away while running: Pen answers from now on.
    for vip in lab.vips() {
        let prefix = if vip.is_ipv4() { 32 } else { 128 };
        lab.balancer()
            .ip(&format!("addr del {vip}/{prefix} dev eth0"))
            .unwrap();
        lab.forget_vips().unwrap();
        assert!(
            fetch(lab.client(), vip, 80, "/").unwrap().starts_with("be"),
            "{vip}"
        );
        assert!(lab.ping(lab.client(), vip).unwrap(), "{vip}");
    }
    assert!(pen.count("echo-answered") > 0);
}

#[test]
fn fragments_follow_their_first() {
    if !lab::ready("fragments_follow_their_first") {
        return;
    }
    for plane in ["af_xdp", "xdp"] {
        let lab = Lab::builder().backends(3).queues(2).build().unwrap();
        let _echoes: Vec<Peer> = (0..3).map(|i| Peer::udp(&lab, i, 5353).unwrap()).collect();
        let top = format!("plane = \"{plane}\"\n");
        let pen = Pen::start(&lab, &top, &service(&lab, &["5353/udp"], 3));
        for vip in lab.vips() {
            let answer = datagram(&lab, vip, 4000);
            assert!(answer.starts_with("be"), "{plane} {vip}: {answer}");
        }
        // Two datagrams of three fragments each.
        assert!(
            pen.count("forwarded") >= 6,
            "{plane}: {}",
            pen.count("forwarded")
        );
        assert_eq!(pen.count("redirected"), 0, "{plane}");
        assert_eq!(pen.count("fragment-first-missing"), 0, "{plane}");
    }
}

/// Sends one datagram of `len` bytes and returns the answer's beginning.
fn datagram(lab: &Lab, vip: IpAddr, len: usize) -> String {
    let script = format!(
        "import socket; s = socket.socket(socket.AF_INET{}, socket.SOCK_DGRAM); \
         s.settimeout(5); s.sendto(b'x' * {len}, ('{vip}', 5353)); print(s.recv(65535)[:60].decode())",
        if vip.is_ipv4() { "" } else { "6" }
    );
    lab.client()
        .run_ok("python3", ["-c", &script])
        .unwrap()
        .stdout
}

#[test]
fn frames_for_others_and_other_traffic_pass() {
    if !lab::ready("frames_for_others_and_other_traffic_pass") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let pen = Pen::start(&lab, "plane = \"af_xdp\"\n", &service(&lab, &["80/tcp"], 1));
    // Ordinary traffic of the machine itself goes on.
    for address in Station::balancer(0).addresses() {
        assert!(lab.ping(lab.client(), address).unwrap(), "{address}");
    }
    // A promiscuous port shows frames for other stations: not ours to forward.
    lab.balancer().ip("link set eth0 promisc on").unwrap();
    let before = pen.count("forwarded");
    let vip = Station::vip(0).v4();
    let client = Station::client();
    let other = Mac::new([0x02, 0xee, 0, 0, 0, 1]);
    let own = Mac::new(client.mac().0);
    let frame = v4(client.v4(), vip)
        .to(other)
        .from(own)
        .tcp(4000, 80, b"")
        .frame();
    send_frames(lab.client(), "eth0", &vec![frame; 20]).unwrap();
    assert!(pen.count("not-our-mac") >= 20);
    assert_eq!(pen.count("forwarded"), before);
}

#[test]
fn jumbo_frames_are_forwarded_whole() {
    if !lab::ready("jumbo_frames_are_forwarded_whole") {
        return;
    }
    let lab = Lab::builder().backends(2).mtu(9000).build().unwrap();
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let _echoes: Vec<Peer> = (0..2).map(|i| Peer::udp(&lab, i, 5353).unwrap()).collect();
    let pen = Pen::start(
        &lab,
        "plane = \"af_xdp\"\n",
        &service(&lab, &["80/tcp", "5353/udp"], 2),
    );
    for vip in lab.vips() {
        assert!(datagram(&lab, vip, 8900).starts_with("be"), "{vip}");
        assert!(fetch(lab.client(), vip, 80, "/").unwrap().starts_with("be"));
    }
    assert!(
        pen.status().dsr().queues[0].multi_buffer,
        "{:?}",
        pen.status().degraded
    );
    assert_eq!(pen.count("redirected"), pen.count("forwarded"));
}

#[test]
fn two_pens_on_one_segment_share_the_choice() {
    if !lab::ready("two_pens_on_one_segment_share_the_choice") {
        return;
    }
    let lab = Lab::builder().backends(3).balancers(2).build().unwrap();
    let _echoes: Vec<Peer> = (0..3).map(|i| Peer::udp(&lab, i, 5353).unwrap()).collect();
    let services = service(&lab, &["5353/udp"], 3);
    let first = Pen::start_on(&lab, 0, "plane = \"af_xdp\"\n", &services);
    let second = Pen::start_on(&lab, 1, "plane = \"xdp\"\n", &services);
    let vip = lab.vips().next().unwrap();
    lab.point_vips_at_balancer(0).unwrap();
    let by_first = answerers(&lab, vip, 20_000..20_012);
    lab.point_vips_at_balancer(1).unwrap();
    assert_eq!(by_first, answerers(&lab, vip, 20_000..20_012));
    assert!(first.count("forwarded") > 0 && second.count("forwarded") > 0);
    let claimed = first.count("vip-claimed") + second.count("vip-claimed");
    assert!(claimed > 0, "each sees that the other announces the VIP");
}

#[test]
fn tags_are_kept_and_a_service_may_name_its_vlan() {
    if !lab::ready("tags_are_kept_and_a_service_may_name_its_vlan") {
        return;
    }
    for plane in ["af_xdp", "xdp"] {
        let lab = Lab::builder().backends(1).build().unwrap();
        let services = service(&lab, &["80/tcp"], 1)
            .replace("name = \"web\"\nlisten", "name = \"web\"\nvlan = 7\nlisten");
        let pen = Pen::start(&lab, &format!("plane = \"{plane}\"\n"), &services);
        // A bridge moves the tag out of the frame, and a veth would hand it on like that: native
        // XDP never sees it then. A wire has it in the frame.
        lab.switch()
            .ethtool("-K lb0 tx-vlan-hw-insert off")
            .unwrap();
        // Pen announces its VIPs in this VLAN as well, by broadcast.
        let filter = format!("ether dst {} and vlan 7", Station::backend(0).mac());
        let capture = Capture::start(lab.backend(0), "eth0", &filter).unwrap();
        let client = Station::client();
        let to_vip = |tag: u16| {
            v4(client.v4(), Station::vip(0).v4())
                .to(Mac::new(Station::balancer(0).mac().0))
                .from(Mac::new(client.mac().0))
                .tag(tag)
                .tcp(4000, 80, b"tagged")
                .frame()
        };
        let sent = vec![to_vip(7), to_vip(8), to_vip(7)];
        send_frames(lab.client(), "eth0", &sent).unwrap();
        let arrived = capture.wait_for(2, Duration::from_secs(5)).unwrap();
        for frame in &arrived {
            assert_eq!(frame[..6], Station::backend(0).mac().0, "{plane}");
            assert_eq!(frame[12..], sent[0][12..], "{plane}");
        }
        assert_eq!(
            (pen.count("forwarded"), pen.count("other-vlan")),
            (2, 1),
            "{plane}"
        );
    }
}
