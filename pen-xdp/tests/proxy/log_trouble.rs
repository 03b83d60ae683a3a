//! The access log where things go wrong: it never stands in a client's way.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lab::{Nginx, Signal, Station};
use serde_json::Value;

use crate::log::{counts, file, lines, logging};
use crate::rig::{PORT, Pen, addresses, answerers, lab, server, wait_for};
use crate::{http, python};

#[test]
fn penlogd_hears_of_a_request_while_it_is_served() {
    if !lab::ready("penlogd_hears_of_a_request_while_it_is_served") {
        return;
    }
    let lab = lab(1);
    let _server = python::serve(&lab, 0, PORT, python::Manner::Echo);
    let to = format!("{}:10000", Station::client().v4());
    let pen = Pen::start(&lab, &["-l", &to, "-r", "80", &server(0)]);
    let client = Station::client().v4();
    let said = python::client(
        &lab,
        "u = s.socket(s.AF_INET, s.SOCK_DGRAM); u.bind(('', 10000)); u.settimeout(5)\n\
         c = connect(); c.sendall(b'GET /\\xff HTTP/1.0\\r\\n\\r\\n'); c.recv(99)\n\
         print(u.recv(999).decode())\n\
         c.close(); u.settimeout(1)\n\
         try: print(u.recv(999))\n\
         except TimeoutError: print('no more')",
    );
    let expected = format!("+ {client} {} GET /. HTTP/1.0\nno more", server(0));
    assert_eq!(said, expected);
    // Nobody listens any more, and nobody minds.
    for _ in 0..3 {
        let said = python::client(&lab, "c = connect(); c.sendall(b'x\\n'); print(c.recv(9))");
        assert_eq!(said, "b'x\\n'");
    }
    wait_for("all lines", || counts(&pen).written == 4);
    assert_eq!(counts(&pen).failed, 0);
    pen.stop();
}

#[test]
fn a_log_that_was_renamed_goes_on_under_its_old_name() {
    if !lab::ready("a_log_that_was_renamed_goes_on_under_its_old_name") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (log, old) = (file(&lab, "access"), file(&lab, "access.1"));
    let more = ["-r", "80", &server(0)];
    let words = [&logging(&log, "log_format pen")[..], &more].concat();
    let pen = Pen::start(&lab, &words);
    answerers(&lab, addresses()[0], 2);
    lines(&log, 2);
    fs::rename(&log, &old).unwrap();
    answerers(&lab, addresses()[0], 1);
    lines(&old, 3);
    pen.process.signal(Signal::Hup).unwrap();
    pen.process
        .wait_for_line("1 access logs are opened again", Duration::from_secs(5))
        .unwrap();
    wait_for("the new file", || log.exists());
    answerers(&lab, addresses()[0], 1);
    lines(&log, 1);
    lines(&old, 3);
    assert_eq!(counts(&pen).written, 4);
    pen.stop();
}

#[test]
fn a_full_disk_costs_lines_and_no_clients() {
    if !lab::ready("a_full_disk_costs_lines_and_no_clients") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let disk = file(&lab, "disk");
    fs::create_dir_all(&disk).unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=64k none {} && exec \"$@\"",
        disk.display()
    );
    let by = ["unshare", "-m", "sh", "-c", &mount, "sh"];
    let log = disk.join("access");
    let more = ["-r", "80", &server(0)];
    let words = [&logging(&log, "log_format json")[..], &more].concat();
    let pen = Pen::start_by(&lab, &by, &words);
    // Its own view of the disk.
    let seen = |path: &Path| {
        let root = format!("/proc/{}/root", pen.process.id());
        Path::new(&root).join(path.strip_prefix("/").unwrap())
    };
    answerers(&lab, addresses()[0], 1);
    lines(&seen(&log), 1);
    let ballast = seen(&disk.join("ballast"));
    assert!(
        fs::write(&ballast, vec![0; 1 << 20]).is_err(),
        "the disk is full"
    );
    // The page that the log has begun takes some more.
    assert_eq!(answerers(&lab, addresses()[0], 30), vec!["be0"; 30]);
    wait_for("lines that fail", || {
        let counts = counts(&pen);
        counts.failed > 5 && counts.written + counts.failed >= 30
    });
    let told = |pen: &Pen, what: &str| pen.process.output().matches(what).count();
    assert_eq!(
        told(&pen, "can't be written"),
        1,
        "{}",
        pen.process.output()
    );
    fs::remove_file(&ballast).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(answerers(&lab, addresses()[0], 1), ["be0"]);
    pen.process
        .wait_for_line("is written again", Duration::from_secs(5))
        .unwrap();
    let counts = counts(&pen);
    assert_eq!(counts.written + counts.failed, 32);
    let lines = lines(&seen(&log), counts.written as usize);
    for line in &lines {
        let whole: Value = serde_json::from_str(line).unwrap();
        assert_eq!(whole["ended"], "whole");
    }
    assert_eq!(
        told(&pen, "can't be written"),
        1,
        "{}",
        pen.process.output()
    );
    pen.stop();
}

#[test]
fn a_fifo_that_nobody_reads_costs_lines_and_no_clients() {
    if !lab::ready("a_fifo_that_nobody_reads_costs_lines_and_no_clients") {
        return;
    }
    let lab = lab(1);
    let _server = http::serve(&lab, 0, 0);
    let log = file(&lab, "access");
    lab.balancer()
        .run_ok("mkfifo", [log.to_str().unwrap()])
        .unwrap();
    let more = ["-H", "-r", "80", &server(0)];
    let words = [&logging(&log, "log_format json")[..], &more].concat();
    let pen = Pen::start(&lab, &words);
    let said = http::client(
        &lab,
        "h = over(); page = '/' + 'x' * 1500\n\
         print({ask(h, path=page)[0].status for _ in range(200)})",
    );
    assert_eq!(said, "{200}");
    wait_for("lines that fail", || counts(&pen).failed > 100);
    let counts_now = counts(&pen);
    assert!(counts_now.written >= 20, "{counts_now:?}");
    // Somebody comes to read.
    let reading = lab.client().spawn("cat", [log.to_str().unwrap()]).unwrap();
    reading
        .wait_for_line("\"target\":\"/x", Duration::from_secs(5))
        .unwrap();
    let before = counts(&pen).failed;
    http::client(&lab, "ask(over(), path='/late')");
    reading
        .wait_for_line("\"target\":\"/late\"", Duration::from_secs(5))
        .unwrap();
    assert_eq!(counts(&pen).failed, before);
    pen.stop();
}
