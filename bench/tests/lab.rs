//! The lab itself: what it promises its tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{Capture, Iperf, Lab, Load, NIC, Nginx, Nic, Offloads, Peer, Signal, Station};

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn every_machine_reaches_every_other_in_both_families() {
    if !lab::ready("every_machine_reaches_every_other_in_both_families") {
        return;
    }
    let lab = Lab::builder()
        .backends(2)
        .balancers(2)
        .queues(4)
        .build()
        .unwrap();
    let stations = [
        Station::balancer(0),
        Station::balancer(1),
        Station::backend(0),
        Station::backend(1),
    ];
    for address in stations.iter().flat_map(|station| station.addresses()) {
        assert!(lab.ping(lab.client(), address).unwrap(), "{address}");
    }
    for address in Station::client().addresses() {
        for machine in lab.balancers().iter().chain(lab.backends()) {
            assert!(
                lab.ping(machine, address).unwrap(),
                "{} {address}",
                machine.name()
            );
        }
    }
    for queue in ["rx-3", "tx-3"] {
        let path = format!("/sys/class/net/{NIC}/queues/{queue}");
        assert!(
            lab.balancer().run("test", ["-d", &path]).unwrap().ok(),
            "{queue}"
        );
        assert!(
            !lab.client().run("test", ["-d", &path]).unwrap().ok(),
            "{queue}"
        );
    }
    let mac = lab::neighbour(lab.client(), Station::backend(1).addresses()[1]).unwrap();
    assert_eq!(mac.unwrap(), Station::backend(1).mac().to_string());
}

#[test]
fn back_ends_serve_a_vip_but_do_not_claim_it() {
    if !lab::ready("back_ends_serve_a_vip_but_do_not_claim_it") {
        return;
    }
    let lab = Lab::builder().backends(2).vips(2).build().unwrap();
    let _web = Nginx::start_all(&lab, &[80, 8080]).unwrap();
    for vip in lab.vips() {
        let url = format!("http://{}/", lab::host_port(vip, 80));
        let page = lab::fetch_within(Duration::from_millis(500), lab.client(), &url);
        assert!(page.is_err(), "somebody answered for {vip}");
        assert_eq!(lab::neighbour(lab.client(), vip).unwrap(), None);
    }
    lab.point_vips_at(Station::backend(1)).unwrap();
    for (vip, client) in Station::vip(1)
        .addresses()
        .into_iter()
        .zip(Station::client().addresses())
    {
        let page = lab::fetch(lab.client(), vip, 8080, "/").unwrap();
        assert!(page.starts_with(&format!("be1 {client} ")), "{page}");
        assert!(page.ends_with(&format!(" {vip}\n")), "{page}");
        assert!(lab::download_is_intact(&lab, vip, 80).unwrap());
    }
}

#[test]
fn loads_count_what_was_answered_and_by_whom() {
    if !lab::ready("loads_count_what_was_answered_and_by_whom") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let mut udp = Peer::udp(&lab, 0, 9000).unwrap();
    let _tcp = Peer::tcp(&lab, 0, 9000).unwrap();
    lab.point_vips_at(Station::backend(0)).unwrap();
    for vip in lab.vips() {
        for tcp in [false, true] {
            let load = Load {
                to: (vip, 9000).into(),
                flows: 7,
                count: 500,
                rate: 2000,
                tcp,
            };
            let tally = load.run(lab.client()).unwrap();
            assert_eq!(
                (tally.sent, tally.answered, tally.strayed),
                (500, 500, 0),
                "{vip} {tcp}"
            );
            assert_eq!(tally.by_backend["be0"], 500);
        }
    }
    udp.process().stop(Signal::Term, LIMIT).unwrap();
    let to = (Station::vip(0).v4(), 9000).into();
    let load = Load {
        to,
        flows: 2,
        count: 20,
        rate: 1000,
        tcp: false,
    };
    let tally = load.run(lab.client()).unwrap();
    assert_eq!((tally.sent, tally.answered), (20, 0));
}

