//! Services that are chosen by name: curl, openssl and Python before Pen, nginx and openssl behind
//! it, with certificates of their own.

use std::{fs, net::IpAddr, time::Duration};

use lab::{Lab, Process};
use pen_common::control::{ConnectionStatus, ProxyStatus};

use crate::{
    authority::{Authority, Wish},
    http,
    python::{self, Manner},
    rig::{Pen, addresses, lab, server, wait_for, wait_until_listening},
    tls_peers::nginx,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Where clients come to, and where TLS is spoken behind.
const PORT: u16 = 443;
const BEHIND: u16 = 8443;

/// Pen with a service `edge` at port 443 that has `of_edge` for keys, and others that are in `more`.
pub(crate) fn start(lab: &Lab, of_edge: &str, more: &str) -> Pen {
    let folder = lab.folder().join("edge");
    fs::create_dir_all(&folder).unwrap();
    let (control, config) = (folder.join("control"), folder.join("pen.toml"));
    let text = format!(
        "control = {control:?}\n[[service]]\nname = \"edge\"\nmode = \"tcp\"\n\
         listen = \"{PORT}\"\n{of_edge}\n{more}"
    );
    fs::write(&config, text).unwrap();
    Pen::start_file(lab, &config, &control)
}

/// A service in mode tcp that listens nowhere, with a pool of one server.
pub(crate) fn hidden(name: &str, to: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nmode = \"tcp\"\n\
         [[pool]]\nname = \"{name}\"\nbackend = [\"{to}\"]\n"
    )
}

/// A server of TLS on back end `index`.
fn behind(index: usize) -> String {
    format!("{}:{BEHIND}", server(index))
}

