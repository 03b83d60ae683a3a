//! TLS in front of services: what clients may speak, and that what they say arrives.

use std::time::Duration;

use lab::{Lab, Nginx, Output, Station};

use crate::{
    certificates::{Certificate, ECDSA, RSA, make},
    http,
    python::{self, Manner},
    rig::{Pen, addresses, lab, server, wait_for},
};

const LIMIT: Duration = Duration::from_secs(60);

/// Helpers for clients: `tls()` is a connection that tells a truncated stream from one that ended,
/// `Loose` one whose bytes are written and read by hand. Some builds of Python take every end for
/// an orderly one unless they are told not to.
const CLIENT: &str = r#"
import hashlib, ssl, threading
def context(least=ssl.TLSVersion.TLSv1_2, most=ssl.TLSVersion.TLSv1_3):
    x = ssl.create_default_context(cafile=CA)
    x.minimum_version, x.maximum_version = least, most
    x.options &= ~getattr(ssl, 'OP_IGNORE_UNEXPECTED_EOF', 0)
    return x
def tls(x=None, c=None):
    return (x or context()).wrap_socket(c or connect(), server_hostname='pen.test', suppress_ragged_eofs=False)
class Loose:
    def __init__(self, x=None):
        self.c, self.i, self.o = connect(), ssl.MemoryBIO(), ssl.MemoryBIO()
        self.s = (x or context()).wrap_bio(self.i, self.o, server_hostname='pen.test')
    def hello(self):
        try: self.s.do_handshake()
        except ssl.SSLWantReadError: pass
        return self.o.read()
    def do(self, what, *args):
        while True:
            try: return what(*args)
            except ssl.SSLWantReadError:
                self.c.sendall(self.o.read())
                got = self.c.recv(65536)
                self.i.write(got) if got else self.i.write_eof()
            finally: self.c.sendall(self.o.read())
    def end(self):
        try: self.s.unwrap()
        except ssl.SSLWantReadError: pass
        self.c.sendall(self.o.read())
"#;

/// What a script prints on the client, who trusts this certificate.
pub(crate) fn client(lab: &Lab, certificate: &Certificate, script: &str) -> String {
    let ca = &certificate.ca;
    python::client(lab, &format!("CA = {ca:?}\n{CLIENT}\n{script}"))
}

/// What curl says over TLS.
fn curl(lab: &Lab, certificate: &Certificate, words: &[&str]) -> Output {
    let words = [&["-sS", "--cacert", &certificate.ca], words].concat();
    lab.client().run_for(LIMIT, "curl", &words).unwrap()
}

/// What openssl's client says, which sends nothing.
fn s_client(lab: &Lab, certificate: &Certificate, words: &[&str]) -> Output {
    let to = format!("{}:80", addresses()[0]);
    let words = [
        &["s_client", "-CAfile", &certificate.ca, "-connect", &to],
        words,
    ]
    .concat();
    let script = "exec openssl \"$@\" </dev/null 2>&1";
    let all = [&["-c", script, "sh"], &words[..]].concat();
    lab.client().run_for(LIMIT, "sh", &all).unwrap()
}

/// A Pen that speaks TLS at port 80, in TCP mode unless `more` says otherwise.
fn start(lab: &Lab, certificate: &Certificate, more: &[&str]) -> Pen {
    let own = ["-E", &certificate.chain, "-K", &certificate.key];
    Pen::start(lab, &[&own, more, &["80", &server(0)]].concat())
}

#[test]
fn curl_gets_pages_in_both_modes_over_both_families_and_versions() {
    if !lab::ready("curl_gets_pages_in_both_modes_over_both_families_and_versions") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    for mode in [&[][..], &["-H"]] {
        let pen = start(&lab, &certificate, mode);
        let [v4, v6] = addresses();
        for to in [format!("https://{v4}:80/"), format!("https://[{v6}]:80/")] {
            for most in ["1.2", "1.3"] {
                let least = format!("--tlsv{most}");
                let words = [&*least, "--tls-max", most, "-v", &to, &to, &to];
                let output = curl(&lab, &certificate, &words);
                let text = output.text();
                assert!(output.ok(), "{text}");
                assert_eq!(text.matches("be0 ").count(), 3, "{text}");
                assert!(text.contains(&format!("using TLSv{most} ")), "{text}");
                let kept = text.matches("Re-using existing connection").count();
                assert_eq!(kept, 2, "{text}");
                let agreed = text.contains("server accepted http/1.1");
                assert_eq!(agreed, !mode.is_empty(), "{text}");
            }
        }
        pen.wait_until_idle();
        assert_eq!(pen.refused("bad-handshake"), 0);
        pen.stop();
    }
}

