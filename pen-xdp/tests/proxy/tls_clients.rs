//! Certificates of clients: who is served, what servers are told of it, and that no session goes on
//! under another policy than the one that it began under.

use std::fs;
use std::time::Duration;

use lab::{Lab, Process};

use crate::{
    authority::{Authority, Wish},
    http, python,
    rig::{Pen, addresses, lab, server, wait_for, wait_for_file},
};

const LIMIT: Duration = Duration::from_secs(60);

/// Who comes.
#[derive(Debug, Clone, Copy)]
enum Who {
    /// Without a certificate.
    Nobody,
    /// With one of the authority's, called `ann`.
    Ann,
    /// With one of the authority's that has expired.
    Expired,
    /// With one of another authority's.
    Stranger,
}

/// Two authorities and their certificates.
struct Rig<'a> {
    lab: &'a Lab,
    own: Authority<'a>,
    other: Authority<'a>,
}

impl<'a> Rig<'a> {
    fn new(lab: &'a Lab) -> Self {
        let (own, other) = (Authority::new(lab), Authority::called(lab, "other"));
        own.issue(Wish::of("default", "default.test"));
        own.issue(Wish::of("ann", "ann.test"));
        own.issue(Wish {
            days: "-1",
            ..Wish::of("expired", "expired.test")
        });
        other.issue(Wish::of("stranger", "stranger.test"));
        Self { lab, own, other }
    }

    /// Pen with a certificate for everybody, and what else is asked for.
    fn start(&self, words: &[&str]) -> Pen {
        let own = self.own.file("default", "pem");
        Pen::start(
            self.lab,
            &[&["-E", &own], words, &["80", &server(0)]].concat(),
        )
    }

    /// The file that a client shows.
    fn shown(&self, who: Who) -> Option<String> {
        match who {
            Who::Nobody => None,
            Who::Ann => Some(self.own.file("ann", "pem")),
            Who::Expired => Some(self.own.file("expired", "pem")),
            Who::Stranger => Some(self.other.file("stranger", "pem")),
        }
    }

    /// What the server got of a request; `-` if there was no answer.
    fn asks(&self, who: Who, more: &[&str]) -> String {
        let to = format!("default.test:80:{}", addresses()[0]);
        let shown = self.shown(who);
        let mut words = vec!["-ksS", "--max-time", "10", "--resolve", &to];
        if let Some(file) = &shown {
            words.extend(["--cert", file]);
        }
        words.extend(more);
        words.push("https://default.test:80/");
        let output = self.lab.client().run_for(LIMIT, "curl", &words).unwrap();
        match output.ok() {
            true => output.stdout,
            false => "-".to_owned(),
        }
    }

    /// What openssl's client gets that asks for one page, and whether it went on with a session.
    /// A session is read from or written to the file of this name.
    fn resumes(&self, who: Who, words: &[&str]) -> (bool, String) {
        let to = format!("{}:80", addresses()[0]);
        let shown = self.shown(who);
        let script = "printf 'GET / HTTP/1.1\\r\\nHost: default.test\\r\\nConnection: close\\r\\n\\r\\n' | \
                      timeout 10 openssl s_client -servername default.test -ign_eof -connect \"$@\" 2>&1";
        let mut all = vec!["-c", script, "sh", to.as_str()];
        if let Some(file) = &shown {
            all.extend(["-cert", file, "-key", file]);
        }
        all.extend(words);
        let output = self.lab.client().run_for(LIMIT, "sh", &all).unwrap();
        let text = output.text();
        (text.contains("Reused, TLSv1"), text)
    }
}

/// What a server got in headers of that kind, however they are spelled; Python folds long ones when
/// it writes them, each version otherwise.
fn told(page: &str) -> Vec<String> {
    let page = page.replace("\n ", " ");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = page.lines().map(words);
    let about = |line: &String| {
        let sign = |sign: char| !sign.is_ascii_alphanumeric();
        let line = line.to_lowercase().replace(sign, "-");
        line.starts_with("x-ssl-client")
    };
    lines.filter(about).collect()
}

fn verify(page: &str) -> String {
    let lines = told(page);
    let line = lines.first().map_or("", |line| line.as_str());
    line.strip_prefix("X-SSL-Client-Verify: ")
        .unwrap_or("-")
        .to_owned()
}