/// An nginx on back end `index` with a certificate of the authority's; it answers
/// `CERTIFICATE NAME`, and at `/big` with many bytes.
fn web(lab: &Lab, index: usize, (authority, subject): (&Authority<'_>, &str)) -> Process {
    let folder = lab.backend(index).folder().join("named");
    fs::create_dir_all(&folder).unwrap();
    let (crt, key) = (
        authority.file(subject, "crt"),
        authority.file(subject, "key"),
    );
    let big = lab::big_file(lab).unwrap();
    let config = format!(
        "daemon off; worker_processes 1; user root; pid nginx.pid; error_log error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         access_log off; default_type text/plain; client_body_temp_path t1; proxy_temp_path t2;\n\
         fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n\
         server {{\n\
         listen {BEHIND} ssl; listen [::]:{BEHIND} ipv6only=on ssl;\n\
         ssl_certificate {crt}; ssl_certificate_key {key};\n\
         location = /big {{ alias {big}; }}\n\
         location / {{ return 200 \"{subject} $ssl_server_name\"; }}\n\
         }} }}\n",
        big = big.display(),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let log = folder.join("error.log");
    let words = ["-p".into(), folder, "-c".into(), file, "-e".into(), log];
    let nginx = lab.backend(index).spawn("nginx", words).unwrap();
    wait_until_listening(lab, index, BEHIND);
    nginx
}

/// What curl gets who asks for a name, from Pen's address `at`; what it complains of otherwise.
fn page(lab: &Lab, (authority, name): (&Authority<'_>, &str), at: IpAddr) -> String {
    let to = match at {
        IpAddr::V4(v4) => format!("{name}:{PORT}:{v4}"),
        IpAddr::V6(v6) => format!("{name}:{PORT}:[{v6}]"),
    };
    let ca = authority.ca();
    let url = format!("https://{name}/");
    let words = ["-sS", "--cacert", &ca, "--resolve", &to, &url];
    lab.client().run_for(LIMIT, "curl", words).unwrap().text()
}

/// What openssl's client says, who sends nothing.
fn s_client(lab: &Lab, at: IpAddr, words: &[&str]) -> String {
    let to = lab::host_port(at, PORT);
    let script = "exec openssl s_client -connect \"$@\" </dev/null 2>&1";
    let all = [&["-c", script, "sh", &to], words].concat();
    lab.client().run_for(LIMIT, "sh", &all).unwrap().text()
}

fn wait_until_answering(lab: &Lab, authority: &Authority<'_>, names: &[&str]) {
    for name in names {
        wait_for("the first answer", || {
            page(lab, (authority, name), addresses()[0]).contains(' ')
                && !page(lab, (authority, name), addresses()[0]).contains("curl:")
        });
    }
}

fn named(pen: &Pen, service: &str) -> ProxyStatus {
    let mut all = pen.status().proxy.into_iter();
    all.find(|one| one.service == service).unwrap()
}

fn connections(pen: &Pen) -> Vec<ConnectionStatus> {
    serde_json::from_value(pen.ask("connections").value.unwrap()).unwrap()
}

#[test]
fn names_lead_to_servers_whose_own_certificates_clients_see() {
    if !lab::ready("names_lead_to_servers_whose_own_certificates_clients_see") {
        return;
    }
    let lab = lab(3);
    let authority = Authority::new(&lab);
    authority.issue(Wish::of("first", "one.test"));
    authority.issue(Wish::of("second", "two.test *.apps.test x.y.apps.test"));
    authority.issue(Wish::of("third", "old.test"));
    let _first = web(&lab, 0, (&authority, "first"));
    let _second = web(&lab, 1, (&authority, "second"));
    let old = [
        "s_server",
        "-accept",
        "8443",
        "-www",
        "-cert",
        &authority.file("third", "pem"),
        "-tls1",
        "-cipher",
        "ALL:@SECLEVEL=0",
    ]
    .map(str::to_owned);
    let _third = lab.backend(2).spawn("openssl", old).unwrap();
    let log = lab.folder().join("access.log");
    let hidden_ = |name, index| hidden(name, &behind(index));
    let logged = format!("log = {log:?}\nlog_format = \"json\"\n[[pool]]");
    let more = [
        hidden_("one", 0).replace("[[pool]]", &logged),
        hidden_("two", 1),
        hidden_("old", 2),
    ];
    let routes = "sni_route = [\"One.test one\", \"*.apps.test two\", \"two.test. two\", \
                  \"x.apps.test one\", \"old.test old\"]";
    let pen = start(&lab, routes, &more.concat());
    wait_until_answering(&lab, &authority, &["one.test", "two.test"]);
    let before = pen.service().led;
    for at in addresses() {
        for (name, expected) in [
            ("one.test", "first one.test"),
            ("ONE.test", "first one.test"),
            ("two.test", "second two.test"),
            ("a.apps.test", "second a.apps.test"),
        ] {
            assert_eq!(page(&lab, (&authority, name), at), expected, "{at}");
        }
        // Exact before wildcard, and one label alone.
        let exact = s_client(&lab, at, &["-servername", "x.apps.test"]);
        assert!(exact.contains("subject=CN = first"), "{exact}");
        let deeper = s_client(&lab, at, &["-servername", "x.y.apps.test"]);
        assert!(!deeper.contains("subject="), "{deeper}");
        // Who speaks what Pen does not, with a server that does.
        let words = [
            "-servername",
            "old.test",
            "-tls1",
            "-cipher",
            "ALL:@SECLEVEL=0",
        ];
        let spoken = s_client(&lab, at, &words);
        assert!(spoken.contains("Protocol  : TLSv1\n"), "{spoken}");
        assert!(spoken.contains("subject=CN = third"), "{spoken}");
        let bytes = format!(
            "curl -sS --cacert {} --resolve two.test:{PORT}:{} https://two.test/big | sha256sum",
            authority.ca(),
            if at.is_ipv4() {
                at.to_string()
            } else {
                format!("[{at}]")
            },
        );
        let got = lab.client().run_for(LIMIT, "sh", ["-c", &bytes]).unwrap();
        let big = lab::big_file(&lab).unwrap();
        let sum = lab.client().run_ok("sha256sum", [&big]).unwrap();
        assert_eq!(got.text()[..64], sum.stdout[..64], "{}", got.text());
    }
    pen.wait_until_idle();
    let edge = pen.service();
    assert_eq!((edge.led - before, edge.accepted), (14, 2));
    assert_eq!((pen.refused("unknown-name"), edge.servers.len()), (2, 0));
    assert_eq!(edge.listeners[0].taken, edge.led + edge.accepted);
    let one = named(&pen, "one");
    assert!(
        one.accepted >= 7 && one.servers[0].connects == one.accepted,
        "{one:?}"
    );
    assert!(one.certificates.is_none());
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    wait_for("all lines", || {
        lines().lines().count() as u64 == one.accepted
    });
    // Where the client came to is the listener of the service that led it.
    let all = lines();
    let came = format!("\"service\":\"one\",\"listener\":\"[::]:{PORT}\"");
    assert!(all.lines().all(|line| line.contains(&came)), "{all}");
    for name in ["one.test", "x.apps.test"] {
        assert!(all.contains(&format!("\"sni\":\"{name}\"")), "{all}");
    }
    let shown = pen.say("json status");
    assert!(shown.contains("unknown-name"), "{shown}");
    pen.stop();
}

#[test]
fn who_asks_for_no_known_name_gets_the_services_own_servers_or_nothing() {
    if !lab::ready("who_asks_for_no_known_name_gets_the_services_own_servers_or_nothing") {
        return;
    }
    let lab = lab(2);
    let authority = Authority::new(&lab);
    authority.issue(Wish::of("first", "one.test"));
    let _first = web(&lab, 0, (&authority, "first"));
    let _echo = python::serve(&lab, 1, 80, Manner::Echo);
    let routes = "sni_route = \"one.test one\"\nlog_format = \"combined\"\nlog = ";
    let log = lab.folder().join("edge.log");
    let routes = format!("{routes}{log:?}");
    let own = format!("{}:80", server(1));
    let own = format!("[[pool]]\nname = \"edge\"\nbackend = [\"{own}\"]\n");
    let script = "import ssl\n\
         def hello(name):\n\
         \x20i, o = ssl.MemoryBIO(), ssl.MemoryBIO()\n\
         \x20x = ssl.create_default_context(); x.check_hostname = name is not None\n\
         \x20c = x.wrap_bio(i, o, server_hostname=name)\n\
         \x20try: c.do_handshake()\n\
         \x20except ssl.SSLWantReadError: return o.read()\n\
         for bytes in [hello('two.test'), hello(None), b'GET / HTTP/1.0\\r\\n\\r\\n', b'\\x16\\x03\\x01\\0\\1\\2', hello('one.test')[:50]]:\n\
         \x20c = connect(443); c.sendall(bytes); got = b''\n\
         \x20try:\n\
         \x20 c.shutdown(s.SHUT_WR)\n\
         \x20 while b := c.recv(1 << 20): got += b\n\
         \x20except OSError: pass\n\
         \x20print(got == bytes, len(got) > 0)\n\
         c = connect(443); c.close()\n";
    for (more, expected) in [("", "False False"), (&own, "True True")] {
        let pen = start(&lab, &routes, &(hidden("one", &behind(0)) + more));
        wait_until_answering(&lab, &authority, &["one.test"]);
        let said = python::client(&lab, script);
        assert_eq!(said, [expected; 5].join("\n"));
        pen.wait_until_idle();
        let edge = pen.service();
        let refused = if more.is_empty() { 5 } else { 0 };
        assert_eq!(pen.refused("unknown-name"), refused);
        assert_eq!(edge.accepted, 5);
        // Of both runs: the second one is refused nobody.
        let lines = || fs::read_to_string(&log).unwrap_or_default();
        wait_for("five lines", || {
            lines().matches(" unknown-name ").count() == 5
        });
        pen.stop();
    }
}

#[test]
fn a_service_that_ends_tls_hears_of_the_real_client() {
    if !lab::ready("a_service_that_ends_tls_hears_of_the_real_client") {
        return;
    }
    let lab = lab(2);
    let authority = Authority::new(&lab);
    authority.issue(Wish::of("ended", "ended.test other.test"));
    let _http = http::serve(&lab, 0, 0);
    // Says what it is told by TLVs of a header, and how long what follows is.
    let telling = "import socket as s, struct\n\
         l = s.create_server(('', 81)); print('ready', flush=True)\n\
         while True:\n\
         \x20c, _ = l.accept(); b = b''\n\
         \x20while len(b) < 16 or len(b) < 16 + struct.unpack('!H', b[14:16])[0]: b += c.recv(65536)\n\
         \x20at, end = 28, 16 + struct.unpack('!H', b[14:16])[0]\n\
         \x20print('FROM', s.inet_ntoa(b[16:20]), flush=True)\n\
         \x20while at < end:\n\
         \x20 kind, length = struct.unpack('!BH', b[at:at + 3])\n\
         \x20 if kind == 2: print('ASKED', b[at + 3:at + 3 + length].decode(), flush=True)\n\
         \x20 at += 3 + length\n\
         \x20c.close()\n";
    let told = python::start(lab.backend(1), telling);
    let certificate = authority.file("ended", "pem");
    let ended = format!(
        "[[service]]\nname = \"ended\"\nmode = \"http\"\ncertificate = {certificate:?}\n\
         [[pool]]\nname = \"ended\"\nbackend = [\"{}:80\"]\n",
        server(0)
    );
    let passed = hidden("passed", &format!("{}:81", server(1)));
    let passed = passed.replace("[[pool]]", "send_proxy = \"v2\"\n[[pool]]");
    let client = lab::Station::client().v4();
    let routes = format!(
        "sni_route = [\"ended.test ended\", \"*.passed.test passed\"]\n\
         accept_proxy = \"{client}\""
    );
    let pen = start(&lab, &routes, &(ended + &passed));
    let script = format!(
        "import ssl\n\
         def tls(name, who, more=b''):\n\
         \x20c = connect(443)\n\
         \x20rest = s.inet_aton(who) + s.inet_aton('192.0.2.80') + struct.pack('!HH', 4321, 443) + more\n\
         \x20c.sendall(b'\\r\\n\\r\\n\\0\\r\\nQUIT\\n\\x21\\x11' + struct.pack('!H', len(rest)) + rest)\n\
         \x20x = ssl.create_default_context(cafile={:?})\n\
         \x20return x.wrap_socket(c, server_hostname=name)\n\
         c = tls('ended.test', '10.9.8.7')\n\
         c.sendall(b'GET / HTTP/1.1\\r\\nHost: ended.test\\r\\n\\r\\n')\n\
         got = c.recv(65536)\n\
         while b'X-Forwarded-For' not in got: got += c.recv(65536)\n\
         print(b'X-Forwarded-For: 10.9.8.7' in got, b'X-Forwarded-Proto: https' in got)\n\
         c.sendall(b'GET / HTTP/1.1\\r\\nHost: other.test\\r\\n\\r\\n')\n\
         print(b' 421 ' in c.recv(65536))\n\
         try: tls('a.Passed.test', '10.9.8.6', b'\\2\\0\\3lie')\n\
         except OSError: print('ended')\n",
        authority.ca()
    );
    assert_eq!(python::client(&lab, &script), "True True\nTrue\nended");
    told.wait_for_line("ASKED", LIMIT).unwrap();
    let said = told.output();
    assert!(
        said.contains("FROM 10.9.8.6\nASKED a.passed.test"),
        "{said}"
    );
    assert!(!said.contains("lie"), "{said}");
    let hold = script.replace(
        "print(b' 421 '",
        "print('ready', flush=True); time.sleep(60)\nprint(b' 421 '",
    );
    let held = python::start_client(&lab, &hold);
    wait_for("the held one", || {
        connections(&pen).iter().any(|one| one.service == "ended")
    });
    let one = connections(&pen).remove(0);
    assert_eq!((one.number, one.service.as_str()), (0, "ended"));
    assert_eq!(one.client.unwrap().to_string(), "10.9.8.7:4321");
    // It is ended by its number, whoever's it was before.
    pen.change("close 0");
    wait_for("its end", || connections(&pen).is_empty());
    let (edge, ended) = (pen.service(), named(&pen, "ended"));
    assert_eq!((edge.connections, edge.accepted, edge.led), (0, 0, 3));
    assert_eq!(
        (ended.connections, ended.certificates.unwrap().unknown),
        (0, 0)
    );
    drop(held);
    pen.stop();
}

#[test]
fn routes_change_while_clients_are_there() {
    if !lab::ready("routes_change_while_clients_are_there") {
        return;
    }
    let lab = lab(2);
    let authority = Authority::new(&lab);
    authority.issue(Wish::of("first", "one.test three.test"));
    authority.issue(Wish::of("second", "one.test"));
    let _first = web(&lab, 0, (&authority, "first"));
    let _second = web(&lab, 1, (&authority, "second"));
    let two = hidden("two", &behind(1)).replace("[[pool]]", "listen = \"444\"\n[[pool]]");
    // Good as long as nobody is led there.
    let round = hidden("round", "127.0.0.1:443").replace("[[pool]]", "listen = \"445\"\n[[pool]]");
    let more = hidden("one", &behind(0)) + &two + &round;
    let pen = start(&lab, "sni_route = \"one.test one\"", &more);
    wait_until_answering(&lab, &authority, &["one.test"]);
    let script = format!(
        "import ssl\n\
         x = ssl.create_default_context(cafile={:?})\n\
         c = x.wrap_socket(connect(443), server_hostname='one.test')\n\
         c.settimeout(60)\n\
         def ask():\n\
         \x20c.sendall(b'GET / HTTP/1.1\\r\\nHost: one.test\\r\\n\\r\\n')\n\
         \x20return b'first one.test' in c.recv(65536)\n\
         print('ready', ask(), flush=True)\n\
         for n in range(600):\n\
         \x20time.sleep(.1)\n\
         \x20if not ask(): break\n\
         \x20print('still', n, flush=True)\n",
        authority.ca()
    );
    let open = python::start_client(&lab, &script);
    let of = |name| page(&lab, (&authority, name), addresses()[1]);
    pen.change("-s edge sni_route one.test two");
    assert_eq!(of("one.test"), "second one.test");
    assert!(of("three.test").contains("curl:"));
    pen.change("-s edge sni_route three.test one");
    assert_eq!(of("three.test"), "first three.test");
    pen.change("-s edge no sni_route one.test");
    assert!(of("one.test").contains("curl:"));
    assert_eq!(pen.say("-s edge sni_route").trim(), "[\"three.test one\"]");
    for (command, why) in [
        (
            "-s edge sni_route a.test nobody",
            "there is no service \"nobody\"",
        ),
        (
            "-s edge sni_route a.test edge",
            "leads to the service that it is of",
        ),
        ("-s one sni_route a.test two", "leads by name itself"),
        (
            "-s edge sni_route a.test round",
            "service \"edge\" listens at [::]:443 itself",
        ),
        ("-s edge no sni_route a.test", "there is none for a.test"),
        ("-s edge no sni_route", "has no servers of its own"),
        ("-s edge certificate /c.pem", "a certificate ends it here"),
    ] {
        let refusal = pen.ask(command).refusal.unwrap_or_default();
        assert!(refusal.contains(why), "{command}: {refusal}");
    }
    assert_eq!(of("three.test"), "first three.test");
    // Whom the list denies no name leads anywhere.
    pen.change("acl 3 deny 2001:db8::/16");
    pen.change(&format!("acl 3 deny {}", lab::Station::client().v6()));
    pen.change("-s edge client_acl 3");
    assert!(of("three.test").contains("curl:"));
    assert_eq!(pen.refused("acl-denied"), 1);
    let before = open.output().lines().count();
    wait_for("the one that is open", || {
        open.output().lines().count() > before + 1
    });
    drop(open);
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn a_service_that_is_full_is_not_waited_for() {
    if !lab::ready("a_service_that_is_full_is_not_waited_for") {
        return;
    }
    let lab = lab(1);
    let authority = Authority::new(&lab);
    authority.issue(Wish::of("first", "one.test"));
    let _first = web(&lab, 0, (&authority, "first"));
    let one = hidden("one", &behind(0)).replace("[[pool]]", "conn_max = 1\n[[pool]]");
    let pen = start(&lab, "sni_route = \"one.test one\"\ntls_timeout = 3", &one);
    wait_until_answering(&lab, &authority, &["one.test"]);
    let script = format!(
        "import ssl\n\
         x = ssl.create_default_context(cafile={:?})\n\
         def tls(): return x.wrap_socket(connect(443), server_hostname='one.test')\n\
         first = tls(); start = time.time()\n\
         try: tls()\n\
         except OSError: print(time.time() - start < 2.5)\n",
        authority.ca()
    );
    assert_eq!(python::client(&lab, &script), "True");
    pen.wait_until_idle();
    let refused = named(&pen, "one").refused;
    let full = refused
        .iter()
        .find(|one| one.reason == "too-many-connections");
    assert_eq!(full.unwrap().count, 1);
    assert_eq!(pen.refused("too-many-connections"), 0);
    pen.stop();
}

#[test]
fn who_loses_the_last_route_to_it_is_told_of() {
    if !lab::ready("who_loses_the_last_route_to_it_is_told_of") {
        return;
    }
    let lab = lab(2);
    let two = hidden("two", &behind(1)).replace("[[pool]]", "listen = \"444\"\n[[pool]]");
    let own = format!(
        "[[pool]]\nname = \"edge\"\nbackend = [\"{}:80\"]\n",
        server(0)
    );
    let routes = "sni_route = [\"one.test one\", \"two.test two\"]";
    let pen = start(&lab, routes, &(hidden("one", &behind(0)) + &two + &own));
    let warned = |what: &str| {
        let output = pen.process.output();
        let mut lines = output.lines();
        lines.any(|line| line.contains("WARN") && line.contains(what))
    };
    let alone = "service \"one\": no name leads to it (`sni_route`), and it listens nowhere";
    let said = pen.say("-s edge no sni_route one.test");
    assert!(said.starts_with(&format!("warning: {alone}")), "{said}");
    assert!(warned(alone), "{}", pen.process.output());
    // As long as it is so, whoever changes routes hears of it.
    let said = pen.say("-s edge no sni_route two.test");
    assert!(said.contains(alone) && !said.contains("\"two\""), "{said}");
    for what in [
        "service \"two\": no name",
        "service \"edge\": it has no `sni_route`",
    ] {
        assert!(warned(what), "{what}: {}", pen.process.output());
    }
    assert_eq!(pen.say("-s edge sni_route one.test one").trim(), "");
    pen.stop();
}

/// An HAProxy on the second back end that passes clients of both its addresses on to Pen, with a
/// header.
fn haproxy(lab: &Lab, fronts: [IpAddr; 2]) -> Process {
    let mut config = "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout \
                      server 30s\n"
        .to_owned();
    for (name, (front, pen)) in ["v4", "v6"]
        .into_iter()
        .zip(fronts.into_iter().zip(addresses()))
    {
        let [front, pen] = [front, pen].map(|at| lab::host_port(at, PORT));
        config += &format!("listen {name}\n bind {front}\n server pen {pen} send-proxy-v2\n");
    }
    let file = lab.backend(1).folder().join("haproxy.cfg");
    fs::write(&file, config).unwrap();
    let words = ["-db", "-f", file.to_str().unwrap()];
    lab.backend(1).spawn("haproxy", words).unwrap()
}

#[test]
fn behind_haproxy_names_lead_and_clients_are_themselves() {
    let name = "behind_haproxy_names_lead_and_clients_are_themselves";
    if !lab::ready(name) {
        return;
    }
    if !lab::installed("haproxy") {
        return lab::skip(name, "haproxy (packaging/setup.sh test)");
    }
    let lab = lab(2);
    let authority = Authority::new(&lab);
    authority.issue(Wish::of("first", "one.test"));
    let _web = nginx(&lab, 0, &authority.file("first", "pem"), "proxy_protocol");
    let fronts = lab::Station::backend(1).addresses();
    let haproxy = haproxy(&lab, fronts);
    let log = lab.folder().join("access.log");
    let keys = format!("send_proxy = \"v2\"\nlog = {log:?}\nlog_format = \"json\"\n[[pool]]");
    let one = hidden("one", &format!("{}:{PORT}", server(0))).replace("[[pool]]", &keys);
    let accept = fronts.map(|front| format!("{:?}", front.to_string()));
    let routes = format!(
        "sni_route = \"one.test one\"\naccept_proxy = [{}]",
        accept.join(", ")
    );
    let pen = start(&lab, &routes, &one);
    wait_for("haproxy", || {
        page(&lab, (&authority, "one.test"), fronts[1]).starts_with("be0 ")
    });
    let clients = lab::Station::client().addresses();
    // Who comes by himself speaks for himself, and is led as well.
    for (at, client) in fronts.into_iter().chain(addresses()).zip(clients.repeat(2)) {
        let said = page(&lab, (&authority, "one.test"), at);
        let words: Vec<&str> = said.split_whitespace().collect();
        // What nginx was asked for, and who came: by the header, of which it knows no other.
        assert_eq!((words[3], words[4]), ("one.test", "one.test"), "{said}");
        assert_eq!(words.last(), Some(&&*client.to_string()), "{at}: {said}");
        let refused = page(&lab, (&authority, "two.test"), at);
        assert!(refused.contains("curl:"), "{refused}");
    }
    assert_eq!(pen.refused("unknown-name"), 4);
    assert_eq!(pen.refused("bad-proxy-header"), 0);
    // While one is there, it is shown as who it is.
    let script = format!(
        "import ssl\n\
         x = ssl.create_default_context(cafile={:?})\n\
         c = x.wrap_socket(s.create_connection(({:?}, {PORT})), server_hostname='one.test')\n\
         print('ready', flush=True); time.sleep(60)\n",
        authority.ca(),
        fronts[0].to_string(),
    );
    let held = python::start_client(&lab, &script);
    let one = connections(&pen).remove(0);
    assert_eq!(one.service, "one");
    assert_eq!(one.client.unwrap().ip(), clients[0]);
    drop(held);
    pen.wait_until_idle();
    drop(haproxy);
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    let count = named(&pen, "one").accepted;
    wait_for("all lines", || lines().lines().count() as u64 == count);
    for front in fronts {
        assert!(!lines().contains(&format!("\"{front}")), "{}", lines());
    }
    pen.stop();
}
