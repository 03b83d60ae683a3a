//! The connections of a running proxy: listed, shown and ended one by one.

use std::time::{Duration, Instant};

use lab::{Lab, Nginx, Process, Station};
use pen_common::control::{ChosenBy, ConnectionStatus, RecentClient, Stage};

use crate::python::{self, Manner};
use crate::rig::{Pen, addresses, lab, server, wait_for};
use crate::{http, udp};

const LIMIT: Duration = Duration::from_secs(15);

impl Pen {
    fn connections(&self, command: &str) -> Vec<ConnectionStatus> {
        serde_json::from_value(self.ask(command).value.unwrap()).unwrap()
    }

    /// The only connection.
    fn connection(&self) -> ConnectionStatus {
        let mut all = self.connections("connections");
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn recent(&self, command: &str) -> Vec<RecentClient> {
        serde_json::from_value(self.ask(command).value.unwrap()).unwrap()
    }

    /// Waits for the only connection to get there.
    fn wait_for_stage(&self, stage: Stage) -> ConnectionStatus {
        let mut found = None;
        wait_for(&format!("{stage}"), || {
            let all = self.connections("connections");
            found = all.into_iter().find(|one| one.stage == stage);
            found.is_some()
        });
        found.unwrap()
    }

    fn close(&self, number: u32) -> String {
        let answer = self.ask(&format!("close {number}"));
        assert!(answer.ok, "{:?}", answer.refusal);
        answer.value.unwrap().as_str().unwrap().to_owned()
    }

    /// Nothing of any connection is left.
    fn is_left_alone(&self) {
        self.wait_until_idle();
        wait_for("no connections", || {
            self.connections("connections").is_empty()
        });
        let service = self.service();
        assert_eq!((service.connections, service.waiting), (0, 0));
    }
}

/// A script on the client that says `ready` and what it sees afterwards.
fn client(lab: &Lab, script: &str) -> Process {
    let to = Station::balancer(0).v4();
    let script = format!(
        "import socket as s, time\n\
         def connect():\n\
         \x20c = s.create_connection(('{to}', 80), timeout=30)\n\
         \x20return c\n\
         def end(c):\n\
         \x20try: b = c.recv(100)\n\
         \x20except ConnectionResetError: return 'reset'\n\
         \x20return 'end' if not b else b\n\
         def answer(c):\n\
         \x20b, more = b'', True\n\
         \x20while more:\n\
         \x20 b += c.recv(9999) or exit('cut')\n\
         \x20 head, end, body = b.lower().partition(b'\\r\\n\\r\\n')\n\
         \x20 more = not end or len(body) < int(head.split(b'content-length: ')[1].split()[0])\n\
         \x20return len(b)\n\
         {script}"
    );
    python::start(lab.client(), &script)
}

#[test]
fn a_connection_is_shown_with_its_server_and_bytes_until_it_is_closed() {
    if !lab::ready("a_connection_is_shown_with_its_server_and_bytes_until_it_is_closed") {
        return;
    }
    let lab = lab(2);
    let _echo = python::serve(&lab, 1, 80, Manner::Echo);
    // The first server refuses.
    let pen = Pen::start(&lab, &["-r", "80", &server(0), &server(1)]);
    let idle = pen.descriptors();
    let client = client(
        &lab,
        "c = connect(); c.sendall(b'12345'); assert c.recv(5) == b'12345'\n\
         print('ready', c.getsockname()[1], flush=True)\n\
         print('saw', end(c), flush=True); time.sleep(20)",
    );
    let line = client.wait_for_line("ready", LIMIT).unwrap();
    let port = line.rsplit(' ').next().unwrap();
    // A client may have the bytes a moment before they are counted.
    wait_for("the answer's bytes", || pen.connection().sx == 5);
    let shown = pen.connection();
    let from = format!("{}:{port}", Station::client().v4());
    assert_eq!(shown.client.unwrap().to_string(), from);
    assert_eq!((shown.number, shown.service.as_str()), (0, "pen"));
    assert_eq!(shown.index, Some(1));
    assert_eq!(shown.chosen_by, Some(ChosenBy::RoundRobin));
    assert_eq!((shown.sx, shown.rx, shown.stage), (5, 5, Stage::Open));
    assert!(shown.age_ms < 10_000, "{shown:?}");
    let five =
        "Connection 0:\nstate = 2\ndownfd = -1, upfd = -1\nclient = -1, server = 1\npend = 0\n";
    let said = pen.say("connection 0");
    assert!(
        said.starts_with(five) && said.lines().count() == 6,
        "{said}"
    );
    assert!(pen.say("connections").starts_with("0 service "));

    for wrong in ["close 1", "connection 1", "close 4294967295"] {
        let refusal = pen.ask(wrong).refusal.unwrap();
        assert!(refusal.starts_with("there is no connection "), "{refusal}");
    }
    assert_eq!(pen.connection().stage, Stage::Open);
    let closed = pen.close(0);
    assert!(
        closed.starts_with("closed 0 ") && closed.contains(&from),
        "{closed}"
    );
    // Cut off, and not at its end.
    client.wait_for_line("saw reset", LIMIT).unwrap();
    pen.is_left_alone();
    pen.gives_back_all_but(idle);
    let sent = pen.recent("recent");
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].connects, sent[0].sx, sent[0].rx), (1, 5, 5));
    pen.stop();
}

