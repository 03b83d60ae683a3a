//! Many clients, or more than there is room for.

use std::time::Duration;

use lab::{Lab, Nginx};
use nix::sys::resource::{Resource, getrlimit};
use rustix::process::{Pid, Resource as Limit, Rlimit, prlimit};

use crate::{
    python::{self, Manner},
    rig::{Pen, addresses, lab, server, wait_for},
};

/// Opens so many connections and holds them; says `held` when each had an answer.
pub(crate) fn hold(count: usize) -> String {
    format!(
        "import resource, socket as s, time\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, ({count} + 100, {count} + 100))\n\
         held = []\n\
         for n in range({count}):\n\
         \x20c = s.create_connection(('{}', 80), timeout=20); held.append(c)\n\
         \x20c.sendall(b'x'); assert c.recv(1) == b'x'\n\
         print('ready', flush=True)\n\
         time.sleep(60)\n",
        addresses()[0]
    )
}

/// An echo server without threads.
pub(crate) fn echo(count: usize) -> String {
    format!(
        "import resource, selectors, socket as s\n\
         resource.setrlimit(resource.RLIMIT_NOFILE, ({count} + 100, {count} + 100))\n\
         l = s.create_server(('', 80), backlog=1000)\n\
         e = selectors.DefaultSelector(); e.register(l, selectors.EVENT_READ)\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20for key, _ in e.select():\n\
         \x20 if key.fileobj is l: e.register(l.accept()[0], selectors.EVENT_READ)\n\
         \x20 else:\n\
         \x20  c = key.fileobj; b = c.recv(1000)\n\
         \x20  if b: c.sendall(b)\n\
         \x20  else: e.unregister(c); c.close()\n"
    )
}

/// How many of `count` clients are served, each for itself: who comes to one thread's socket does
/// not wait for those at the other's.
fn served(lab: &Lab, count: usize) -> String {
    let script = format!(
        "import threading\n\
         served = []\n\
         def one():\n\
         \x20c = connect(); c.sendall(b'x')\n\
         \x20if c.recv(1) == b'x': served.append(1)\n\
         \x20time.sleep(0.2); c.close()\n\
         all = [threading.Thread(target=one) for _ in range({count})]\n\
         for t in all: t.start()\n\
         for t in all: t.join()\n\
         print(len(served))\n"
    );
    python::client(lab, &script)
}

