//! The access log: what real clients leave in it.

use std::fs;
use std::path::{Path, PathBuf};

use lab::{Lab, Nginx, Station};
use pen_common::control::AccessLogStatus;
use serde_json::Value;

use crate::rig::{PORT, Pen, addresses, answerers, lab, server, wait_for};
use crate::{http, python};

pub(crate) fn file(lab: &Lab, name: &str) -> PathBuf {
    lab.folder().join(name)
}

/// The lines of a log, of which there must be so many soon, and no more.
pub(crate) fn lines(path: &Path, count: usize) -> Vec<String> {
    let read = || -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    wait_for(&format!("{count} lines in the log"), || {
        read().len() >= count
    });
    let lines = read();
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

/// The line that comes last, as JSON.
fn last(path: &Path, count: usize) -> Value {
    let lines = lines(path, count);
    serde_json::from_str(&lines[count - 1]).unwrap()
}

pub(crate) fn counts(pen: &Pen) -> AccessLogStatus {
    pen.service().log.unwrap()
}

/// curl on the client; what it prints.
fn curl(lab: &Lab, words: &[&str]) -> String {
    let own = ["--silent", "--max-time", "10"];
    let output = lab.client().run("curl", own.iter().chain(words));
    output.unwrap().stdout
}

fn url(path: &str) -> String {
    format!("http://{}{path}", addresses()[0])
}

/// Words of the command line for a log.
pub(crate) fn logging<'a>(path: &'a Path, format: &'a str) -> [&'a str; 4] {
    ["-l", path.to_str().unwrap(), "-O", format]
}

/// One request with all that a line can tell; the length of its answer.
fn ask(lab: &Lab) -> usize {
    let headers = ["-A", "a \"b", "-e", "http://r/"];
    let target = url("/x?y");
    let words = [&headers[..], &["-d", "12345", &target]].concat();
    curl(lab, &words).len()
}

