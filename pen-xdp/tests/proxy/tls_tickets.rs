//! Tickets: who comes back is known, on every machine that shares the keys, and nowhere else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Lab, Nginx};

use crate::{
    certificates::{Certificate, ECDSA, make},
    python,
    rig::{Pen, addresses, lab, server, wait_for_file},
};

const LIMIT: Duration = Duration::from_secs(60);
const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

/// One who gets a page by openssl's client, and keeps its session in a file.
struct Visitor<'a> {
    lab: &'a Lab,
    version: &'a str,
    /// What it says beside the version, the name that it asks for to begin with.
    words: &'a [&'a str],
}

impl<'a> Visitor<'a> {
    fn of(lab: &'a Lab, version: &'a str) -> Self {
        Self {
            lab,
            version,
            words: &["-servername", "pen.test"],
        }
    }

    fn asks(self, words: &'a [&'a str]) -> Self {
        Self { words, ..self }
    }

    fn file(&self) -> String {
        let file = self.lab.folder().join(format!("session{}", self.version));
        file.to_str().unwrap().to_owned()
    }

    /// What openssl says when it has got a page. TLS 1.3 brings tickets behind the handshake: who
    /// leaves at once has none.
    #[track_caller]
    fn visit(&self, port: u16, more: &[&str]) -> String {
        let to = format!("{}:{port}", addresses()[0]);
        let script = "printf 'GET / HTTP/1.0\\r\\nHost: pen.test\\r\\n\\r\\n' \
                      | openssl s_client -ign_eof -connect \"$@\" 2>&1";
        let all = [&["-c", script, "sh", &to, self.version], self.words, more].concat();
        let text = self.lab.client().run_for(LIMIT, "sh", &all).unwrap().text();
        assert!(text.contains("be0 "), "{all:?}: {text}");
        text
    }

    /// Comes for the first time.
    #[track_caller]
    fn comes(&self, port: u16) {
        let text = self.visit(port, &["-sess_out", &self.file()]);
        assert!(text.contains("New, TLS"), "{text}");
    }

    /// Comes back, and whether it is known.
    #[track_caller]
    fn is_known(&self, port: u16) -> bool {
        let text = self.visit(port, &["-sess_in", &self.file()]);
        let known = text.contains("Reused, TLS");
        assert!(known || text.contains("New, TLS"), "{text}");
        known
    }
}

/// So many keys as README says they are made.
fn keys(lab: &Lab, count: usize) -> Vec<String> {
    let script = "openssl rand 80 | openssl base64 -A";
    let one = || lab.client().run_ok("sh", ["-c", script]).unwrap().stdout;
    (0..count).map(|_| one() + "\n").collect()
}

/// A file of keys, which is not there before it is whole.
fn write(lab: &Lab, keys: &[String]) -> PathBuf {
    let (path, new) = (lab.folder().join("tickets"), lab.folder().join("new"));
    fs::write(&new, keys.concat()).unwrap();
    fs::rename(new, &path).unwrap();
    path
}

/// A Pen that speaks TLS in TCP mode at port 80, with this file of keys.
fn start(lab: &Lab, certificate: &Certificate, file: &Path) -> Pen {
    let option = format!("ssl_ticket_keys {}", file.display());
    Pen::start(
        lab,
        &["-E", &certificate.whole, "-O", &option, "80", &server(0)],
    )
}

/// Another Pen, with services at ports from 81 on: each with its mode, its certificate and its file
/// of keys.
fn start_second(lab: &Lab, services: &[(&str, &Certificate, &Path)]) -> Pen {
    let control = lab.folder().join("second");
    let mut text = format!("control = {control:?}\n");
    for (at, (mode, certificate, file)) in services.iter().enumerate() {
        text += &format!(
            "[[service]]\nname = \"s{at}\"\nlisten = \"{}\"\nmode = \"{mode}\"\npool = \"web\"\n\
             certificate = {:?}\nssl_ticket_keys = {file:?}\n",
            81 + at,
            certificate.whole,
        );
    }
    text += &format!(
        "[[pool]]\nname = \"web\"\nbackend = [\"{}:80\"]\n",
        server(0)
    );
    let config = lab.folder().join("second.toml");
    fs::write(&config, text).unwrap();
    Pen::start_file(lab, &config, &control)
}

/// What is wrong with files, a line each.
fn troubles(pen: &Pen) -> String {
    let shown = pen.service().certificates.unwrap().shown.into_iter();
    let troubles: Vec<_> = shown.filter_map(|one| one.trouble).collect();
    troubles.join("\n")
}

/// Puts other keys into the file, and waits until they count.
#[track_caller]
fn rotate(lab: &Lab, pen: &Pen, keys: &[String]) {
    let read = || pen.process.output().matches("tickets: read").count();
    let before = read();
    write(lab, keys);
    wait_for_file("the keys to be read", || read() > before);
}

