//! What the segment is told of VIPs, and when.

use std::{thread, time::Duration};

use lab::{Lab, Process, Station};

use crate::rig::{Pen, START};

/// What the balancer sends to everyone, a line each.
fn listen(lab: &Lab) -> Process {
    let words = [
        "-p",
        "-lne",
        "-Q",
        "out",
        "-i",
        "eth0",
        "ether",
        "broadcast",
    ];
    let capture = lab.balancer().spawn("tcpdump", words).unwrap();
    capture.wait_for_line("listening on", START).unwrap();
    capture
}

fn lines(capture: &Process, parts: &[&str]) -> usize {
    let output = capture.output();
    let found = output
        .lines()
        .filter(|line| parts.iter().all(|part| line.contains(part)));
    found.count()
}

fn service(name: &str, listen: &str, more: &str) -> String {
    let backend = Station::backend(0).v4();
    format!(
        "[[service]]\nname = \"{name}\"\nlisten = \"{listen}\"\n{more}\n[[pool]]\n\
         name = \"{name}\"\nbackend = [\"{backend}\"]\n"
    )
}

#[test]
fn each_vip_is_announced_where_it_is_served_and_only_when_it_has_to_be() {
    if !lab::ready("each_vip_is_announced_where_it_is_served_and_only_when_it_has_to_be") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    // Below 1280 bytes there is no IPv6, and no group of it can be joined.
    lab.balancer().ip("link set eth0 mtu 1200").unwrap();
    let capture = listen(&lab);
    let services = [
        service("six", "[fd77::200]:80", ""),
        service("four", "10.77.0.200:80", ""),
        service("seven", "10.77.0.201:80", "vlan = 7"),
        service("eight", "10.77.0.201:81", "vlan = 8"),
    ];
    let pen = Pen::start(&lab, "plane = \"xdp\"\n", &services.concat());
    capture.wait_for_line("10.77.0.200 is-at", START).unwrap();
    // Twice, two seconds apart.
    thread::sleep(Duration::from_secs(3));
    let said = |parts: &[&str]| lines(&capture, parts);
    let all = || said(&["is-at"]);
    assert_eq!(said(&["10.77.0.200 is-at"]), 2, "{}", capture.output());
    for vlan in ["vlan 7,", "vlan 8,"] {
        assert_eq!(said(&[vlan, "10.77.0.201 is-at"]), 2, "{vlan}");
    }
    assert!(pen.process.output().contains("groups can't be joined"));
    let before = all();
    // Containers come and go on this host: none of Pen's business.
    lab.balancer()
        .ip("link add other type veth peer name other1")
        .unwrap();
    lab.balancer()
        .ip("addr add 192.0.2.7/24 dev other")
        .unwrap();
    lab.balancer()
        .ip("addr del 192.0.2.7/24 dev other")
        .unwrap();
    lab.balancer().ip("link set eth0 mtu 1220").unwrap();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(all(), before, "{}", capture.output());
    // The host takes a VIP and gives it back.
    lab.balancer().ip("addr add 10.77.0.200/32 dev lo").unwrap();
    thread::sleep(Duration::from_secs(1));
    let ours = said(&["10.77.0.200 is-at"]);
    lab.balancer().ip("addr del 10.77.0.200/32 dev lo").unwrap();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(said(&["10.77.0.200 is-at"]), ours + 2);
    pen.stop(&lab, lab.balancer());
}