#[test]
fn a_client_is_closed_while_it_waits_for_room() {
    if !lab::ready("a_client_is_closed_while_it_waits_for_room") {
        return;
    }
    let lab = lab(1);
    let _echo = python::serve(&lab, 0, 80, Manner::Echo);
    let full = format!("{}:80:1", server(0));
    let pen = Pen::start(&lab, &["-O", "queue_timeout 60", "80", &full]);
    let client = client(
        &lab,
        "a = connect(); a.sendall(b'a'); assert a.recv(1) == b'a'\n\
         b = connect(); time.sleep(0.2); c = connect(); c.sendall(b'c'); print('ready', flush=True)\n\
         print('second', end(b), flush=True)\n\
         a.close(); print('third', c.recv(1), flush=True)\n\
         c.shutdown(s.SHUT_WR); print('third', end(c), flush=True); time.sleep(20)",
    );
    wait_for("two to wait", || pen.service().waiting == 2);
    let second = pen.wait_for_stage(Stage::Queue);
    assert_eq!((second.number, second.server), (1, None));
    pen.close(1);
    client.wait_for_line("second reset", LIMIT).unwrap();
    // Whoever waits behind it has not lost its turn.
    client.wait_for_line("third b'c'", LIMIT).unwrap();
    client.wait_for_line("third end", LIMIT).unwrap();
    pen.is_left_alone();
    assert_eq!(pen.refused("server-full"), 0);
    pen.stop();
}

#[test]
fn a_client_is_closed_while_its_server_does_not_answer() {
    if !lab::ready("a_client_is_closed_while_its_server_does_not_answer") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    // The server swallows what comes for its port.
    lab.backend(0)
        .ip("route add blackhole 10.77.0.2/32")
        .unwrap();
    let pen = Pen::start(
        &lab,
        &["-O", "pending_max 1", "-t", "600", "80", &server(0)],
    );
    let idle = pen.descriptors();
    let client = client(
        &lab,
        "c = connect(); print('ready', flush=True); print('saw', end(c), flush=True)\n\
         time.sleep(20)",
    );
    let shown = pen.wait_for_stage(Stage::Connecting);
    assert_eq!(shown.index, Some(0));
    assert!(pen.say("connection 0").contains("state = 1\n"));
    pen.close(shown.number);
    client.wait_for_line("saw reset", LIMIT).unwrap();
    pen.is_left_alone();
    pen.gives_back_all_but(idle);
    // Its place among those under way is free again, and its number.
    lab.backend(0)
        .ip("route del blackhole 10.77.0.2/32")
        .unwrap();
    let said = crate::rig::answerers(&lab, addresses()[0], 2);
    assert_eq!(said, ["be0"; 2]);
    pen.stop();
}

#[test]
fn numbers_are_used_again_and_streams_end_one_by_one() {
    if !lab::ready("numbers_are_used_again_and_streams_end_one_by_one") {
        return;
    }
    let lab = lab(1);
    let _echo = python::serve(&lab, 0, 80, Manner::Echo);
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let mut held: Vec<Process> = Vec::new();
    let hold = || {
        client(
            &lab,
            "c = connect(); c.sendall(b'x'); c.recv(1)\nprint('ready', flush=True)\nprint('saw', end(c), flush=True); time.sleep(20)",
        )
    };
    let numbers = || {
        let all = pen.connections("connections");
        all.iter().map(|one| one.number).collect::<Vec<_>>()
    };
    for _ in 0..3 {
        held.push(hold());
    }
    assert_eq!(numbers(), [0, 1, 2]);
    pen.close(1);
    wait_for("one to go", || numbers() == [0, 2]);
    pen.close(0);
    wait_for("one to go", || numbers() == [2]);
    held.push(hold());
    assert_eq!(numbers(), [0, 2]);
    pen.close(0);
    pen.close(2);
    pen.is_left_alone();
    let half = client(
        &lab,
        "c = connect(); c.sendall(b'x'); assert c.recv(1) == b'x'\nprint('ready', flush=True)\ntime.sleep(30)",
    );
    assert_eq!(pen.connection().stage, Stage::Open);
    drop(half);
    pen.is_left_alone();
    pen.stop();
}