#[test]
fn machines_with_the_same_keys_know_each_others_clients() {
    if !lab::ready("machines_with_the_same_keys_know_each_others_clients") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let other = make(&lab, "other", ECDSA);
    let file = write(&lab, &keys(&lab, 3));
    let strange = lab.folder().join("strange");
    fs::write(&strange, keys(&lab, 3).concat()).unwrap();
    let pen = start(&lab, &certificate, &file);
    let second = start_second(
        &lab,
        &[
            ("tcp", &certificate, &file),
            ("http", &certificate, &file),
            ("tcp", &other, &file),
            ("tcp", &certificate, &strange),
        ],
    );
    for version in VERSIONS {
        let visitor = Visitor::of(&lab, version);
        visitor.comes(80);
        for (port, known, what) in [
            (80, true, "the same"),
            (81, true, "another machine"),
            (82, false, "another mode"),
            (83, false, "another certificate"),
            (84, false, "other keys"),
        ] {
            assert_eq!(visitor.is_known(port), known, "{version}: {what}");
        }
        // The other way round.
        visitor.comes(81);
        assert!(visitor.is_known(80), "{version}");
        for words in [&["-servername", "other.test"][..], &["-noservername"]] {
            let stranger = Visitor::of(&lab, version).asks(words);
            assert!(!stranger.is_known(80), "{version} {words:?}");
        }
        // Without a name there is only the service to go by.
        let nameless = Visitor::of(&lab, version).asks(&["-noservername"]);
        nameless.comes(80);
        let known = [80, 81, 82, 83].map(|port| nameless.is_known(port));
        assert_eq!(known, [true, true, false, false], "{version}");
        let named = Visitor::of(&lab, version);
        assert!(!named.is_known(80), "{version}");
    }
    pen.wait_until_idle();
    pen.stop();
    second.stop();
}

