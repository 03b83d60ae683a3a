//! The real binary against daemons made for the occasion: what it sends, shows and exits with.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pen_common::config::{Busy, HashBy, Mode, Plane, Protocol, Switches, XdpMode};
use pen_common::control::*;

/// A folder of its own for each test, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("penctl-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("ctl")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Serves one connection: reads a line, answers with `reply`, gives back the line.
fn serve(folder: &Folder, reply: String) -> JoinHandle<String> {
    let listener = UnixListener::bind(folder.socket()).unwrap();
    thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let line = read_line(&mut stream);
        stream.write_all(reply.as_bytes()).unwrap();
        line
    })
}

fn read_line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") && stream.read(&mut byte).unwrap() == 1 {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn penctl(folder: &Folder, words: &[&str]) -> Output {
    let socket = folder.socket();
    let words = words.iter().map(|word| {
        if *word == "SOCK" {
            socket.to_str().unwrap()
        } else {
            word
        }
    });
    Command::new(env!("CARGO_BIN_EXE_penctl"))
        .args(words)
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn reply(value: Value) -> String {
    Reply {
        generation: 7,
        outcome: Ok(value),
    }
    .render(Form::Json)
}

#[test]
fn a_change_is_sent_as_one_line_and_succeeds_in_silence() {
    for (words, expected) in [
        (
            &["SOCK", "server", "2", "weight", "5"][..],
            "json server 2 weight 5\n",
        ),
        (&["SOCK", "server 2 weight 5"], "json server 2 weight 5\n"),
        (
            &["SOCK", "-s", "web", "server", "2", "weight", "5"],
            "json -s web server 2 weight 5\n",
        ),
        (
            &["SOCK", "no", "roundrobin", "--service", "dns"],
            "json -s dns no roundrobin\n",
        ),
    ] {
        let folder = Folder::new();
        let server = serve(&folder, reply(Value::Applied));
        let output = penctl(&folder, words);
        assert_eq!(server.join().unwrap(), expected);
        assert_eq!(
            (output.status.code(), out(&output), err(&output)),
            (Some(0), String::new(), String::new())
        );
    }
}

