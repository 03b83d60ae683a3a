//! The keeper of a data plane, asked by whoever has taken over the process that serves: it touches its
//! own interface, and that one in bounds.

use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Duration,
};

use lab::{Lab, Signal};
use pen::{
    announce::Announced,
    keeper::request::{Answer, OfInterface, Request, receive, send},
    neighbor::Order,
    nic::Wanted,
};
use pen_common::control::{Degraded, ServedBy};
use socket2::SockRef;

use crate::{
    queues::{served, set},
    rig::{Pen, START, service},
    stolen::{Way, serving},
    user::{UDP, all_answer, echoes, top},
};

const DENIED: &str = "Operation not permitted";

fn refused(way: &Way, request: OfInterface, beside: Option<BorrowedFd<'_>>, why: &str) {
    let request = Request::Interface(request);
    let told = way.refused(&request, beside.as_slice());
    assert!(told.contains(why), "{request:?}: {told}");
}

fn done(way: &Way, request: OfInterface) {
    let (answer, _) = way.ask(&Request::Interface(request.clone()));
    let done = matches!(
        answer,
        Answer::Done | Answer::Set { .. } | Answer::Memory { .. }
    );
    assert!(done, "{request:?}: {answer:?}");
}

#[test]
fn a_keeper_touches_its_interface_and_no_other() {
    if !lab::ready("a_keeper_touches_its_interface_and_no_other") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let _echoes = echoes(&lab);
    let machine = lab.balancer();
    machine
        .ip("link add other type veth peer name its-peer")
        .unwrap();
    machine.ip("link set other up").unwrap();
    let foreign = "10.77.0.99";
    let line = format!("neigh add {foreign} lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    machine.ip(&line).unwrap();
    let index = |name: &str| -> u32 {
        let shown = machine.ip(&format!("-o link show {name}")).unwrap().stdout;
        shown.split(':').next().unwrap().parse().unwrap()
    };
    let pen = Pen::start(&lab, &top("af_xdp"), &service(&lab, UDP, 2));
    let way = Way::to(pen.process.id());
    way.hold();
    let own = index("eth0");
    let make = Order::Make { managed: true };
    let neighbor = |ifindex: u32, address: &str, order| OfInterface::Neighbor {
        ifindex,
        address: address.parse().unwrap(),
        order,
    };
    for (ifindex, why) in [
        (index("other"), DENIED),
        (index("lo"), DENIED),
        (9_999, "No such device"),
    ] {
        refused(&way, neighbor(ifindex, "10.77.0.50", make), None, why);
    }
    // What is somebody else's on its own.
    for order in [make, Order::Probe, Order::Unmanage, Order::Delete] {
        refused(&way, neighbor(own, foreign, order), None, DENIED);
    }
    let entry = machine.ip(&format!("neigh show {foreign}")).unwrap().stdout;
    assert!(entry.contains("PERMANENT"), "{entry}");
    done(&way, neighbor(own, "10.77.0.50", make));
    done(&way, neighbor(own, "10.77.0.50", Order::Delete));
    way.let_go();
    all_answer(&lab, 2);
    pen.stop(&lab, lab.balancer());
}

#[test]
fn a_keeper_does_what_a_data_plane_needs_in_bounds() {
    if !lab::ready("a_keeper_does_what_a_data_plane_needs_in_bounds") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let _echoes = echoes(&lab);
    let pen = Pen::start(&lab, &top("af_xdp"), &service(&lab, UDP, 2));
    let way = Way::to(pen.process.id());
    way.hold();
    let file = File::open("/dev/null").unwrap();
    let tcp = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (file, tcp) = (file.as_fd(), tcp.as_fd());
    let none = "no descriptor beside the request";
    let no_map = "can't be put in its map";
    let no_socket = "Socket operation on non-socket";
    for (request, beside, why) in [
        (OfInterface::SetSocket(0), Some(file), no_map),
        (OfInterface::SetSocket(u32::MAX), Some(tcp), no_map),
        (OfInterface::SetSocket(0), None, none),
        (OfInterface::BusyPoll, Some(tcp), DENIED),
        (OfInterface::BusyPoll, Some(file), no_socket),
        (OfInterface::BusyPoll, None, none),
    ] {
        refused(&way, request, beside, why);
    }
    // Calls for sockets come by the one way that is there.
    for (request, why) in [
        (Request::Sockets, "sockets are handed out already"),
        (Request::Claim, "the interface is claimed already"),
    ] {
        let told = way.refused(&request, &[file]);
        assert!(told.contains(why), "{request:?}: {told}");
    }
    let memory = |slot_bytes, workers| OfInterface::Memory {
        fresh: true,
        slot_bytes,
        workers,
    };
    let many = (0..4_097_u32).map(|number| std::net::Ipv6Addr::from(u128::from(number)).into());
    let announced = many.clone().map(|vip| Announced { vip, vlan: None });
    let announce = |vips| OfInterface::Announce { vips, mac: [2; 6] };
    let no_packets = "the plane has no packet socket";
    for (request, why) in [
        (memory(u64::MAX, 1), "are too many"),
        (memory(1, u32::MAX), "are too many"),
        (OfInterface::Hear(many.collect()), "are too many"),
        (announce(announced.collect()), "are too many"),
        (OfInterface::PacketSocket, no_packets),
    ] {
        refused(&way, request, None, why);
    }
    let vips = lab.vips().map(|vip| Announced { vip, vlan: None });
    for request in [
        OfInterface::UnsetSocket(u32::MAX),
        OfInterface::Set(Wanted::default()),
        announce(vips.collect()),
        OfInterface::WaitForReaders,
        memory(1, 1),
    ] {
        done(&way, request);
    }
    refused(&way, memory(1, 1), None, "has had its memory");
    way.let_go();
    all_answer(&lab, 2);
    pen.stop(&lab, lab.balancer());
}

/// The last close of a socket that lingers waits for its peer; the keeper is not kept by it.
#[test]
fn a_descriptor_that_does_not_close_ends_both() {
    if !lab::ready("a_descriptor_that_does_not_close_ends_both") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let mut pen = Pen::start(&lab, &top("xdp"), &service(&lab, UDP, 1));
    let way = Way::to(pen.process.id());
    way.hold();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let _peer = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &stream, &[0; 65_536]).is_ok() {}
    SockRef::from(&stream)
        .set_linger(Some(Duration::from_secs(3_600)))
        .unwrap();
    stream.set_nonblocking(false).unwrap();
    // The keeper is to be the last one who has it.
    pen.process.signal(Signal::Stop).unwrap();
    send(&way.stream, &Request::Configuration, &[stream.as_fd()]).unwrap();
    drop(stream);
    pen.process.signal(Signal::Cont).unwrap();
    let answer = receive::<Answer>(&way.stream).unwrap().unwrap().0;
    assert_eq!(answer, Answer::Done);
    way.let_go();
    // As long as a message may take.
    pen.process.wait(START).unwrap();
    let link = lab.balancer().ip("-d link show eth0").unwrap().stdout;
    assert!(link.contains("xdp"), "the program goes on: {link}");
}

