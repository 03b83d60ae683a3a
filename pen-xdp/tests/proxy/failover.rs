//! Servers that can't be reached: the client waits, and is served by another one.

use std::time::{Duration, Instant};

use lab::{Nginx, Signal};
use pen_common::control::BackendState;

use crate::{
    python::{self, Manner},
    rig::{Pen, addresses, answerers, lab, server},
};

#[test]
fn a_refusing_server_costs_no_client_an_answer() {
    if !lab::ready("a_refusing_server_costs_no_client_an_answer") {
        return;
    }
    let lab = lab(2);
    let mut web = Nginx::start_all(&lab, &[80]).unwrap();
    web[0]
        .process()
        .stop(Signal::Term, Duration::from_secs(5))
        .unwrap();
    // No blacklist: every second client meets the server that refuses. Pen stood still for ever
    // after a hundred of them.
    let pen = Pen::start(&lab, &["-r", "-b", "0", "80", &server(0), &server(1)]);
    let before = pen.descriptors();
    let ab = lab
        .client()
        .run_ok("ab", ["-q", "-c", "10", "-n", "2000", &url()])
        .unwrap();
    assert!(
        ab.stdout.contains("Failed requests:        0"),
        "{}",
        ab.stdout
    );
    pen.wait_until_idle();
    let service = pen.service();
    assert!(service.servers[0].failures >= 900, "{service:?}");
    assert_eq!(service.servers[0].connects, 0);
    // ab may open a few connections that it has no request for.
    assert!(
        (2000..=2010).contains(&service.servers[1].connects),
        "{service:?}"
    );
    // The last question's own connection may not be closed yet.
    pen.gives_back_all_but(before);
    pen.stop();
}

fn url() -> String {
    format!("http://{}/", addresses()[0])
}

#[test]
fn a_failed_server_is_left_alone_for_a_time_and_then_tried_again() {
    if !lab::ready("a_failed_server_is_left_alone_for_a_time_and_then_tried_again") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start(&lab, 1, &[80]).unwrap();
    let pen = Pen::start(&lab, &["-r", "-b", "6", "80", &server(0), &server(1)]);
    let failed = Instant::now();
    assert_eq!(answerers(&lab, addresses()[0], 10), ["be1"; 10]);
    let refused = pen.service();
    assert_eq!(refused.servers[0].failures, 1, "{refused:?}");
    assert_eq!(refused.servers[0].state, BackendState::Blacklisted);
    assert!(refused.servers[0].blacklist_left_s.unwrap() <= 6);
    let log = pen.process.output();
    let told = log.matches("(10.77.0.11) can't be reached").count();
    assert_eq!(told, 1, "{log}");
    let _back = Nginx::start(&lab, 0, &[80]).unwrap();
    crate::rig::wait_for("the blacklist to end", || {
        pen.service().servers[0].state == BackendState::Up
    });
    assert!(failed.elapsed() >= Duration::from_secs(6));
    let again = answerers(&lab, addresses()[0], 4);
    assert_eq!(
        again.iter().filter(|name| *name == "be0").count(),
        2,
        "{again:?}"
    );
    pen.stop();
}

#[test]
fn a_server_that_nobody_hears_of_costs_one_client_the_timeout() {
    if !lab::ready("a_server_that_nobody_hears_of_costs_one_client_the_timeout") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    // It swallows what comes for port 80.
    lab.backend(0)
        .ip("route add blackhole 10.77.0.2/32")
        .unwrap();
    let pen = Pen::start(&lab, &["-r", "-t", "1", "80", &server(0), &server(1)]);
    let start = Instant::now();
    assert_eq!(answerers(&lab, addresses()[0], 1), ["be1"]);
    let waited = start.elapsed();
    assert!(
        waited >= Duration::from_secs(1) && waited < Duration::from_secs(10),
        "{waited:?}"
    );
    let start = Instant::now();
    assert_eq!(answerers(&lab, addresses()[0], 5), ["be1"; 5]);
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    pen.stop();
}

#[test]
fn the_emergency_server_serves_when_no_other_can() {
    if !lab::ready("the_emergency_server_serves_when_no_other_can") {
        return;
    }
    let lab = lab(3);
    let _web = Nginx::start(&lab, 2, &[80]).unwrap();
    let last = server(2);
    let pen = Pen::start(
        &lab,
        &["-b", "1", "-e", &last, "80", &server(0), &server(1)],
    );
    assert_eq!(answerers(&lab, addresses()[0], 5), ["be2"; 5]);
    let _back = Nginx::start(&lab, 0, &[80]).unwrap();
    // It is not remembered as the client's.
    crate::rig::wait_for("server 0 to be tried again", || {
        answerers(&lab, addresses()[0], 1) == ["be0"]
    });
    pen.stop();
}

#[test]
fn without_any_server_clients_are_let_go_at_once_and_counted() {
    if !lab::ready("without_any_server_clients_are_let_go_at_once_and_counted") {
        return;
    }
    let lab = lab(2);
    let pen = Pen::start(&lab, &["-r", "80", &server(0), &server(1)]);
    let start = Instant::now();
    assert_eq!(answerers(&lab, addresses()[0], 5), ["-"; 5]);
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    pen.wait_until_idle();
    assert_eq!(pen.refused("no-server"), 5);
    pen.stop();
}

#[test]
fn a_stubborn_service_tries_no_second_server() {
    if !lab::ready("a_stubborn_service_tries_no_second_server") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start(&lab, 1, &[80]).unwrap();
    let pen = Pen::start(&lab, &["-r", "-s", "-b", "0", "80", &server(0), &server(1)]);
    let answers = answerers(&lab, addresses()[0], 6);
    assert_eq!(answers, ["-", "be1", "-", "be1", "-", "be1"]);
    pen.stop();
}

#[test]
fn what_a_server_does_after_the_connection_stands_is_told_to_its_client_alone() {
    if !lab::ready("what_a_server_does_after_the_connection_stands_is_told_to_its_client_alone") {
        return;
    }
    let lab = lab(2);
    let _reset = python::serve(&lab, 0, 80, Manner::Reset);
    let _close = python::serve(&lab, 1, 80, Manner::CloseEarly);
    let pen = Pen::start(&lab, &["-r", "80", &server(0), &server(1)]);
    let said = python::client(
        &lab,
        "for n in range(20):\n\
         \x20c = connect()\n\
         \x20try:\n\
         \x20 c.sendall(b'x'); r = c.recv(1)\n\
         \x20 print('end' if r == b'' else 'bytes', end=' ')\n\
         \x20except ConnectionResetError: print('reset', end=' ')\n\
         \x20c.close()\n",
    );
    // An end after a reset is an end as well, if the client reads first.
    assert!(said.split(' ').all(|word| word != "bytes"), "{said}");
    pen.wait_until_idle();
    let service = pen.service();
    let failures: Vec<u64> = service
        .servers
        .iter()
        .map(|server| server.failures)
        .collect();
    assert_eq!(failures, [0, 0], "the connection stood: {service:?}");
    pen.stop();
}