#[test]
fn clients_are_known_after_changes_and_restarts() {
    if !lab::ready("clients_are_known_after_changes_and_restarts") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let file = write(&lab, &keys(&lab, 1));
    let mut pen = start(&lab, &certificate, &file);
    for version in VERSIONS {
        let visitor = Visitor::of(&lab, version);
        visitor.comes(80);
        for change in ["ssl_ciphers HIGH", "ssl_option no_tlsv1", "tls_timeout 7"] {
            pen.change(change);
            assert!(visitor.is_known(80), "{version} {change}");
        }
        pen.stop();
        pen = start(&lab, &certificate, &file);
        assert!(visitor.is_known(80), "{version}");
        // What is not spoken any more is not spoken to who comes back either.
        let cipher = match version {
            "-tls1_2" => "ECDHE+CHACHA20",
            _ => "HIGH:TLS_CHACHA20_POLY1305_SHA256",
        };
        pen.change(&format!("ssl_ciphers {cipher}"));
        assert!(!visitor.is_known(80), "{version}");
        pen.change("ssl_ciphers HIGH");
    }
    // By TLS 1.3 `-reconnect` resumes nothing, whatever the server does: s_client (OpenSSL 3.0) ends
    // the connection as soon as the handshake is over, without reading, and tickets come behind it.
    let to = format!("{}:80", addresses()[0]);
    let script = "exec openssl s_client -tls1_2 -reconnect -connect \"$0\" </dev/null 2>&1";
    let words = ["-c", script, &to];
    let text = lab.client().run_for(LIMIT, "sh", words).unwrap().text();
    assert_eq!(text.matches("Reused, TLSv1.2").count(), 5, "{text}");
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn keys_rotate_while_clients_are_there() {
    if !lab::ready("keys_rotate_while_clients_are_there") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let all = keys(&lab, 6);
    let file = write(&lab, &all[..3]);
    let pen = start(&lab, &certificate, &file);
    let end = lab.folder().join("end");
    let script = format!(
        "import os, ssl\n\
         x = ssl.create_default_context(cafile={:?})\n\
         c = x.wrap_socket(connect(), server_hostname='pen.test')\n\
         print('ready', flush=True)\n\
         while not os.path.exists({end:?}): time.sleep(.1)\n\
         c.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n\
         print('stayed', c.recv(100)[:15], flush=True)\n",
        certificate.ca
    );
    let staying = python::start_client(&lab, &script);
    let visitors = VERSIONS.map(|version| Visitor::of(&lab, version));
    let known = || visitors.each_ref().map(|visitor| visitor.is_known(80));
    visitors.iter().for_each(|visitor| visitor.comes(80));
    // The second key issued their tickets; it gets old, and goes.
    rotate(&lab, &pen, &all[1..4]);
    assert_eq!(known(), [true; 2]);
    rotate(&lab, &pen, &all[..5]);
    assert_eq!(known(), [false; 2]);
    // One that is written ahead on another machine is known before it issues any here.
    visitors.iter().for_each(|visitor| visitor.comes(80));
    rotate(&lab, &pen, &all[1..4]);
    assert_eq!(known(), [true; 2]);
    // Changed in its place, without another name.
    let read = || pen.process.output().matches("tickets: read").count();
    let before = read();
    fs::write(&file, all[4..].concat()).unwrap();
    wait_for_file("the keys to be read", || read() > before);
    assert_eq!(known(), [false; 2]);
    fs::write(&end, "").unwrap();
    staying
        .wait_for_line("stayed b'HTTP/1.", Duration::from_secs(15))
        .unwrap();
    assert_eq!(troubles(&pen), "");
    pen.wait_until_idle();
    pen.rests();
    pen.stop();
}

#[test]
fn broken_keys_are_told_and_the_old_ones_count() {
    if !lab::ready("broken_keys_are_told_and_the_old_ones_count") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let all = keys(&lab, 3);
    let file = write(&lab, &all);
    let pen = start(&lab, &certificate, &file);
    let visitors = VERSIONS.map(|version| Visitor::of(&lab, version));
    visitors.iter().for_each(|visitor| visitor.comes(80));
    let wrapped = lab.client().run_ok("openssl", ["rand", "-base64", "80"]);
    for (text, what) in [
        (wrapped.unwrap().stdout, "line 2: this is the rest of a key"),
        (format!("{}words\n", all[0]), "line 2: this is no base64"),
        (String::new(), "holds no key"),
    ] {
        fs::write(&file, text).unwrap();
        wait_for_file(what, || troubles(&pen).contains(what));
        for visitor in &visitors {
            assert!(visitor.is_known(80), "{} {what}", visitor.version);
        }
    }
    let shown = pen.service().certificates.unwrap();
    assert_eq!((shown.served, shown.in_trouble), (1, 1), "{shown:?}");
    assert!(pen.say("json status").contains("holds no key"));
    assert!(pen.process.output().contains("holds no key"));
    fs::remove_file(&file).unwrap();
    wait_for_file("the file to be missed", || {
        troubles(&pen).contains("No such file")
    });
    assert!(visitors[0].is_known(80));
    // A change to a file that can't be used is refused, as is a start.
    let bad = lab.folder().join("bad");
    fs::write(&bad, "words\n").unwrap();
    let option = format!("ssl_ticket_keys {}", bad.display());
    let refusal = format!("{:?}", pen.ask(&option).refusal.unwrap());
    assert!(
        refusal.contains("bad, line 1: this is no base64"),
        "{refusal}"
    );
    assert!(visitors[1].is_known(80));
    for first in ["--check", "-f"] {
        let own = ["-E", &certificate.whole, "-O", &option];
        let to = server(0);
        let words = [&[first][..], &own, &["81", &to]].concat();
        let output = lab
            .balancer()
            .run_for(LIMIT, env!("CARGO_BIN_EXE_pen"), words);
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", output.text());
        assert!(output.text().contains("bad, line 1: "), "{}", output.text());
    }
    write(&lab, &all);
    wait_for_file("the trouble to be over", || troubles(&pen).is_empty());
    assert!(visitors[0].is_known(80));
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn without_a_file_clients_are_known_until_the_service_is_another() {
    if !lab::ready("without_a_file_clients_are_known_until_the_service_is_another") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let certificate = make(&lab, "ecdsa", ECDSA);
    let other = make(&lab, "other", ECDSA);
    let pen = Pen::start(&lab, &["-E", &certificate.whole, "80", &server(0)]);
    let by_id = ["-servername", "pen.test", "-no_ticket"];
    let other_by_id = ["-servername", "other.test", "-no_ticket"];
    for (version, words, stranger) in [
        ("-tls1_2", &by_id[..2], &["-servername", "other.test"][..]),
        ("-tls1_2", &by_id, &other_by_id),
        ("-tls1_3", &by_id[..2], &["-servername", "other.test"]),
    ] {
        let visitor = Visitor::of(&lab, version).asks(words);
        visitor.comes(80);
        for change in ["ssl_ciphers HIGH", "ssl_option no_tlsv1", "tls_timeout 7"] {
            pen.change(change);
            assert!(visitor.is_known(80), "{version} {words:?} {change}");
        }
        let stranger = Visitor::of(&lab, version).asks(stranger);
        assert!(!stranger.is_known(80), "{version} {words:?}");
        pen.change(&format!("certificate {}", other.whole));
        assert!(!visitor.is_known(80), "{version} {words:?}");
        pen.change(&format!("certificate {}", certificate.whole));
    }
    // A file takes over, live.
    let visitor = Visitor::of(&lab, "-tls1_3");
    visitor.comes(80);
    let file = write(&lab, &keys(&lab, 2));
    pen.change(&format!("ssl_ticket_keys {}", file.display()));
    assert!(!visitor.is_known(80));
    visitor.comes(80);
    assert!(visitor.is_known(80));
    assert_eq!(pen.say("ssl_ticket_keys").trim(), file.to_str().unwrap());
    pen.wait_until_idle();
    pen.stop();
}
