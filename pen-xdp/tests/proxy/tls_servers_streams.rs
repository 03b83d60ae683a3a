//! Bytes and requests over TLS to servers: that they arrive, and how connections end.

use lab::{Lab, Process};

use crate::{
    certificates, python,
    rig::{Pen, addresses, lab, wait_for},
    tls,
    tls_peers::{PORT, PUMP, ask, at, authority, handshake, nginx, said, serve},
};

/// Pen whose servers are verified by this file.
fn start(lab: &Lab, ca: &str, more: &[&str], servers: &[&str]) -> Pen {
    let ca = format!("server_ca {ca}");
    let own = ["-O", "server_tls verified", "-O", &ca];
    Pen::start(lab, &[&own[..], more, &["80"], servers].concat())
}

/// What curl gets of these paths over one connection, a line each; `more` is for curl.
fn pages(lab: &Lab, more: &[&str], paths: &[&str]) -> Vec<String> {
    let [v4, _] = addresses();
    let urls: Vec<_> = paths.iter().map(|p| format!("http://{v4}{p}")).collect();
    let words = ["-sS", "--max-time", "20", "-H", "Host: shop.test"];
    let words = words
        .into_iter()
        .chain(more.iter().copied())
        .chain(urls.iter().map(String::as_str));
    let output = lab.client().run_ok("curl", words).unwrap();
    output.stdout.lines().map(str::to_owned).collect()
}

/// Word `at` of each line.
fn words(lines: &[String], at: usize) -> Vec<&str> {
    let word = |line: &'_ String| line.split(' ').nth(at).is_some();
    assert!(lines.iter().all(word), "{lines:?}");
    let words = lines.iter().filter_map(|line| line.split(' ').nth(at));
    words.collect()
}