#[test]
fn requests_are_passed_one_by_one_and_pages_arrive_whole() {
    if !lab::ready("requests_are_passed_one_by_one_and_pages_arrive_whole") {
        return;
    }
    let lab = lab(1);
    let web = http::serve(&lab, 0, 0);
    let certificate = make(&lab, "ecdsa", ECDSA);
    let pen = start(&lab, &certificate, &["-H"]);
    let script = "import http.client\n\
         h = http.client.HTTPConnection('pen.test'); h.sock = tls()\n\
         body = b'0123456789abcdef' * (1 << 20)\n\
         for n in range(3):\n\
         \x20h.request('GET', '/big'); r = h.getresponse(); b = r.read(); print(b == body or (r.status, len(b), b[:200]))\n\
         \x20h.request('POST', '/', body); r = h.getresponse().read().split()\n\
         \x20print(int(r[0]) == len(body), r[1].decode() == hashlib.sha256(body).hexdigest())\n\
         h.request('GET', '/', headers={'Connection': 'close'}); r = h.getresponse(); r.read()\n\
         print(r.status)\n";
    let said = client(&lab, &certificate, script);
    assert_eq!(said, format!("{}200", "True\nTrue True\n".repeat(3)));
    assert_eq!(http::said(&web, "REQ"), 7);
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn what_is_old_or_weak_is_refused_and_counted() {
    if !lab::ready("what_is_old_or_weak_is_refused_and_counted") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "rsa", RSA);
    let pen = start(&lab, &certificate, &[]);
    let weak = "ALL:@SECLEVEL=0";
    for (count, words) in (1..).zip([
        &["-tls1", "-cipher", weak][..],
        &["-tls1_1", "-cipher", weak],
        // Keys that are sent encrypted by the certificate's: no forward secrecy.
        &[
            "-tls1_2",
            "-cipher",
            "AES256-GCM-SHA384:AES128-SHA:@SECLEVEL=0",
        ],
        // CBC.
        &[
            "-tls1_2",
            "-cipher",
            "ECDHE-RSA-AES256-SHA384:ECDHE-RSA-AES128-SHA:@SECLEVEL=0",
        ],
        &["-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384"],
        &["-tls1_3", "-groups", "ffdhe2048"],
    ]) {
        let output = s_client(&lab, &certificate, words);
        assert!(!output.ok(), "{words:?}: {}", output.text());
        assert!(output.text().contains("alert"), "{}", output.text());
        wait_for("the handshake to be counted", || {
            pen.refused("bad-handshake") == count
        });
    }
    for words in [
        &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"][..],
        &["-tls1_3", "-groups", "X25519"],
        &["-tls1_3", "-groups", "P-256"],
        &["-tls1_2", "-groups", "P-384"],
    ] {
        let output = s_client(&lab, &certificate, words);
        let text = output.text();
        assert!(
            output.ok() && text.contains("Verify return code: 0"),
            "{text}"
        );
        // The file has a chain, and all of it is sent.
        assert!(text.contains(" 1 s:CN = ca"), "{text}");
    }
    // Ours is the order that counts.
    let theirs =
        "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384";
    let text = s_client(&lab, &certificate, &["-tls1_2", "-cipher", theirs]).text();
    assert!(
        text.contains("Cipher is ECDHE-RSA-AES256-GCM-SHA384"),
        "{text}"
    );
    assert!(text.contains("Secure Renegotiation IS supported"), "{text}");
    // Nobody renegotiates, which Pen limited and OpenSSL has to be told to.
    let again = format!(
        "(sleep 0.5; echo R; sleep 1) | openssl s_client -tls1_2 -connect {}:80 2>&1",
        addresses()[0]
    );
    let text = lab
        .client()
        .run_for(LIMIT, "sh", ["-c", &again])
        .unwrap()
        .text();
    assert!(text.contains("RENEGOTIATING"), "{text}");
    assert!(text.contains("no renegotiation"), "{text}");
    assert_eq!(pen.refused("bad-handshake"), 6);
    pen.stop();
}

