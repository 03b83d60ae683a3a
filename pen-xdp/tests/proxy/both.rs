//! One process, one address: a service past the kernel and one of the proxy, side by side.

use std::{fs, time::Duration};

use lab::{Nginx, Peer, Signal, Station};
use pen_common::control::{Envelope, Status};

use crate::rig::{lab, wait_for};

#[test]
fn dsr_and_proxy_share_a_vip_under_load() {
    if !lab::ready("dsr_and_proxy_share_a_vip_under_load") {
        return;
    }
    let lab = lab(3);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let _udp: Vec<_> = (0..3)
        .map(|at| Peer::udp(&lab, at, 5353).unwrap())
        .collect();
    // The proxy's clients are the kernel's: it must have the address.
    let vip = Station::vip(0);
    let machine = lab.balancer();
    machine
        .ip(&format!("addr add {}/24 dev eth0", vip.v4()))
        .unwrap();
    let folder = lab.folder().join("pen");
    fs::create_dir_all(&folder).unwrap();
    let (control, config) = (folder.join("control"), folder.join("pen.toml"));
    let backends: Vec<String> = (0..3)
        .map(|at| format!("\"{}\"", Station::backend(at).v4()))
        .collect();
    let text = format!(
        "interface = \"eth0\"\nforeground = true\ncontrol = {control:?}\nbpffs = {:?}\nrun_dir = {:?}\n\
         [[service]]\nname = \"past\"\nlisten = \"{vip}/udp\"\npool = \"web\"\n\
         [[service]]\nname = \"web\"\nmode = \"tcp\"\nlisten = \"{vip}:80\"\nbalance = \"roundrobin\"\n\
         [[pool]]\nname = \"web\"\nbackend = [{}]\n",
        lab.bpffs(),
        folder.join("run"),
        backends.join(", "),
        vip = vip.v4(),
    );
    fs::write(&config, text).unwrap();
    let words = ["--config".as_ref(), config.as_os_str()];
    let mut pen = machine.spawn(env!("CARGO_BIN_EXE_pen"), words).unwrap();
    pen.wait_for_line("serving", Duration::from_secs(15))
        .unwrap();
    let load = lab::Load {
        to: (vip.v4(), 5353).into(),
        flows: 16,
        count: 4000,
        rate: 2000,
        tcp: false,
    };
    let running = load.spawn(lab.client()).unwrap();
    let url = format!("http://{}/", vip.v4());
    let ab = lab
        .client()
        .run_ok("ab", ["-q", "-c", "10", "-n", "5000", &url])
        .unwrap();
    assert!(
        ab.stdout.contains("Failed requests:        0"),
        "{}",
        ab.stdout
    );
    let tally = load.finish(running).unwrap();
    assert_eq!((tally.answered, tally.strayed), (4000, 0));
    let mut status = None;
    wait_for("the proxy's clients to leave", || {
        let answer = crate::rig::say(&control, "json status");
        let answer: Envelope = serde_json::from_str(&answer).unwrap();
        let now: Status = serde_json::from_value(answer.value.unwrap()).unwrap();
        let idle = now.proxy[0].connections == 0;
        status = Some(now);
        idle
    });
    let status = status.unwrap();
    let frames: u64 = status.dsr().pools[0]
        .backends
        .iter()
        .map(|b| b.frames)
        .sum();
    assert!(frames >= 4000, "{frames} frames went past the kernel");
    let connects: Vec<u64> = status.proxy[0].servers.iter().map(|s| s.connects).collect();
    assert_eq!(connects.iter().sum::<u64>(), 5000, "{connects:?}");
    assert!(
        connects.iter().all(|count| (1666..=1668).contains(count)),
        "{connects:?}"
    );
    let ended = pen.stop(Signal::Term, Duration::from_secs(15)).unwrap();
    assert!(ended.success(), "{}", pen.output());
    assert!(!control.exists());
    let link = machine
        .run_ok("ip", ["-d", "link", "show", "eth0"])
        .unwrap();
    assert!(!link.stdout.contains("xdp"), "{}", link.stdout);
}
