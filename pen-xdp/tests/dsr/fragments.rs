//! Datagrams in fragments, on every plane and mode: whole and unchanged at the back end, and back.

use lab::{Lab, Peer};
use pen_common::config::{Plane, XdpMode};

use crate::rig::{Pen, service};

const WAYS: &[(Plane, Option<XdpMode>)] = &[
    (Plane::AfXdp, Some(XdpMode::Native)),
    (Plane::AfXdp, Some(XdpMode::Generic)),
    (Plane::Xdp, Some(XdpMode::Native)),
    (Plane::Xdp, Some(XdpMode::Generic)),
    (Plane::AfPacket, None),
];
/// Three frames at an MTU of 1,500.
const LENGTH: usize = 4_000;
const FRAMES: u64 = 3;
/// Datagrams to each VIP, each from a port of its own.
const DATAGRAMS: u64 = 12;

#[test]
fn a_datagram_in_fragments_comes_back_byte_for_byte() {
    if !lab::ready("a_datagram_in_fragments_comes_back_byte_for_byte") {
        return;
    }
    for &(plane, mode) in WAYS {
        let lab = Lab::builder()
            .backends(3)
            .queues(2)
            .switch_program(mode == Some(XdpMode::Native))
            .build()
            .unwrap();
        let _echoes: Vec<Peer> = (0..3).map(|i| Peer::udp(&lab, i, 5353).unwrap()).collect();
        let mode_line = mode.map_or(String::new(), |mode| format!("xdp_mode = \"{mode}\"\n"));
        let top = format!("plane = \"{plane}\"\n{mode_line}");
        let pen = Pen::start(&lab, &top, &service(&lab, &["5353/udp"], 3));
        for vip in lab.vips() {
            let said = lab
                .client()
                .run_ok("python3", ["-c", &question(&vip.to_string())])
                .unwrap()
                .stdout;
            let names: Vec<&str> = said.split_whitespace().collect();
            assert_eq!(
                names.len() as u64,
                DATAGRAMS,
                "{plane} {mode:?} {vip}: {said}"
            );
            assert!(
                names.iter().any(|name| *name != names[0]),
                "{plane}: {said}"
            );
        }
        let status = pen.status();
        assert_eq!(
            (status.dsr().plane.actual, status.dsr().xdp.mode),
            (plane, mode)
        );
        // Fragments are the program's on every plane that has one: in order, on one CPU.
        assert_eq!(
            (pen.count("forwarded"), pen.count("redirected")),
            (2 * DATAGRAMS * FRAMES, 0),
            "{plane} {mode:?}"
        );
        assert_eq!(pen.count("fragment-first-missing"), 0, "{plane} {mode:?}");
    }
}

/// Asks with a payload of which no two parts are alike, and wants to find it behind the
/// back end's words; prints who answered.
fn question(vip: &str) -> String {
    format!(
        "import random, socket\n\
         family = socket.AF_INET6 if ':' in '{vip}' else socket.AF_INET\n\
         for port in range(22000, 22000 + {DATAGRAMS}):\n\
         \x20 s = socket.socket(family, socket.SOCK_DGRAM)\n\
         \x20 s.settimeout(5)\n\
         \x20 s.bind(('', port))\n\
         \x20 sent = random.Random(port).randbytes({LENGTH})\n\
         \x20 s.sendto(sent, ('{vip}', 5353))\n\
         \x20 name, client, payload = s.recv(65535).split(b' ', 2)\n\
         \x20 assert payload == sent, (port, name, len(payload))\n\
         \x20 print(name.decode())\n"
    )
}