#[test]
fn frames_arrive_as_they_were_sent() {
    if !lab::ready("frames_arrive_as_they_were_sent") {
        return;
    }
    let lab = Lab::builder().backends(1).mtu(9000).build().unwrap();
    let backend = Station::backend(0).mac().0;
    let frame = |types: &[u8], length: usize| {
        let mut frame = [&backend[..], &Station::client().mac().0, types].concat();
        frame.resize(length, 0xa5);
        frame
    };
    let tagged = frame(&[0x81, 0x00, 0x20, 0x07, 0x88, 0xb5], 64);
    let tags = [0x88, 0xa8, 0x00, 0x05, 0x81, 0x00, 0x20, 0x07, 0x88, 0xb5];
    let plain = [60, 9014].map(|length| frame(&[0x88, 0xb5], length));
    let [short, long] = plain;
    // A kernel's netfilter would have a bridge drop it, as no version of IP is 10.
    let no_header = frame(&[0x08, 0x00], 60);
    let sent = [short, tagged, frame(&tags, 68), long, no_header];
    let capture = Capture::start(lab.backend(0), NIC, "").unwrap();
    lab::send_frames(lab.client(), NIC, &sent).unwrap();
    capture.wait_for(sent.len(), LIMIT).unwrap();
    let caught = capture.stop().unwrap();
    let ours: Vec<_> = caught
        .into_iter()
        .filter(|frame| frame.ends_with(&[0xa5; 8]))
        .collect();
    assert_eq!(ours, sent);
}

#[test]
fn a_macvlan_filters_and_a_veth_does_not() {
    if !lab::ready("a_macvlan_filters_and_a_veth_does_not") {
        return;
    }
    for (nic, arrives) in [(Nic::Veth, true), (Nic::Macvlan, false)] {
        let lab = Lab::builder()
            .backends(1)
            .nic(nic)
            .addressed(false)
            .build()
            .unwrap();
        let listed = lab
            .balancer()
            .ip(&format!("-4 addr show dev {NIC}"))
            .unwrap()
            .stdout;
        assert_eq!(listed, "", "an address on a NIC that shall have none");
        let capture = Capture::start(lab.balancer(), NIC, "icmp6 and ip6[40] == 135").unwrap();
        // The solicitation for an address that the load balancer does not own.
        let _ = lab
            .ping(lab.client(), Station::vip(0).addresses()[1])
            .unwrap();
        assert_eq!(!capture.stop().unwrap().is_empty(), arrives, "{nic:?}");
    }
}

#[test]
fn offloads_are_finished_where_asked() {
    if !lab::ready("offloads_are_finished_where_asked") {
        return;
    }
    let sums = |lab: &Lab, port: &str| {
        let text = lab.switch().ethtool(&format!("-k {port}")).unwrap().stdout;
        text.contains("tx-checksumming: on")
    };
    for (offloads, at_lb, at_be) in [
        (Offloads::AsKernelSets, true, true),
        (Offloads::SwitchPortTxOff, false, true),
        (Offloads::BackendPortTxOff, true, false),
    ] {
        let lab = Lab::builder()
            .backends(1)
            .offloads(offloads)
            .build()
            .unwrap();
        assert_eq!(
            (sums(&lab, "lb0"), sums(&lab, "be0")),
            (at_lb, at_be),
            "{offloads:?}"
        );
        assert!(sums(&lab, "client"));
    }
}

#[test]
fn iperf_measures_both_ways() {
    if !lab::ready("iperf_measures_both_ways") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let _server = Iperf::start(&lab, 0).unwrap();
    lab.point_vips_at(Station::backend(0)).unwrap();
    for down in [false, true] {
        let rate = Iperf::measure(lab.client(), Station::vip(0).v4().into(), 1, down).unwrap();
        assert!(rate > 1e6, "{rate}");
    }
    let sent = lab::link_counters(lab.client(), NIC).unwrap();
    assert!(sent.tx_bytes > 100_000, "{sent:?}");
    assert_eq!(
        lab::snmp_counter(lab.backend(0), "TcpInCsumErrors").unwrap(),
        0
    );
}

#[test]
fn pins_last_from_one_run_to_the_next() {
    if !lab::ready("pins_last_from_one_run_to_the_next") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let folder = lab.bpffs().join("pen");
    lab.balancer().run_ok("mkdir", [&folder]).unwrap();
    lab.balancer()
        .run_ok("test", ["-d".as_ref(), folder.as_os_str()])
        .unwrap();
    lab.balancer().run_ok("rmdir", [&folder]).unwrap();
}

