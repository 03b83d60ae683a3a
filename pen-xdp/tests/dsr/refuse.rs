//! Bad input: one clear message, exit code 2, nothing attached, nothing running disturbed.

use std::fs;
use std::path::Path;

use lab::{Lab, Station};

use crate::rig::{Pen, assert_nothing_left, service};

/// Runs pen to its end: exit code and what it said.
pub(crate) fn refused(lab: &Lab, words: &[&str]) -> (Option<i32>, String) {
    let bpffs = lab.bpffs();
    let run_dir = lab.folder().join("run");
    let mut all = vec!["--bpffs".into(), bpffs.into_os_string(), "--run-dir".into()];
    all.push(run_dir.into_os_string());
    all.extend(words.iter().map(Into::into));
    let output = lab.balancer().run(env!("CARGO_BIN_EXE_pen"), all).unwrap();
    (output.status.code(), output.text())
}

#[test]
fn bad_input_is_named_and_leaves_nothing() {
    if !lab::ready("bad_input_is_named_and_leaves_nothing") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let toml = |name: &str, text: &str| {
        let path = lab.folder().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let twice = service(&lab, &["80/tcp", "80/tcp"], 1);
    let twice = toml(
        "twice.toml",
        &format!("interface = \"eth0\"\nforeground = true\n{twice}"),
    );
    let empty = service(&lab, &["80/tcp"], 0);
    let empty = toml(
        "empty.toml",
        &format!("interface = \"eth0\"\nforeground = true\n{empty}"),
    );
    let odd = toml("odd.toml", "interface = \"eth0\"\nplain = 3\n");
    let vip = "10.77.0.200:80";
    let backend = Station::backend(0).v4().to_string();
    let gateway = ["-f", "-O", "dsr_if eth0", vip, "192.0.2.9"];
    lab.balancer()
        .ip("route add 192.0.2.0/24 via 10.77.0.1")
        .unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["-f", "-O", "dsr_if eth9", vip, &backend], "eth9"),
        (
            &["-f", "-O", "dsr_if eth0", vip, "no-such-host.invalid"],
            "no-such-host.invalid",
        ),
        (
            &["-f", "-O", "dsr_if eth0", vip, "10.77.0.11:80:0:0:70000"],
            "70000",
        ),
        (
            &[
                "-f",
                "-O",
                "dsr_if eth0",
                "-O",
                "acl 1 permit 10.77.0.0/24",
                "-O",
                "tarpit_acl 1",
                vip,
                &backend,
            ],
            "the tarpit would answer for service",
        ),
        (
            &[
                "-f",
                "-O",
                "dsr_if eth0",
                "-O",
                "client_acl 10",
                vip,
                &backend,
            ],
            "client_acl",
        ),
        (&["-f", "-O", "dsr_if eth0", vip, "10.77.0.11:81"], "81"),
        (&gateway, "192.0.2.9"),
        (&["-f", "--nonsense"], "nonsense"),
        (&["--config", &twice], "twice"),
        (&["--config", &empty], "back end"),
        (&["--config", &odd], "odd.toml:2"),
        (&["--config", "/nowhere/pen.toml"], "/nowhere/pen.toml"),
    ];
    for (words, named) in cases {
        let (code, said) = refused(&lab, words);
        assert_eq!(code, Some(2), "{words:?}: {said}");
        assert!(said.contains(named), "{words:?}: {said}");
        assert_nothing_left(&lab, lab.balancer());
    }
}

#[test]
fn a_missing_capability_is_named() {
    if !lab::ready("a_missing_capability_is_named") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let backend = Station::backend(0).v4().to_string();
    for (dropped, named) in [
        ("-net_raw", "CAP_NET_RAW"),
        ("-net_admin", "CAP_NET_ADMIN"),
        ("-bpf,-sys_admin", "CAP_BPF"),
        ("-perfmon,-sys_admin", "CAP_PERFMON"),
    ] {
        let words = [
            "--bounding-set",
            dropped,
            "--inh-caps",
            dropped,
            env!("CARGO_BIN_EXE_pen"),
        ];
        let more = ["-f", "-O", "dsr_if eth0", "10.77.0.200:80", &backend];
        let output = lab
            .balancer()
            .run("setpriv", words.iter().chain(&more))
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", output.text());
        assert!(
            output.text().contains(named),
            "{dropped}: {}",
            output.text()
        );
        assert_nothing_left(&lab, lab.balancer());
    }
}