#[test]
fn who_has_no_good_certificate_is_refused_or_unknown() {
    if !lab::ready("who_has_no_good_certificate_is_refused_or_unknown") {
        return;
    }
    let lab = lab(1);
    let web = http::serve(&lab, 0, 0);
    let rig = Rig::new(&lab);
    let ca = format!("client_ca {}", rig.own.ca());
    let of_file = |asked: &'static str| vec!["-O", asked, "-O", &ca];
    let folder = lab.folder().join("clients");
    fs::create_dir(&folder).unwrap();
    fs::copy(rig.own.ca(), folder.join("01234567.0")).unwrap();
    let (folder, chain) = (folder.to_str().unwrap().to_owned(), rig.own.ca());
    let ways = [
        (vec!["-R", "-O", &ca], "-"),
        (of_file("client_certificate required"), "-"),
        (of_file("client_certificate optional"), "NONE"),
        (vec!["-R", "-A", &folder], "-"),
        (vec!["-R", "-G", &chain], "-"),
    ];
    for (words, nobody) in &ways {
        let pen = rig.start(&[&["-H", "-d"], &words[..]].concat());
        for version in ["1.2", "1.3"] {
            let only = [&*format!("--tlsv{version}"), "--tls-max", version];
            for (who, expected) in [
                (Who::Nobody, *nobody),
                (Who::Ann, "SUCCESS"),
                (Who::Stranger, "-"),
                (Who::Expired, "-"),
            ] {
                let page = rig.asks(who, &only);
                assert_eq!(
                    verify(&page),
                    expected,
                    "{words:?} {version} {who:?}: {page}"
                );
            }
        }
        let refused = if *nobody == "-" { 6 } else { 4 };
        wait_for("all to be counted", || {
            pen.refused("bad-handshake") == refused
        });
        let said = pen.process.output();
        let reasons =
            ["UnknownIssuer", "Expired"].map(|why| format!("invalid peer certificate: {why}"));
        for why in reasons {
            assert!(said.contains(&why), "{why}: {said}");
        }
        pen.wait_until_idle();
        pen.stop();
    }
    // Nobody came through who is not counted above.
    let served: usize = ways
        .iter()
        .map(|(_, nobody)| if *nobody == "-" { 2 } else { 4 })
        .sum();
    assert_eq!(http::said(&web, "REQ"), served);
}

