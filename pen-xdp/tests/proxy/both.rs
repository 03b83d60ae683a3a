//! One process, one address: a service past the kernel and one of the proxy, side by side.

use std::{fs, path::PathBuf, time::Duration};

use lab::{Lab, Namespace, Nginx, Peer, Process, Signal, Station};
use pen_common::control::{Envelope, Status};

use crate::rig::{lab, wait_for};

/// Pen with a service in DSR and one of the proxy.
struct Both {
    process: Process,
    control: PathBuf,
}

impl Both {
    /// `past` is what the service in DSR listens on; the proxy listens on port 80 of the VIP.
    fn start(lab: &Lab, past: &str) -> Self {
        let folder = lab.folder().join("pen");
        fs::create_dir_all(&folder).unwrap();
        let (control, config) = (folder.join("control"), folder.join("pen.toml"));
        let count = lab.backends().len();
        let backends: Vec<String> = (0..count)
            .map(|at| format!("\"{}\"", Station::backend(at).v4()))
            .collect();
        let text = format!(
            "interface = \"eth0\"\nforeground = true\ncontrol = {control:?}\nbpffs = {:?}\n\
             run_dir = {:?}\n\
             [[service]]\nname = \"past\"\nlisten = \"{past}\"\npool = \"web\"\n\
             [[service]]\nname = \"web\"\nmode = \"tcp\"\nlisten = \"{vip}:80\"\n\
             balance = \"roundrobin\"\n\
             [[pool]]\nname = \"web\"\nbackend = [{}]\n",
            lab.bpffs(),
            folder.join("run"),
            backends.join(", "),
            vip = Station::vip(0).v4(),
        );
        fs::write(&config, text).unwrap();
        let words = ["--config".as_ref(), config.as_os_str()];
        let machine = lab.balancer();
        let process = machine.spawn(env!("CARGO_BIN_EXE_pen"), words).unwrap();
        process
            .wait_for_line("serving", Duration::from_secs(15))
            .unwrap();
        Self { process, control }
    }

    fn stop(mut self, machine: &Namespace) {
        let ended = self
            .process
            .stop(Signal::Term, Duration::from_secs(15))
            .unwrap();
        assert!(ended.success(), "{}", self.process.output());
        assert!(!self.control.exists());
        let link = machine
            .run_ok("ip", ["-d", "link", "show", "eth0"])
            .unwrap();
        assert!(!link.stdout.contains("xdp"), "{}", link.stdout);
    }
}

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
    let pen = Both::start(&lab, &format!("{}/udp", vip.v4()));
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
        let answer = crate::rig::say(&pen.control, "json status");
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
    // ab may open a few connections that it has no request for.
    assert!(
        (5000..=5010).contains(&connects.iter().sum::<u64>()),
        "{connects:?}"
    );
    assert!(
        connects.iter().all(|count| (1666..=1671).contains(count)),
        "{connects:?}"
    );
    pen.stop(machine);
}

#[test]
fn a_port_of_the_proxy_beats_all_ports_past_the_kernel() {
    if !lab::ready("a_port_of_the_proxy_beats_all_ports_past_the_kernel") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80, 8080]).unwrap();
    let vip = Station::vip(0);
    let machine = lab.balancer();
    machine
        .ip(&format!("addr add {}/24 dev eth0", vip.v4()))
        .unwrap();
    let pen = Both::start(&lab, &format!("{}", vip.v4()));
    let page = |port: u16| lab::fetch(lab.client(), vip.v4().into(), port, "/").unwrap();
    // Past the kernel the server sees the client itself.
    let (client, balancer) = (Station::client().v4(), Station::balancer(0).v4());
    for _ in 0..4 {
        let (through, past) = (page(80), page(8080));
        assert_eq!(through.split(' ').nth(1).unwrap(), balancer.to_string());
        assert_eq!(past.split(' ').nth(1).unwrap(), client.to_string());
    }
    pen.stop(machine);
}