/// What fails over there fails once.
#[test]
fn a_process_that_has_no_descriptor_left_gets_sockets_later() {
    if !lab::ready("a_process_that_has_no_descriptor_left_gets_sockets_later") {
        return;
    }
    let lab = Lab::builder().backends(2).queues(4).build().unwrap();
    let _echoes = echoes(&lab);
    set(&lab, 1);
    let pen = Pen::start(&lab, &top("af_xdp"), &service(&lab, UDP, 2));
    served(&pen, 1, ServedBy::Worker);
    // As the user, who may: this root may not in a container.
    let serving = serving(pen.process.id());
    let limit = |descriptors: u32| {
        let (pid, soft) = (
            format!("--pid={serving}"),
            format!("--nofile={descriptors}:"),
        );
        let user = [
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "prlimit",
        ];
        let words = user.into_iter().chain([pid.as_str(), soft.as_str()]);
        lab.balancer().run_ok("setpriv", words).unwrap();
    };
    // Two free numbers, with which queues are counted and the control socket answers.
    let is_free = |number: &u32| !Path::new(&format!("/proc/{serving}/fd/{number}")).exists();
    let second = (0..).filter(is_free).nth(1).unwrap();
    limit(second + 1);
    set(&lab, 4);
    let changed = "4 receive and 4 transmit queues";
    pen.process.wait_for_line(changed, START).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    limit(512);
    let degraded = pen.status().degraded;
    let refused = |lack: &Degraded| lack.what.starts_with("queue ");
    assert!(degraded.iter().any(refused), "{degraded:?}");
    all_answer(&lab, 2);
    set(&lab, 2);
    served(&pen, 2, ServedBy::Worker);
    let plane = pen.status().dsr().plane.clone();
    assert_eq!(plane.actual.to_string(), "af_xdp", "{plane:?}");
    all_answer(&lab, 2);
    let said = pen.process.output();
    assert!(!said.contains("has ended"), "{said}");
    pen.stop(&lab, lab.balancer());
}