#[test]
fn servers_are_told_who_it_is_and_by_nobody_else() {
    if !lab::ready("servers_are_told_who_it_is_and_by_nobody_else") {
        return;
    }
    let lab = lab(1);
    let _web = http::serve(&lab, 0, 0);
    let rig = Rig::new(&lab);
    let ca = format!("client_ca {}", rig.own.ca());
    let optional = ["-H", "-O", "client_certificate optional", "-O", &ca];
    let trusted = format!("trusted {}", lab::Station::client().v4());
    let log = lab.folder().join("access.log");
    let log = log.to_str().unwrap();
    let logged = ["-l", log, "-O", "log_format json"];
    let pen = rig.start(&[&optional[..], &["-O", &trusted], &logged].concat());
    let crt = rig.own.file("ann", "crt");
    let openssl = |what: &[&str]| {
        let words = [&["x509", "-noout", "-in", &crt], what].concat();
        let said = lab.client().run_ok("openssl", &words).unwrap().stdout;
        said.trim().split_once('=').unwrap().1.replace(':', "")
    };
    let known = [
        "X-SSL-Client-Verify: SUCCESS".to_owned(),
        "X-SSL-Client-S-DN: CN=ann".to_owned(),
        "X-SSL-Client-I-DN: CN=authority".to_owned(),
        format!("X-SSL-Client-Serial: {}", openssl(&["-serial"])),
        format!(
            "X-SSL-Client-SHA256: {}",
            openssl(&["-fingerprint", "-sha256"]).to_lowercase()
        ),
    ];
    let forged = [
        "-H",
        "X-SSL-Client-Verify: SUCCESS",
        "-H",
        "x-SSL-client-VERIFY: SUCCESS",
        "-H",
        "X_SSL_Client_Verify: SUCCESS",
        "-H",
        "X-SSL_Client-S-DN: CN=root",
        "-H",
        "X.SSL.Client.S-DN: CN=root",
        "-H",
        "X!SSL!Client!Verify: SUCCESS",
        "-H",
        "X~SSL~Client~Verify: SUCCESS",
        "-H",
        "X-SSL-Client-CN: root",
        "-H",
        "Connection: X-SSL-Client-Verify, X-SSL-Client-S-DN",
    ];
    for more in [&[][..], &forged] {
        assert_eq!(told(&rig.asks(Who::Ann, more)), known);
        let none = ["X-SSL-Client-Verify: NONE"];
        assert_eq!(told(&rig.asks(Who::Nobody, more)), none);
    }
    // The log knows it as well, and what was asked for.
    let lines = || fs::read_to_string(log).unwrap_or_default();
    let asked = |name: &str| {
        let line = format!("\"sni\":\"default.test\",{name}\"method\":");
        lines().matches(&line).count()
    };
    wait_for("all lines", || lines().lines().count() == 4);
    let of_both = ["\"client_certificate\":\"ann\",", ""].map(asked);
    assert_eq!(of_both, [2, 2], "{}", lines());
    // A body's trailers say nothing of it either.
    let script = "import ssl\n\
         x = ssl.create_default_context(); x.check_hostname = False; x.verify_mode = ssl.CERT_NONE\n\
         c = x.wrap_socket(connect(), server_hostname='default.test')\n\
         c.sendall(b'POST / HTTP/1.1\\r\\nHost: default.test\\r\\nTransfer-Encoding: chunked\\r\\nConnection: close\\r\\n\\r\\n'\n\
         \x20b'3\\r\\nabc\\r\\n0\\r\\nX-SSL-Client-Verify: SUCCESS\\r\\nX_SSL_Client_S_DN: CN=root\\r\\nX.SSL!Client~CN: root\\r\\nX-Sum: 7\\r\\n\\r\\n')\n\
         got = b''\n\
         while b := c.recv(65536): got += b\n\
         print(b'X-Sum: 7' in got, b'SUCCESS' in got, b'root' in got)\n";
    assert_eq!(python::client(&lab, script), "True False False");
    // Without the question it is as with all that says where a request comes from: who is trusted
    // is a proxy that asked its clients itself.
    pen.change("client_certificate off");
    assert_eq!(told(&rig.asks(Who::Ann, &forged)).len(), 6);
    pen.change("no trusted");
    assert_eq!(told(&rig.asks(Who::Ann, &forged)), [""; 0]);
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn sessions_go_on_under_the_policy_that_they_began_under_and_no_other() {
    if !lab::ready("sessions_go_on_under_the_policy_that_they_began_under_and_no_other") {
        return;
    }
    let lab = lab(1);
    let _web = http::serve(&lab, 0, 0);
    let rig = Rig::new(&lab);
    let (file, list) = (
        lab.folder().join("ca.pem"),
        lab.folder().join("revoked.pem"),
    );
    let (file, list) = (file.to_str().unwrap(), list.to_str().unwrap());
    fs::copy(rig.own.ca(), file).unwrap();
    rig.own.list(list);
    let (ca, crl) = (format!("client_ca {file}"), format!("client_crl {list}"));
    let of_both = format!("{}{}", text(&rig.own.ca()), text(&rig.other.ca()));
    let session = lab.folder().join("session");
    let session = session.to_str().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let pen = rig.start(&["-H", "-R", "-O", &ca, "-O", &crl]);
        let begin = |who| {
            let (reused, text) = rig.resumes(who, &[version, "-sess_out", session]);
            assert!(
                !reused && text.contains("HTTP/1.1 200"),
                "{version}: {text}"
            );
        };
        let go_on = |who| rig.resumes(who, &[version, "-sess_in", session]);
        // Under the same policy: known still, though nothing is shown.
        begin(Who::Ann);
        let (reused, text) = go_on(Who::Nobody);
        assert!(reused, "{version}: {text}");
        assert!(
            text.contains("X-SSL-Client-S-DN: CN=ann"),
            "{version}: {text}"
        );
        // One that began without a question, or with one that need not be answered.
        for asked in ["off", "optional"] {
            pen.change(&format!("client_certificate {asked}"));
            begin(Who::Nobody);
            let (reused, text) = go_on(Who::Nobody);
            assert!(
                reused && text.contains("HTTP/1.1 200"),
                "{version} {asked}: {text}"
            );
            pen.change("client_certificate required");
            let (reused, text) = go_on(Who::Nobody);
            let served = text.contains("HTTP/1.1 200");
            assert!(!reused && !served, "{version} {asked}: {text}");
            let (reused, text) = go_on(Who::Ann);
            assert!(
                !reused && text.contains("CN=ann"),
                "{version} {asked}: {text}"
            );
        }
        // One that began when other authorities counted, by a command and by the file.
        begin(Who::Ann);
        pen.change(&format!("client_ca {}", rig.other.ca()));
        let (reused, text) = go_on(Who::Ann);
        assert!(
            !reused && !text.contains("HTTP/1.1 200"),
            "{version}: {text}"
        );
        pen.change(&ca);
        // The list is of one authority; without one the two are equal.
        for (what, then) in [(&of_both, true), (&text_of(&rig.other), false)] {
            begin(Who::Ann);
            in_force(&pen, || fs::write(file, what).unwrap());
            let (reused, text) = go_on(Who::Ann);
            let served = text.contains("HTTP/1.1 200");
            assert_eq!((reused, served), (false, then), "{version}: {text}");
            in_force(&pen, || fs::write(file, text_of(&rig.own)).unwrap());
        }
        // One whose certificate was revoked.
        begin(Who::Ann);
        assert!(go_on(Who::Nobody).0);
        begin(Who::Ann);
        rig.own.enter("ann", "R");
        in_force(&pen, || rig.own.list(list));
        for who in [Who::Nobody, Who::Ann] {
            let (reused, text) = go_on(who);
            let served = text.contains("HTTP/1.1 200");
            assert!(!reused && !served, "{version} {who:?}: {text}");
        }
        rig.own.enter("ann", "V");
        in_force(&pen, || rig.own.list(list));
        begin(Who::Ann);
        pen.stop();
    }
}

