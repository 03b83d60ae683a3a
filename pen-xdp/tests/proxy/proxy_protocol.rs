//! The PROXY protocol: with nginx behind Pen, with HAProxy before it, and with clients that send
//! other things than headers.

use std::{fs, net::IpAddr};

use lab::{Lab, Process, Station, host_port};

use crate::python::{Manner, client, serve};
use crate::rig::{PORT, Pen, addresses, lab, server, wait_for, wait_until_listening};

/// Where an nginx that wants headers listens.
const KNOWING: u16 = 81;

/// For scripts: headers of both versions that name a client, and one that names none.
const HEADERS: &str = "\
def v1(who, port=4321):\n\
\x20return b'PROXY TCP4 %s 192.0.2.80 %d 443\\r\\n' % (who.encode(), port)\n\
def v2(who, port=4321, tlvs=b''):\n\
\x20rest = s.inet_aton(who) + s.inet_aton('192.0.2.80') + struct.pack('!HH', port, 443) + tlvs\n\
\x20return b'\\r\\n\\r\\n\\0\\r\\nQUIT\\n\\x21\\x11' + struct.pack('!H', len(rest)) + rest\n\
local = b'\\r\\n\\r\\n\\0\\r\\nQUIT\\n\\x20\\0\\0\\0'\n\
def ask(header, page='/'):\n\
\x20c = connect()\n\
\x20c.sendall(header + b'GET %s HTTP/1.0\\r\\n\\r\\n' % page.encode())\n\
\x20return rest(c)\n\
def rest(c):\n\
\x20got = b''\n\
\x20try:\n\
\x20 while b := c.recv(1 << 20): got += b\n\
\x20except ConnectionResetError: pass\n\
\x20return got\n\
def body(answer): return answer.partition(b'\\r\\n\\r\\n')[2].decode().strip()\n";

