//! Files that TLS to servers is made of: the system's, changed ones, and ones that can't be used.

use std::fs;

use crate::{
    authority::{Authority, Wish},
    python,
    rig::{Pen, lab, server, wait_for_file},
    tls_peers::{ask, at, authority, handshake, nginx, said, serve, trouble},
};

/// Where the system has its authorities.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What a start says that is refused, by the words of a command line.
fn refusal(lab: &lab::Lab, words: &[&str]) -> String {
    let pen = env!("CARGO_BIN_EXE_pen");
    let all = [&["--check"], words].concat();
    let output = lab.balancer().run(pen, &all).unwrap();
    assert!(!output.ok(), "{words:?}: {}", output.text());
    output.text()
}

#[test]
fn without_a_word_the_systems_authorities_count() {
    if !lab::ready("without_a_word_the_systems_authorities_count") {
        return;
    }
    let lab = lab(1);
    let (own, other) = (authority(&lab), Authority::called(&lab, "other"));
    let _web = serve(&lab, 0, &own.file("good", "pem"), "");
    let words = ["-O", "server_tls verified", "80", &at(0)];
    for (system, served) in [(own.ca(), "be0"), (other.ca(), "-")] {
        let pen = Pen::start_with(&lab, system.as_ref(), SYSTEM, &words);
        assert_eq!(ask(&lab, 1), served);
        let status = pen.service().server_tls.unwrap();
        assert_eq!(status.authorities.as_deref(), Some(SYSTEM));
        pen.stop();
    }
    // Where there are none.
    let folder = lab.folder().join("empty");
    fs::create_dir(&folder).unwrap();
    let pen = env!("CARGO_BIN_EXE_pen");
    let script = format!(
        "mount --bind {} /etc/ssl/certs && exec \"$@\"",
        folder.display()
    );
    let all = ["-c", &script, "sh", pen, "--check"]
        .into_iter()
        .chain(words);
    let output = lab.balancer().run("sh", all).unwrap();
    assert!(!output.ok());
    let text = output.text();
    assert!(text.contains("install ca-certificates, or name"), "{text}");
}