#[test]
fn json_is_passed_on_whole() {
    for words in [&["--json", "SOCK", "pid"][..], &["SOCK", "pid", "--json"]] {
        let folder = Folder::new();
        let server = serve(&folder, reply(Value::Number(42)));
        let output = penctl(&folder, words);
        assert_eq!(server.join().unwrap(), "json pid\n");
        assert_eq!(
            out(&output),
            "{\"ok\":true,\"generation\":7,\"value\":42}\n"
        );
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn a_refusal_exits_2_with_the_reason() {
    let refusal = Reply {
        generation: 7,
        outcome: Err("there is no server 9".to_owned()),
    };
    for (json, stdout) in [
        (false, ""),
        (
            true,
            "{\"ok\":false,\"generation\":7,\"refusal\":\"there is no server 9\"}\n",
        ),
    ] {
        let folder = Folder::new();
        let server = serve(&folder, refusal.render(Form::Json));
        let mut words = vec!["SOCK", "server", "9", "weight", "1"];
        words.extend(json.then_some("--json"));
        let output = penctl(&folder, &words);
        server.join().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(out(&output), stdout);
        assert_eq!(err(&output), "penctl: there is no server 9\n");
    }
}

#[test]
fn wrong_use_exits_2() {
    let folder = Folder::new();
    for words in [
        &[][..],
        &["SOCK"],
        &["--jsn", "SOCK", "status"],
        &["SOCK", "status\nstatus"],
    ] {
        let output = penctl(&folder, words);
        assert_eq!(
            (output.status.code(), out(&output)),
            (Some(2), String::new()),
            "{words:?}"
        );
        assert!(!err(&output).is_empty());
    }
    let long = "x".repeat(REQUEST_BYTES_MAX);
    let output = penctl(&folder, &["SOCK", &long]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        err(&output),
        "penctl: the command is longer than 4095 bytes\n"
    );
}

#[test]
fn nobody_there_exits_3_and_names_the_socket() {
    let folder = Folder::new();
    let socket = folder.socket();
    let output = penctl(&folder, &["SOCK", "status"]);
    assert_eq!(output.status.code(), Some(3));
    let expected = format!(
        "penctl: {0}: no such socket: is pen running, started with -C {0}?\n",
        socket.display()
    );
    assert_eq!(err(&output), expected);
    drop(UnixListener::bind(&socket).unwrap());
    let output = penctl(&folder, &["SOCK", "status"]);
    assert_eq!(output.status.code(), Some(3));
    let expected = format!("penctl: {}: nobody listens there: ", socket.display());
    assert!(err(&output).starts_with(&expected), "{}", err(&output));
}

#[test]
fn strange_answers_exit_3() {
    for (answer, expected) in [
        ("", "the daemon hung up without an answer"),
        (
            "do_cmd: ignoring command starting with 'json'\n",
            "not an answer of this pen: \"do_cmd: ignoring command starting with 'json'\\n\" (an older pen?)",
        ),
        ("{\"ok\":true}", "not an answer of this pen"),
        (
            "{\"ok\":true,\"generation\":1,\"value\":5}",
            "the answer has another shape than expected",
        ),
    ] {
        let folder = Folder::new();
        let server = serve(&folder, answer.to_owned());
        let output = penctl(&folder, &["SOCK", "status"]);
        server.join().unwrap();
        assert_eq!(
            (output.status.code(), out(&output)),
            (Some(3), String::new()),
            "{answer}"
        );
        assert!(err(&output).contains(expected), "{}", err(&output));
    }
}

#[test]
fn a_daemon_that_never_answers_is_left_after_five_seconds() {
    let folder = Folder::new();
    // Bound and never accepted from: connecting works, an answer never comes.
    let _listener = UnixListener::bind(folder.socket()).unwrap();
    let start = Instant::now();
    let output = penctl(&folder, &["SOCK", "status"]);
    assert!(
        (5..30).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(output.status.code(), Some(3));
    assert!(
        err(&output).contains("no answer within 5 s"),
        "{}",
        err(&output)
    );
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let folder = Folder::new();
    let listener = UnixListener::bind(folder.socket()).unwrap();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let block = vec![b'x'; 1 << 20];
        // Ends when the client has had enough and closes.
        let deadline = Instant::now() + Duration::from_secs(30);
        while stream.write_all(&block).is_ok() {
            assert!(Instant::now() < deadline, "the client reads for ever");
        }
    });
    let output = penctl(&folder, &["SOCK", "status"]);
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        err(&output).contains("longer than 67108864 bytes")
            || err(&output).contains("no answer within"),
        "{}",
        err(&output)
    );
}

#[test]
fn lines_that_scripts_parse() {
    let server = ServerStatus {
        path: None,
        index: 0,
        name: "web1".to_owned(),
        address: Ipv4Addr::new(10, 77, 0, 11).into(),
        port: 80,
        conn: 0,
        max: 10,
        hard: 20,
        weight: 2,
        prio: 1,
        sx: 0,
        rx: 0,
    };
    let pool = ServersOfPool {
        pool: "pen".to_owned(),
        servers: vec![server],
    };
    let line = "0 addr 10.77.0.11 port 80 conn 0 max 10 hard 20 weight 2 prio 1 sx 0 rx 0\n";
    let several = Servers {
        pools: vec![
            pool.clone(),
            ServersOfPool {
                pool: "b".into(),
                ..pool.clone()
            },
        ],
    };
    for (command, value, expected) in [
        (
            "servers",
            Value::Servers(Servers { pools: vec![pool] }),
            line.to_owned(),
        ),
        (
            "servers",
            Value::Servers(several),
            format!("pool pen\n{line}pool b\n{line}"),
        ),
        (
            "mode",
            Value::Text(mode_line(Switches::default())),
            format!("{}\n", mode_line(Switches::default())),
        ),
        ("pid", Value::Number(42), "42\n".to_owned()),
    ] {
        let folder = Folder::new();
        let server = serve(&folder, reply(value));
        let output = penctl(&folder, &["SOCK", command]);
        server.join().unwrap();
        assert_eq!((output.status.code(), out(&output)), (Some(0), expected));
    }
}