/// An nginx on back end `index` that wants headers; it answers `CLIENT PORT SERVER PORT` as they
/// say it.
fn knowing(lab: &Lab, index: usize) -> Process {
    let folder = lab.backend(index).folder().join("knowing");
    fs::create_dir_all(&folder).unwrap();
    let config = format!(
        "daemon off; worker_processes 1; user root; pid nginx.pid; error_log error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         access_log off; default_type text/plain; client_body_temp_path t1; proxy_temp_path t2;\n\
         fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n\
         server {{\n\
         listen {KNOWING} proxy_protocol; listen [::]:{KNOWING} ipv6only=on proxy_protocol;\n\
         set_real_ip_from 0.0.0.0/0; set_real_ip_from ::/0; real_ip_header proxy_protocol;\n\
         location / {{\n\
         return 200 \"$remote_addr $remote_port $proxy_protocol_server_addr \
         $proxy_protocol_server_port\";\n\
         }}\n\
         }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let log = folder.join("error.log");
    let words = ["-p".into(), folder, "-c".into(), file, "-e".into(), log];
    let nginx = lab.backend(index).spawn("nginx", words).unwrap();
    wait_until_listening(lab, index, KNOWING);
    nginx
}

/// What an nginx that wants headers says to the client about a connection to `address`.
fn told(lab: &Lab, address: IpAddr, port: u16) -> Vec<String> {
    let page = lab::fetch(lab.client(), address, port, "/").unwrap();
    page.split(' ').map(str::to_owned).collect()
}

fn wait_until_answering(lab: &Lab, address: IpAddr, port: u16) {
    wait_for("the first answer", || {
        lab::fetch(lab.client(), address, port, "/").is_ok()
    });
}

/// Pen with clients as proxies, and a server.
fn accepting(lab: &Lab, more: &[&str], servers: &[&str]) -> Pen {
    let accept = format!("accept_proxy {}", Station::client().v4());
    let words = [&["-O", &accept], more, &["80"], servers].concat();
    Pen::start(lab, &words)
}

fn script(lab: &Lab, text: &str) -> String {
    client(lab, &format!("{HEADERS}{text}"))
}

#[test]
fn servers_are_told_who_the_client_is() {
    if !lab::ready("servers_are_told_who_the_client_is") {
        return;
    }
    let lab = lab(1);
    let _web = knowing(&lab, 0);
    let to = format!("{}:{KNOWING}", server(0));
    let pen = Pen::start(&lab, &["-O", "send_proxy v1", "-b", "0", "80", &to]);
    wait_until_answering(&lab, addresses()[0], PORT);
    for version in ["v1", "v2"] {
        pen.change(&format!("send_proxy {version}"));
        for (pen, client) in addresses().into_iter().zip(Station::client().addresses()) {
            let said = told(&lab, pen, PORT);
            assert_eq!(said[0], client.to_string(), "{version}");
            assert_ne!(said[1], "4321");
            assert_eq!(said[2..], [pen.to_string(), PORT.to_string()], "{version}");
        }
    }
    pen.change("send_proxy off");
    assert!(lab::fetch(lab.client(), addresses()[0], PORT, "/").is_err());
    pen.stop();
}

#[test]
fn what_a_header_says_is_passed_on() {
    if !lab::ready("what_a_header_says_is_passed_on") {
        return;
    }
    let lab = lab(1);
    let _web = knowing(&lab, 0);
    let to = format!("{}:{KNOWING}", server(0));
    let pen = accepting(&lab, &["-b", "0", "-O", "send_proxy v2"], &[&to]);
    wait_until_answering(&lab, addresses()[1], PORT);
    for version in ["v1", "v2"] {
        pen.change(&format!("send_proxy {version}"));
        let said = script(
            &lab,
            "print(body(ask(v1('10.9.8.7'))), body(ask(v2('10.9.8.6', 5, b'\\x05\\0\\2id'))))\n\
             print(body(ask(local)), body(ask(b'PROXY UNKNOWN\\r\\n')))",
        );
        let named = "10.9.8.7 4321 192.0.2.80 443 10.9.8.6 5 192.0.2.80 443";
        let (first, second) = said.split_once('\n').unwrap();
        assert_eq!(first, named, "{version}");
        // Who is named by nobody is whoever came.
        let words: Vec<&str> = second.split(' ').collect();
        let (own, pen) = (
            Station::client().v4().to_string(),
            addresses()[0].to_string(),
        );
        assert_eq!([words[0], words[4]], [&own, &own], "{version}: {second}");
        assert_eq!([words[2], words[3]], [&pen, "80"], "{version}: {second}");
    }
    assert_eq!(pen.refused("bad-proxy-header"), 0);
    pen.stop();
}

#[test]
fn haproxy_before_pen() {
    if !lab::ready("haproxy_before_pen") {
        return;
    }
    if !lab::installed("haproxy") {
        return lab::skip("haproxy_before_pen", "haproxy (packaging/setup.sh test)");
    }
    let lab = lab(2);
    let _web = knowing(&lab, 0);
    let to = format!("{}:{KNOWING}", server(0));
    let front = Station::backend(1).addresses();
    let accept = front.map(|address| format!("accept_proxy {address}"));
    let pen = Pen::start(
        &lab,
        &[
            "-b",
            "0",
            "-O",
            &accept[0],
            "-O",
            &accept[1],
            "-O",
            "send_proxy v2",
            "80",
            &to,
        ],
    );
    let kinds = [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c",
    ];
    let mut config = "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n \
                      timeout server 30s\n"
        .to_owned();
    let ports = |kind: usize| 8080 + 2 * u16::try_from(kind).unwrap();
    for (at, kind) in kinds.into_iter().enumerate() {
        for (family, pen) in addresses().into_iter().enumerate() {
            let port = ports(at) + u16::try_from(family).unwrap();
            let pen = host_port(pen, PORT);
            config += &format!("listen l{port}\n bind :::{port} v4v6\n server pen {pen} {kind}\n");
        }
    }
    let file = lab.backend(1).folder().join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let words = ["-db".as_ref(), "-f".as_ref(), file.as_os_str()];
    let _haproxy = lab.backend(1).spawn("haproxy", words).unwrap();
    wait_until_answering(&lab, front[0], ports(0));
    for (at, kind) in kinds.into_iter().enumerate() {
        for port in [ports(at), ports(at) + 1] {
            for (front, client) in front.into_iter().zip(Station::client().addresses()) {
                let said = told(&lab, front, port);
                assert_eq!(said[0], client.to_string(), "{kind}");
                assert_eq!(said[2..], [front.to_string(), port.to_string()], "{kind}");
            }
        }
    }
    // Whoever comes by himself speaks for himself.
    let said = told(&lab, addresses()[0], PORT);
    assert_eq!(said[0], Station::client().v4().to_string());
    assert_eq!(pen.refused("bad-proxy-header"), 0);
    pen.stop();
}

#[test]
fn a_header_from_elsewhere_is_data() {
    if !lab::ready("a_header_from_elsewhere_is_data") {
        return;
    }
    let lab = lab(1);
    let _echo = serve(&lab, 0, 80, Manner::Echo);
    // Somebody else is a proxy; and the client's own header does not make it one.
    let pen = Pen::start(&lab, &["-O", "accept_proxy 10.9.8.0/24", "80", &server(0)]);
    let said = script(
        &lab,
        "for header in [v1('10.9.8.7'), v2('10.9.8.7'), b'PROXY ', local]:\n\
         \x20c = connect(); c.sendall(header + b'data'); c.shutdown(s.SHUT_WR)\n\
         \x20print(rest(c) == header + b'data')\n",
    );
    assert_eq!(said, "True\nTrue\nTrue\nTrue");
    assert_eq!(pen.refused("bad-proxy-header"), 0);
    pen.stop();
}

#[test]
fn what_is_no_header_is_refused_and_counted() {
    if !lab::ready("what_is_no_header_is_refused_and_counted") {
        return;
    }
    let lab = lab(1);
    let _echo = serve(&lab, 0, 80, Manner::Echo);
    let pen = accepting(&lab, &["-t", "1"], &[&server(0)]);
    let before = pen.cpu_seconds();
    let said = script(
        &lab,
        "start = time.time()\n\
         silent, slow, cut = connect(), connect(), connect()\n\
         slow.sendall(v1('10.9.8.7')[:-1])\n\
         cut.sendall(v2('10.9.8.7')[:20]); cut.shutdown(s.SHUT_WR)\n\
         print(rest(cut))\n\
         for bytes in [b'GET / HTTP/1.0\\r\\n\\r\\n', v1('1.2.3.4.5'),\n\
         \x20  v1('1.2.3.4').replace(b'\\r', b''), v2('1.2.3.4', 1, b'\\3\\0\\4\\0\\0\\0\\0')]:\n\
         \x20c = connect(); c.sendall(bytes); print(rest(c))\n\
         print(time.time() - start < 2)\n\
         print(rest(silent), rest(slow), 2.9 < time.time() - start < 6)\n",
    );
    assert_eq!(
        said,
        "b''\nb''\nb''\nb''\nb''\nTrue\nb'' b'' True",
        "{}",
        pen.process.output()
    );
    pen.wait_until_idle();
    assert_eq!(pen.refused("bad-proxy-header"), 7);
    let service = pen.service();
    assert_eq!((service.accepted, service.servers[0].connects), (7, 0));
    // Waiting for what doesn't come costs nothing.
    let used = pen.cpu_seconds() - before;
    assert!(used < 0.5, "{used} s");
    pen.stop();
}

#[test]
fn a_proxy_that_only_looks_is_not_counted() {
    if !lab::ready("a_proxy_that_only_looks_is_not_counted") {
        return;
    }
    let lab = lab(1);
    let _echo = serve(&lab, 0, 80, Manner::Echo);
    let pen = accepting(&lab, &[], &[&server(0)]);
    let said = script(
        &lab,
        "for linger in [False, True] * 10:\n\
         \x20c = connect()\n\
         \x20if linger: c.setsockopt(s.SOL_SOCKET, s.SO_LINGER, struct.pack('ii', 1, 0))\n\
         \x20c.close()\n\
         c = connect(); c.sendall(b'PROXY '); c.close(); print('done')\n",
    );
    assert_eq!(said, "done");
    wait_for("the cut header", || pen.refused("bad-proxy-header") == 1);
    pen.wait_until_idle();
    let service = pen.service();
    assert_eq!((service.accepted, pen.refused("bad-proxy-header")), (1, 1));
    // Nobody is a proxy any more: what looks like a header is data.
    pen.change("no accept_proxy");
    let said = script(
        &lab,
        "c = connect(); c.sendall(b'PROXY '); c.shutdown(s.SHUT_WR); print(rest(c))\n",
    );
    assert_eq!(said, "b'PROXY '");
    pen.stop();
}

#[test]
fn nothing_is_lost_or_added_behind_a_header() {
    if !lab::ready("nothing_is_lost_or_added_behind_a_header") {
        return;
    }
    let lab = lab(1);
    let _echo = serve(&lab, 0, 80, Manner::Echo);
    let pen = accepting(&lab, &[], &[&server(0)]);
    let before = pen.cpu_seconds();
    let said = script(
        &lab,
        "long = v2('10.9.8.7', 1, b'\\xe0' + struct.pack('!H', 4000) + bytes(4000))\n\
         for header in [v1('10.9.8.7'), v2('10.9.8.7')]:\n\
         \x20c = connect(); c.setsockopt(s.IPPROTO_TCP, s.TCP_NODELAY, 1)\n\
         \x20for b in header: c.sendall(bytes([b])); time.sleep(0.01)\n\
         \x20c.sendall(b'after'); print(c.recv(9))\n\
         for header in [v1('10.9.8.7'), v2('10.9.8.7'), long]:\n\
         \x20c = connect(); c.sendall(header + b'at once'); print(c.recv(9))\n",
    );
    let expected = "b'after'\nb'after'\nb'at once'\nb'at once'\nb'at once'";
    assert_eq!(said, expected);
    let used = pen.cpu_seconds() - before;
    assert!(used < 0.5, "{used} s");
    let said = script(
        &lab,
        "import hashlib, os, threading\n\
         for header in [v1('10.9.8.7'), v2('10.9.8.7')]:\n\
         \x20data = os.urandom(16 << 20); c = connect()\n\
         \x20def send(): c.sendall(header + data); c.shutdown(s.SHUT_WR)\n\
         \x20sender = threading.Thread(target=send); sender.start()\n\
         \x20print(hashlib.sha256(rest(c)).digest() == hashlib.sha256(data).digest())\n\
         \x20sender.join()\n",
    );
    assert_eq!(said, "True\nTrue");
    pen.wait_until_idle();
    assert_eq!(pen.refused("bad-proxy-header"), 0);
    let sent = pen.service().servers[0].sx;
    assert_eq!(sent, 2 * 5 + 3 * 7 + 2 * (16 << 20));
    pen.stop();
}

#[test]
fn the_client_in_the_header_is_the_one_that_counts() {
    if !lab::ready("the_client_in_the_header_is_the_one_that_counts") {
        return;
    }
    let lab = lab(2);
    let _web = lab::Nginx::start_all(&lab, &[80]).unwrap();
    let more = ["-O", "acl 1 deny 10.9.8.66", "-O", "client_acl 1"];
    let pen = accepting(&lab, &more, &[&server(0), &server(1)]);
    let said = script(
        &lab,
        "for header in [v1, v2]:\n\
         \x20for who in range(1, 5):\n\
         \x20 who = '10.9.8.%d' % who\n\
         \x20 print(*(body(ask(header(who, 99 + n))).split()[0] for n in range(3)))\n\
         print(ask(v1('10.9.8.66')), ask(v2('10.9.8.66')))\n",
    );
    let lines: Vec<&str> = said.lines().collect();
    // Each stays where it went first, by whatever version it comes.
    for line in &lines[..8] {
        assert!(["be0 be0 be0", "be1 be1 be1"].contains(line), "{said}");
    }
    assert_eq!(lines[..4], lines[4..8]);
    let first = lines[..4].iter().filter(|line| line.starts_with("be0"));
    assert_eq!(first.count(), 2, "{said}");
    assert_eq!(lines[8], "b'' b''");
    assert_eq!(pen.refused("acl-denied"), 2);
    pen.stop();
}
