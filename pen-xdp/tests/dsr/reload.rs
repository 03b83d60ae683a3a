//! The configuration read again under load: flows of what stays do not move, new back ends and VIPs
//! are there at once, and a restart that keeps forwarding loses nothing.

use std::{fs, net::SocketAddr, path::PathBuf, thread, time::Duration};

use lab::{Lab, Load, Namespace, Peer, Process, Signal, Station};
use pen_common::control::Plan;

use crate::rig::{Pen, assert_nothing_left, service};

const PORT: u16 = 5353;
const LIMIT: Duration = Duration::from_secs(30);

fn file(lab: &Lab) -> PathBuf {
    lab.folder().join("pen0").join("pen.toml")
}

/// Writes other services into Pen's file, below what stands at its top.
pub(crate) fn write(lab: &Lab, services: &str) {
    let path = file(lab);
    let text = fs::read_to_string(&path).unwrap();
    let top = text.split("[[service]]").next().unwrap();
    fs::write(&path, format!("{top}{services}")).unwrap();
}

fn servers(lab: &Lab) -> Vec<Peer> {
    let all = 0..lab.backends().len();
    all.map(|index| Peer::udp(lab, index, PORT).unwrap())
        .collect()
}

fn loads(lab: &Lab) -> Vec<(Load, Process)> {
    let all = lab.vips().map(|vip| Load {
        to: SocketAddr::new(vip, PORT),
        flows: 40,
        count: 2000,
        rate: 400,
        tcp: false,
    });
    let running: Vec<_> = all
        .map(|load| (load, load.spawn(lab.client()).unwrap()))
        .collect();
    for (_, process) in &running {
        process.wait_for_line("started", LIMIT).unwrap();
    }
    // Every flow has been asked on.
    thread::sleep(Duration::from_millis(500));
    running
}

/// All are answered, by so many back ends.
fn new_flows_go_to(lab: &Lab, backends: usize) {
    for vip in lab.vips() {
        let load = Load {
            to: SocketAddr::new(vip, PORT),
            flows: 64,
            count: 64,
            rate: 800,
            tcp: false,
        };
        let tally = load.run(lab.client()).unwrap();
        let came = (tally.answered, tally.by_backend.len());
        assert_eq!(came, (64, backends), "{tally:?}");
    }
}

pub(crate) fn in_force(pen: &Pen, nth: usize) {
    pen.process.signal(Signal::Hup).unwrap();
    let end = std::time::Instant::now() + LIMIT;
    while pen.process.output().matches("as it is written").count() < nth {
        assert!(std::time::Instant::now() < end, "{}", pen.process.output());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn flows_of_what_stays_do_not_move_when_the_file_is_read_again() {
    if !lab::ready("flows_of_what_stays_do_not_move_when_the_file_is_read_again") {
        return;
    }
    let lab = Lab::builder().backends(4).vips(2).build().unwrap();
    let _servers = servers(&lab);
    let pen = Pen::start(&lab, "", &service(&lab, &["5353/udp"], 3));
    let load = loads(&lab);
    // A back end more, whose MAC address nobody knew, and a port more of each VIP.
    let more = service(&lab, &["5353/udp", "80/tcp"], 4);
    write(&lab, &more);
    in_force(&pen, 1);
    let pools = pen.status().dsr().pools.clone();
    assert_eq!(pools[0].backends.len(), 4);
    assert!(
        pools[0].backends.iter().all(|backend| backend.slots > 0),
        "{pools:?}"
    );
    for (load, process) in load {
        let tally = load.finish(process).unwrap();
        assert_eq!(
            (tally.answered, tally.strayed),
            (load.count, 0),
            "{tally:?}"
        );
        assert_eq!(tally.by_backend.len(), 3, "{tally:?}");
    }
    // New flows go to all four.
    new_flows_go_to(&lab, 4);
    // What it would cost to go back is told, and nothing done.
    let text = fs::read_to_string(file(&lab)).unwrap();
    let less =
        text.split("[[service]]").next().unwrap().to_owned() + &service(&lab, &["5353/udp"], 3);
    let command = format!("plan toml {}\n{less}", less.len());
    let plan: Plan = serde_json::from_value(pen.ask(&command).value.unwrap()).unwrap();
    let gone = format!("server {} of web: gone", Station::backend(3).v4());
    assert!(plan.changes.contains(&gone), "{plan:?}");
    assert_eq!(plan.closes.len(), lab.vips().count(), "{plan:?}");
    let pool = &plan.pools[0];
    // A quarter of the slots, and little more.
    let quarter = f64::from(pool.slots) / 4.0;
    let moved = f64::from(pool.slots_moved);
    assert!(moved > quarter * 0.95 && moved < quarter * 1.3, "{pool:?}");
    assert!(
        pool.flows_moved > 0 && pool.flows_moved < pool.flows,
        "{pool:?}"
    );
    assert_eq!(pen.status().dsr().pools[0].backends.len(), 4);

    // It is gone with the reply.
    write(&lab, &service(&lab, &["5353/udp"], 3));
    in_force(&pen, 2);
    new_flows_go_to(&lab, 3);
    pen.stop(&lab, lab.balancer());
}

fn program_is_attached(machine: &Namespace) -> bool {
    let link = machine
        .run_ok("ip", ["-d", "link", "show", "eth0"])
        .unwrap();
    link.stdout.contains("xdp")
}

#[test]
fn a_restart_that_keeps_forwarding_loses_nothing() {
    if !lab::ready("a_restart_that_keeps_forwarding_loses_nothing") {
        return;
    }
    let lab = Lab::builder().backends(3).vips(2).build().unwrap();
    let _servers = servers(&lab);
    let services = service(&lab, &["5353/udp"], 3);
    let top = "on_stop = \"keep\"";
    let mut pen = Pen::start(&lab, top, &services);
    let load = loads(&lab);
    let status = pen.process.stop(Signal::Term, LIMIT).unwrap();
    assert!(status.success(), "{}", pen.process.output());
    assert!(program_is_attached(lab.balancer()));
    assert!(!pen.control.exists() && !pen.pid_file.exists());
    thread::sleep(Duration::from_millis(300));
    let mut pen = Pen::start(&lab, top, &services);
    for (load, process) in load {
        let tally = load.finish(process).unwrap();
        assert_eq!(
            (tally.answered, tally.strayed),
            (load.count, 0),
            "{tally:?}"
        );
    }
    // By this word it ends whatever the file says.
    assert!(pen.ask("stop").ok);
    assert!(pen.process.wait(LIMIT).unwrap().success());
    assert_nothing_left(&lab, lab.balancer());
}
