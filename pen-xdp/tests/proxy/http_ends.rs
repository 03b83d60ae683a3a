//! Requests and answers of which one side ends before the other expects it.

use lab::{Lab, Process};

use crate::{
    http::client,
    log::logging,
    python,
    rig::{Pen, lab, server, wait_for},
};

/// A server on back end 0 that does this with each connection `c`, once the head of a request is in
/// `head`.
fn serve(lab: &Lab, body: &str) -> Process {
    // A line at once: print() writes its end apart, and threads come in between.
    let script = format!(
        "import socket as s, struct, sys, threading, time\n\
         def tell(*words): sys.stdout.write(' '.join(map(str, words)) + '\\n'); sys.stdout.flush()\n\
         l = s.create_server(('::', 80), family=s.AF_INET6, dualstack_ipv6=True, backlog=100)\n\
         def one(c):\n\
         \x20try:\n\
         \x20 head = b''\n\
         \x20 while b'\\r\\n\\r\\n' not in head:\n\
         \x20  b = c.recv(1)\n\
         \x20  if not b: return\n\
         \x20  head += b\n\
         \x20 tell('REQ')\n\
         \x20 {}\n\
         \x20except OSError as e: tell('ERROR')\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20threading.Thread(target=one, args=(l.accept()[0],), daemon=True).start()\n",
        body.replace('\n', "\n  ")
    );
    python::start(lab.backend(0), &script)
}

#[test]
fn an_answer_that_comes_before_the_whole_request_gets_through() {
    if !lab::ready("an_answer_that_comes_before_the_whole_request_gets_through") {
        return;
    }
    let lab = lab(1);
    // One that takes no more, one that resets, and one that goes on reading.
    let _web = serve(
        &lab,
        "say = b'HTTP/1.1 413 Too Much\\r\\nContent-Length: 3\\r\\n\\r\\nabc'\n\
         c.sendall(say)\n\
         if b'/shut' in head: c.shutdown(s.SHUT_RD); time.sleep(1)\n\
         elif b'/read' in head:\n\
         \x20while c.recv(65536): pass\n\
         else: time.sleep(0.3)\n\
         c.close()",
    );
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = r#"
for path in ['/shut', '/read', '/reset']:
    c = connect(); c.settimeout(5)
    c.sendall(b'POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n' % path.encode())
    got, sent, part = b'', 0, b'x' * 65536
    try:
        while sent < 10 << 20: sent += c.send(part)
    except OSError: pass
    try:
        while data := c.recv(1000): got += data
    except OSError as e: got += b'(cut)'
    print(got.split(b'\r\n')[0], got.split(b'\r\n\r\n')[-1])
"#;
    let expected = "b'HTTP/1.1 413 Too Much' b'abc'\n".repeat(3);
    assert_eq!(client(&lab, script), expected.trim_end());
    pen.wait_until_idle();
    assert_eq!(pen.refused("bad-answer"), 0);
    pen.stop();
}

#[test]
fn a_client_that_leaves_frees_its_server() {
    if !lab::ready("a_client_that_leaves_frees_its_server") {
        return;
    }
    let lab = lab(1);
    let web = serve(
        &lab,
        "tell('END', len(c.recv(100))); c.recv(9); tell('OVER')",
    );
    let file = lab.folder().join("log");
    let more = ["-H", "80", &server(0)];
    let words = [&logging(&file, "log_format json")[..], &more].concat();
    let pen = Pen::start(&lab, &words);
    let script = "a, b = connect(), connect()\n\
                  a.sendall(b'GET /long HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\n\
                  b.sendall(b'POST /half HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 9\\r\\n\\r\\nhalf')\n\
                  time.sleep(0.5)\n";
    client(&lab, script);
    // Both are seen to leave while the server says nothing.
    pen.wait_until_idle();
    wait_for("the ends", || {
        let said = web.output();
        said.contains("END 0") && said.contains("END 4") && said.matches("OVER").count() == 2
    });
    let said = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_for("two lines", || said().lines().count() == 2);
    assert_eq!(
        said().matches("\"ended\":\"client\"").count(),
        2,
        "{}",
        said()
    );
    assert_eq!(said().matches("\"bytes_in\":4").count(), 1, "{}", said());
    pen.stop();
}

