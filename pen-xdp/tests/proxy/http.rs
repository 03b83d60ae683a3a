//! HTTP, request by request.

use std::time::Duration;

use lab::{Lab, Nginx, Process, Station};

use crate::{
    python,
    rig::{Pen, addresses, lab, server, wait_for},
};

/// An HTTP/1.1 server that says `CONN` for each connection and `REQ` for each whole request.
const SERVER: &str = r#"
import hashlib, http.server, socket, struct, sys, time
# A line at once: print() writes its end apart, and threads come in between.
def tell(*words):
    sys.stdout.write(' '.join(words) + '\n'); sys.stdout.flush()
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def setup(self):
        super().setup()
        self.count = 0
        tell('CONN')
        if IDLE: self.connection.settimeout(IDLE)
    def log_message(self, *args): pass
    def taken(self):
        self.count += 1
        tell('REQ', self.command, self.path)
    def say(self, body, code=200, **headers):
        self.send_response(code)
        for k, v in headers.items(): self.send_header(k.replace('_', '-'), v)
        self.send_header('Content-Length', len(body))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)
    def stop(self, reset=False):
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            self.wfile = self.rfile = open('/dev/null', 'wb')
            self.connection.close()
        self.close_connection = True
    def do_GET(self):
        self.taken()
        raw, path = self.wfile.write, self.path
        if path == '/big': self.say(b'0123456789abcdef' * (1 << 20))
        elif path == '/second' and self.count > 1: self.stop()
        elif path == '/slow': time.sleep(4); self.say(b'late')
        elif path == '/short': raw(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc'); self.stop()
        elif path == '/cut':
            raw(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n'); self.stop()
        elif path == '/reset':
            raw(b'HTTP/1.0 200 OK\r\n\r\nabc'); self.wfile.flush(); time.sleep(0.3); self.stop(True)
        elif path == '/toclose': raw(b'HTTP/1.0 200 OK\r\n\r\nabc'); self.stop()
        elif path == '/both':
            raw(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n'
                b'3\r\nabc\r\n0\r\n\r\n')
        elif path == '/gzip': raw(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc'); self.stop()
        elif path == '/trailers':
            raw(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n'
                b'3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n')
        elif path == '/304': raw(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n')
        elif path == '/204': raw(b'HTTP/1.1 204 No Content\r\n\r\n')
        elif path == '/nonsense': raw(b'SSH-2.0-x\r\n\r\n'); self.stop()
        elif path == '/ws' and self.headers['Upgrade'] == 'shout':
            raw(b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: shout\r\nConnection: upgrade\r\n\r\nHI')
            self.wfile.flush()
            while data := self.connection.recv(65536): self.connection.sendall(data.upper())
            self.stop()
        else: self.say(('%s %s\n' % (NAME, path)).encode() + bytes(self.headers), Connection='X-Hop', X_Hop='1')
    do_HEAD = do_GET
    def do_POST(self):
        total, digest = 0, hashlib.sha256()
        def eat(left):
            nonlocal total
            while left:
                data = self.rfile.read(min(left, 65536))
                if not data: raise ConnectionError
                total += len(data); digest.update(data); left -= len(data)
        trailers = b''
        if self.headers['Transfer-Encoding'] == 'chunked':
            while size := int(self.rfile.readline(), 16): eat(size); self.rfile.readline()
            while (line := self.rfile.readline()) not in (b'\r\n', b''): trailers += line
        else: eat(int(self.headers['Content-Length']))
        self.taken()
        if self.path == '/second' and self.count > 1: return self.stop()
        self.say(b'%d %s %s' % (total, digest.hexdigest().encode(), trailers.strip()))
class S(http.server.ThreadingHTTPServer):
    request_queue_size = 200
    daemon_threads = True
    def handle_error(self, *args): pass
s = S(('', 80), H)
print('ready', flush=True)
s.serve_forever()
"#;

/// Helpers for clients: requests as they are written, answers as the standard library reads them.
const CLIENT: &str = r#"
import hashlib, http.client
def raw(text):
    c = connect(); got = b''
    # Who refuses what is sent may answer and be gone before all of it is.
    try: c.sendall(text.encode('latin1'))
    except OSError: pass
    try:
        while data := c.recv(65536): got += data
    except ConnectionResetError: got += b'RESET'
    return got.decode('latin1')
def over(): 
    h = http.client.HTTPConnection('pen'); h.sock = connect(); return h
def ask(h, method='GET', path='/', body=None, headers={}, **more):
    h.request(method, path, body, headers, **more); r = h.getresponse(); return r, r.read()
"#;

/// The server on back end `index`, which closes connections that are idle for so many seconds.
pub(crate) fn serve(lab: &Lab, index: usize, idle: u32) -> Process {
    let script = format!("NAME, IDLE = 'be{index}', {idle}\n{SERVER}");
    python::start(lab.backend(index), &script)
}

/// What a script prints on the client.
pub(crate) fn client(lab: &Lab, script: &str) -> String {
    python::client(lab, &format!("{CLIENT}\n{script}"))
}

/// How often a server has said this.
pub(crate) fn said(server: &Process, word: &str) -> usize {
    let output = server.output();
    output.lines().filter(|line| line.starts_with(word)).count()
}

#[test]
fn every_request_says_who_the_client_is() {
    if !lab::ready("every_request_says_who_the_client_is") {
        return;
    }
    let lab = lab(1);
    let web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let to = format!("http://{}/", addresses()[0]);
    let mut words = vec!["-s", "-w", "connects=%{num_connects}\n"];
    words.extend([
        "-H",
        "X-Forwarded-For: 6.6.6.6",
        "-H",
        "Forwarded: for=6.6.6.6",
    ]);
    words.extend([to.as_str(); 5]);
    let page = lab.client().run_ok("curl", &words).unwrap().stdout;
    let count = |text: &str| page.matches(text).count();
    let own = format!("X-Forwarded-For: {}\n", Station::client().v4());
    assert_eq!(count(&own), 5, "{page}");
    assert_eq!(count("X-Forwarded-Proto: http\n"), 5, "{page}");
    let host = format!("X-Forwarded-Host: {}\n", addresses()[0]);
    assert_eq!(count(&host), 5, "{page}");
    assert_eq!(count("6.6.6.6"), 0, "{page}");
    assert_eq!((count("connects=1"), count("connects=0")), (1, 4), "{page}");
    assert_eq!((said(&web, "REQ"), said(&web, "CONN")), (5, 1));
    pen.change(&format!("trusted {}", Station::client().v4()));
    let page = lab.client().run_ok("curl", &words).unwrap().stdout;
    let whole = format!("X-Forwarded-For: 6.6.6.6, {}\n", Station::client().v4());
    assert_eq!(page.matches(&whole).count(), 5, "{page}");
    pen.wait_until_idle();
    assert_eq!(pen.service().servers[0].connects, 10);
    pen.stop();
}

#[test]
fn ab_fails_no_request_with_and_without_keep_alive() {
    if !lab::ready("ab_fails_no_request_with_and_without_keep_alive") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["-H", "-r", "80", &server(0), &server(1)]);
    let to = format!("http://{}/", addresses()[0]);
    for keep in [&["-k"][..], &[]] {
        let words = [keep, &["-q", "-c", "20", "-n", "5000", &to]].concat();
        let limit = Duration::from_secs(60);
        let output = lab.client().run_for(limit, "ab", &words).unwrap();
        let text = output.text();
        assert!(output.ok(), "{text}");
        assert!(text.contains("Complete requests:      5000"), "{text}");
        assert!(text.contains("Failed requests:        0"), "{text}");
        assert!(!text.contains("Non-2xx"), "{text}");
        let kept = text.contains("Keep-Alive requests:    5000");
        assert_eq!(kept, !keep.is_empty(), "{text}");
    }
    pen.wait_until_idle();
    let servers = pen.service().servers;
    assert!(
        servers
            .iter()
            .all(|s| s.connects == 5000 && s.failures == 0),
        "{servers:?}"
    );
    pen.stop();
}

#[test]
fn a_client_stays_when_its_server_goes() {
    if !lab::ready("a_client_stays_when_its_server_goes") {
        return;
    }
    let lab = lab(2);
    let (first, _second) = (serve(&lab, 0, 0), serve(&lab, 1, 0));
    let pen = Pen::start(&lab, &["-H", "80", &server(0), &server(1)]);
    let script = "h = over()\n\
                  print('first', ask(h)[1].split()[0], flush=True)\n\
                  while b'be0' in ask(h)[1]: time.sleep(0.05)\n\
                  print([ask(h)[1].split()[0] for n in range(3)])\n";
    let said = std::thread::scope(|scope| {
        let client = scope.spawn(|| client(&lab, script));
        wait_for("some requests", || pen.service().servers[0].connects > 3);
        drop(first);
        client.join().unwrap()
    });
    assert_eq!(said, "first b'be0'\n[b'be1', b'be1', b'be1']");
    assert_eq!(pen.refused("bad-answer"), 0);
    pen.stop();
}

#[test]
fn answers_of_our_own_say_why() {
    if !lab::ready("answers_of_our_own_say_why") {
        return;
    }
    let lab = lab(1);
    let words = [
        "-H",
        "-b",
        "2",
        "-O",
        "reason_header true",
        "-O",
        "idle_timeout 1",
        "80",
    ];
    let pen = Pen::start(&lab, &[&words[..], &[&server(0)]].concat());
    let script = "h = over()\n\
                  for path in ['/', '/']:\n\
                  \x20r, b = ask(h, path=path); print(r.status, r.getheader('X-Pen-Reason'), len(b) > 9)\n";
    assert_eq!(
        client(&lab, script),
        "502 connect-failed True\n503 no-server True"
    );
    let _web = serve(&lab, 0, 0);
    pen.change("server 0 blacklist 0");
    let script = "h = over()\n\
                  for path in ['/slow', '/nonsense', '/gzip', '/']:\n\
                  \x20r, b = ask(h, path=path); print(r.status, r.getheader('X-Pen-Reason'))\n";
    let expected = "504 too-late\n502 bad-answer\n502 bad-answer\n200 None";
    assert_eq!(client(&lab, script), expected);
    assert_eq!((pen.refused("too-late"), pen.refused("bad-answer")), (1, 2));
    pen.change("reason_header false");
    pen.change(&format!("acl 1 deny {}", Station::client().v4()));
    pen.change("client_acl 1");
    let script = "r, b = ask(over()); print(r.status, r.getheader('X-Pen-Reason'), b)\n";
    let said = client(&lab, script);
    assert!(said.starts_with("403 None b'403 Forbidden: "), "{said}");
    pen.stop();
}

#[test]
fn messages_of_every_kind_pass_whole() {
    if !lab::ready("messages_of_every_kind_pass_whole") {
        return;
    }
    let lab = lab(1);
    let web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = r#"
h = over()
for method, path in [('HEAD', '/'), ('GET', '/204'), ('GET', '/304'), ('GET', '/toclose'), ('GET', '/both')]:
    r, b = ask(h, method, path)
    print(r.status, r.getheader('Content-Length'), r.getheader('X-Hop'), b if method == 'GET' else len(b))
r, b = ask(h, 'POST', body=iter([b'ab', b'c' * 70000]), encode_chunked=True, headers={'Transfer-Encoding': 'chunked'})
print(b.split()[0])
print(raw('GET /x HTTP/1.0\r\n\r\n').split('\r\n')[0])
print('connection: keep-alive' in raw('GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /y HTTP/1.0\r\n\r\n').lower())
t = raw('GET /trailers HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n')
print(t.lower().endswith('0\r\nx-sum: 7\r\n\r\n'))
t = raw('POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Up: 9\r\n\r\n')
print(t.split()[-2:])
print('be0 /abs' in raw('GET http://other/abs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'))
print('Host: other\n' in raw('GET http://other/abs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'))
c = connect(); c.sendall(b'POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n')
print(c.recv(100)); c.sendall(b'ab'); got = b''
while not got.endswith(b' '): got += c.recv(1000)
print(got.decode().split('\r\n')[-1][:6])
print(raw('GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n').count('be0 /'))
"#;
    let said = client(&lab, script);
    let expected = "200 LEN None 0\n204 None None b''\n304 None None b''\n200 None None b'abc'\n\
                    200 None None b'abc'\nb'70002'\nHTTP/1.0 200 OK\nTrue\nTrue\n\
                    ['X-Up:', '9']\nTrue\nTrue\n\
                    b'HTTP/1.1 100 Continue\\r\\n\\r\\n'\n2 fb8e\n2";
    let head = said.lines().next().unwrap();
    let length = head.split(' ').nth(1).unwrap();
    assert!(length.parse::<u32>().unwrap() > 50, "{said}");
    assert_eq!(said, expected.replace("LEN", length), "{}", web.output());
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn large_bodies_pass_whole_and_are_not_kept() {
    if !lab::ready("large_bodies_pass_whole_and_are_not_kept") {
        return;
    }
    let lab = lab(1);
    let _web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = r#"
h = over()
big = b'0123456789abcdef' * (1 << 20)
print(ask(h, path='/big')[1] == big)
for chunked in [False, True]:
    more = dict(encode_chunked=True, headers={'Transfer-Encoding': 'chunked'}) if chunked else {}
    r, b = ask(h, 'POST', body=iter([big[:1 << 20]] * 16) if chunked else big, **more)
    print(b.split()[:2] == [b'16777216', hashlib.sha256(big).hexdigest().encode()])
"#;
    assert_eq!(client(&lab, script), "True\nTrue\nTrue");
    let servers = pen.servers();
    assert!(
        servers[0].rx > 16 << 20 && servers[0].rx < 17 << 20,
        "{servers:?}"
    );
    assert!(
        servers[0].sx > 32 << 20 && servers[0].sx < 33 << 20,
        "{servers:?}"
    );
    let slow = "held = []\n\
                for n in range(30):\n\
                \x20c = connect(); c.sendall(b'GET /big HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'); held.append(c)\n\
                time.sleep(2)\n";
    client(&lab, slow);
    let memory = pen.resident_kib();
    assert!(memory < 150 << 10, "{memory} KiB");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn a_client_that_takes_nothing_is_left() {
    if !lab::ready("a_client_that_takes_nothing_is_left") {
        return;
    }
    let lab = lab(1);
    let _web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "-O", "idle_timeout 1", "80", &server(0)]);
    let script = "c = connect(); c.sendall(b'GET /big HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\n\
                  time.sleep(3); n = 0\n\
                  try:\n\
                  \x20while data := c.recv(1 << 20): n += len(data)\n\
                  except OSError: pass\n\
                  print(0 < n < 16 << 20)\n";
    assert_eq!(client(&lab, script), "True");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn an_answer_that_breaks_off_is_not_given_as_whole() {
    if !lab::ready("an_answer_that_breaks_off_is_not_given_as_whole") {
        return;
    }
    let lab = lab(1);
    let _web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = r#"
for path in ['/short', '/cut']:
    try: print(ask(over(), path=path))
    except http.client.IncompleteRead as e: print(e.partial)
    except ConnectionResetError: print('reset')
print(raw('GET /reset HTTP/1.0\r\n\r\n')[-8:])
print(raw('GET /toclose HTTP/1.0\r\n\r\n')[-3:])
"#;
    let said = client(&lab, script);
    let ends: Vec<&str> = said.lines().collect();
    assert!(["b'abc'", "reset"].contains(&ends[0]), "{said}");
    assert!(["b'abc'", "reset"].contains(&ends[1]), "{said}");
    assert!(ends[2].ends_with("RESET"), "{said}");
    assert_eq!(ends[3], "abc");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn other_protocols_pass_both_ways_once_agreed_on() {
    if !lab::ready("other_protocols_pass_both_ways_once_agreed_on") {
        return;
    }
    let lab = lab(1);
    let _web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = r#"
c = connect()
ask = 'GET %s HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: shout\r\n\r\n'
c.sendall((ask % '/refused').encode()); print(c.recv(15))
c = connect(); c.sendall((ask % '/ws').encode())
got = b''
while not got.endswith(b'HI'): got += c.recv(1000)
print(got.split(b'\r\n')[0], b'upgrade: shout' in got.lower())
for n in range(3):
    c.sendall(b'not http\r\n\r\n'); time.sleep(0.1); print(c.recv(100))
big = b'x' * 1000000
import threading
threading.Thread(target=lambda: (c.sendall(big), c.shutdown(s.SHUT_WR))).start()
n = 0
while data := c.recv(65536): n += data.count(b'X')
print(n)
"#;
    let shout = "b'NOT HTTP\\r\\n\\r\\n'\n";
    let expected = format!(
        "b'HTTP/1.1 200 OK'\nb'HTTP/1.1 101 Switching Protocols' True\n{}1000000",
        shout.repeat(3)
    );
    assert_eq!(client(&lab, script), expected);
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn connections_to_servers_are_kept_and_their_end_is_seen() {
    if !lab::ready("connections_to_servers_are_kept_and_their_end_is_seen") {
        return;
    }
    let lab = lab(1);
    let web = serve(&lab, 0, 1);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = "for n in range(100): assert ask(over())[0].status == 200\n\
                  time.sleep(2)\n\
                  for n in range(5): print(ask(over(), 'POST', body=b'x')[0].status)\n";
    assert_eq!(client(&lab, script), ["200"; 5].join("\n"));
    assert_eq!(said(&web, "REQ"), 105);
    // One for each thread, before and after the server closed them.
    let connections = said(&web, "CONN");
    let threads = std::thread::available_parallelism().unwrap().get();
    assert!(connections <= 2 * threads, "{connections}");
    pen.stop();
}

#[test]
fn a_connection_is_kept_after_an_answer_whose_length_nobody_knew() {
    if !lab::ready("a_connection_is_kept_after_an_answer_whose_length_nobody_knew") {
        return;
    }
    let lab = lab(1);
    let web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let script = "h = over()\n\
                  for path in ['/both', '/trailers'] * 10: print(ask(h, path=path)[1])\n";
    assert_eq!(client(&lab, script), ["b'abc'"; 20].join("\n"));
    assert_eq!((said(&web, "REQ"), said(&web, "CONN")), (20, 1));
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn strangers_say_nothing_of_where_they_come_from_in_trailers_either() {
    if !lab::ready("strangers_say_nothing_of_where_they_come_from_in_trailers_either") {
        return;
    }
    let lab = lab(1);
    let _web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    let ask = |names: &[&str]| {
        let trailers: String = names.iter().map(|n| format!("{n}: 9\\r\\n")).collect();
        let script = format!(
            "print(raw('POST / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\nX_Forwarded_For: 6\\r\\n'\n\
             \x20'Trailer: {}\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n'\n\
             \x20'1\\r\\na\\r\\n0\\r\\n{trailers}\\r\\n').split('\\r\\n\\r\\n')[1].split()[2:])\n",
            names.join(", ")
        );
        client(&lab, &script)
    };
    let claims = ["X-Forwarded-For", "X_Forwarded_For", "Forwarded"];
    assert_eq!(ask(&claims), "[]");
    assert_eq!(ask(&[&claims[..], &["X-Up"]].concat()), "['X-Up:', '9']");
    pen.change(&format!("trusted {}", Station::client().v4()));
    assert_eq!(ask(&["X-Forwarded-For"]), "['X-Forwarded-For:', '9']");
    pen.stop();
}

#[test]
fn a_request_is_sent_twice_only_if_that_is_as_good_as_once() {
    if !lab::ready("a_request_is_sent_twice_only_if_that_is_as_good_as_once") {
        return;
    }
    let lab = lab(1);
    let web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-H", "80", &server(0)]);
    // One client's connection stays on one thread, and so do those to the server.
    let script = "h = over()\n\
                  for method, path in [('GET', '/'), ('GET', '/second'), ('GET', '/'), ('POST', '/second'), ('GET', '/')]:\n\
                  \x20print(ask(h, method, path, b'x' if method == 'POST' else None)[0].status)\n";
    assert_eq!(client(&lab, script), "200\n200\n200\n502\n200");
    assert_eq!(said(&web, "REQ GET /second"), 2);
    assert_eq!(said(&web, "REQ POST /second"), 1);
    assert_eq!(pen.service().servers[0].failures, 0);
    pen.stop();
}

#[test]
fn a_request_counts_as_a_connection_to_its_server() {
    if !lab::ready("a_request_counts_as_a_connection_to_its_server") {
        return;
    }
    let lab = lab(1);
    let _web = serve(&lab, 0, 0);
    let limited = format!("{}:80:1", server(0));
    let words = ["-H", "-O", "reason_header true", "80", &limited];
    let pen = Pen::start(&lab, &words);
    let script = "a, b = over(), over()\n\
                  ask(a); ask(b)\n\
                  a.request('GET', '/slow'); time.sleep(0.5)\n\
                  r, _ = ask(b); print(r.status, r.getheader('X-Pen-Reason'))\n\
                  print(a.getresponse().read(), ask(b)[0].status)\n";
    assert_eq!(client(&lab, script), "503 server-full\nb'late' 200");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn unix_sockets_at_both_ends() {
    if !lab::ready("unix_sockets_at_both_ends") {
        return;
    }
    let lab = lab(1);
    let folder = lab.folder().join("sockets");
    std::fs::create_dir_all(&folder).unwrap();
    let (front, back) = (folder.join("front"), folder.join("back"));
    let script = format!(
        "import socket as s\n\
         l = s.socket(s.AF_UNIX); l.bind('{}'); l.listen()\n\
         print('ready', flush=True)\n\
         c, _ = l.accept()\n\
         while b := c.recv(1000): c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s' % (len(b), b))\n",
        back.display()
    );
    let _back = python::start(lab.balancer(), &script);
    let pen = Pen::start(
        &lab,
        &["-H", front.to_str().unwrap(), back.to_str().unwrap()],
    );
    let words = [
        "-s",
        "--unix-socket",
        front.to_str().unwrap(),
        "http://a/b",
        "http://a/c",
    ];
    let page = lab.balancer().run_ok("curl", words).unwrap().stdout;
    assert!(page.contains("GET /b HTTP/1.1\r\n") && page.contains("GET /c HTTP/1.1\r\n"));
    assert!(!page.contains("X-Forwarded-For"), "{page}");
    pen.stop();
}

#[test]
fn without_http_nothing_is_added() {
    if !lab::ready("without_http_nothing_is_added") {
        return;
    }
    let lab = lab(1);
    let _web = serve(&lab, 0, 0);
    let pen = Pen::start(&lab, &["-O", "http", "-O", "no http", "80", &server(0)]);
    let said = client(&lab, "print('Forwarded' in str(ask(over())[1]))");
    assert_eq!(said, "False");
    pen.stop();
    let pen = Pen::start(&lab, &["-O", "http", "80", &server(0)]);
    let said = client(&lab, "print('Forwarded' in str(ask(over())[1]))");
    assert_eq!(said, "True");
    // And while it runs, as in Pen.
    pen.change("no http");
    let said = client(&lab, "print('Forwarded' in str(ask(over())[1]))");
    assert_eq!(said, "False");
    pen.change("http");
    let said = client(&lab, "print('Forwarded' in str(ask(over())[1]))");
    assert_eq!(said, "True");
    pen.stop();
}
