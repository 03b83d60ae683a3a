//! A host name whose addresses change: flows go to those that it stands for.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use lab::{Lab, Peer, Station};
use pen_common::control::{BackendState, BackendStatus};

use crate::rig::{Pen, answerers, service};

const NAME: &str = "echo.example";

/// By number: address and state of each back end.
fn wait_for(pen: &Pen, expected: &[(usize, BackendState)]) {
    let end = Instant::now() + Duration::from_secs(15);
    let wanted: Vec<_> = expected
        .iter()
        .map(|(index, state)| (Station::backend(*index).v4().into(), *state))
        .collect();
    loop {
        let status = pen.status();
        let backends = &status.dsr().pools[0].backends;
        let row = |b: &BackendStatus| (b.address, b.state);
        let seen: Vec<(std::net::IpAddr, BackendState)> = backends.iter().map(row).collect();
        if seen == wanted {
            return;
        }
        assert!(Instant::now() < end, "{seen:?} instead of {wanted:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn flows_go_to_those_that_a_name_stands_for() {
    if !lab::ready("flows_go_to_those_that_a_name_stands_for") {
        return;
    }
    let lab = Lab::builder().backends(3).build().unwrap();
    let _echoes: Vec<Peer> = (0..3).map(|i| Peer::udp(&lab, i, 5353).unwrap()).collect();
    let hosts = lab.folder().join("hosts");
    let say = |indices: &[usize]| {
        let line = |index: &usize| format!("{} {NAME}\n", Station::backend(*index).v4());
        // In place: what is mounted is this very file.
        fs::write(&hosts, indices.iter().map(line).collect::<String>()).unwrap();
    };
    say(&[1, 0]);
    let none = service(&lab, &["5353/udp"], 0);
    let services = none.replace("[]", &format!("[{NAME:?}]"));
    let pen = Pen::start_with(&lab, &hosts, "/etc/hosts", &services);
    use BackendState::{Gone, Up};
    wait_for(&pen, &[(0, Up), (1, Up)]);
    let vip = lab.vips().next().unwrap();
    let who = |ports| {
        let mut all = answerers(&lab, vip, ports);
        all.sort();
        all.dedup();
        all
    };
    assert_eq!(who(40000..40040), ["be0", "be1"]);
    let before = answerers(&lab, vip, 40000..40040);

    // One goes: its flows stay, new ones avoid it.
    say(&[1]);
    pen.change("resolve");
    wait_for(&pen, &[(0, Gone), (1, Up)]);
    assert_eq!(answerers(&lab, vip, 40000..40040), before);
    assert_eq!(who(41000..41040), ["be1"]);

    // Another one comes, takes the number that is free, and is found on the segment.
    say(&[2, 1]);
    pen.change("resolve");
    wait_for(&pen, &[(2, Up), (1, Up)]);
    assert_eq!(who(42000..42040), ["be1", "be2"]);
    let names: Vec<_> = pen.status().dsr().pools[0]
        .backends
        .iter()
        .map(|b| b.name.clone())
        .collect();
    assert_eq!(
        names,
        [
            NAME.to_owned(),
            format!("{NAME}/{}", Station::backend(1).v4())
        ]
    );
    // Who was watched for it alone is no longer.
    let neighbors = lab.balancer().ip("neigh show dev eth0").unwrap().stdout;
    let left = format!("{} ", Station::backend(0).v4());
    let mut left = neighbors.lines().filter(|line| line.starts_with(&left));
    assert!(!left.any(|line| line.contains("managed")), "{neighbors}");
    pen.stop(&lab, lab.balancer());
}