#[test]
fn requests_leave_a_line_in_each_format() {
    if !lab::ready("requests_leave_a_line_in_each_format") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let log = file(&lab, "access");
    let more = ["-H", "-r", "80", &server(0)];
    let words = [&logging(&log, "log_format json")[..], &more].concat();
    let pen = Pen::start(&lab, &words);
    let ask = || ask(&lab);
    let length = ask();
    let line = last(&log, 1);
    let client = Station::client().v4().to_string();
    for (key, expected) in [
        ("client", client.as_str()),
        ("service", "pen"),
        ("listener", "[::]:80"),
        ("server", &server(0)),
        ("server_address", &format!("{}:80", server(0))),
        ("chosen", "roundrobin"),
        ("ended", "whole"),
        ("method", "POST"),
        ("target", "/x?y"),
        ("version", "HTTP/1.1"),
        ("host", &addresses()[0].to_string()),
        ("referer", "http://r/"),
        ("user_agent", "a \"b"),
    ] {
        assert_eq!(line[key], expected, "{key}: {line}");
    }
    assert_eq!(
        (line["tries"].as_u64(), line["bytes_in"].as_u64()),
        (Some(0), Some(5))
    );
    assert_eq!(line["bytes_out"], length, "{line}");
    assert!(line["connect_ms"].as_u64() <= line["duration_ms"].as_u64());
    let status = line["status"].as_u64().unwrap();

    pen.change("log_format combined");
    ask();
    let combined = lines(&log, 2).remove(1);
    let begin = format!("{client} - - [");
    let end = format!(
        " +0000] \"POST /x?y HTTP/1.1\" {status} {length} \"http://r/\" \"a \\\"b\" {} roundrobin 0 ",
        server(0)
    );
    assert!(
        combined.starts_with(&begin) && combined.contains(&end),
        "{combined}"
    );
    assert!(combined.ends_with(" whole"), "{combined}");
    pen.change("log_format common");
    ask();
    let common = lines(&log, 3).remove(2);
    let end = format!(" {status} {length} {} roundrobin 0 ", server(0));
    assert!(common.contains(&end), "{common}");
    pen.change("log_format pen");
    ask();
    let words: Vec<String> = lines(&log, 4)[3].split(' ').map(str::to_owned).collect();
    assert_eq!(words[0], client);
    assert!(words[1].parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(words[2..], [&server(0), "POST", "/x?y", "HTTP/1.1"]);
    pen.stop();
}

#[test]
fn a_log_is_changed_and_turned_off_while_clients_are_served() {
    if !lab::ready("a_log_is_changed_and_turned_off_while_clients_are_served") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (first, second) = (file(&lab, "first"), file(&lab, "second"));
    let more = ["-H", "-r", "80", &server(0)];
    let words = [&logging(&first, "log_format common")[..], &more].concat();
    let pen = Pen::start(&lab, &words);
    let length = ask(&lab);
    lines(&first, 1);
    pen.change(&format!("log {}", second.display()));
    ask(&lab);
    lines(&second, 1);
    // One that can't be had: nothing changes.
    let refusal = pen.ask("log /no/such/folder/log").refusal.unwrap();
    for part in ["/no/such/folder/log", "No such file", "make its directory"] {
        assert!(refusal.contains(part), "{refusal}");
    }
    assert_eq!(pen.say("log"), format!("{}\n", second.display()));
    ask(&lab);
    lines(&second, 2);
    pen.change("no log");
    assert_eq!((pen.say("log"), ask(&lab)), (String::new(), length));
    wait_for("all lines", || counts(&pen).written == 3);
    assert_eq!((counts(&pen).target, counts(&pen).failed), (None, 0));
    pen.stop();
    lines(&first, 1);
    lines(&second, 2);
}

#[test]
fn why_a_server_was_chosen_or_nobody_is_in_the_line() {
    if !lab::ready("why_a_server_was_chosen_or_nobody_is_in_the_line") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start(&lab, 1, &[80]).unwrap();
    let log = file(&lab, "access");
    let more = ["-r", "80", &server(0), &server(1)];
    let words = [&logging(&log, "log_format json")[..], &more].concat();
    let pen = Pen::start(&lab, &words);
    assert_eq!(answerers(&lab, addresses()[0], 1), ["be1"]);
    let line = last(&log, 1);
    assert_eq!(line["tries"], 1, "{line}");
    assert_eq!(
        (&line["server"], &line["chosen"]),
        (&server(1).into(), &"roundrobin".into())
    );
    assert_eq!(
        (&line["ended"], line.get("method")),
        (&"whole".into(), None)
    );
    let page = line["bytes_out"].as_u64().unwrap();
    assert!(
        page > 100 && line["bytes_in"].as_u64().unwrap() > 50,
        "{line}"
    );

    pen.change("acl 1 deny all");
    pen.change("client_acl 1");
    assert_eq!(answerers(&lab, addresses()[0], 1), ["-"]);
    let line = last(&log, 2);
    assert_eq!(line["refused"], "acl-denied", "{line}");
    assert_eq!(
        (line.get("server"), &line["ended"]),
        (None, &"refused".into())
    );
    pen.change("log_format common");
    assert_eq!(answerers(&lab, addresses()[0], 1), ["-"]);
    let common = lines(&log, 3).remove(2);
    assert!(common.contains("] \"-\" - 0 - acl-denied 0 - "), "{common}");
    pen.change("no acl 1");

    // In Pen's format the first line of what is sent is there.
    pen.change("log_format pen");
    assert_eq!(answerers(&lab, addresses()[0], 1), ["be1"]);
    let line = lines(&log, 4).remove(3);
    assert!(
        line.ends_with(&format!(" {} GET / HTTP/1.1", server(1))),
        "{line}"
    );
    // A line is in the file before it is counted.
    wait_for("all lines", || counts(&pen).written == 4);
    let service = pen.service();
    let taken: Vec<u64> = service.listeners.iter().map(|at| at.taken).collect();
    assert_eq!((taken, service.accepted), (vec![4], 4));
    pen.stop();
}

#[test]
fn each_listener_has_a_count_of_its_own_and_the_line_names_it() {
    if !lab::ready("each_listener_has_a_count_of_its_own_and_the_line_names_it") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (log, config) = (file(&lab, "access"), file(&lab, "pen.toml"));
    let socket = file(&lab, "door");
    let control = file(&lab, "control");
    let text = format!(
        "control = {control:?}\n\
         [[service]]\nname = \"web\"\nmode = \"tcp\"\nlisten = [\"80\", \"81\", {socket:?}]\n\
         log = {log:?}\nlog_format = \"json\"\n\
         [[service]]\nname = \"second\"\nmode = \"tcp\"\npool = \"web\"\nlisten = \"82\"\n\
         log = {log:?}\nlog_format = \"json\"\n\
         [[pool]]\nname = \"web\"\nbackend = [\"{}:80\"]\n",
        server(0)
    );
    fs::write(&config, text).unwrap();
    let pen = Pen::start_file(&lab, &config, &control);
    let mut count = 0;
    for (port, listener, service) in [
        (PORT, "[::]:80", "web"),
        (81, "[::]:81", "web"),
        (81, "[::]:81", "web"),
        (82, "[::]:82", "second"),
    ] {
        lab::fetch(lab.client(), addresses()[0], port, "/").unwrap();
        count += 1;
        let line = last(&log, count);
        assert_eq!(
            (&line["listener"], &line["service"]),
            (&listener.into(), &service.into())
        );
    }
    let at = socket.to_str().unwrap();
    let words = ["--silent", "--unix-socket", at, "http://x/"];
    assert!(lab.balancer().run_ok("curl", words).is_ok());
    let line = last(&log, 5);
    assert_eq!(
        (line.get("client"), &line["listener"]),
        (None, &at.into()),
        "{line}"
    );
    let taken = pen.status().proxy;
    let taken: Vec<u64> = taken[0].listeners.iter().map(|at| at.taken).collect();
    assert_eq!(taken, [1, 2, 1]);
    pen.stop();
}

#[test]
fn requests_that_no_server_answers_leave_a_line_too() {
    if !lab::ready("requests_that_no_server_answers_leave_a_line_too") {
        return;
    }
    let lab = lab(1);
    let server_process = http::serve(&lab, 0, 0);
    let log = file(&lab, "access");
    let more = ["-H", "-r", "80", &server(0)];
    let words = [&logging(&log, "log_format json")[..], &more].concat();
    let pen = Pen::start(&lab, &words);
    let mut count = 0;
    let mut ask = |script: &str| {
        http::client(&lab, script);
        count += 1;
        last(&log, count)
    };
    let line = ask("raw('GET / HTTP/1.1\\r\\nHost : a\\r\\n\\r\\n')");
    assert_eq!(
        (&line["refused"], &line["status"]),
        (&"bad-request".into(), &400.into())
    );
    // One whose body goes wrong on its way leaves one line, not two.
    let line = ask(
        "raw('POST /x HTTP/1.1\\r\\nHost: a\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n\
         3\\r\\nabc\\r\\nzz\\r\\n')",
    );
    assert_eq!(
        (&line["refused"], &line["status"]),
        (&"bad-request".into(), &400.into())
    );
    let line = ask("raw('CONNECT a:1 HTTP/1.1\\r\\nHost: a:1\\r\\nConnection: close\\r\\n\\r\\n')");
    assert_eq!(
        (&line["status"], line.get("server")),
        (&501.into(), None),
        "{line}"
    );
    let line = ask("raw('GET /nonsense HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n')");
    assert_eq!(
        (&line["refused"], &line["status"]),
        (&"bad-answer".into(), &502.into())
    );
    assert_eq!(line["server"], server(0), "{line}");
    let line = ask("raw('GET /short HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n')");
    assert_eq!(
        (&line["ended"], &line["bytes_out"]),
        (&"server".into(), &3.into()),
        "{line}"
    );
    drop(server_process);
    let line = ask("raw('HEAD / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n')");
    assert_eq!(
        (&line["refused"], &line["status"]),
        (&"connect-failed".into(), &502.into())
    );
    assert_eq!(
        (&line["tries"], &line["bytes_out"]),
        (&1.into(), &0.into()),
        "{line}"
    );
    pen.stop();
}

#[test]
fn who_ended_a_request_is_in_its_line() {
    if !lab::ready("who_ended_a_request_is_in_its_line") {
        return;
    }
    let lab = lab(1);
    let server_process = http::serve(&lab, 0, 0);
    let log = file(&lab, "access");
    let more = ["-H", "-r", "80", &server(0)];
    let words = [&logging(&log, "log_format json")[..], &more].concat();
    let pen = Pen::start(&lab, &words);
    let mut count = 0;
    let mut ask = |script: &str| {
        http::client(&lab, script);
        count += 1;
        last(&log, count)
    };
    let line = ask(
        "c = connect(); c.sendall(b'GET /slow HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'); \
                    time.sleep(0.5); c.close()",
    );
    assert_eq!(
        (&line["ended"], line.get("status")),
        (&"client".into(), None),
        "{line}"
    );
    // What is switched to goes on in the line that it began in.
    let line = ask(
        "c = connect(); c.sendall(b'GET /ws HTTP/1.1\\r\\nHost: a\\r\\nUpgrade: shout\\r\\n\
                    Connection: upgrade\\r\\n\\r\\n'); time.sleep(0.5); c.sendall(b'ho'); \
                    time.sleep(0.5); c.shutdown(1)\nwhile c.recv(100): pass",
    );
    assert_eq!(
        (&line["ended"], &line["status"]),
        (&"whole".into(), &101.into()),
        "{line}"
    );
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&2.into(), &4.into()),
        "{line}"
    );
    // And one that Pen itself ends.
    drop(server_process);
    let _silent = python::serve(&lab, 0, PORT, python::Manner::Silent);
    let ask = || {
        let asking = lab.client().spawn("curl", [url("/silent")]).unwrap();
        wait_for("the request", || pen.service().servers[0].conn == 1);
        asking
    };
    let closed = ask();
    pen.change("close 0");
    assert_eq!(last(&log, count + 1)["ended"], "closed");
    drop(closed);
    let asking = ask();
    pen.stop();
    drop(asking);
    assert_eq!(last(&log, count + 2)["ended"], "stopped");
}