#[test]
fn counters_show_what_happened() {
    let counter = |reason: &str, count| Counter {
        reason: reason.to_owned(),
        text: "why".to_owned(),
        count,
    };
    for (counters, expected) in [
        (vec![counter("a", 0)], "  all are 0\n"),
        (
            vec![counter("a", 0), counter("loop", 12)],
            "  count  reason  meaning\n     12  loop    why\n",
        ),
    ] {
        let folder = Folder::new();
        let server = serve(&folder, reply(Value::Counters(counters)));
        let output = penctl(&folder, &["SOCK", "counters"]);
        server.join().unwrap();
        assert_eq!(out(&output), expected);
    }
}

fn backend(index: usize, name: &str, slots: u32) -> BackendStatus {
    BackendStatus {
        index,
        id: 1,
        name: name.to_owned(),
        address: Ipv4Addr::new(10, 77, 0, 11).into(),
        mac: Some("02:00:00:00:00:11".to_owned()),
        weight: 1,
        state: BackendState::Up,
        blacklist_left_s: None,
        slots,
        flows: 1_200,
        frames: 1_234_567,
        bytes: 123_456_789,
    }
}

fn queue(number: u32, served_by: ServedBy) -> QueueStatus {
    let worker = (served_by == ServedBy::Worker).then_some(number);
    QueueStatus {
        queue: number,
        served_by,
        worker,
        core: worker,
        zero_copy: false,
        multi_buffer: true,
        need_wakeup: worker.is_some(),
        busy_poll: worker.is_some(),
        tx_budget: None,
        heartbeat_age_ms: worker.map(|_| 3),
        frames: worker.map(|_| FrameAccount {
            posted_receive: 2048,
            in_hand: 12,
            posted_send: 36,
            total: 4096,
        }),
        xdp_statistics: worker.map(|_| XdpStatistics {
            rx_ring_full: 5,
            invalid_descs: 4,
            unsent: 6,
            ..XdpStatistics::default()
        }),
    }
}