#[test]
fn who_is_refused_hears_it_whatever_it_still_sends() {
    if !lab::ready("who_is_refused_hears_it_whatever_it_still_sends") {
        return;
    }
    let lab = lab(1);
    let pen = Pen::start(&lab, &["-H", "-b", "9", "80", &server(0)]);
    let script = r#"
for head in ['POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n', 'GET / HTTP/1.1\r\nHost : a\r\n\r\n']:
    for n in range(20):
        c = connect(); c.settimeout(5)
        c.sendall(head.encode() + b'x' * 500000); got = b''
        while data := c.recv(1000): got += data
        status = got.split(b' ')[1]
    print(status, b'onnection: close' in got)
c = connect(); c.settimeout(5); got = b''
c.sendall(b'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
while data := c.recv(1000): got += data
print(got.count(b'HTTP/1.1 503'))
"#;
    let expected = "b'503' True\nb'400' True\n2";
    assert_eq!(client(&lab, script), expected);
    pen.stop();
}

#[test]
fn what_servers_say_on_the_way_to_an_answer_is_none() {
    if !lab::ready("what_servers_say_on_the_way_to_an_answer_is_none") {
        return;
    }
    let lab = lab(1);
    let _web = serve(
        &lab,
        "for b in b'HTTP/1.1 103 Early Hints\\r\\nLink: </a>\\r\\n\\r\\nHTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok':\n\
         \x20c.sendall(bytes([b])); time.sleep(0.001)\n\
         c.recv(1)",
    );
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = "r, b = ask(over()); print(r.status, b, r.getheader('Link'), r.getheader('Date') is not None)\n";
    assert_eq!(client(&lab, script), "200 b'ok' None True");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn requests_in_one_piece_are_answered_in_order() {
    if !lab::ready("requests_in_one_piece_are_answered_in_order") {
        return;
    }
    let lab = lab(1);
    let _web = crate::http::serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = r#"
c = connect(); c.settimeout(9)
each = b'POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nGET / HTT'
chunked = b'POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nGET\r\n0\r\n\r\n'
c.sendall(b''.join((chunked if n % 2 else each) % n for n in range(100)) + b'GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
got = b''
while data := c.recv(65536): got += data
bodies = [part.split(b'\r\n\r\n')[1] for part in got.split(b'HTTP/1.1 200 OK\r\n')[1:]]
digests = [hashlib.sha256(b).hexdigest().encode() for b in (b'GET / HTT', b'GET')]
print(len(bodies), all(b.split()[:2] == [b'93'[n % 2:][:1], digests[n % 2]] for n, b in enumerate(bodies[:-1])), b'/last' in bodies[-1])
"#;
    assert_eq!(client(&lab, script), "101 True True");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn answers_that_are_none_are_not_waited_for() {
    if !lab::ready("answers_that_are_none_are_not_waited_for") {
        return;
    }
    let lab = lab(1);
    let _web = serve(
        &lab,
        "if b'/long' in head: c.sendall(b'HTTP/1.1 200 OK\\r\\nX: ' + b'x' * 70000)\n\
         elif b'/many' in head: c.sendall(b'HTTP/1.1 102 Wait\\r\\n\\r\\n' * 50)\n\
         else: c.sendall(b'HTTP/1.1 101 Go\\r\\nUpgrade: x\\r\\nConnection: upgrade\\r\\n\\r\\n')\n\
         c.recv(1000); c.recv(1)",
    );
    let pen = Pen::start(&lab, &["-H", "-O", "reason_header true", "80", &server(0)]);
    let script = r#"
for path in ['/long', '/many', '/early']:
    c = connect(); c.settimeout(5); got = b''
    begin = 'POST %s HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n' % path
    # One of them is sent but for its body.
    c.sendall((begin + ('Content-Length: 3\r\n\r\n' if path == '/early' else '\r\n')).encode())
    while data := c.recv(1000): got += data
    print(got.split()[1], b'X-Pen-Reason: bad-answer' in got)
    c.close()
"#
    .replace(
        "while data := c.recv(1000): got += data",
        "while b'\\r\\n\\r\\n' not in got: got += c.recv(1000)",
    );
    let busy = pen.cpu_seconds();
    assert_eq!(client(&lab, &script), "b'502' True\n".repeat(3).trim_end());
    pen.wait_until_idle();
    assert_eq!(pen.refused("bad-answer"), 3);
    assert!(pen.cpu_seconds() - busy < 1.0);
    pen.stop();
}

#[test]
fn who_is_answered_early_is_told_that_the_connection_ends() {
    if !lab::ready("who_is_answered_early_is_told_that_the_connection_ends") {
        return;
    }
    let lab = lab(1);
    let _web = serve(
        &lab,
        "c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok'); c.recv(1000); c.recv(1)",
    );
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = r#"
for body in [b'', b'abc']:
    c = connect(); c.settimeout(5)
    c.sendall(b'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n' + body); got = b''
    while not got.endswith(b'ok'): got += c.recv(1000)
    print(b'Connection: close' in got, end=' ')
    c.settimeout(0.5)
    try: print(c.recv(1))
    except TimeoutError: print('kept')
    c.close()
"#;
    assert_eq!(client(&lab, script), "True b''\nFalse kept");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn a_client_that_stops_in_its_body_hears_that_it_is_late() {
    if !lab::ready("a_client_that_stops_in_its_body_hears_that_it_is_late") {
        return;
    }
    let lab = lab(1);
    let _web = serve(&lab, "c.recv(1000); c.recv(1)");
    let pen = Pen::start(&lab, &["-H", "-O", "idle_timeout 1", "80", &server(0)]);
    let script = r#"
for body in [b'half', b'whole']:
    print(raw('POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\n' + body.decode()).split()[1])
"#;
    assert_eq!(client(&lab, script), "408\n504");
    assert_eq!((pen.refused("slow-body"), pen.refused("too-late")), (1, 1));
    pen.stop();
}

#[test]
fn a_server_that_takes_no_more_keeps_nobody_busy() {
    if !lab::ready("a_server_that_takes_no_more_keeps_nobody_busy") {
        return;
    }
    let lab = lab(1);
    let folder = lab.folder().join("sockets");
    std::fs::create_dir_all(&folder).unwrap();
    let back = folder.join("back");
    let script = format!(
        "import socket as s, time\n\
         l = s.socket(s.AF_UNIX); l.bind('{}'); l.listen()\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20c, _ = l.accept(); n = 0\n\
         \x20while n < 3000000: n += len(c.recv(1 << 20))\n\
         \x20c.shutdown(s.SHUT_RD); time.sleep(3); c.close()\n",
        back.display()
    );
    let _back = python::start(lab.balancer(), &script);
    let words = ["-H", "-O", "idle_timeout 1", "80", back.to_str().unwrap()];
    let pen = Pen::start(&lab, &words);
    let script = r#"
for n in range(3):
    c = connect(); c.settimeout(5); got = b''
    c.sendall(b'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n')
    try:
        while True: c.sendall(b'x' * (1 << 20))
    except OSError: pass
    try:
        while data := c.recv(1000): got += data
    except OSError: pass
    print(got.split()[1:2])
"#;
    let busy = pen.cpu_seconds();
    assert_eq!(client(&lab, script), "[b'504']\n".repeat(3).trim_end());
    let spent = pen.cpu_seconds() - busy;
    assert!(spent < 1.5, "{spent} s of a processor");
    pen.stop();
}

#[test]
fn a_client_that_breaks_off_is_seen_though_nothing_is_read_from_it() {
    if !lab::ready("a_client_that_breaks_off_is_seen_though_nothing_is_read_from_it") {
        return;
    }
    let lab = lab(1);
    let web = serve(&lab, "time.sleep(1000)");
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    // The server reads no body, and more is sent behind a request than is held of the next one.
    let script = r#"
clients = [connect(), connect()]
clients[0].sendall(b'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n')
clients[1].sendall(b'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
for c in clients:
    c.settimeout(1)
    try:
        while True: c.sendall(b'x' * 65536)
    except TimeoutError: print('full', flush=True)
for c in clients:
    c.setsockopt(s.SOL_SOCKET, s.SO_LINGER, struct.pack('ii', 1, 0)); c.close()
"#;
    assert_eq!(client(&lab, script), "full\nfull");
    assert_eq!(crate::http::said(&web, "REQ"), 2);
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn an_answer_arrives_whole_whatever_comes_behind_its_request() {
    if !lab::ready("an_answer_arrives_whole_whatever_comes_behind_its_request") {
        return;
    }
    let lab = lab(1);
    let _web = crate::http::serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = r#"
for head in ['GET /big HTTP/1.0\r\n\r\n', 'GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n']:
    c = connect(); c.sendall(head.encode() + b'x' * 100000); time.sleep(0.5); got = b''
    while data := c.recv(1 << 20): got += data
    print(len(got.split(b'\r\n\r\n', 1)[1]) == 16 << 20)
"#;
    assert_eq!(client(&lab, script), "True\nTrue");
    pen.wait_until_idle();
    pen.stop();
}