/// The kernel plays its own ancestor of 2.6 for a process that asks it to (personality(2)).
#[test]
fn an_old_kernel_is_told_what_it_lacks() {
    let name = "an_old_kernel_is_told_what_it_lacks";
    if !lab::ready(name) {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let machine = std::env::consts::ARCH;
    let old = |program: &str, words: &[&str]| {
        let all = [&[machine, "--uname-2.6", program], words].concat();
        lab.balancer().run("setarch", all).unwrap()
    };
    // Debian's kernels say their true age in a second place, which is left alone.
    if lab
        .balancer()
        .run("uname", ["-v"])
        .unwrap()
        .stdout
        .contains("Debian ")
    {
        return lab::skip(name, "this kernel can't play an older one");
    }
    let backend = Station::backend(0).v4().to_string();
    let words = ["-f", "-O", "dsr_if eth0", "10.77.0.200:80", &backend];
    let output = old(env!("CARGO_BIN_EXE_pen"), &words);
    let text = output.text();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("kernel 2.6."), "{text}");
    assert!(text.contains("frames in several buffers"), "{text}");
    assert!(text.contains("Linux 5.18 or later"), "{text}");
    let config = lab.folder().join("old.toml");
    let services = service(&lab, &["80/tcp"], 1);
    let text = format!("interface = \"eth0\"\nplane = \"af_packet\"\n{services}");
    fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let text = old(env!("CARGO_BIN_EXE_pen"), &["--check", "--config", &config]).text();
    assert!(text.contains("configuration is good"), "{text}");
    assert!(!text.contains("warning: kernel"), "{text}");
    assert_nothing_left(&lab, lab.balancer());
}

/// What a daemon has set and made, as the kernel shows it.
fn belongings(lab: &Lab) -> String {
    let show = |program: &str, words: &[&str]| {
        let output = lab.balancer().run_ok(program, words).unwrap();
        output.stdout
    };
    let mut text = show("sh", &["-c", "cat /sys/class/net/eth0/gro_flush_timeout"]);
    text += &show("ip", &["-d", "link", "show", "eth0"]);
    let neighbours = show("ip", &["neigh", "show", "dev", "eth0"]);
    // Their states change by themselves.
    let mut addresses: Vec<_> = neighbours
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    addresses.sort_unstable();
    text + &addresses.join(" ")
}

#[test]
fn a_second_daemon_does_not_disturb_the_first() {
    if !lab::ready("a_second_daemon_does_not_disturb_the_first") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let _echoes: Vec<_> = (0..2)
        .map(|index| lab::Peer::udp(&lab, index, 5353).unwrap())
        .collect();
    let services = service(&lab, &["5353/udp"], 2);
    let pen = Pen::start(&lab, "plane = \"af_xdp\"\nbusy = \"always\"\n", &services);
    let before = belongings(&lab);
    let generation = pen.status().generation;
    let vip = lab.vips().next().unwrap();
    let load = lab::Load {
        to: std::net::SocketAddr::new(vip, 5353),
        flows: 20,
        count: 6000,
        rate: 1000,
        tcp: false,
    };
    let running = load.spawn(lab.client()).unwrap();
    running.wait_for_line("started", crate::rig::START).unwrap();
    // With other files and other back ends: nothing but the interface is the same.
    let config = lab.folder().join("pen0/pen.toml");
    let other = fs::read_to_string(&config).unwrap();
    let other = other.replace("pen0/control", "pen0/control2");
    let other = other.replace("pen0/pid", "pen0/pid2");
    let other = other.replace(&Station::backend(1).v4().to_string(), "10.77.0.99");
    let second = lab.folder().join("second.toml");
    let run_dir = lab.folder().join("pen0/run").display().to_string();
    let elsewhere = lab.folder().join("elsewhere").display().to_string();
    let bpffs = lab.bpffs().display().to_string();
    // Where a daemon that was killed had noted what to put back.
    fs::create_dir(&elsewhere).unwrap();
    let settings = fs::read_dir(&run_dir).unwrap();
    let mut settings = settings.map(|entry| entry.unwrap().path());
    let settings = settings.find(|path| path.extension().is_some_and(|e| e == "nic"));
    let settings = settings.expect("busy polling is a setting of the interface");
    let left_over = Path::new(&elsewhere).join(settings.file_name().unwrap());
    fs::copy(&settings, &left_over).unwrap();
    let by_process = format!("eth0: pen serves it already (process {})", pen.process.id());
    let by_pins = "eth0 is served by another pen, with another run_dir".to_owned();
    for (place, plane, named) in [
        (&run_dir, "af_xdp", &by_process),
        (&elsewhere, "af_xdp", &by_pins),
        (&elsewhere, "af_packet", &by_pins),
    ] {
        let other = other.replace("\"af_xdp\"", &format!("{plane:?}"));
        fs::write(&second, other.replace(&run_dir, place)).unwrap();
        let config = ["--config", second.to_str().unwrap()];
        let detach = ["--detach", "eth0", "--bpffs", &bpffs, "--run-dir", place];
        for words in [&config[..], &detach[..]] {
            let output = lab
                .balancer()
                .run(env!("CARGO_BIN_EXE_pen"), words)
                .unwrap();
            assert_eq!(output.status.code(), Some(2), "{}", output.text());
            assert!(output.text().contains(named), "{}", output.text());
            assert_eq!(belongings(&lab), before);
        }
    }
    assert!(
        left_over.exists(),
        "it is not put back under a living daemon"
    );
    let tally = load.finish(running).unwrap();
    assert_eq!(tally.answered, tally.sent, "{tally:?}");
    assert_eq!(pen.status().generation, generation);
    assert_eq!(
        pen.status().dsr().plane.actual,
        pen_common::config::Plane::AfXdp
    );
    pen.stop(&lab, lab.balancer());
}