fn text(file: &str) -> String {
    fs::read_to_string(file).unwrap()
}

fn text_of(authority: &Authority<'_>) -> String {
    text(&authority.ca())
}

/// Changes a file, and waits until clients are checked by it.
#[track_caller]
fn in_force(pen: &Pen, change: impl FnOnce()) {
    let read = || pen.process.output().matches("were read anew").count();
    let before = read();
    change();
    wait_for_file("another policy", || read() > before);
}

#[test]
fn no_session_of_one_service_goes_on_in_another() {
    if !lab::ready("no_session_of_one_service_goes_on_in_another") {
        return;
    }
    let lab = lab(1);
    let _web = http::serve(&lab, 0, 0);
    let rig = Rig::new(&lab);
    let (control, config) = (lab.folder().join("control"), lab.folder().join("pen.toml"));
    let (own, ca) = (rig.own.file("default", "pem"), rig.own.ca());
    // By random keys none would be known there anyway; nginx took those by shared ones for its own
    // (CVE-2025-23419).
    let (keys, script) = (
        lab.folder().join("tickets"),
        "openssl rand 80 | base64 -w 0",
    );
    let made = lab.client().run_ok("sh", ["-c", script]).unwrap();
    fs::write(&keys, made.stdout).unwrap();
    let service = |name: &str, port: u16, more: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nmode = \"http\"\nlisten = \"{port}\"\npool = \"web\"\n\
             certificate = {own:?}\nssl_ticket_keys = {keys:?}\n{more}\n"
        )
    };
    let asked = format!("client_certificate = \"required\"\nclient_ca = {ca:?}");
    let text = format!(
        "control = {control:?}\n{}{}[[pool]]\nname = \"web\"\n[[pool.backend]]\naddress = \"{}\"\n\
         port = 80\n",
        service("open", 81, ""),
        service("closed", 80, &asked),
        server(0),
    );
    fs::write(&config, text).unwrap();
    let pen = Pen::start_file(&lab, &config, &control);
    let session = lab.folder().join("session");
    let session = session.to_str().unwrap();
    let at_81 = format!("{}:81", addresses()[0]);
    for version in ["-tls1_2", "-tls1_3"] {
        // The last place counts.
        let words = ["-connect", &at_81, version, "-sess_out", session];
        let (reused, text) = rig.resumes(Who::Nobody, &words);
        assert!(
            !reused && text.contains("HTTP/1.1 200"),
            "{version}: {text}"
        );
        let words = ["-connect", &at_81, version, "-sess_in", session];
        let (reused, text) = rig.resumes(Who::Nobody, &words);
        assert!(reused, "{version}: {text}");
        let (reused, text) = rig.resumes(Who::Nobody, &[version, "-sess_in", session]);
        assert!(
            !reused && !text.contains("HTTP/1.1 200"),
            "{version}: {text}"
        );
    }
    pen.stop();
}

/// A server that says `HEAD` and what it got before the first byte behind a PROXY header, in
/// hexadecimal digits.
fn listening(lab: &Lab) -> Process {
    let script = "import socket as s\n\
         l = s.create_server(('', 80), backlog=100)\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20c = l.accept()[0]; got = b''\n\
         \x20while len(got) < 16 or len(got) < 16 + int.from_bytes(got[14:16], 'big'):\n\
         \x20 b = c.recv(1)\n\
         \x20 if not b: break\n\
         \x20 got += b\n\
         \x20print('HEAD', got.hex(), flush=True)\n\
         \x20c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nCN=ann'); c.close()\n";
    python::start(lab.backend(0), script)
}

