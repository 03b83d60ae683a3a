//! Folders of authorities, of servers' certificates and of clients': a file in them that can't be
//! used is named, and keeps nobody from using the others.

use std::fs;
use std::path::{Path, PathBuf};

use lab::Lab;

use crate::{
    authority::{Authority, Wish},
    rig::{Pen, addresses, lab, server, wait_for_file},
    tls_peers::{ask, at, authority, serve, trouble},
};

/// What a writer leaves who was cut off.
const HALF: &str = "-----BEGIN CERTIFICATE-----\nAA";

/// A folder with the certificates of authorities, each called as its owner, an odd file, and what
/// else lies in such folders.
fn believed(lab: &Lab, authorities: &[(&str, &Authority<'_>)]) -> PathBuf {
    let folder = lab.folder().join("believed");
    fs::create_dir(&folder).unwrap();
    for (name, authority) in authorities {
        fs::copy(authority.ca(), folder.join(name).with_extension("crt")).unwrap();
    }
    fs::write(folder.join("odd.pem"), HALF).unwrap();
    fs::write(folder.join("README"), "of authorities").unwrap();
    fs::create_dir(folder.join("older.pem")).unwrap();
    folder
}

/// What `--check` says of a command line, and whether that could start.
fn check(lab: &Lab, words: &[&str]) -> (bool, String) {
    let pen = env!("CARGO_BIN_EXE_pen");
    let all = [&["--check"], words].concat();
    let output = lab.balancer().run(pen, &all).unwrap();
    (output.ok(), output.text())
}

/// A Pen that starts with an odd file, of which `--check` warns.
fn start(lab: &Lab, words: &[&str]) -> Pen {
    let (could, said) = check(lab, words);
    assert!(could, "{said}");
    assert!(said.contains("warning: service \"pen\": "), "{said}");
    assert!(said.contains("odd.pem: "), "{said}");
    Pen::start(lab, words)
}

/// What `status` says is wrong is the odd file, and the log has said the same.
fn is_told(pen: &Pen, why: &str) {
    assert!(why.contains("odd.pem: "), "{why}");
    assert!(why.ends_with("nothing of it counts"), "{why}");
    let output = pen.process.output();
    let mut lines = output.lines();
    let logged = lines.any(|line| line.contains("WARN") && line.contains(why));
    assert!(logged, "{output}");
}

/// The same folder with nothing good in it refuses, and names what is odd.
#[track_caller]
fn is_refused_without_the_others(lab: &Lab, folder: &Path, words: &[&str]) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "crt") {
            fs::remove_file(path).unwrap();
        }
    }
    let (could, said) = check(lab, words);
    assert!(!could && said.contains("no authority of"), "{said}");
    assert!(said.contains("odd.pem: "), "{said}");
}

#[test]
fn one_odd_file_keeps_no_server_from_being_believed() {
    if !lab::ready("one_odd_file_keeps_no_server_from_being_believed") {
        return;
    }
    let lab = lab(2);
    let (own, other) = (authority(&lab), Authority::called(&lab, "other"));
    other.issue(Wish::of("next", &server(1)));
    let folder = believed(&lab, &[("own", &own), ("other", &other)]);
    let _webs = [
        serve(&lab, 0, &own.file("good", "pem"), ""),
        serve(&lab, 1, &other.file("next", "pem"), ""),
    ];
    let (ca, places) = (format!("server_ca {}", folder.display()), [at(0), at(1)]);
    let words = [
        "-r",
        "-b",
        "0",
        "-O",
        "server_tls verified",
        "-O",
        &ca,
        "80",
    ];
    let words = [&words[..], &[&places[0], &places[1]]].concat();
    let pen = start(&lab, &words);
    let both = || {
        let answers = ask(&lab, 4);
        let troubles = [0, 1].map(|index| trouble(&pen, index));
        assert_eq!(answers.matches("be0").count(), 2, "{answers} {troubles:?}");
        assert_eq!(answers.matches("be1").count(), 2, "{answers} {troubles:?}");
    };
    let told = || {
        pen.service()
            .server_tls
            .unwrap()
            .trouble
            .unwrap_or_default()
    };
    both();
    is_told(&pen, &told());
    // Of what breaks while Pen runs counts what it held: it may be half written.
    for (broken, why) in [
        (HALF, "other.crt: "),
        ("", "other.crt holds no certificate"),
    ] {
        fs::write(folder.join("other.crt"), broken).unwrap();
        wait_for_file("the second one to be told", || told().contains(why));
        assert!(told().contains("odd.pem: "), "{}", told());
        both();
    }
    // A change of something else loses nothing of it.
    pen.change("server_tls_name web.test");
    pen.change("no server_tls_name");
    both();
    // Who takes the file away believes it no more, and who mends the odd one believes that.
    fs::remove_file(folder.join("other.crt")).unwrap();
    wait_for_file("it not to count", || ask(&lab, 2).trim() == "be0 be0");
    fs::copy(other.ca(), folder.join("odd.pem")).unwrap();
    wait_for_file("nothing to be odd", || told().is_empty());
    both();
    pen.stop();
    fs::write(folder.join("odd.pem"), HALF).unwrap();
    is_refused_without_the_others(&lab, &folder, &words);
}

#[test]
fn one_odd_file_keeps_no_client_from_being_served() {
    if !lab::ready("one_odd_file_keeps_no_client_from_being_served") {
        return;
    }
    let lab = lab(1);
    let _web = lab::Nginx::start_all(&lab, &[80]).unwrap();
    let (own, other) = (Authority::new(&lab), Authority::called(&lab, "other"));
    own.issue(Wish::of("default", "default.test"));
    own.issue(Wish::of("ann", "ann.test"));
    other.issue(Wish::of("bob", "bob.test"));
    let folder = believed(&lab, &[("own", &own), ("other", &other)]);
    let (certificate, place) = (own.file("default", "pem"), folder.to_str().unwrap());
    let to = server(0);
    let words = ["-R", "-A", place, "-E", &certificate, "80", &to];
    let pen = start(&lab, &words);
    let url = format!("https://{}:80/", addresses()[0]);
    let served = || {
        let shown = [own.file("ann", "pem"), other.file("bob", "pem")];
        shown.map(|file| {
            let words = ["-ksS", "--max-time", "10", "--cert", &file, &url];
            lab.client().run("curl", words).unwrap().ok()
        })
    };
    let told = || {
        let shown = pen.service().certificates.unwrap().shown;
        let mut rows = shown.into_iter().filter(|one| one.file == place);
        let row = rows.next().and_then(|one| one.trouble);
        row.unwrap_or_default()
    };
    assert_eq!(served(), [true, true]);
    is_told(&pen, &told());
    fs::write(folder.join("other.crt"), HALF).unwrap();
    wait_for_file("the second one to be told", || {
        told().contains("other.crt: ")
    });
    assert_eq!(served(), [true, true]);
    pen.change("client_certificate optional");
    assert_eq!(served(), [true, true]);
    fs::remove_file(folder.join("other.crt")).unwrap();
    wait_for_file("it not to count", || served() == [true, false]);
    fs::copy(other.ca(), folder.join("odd.pem")).unwrap();
    wait_for_file("nothing to be odd", || told().is_empty());
    assert_eq!(served(), [true, true]);
    pen.stop();
    fs::write(folder.join("odd.pem"), HALF).unwrap();
    is_refused_without_the_others(&lab, &folder, &words);
}