#[test]
fn options_and_ciphers_choose_what_is_spoken() {
    if !lab::ready("options_and_ciphers_choose_what_is_spoken") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let pen = start(&lab, &certificate, &["-O", "ssl_option no_tlsv1.2"]);
    assert!(!s_client(&lab, &certificate, &["-tls1_2"]).ok());
    assert!(s_client(&lab, &certificate, &["-tls1_3"]).ok());
    pen.change("no ssl_option");
    assert!(s_client(&lab, &certificate, &["-tls1_2"]).ok());
    pen.change("ssl_ciphers ECDHE+CHACHA20:TLS_AES_128_GCM_SHA256");
    let text = s_client(&lab, &certificate, &["-tls1_2"]).text();
    assert!(
        text.contains("Cipher is ECDHE-ECDSA-CHACHA20-POLY1305"),
        "{text}"
    );
    let text = s_client(&lab, &certificate, &["-tls1_3"]).text();
    assert!(text.contains("Cipher is TLS_AES_128_GCM_SHA256"), "{text}");
    let refusal = pen
        .ask("ssl_ciphers TLS_AES_128_GCM_SHA256")
        .refusal
        .unwrap();
    assert!(
        refusal.contains("leaves no cipher for TLS 1.2"),
        "{refusal}"
    );
    assert_eq!(
        pen.say("ssl_ciphers").trim(),
        "ECDHE+CHACHA20:TLS_AES_128_GCM_SHA256"
    );
    pen.stop();
}

#[test]
fn sessions_are_resumed_on_any_thread_and_after_changes() {
    if !lab::ready("sessions_are_resumed_on_any_thread_and_after_changes") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let pen = start(&lab, &certificate, &[]);
    // Without tickets by session ids, which TLS 1.3 has none of.
    let script = "for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):\n\
         \x20for ticket in (True, False):\n\
         \x20 x, session, reused = context(v, v), None, []\n\
         \x20 if not ticket: x.options |= ssl.OP_NO_TICKET\n\
         \x20 for n in range(9):\n\
         \x20  c = x.wrap_socket(connect(), server_hostname='pen.test', session=session)\n\
         \x20  c.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n\
         \x20  while c.recv(10000): pass\n\
         \x20  reused.append(c.session_reused); session = c.session; c.close()\n\
         \x20 print(v.name, ticket, reused.count(True))\n";
    let said = client(&lab, &certificate, script);
    assert!(
        said.contains("TLSv1_2 True 8\nTLSv1_2 False 8\nTLSv1_3 True 8"),
        "{said}"
    );
    let folder = lab.folder().join("session");
    let session = folder.to_str().unwrap();
    let text = s_client(&lab, &certificate, &["-tls1_2", "-sess_out", session]).text();
    assert!(text.contains("New, TLSv1.2"), "{text}");
    // Neither touches what was agreed.
    pen.change("timeout 5");
    pen.change("tls_timeout 5");
    let text = s_client(&lab, &certificate, &["-tls1_2", "-sess_in", session]).text();
    assert!(text.contains("Reused, TLSv1.2"), "{text}");
    let text = s_client(&lab, &certificate, &["-tls1_2", "-reconnect"]).text();
    assert_eq!(text.matches("Reused, TLSv1.2").count(), 5, "{text}");
    pen.stop();
}