#[test]
fn pens_own_command_line_serves() {
    if !lab::ready("pens_own_command_line_serves") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let _web = lab::Nginx::start_all(&lab, &[80]).unwrap();
    let control = lab.folder().join("ctl").display().to_string();
    let bpffs = lab.bpffs().display().to_string();
    let run_dir = lab.folder().join("run").display().to_string();
    let vip = lab.vips().next().unwrap();
    let listen = format!("{vip}:80");
    let backends: Vec<String> = (0..2)
        .map(|i| Station::backend(i).v4().to_string())
        .collect();
    let words = [
        "-df",
        "-O",
        "poll",
        "-O",
        "dsr_if eth0",
        "-S",
        "2",
        "-C",
        &control,
        "--bpffs",
        &bpffs,
        "--run-dir",
        &run_dir,
        "-r",
        &listen,
        &backends[0],
        &backends[1],
    ];
    let pen = lab
        .balancer()
        .spawn(env!("CARGO_BIN_EXE_pen"), words)
        .unwrap();
    pen.wait_for_line("serving", crate::rig::START).unwrap();
    assert!(
        lab::fetch(lab.client(), vip, 80, "/")
            .unwrap()
            .starts_with("be")
    );
    let check = ["--check", "-O", "dsr_if eth0", &listen, &backends[0]];
    let checked = lab
        .balancer()
        .run_ok(env!("CARGO_BIN_EXE_pen"), check)
        .unwrap();
    assert!(
        checked.text().contains("configuration is good"),
        "{}",
        checked.text()
    );
    assert!(
        checked.text().contains("does not reset the link"),
        "{}",
        checked.text()
    );
}

#[test]
fn a_packet_socket_does_not_share_a_vip_with_the_kernel() {
    if !lab::ready("a_packet_socket_does_not_share_a_vip_with_the_kernel") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let vip = lab.vips().find(std::net::IpAddr::is_ipv4).unwrap();
    let services = service(&lab, &["80/tcp"], 1);
    let pen = Pen::start(&lab, "plane = \"af_packet\"", &services);
    let add = format!("addr add {vip}/32 dev eth0");
    let named = format!("VIP {vip}");
    let shown = || {
        let degraded = pen.status().degraded;
        degraded.iter().any(|degraded| degraded.what == named)
    };
    assert!(!shown());
    lab.balancer().ip(&add).unwrap();
    crate::change::wait_for("the address in the status", shown);
    let config = lab.folder().join("pen0/pen.toml").display().to_string();
    pen.stop(&lab, lab.balancer());
    for words in [
        &["--config", &config][..],
        &["--check", "--config", &config],
    ] {
        let output = lab
            .balancer()
            .run(env!("CARGO_BIN_EXE_pen"), words)
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", output.text());
        let mend = format!("ip addr del {vip}/32 dev eth0");
        assert!(output.text().contains(&mend), "{}", output.text());
    }
    assert_nothing_left(&lab, lab.balancer());
}
