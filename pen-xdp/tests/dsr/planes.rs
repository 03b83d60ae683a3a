//! Every plane and mode carries real TCP and UDP of both families, and the counters say that it
//! was this plane, this mode and this queue that did. A fall-back is a failure.

use std::{collections::BTreeSet, net::SocketAddr};

use lab::{Lab, Load, Nginx, Offloads, Peer};
use pen_common::{
    config::{Plane, XdpMode},
    control::{ServedBy, Status},
};

use crate::rig::{Pen, service};

/// One way to forward.
#[derive(Debug, Clone, Copy)]
struct Way {
    plane: Plane,
    mode: Option<XdpMode>,
    queues: u32,
    offloads: Offloads,
}

const fn way(plane: Plane, mode: Option<XdpMode>, queues: u32, offloads: Offloads) -> Way {
    Way {
        plane,
        mode,
        queues,
        offloads,
    }
}

const NATIVE: Option<XdpMode> = Some(XdpMode::Native);
const GENERIC: Option<XdpMode> = Some(XdpMode::Generic);

/// Every pair of plane, mode, queue count and offload setting stands in one of these.
const PAIRS: &[Way] = &[
    way(Plane::AfXdp, NATIVE, 1, Offloads::AsKernelSets),
    way(Plane::AfXdp, NATIVE, 4, Offloads::BackendPortTxOff),
    way(Plane::AfXdp, GENERIC, 4, Offloads::AsKernelSets),
    way(Plane::AfXdp, GENERIC, 1, Offloads::BackendPortTxOff),
    way(Plane::Xdp, NATIVE, 4, Offloads::AsKernelSets),
    way(Plane::Xdp, NATIVE, 1, Offloads::BackendPortTxOff),
    way(Plane::Xdp, GENERIC, 1, Offloads::AsKernelSets),
    way(Plane::Xdp, GENERIC, 4, Offloads::BackendPortTxOff),
    way(Plane::AfPacket, None, 1, Offloads::AsKernelSets),
    way(Plane::AfPacket, None, 4, Offloads::BackendPortTxOff),
];

fn all_ways() -> Vec<Way> {
    if std::env::var_os("PEN_TEST_ALL").is_none() {
        return PAIRS.to_vec();
    }
    let mut ways = Vec::new();
    for (plane, modes) in [
        (Plane::AfXdp, &[NATIVE, GENERIC][..]),
        (Plane::Xdp, &[NATIVE, GENERIC][..]),
        (Plane::AfPacket, &[None][..]),
    ] {
        for mode in modes {
            for queues in [1, 4] {
                for offloads in [Offloads::AsKernelSets, Offloads::BackendPortTxOff] {
                    ways.push(way(plane, *mode, queues, offloads));
                }
            }
        }
    }
    ways
}

#[test]
fn tcp_and_udp_through_every_plane() {
    if !lab::ready("tcp_and_udp_through_every_plane") {
        return;
    }
    for way in all_ways() {
        println!("{way:?}");
        carry(way);
    }
}

fn carry(way: Way) {
    // A program on the switch's port keeps TSO frames from a generic one.
    let generic = way.mode != NATIVE;
    let lab = Lab::builder()
        .backends(3)
        .queues(way.queues)
        .offloads(way.offloads)
        .switch_program(!generic)
        .build()
        .unwrap();
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let _echo: Vec<Peer> = (0..3)
        .map(|index| Peer::udp(&lab, index, 5353).unwrap())
        .collect();
    let mode = way
        .mode
        .map(|mode| format!("xdp_mode = \"{mode}\"\n"))
        .unwrap_or_default();
    let top = format!("plane = \"{}\"\n{mode}", way.plane);
    let pen = Pen::start(&lab, &top, &service(&lab, &["80/tcp", "5353/udp"], 3));
    for vip in lab.vips() {
        let answered: BTreeSet<String> = (0..20)
            .map(|_| lab::fetch(lab.client(), vip, 80, "/").unwrap())
            .map(|page| page.split(' ').next().unwrap_or_default().to_owned())
            .collect();
        assert!(answered.len() > 1, "{way:?} {vip}: all from {answered:?}");
        let load = Load {
            to: SocketAddr::new(vip, 5353),
            flows: 40,
            count: 400,
            rate: 2000,
            tcp: false,
        };
        let tally = load.run(lab.client()).unwrap();
        assert_eq!(
            (tally.sent, tally.answered, tally.strayed),
            (400, 400, 0),
            "{way:?} {vip}"
        );
        assert!(tally.by_backend.len() == 3, "{way:?} {vip}: {tally:?}");
        assert!(
            lab::download_is_intact(&lab, vip, 80).unwrap(),
            "{way:?} {vip}"
        );
    }
    let status = pen.settled();
    assert_way(way, &status);
    assert_no_drops(way, &status);
    let machine = &lab.balancers()[0];
    pen.stop(&lab, machine);
}

fn count(status: &Status, reason: &str) -> u64 {
    status
        .dsr()
        .counters
        .iter()
        .find(|counter| counter.reason == reason)
        .unwrap()
        .count
}