#[test]
fn programs_are_watched_signalled_and_ended() {
    if !lab::ready("programs_are_watched_signalled_and_ended") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    // Not SIGHUP: under nohup a shell ignores it for ever.
    let script = "trap 'echo caught' USR1; echo up; while :; do sleep 0.05; done";
    let mut shell = lab.client().spawn("sh", ["-c", script]).unwrap();
    assert_eq!(shell.wait_for_line("up", LIMIT).unwrap(), "up");
    shell.signal(Signal::Usr1).unwrap();
    shell.wait_for_line("caught", LIMIT).unwrap();
    assert!(
        shell
            .wait_for_line("never", Duration::from_millis(50))
            .is_err()
    );
    assert!(shell.is_running());
    assert!(!shell.stop(Signal::Term, LIMIT).unwrap().success());
    assert!(shell.signal(Signal::Usr1).is_err());

    let stubborn = lab.client().spawn(
        "sh",
        ["-c", "trap '' TERM; echo up; while :; do sleep 9; done"],
    );
    let stubborn = stubborn.unwrap();
    stubborn.wait_for_line("up", LIMIT).unwrap();
    let id = stubborn.id();
    drop(stubborn);
    assert!(!Path::new("/proc").join(id.to_string()).exists());

    let started = Instant::now();
    assert!(
        lab.client()
            .run_for(Duration::from_millis(200), "sleep", ["9"])
            .is_err()
    );
    assert!(started.elapsed() < Duration::from_secs(3));
}

/// What is left of the lab `name`: namespaces, folder, mounts.
fn traces(name: &str) -> Vec<String> {
    let spaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let spaces = spaces.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    spaces
        .chain(mounts.lines().map(str::to_owned))
        .filter(|text| text.contains(&format!("{name}-")) || text.contains(&format!("{name}/")))
        .chain(
            Path::new("/run")
                .join(name)
                .exists()
                .then(|| "folder".to_owned()),
        )
        .collect()
}

#[test]
fn dropping_a_lab_leaves_nothing() {
    if !lab::ready("dropping_a_lab_leaves_nothing") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let name = lab
        .folder()
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    let sleeper = lab.backend(0).spawn("sleep", ["60"]).unwrap();
    let id = sleeper.id();
    // A program whose handle is lost is still the lab's.
    std::mem::forget(sleeper);
    assert!(traces(&name).len() > 4, "{:?}", traces(&name));
    drop(lab);
    assert_eq!(traces(&name), Vec::<String>::new());
    assert!(
        fs::read_to_string(format!("/proc/{id}/cmdline"))
            .unwrap_or_default()
            .is_empty()
    );
}

/// Not a test by itself: the child that `a_killed_process_leaves_nothing` kills.
#[test]
fn holder() {
    if std::env::var_os("LAB_HOLD").is_none() {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let _sleeper = lab.client().spawn("sleep", ["60"]).unwrap();
    fs::write(
        std::env::var_os("LAB_HOLD").unwrap(),
        lab.folder().to_str().unwrap(),
    )
    .unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_process_leaves_nothing() {
    if !lab::ready("a_killed_process_leaves_nothing") {
        return;
    }
    let file = std::env::temp_dir().join(format!("lab-hold-{}", std::process::id()));
    let _ = fs::remove_file(&file);
    // What a guard that was killed too would leave; no process can have this id (PID_MAX_LIMIT).
    let old = "pen-4194305-0";
    let space = format!("{old}-client");
    let added = Command::new("ip")
        .args(["netns", "add", &space])
        .status()
        .unwrap();
    assert!(added.success());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder"])
        .env("LAB_HOLD", &file)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let folder = loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if !text.is_empty() {
            break text;
        }
        assert!(Instant::now() < deadline, "the child made no lab");
        std::thread::sleep(Duration::from_millis(20));
    };
    fs::remove_file(&file).unwrap();
    let name = Path::new(&folder)
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    assert_eq!(
        traces(old),
        Vec::<String>::new(),
        "not swept by the child's first lab"
    );
    assert!(traces(&name).len() > 4);
    child.kill().unwrap();
    child.wait().unwrap();
    while !traces(&name).is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", traces(&name));
        std::thread::sleep(Duration::from_millis(20));
    }
}