#[test]
fn a_proxys_client_is_shown_by_the_address_that_it_is_given() {
    if !lab::ready("a_proxys_client_is_shown_by_the_address_that_it_is_given") {
        return;
    }
    let lab = lab(1);
    let _count = python::serve(&lab, 0, 80, Manner::CountToEnd);
    let trusts = format!("accept_proxy {}", Station::client().v4());
    let pen = Pen::start(&lab, &["-O", &trusts, "-t", "30", "80", &server(0)]);
    let client = client(
        &lab,
        "c = connect(); print('ready', flush=True); time.sleep(1.5)\n\
         c.sendall(b'PROXY TCP6 2001:db8::7 2001:db8::1 4000 80\\r\\n123')\n\
         time.sleep(1.5); c.shutdown(s.SHUT_WR); print(c.recv(9), flush=True); time.sleep(20)",
    );
    let peer = pen.wait_for_stage(Stage::Header).client.unwrap();
    assert_eq!(peer.ip(), Station::client().v4());
    let shown = pen.wait_for_stage(Stage::Open);
    assert_eq!(shown.client.unwrap().to_string(), "[2001:db8::7]:4000");
    client.wait_for_line("b'3'", LIMIT).unwrap();
    pen.is_left_alone();
    let recent = pen.recent("recent 60");
    assert_eq!(recent.len(), 1, "{recent:?}");
    assert_eq!(recent[0].to_string(), "2001:db8::7 connects 1 sx 1 rx 3");
    pen.stop();
}

#[test]
fn a_stream_that_ended_on_one_side_is_shown_so() {
    if !lab::ready("a_stream_that_ended_on_one_side_is_shown_so") {
        return;
    }
    let lab = lab(1);
    let _silent = python::serve(&lab, 0, 80, Manner::Silent);
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let _client = client(
        &lab,
        "c = connect(); c.sendall(b'bye'); c.shutdown(s.SHUT_WR)\n\
         print('ready', flush=True); time.sleep(30)",
    );
    let half = pen.wait_for_stage(Stage::HalfClosed);
    assert_eq!((half.rx, half.sx), (3, 0));
    pen.close(half.number);
    pen.is_left_alone();
    pen.stop();
}

#[test]
fn connections_of_http_are_shown_between_requests_and_closed_within_one() {
    if !lab::ready("connections_of_http_are_shown_between_requests_and_closed_within_one") {
        return;
    }
    let lab = lab(1);
    let _web = http::serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "-O", "no roundrobin", "80", &server(0)]);
    let client = client(
        &lab,
        "c = connect(); c.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\n\
         print('ready', answer(c), flush=True); time.sleep(4)\n\
         c.sendall(b'GET /slow HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'); print('saw', end(c), flush=True)\n\
         c = connect(); c.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\n\
         print('next', answer(c), flush=True)\n\
         print('again', end(c), flush=True)\n\
         c = connect()\n\
         c.sendall(b'GET /ws HTTP/1.1\\r\\nHost: a\\r\\nConnection: upgrade\\r\\nUpgrade: shout\\r\\n\\r\\n')\n\
         while b'HI' not in c.recv(9999): pass\n\
         c.sendall(b'abc'); assert c.recv(3) == b'ABC'; print('shouted', flush=True)\n\
         print('switched', end(c), flush=True)\n\
         time.sleep(20)",
    );
    let line = client.wait_for_line("ready", LIMIT).unwrap();
    let answered: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let kept = pen.wait_for_stage(Stage::Kept);
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".len() as u64;
    assert_eq!((kept.rx, kept.index), (request, Some(0)));
    // A client may have the bytes a moment before they are counted.
    wait_for("the answer's bytes", || pen.connection().sx == answered);
    // In the middle of a request, which is not answered yet.
    let busy = pen.wait_for_stage(Stage::Open);
    assert_eq!(busy.number, kept.number);
    pen.close(busy.number);
    client.wait_for_line("saw reset", LIMIT).unwrap();
    // Who closes it before the client has read the answer takes that away.
    client.wait_for_line("next", LIMIT).unwrap();
    pen.close(pen.wait_for_stage(Stage::Kept).number);
    client.wait_for_line("again reset", LIMIT).unwrap();
    client.wait_for_line("shouted", LIMIT).unwrap();
    let asked = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: shout\r\n\r\n";
    let switched = pen.wait_for_stage(Stage::Open);
    wait_for("bytes after the switch", || {
        pen.connection().rx == asked.len() as u64 + 3
    });
    pen.close(switched.number);
    client.wait_for_line("switched reset", LIMIT).unwrap();
    pen.is_left_alone();
    let recent = pen.recent("recent");
    assert_eq!((recent.len(), recent[0].connects), (1, 4), "{recent:?}");
    pen.stop();
}