/// The counters name the plane, the mode and the queues.
fn assert_way(way: Way, status: &Status) {
    assert_eq!(
        status.dsr().plane.actual,
        way.plane,
        "{way:?}: {:?}",
        status.dsr().plane
    );
    assert_eq!(
        status.dsr().xdp.mode,
        way.mode,
        "{way:?}: {:?}",
        status.dsr().xdp
    );
    let forwarded = count(status, "forwarded");
    let redirected = count(status, "redirected");
    assert!(forwarded > 1000, "{way:?}: {forwarded}");
    let by_backends: u64 = status
        .dsr()
        .pools
        .iter()
        .flat_map(|pool| &pool.backends)
        .map(|backend| backend.frames)
        .sum();
    assert_eq!(by_backends, forwarded, "{way:?}");
    match way.plane {
        // TSO frames in generic mode are the program's.
        Plane::AfXdp if way.mode == GENERIC => assert!(redirected > 1000, "{way:?}"),
        Plane::AfXdp => assert_eq!(redirected, forwarded, "{way:?}"),
        Plane::Auto | Plane::Xdp | Plane::AfPacket => assert_eq!(redirected, 0, "{way:?}"),
    }
    let served = match way.plane {
        Plane::AfXdp | Plane::AfPacket => ServedBy::Worker,
        Plane::Auto | Plane::Xdp => ServedBy::Program,
    };
    let queues = if way.plane == Plane::AfPacket {
        1
    } else {
        way.queues
    };
    assert_eq!(status.dsr().queues.len() as u32, queues, "{way:?}");
    let budget = send_budget(way, status);
    for queue in &status.dsr().queues {
        assert_eq!(queue.tx_budget, budget, "{way:?}: {queue:?}");
        assert_eq!(queue.served_by, served, "{way:?}: {queue:?}");
        if served == ServedBy::Worker {
            let frames = queue.frames.unwrap();
            assert!(frames.adds_up(), "{way:?}: {queue:?}");
        }
    }
}

/// Frames that a socket may send at once: a kernel that grants none (before 6.17) is named.
fn send_budget(way: Way, status: &Status) -> Option<u32> {
    let refused = status
        .degraded
        .iter()
        .any(|lack| lack.what == "send-budget");
    (way.plane == Plane::AfXdp && !refused).then_some(256)
}

fn assert_no_drops(way: Way, status: &Status) {
    for counter in &status.dsr().counters {
        let reason = pen_common::verdict::Reason::ALL
            .iter()
            .find(|reason| reason.label() == counter.reason)
            .unwrap();
        if reason.fate() == pen_common::verdict::Fate::Drop {
            assert_eq!(counter.count, 0, "{way:?}: {counter:?}");
        }
    }
}

/// A control group in which no more than `tasks` tasks may be; `None` where there is none to be had.
struct FewTasks(std::path::PathBuf);

impl FewTasks {
    fn new(tasks: u32) -> Option<Self> {
        let name = format!("pen-test-{}", std::process::id());
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        roots.iter().find_map(|root| {
            let group = std::path::Path::new(root).join(&name);
            std::fs::create_dir(&group).ok()?;
            let group = Self(group);
            let limit = group.0.join("pids.max");
            let limited = limit.exists() && std::fs::write(limit, tasks.to_string()).is_ok();
            limited.then_some(group)
        })
    }

    fn hold(&self, process: u32) {
        std::fs::write(self.0.join("cgroup.procs"), process.to_string()).unwrap();
    }
}

impl Drop for FewTasks {
    fn drop(&mut self) {
        let _in_use = std::fs::remove_dir(&self.0);
    }
}

/// Sockets are open and one worker runs, but the second one gets no thread.
#[test]
fn workers_that_fail_half_way_leave_every_queue_to_the_program() {
    let name = "workers_that_fail_half_way_leave_every_queue_to_the_program";
    if !lab::ready(name) {
        return;
    }
    let Some(few) = FewTasks::new(2) else {
        return lab::skip(name, "a control group that limits the number of tasks");
    };
    let lab = Lab::builder().backends(1).queues(2).build().unwrap();
    let _echo = Peer::udp(&lab, 0, 5353).unwrap();
    // Nobody has the second back end's address, so there is time to take hold of the daemon.
    let services = service(&lab, &["5353/udp"], 2);
    let pen = Pen::launch(
        &lab,
        (0, "eth0"),
        "plane = \"auto\"\nbusy = \"always\"\nworkers = 2\n",
        &services,
    );
    let end = std::time::Instant::now() + crate::rig::START;
    // The socket has this name until it is answered.
    let starting = pen.control.with_extension("starting");
    while !starting.exists() {
        assert!(std::time::Instant::now() < end, "{}", pen.process.output());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    few.hold(pen.process.id());
    let pen = pen.ready();
    let status = pen.status();
    let why = &status.dsr().plane.rungs[0].why;
    assert!(why.contains("no thread for worker 1"), "{why}");
    assert_eq!(status.dsr().plane.actual, Plane::Xdp);
    for queue in &status.dsr().queues {
        assert_eq!(queue.served_by, ServedBy::Program, "{queue:?}");
        assert_eq!((queue.worker, queue.zero_copy), (None, false), "{queue:?}");
    }
    let interrupts = status
        .dsr()
        .nic_changes
        .iter()
        .find(|change| change.what == "gro_flush_timeout");
    assert!(interrupts.is_none(), "{interrupts:?}");
    let load = Load {
        to: SocketAddr::new(lab.vips().next().unwrap(), 5353),
        flows: 20,
        count: 500,
        rate: 1000,
        tcp: false,
    };
    let tally = load.run(lab.client()).unwrap();
    assert_eq!(tally.answered, tally.sent, "{tally:?}");
    assert_eq!(pen.count("redirected"), 0);
    pen.stop(&lab, lab.balancer());
}