#[test]
fn servers_behind_streams_are_told_by_the_proxy_protocol() {
    if !lab::ready("servers_behind_streams_are_told_by_the_proxy_protocol") {
        return;
    }
    let lab = lab(1);
    let web = listening(&lab);
    let rig = Rig::new(&lab);
    let ca = format!("client_ca {}", rig.own.ca());
    let pen = rig.start(&[
        "-O",
        "send_proxy v2",
        "-O",
        "client_certificate optional",
        "-O",
        &ca,
    ]);
    let mut count = 0;
    let mut head = || {
        count += 1;
        wait_for("the header", || {
            web.output().matches("HEAD ").count() == count
        });
        let output = web.output();
        let line = output.lines().rfind(|line| line.contains("HEAD ")).unwrap();
        let hex = line.split_once("HEAD ").unwrap().1.trim().to_owned();
        let digits = hex.as_bytes().chunks(2);
        let bytes = digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap());
        let bytes: Vec<u8> = bytes.collect();
        let parsed = pen_common::proxy_protocol::parse(&bytes).unwrap();
        let pen_common::proxy_protocol::Parsed::Complete { header, .. } = parsed else {
            panic!("{bytes:?}")
        };
        let found = header.tlvs.into_iter().find(|tlv| tlv.kind == 0x20);
        found.map(|tlv| String::from_utf8_lossy(&tlv.value).into_owned())
    };
    let session = lab.folder().join("session");
    let session = session.to_str().unwrap();
    let begins = |asked: (u8, u8), version: &str| {
        let (bits, verify) = (char::from(asked.0), char::from(asked.1));
        format!("{bits}\0\0\0{verify}!\0\u{7}{version}")
    };
    for (option, version, cipher) in [
        ("-tls1_2", "TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("-tls1_3", "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
    ] {
        let cipher = format!(
            "#\0{}{cipher}",
            char::from(u8::try_from(cipher.len()).unwrap())
        );
        rig.resumes(Who::Nobody, &[option]);
        let expected = format!("{}{cipher}", begins((1, 1), version));
        assert_eq!(head(), Some(expected));
        for (file, bits) in [("-sess_out", 7), ("-sess_in", 5)] {
            let (reused, text) = rig.resumes(Who::Ann, &[option, file, session]);
            assert_eq!(reused, bits == 5, "{text}");
            let expected = format!("{}\"\0\u{3}ann{cipher}", begins((bits, 0), version));
            assert_eq!(head(), Some(expected));
        }
    }
    pen.change("client_certificate off");
    rig.resumes(Who::Ann, &["-tls1_3"]);
    assert!(head().is_some_and(|value| value.starts_with(&begins((1, 1), "TLSv1.3"))));
    pen.stop();
}

#[test]
fn a_broken_file_of_authorities_is_told_and_the_old_one_stays() {
    if !lab::ready("a_broken_file_of_authorities_is_told_and_the_old_one_stays") {
        return;
    }
    let lab = lab(1);
    let _web = http::serve(&lab, 0, 0);
    let rig = Rig::new(&lab);
    let file = lab.folder().join("ca.pem");
    fs::copy(rig.own.ca(), &file).unwrap();
    let ca = format!("client_ca {}", file.display());
    let pen = rig.start(&["-H", "-R", "-O", &ca]);
    let trouble = || {
        let shown = pen.service().certificates.unwrap().shown;
        shown.into_iter().find_map(|one| one.trouble)
    };
    assert_eq!(trouble(), None);
    fs::write(&file, "-----BEGIN CERTIFICATE-----\nnothing").unwrap();
    wait_for_file("a broken file to be told", || trouble().is_some());
    let why = trouble().unwrap();
    assert!(
        why.contains("ca.pem") && why.contains("still in force"),
        "{why}"
    );
    assert_eq!(verify(&rig.asks(Who::Ann, &[])), "SUCCESS");
    assert_eq!(rig.asks(Who::Stranger, &[]), "-");
    // As those write it who put another file in its place.
    let next = lab.folder().join("next");
    fs::copy(rig.other.ca(), &next).unwrap();
    fs::rename(&next, &file).unwrap();
    wait_for_file("another authority to count", || {
        verify(&rig.asks(Who::Stranger, &[])) == "SUCCESS"
    });
    assert_eq!(trouble(), None);
    assert_eq!(rig.asks(Who::Ann, &[]), "-");
    // What can't be used refuses a change.
    let refused = pen.ask("client_ca /nonexistent");
    assert!(!refused.ok);
    assert_eq!(verify(&rig.asks(Who::Stranger, &[])), "SUCCESS");
    pen.stop();
}