#[test]
fn much_passes_both_ways_at_once_and_half_of_a_connection_ends_alone() {
    if !lab::ready("much_passes_both_ways_at_once_and_half_of_a_connection_ends_alone") {
        return;
    }
    let lab = lab(1);
    let authority = authority(&lab);
    let web = serve(&lab, 0, &authority.file("good", "pem"), "");
    let script = "import hashlib\n\
         block = b'0123456789abcdef' * (1 << 20)\n\
         body = bytes(range(256)) * (1 << 15)\n\
         got = pump(c, b'16777216\\n' + body, lambda got, ended: len(got) >= len(block))\n\
         print(got == block)\n\
         if not TLS: c.shutdown(s.SHUT_WR)\n\
         rest = b''\n\
         while not TLS and (d := c.recv(65536)): rest += d\n\
         told = [b'be0', b'%d' % len(body), hashlib.sha256(body).hexdigest().encode()]\n\
         print(TLS or rest.split() == told)\n";
    let pen = start(&lab, &authority.ca(), &[], &[&at(0)]);
    let clear = format!("{PUMP}TLS, c = False, connect()\n{script}");
    assert_eq!(python::client(&lab, &clear), "True\nTrue");
    assert_eq!(said(&web, "END"), ["END 8388608"]);
    pen.wait_until_idle();
    pen.rests();
    pen.stop();
    // The same from TLS to TLS, where Python has no half of a connection to end.
    let certificate = certificates::make(&lab, "front", certificates::ECDSA);
    let front = ["-E", &certificate.whole];
    let pen = start(&lab, &authority.ca(), &front, &[&at(0)]);
    let both = format!("{PUMP}TLS, c = True, tls()\n{script}");
    assert_eq!(tls::client(&lab, &certificate, &both), "True\nTrue");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn both_ends_of_a_connection_are_orderly() {
    if !lab::ready("both_ends_of_a_connection_are_orderly") {
        return;
    }
    let lab = lab(1);
    let authority = authority(&lab);
    let web = serve(&lab, 0, &authority.file("good", "pem"), "");
    let pen = start(&lab, &authority.ca(), &[], &[&at(0)]);
    // The server ends first: the client sees the end, and what it still says is nobody's.
    let script = "c = connect(); c.sendall(b'-1\\n'); print(c.recv(1)); c.close()\n\
                  c = connect(); c.sendall(b'0\\nabc'); c.shutdown(s.SHUT_WR)\n\
                  print(c.recv(100).split()[1]); print(c.recv(1)); c.close()\n\
                  c = connect(); c.sendall(b'0\\nabc'); time.sleep(.3)\n\
                  c.setsockopt(s.SOL_SOCKET, s.SO_LINGER, struct.pack('ii', 1, 0)); c.close()\n";
    assert_eq!(python::client(&lab, script), "b''\nb'3'\nb''");
    pen.wait_until_idle();
    wait_for("the server to see the third one break", || {
        !said(&web, "BROKEN").is_empty()
    });
    // It was told of the second one's end by a close_notify, and not of the third one's.
    assert_eq!(said(&web, "END"), ["END 3"]);
    assert_eq!(said(&web, "BROKEN").len(), 1, "{}", web.output());
    pen.stop();
}

#[test]
fn sessions_are_resumed_with_the_server_that_they_began_with() {
    if !lab::ready("sessions_are_resumed_with_the_server_that_they_began_with") {
        return;
    }
    let lab = lab(2);
    let authority = authority(&lab);
    let good = authority.file("good", "pem");
    for version in ["TLSv1.2", "TLSv1.3"] {
        let word = version.replace('.', "_");
        let most = format!("x.maximum_version = ssl.TLSVersion.{word}");
        let webs = [0, 1].map(|index| serve(&lab, index, &good, &most));
        let name = ["-r", "-O", "server_tls_name web.test"];
        let pen = start(&lab, &authority.ca(), &name, &[&at(0), &at(1)]);
        let answers = ask(&lab, 6);
        assert_eq!(answers.matches("be0").count(), 3, "{answers}");
        for web in &webs {
            let kinds = ["full", "reused", "reused"];
            let expected = kinds.map(|kind| format!("CONN {version} {kind} None None"));
            assert_eq!(said(web, "CONN"), expected, "{}", web.output());
        }
        let seen = handshake(&pen, 1).unwrap();
        assert_eq!(seen.names[0], "web.test");
        assert_eq!(seen.version.as_deref(), Some(version));
        pen.stop();
    }
}

#[test]
fn requests_go_over_connections_that_are_kept() {
    if !lab::ready("requests_go_over_connections_that_are_kept") {
        return;
    }
    let lab = lab(1);
    let authority = authority(&lab);
    let _web = nginx(&lab, 0, &authority.file("good", "pem"), "");
    let name = ["-H", "-O", "server_tls_name web.test"];
    let pen = start(&lab, &authority.ca(), &name, &[&at(0)]);
    let lines = pages(&lab, &[], &["/", "/", "/", "/last", "/", "/"]);
    let connections = words(&lines, 1);
    assert_eq!(connections[..4], [connections[0]; 4], "{lines:?}");
    assert_eq!(connections[4], connections[5], "{lines:?}");
    assert_ne!(connections[0], connections[4], "{lines:?}");
    // The second connection resumes the first one's session.
    assert_eq!(
        [lines[0].split(' ').nth(2), lines[4].split(' ').nth(2)],
        [Some("."), Some("r")]
    );
    let client = lab::Station::client().v4();
    let rest = format!("web.test shop.test {client} http ");
    assert!(lines[0].ends_with(&rest), "{lines:?}");
    // Requests that can't be sent twice go over them as well.
    let posted = pages(&lab, &["-d", "x"], &["/", "/", "/"]);
    let connections = words(&posted, 1);
    assert_eq!(connections, [connections[0]; 3], "{posted:?}");
    pen.stop();
}

#[test]
fn downloads_over_tls_arrive_whole_in_both_modes() {
    if !lab::ready("downloads_over_tls_arrive_whole_in_both_modes") {
        return;
    }
    let lab = lab(1);
    let authority = authority(&lab);
    let _web = nginx(&lab, 0, &authority.file("good", "pem"), "");
    for mode in [&[][..], &["-H"]] {
        let pen = start(&lab, &authority.ca(), mode, &[&at(0)]);
        for address in addresses() {
            assert!(lab::download_is_intact(&lab, address, 80).unwrap());
        }
        pen.wait_until_idle();
        pen.rests();
        pen.stop();
    }
}

#[test]
fn a_proxy_header_goes_before_the_handshake() {
    if !lab::ready("a_proxy_header_goes_before_the_handshake") {
        return;
    }
    let lab = lab(2);
    let authority = authority(&lab);
    let good = authority.file("good", "pem");
    let _nginx = nginx(&lab, 0, &good, "proxy_protocol");
    let _haproxy = haproxy(&lab, 1, &good);
    let client = lab::Station::client().v4().to_string();
    for (version, index) in [("v1", 0), ("v2", 0), ("v1", 1), ("v2", 1)] {
        let header = format!("send_proxy {version}");
        let pen = start(&lab, &authority.ca(), &["-O", &header], &[&at(index)]);
        let lines = pages(&lab, &[], &["/", "/"]);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines.iter().all(|line| line.ends_with(&client)),
            "{lines:?}"
        );
        assert!(lines[0].starts_with(&format!("be{index} ")), "{lines:?}");
        pen.stop();
    }
}