fn full_status() -> Status {
    let vip = VipStatus {
        address: Ipv4Addr::new(10, 77, 0, 100).into(),
        port: 80,
        protocol: Protocol::Tcp,
        vlan: None,
        service: "web".to_owned(),
        pool: "web".to_owned(),
        hash: HashBy::Flow,
        owner: Owner::Own,
    };
    Status {
        version: "0.1.0".to_owned(),
        pid: 4711,
        uptime_s: 3_725,
        generation: 7,
        config: ConfigStatus {
            source: "/etc/pen/pen.toml".to_owned(),
        },
        degraded: vec![Degraded {
            what: "tx budget".to_owned(),
            why: "kernel 6.1".to_owned(),
        }],
        dsr: Some(DsrStatus {
            interface: InterfaceStatus {
                name: "eth1".to_owned(),
                index: 3,
                mac: "02:00:00:00:00:01".to_owned(),
                mtu: 1500,
                driver: "veth".to_owned(),
            },
            plane: PlaneStatus {
                wanted: Plane::Auto,
                actual: Plane::Xdp,
                why: "the driver has no native mode".to_owned(),
                rungs: vec![
                    Rung {
                        plane: Plane::AfXdp,
                        taken: false,
                        why: "XDP is generic here".to_owned(),
                    },
                    Rung {
                        plane: Plane::Xdp,
                        taken: true,
                        why: "it works".to_owned(),
                    },
                ],
            },
            xdp: XdpStatus {
                mode: Some(XdpMode::Generic),
                why: "native was refused".to_owned(),
            },
            busy: Busy::Auto,
            queues: vec![queue(0, ServedBy::Worker), queue(1, ServedBy::Program)],
            vips: vec![
                vip.clone(),
                VipStatus {
                    address: "2001:db8::100".parse().unwrap(),
                    port: 0,
                    protocol: Protocol::Udp,
                    vlan: Some(12),
                    owner: Owner::Kernel,
                    ..vip
                },
            ],
            pools: vec![PoolStatus {
                name: "web".to_owned(),
                table_size: 65_537,
                backends: vec![
                    backend(0, "web1", 43_691),
                    BackendStatus {
                        mac: None,
                        state: BackendState::NoMac,
                        flows: 0,
                        frames: 0,
                        bytes: 0,
                        ..backend(1, "10.77.0.11", 0)
                    },
                    BackendStatus {
                        state: BackendState::Blacklisted,
                        blacklist_left_s: Some(17),
                        ..backend(2, "web3", 0)
                    },
                ],
            }],
            counters: vec![Counter {
                reason: "not-a-vip".to_owned(),
                text: "other traffic".to_owned(),
                count: 9,
            }],
            nic_changes: vec![NicChange {
                what: "gro".to_owned(),
                before: "on".to_owned(),
                now: "off".to_owned(),
            }],
        }),
        proxy: vec![proxied()],
        names: vec![NameStatus {
            name: "web".to_owned(),
            addresses: vec![Ipv4Addr::new(10, 77, 0, 11).into()],
            unused: vec!["224.0.0.1: it is no address of one machine".to_owned()],
            age_s: 75,
            next_s: 4,
            error: Some("A: no answer".to_owned()),
        }],
    }
}

fn proxied() -> ProxyStatus {
    let first = ProxyServerStatus {
        index: Some(0),
        name: "web1".to_owned(),
        address: "10.77.0.11:80".to_owned(),
        weight: 1,
        state: BackendState::Up,
        blacklist_left_s: None,
        conn: 12,
        connects: 4321,
        failures: 0,
        sx: 1_234_567,
        rx: 123_456_789,
    };
    let denied = Counter {
        reason: "acl-denied".to_owned(),
        text: "the access list denies the client".to_owned(),
        count: 5,
    };
    ProxyStatus {
        service: "shop".to_owned(),
        mode: Mode::Tcp,
        listen: vec!["[::]:80".to_owned(), "/run/shop".to_owned()],
        pool: "web".to_owned(),
        balance: "no hash roundrobin no stubborn no weight no prio".to_owned(),
        connections: 13,
        conn_max: 10_000,
        waiting: 0,
        accepted: 4_400,
        refused: vec![denied],
        servers: vec![
            first.clone(),
            ProxyServerStatus {
                index: None,
                name: "unix".to_owned(),
                address: "/run/back".to_owned(),
                state: BackendState::Blacklisted,
                blacklist_left_s: Some(17),
                failures: 3,
                ..first
            },
        ],
    }
}

const PAGE: &str = include_str!("status.txt");

#[test]
fn the_status_is_one_readable_page() {
    let folder = Folder::new();
    let server = serve(&folder, reply(Value::Status(Box::new(full_status()))));
    let output = penctl(&folder, &["SOCK", "status"]);
    server.join().unwrap();
    assert_eq!(
        (output.status.code(), err(&output)),
        (Some(0), String::new())
    );
    assert_eq!(out(&output), PAGE);
    assert!(PAGE.lines().all(|line| line.chars().count() <= 100));
    let folder = Folder::new();
    let server = serve(&folder, reply(Value::Status(Box::new(full_status()))));
    let output = penctl(&folder, &["SOCK", "status", "--json"]);
    server.join().unwrap();
    let envelope: Envelope = serde_json::from_str(&out(&output)).unwrap();
    let status: Status = serde_json::from_value(envelope.value.unwrap()).unwrap();
    assert_eq!(status, full_status());
}