#[test]
fn flows_are_shown_and_closed_too() {
    if !lab::ready("flows_are_shown_and_closed_too") {
        return;
    }
    let lab = lab(1);
    let _servers = udp::serve_all(&lab);
    let pen = Pen::start(&lab, &["-U", "53", &server(0)]);
    for address in addresses() {
        let said = udp::client(&lab, address, "print(*[name(flow()) for _ in range(20)])");
        assert_eq!(said.matches("be0").count(), 20);
    }
    let flows = pen.connections("connections");
    assert_eq!(flows.len(), 40);
    for flow in &flows {
        // `be0 x` came back for `x`.
        assert_eq!((flow.sx, flow.rx, flow.stage), (5, 1, Stage::Open));
    }
    for client in pen.recent("recent") {
        assert_eq!((client.connects, client.sx, client.rx), (20, 100, 20));
    }
    let idle = pen.descriptors();
    for number in 0..40 {
        pen.close(number);
    }
    pen.is_left_alone();
    wait_for("descriptors to be closed", || {
        pen.descriptors() == idle - 40
    });
    let both = pen.recent("recent");
    assert_eq!((both.len(), both[1].sx, both[1].rx), (2, 100, 20));
    pen.stop();
}

#[test]
fn recent_clients_have_the_bytes_that_they_had() {
    if !lab::ready("recent_clients_have_the_bytes_that_they_had") {
        return;
    }
    let lab = lab(2);
    let _echo: Vec<_> = (0..2)
        .map(|at| python::serve(&lab, at, 80, Manner::CountToEnd))
        .collect();
    let pen = Pen::start(&lab, &["-r", "80", &server(0), &server(1)]);
    let [v4, v6] = addresses();
    let script = format!(
        "def send(to, count):\n\
         \x20c = s.create_connection((to, 80), timeout=30)\n\
         \x20c.sendall(b'x' * count); c.shutdown(s.SHUT_WR)\n\
         \x20assert int(c.recv(100)) == count\n\
         for n in range(3): send('{v4}', 100000)\n\
         send('{v6}', 2345678)\n\
         held = s.create_connection(('{v6}', 80), timeout=30); held.sendall(b'y' * 1000)\n\
         print('ready', flush=True); time.sleep(3); held.close(); time.sleep(20)"
    );
    let _client = client(&lab, &script);
    let station = Station::client();
    let expected = |more: u64| {
        [
            format!("{} connects 2 sx 7 rx {}\n", station.v6(), 2_345_678 + more),
            format!("{} connects 3 sx 18 rx 300000\n", station.v4()),
        ]
        .concat()
    };
    // While a connection lasts, and when it is over.
    wait_for("bytes of an open connection", || {
        pen.say("recent") == expected(1000)
    });
    wait_for("the end of a connection", || {
        pen.connections("connections").is_empty()
    });
    assert!(
        pen.say("recent")
            .starts_with(&format!("{} connects 2 ", station.v6()))
    );
    let received = pen.recent("recent")[0].rx;
    assert_eq!(received, 2_346_678);
    wait_for("time to pass", || pen.say("recent 1").is_empty());
    assert_eq!(pen.say("recent 300").lines().count(), 2);
    pen.change("clients_max 1");
    assert_eq!(pen.recent("recent").len(), 1);
    pen.stop();
}

#[test]
fn two_thousand_connections_are_listed_at_once() {
    if !lab::ready("two_thousand_connections_are_listed_at_once") {
        return;
    }
    const COUNT: usize = 2000;
    let lab = lab(1);
    let _echo = python::start(lab.backend(0), &crate::crowd::echo(COUNT));
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let _held = python::start(lab.client(), &crate::crowd::hold(COUNT));
    // A client may have its byte a moment before that is counted.
    wait_for("all bytes", || pen.recent("recent")[0].sx == COUNT as u64);
    let start = Instant::now();
    let all = pen.connections("connections");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(all.len(), COUNT);
    let numbers: Vec<u32> = all.iter().map(|one| one.number).collect();
    assert!(numbers.iter().copied().eq(0..COUNT as u32));
    assert!(all.iter().all(|one| (one.sx, one.rx) == (1, 1)));
    let recent = pen.recent("recent");
    assert_eq!((recent.len(), recent[0].connects), (1, COUNT as u64));
    assert_eq!((recent[0].sx, recent[0].rx), (COUNT as u64, COUNT as u64));
    for number in numbers {
        pen.close(number);
    }
    pen.is_left_alone();
    assert_eq!(pen.recent("recent")[0].sx, COUNT as u64);
    pen.stop();
}
