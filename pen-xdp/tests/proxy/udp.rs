//! UDP: who answers, from where, and what is left when all is over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use lab::{Lab, Process, Signal, Station};

use crate::python::start;
use crate::rig::{Pen, addresses, lab, server, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
/// Where every test listens: a port of DNS, as that is what people balance.
const PORT: u16 = 53;

/// A server on back end `index` that answers `beN ` and what it got, or never.
fn serve(lab: &Lab, index: usize, answers: bool) -> Process {
    let answer = match answers {
        true => format!("l.sendto((b'be{index} ' + b)[:65507], a)"),
        false => "pass".to_owned(),
    };
    let script = format!(
        "import socket as s\n\
         l = s.socket(s.AF_INET6, s.SOCK_DGRAM)\n\
         l.setsockopt(s.IPPROTO_IPV6, s.IPV6_V6ONLY, 0)\n\
         l.setsockopt(s.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE\n\
         l.bind(('::', {PORT}))\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20b, a = l.recvfrom(65535)\n\
         \x20{answer}\n"
    );
    start(lab.backend(index), &script)
}

pub(crate) fn serve_all(lab: &Lab) -> Vec<Process> {
    let count = lab.backends().len();
    (0..count).map(|index| serve(lab, index, true)).collect()
}

/// Open descriptors of the daemon when nobody comes or goes.
fn descriptors_at_rest(pen: &Pen) -> usize {
    let mut last = 0;
    wait_for("descriptors to stay", || {
        std::thread::sleep(Duration::from_millis(300));
        pen.descriptors() == std::mem::replace(&mut last, pen.descriptors())
    });
    last
}

/// What a script prints on the client. `flow()` is a new socket, `ask(s, data)` the answer to a
/// datagram (empty if there is none) and where that came from; both take `to=`.
pub(crate) fn client(lab: &Lab, to: IpAddr, script: &str) -> String {
    let script = format!(
        "import socket, time, select\n\
         TO = '{to}'\n\
         def flow(to=TO):\n\
         \x20s = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET, socket.SOCK_DGRAM)\n\
         \x20s.settimeout(3)\n\
         \x20return s\n\
         def ask(s, data=b'x', to=TO):\n\
         \x20s.sendto(data, (to, {PORT}))\n\
         \x20try: b, a = s.recvfrom(65535)\n\
         \x20except TimeoutError: return b'', None\n\
         \x20return b, a[:2]\n\
         def name(*a, **k): return ask(*a, **k)[0].split(b' ')[0].decode() or '-'\n\
         {script}"
    );
    let output = lab.client().run_for(LIMIT, "python3", ["-c", &script]);
    let output = output.unwrap();
    assert!(output.ok(), "{}", output.text());
    output.stdout.trim().to_owned()
}

/// Who answers each of so many flows of one datagram.
fn answerers(lab: &Lab, flows: usize) -> Vec<String> {
    // None is closed before the last one is open: its port would be another flow's.
    let script = format!("all = [flow() for _ in range({flows})]; print(*map(name, all))");
    let said = client(lab, addresses()[0], &script);
    said.split(' ').map(str::to_owned).collect()
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    if !lab::ready("answers_come_from_the_address_that_was_asked") {
        return;
    }
    let lab = lab(1);
    let _servers = serve_all(&lab);
    for address in ["10.77.0.150/24", "fd77::150/64 nodad"] {
        let words = format!("addr add {address} dev eth0");
        lab.balancer().ip(&words).unwrap();
    }
    let pen = Pen::start(&lab, &["-U", "53", &server(0)]);
    let others = ["10.77.0.150", "fd77::150"];
    for (own, other) in addresses().into_iter().zip(others) {
        let said = client(
            &lab,
            own,
            &format!(
                "s = flow()\n\
                 for to in (TO, '{other}', TO):\n\
                 \x20b, a = ask(s, to=to)\n\
                 \x20assert (b, a) == (b'be0 x', (to, {PORT})), (to, b, a)\n\
                 b, a = ask(flow(), b'')\n\
                 assert b == b'be0 ', b\n\
                 print('ok')"
            ),
        );
        assert_eq!(said, "ok");
    }
    let service = pen.service();
    assert_eq!(service.mode, pen_common::config::Mode::Udp);
    // A socket that asks two addresses has two flows.
    assert_eq!((service.connections, service.accepted), (6, 6));
    let server = &service.servers[0];
    assert_eq!((server.conn, server.connects, server.failures), (6, 6, 0));
    assert_eq!((server.sx, server.rx), (6, 6 * 5 + 2 * 4));
    pen.stop();
}

#[test]
fn flows_are_spread_evenly_and_nothing_is_left_of_them() {
    if !lab::ready("flows_are_spread_evenly_and_nothing_is_left_of_them") {
        return;
    }
    let lab = lab(3);
    let _servers = serve_all(&lab);
    let words = [
        "-U",
        "-r",
        "-O",
        "idle_timeout 2",
        "53",
        &server(0),
        &server(1),
        &server(2),
    ];
    let pen = Pen::start(&lab, &words);
    let before = descriptors_at_rest(&pen);
    let mut shares = BTreeMap::new();
    for name in answerers(&lab, 60) {
        *shares.entry(name).or_insert(0) += 1;
    }
    assert_eq!(shares.into_values().collect::<Vec<_>>(), [20; 3]);
    assert!(pen.descriptors() > before);
    pen.wait_until_idle();
    assert_eq!(descriptors_at_rest(&pen), before);
    let service = pen.service();
    assert_eq!(service.accepted, 60);
    let connects: Vec<u64> = service.servers.iter().map(|s| s.connects).collect();
    assert_eq!(connects, [20; 3]);
    assert!(pen.servers().iter().all(|s| s.conn == 0));
    pen.stop();
}

#[test]
fn a_flow_stays_at_its_server_as_long_as_it_speaks() {
    if !lab::ready("a_flow_stays_at_its_server_as_long_as_it_speaks") {
        return;
    }
    let lab = lab(3);
    let _servers = serve_all(&lab);
    let words = [
        "-U",
        "-r",
        "-O",
        "idle_timeout 2",
        "53",
        &server(0),
        &server(1),
        &server(2),
    ];
    let pen = Pen::start(&lab, &words);
    let said = client(
        &lab,
        addresses()[1],
        "flows = [flow() for _ in range(30)]\n\
         names = [[name(s) for s in flows] for _ in range(20)]\n\
         assert all(n == names[0] for n in names), names\n\
         # Longer than the idle time, without ever being idle.\n\
         for _ in range(10): time.sleep(0.5); assert name(flows[0]) == names[0][0]\n\
         print(len(set(names[0])))",
    );
    assert_eq!(said, "3");
    assert_eq!(pen.service().accepted, 30);
    pen.stop();
}

#[test]
fn a_datagram_that_one_server_refuses_is_answered_by_another() {
    if !lab::ready("a_datagram_that_one_server_refuses_is_answered_by_another") {
        return;
    }
    let lab = lab(2);
    let mut servers = vec![serve(&lab, 1, true)];
    let pen = Pen::start(&lab, &["-U", "-b", "600", "53", &server(0), &server(1)]);
    assert_eq!(answerers(&lab, 3), ["be1"; 3]);
    let first = &pen.service().servers[0];
    assert_eq!((first.failures, first.conn), (1, 0));
    // A server that goes while a flow is with it: the next datagram but one goes elsewhere.
    servers.push(serve(&lab, 0, true));
    pen.change("server 0 blacklist 0");
    pen.change("server 1 blacklist 600");
    let address = addresses()[0];
    let flow = "s = flow(); s.bind(('', 4000)); print(name(s), name(s))";
    assert_eq!(client(&lab, address, flow), "be0 be0");
    servers[1].stop(Signal::Kill, LIMIT).unwrap();
    pen.change("server 1 blacklist 0");
    let flow = "s = flow(); s.bind(('', 4000)); print(name(s), name(s), name(s))";
    assert_eq!(client(&lab, address, flow), "- be1 be1");
    assert_eq!(pen.refused("no-server"), 0);
    pen.stop();
}

#[test]
fn with_all_servers_gone_nobody_answers_and_nothing_is_kept() {
    if !lab::ready("with_all_servers_gone_nobody_answers_and_nothing_is_kept") {
        return;
    }
    let lab = lab(2);
    let pen = Pen::start(&lab, &["-U", "-b", "1", "53", &server(0), &server(1)]);
    let before = descriptors_at_rest(&pen);
    assert_eq!(answerers(&lab, 2), ["-"; 2]);
    pen.wait_until_idle();
    assert_eq!(descriptors_at_rest(&pen), before);
    assert!(pen.refused("no-server") >= 1);
    let _servers = serve_all(&lab);
    wait_for("the servers to be tried again", || {
        answerers(&lab, 1) != ["-"]
    });
    pen.stop();
}

#[test]
fn a_silent_server_is_left_by_command_only() {
    if !lab::ready("a_silent_server_is_left_by_command_only") {
        return;
    }
    let lab = lab(2);
    let _servers = [serve(&lab, 0, false), serve(&lab, 1, true)];
    let pen = Pen::start(&lab, &["-U", "53", &server(0), &server(1)]);
    assert_eq!(answerers(&lab, 2), ["-"; 2]);
    pen.change("server 0 blacklist 60");
    assert_eq!(answerers(&lab, 3), ["be1"; 3]);
    let servers = pen.service().servers;
    assert_eq!((servers[0].conn, servers[0].failures), (2, 0));
    pen.stop();
}

#[test]
fn a_denied_client_is_not_answered() {
    if !lab::ready("a_denied_client_is_not_answered") {
        return;
    }
    let lab = lab(1);
    let _servers = serve_all(&lab);
    let deny = format!("acl 1 deny {}", Station::client().v4());
    let words = ["-U", "-O", &deny, "-O", "client_acl 1", "53", &server(0)];
    let pen = Pen::start(&lab, &words);
    assert_eq!(answerers(&lab, 2), ["-"; 2]);
    let allowed = client(&lab, addresses()[1], "print(name(flow()))");
    assert_eq!(allowed, "be0");
    assert_eq!(pen.refused("acl-denied"), 2);
    assert_eq!(pen.service().servers[0].sx, 1);
    pen.stop();
}

#[test]
fn datagrams_arrive_whole_whatever_their_size() {
    if !lab::ready("datagrams_arrive_whole_whatever_their_size") {
        return;
    }
    let lab = lab(1);
    let _servers = serve_all(&lab);
    for second in [Station::backend(0).v4().to_string(), "[fd77::b]".into()] {
        let pen = Pen::start(&lab, &["-U", "53", &second]);
        for to in addresses() {
            let said = client(
                &lab,
                to,
                "import os\n\
                 s = flow()\n\
                 for size in (1, 1400, 4000, 60000, 65503):\n\
                 \x20data = os.urandom(size)\n\
                 \x20assert ask(s, data)[0] == b'be0 ' + data, size\n\
                 print('ok')",
            );
            assert_eq!(said, "ok", "{to} to {second}");
        }
        pen.stop();
    }
}

#[test]
fn as_many_flows_as_may_be_and_then_the_longest_silent_makes_room() {
    if !lab::ready("as_many_flows_as_may_be_and_then_the_longest_silent_makes_room") {
        return;
    }
    let lab = lab(1);
    let _servers = serve_all(&lab);
    // A client at one socket is on one thread, and only flows of that thread make room.
    let pen = Pen::start(&lab, &["-U", "-x", "40", "53", &server(0)]);
    let said = client(
        &lab,
        addresses()[0],
        "flows = [flow() for _ in range(60)]\n\
         for s in flows: s.sendto(b'x', (TO, 53))\n\
         end = time.monotonic() + 10; ready = []\n\
         while len(ready) < 40 and time.monotonic() < end:\n\
         \x20time.sleep(0.5); ready = select.select(flows, [], [], 0)[0]\n\
         print(len(ready))\n\
         time.sleep(1)\n\
         print(*{name(flow()) for _ in range(10)})",
    );
    assert_eq!(said, "40\nbe0");
    assert_eq!(pen.refused("too-many-connections"), 20);
    assert_eq!(pen.service().connections, 40);
    pen.stop();
}

/// Datagrams that the kernel dropped before Pen could take them, at all its sockets.
fn lost_in_kernel(pen: &Pen) -> u64 {
    let id = pen.process.id();
    let tables = ["udp", "udp6"].map(|name| format!("/proc/{id}/net/{name}"));
    let lines = tables.map(|table| std::fs::read_to_string(table).unwrap());
    let lines = lines.iter().flat_map(|text| text.lines().skip(1));
    let drops = lines.map(|line| line.split_whitespace().last().unwrap().parse::<u64>());
    drops.map(Result::unwrap).sum()
}

#[test]
fn a_flood_is_accounted_for_and_takes_no_memory() {
    if !lab::ready("a_flood_is_accounted_for_and_takes_no_memory") {
        return;
    }
    let lab = lab(2);
    let _servers = serve_all(&lab);
    let words = ["-U", "-r", "53", &server(0), &server(1)];
    let pen = Pen::start(&lab, &words);
    assert_eq!(answerers(&lab, 10).len(), 10);
    let (memory, before) = (pen.resident_kib(), pen.service());
    // By ports that the kernel gives to nobody: one of the ten before would be a flow that is there.
    let said = client(
        &lab,
        addresses()[0],
        "flows = [flow() for _ in range(200)]\n\
         for n, s in enumerate(flows): s.bind(('', 20000 + n)); s.connect((TO, 53)); s.setblocking(False)\n\
         got = 0\n\
         def drain():\n\
         \x20n = 0\n\
         \x20for s in flows:\n\
         \x20 try:\n\
         \x20  while True: s.recv(100); n += 1\n\
         \x20 except BlockingIOError: pass\n\
         \x20return n\n\
         for _ in range(250):\n\
         \x20for s in flows: s.send(b'0123456789')\n\
         \x20got += drain()\n\
         end = time.time() + 2\n\
         while time.time() < end: time.sleep(0.1); got += drain()\n\
         print(got)",
    );
    let answered: u64 = said.parse().unwrap();
    let after = pen.service();
    let sum = |of: fn(&pen_common::control::ProxyServerStatus) -> u64| {
        let all = |service: &pen_common::control::ProxyStatus| -> u64 {
            service.servers.iter().map(of).sum()
        };
        all(&after) - all(&before)
    };
    let (sent, returned) = (sum(|s| s.sx) / 10, sum(|s| s.rx) / 14);
    let dropped = pen.refused("datagram-dropped");
    let lost = lost_in_kernel(&pen);
    let all =
        format!("{answered} of {returned} of {sent}, {dropped} dropped, {lost} in the kernel");
    assert!(
        answered > 10_000 && answered <= returned && returned <= sent,
        "{all}"
    );
    assert!(sent + dropped + lost >= 49_500 && sent <= 50_000, "{all}");
    assert!(returned <= answered + dropped + 500, "{all}");
    assert_eq!(after.accepted - before.accepted, 200);
    let grown = pen.resident_kib().saturating_sub(memory);
    assert!(grown < 8 * 1024, "{grown} KiB more");
    pen.stop();
}

#[test]
fn a_port_that_somebody_has_is_not_shared_in_silence() {
    if !lab::ready("a_port_that_somebody_has_is_not_shared_in_silence") {
        return;
    }
    let lab = lab(1);
    let pen = Pen::start(&lab, &["-U", "53", &server(0)]);
    for listen in ["53", "0.0.0.0:53", "[::]:53/udp"] {
        let words = ["-f", "-U", listen, &server(0)];
        let balancer = lab.balancer();
        let output = balancer.run_for(LIMIT, env!("CARGO_BIN_EXE_pen"), words);
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", output.text());
        assert!(output.text().contains("ss -lunp"), "{}", output.text());
    }
    pen.stop();
}
