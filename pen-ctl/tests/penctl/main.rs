//! The real binary against daemons made for the occasion: what it sends, shows and exits with.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod page;
mod whole;

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pen_common::config::Switches;
use pen_common::control::*;

use page::{PAGE, full_status};

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

#[test]
fn connections_are_a_table_and_one_is_pens_lines() {
    let open = ConnectionStatus {
        number: 12,
        service: "web".to_owned(),
        client: Some(([10, 77, 0, 1], 4242).into()),
        server: Some("be1".to_owned()),
        index: Some(1),
        chosen_by: Some(ChosenBy::RoundRobin),
        stage: Stage::Open,
        age_ms: 61_500,
        sx: 20_480,
        rx: 77,
    };
    let waiting = ConnectionStatus {
        number: 3,
        client: None,
        server: None,
        index: None,
        chosen_by: None,
        stage: Stage::Queue,
        age_ms: 0,
        sx: 0,
        rx: 0,
        ..open.clone()
    };
    let recent = RecentClient {
        address: Ipv4Addr::new(10, 77, 0, 1).into(),
        connects: 4,
        sx: 948,
        rx: 504,
        age_ms: 1,
        server: None,
    };
    for (command, value, expected) in [
        (
            "connections",
            Value::Connections(vec![waiting, open.clone()]),
            TABLE,
        ),
        (
            "connections",
            Value::Connections(vec![]),
            "  nobody is connected\n",
        ),
        (
            "connection 12",
            Value::Connection(Box::new(open)),
            "Connection 12:\nstate = 2\ndownfd = -1, upfd = -1\nclient = -1, server = 1\npend = 0\n\
             service web client 10.77.0.1:4242 server be1 by roundrobin stage open age 61 sx 20480 rx 77\n",
        ),
        (
            "recent 60",
            Value::Recent(vec![recent]),
            "10.77.0.1 connects 4 sx 948 rx 504\n",
        ),
        (
            "close 12",
            Value::Text("closed 12 service web".to_owned()),
            "closed 12 service web\n",
        ),
    ] {
        let folder = Folder::new();
        let server = serve(&folder, reply(value));
        let output = penctl(&folder, &["SOCK", command]);
        assert_eq!(server.join().unwrap(), format!("json {command}\n"));
        assert_eq!(out(&output), expected);
    }
}

const TABLE: &str = concat!(
    "   #  service  client          server  chosen by         age      sent  received  stage\n",
    "   3  web      unix            -       -                 0 s         0         0  queue\n",
    "  12  web      10.77.0.1:4242  be1     roundrobin  1 min 1 s  20.0 KiB        77  open\n",
);

#[test]
fn a_port_is_asked_as_a_socket_is() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let listener = std::net::TcpListener::bind(at).unwrap();
        let port = listener.local_addr().unwrap().port();
        let forms = match at.starts_with('[') {
            true => vec![format!("[::1]:{port}")],
            false => vec![
                port.to_string(),
                format!("127.0.0.1:{port}"),
                format!("localhost:{port}"),
            ],
        };
        let count = forms.len();
        let server = thread::spawn(move || {
            for _ in 0..count {
                let mut stream = listener.accept().unwrap().0;
                let mut line = Vec::new();
                let mut byte = [0];
                while !line.ends_with(b"\n") && stream.read(&mut byte).unwrap() == 1 {
                    line.push(byte[0]);
                }
                assert_eq!(line, b"json mode\n");
                let answer = reply(Value::Text("no hash".to_owned()));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let folder = Folder::new();
        for form in &forms {
            let output = penctl(&folder, &[form, "mode"]);
            assert_eq!(
                (output.status.code(), out(&output).as_str()),
                (Some(0), "no hash\n")
            );
        }
        server.join().unwrap();
        let output = penctl(&folder, &[&forms[0], "mode"]);
        assert_eq!(output.status.code(), Some(3));
        assert!(
            err(&output).contains("is pen running, started with -C "),
            "{}",
            err(&output)
        );
        // Nobody knows who has that port.
        let output = penctl(&folder, &[&forms[0], "ocsp-fetch"]);
        assert_eq!(output.status.code(), Some(3));
        assert!(
            err(&output).contains("a stranger's word"),
            "{}",
            err(&output)
        );
    }
}
