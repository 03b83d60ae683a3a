//! The tarpit: whoever connects to an address that nobody has hangs, and those that somebody has are
//! left alone.

use std::{fs, net::IpAddr, time::Duration};

use lab::{Lab, Nginx, Station, fetch_within};
use pen_common::config::{Plane, XdpMode};

use crate::{
    change::wait_for,
    refuse::refused,
    rig::{Pen, service},
};

const WAYS: &[(Plane, Option<XdpMode>)] = &[
    (Plane::AfXdp, Some(XdpMode::Native)),
    (Plane::Xdp, Some(XdpMode::Native)),
    (Plane::Xdp, Some(XdpMode::Generic)),
    (Plane::AfPacket, None),
];

/// List 5: sixteen addresses of each family, of which one is denied first.
const LIST: &str = "[[acl]]\nnumber = 5\nlines = [\"deny 10.77.0.210\", \"permit 10.77.0.208/28\", \
                    \"permit fd77::d0/124\"]\n";
const TRAPPED: [&str; 2] = ["10.77.0.209", "fd77::d1"];
/// In the list, until the balancer itself has them.
const OWN: [&str; 2] = ["10.77.0.211", "fd77::d3"];

fn trapped(which: &[&str]) -> Vec<IpAddr> {
    which.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn with_tarpit(lab: &Lab) -> String {
    format!("{}{LIST}", service(lab, &["80/tcp"], 1))
}

/// What a client sees that connects, speaks, and waits for a word.
fn visit(lab: &Lab, address: IpAddr) -> String {
    let script = format!(
        "import socket\n\
         try: s = socket.create_connection(('{address}', 22), timeout=8)\n\
         except ConnectionRefusedError: print('refused')\n\
         except OSError: print('nobody')\n\
         else:\n\
         \x20 s.settimeout(1)\n\
         \x20 s.sendall(b'hello')\n\
         \x20 try: print('answered', s.recv(9))\n\
         \x20 except TimeoutError: print('hangs')\n"
    );
    let output = lab.client().run_ok("python3", ["-c", &script]).unwrap();
    output.stdout.trim().to_owned()
}

fn forget(lab: &Lab) {
    for family in ["", "-6 "] {
        lab.client()
            .ip(&format!("{family}neigh flush dev eth0"))
            .unwrap();
    }
}

fn mac(lab: &Lab, address: IpAddr) -> Option<String> {
    lab::neighbour(lab.client(), address).unwrap()
}

#[test]
fn who_connects_to_an_address_that_nobody_has_hangs() {
    if !lab::ready("who_connects_to_an_address_that_nobody_has_hangs") {
        return;
    }
    for &(plane, mode) in WAYS {
        let lab = Lab::builder()
            .backends(2)
            .switch_program(mode == Some(XdpMode::Native))
            .build()
            .unwrap();
        let _web = Nginx::start_all(&lab, &[80]).unwrap();
        // Machines that are there, in the list's network and beside it.
        for there in ["10.77.0.210", "10.77.0.240"] {
            lab.backend(1)
                .ip(&format!("addr add {there}/24 dev eth0"))
                .unwrap();
        }
        let mode_line = mode.map_or(String::new(), |mode| format!("xdp_mode = \"{mode}\"\n"));
        let top = format!("plane = \"{plane}\"\n{mode_line}tarpit_acl = 5\n");
        let pen = Pen::start(&lab, &top, &with_tarpit(&lab));
        let ours = Some(Station::balancer(0).mac().to_string());
        for address in trapped(&TRAPPED) {
            let before =
                ["tarpit-asked", "tarpit-answered", "tarpit-swallowed"].map(|r| pen.count(r));
            assert_eq!(visit(&lab, address), "hangs", "{plane} {mode:?} {address}");
            assert_eq!(mac(&lab, address), ours, "{plane} {mode:?} {address}");
            let after =
                ["tarpit-asked", "tarpit-answered", "tarpit-swallowed"].map(|r| pen.count(r));
            for (before, after) in before.iter().zip(after) {
                assert!(after > *before, "{plane} {mode:?} {address}: {after:?}");
            }
        }
        // Nobody has these either, but the list does not name them.
        for address in trapped(&["10.77.0.224", "fd77::e0"]) {
            assert_eq!(visit(&lab, address), "nobody", "{plane} {mode:?} {address}");
        }
        let theirs = Some(Station::backend(1).mac().to_string());
        for address in trapped(&["10.77.0.210", "10.77.0.240"]) {
            assert_eq!(
                visit(&lab, address),
                "refused",
                "{plane} {mode:?} {address}"
            );
            assert_eq!(mac(&lab, address), theirs, "{plane} {mode:?} {address}");
        }
        // Services go on beside it.
        for vip in lab.vips() {
            let url = format!("http://{}/", lab::host_port(vip, 80));
            let answer = fetch_within(Duration::from_secs(5), lab.client(), &url);
            assert!(answer.unwrap().starts_with("be"), "{plane} {mode:?} {vip}");
        }
        pen.stop(&lab, lab.balancer());
    }
}

#[test]
fn the_tarpit_takes_nobodys_address() {
    if !lab::ready("the_tarpit_takes_nobodys_address") {
        return;
    }
    for plane in ["af_xdp", "xdp"] {
        let lab = Lab::builder().backends(1).build().unwrap();
        let top = format!("plane = \"{plane}\"\ntarpit_acl = 5\n");
        let pen = Pen::start(&lab, &top, &with_tarpit(&lab));
        // A host that looks whether an address is free finds it so.
        lab.backend(0).ip("addr add fd77::d5/64 dev eth0").unwrap();
        let shown = || lab.backend(0).ip("-6 addr show dev eth0").unwrap().stdout;
        wait_for("the end of the search for duplicates", || {
            !shown().contains("tentative")
        });
        assert!(!shown().contains("dadfailed"), "{plane}: {}", shown());
        // What this host has itself is its own, from the moment when it has it.
        for address in trapped(&OWN) {
            assert_eq!(visit(&lab, address), "hangs", "{plane} {address}");
        }
        for (add, address) in [("24", OWN[0]), ("64 nodad", OWN[1])] {
            lab.balancer()
                .ip(&format!("addr add {address}/{add} dev eth0"))
                .unwrap();
        }
        for address in trapped(&OWN) {
            wait_for("a refusal by the kernel", || {
                visit(&lab, address) == "refused"
            });
        }
        // So is a gateway's, which came by a route.
        lab.balancer()
            .ip("route add 198.51.100.0/24 via 10.77.0.212")
            .unwrap();
        pen.change("acl 5 permit 10.77.0.250");
        for (address, seen) in [("10.77.0.250", "hangs"), ("10.77.0.212", "nobody")] {
            let address = address.parse().unwrap();
            assert_eq!(visit(&lab, address), seen, "{plane} {address}");
        }
        // A change that would take somebody's is refused whole.
        for wrong in ["acl 5 permit all", "acl 5 permit 10.77.0.11"] {
            let refused = pen.ask(wrong);
            let why = refused.refusal.unwrap_or_default();
            assert!(why.contains("would answer for"), "{wrong}: {why}");
        }
        pen.change("no tarpit_acl");
        assert_eq!(pen.ask("tarpit_acl").value, Some("-1".into()));
        forget(&lab);
        for address in trapped(&TRAPPED) {
            assert_eq!(visit(&lab, address), "nobody", "{plane} {address}");
        }
        // An empty list traps nobody.
        pen.change("no acl 5");
        pen.change("tarpit_acl 5");
        assert_eq!(visit(&lab, trapped(&TRAPPED)[0]), "nobody", "{plane}");
    }
}

#[test]
fn a_gateway_in_the_list_is_told_before_anything_starts() {
    if !lab::ready("a_gateway_in_the_list_is_told_before_anything_starts") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let config = lab.folder().join("pen.toml");
    let services = with_tarpit(&lab);
    let text = format!("interface = \"eth0\"\nforeground = true\ntarpit_acl = 5\n{services}");
    fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let check = ["--check", "--config", &config];
    let (code, said) = refused(&lab, &check);
    assert_eq!(code, Some(0), "{said}");
    lab.balancer()
        .ip("route add default via 10.77.0.209")
        .unwrap();
    for words in [&check[..], &check[1..]] {
        let (code, said) = refused(&lab, words);
        assert_eq!(code, Some(2), "{words:?}: {said}");
        assert!(said.contains("acl 5 deny 10.77.0.209"), "{said}");
    }
}