#[test]
fn ten_thousand_idle_connections_cost_little_memory_and_no_time() {
    if !lab::ready("ten_thousand_idle_connections_cost_little_memory_and_no_time") {
        return;
    }
    // Two descriptors each, and this process may not be allowed quite as many.
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let count = usize::try_from(files - files / 8)
        .unwrap()
        .saturating_sub(200)
        / 2;
    let count = count.min(10_000);
    assert!(count >= 8_000, "only {files} open files are allowed");
    let lab = lab(1);
    let _server = python::start(lab.backend(0), &echo(count));
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let before = pen.resident_kib();
    let script = hold(count);
    let client = lab.client().spawn("python3", ["-c", &script]).unwrap();
    client
        .wait_for_line("ready", Duration::from_secs(60))
        .unwrap();
    assert_eq!(pen.service().connections as usize, count);
    let each = (pen.resident_kib() - before) as f64 / count as f64;
    assert!(each <= 16.0, "{each} KiB for each idle connection");
    pen.rests();
    drop(client);
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn clients_wait_while_there_are_no_descriptors_and_are_served_then() {
    if !lab::ready("clients_wait_while_there_are_no_descriptors_and_are_served_then") {
        return;
    }
    let lab = lab(1);
    let _server = python::start(lab.backend(0), &echo(1000));
    // Room for twenty clients.
    let pen = Pen::start_limited(&lab, 160, &["80", &server(0)]);
    assert!(pen.process.output().contains("enough for 20 clients"));
    assert_eq!(served(&lab, 60), "60");
    pen.wait_until_idle();
    let output = pen.process.output();
    let told = output.matches("clients have to wait").count();
    // Once on each thread, as long as it lasts.
    assert!((1..=4).contains(&told), "told {told} times:\n{output}");
    pen.stop();
}

/// The kernel's own word that no descriptor is left, where something else than clients has taken them:
/// waiting costs no time, and ends with its cause.
#[test]
fn a_client_whom_accept_has_no_number_for_is_served_later() {
    if !lab::ready("a_client_whom_accept_has_no_number_for_is_served_later") {
        return;
    }
    let lab = lab(1);
    let _server = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let process = Pid::from_raw(pen.process.id().cast_signed());
    let own = rustix::process::getrlimit(Limit::Nofile);
    let none = Rlimit {
        current: Some(3),
        maximum: own.maximum,
    };
    let before = prlimit(process, Limit::Nofile, none).unwrap();
    let url = format!("http://{}/", addresses()[0]);
    let client = lab.client().spawn("curl", ["-sSm", "30", &url]).unwrap();
    let said = |what| pen.process.output().contains(what);
    wait_for("the complaint", || {
        said("clients have to wait: Too many open files")
    });
    let used = pen.cpu_seconds();
    std::thread::sleep(Duration::from_secs(1));
    assert!(pen.cpu_seconds() - used < 0.3, "it spins");
    prlimit(process, Limit::Nofile, before).unwrap();
    client
        .wait_for_line("be0", Duration::from_secs(20))
        .unwrap();
    wait_for("the all-clear", || said("clients are served at once again"));
    pen.stop();
}

#[test]
fn no_more_clients_than_allowed_are_taken_and_the_others_wait() {
    if !lab::ready("no_more_clients_than_allowed_are_taken_and_the_others_wait") {
        return;
    }
    let lab = lab(1);
    let _echo = python::serve(&lab, 0, 80, Manner::Echo);
    let pen = Pen::start(&lab, &["-x", "5", "80", &server(0)]);
    assert_eq!(served(&lab, 20), "20");
    pen.wait_until_idle();
    assert_eq!(pen.service().accepted, 20);
    pen.stop();
}

#[test]
fn nothing_leaks_over_many_refused_connects() {
    if !lab::ready("nothing_leaks_over_many_refused_connects") {
        return;
    }
    // All of them refuse, and each client meets every one.
    let (servers, connects) = match std::env::var_os("PEN_TEST_ALL") {
        Some(_) => (20, 1_000_000),
        None => (2, 100_000),
    };
    let lab = lab(2);
    let places: Vec<String> = (0..servers)
        .map(|number| format!("{}:{}", server(number % 2), 81 + number))
        .collect();
    let words = ["-r", "-b", "0", "80"].into_iter();
    let words: Vec<&str> = words.chain(places.iter().map(String::as_str)).collect();
    let pen = Pen::start(&lab, &words);
    let burst = |clients: usize| {
        let script = format!(
            "for n in range({clients}):\n\
             \x20c = connect(); assert c.recv(1) == b''; c.close()\n\
             print('done')\n"
        );
        assert_eq!(python::client(&lab, &script), "done");
    };
    // What is kept to be used again is there before it is counted.
    let warm = 500;
    burst(warm);
    pen.wait_until_idle();
    let (descriptors, memory) = (pen.descriptors(), pen.resident_kib());
    let bursts = connects / 20_000;
    for _ in 0..bursts {
        burst(connects / servers / bursts);
    }
    pen.wait_until_idle();
    pen.gives_back_all_but(descriptors);
    let grown = pen.resident_kib().saturating_sub(memory);
    assert!(grown < 2048, "{grown} KiB more than before");
    let service = pen.service();
    let clients = connects / servers + warm;
    for server in &service.servers {
        assert_eq!(
            (server.failures, server.connects),
            (clients as u64, 0),
            "{server:?}"
        );
    }
    assert_eq!(service.accepted, clients as u64);
    assert_eq!(pen.refused("no-server"), clients as u64);
    wait_for("the last client's end", || pen.service().connections == 0);
    pen.stop();
}

#[test]
fn wrk_sees_no_error_and_all_count_the_same() {
    if !lab::ready("wrk_sees_no_error_and_all_count_the_same") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["-H", "-r", "80", &server(0), &server(1)]);
    let url = format!("http://{}/", addresses()[0]);
    let words = ["-t", "2", "-c", "64", "-d", "2s", url.as_str()];
    let said = lab.client().run_ok("wrk", words).unwrap().stdout;
    assert!(!said.contains("Socket errors"), "{said}");
    assert!(!said.contains("Non-2xx"), "{said}");
    let line = said.lines().find(|line| line.contains(" requests in "));
    let answered: u64 = line
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(answered > 500, "{said}");
    pen.wait_until_idle();
    let service = pen.service();
    // wrk leaves in the middle: a request of each connection may go unanswered.
    let asked = answered..=answered + 64;
    assert!(asked.contains(&service.accepted), "{answered}: {service:?}");
    let sent: u64 = service.servers.iter().map(|server| server.connects).sum();
    assert!(asked.contains(&sent), "{answered}: {service:?}");
    let uneven = service.servers[0]
        .connects
        .abs_diff(service.servers[1].connects);
    assert!(uneven <= 64, "they take turns: {service:?}");
    assert!(service.servers.iter().all(|server| server.failures == 0));
    assert!(
        service.refused.iter().all(|counter| counter.count == 0),
        "{service:?}"
    );
    pen.stop();
}

#[test]
fn idle_clients_make_room_where_descriptors_are_used_up() {
    if !lab::ready("idle_clients_make_room_where_descriptors_are_used_up") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let words = ["-H", "-O", "head_timeout 60", "80", &server(0)];
    let pen = Pen::start_limited(&lab, 160, &words);
    assert!(pen.process.output().contains("enough for 20 clients"));
    let script = "def ask(c): c.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'); return c.recv(65536)[:15]\n\
                  def come(): c = connect(); assert ask(c) == b'HTTP/1.1 200 OK'; time.sleep(0.02); return c\n\
                  def gone(c):\n\
                  \x20c.setblocking(False)\n\
                  \x20try:\n\
                  \x20 while c.recv(65536): pass\n\
                  \x20 return True\n\
                  \x20except BlockingIOError: return False\n\
                  held = [come() for n in range(20)]\n\
                  start = time.monotonic()\n\
                  more = [come() for n in range(10)]\n\
                  assert time.monotonic() - start < 8, time.monotonic() - start\n\
                  closed = [n for n, c in enumerate(held) if gone(c)]\n\
                  assert closed == list(range(len(closed))), closed\n\
                  print(len(closed), sum(gone(c) for c in more))\n";
    let said = python::client(&lab, script);
    let (closed, others) = said.split_once(' ').unwrap();
    // On a machine that is slow to close one, another one may go, too.
    let closed: u32 = closed.parse().unwrap();
    assert!((10..=16).contains(&closed), "{said}");
    assert_eq!(others, "0", "the oldest go first");
    pen.wait_until_idle();
    pen.stop();
}
