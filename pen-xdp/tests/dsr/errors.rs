//! ICMP errors about a flow reach that flow's back end, and no other: without them a back end
//! never learns that its frames are too large for the path.

use std::{net::IpAddr, time::Duration};

use lab::{Capture, Lab, Peer, Station, send_frames};
use pen_common::{
    tables::Mac,
    testing::{v4, v6},
};

use crate::rig::{Pen, answerers, service};

const BACKENDS: usize = 3;
/// Client ports; by chance all of them go right once in 3^10 times.
const FLOWS: std::ops::Range<u16> = 21_000..21_010;
/// MTU of the path that the errors speak of.
const PATH_MTU: u32 = 1300;

/// "Too big", as a router on the way would say it of what the back end sent from `vip`, port 5353,
/// to this port of the client.
fn too_big(vip: IpAddr, port: u16) -> Vec<u8> {
    let (client, balancer) = (Station::client(), Station::balancer(0));
    let payload = [b'x'; 1_400];
    let error = match vip {
        IpAddr::V4(vip) => {
            let quoted = v4(vip, client.v4()).udp(5353, port, &payload).packet();
            // Destination unreachable, fragmentation needed: the header and 8 bytes (RFC 792).
            v4(client.v4(), vip).icmp(3, 4, PATH_MTU, &quoted[..28])
        }
        IpAddr::V6(vip) => {
            let quoted = v6(vip, client.v6()).udp(5353, port, &payload).packet();
            // Packet too big: as much as fits into the least MTU (RFC 4443).
            v6(client.v6(), vip).icmp(2, 0, PATH_MTU, &quoted[..1_200])
        }
    };
    let (to, from) = (Mac::new(balancer.mac().0), Mac::new(client.mac().0));
    error.to(to).from(from).frame()
}

/// Where the quoted packet's destination port stands: behind Ethernet, IP, ICMP, quoted IP header
/// and source port.
fn quoted_port(vip: IpAddr, frame: &[u8]) -> u16 {
    let at =
        14 + if vip.is_ipv4() {
            20 + 8 + 20
        } else {
            40 + 8 + 40
        } + 2;
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[test]
fn an_icmp_error_reaches_its_flows_back_end_alone() {
    if !lab::ready("an_icmp_error_reaches_its_flows_back_end_alone") {
        return;
    }
    for plane in ["af_xdp", "xdp", "af_packet"] {
        let lab = Lab::builder().backends(BACKENDS).build().unwrap();
        let _echoes: Vec<Peer> = (0..BACKENDS)
            .map(|index| Peer::udp(&lab, index, 5353).unwrap())
            .collect();
        let top = format!("plane = \"{plane}\"\n");
        let pen = Pen::start(&lab, &top, &service(&lab, &["5353/udp"], BACKENDS));
        for vip in lab.vips() {
            assert_errors_follow(&lab, &pen, plane, vip);
        }
        assert_eq!(pen.status().dsr().plane.actual.to_string(), plane);
    }
}

fn assert_errors_follow(lab: &Lab, pen: &Pen, plane: &str, vip: IpAddr) {
    let owners = answerers(lab, vip, FLOWS);
    // What the bridge has not learnt it floods; the flows above taught it every MAC.
    let filter = match vip {
        IpAddr::V4(vip) => format!("icmp[0] == 3 and dst host {vip}"),
        IpAddr::V6(vip) => format!("icmp6 and ip6[40] == 2 and dst host {vip}"),
    };
    let captures: Vec<Capture> = lab
        .backends()
        .iter()
        .map(|backend| Capture::start(backend, "eth0", &filter).unwrap())
        .collect();
    let counts = |pen: &Pen| (pen.count("forwarded"), pen.count("redirected"));
    let before = counts(pen);
    let sent: Vec<Vec<u8>> = FLOWS.map(|port| too_big(vip, port)).collect();
    send_frames(lab.client(), "eth0", &sent).unwrap();
    let mut arrived = 0;
    for (index, capture) in captures.into_iter().enumerate() {
        let name = format!("be{index}");
        let wanted: Vec<u16> = FLOWS
            .zip(&owners)
            .filter_map(|(port, owner)| (*owner == name).then_some(port))
            .collect();
        capture
            .wait_for(wanted.len(), Duration::from_secs(5))
            .unwrap();
        let frames = capture.stop().unwrap();
        let mut ports: Vec<u16> = frames.iter().map(|f| quoted_port(vip, f)).collect();
        ports.sort_unstable();
        assert_eq!(ports, wanted, "{plane} {vip}: what came to {name}");
        for frame in &frames {
            let original = too_big(vip, quoted_port(vip, frame));
            assert_eq!(frame[..6], Station::backend(index).mac().0, "{plane} {vip}");
            assert_eq!(
                frame[12..],
                original[12..],
                "{plane} {vip}: changed on the way"
            );
        }
        arrived += frames.len() as u64;
    }
    let after = counts(pen);
    let (forwarded, redirected) = (after.0 - before.0, after.1 - before.1);
    assert_eq!((forwarded, arrived), (10, 10), "{plane} {vip}");
    let by_workers = if plane == "af_xdp" { 10 } else { 0 };
    assert_eq!(redirected, by_workers, "{plane} {vip}");
}