/// An HAProxy that takes a header and TLS behind it, and says who the client is.
fn haproxy(lab: &Lab, index: usize, certificate: &str) -> Process {
    let file = lab.backend(index).folder().join("haproxy.cfg");
    let config = format!(
        "defaults\n mode http\n timeout client 20s\n timeout server 20s\n timeout connect 5s\n\
         frontend f\n bind :::{PORT} v4v6 ssl crt {certificate} accept-proxy\n\
         \x20http-request return status 200 content-type text/plain lf-string \"be{index} %[src]\\n\"\n"
    );
    std::fs::write(&file, config).unwrap();
    let process = lab
        .backend(index)
        .spawn("haproxy", ["-db", "-f", file.to_str().unwrap()])
        .unwrap();
    wait_for("haproxy to listen", || {
        let listens = lab
            .backend(index)
            .run("ss", ["-Hltn", "sport", "=", ":443"]);
        listens.is_ok_and(|output| output.stdout.contains(":443"))
    });
    process
}

/// A server that agrees to `shout`, and then says all that it hears louder, until it hears `bye`,
/// which it ends at. It tells who ended in order, itself (`LEFT`) or its client (`ENDED`).
const SHOUTING: &str = r#"
import socket, ssl, threading
x = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); x.load_cert_chain(CERT)
x.options &= ~getattr(ssl, 'OP_IGNORE_UNEXPECTED_EOF', 0)
def one(c):
    try:
        c = x.wrap_socket(c, server_side=True, suppress_ragged_eofs=False)
        head = b''
        while not head.endswith(b'\r\n\r\n'): head += c.recv(1)
        agreed = b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: shout\r\nConnection: upgrade\r\n\r\nHI'
        c.sendall(agreed if b'shout' in head else b'HTTP/1.0 400 No\r\n\r\n')
        while (data := c.recv(65536)) and data != b'bye': c.sendall(data.upper())
        if data: c.sendall(b'BYE')
        c.unwrap()
        print('LEFT' if data else 'ENDED', flush=True)
    except OSError as e: print('BROKEN', e, flush=True)
    finally: c.close()
l = socket.create_server(('::', 443), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
print('ready', flush=True)
while True: threading.Thread(target=one, args=(l.accept()[0],), daemon=True).start()
"#;

/// Clients of it, whose connection is `begin()`: one for each end of one.
const LISTENING: &str = r#"
def agreed():
    c = begin(); got = b''
    c.sendall(b'GET /ws HTTP/1.1\r\nHost: pen.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: shout\r\n\r\n')
    while not got.endswith(b'HI'): got += c.recv(1000)
    print(got.split(b'\r\n')[0].decode(), b'upgrade: shout' in got.lower())
    return c
def to_end(c):
    got = b''
    while data := c.recv(65536): got += data
    return got
c = agreed()
for n in range(3):
    c.sendall(b'no http\r\n\r\n'); got = b''
    while len(got) < 11: got += c.recv(11 - len(got))
    print(got)
c.sendall(b'bye'); print(to_end(c)); c.close()
c = agreed(); big = b'0123456789abcdef' * (1 << 16)
print(pump(c, big, lambda got, ended: len(got) >= len(big)) == big.upper())
c.unwrap().close() if TLS else c.shutdown(s.SHUT_WR)
print(TLS or to_end(c))
"#;

#[test]
fn other_protocols_pass_both_ways_until_either_end() {
    if !lab::ready("other_protocols_pass_both_ways_until_either_end") {
        return;
    }
    let lab = lab(1);
    let authority = authority(&lab);
    let names = format!("CERT = {:?}\n", authority.file("good", "pem"));
    let web = python::start(lab.backend(0), &(names + SHOUTING));
    let certificate = certificates::make(&lab, "front", certificates::ECDSA);
    let front = ["-H", "-E", &certificate.whole];
    for (words, begins, end) in [
        (&front[..1], "False, connect", "b''"),
        (&front[..], "True, tls", "True"),
    ] {
        let pen = start(&lab, &authority.ca(), words, &[&at(0)]);
        let script = format!("{PUMP}TLS, begin = {begins}\n{LISTENING}");
        let heard = match words.len() {
            1 => python::client(&lab, &script),
            _ => tls::client(&lab, &certificate, &script),
        };
        let agreed = "HTTP/1.1 101 Switching Protocols True\n";
        let louder = "b'NO HTTP\\r\\n\\r\\n'\n".repeat(3);
        let expected = format!("{agreed}{louder}b'BYE'\n{agreed}True\n{end}");
        assert_eq!(heard, expected, "{words:?}: {}", web.output());
        pen.wait_until_idle();
        assert_eq!(handshake(&pen, 0).unwrap().trouble, None);
        pen.rests();
        pen.stop();
    }
    wait_for("both ends of both", || {
        said(&web, "LEFT").len() + said(&web, "ENDED").len() == 4
    });
    let output = web.output();
    assert_eq!(said(&web, "LEFT").len(), 2, "{output}");
    assert!(!output.contains("BROKEN"), "{output}");
}