#[test]
fn an_orderly_end_is_told_and_no_other_one_looks_like_it() {
    if !lab::ready("an_orderly_end_is_told_and_no_other_one_looks_like_it") {
        return;
    }
    let lab = lab(1);
    let script = "import socket as s, struct, threading, time\n\
         l = s.create_server(('', 80), backlog=100)\n\
         def one(c):\n\
         \x20what = c.recv(100)\n\
         \x20c.sendall(b'said')\n\
         \x20if what == b'reset':\n\
         \x20 time.sleep(0.3)\n\
         \x20 c.setsockopt(s.SOL_SOCKET, s.SO_LINGER, struct.pack('ii', 1, 0))\n\
         \x20if what == b'wait': time.sleep(100)\n\
         \x20c.close()\n\
         print('ready', flush=True)\n\
         while True: threading.Thread(target=one, args=(l.accept()[0],), daemon=True).start()\n";
    let _server = python::start(lab.backend(0), script);
    let certificate = make(&lab, "ecdsa", ECDSA);
    let pen = start(&lab, &certificate, &["-O", "idle_timeout 1"]);
    let script = "for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):\n\
         \x20for what in (b'close', b'reset', b'wait'):\n\
         \x20 c = tls(context(v, v)); c.sendall(what); got = b''\n\
         \x20 try:\n\
         \x20  while data := c.recv(100): got += data\n\
         \x20  end = 'told'\n\
         \x20 except (ssl.SSLEOFError, ConnectionResetError): end = 'cut'\n\
         \x20 print(what.decode(), got.decode(), end)\n";
    let said = client(&lab, &certificate, script);
    let once = "close said told\nreset said cut\nwait said cut\n";
    assert_eq!(format!("{said}\n"), once.repeat(2));
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn half_of_a_stream_ends_by_word_or_without() {
    if !lab::ready("half_of_a_stream_ends_by_word_or_without") {
        return;
    }
    let lab = lab(1);
    let _count = python::serve(&lab, 0, 80, Manner::CountToEnd);
    let certificate = make(&lab, "ecdsa", ECDSA);
    let pen = start(&lab, &certificate, &[]);
    let script = "for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):\n\
         \x20for word in (True, False):\n\
         \x20 c = Loose(context(v, v)); c.do(c.s.do_handshake)\n\
         \x20 for n in range(300): c.do(c.s.write, b'x' * 16000)\n\
         \x20 if word: c.end()\n\
         \x20 else: c.c.shutdown(s.SHUT_WR); c.o = ssl.MemoryBIO()\n\
         \x20 raw = b''\n\
         \x20 while data := c.c.recv(65536): raw += data\n\
         \x20 c.i.write(raw); print(c.s.read(100).decode())\n\
         \x20 try: print(c.s.read(100))\n\
         \x20 except ssl.SSLZeroReturnError: print('told')\n";
    let said = client(&lab, &certificate, script);
    let told = said.lines().filter(|line| *line == "4800000").count();
    assert_eq!(told, 4, "{said}");
    assert_eq!(said.lines().count(), 8, "{said}");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn much_arrives_whole_both_ways_at_once() {
    if !lab::ready("much_arrives_whole_both_ways_at_once") {
        return;
    }
    let lab = lab(1);
    let _echo = python::serve(&lab, 0, 80, Manner::Echo);
    let certificate = make(&lab, "ecdsa", ECDSA);
    let pen = start(&lab, &certificate, &[]);
    // One thread: a connection of Python's ssl is not to be used by two.
    let script = "import os, random, select\n\
         block = os.urandom(1 << 20)\n\
         for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):\n\
         \x20every = b''.join(block[at:] + block[:at] for at in random.choices(range(1 << 20), k=30))\n\
         \x20c, view, sent, left = tls(context(v, v)), memoryview(every), 0, len(every)\n\
         \x20got = hashlib.sha256(); c.setblocking(False)\n\
         \x20while left:\n\
         \x20 waits = 0\n\
         \x20 try:\n\
         \x20  data = c.recv(random.choice((1000, 10000, 100000))); got.update(data); left -= len(data)\n\
         \x20  if not data: break\n\
         \x20 except (ssl.SSLWantReadError, ssl.SSLWantWriteError): waits += 1\n\
         \x20 try:\n\
         \x20  if sent < len(every): sent += c.send(view[sent:sent + 100000])\n\
         \x20  else: waits += 1\n\
         \x20 except (ssl.SSLWantReadError, ssl.SSLWantWriteError): waits += 1\n\
         \x20 if waits == 2: select.select([c], [c] if sent < len(every) else [], [], 10)\n\
         \x20c.setblocking(True); c.settimeout(10)\n\
         \x20print(left, got.hexdigest() == hashlib.sha256(every).hexdigest())\n\
         \x20print(c.unwrap() is c.__class__ or 'told')\n";
    let said = client(&lab, &certificate, script);
    assert_eq!(said, "0 True\ntold\n0 True\ntold");
    pen.wait_until_idle();
    let server = pen.servers().remove(0);
    assert_eq!((server.sx, server.rx), (60 << 20, 60 << 20));
    pen.stop();
}

#[test]
fn a_proxy_in_front_is_heard_before_the_handshake() {
    if !lab::ready("a_proxy_in_front_is_heard_before_the_handshake") {
        return;
    }
    let lab = lab(1);
    let _web = http::serve(&lab, 0, 0);
    let certificate = make(&lab, "ecdsa", ECDSA);
    let own = format!("accept_proxy {}", Station::client().v4());
    let pen = start(&lab, &certificate, &["-H", "-O", &own]);
    let script = "c = connect(); c.sendall(b'PROXY TCP4 198.51.100.7 192.0.2.80 56324 443\\r\\n')\n\
         c = tls(c=c); c.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); got = b''\n\
         while data := c.recv(10000): got += data\n\
         print(b'X-Forwarded-For: 198.51.100.7' in got)\n";
    assert_eq!(client(&lab, &certificate, script), "True");
    pen.stop();
}
