//! Requests that two readers could take for different ones (RFC 9112), and heads that never end.

use crate::{
    http::{client, said, serve},
    rig::{Pen, lab, server, wait_for},
};

/// Every request asks for `/bad`, so that the server's word tells whether it got there.
const CASES: &[(&str, &str)] = &[
    (
        "both framings",
        "POST /bad HTTP/1.1|Host: a|Content-Length: 3|Transfer-Encoding: chunked||0||",
    ),
    (
        "both, turned",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: chunked|Content-Length: 3||0||",
    ),
    (
        "lengths",
        "POST /bad HTTP/1.1|Host: a|Content-Length: 3|Content-Length: 4||abcd",
    ),
    (
        "list",
        "POST /bad HTTP/1.1|Host: a|Content-Length: 3, 3||abc",
    ),
    ("sign", "POST /bad HTTP/1.1|Host: a|Content-Length: +3||abc"),
    ("hex", "POST /bad HTTP/1.1|Host: a|Content-Length: 0x3||abc"),
    (
        "huge",
        "POST /bad HTTP/1.1|Host: a|Content-Length: 99999999999999999999||abc",
    ),
    ("obs-fold", "GET /bad HTTP/1.1|Host: a|X: b| c||"),
    ("fold first", "GET /bad HTTP/1.1| Host: a|Host: b||"),
    (
        "bare CR",
        "GET /bad HTTP/1.1|Host: a|X: b\rTransfer-Encoding: chunked||",
    ),
    ("bare CR in the name", "GET /bad HTTP/1.1|Host: a|X\rY: b||"),
    ("bare CR in the first line", "GET /bad\r HTTP/1.1|Host: a||"),
    ("NUL", "GET /bad HTTP/1.1|Host: a|X: b\0c||"),
    (
        "blank before the colon",
        "POST /bad HTTP/1.1|Host: a|Content-Length : 3||abc",
    ),
    (
        "tab before the colon",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding\t: chunked||0||",
    ),
    ("no name", "GET /bad HTTP/1.1|Host: a|: b||"),
    (
        "not chunked",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: gzip||abc",
    ),
    (
        "gzip first",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: gzip, chunked||0||",
    ),
    (
        "xchunked",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: xchunked||0||",
    ),
    (
        "vertical tab",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: \x0bchunked||0||",
    ),
    (
        "twice",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: chunked|Transfer-Encoding: chunked||0||",
    ),
    (
        "in 1.0",
        "POST /bad HTTP/1.0|Host: a|Transfer-Encoding: chunked||0||",
    ),
    ("two hosts", "GET /bad HTTP/1.1|Host: a|Host: b||"),
    ("no host", "GET /bad HTTP/1.1|X: a||"),
    ("version", "GET /bad HTTP/2.0|Host: a||"),
    ("no version", "GET /bad|Host: a||"),
    ("two targets", "GET /bad /bad HTTP/1.1|Host: a||"),
    (
        "hex chunk",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: chunked||0x3|abc|0||",
    ),
    (
        "signed chunk",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: chunked||+3|abc|0||",
    ),
    (
        "blank chunk",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: chunked||3 |abc|0||",
    ),
    (
        "chunk by LF",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: chunked||3\nabc|0||",
    ),
    (
        "long chunk",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: chunked||3|abcdef|0||",
    ),
    (
        "huge chunk",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: chunked||10000000000000003|abc|0||",
    ),
    (
        "CR in the extension",
        "POST /bad HTTP/1.1|Host: a|Transfer-Encoding: chunked||3;a\rb|abc|0||",
    ),
];

#[test]
fn what_is_not_clear_is_refused_and_not_passed_on() {
    if !lab::ready("what_is_not_clear_is_refused_and_not_passed_on") {
        return;
    }
    let lab = lab(1);
    let web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    for (name, case) in CASES {
        let text = case.replace('|', "\r\n");
        // What follows must not be read as a request of its own either, and what comes before is
        // answered.
        let script = format!(
            "print(raw('GET /good HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n' + {text:?} + 'GET /smuggled HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'))\n",
        )
        .replace("\\0", "\\x00")
        .replace("\\u{b}", "\\x0b");
        let answer = client(&lab, &script);
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{name}: {answer}");
        let answers: Vec<_> = answer
            .lines()
            .filter(|l| l.starts_with("HTTP/1.1"))
            .collect();
        assert_eq!(answers.len(), 2, "{name}: {answer}");
        assert_eq!(answers[1], "HTTP/1.1 400 Bad Request", "{name}: {answer}");
        let output = web.output();
        assert!(
            !output.contains("/bad") && !output.contains("/smuggled"),
            "{name}: {output}"
        );
    }
    assert_eq!(said(&web, "REQ GET /good"), CASES.len());
    pen.wait_until_idle();
    assert_eq!(pen.refused("bad-request"), CASES.len() as u64);
    pen.stop();
}

#[test]
fn what_comes_before_another_protocol_is_agreed_on_is_not_changed() {
    if !lab::ready("what_comes_before_another_protocol_is_agreed_on_is_not_changed") {
        return;
    }
    let lab = lab(1);
    let _web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let ask = |early: &str| {
        let script = format!(
            "c = connect(); c.sendall(b'GET /ws HTTP/1.1\\r\\nHost: a\\r\\nConnection: Upgrade\\r\\nUpgrade: shout\\r\\n\\r\\n{early}'); got = b''\n\
             c.settimeout(2)\n\
             try:\n\
             \x20while data := c.recv(1000): got += data\n\
             except OSError as e: pass\n\
             print(got.split(b'\\r\\n\\r\\n', 1)[1])\n",
        );
        client(&lab, &script)
    };
    assert_eq!(ask("good"), "b'HIGOOD'");
    // It is no request, and nobody takes it for one.
    assert_eq!(ask("\\x00bad\\r\\n\\r\\n"), "b'HI\\x00BAD\\r\\n\\r\\n'");
    pen.wait_until_idle();
    assert_eq!(pen.refused("bad-request"), 0);
    pen.stop();
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    if !lab::ready("a_head_that_is_too_long_is_refused") {
        return;
    }
    let lab = lab(1);
    let web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = "print(raw('GET / HTTP/1.1\\r\\nHost: a\\r\\nX: ' + 'x' * 100000)[:36])\n";
    let said_to_it = client(&lab, script);
    assert!(said_to_it.starts_with("HTTP/1.1 431"), "{said_to_it}");
    assert_eq!(said(&web, "REQ"), 0);
    wait_for("the refusal's count", || pen.refused("bad-request") == 1);
    pen.stop();
}

#[test]
fn a_slow_head_is_cut() {
    if !lab::ready("a_slow_head_is_cut") {
        return;
    }
    let lab = lab(1);
    let web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "-O", "head_timeout 2", "80", &server(0)]);
    let script = "idle, c, start = connect(), connect(), time.monotonic()\n\
                  c.settimeout(0.5)\n\
                  try:\n\
                  \x20for b in b'GET / HTTP/1.1\\r\\nHost: abcdefgh\\r\\n':\n\
                  \x20 c.sendall(bytes([b]))\n\
                  \x20 try:\n\
                  \x20  if not c.recv(1): break\n\
                  \x20 except TimeoutError: pass\n\
                  except OSError: pass\n\
                  print(1.5 < time.monotonic() - start < 4, idle.recv(1))\n";
    assert_eq!(client(&lab, script), "True b''");
    pen.wait_until_idle();
    assert_eq!((pen.refused("slow-head"), said(&web, "CONN")), (1, 0));
    pen.stop();
}