#[test]
fn a_flow_of_datagrams_leaves_a_line_at_its_end() {
    if !lab::ready("a_flow_of_datagrams_leaves_a_line_at_its_end") {
        return;
    }
    let lab = lab(1);
    let _server = python::start(
        lab.backend(0),
        "import socket as s\n\
         l = s.socket(s.AF_INET, s.SOCK_DGRAM); l.bind(('', 53)); print('ready', flush=True)\n\
         while True:\n\
         \x20b, a = l.recvfrom(999); l.sendto(b + b'!', a)",
    );
    let log = file(&lab, "access");
    let more = ["-O", "idle_timeout 1", "-U", "-r", "53", &server(0)];
    let words = [&logging(&log, "log_format json")[..], &more].concat();
    let pen = Pen::start(&lab, &words);
    let talk = |words: &str| {
        let to = addresses()[0];
        let script = format!(
            "f = s.socket(s.AF_INET, s.SOCK_DGRAM); f.settimeout(5)\n\
             for w in {words}:\n\
             \x20f.sendto(w, ('{to}', 53)); f.recv(99)"
        );
        let script = format!("import socket as s\n{script}");
        lab.client().run_ok("python3", ["-c", &script]).unwrap();
    };
    talk("[b'abc', b'de']");
    let line = last(&log, 1);
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&5.into(), &7.into()),
        "{line}"
    );
    assert_eq!(
        (&line["ended"], &line["server"]),
        (&"idle".into(), &server(0).into())
    );
    assert!(line["duration_ms"].as_u64().unwrap() >= 1000, "{line}");
    pen.change("log_format pen");
    talk("[b'abc\\n', b'de']");
    let line = lines(&log, 2).remove(1);
    assert!(line.ends_with(&format!(" {} abc", server(0))), "{line}");
    // One that is there when Pen stops.
    pen.change("log_format json");
    talk("[b'abc']");
    pen.change("close 0");
    assert_eq!(last(&log, 3)["ended"], "closed");
    talk("[b'abc']");
    pen.stop();
    assert_eq!(last(&log, 4)["ended"], "stopped");
}