#[test]
fn what_does_not_go_together_or_can_not_be_used_is_refused() {
    if !lab::ready("what_does_not_go_together_or_can_not_be_used_is_refused") {
        return;
    }
    let lab = lab(1);
    let authority = authority(&lab);
    let (ca, crt) = (authority.ca(), authority.file("good", "crt"));
    let (key, empty) = (authority.file("good", "key"), lab.folder().join("none.pem"));
    fs::write(&empty, "").unwrap();
    let place = at(0);
    let verified = "server_tls verified";
    for (options, target, expected) in [
        (
            vec![format!("server_ca {ca}")],
            &*place,
            "speaks of TLS to the servers, which is off",
        ),
        (
            vec![verified.into(), format!("server_key {key}")],
            &place,
            "`server_key` is the key of a certificate, and there is none",
        ),
        (
            vec![verified.into(), format!("server_ca {ca}")],
            "/run/web",
            "add `server_tls_name`",
        ),
        (
            vec![verified.into(), "server_ca /nonexistent".into()],
            &place,
            "/nonexistent: No such file",
        ),
        (
            vec![verified.into(), format!("server_ca {}", empty.display())],
            &place,
            "none.pem holds no certificate",
        ),
        (
            vec![
                verified.into(),
                format!("server_ca {ca}"),
                format!("server_certificate {crt}"),
            ],
            &place,
            "a key in a file of its own is named by `server_key`",
        ),
        (
            vec!["server_tls sure".into()],
            &place,
            "server_tls = \"sure\"",
        ),
    ] {
        let mut words: Vec<&str> = options.iter().flat_map(|o| ["-O", o.as_str()]).collect();
        words.extend(["80", target]);
        let said = refusal(&lab, &words);
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn renewed_authorities_and_certificates_are_in_force_soon() {
    if !lab::ready("renewed_authorities_and_certificates_are_in_force_soon") {
        return;
    }
    let lab = lab(1);
    let (own, other) = (authority(&lab), Authority::called(&lab, "other"));
    other.issue(Wish::of("next", &server(0)));
    let folder = lab.folder().join("believed");
    fs::create_dir(&folder).unwrap();
    let (file, place) = (lab.folder().join("ca.pem"), at(0));
    for believed in [&file, &folder] {
        let entry = match believed.is_dir() {
            true => believed.join("one.crt"),
            false => file.clone(),
        };
        let put = |authority: &Authority<'_>| {
            let new = lab.folder().join("new");
            fs::copy(authority.ca(), &new).unwrap();
            fs::rename(new, &entry).unwrap();
        };
        put(&own);
        let web = serve(&lab, 0, &own.file("good", "pem"), "");
        let ca = format!("server_ca {}", believed.display());
        let words = [
            "-b",
            "0",
            "-O",
            "server_tls verified",
            "-O",
            &ca,
            "80",
            &place,
        ];
        let pen = Pen::start(&lab, &words);
        assert_eq!(ask(&lab, 2), "be0 be0");
        // What can't be used leaves what is in force, and is told.
        fs::write(&entry, "-----BEGIN CERTIFICATE-----\nx\n").unwrap();
        wait_for_file("the trouble to be told", || {
            let told = pen.service().server_tls.unwrap().trouble;
            told.is_some_and(|why| why.contains("what was read before is still in force"))
        });
        assert_eq!(ask(&lab, 1), "be0");
        // No session of before is resumed.
        put(&other);
        wait_for_file("the old one not to be believed", || ask(&lab, 1) == "-");
        assert!(trouble(&pen, 0).contains("signed by nobody"));
        assert!(pen.service().server_tls.unwrap().trouble.is_none());
        drop(web);
        let _web = serve(&lab, 0, &other.file("next", "pem"), "");
        assert_eq!(ask(&lab, 1), "be0");
        assert_eq!(
            handshake(&pen, 0).unwrap().subject.as_deref(),
            Some("CN=next")
        );
        pen.stop();
    }
}

#[test]
fn connections_that_wait_are_not_used_past_a_change_of_who_is_believed() {
    if !lab::ready("connections_that_wait_are_not_used_past_a_change_of_who_is_believed") {
        return;
    }
    let lab = lab(1);
    let (own, other) = (authority(&lab), Authority::called(&lab, "other"));
    let _web = nginx(&lab, 0, &own.file("good", "pem"), "");
    let file = lab.folder().join("ca.pem");
    fs::copy(own.ca(), &file).unwrap();
    let ca = format!("server_ca {}", file.display());
    let words = [
        "-H",
        "-b",
        "0",
        "-O",
        "server_tls verified",
        "-O",
        &ca,
        "80",
        &at(0),
    ];
    let pen = Pen::start(&lab, &words);
    let ask = || {
        let script = "c = connect(); c.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n')\n\
                      got = b''\n\
                      while d := c.recv(65536): got += d\n\
                      print(got.split()[1].decode())\n";
        python::client(&lab, script)
    };
    assert_eq!((ask(), ask()), ("200".into(), "200".into()));
    let status = pen.service().servers.remove(0);
    assert!(status.handshake.is_some());
    fs::copy(other.ca(), &file).unwrap();
    wait_for_file("nobody to be believed", || ask() == "502");
    // Commands are held to what files are.
    for (command, why) in [
        ("server_tls unverified", "unverified\" takes all"),
        (
            "server_tls off",
            "speaks of TLS to the servers, which is off",
        ),
        ("server_key /k.pem", "and there is none"),
        ("server_tls_name a..b", "server_tls_name"),
    ] {
        let refusal = pen.ask(command).refusal.unwrap_or_default();
        assert!(refusal.contains(why), "{command}: {refusal}");
    }
    assert_eq!(ask(), "502");
    // By a command, at once.
    pen.change(&format!("server_ca {}", own.ca()));
    assert_eq!(ask(), "200");
    pen.stop();
}

#[test]
fn what_commands_said_of_tls_to_servers_they_take_back() {
    if !lab::ready("what_commands_said_of_tls_to_servers_they_take_back") {
        return;
    }
    let lab = lab(1);
    let (own, clients) = (authority(&lab), Authority::called(&lab, "clients"));
    clients.issue(Wish::of("pen", "pen.test"));
    let asks = format!(
        "x.load_verify_locations({:?}); x.verify_mode = ssl.CERT_OPTIONAL",
        clients.ca()
    );
    let web = serve(&lab, 0, &own.file("good", "pem"), &asks);
    let (crt, key) = (clients.file("pen", "crt"), clients.file("pen", "key"));
    let options = [
        "server_tls verified".to_owned(),
        format!("server_ca {}", own.ca()),
        "server_tls_name web.test".to_owned(),
        format!("server_certificate {crt}"),
        format!("server_key {key}"),
    ];
    let mut words = vec!["-b", "0"];
    words.extend(options.iter().flat_map(|option| ["-O", option]));
    let place = at(0);
    let pen = Pen::start(&lab, &[&words[..], &["80", &place]].concat());
    let heard = || {
        assert_eq!(ask(&lab, 1), "be0", "{}", trouble(&pen, 0));
        ["SNI", "CONN"].map(|word| {
            let last = said(&web, word).pop().unwrap();
            last.rsplit(' ').next().unwrap().to_owned()
        })
    };
    assert_eq!(heard(), ["web.test", "pen"]);
    pen.change("no server_tls_name");
    assert_eq!(heard(), ["None", "pen"]);
    // The key is in no other file, and goes with its certificate.
    let refusal = pen.ask("no server_key").refusal.unwrap();
    assert!(refusal.contains("holds no private key"), "{refusal}");
    pen.change("no server_certificate");
    assert_eq!(heard(), ["None", "None"]);
    assert_eq!(pen.say("server_key").trim(), "");
    pen.change("no server_ca");
    assert_eq!(ask(&lab, 1), "-");
    let why = trouble(&pen, 0);
    assert!(why.contains(&format!("nobody in {SYSTEM}")), "{why}");
    pen.change(&options[1]);
    assert_eq!(heard(), ["None", "None"]);
    // Nothing is left that speaks of TLS.
    pen.change("no server_ca");
    pen.change("server_tls off");
    assert!(pen.service().server_tls.is_none());
    let shown = pen.say("config show");
    assert!(!shown.contains("server_"), "{shown}");
    pen.stop();
}
