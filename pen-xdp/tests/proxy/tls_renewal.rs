//! Certificates that are renewed while clients are there, and renewals that go wrong.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use lab::{Lab, Nginx};
use pen_common::control::CertificatesStatus;

use crate::{
    authority::{Authority, Wish},
    certificates::RSA,
    python,
    rig::{Pen, addresses, lab, server, wait_for},
    tls_names::{folder, put, start, subject},
};

/// Within this a file that was written is served: on a machine that does nothing else two seconds
/// are enough, and all files are looked at after sixty anyway.
const EFFECT: Duration = Duration::from_secs(10);

fn certificates(pen: &Pen) -> CertificatesStatus {
    pen.service().certificates.unwrap()
}

/// What is wrong, a line each.
fn troubles(pen: &Pen) -> String {
    let shown = certificates(pen).shown.into_iter();
    let troubles: Vec<_> = shown.filter_map(|one| one.trouble).collect();
    troubles.join("\n")
}

/// Waits until `name` gets the certificate, no longer than a renewal may take.
#[track_caller]
fn soon(lab: &Lab, name: &str, expected: &str) {
    let begun = Instant::now();
    loop {
        let took = begun.elapsed();
        let got = subject(lab, name, &[]);
        if got == expected {
            return;
        }
        assert!(took < EFFECT, "{name} still gets {got}, not {expected}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Clients that are connected, and send and get a line each second until they are told to end.
const STAYING: &str = "import ssl, time, os\n\
     x = ssl.create_default_context(cafile=CA); x.check_hostname = False\n\
     s = [x.wrap_socket(connect(), server_hostname=n) for n in NAMES]\n\
     print('ready', flush=True)\n\
     n = 0\n\
     while not os.path.exists(END):\n\
     \x20for c in s:\n\
     \x20 c.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n\
     \x20 got = c.recv(65536)\n\
     \x20 assert got.startswith(b'HTTP/1.1 200'), got\n\
     \x20n += 1; time.sleep(.2)\n\
     print('stayed', n > 3, flush=True)\n";

#[test]
fn renewed_files_are_served_soon_and_connections_stay() {
    if !lab::ready("renewed_files_are_served_soon_and_connections_stay") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    for (subject, name) in [
        ("a1", "a.test"),
        ("a2", "a.test"),
        ("a3", "a.test"),
        ("b1", "b.test"),
        ("b2", "b.test"),
        ("c1", "c.test"),
        ("c2", "c.test"),
        ("new", "new.test"),
        ("default2", "default.test"),
    ] {
        authority.issue(Wish::of(subject, name));
    }
    let pair = |ending: &str| {
        [
            ("crt", format!("a.test.{ending}crt")),
            ("key", format!("a.test.{ending}key")),
        ]
    };
    let put_pair = |subject: &str, ending: &str| {
        let files = pair(ending);
        let files: Vec<_> = files
            .iter()
            .map(|(from, to)| (*from, to.as_str()))
            .collect();
        put(&authority, subject, &folder, &files);
    };
    put_pair("a1", "");
    put(&authority, "b1", &folder, &[("pem", "b.test.pem")]);
    let (live, archive) = (folder.join("c.test"), lab.folder().join("archive"));
    [&live, &archive]
        .iter()
        .for_each(|folder| fs::create_dir(folder).unwrap());
    let link = |number: &str| {
        for file in ["fullchain", "privkey"] {
            let place = live.join(format!("{file}.pem"));
            let _ = fs::remove_file(&place);
            symlink(format!("../../archive/{file}{number}.pem"), place).unwrap();
        }
    };
    put(
        &authority,
        "c1",
        &archive,
        &[("crt", "fullchain1.pem"), ("key", "privkey1.pem")],
    );
    link("1");
    let pen = start(&lab, &authority, &folder);
    let end = lab.folder().join("end");
    let (ca, at) = (authority.ca(), end.to_str().unwrap());
    let names = "['a.test', 'b.test', 'c.test', 'default.test']";
    let script = format!("CA, END, NAMES = {ca:?}, {at:?}, {names}\n{STAYING}");
    let staying = python::start_client(&lab, &script);

    // By writing into the files, one after the other: in between they do not belong together.
    put_pair("a2", "");
    soon(&lab, "a.test", "a2");
    // By files that take their places.
    put_pair("a3", "new-");
    for (file, _) in [("crt", 0), ("key", 0)] {
        fs::rename(
            folder.join(format!("a.test.new-{file}")),
            folder.join(format!("a.test.{file}")),
        )
        .unwrap();
    }
    soon(&lab, "a.test", "a3");
    put(&authority, "b2", &folder, &[("pem", ".b.test.pem")]);
    fs::rename(folder.join(".b.test.pem"), folder.join("b.test.pem")).unwrap();
    soon(&lab, "b.test", "b2");
    // As certbot does it.
    put(
        &authority,
        "c2",
        &archive,
        &[("crt", "fullchain2.pem"), ("key", "privkey2.pem")],
    );
    link("2");
    soon(&lab, "c.test", "c2");
    // A name that comes, and one that goes.
    put(&authority, "new", &folder, &[("pem", "new.test.pem")]);
    soon(&lab, "new.test", "new");
    fs::remove_file(folder.join("new.test.pem")).unwrap();
    soon(&lab, "new.test", "default");
    // That for everybody.
    fs::copy(
        authority.file("default2", "pem"),
        authority.file("default", "pem"),
    )
    .unwrap();
    soon(&lab, "unknown.test", "default2");
    // The folder as a whole: a name gone, another back.
    let other = lab.folder().join("sni.new");
    fs::create_dir(&other).unwrap();
    put(&authority, "a1", &other, &[("pem", "a.test.pem")]);
    fs::rename(&folder, lab.folder().join("sni.old")).unwrap();
    fs::rename(&other, &folder).unwrap();
    soon(&lab, "a.test", "a1");
    soon(&lab, "b.test", "default2");

    fs::write(&end, "").unwrap();
    staying
        .wait_for_line("stayed True", Duration::from_secs(15))
        .unwrap();
    assert_eq!(troubles(&pen), "");
    pen.wait_until_idle();
    pen.rests();
    pen.stop();
}

#[test]
fn a_broken_renewal_keeps_what_was_served_and_is_shown() {
    if !lab::ready("a_broken_renewal_keeps_what_was_served_and_is_shown") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    for (subject, name) in [("a1", "a.test"), ("a2", "a.test"), ("b1", "b.test")] {
        authority.issue(Wish::of(subject, name));
    }
    put(
        &authority,
        "a1",
        &folder,
        &[("crt", "a.test.crt"), ("key", "a.test.key")],
    );
    put(&authority, "b1", &folder, &[("pem", "b.test.pem")]);
    let pen = start(&lab, &authority, &folder);
    assert_eq!(troubles(&pen), "");
    let certificate = folder.join("a.test.crt");
    let whole = fs::read(authority.file("a2", "crt")).unwrap();
    let become_so = |text: &str| {
        wait_for(text, || troubles(&pen).contains(text));
        assert_eq!(subject(&lab, "a.test", &[]), "a1");
    };
    // Half of it; then all, with a key that is another's; then the key.
    fs::write(&certificate, &whole[..whole.len() / 2]).unwrap();
    become_so("a.test.crt");
    fs::write(&certificate, &whole).unwrap();
    become_so("is not that of the first certificate");
    let shown = certificates(&pen).shown.remove(0);
    assert!(
        shown.file.ends_with("/a.test.crt") && shown.left_s.unwrap() > 86_400,
        "{shown:?}"
    );
    assert!(
        shown
            .trouble
            .unwrap()
            .ends_with("what was read before is still served")
    );
    assert!(
        pen.say("json status")
            .contains("is not that of the first certificate")
    );
    put(&authority, "a2", &folder, &[("key", "a.test.key")]);
    soon(&lab, "a.test", "a2");
    assert_eq!(troubles(&pen), "");

    // A key that nobody may read, which root may: a folder in its place is nobody's.
    let key = folder.join("a.test.key");
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    wait_for("the key to be missed", || {
        troubles(&pen).contains("a.test.crt holds no private key")
    });
    assert_eq!(subject(&lab, "a.test", &[]), "a2");
    fs::remove_dir(&key).unwrap();
    put(&authority, "a2", &folder, &[("key", "a.test.key")]);
    wait_for("the trouble to be over", || troubles(&pen).is_empty());

    // The whole folder goes, and comes back.
    let away = lab.folder().join("away");
    fs::rename(&folder, &away).unwrap();
    wait_for("the folder to be missed", || {
        troubles(&pen).contains("No such file")
    });
    for (name, expected) in [("a.test", "a2"), ("b.test", "b1"), ("c.test", "default")] {
        assert_eq!(subject(&lab, name, &[]), expected);
    }
    fs::rename(&away, &folder).unwrap();
    wait_for("the folder to be back", || troubles(&pen).is_empty());
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn a_certificate_that_expires_is_shown_and_nothing_else_changes() {
    if !lab::ready("a_certificate_that_expires_is_shown_and_nothing_else_changes") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    authority.issue(Wish {
        days: "0",
        ..Wish::of("short", "short.test")
    });
    authority.issue(Wish::of("long", "long.test"));
    put(&authority, "short", &folder, &[("pem", "short.test.pem")]);
    put(&authority, "long", &folder, &[("pem", "long.test.pem")]);
    let pen = start(&lab, &authority, &folder);
    wait_for("it to expire", || {
        troubles(&pen).contains("short.test.pem: it has expired")
    });
    let shown = certificates(&pen).shown;
    assert!(
        shown[0].left_s.unwrap() <= 0 && shown[1].left_s.unwrap() > 0,
        "{shown:?}"
    );
    let (ca, to) = (authority.ca(), addresses()[0]);
    for (name, good) in [("short.test", false), ("long.test", true)] {
        let place = format!("{name}:80:{to}");
        let url = format!("https://{name}:80/");
        let words = ["-sS", "--cacert", &ca, "--resolve", &place, &url];
        let output = lab
            .client()
            .run_for(Duration::from_secs(15), "curl", words)
            .unwrap();
        assert_eq!(output.ok(), good, "{}", output.text());
        assert!(
            good || output.text().contains("expired"),
            "{}",
            output.text()
        );
    }
    pen.wait_until_idle();
    pen.stop();
}

/// Everything that the daemon reads is in reach of a full disk or a vanished one only at the start:
/// a name that can't be used is said, and the others are served.
#[test]
fn one_bad_name_does_not_keep_the_others_from_the_start() {
    if !lab::ready("one_bad_name_does_not_keep_the_others_from_the_start") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    authority.issue(Wish::of("good", "good.test"));
    put(&authority, "good", &folder, &[("pem", "good.test.pem")]);
    put(&authority, "good", &folder, &[("crt", "bad.test.crt")]);
    // Who reads that waits for a writer.
    let fifo = folder.join("fifo.test.pem");
    lab.balancer()
        .run_ok("mkfifo", [fifo.to_str().unwrap()])
        .unwrap();
    let pen = start(&lab, &authority, &folder);
    assert_eq!(subject(&lab, "good.test", &[]), "good");
    assert_eq!(subject(&lab, "bad.test", &[]), "default");
    assert!(
        pen.process
            .output()
            .contains("bad.test.crt holds no private key")
    );
    let status = certificates(&pen);
    assert_eq!((status.served, status.in_trouble), (2, 2), "{status:?}");
    assert!(troubles(&pen).contains("fifo.test.pem is no regular file"));
    // The check before a start says the same, and goes well.
    let own = authority.file("default", "pem");
    let path = format!("ssl_sni_path {}", folder.display());
    let check = |path: &str| {
        let words = ["--check", "-E", &own, "-O", path, "80", &server(0)];
        lab.balancer()
            .run_for(Duration::from_secs(15), env!("CARGO_BIN_EXE_pen"), words)
            .unwrap()
    };
    let output = check(&path);
    assert!(
        output.ok() && output.text().contains("bad.test.crt holds no private key"),
        "{}",
        output.text()
    );
    let output = check(&format!(
        "ssl_sni_path {}",
        Path::new("/nowhere/sni").display()
    ));
    assert!(
        !output.ok() && output.text().contains("/nowhere/sni: No such file"),
        "{}",
        output.text()
    );
    pen.stop();
}

#[test]
fn files_behind_links_and_in_new_folders_are_noticed_too() {
    if !lab::ready("files_behind_links_and_in_new_folders_are_noticed_too") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    let place = lab.folder().join("released");
    for version in ["v1", "v2", "v3"] {
        authority.issue(Wish::of(version, "default.test"));
        let own = place.join(version);
        fs::create_dir_all(&own).unwrap();
        put(&authority, version, &own, &[("crt", "crt"), ("key", "key")]);
    }
    let current = place.join("current");
    symlink("v1", &current).unwrap();
    let at = |file: &str| current.join(file).to_str().unwrap().to_owned();
    let path = format!("ssl_sni_path {}", folder.display());
    authority.issue(Wish::of("late", "late.test"));
    put(&authority, "late", &folder, &[("pem", "some.test.pem")]);
    let (crt, key) = (at("crt"), at("key"));
    let pen = Pen::start(
        &lab,
        &["-E", &crt, "-K", &key, "-O", &path, "80", &server(0)],
    );
    assert_eq!(subject(&lab, "default.test", &[]), "v1");
    // Another link takes its place, as releases are made.
    symlink("v2", place.join("next")).unwrap();
    fs::rename(place.join("next"), &current).unwrap();
    soon(&lab, "default.test", "v2");
    // The folder itself, with a while in which there is none.
    fs::rename(place.join("v2"), place.join("old")).unwrap();
    wait_for("it to be missed", || {
        troubles(&pen).contains("No such file")
    });
    assert_eq!(subject(&lab, "default.test", &[]), "v2");
    fs::rename(place.join("v3"), place.join("v2")).unwrap();
    soon(&lab, "default.test", "v3");
    // A folder for a name that is filled later.
    let nested = folder.join("late.test");
    authority.issue(Wish::of("nested", "late.test"));
    fs::create_dir(&nested).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    put(
        &authority,
        "nested",
        &nested,
        &[("key", "privkey.pem"), ("crt", "fullchain.pem")],
    );
    soon(&lab, "late.test", "nested");
    pen.wait_until_idle();
    pen.rests();
    pen.stop();
}

#[test]
fn a_valid_certificate_goes_before_an_expired_one_and_an_odd_one_refuses_the_start() {
    if !lab::ready(
        "a_valid_certificate_goes_before_an_expired_one_and_an_odd_one_refuses_the_start",
    ) {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    authority.issue(Wish {
        days: "0",
        ..Wish::of("expired", "both.test")
    });
    authority.issue(Wish {
        kind: RSA,
        ..Wish::of("valid", "both.test")
    });
    put(
        &authority,
        "expired",
        &folder,
        &[("pem", "both.test.pem.ecdsa")],
    );
    put(
        &authority,
        "valid",
        &folder,
        &[("pem", "both.test.pem.rsa")],
    );
    let pen = start(&lab, &authority, &folder);
    wait_for("it to expire", || troubles(&pen).contains("it has expired"));
    assert_eq!(subject(&lab, "both.test", &[]), "valid");
    // A client of today is served as well where TLS 1.3 and ECDSA's ciphers are off.
    pen.change("ssl_option no_tlsv1.3");
    pen.change("ssl_ciphers ECDHE-RSA-AES256-GCM-SHA384");
    assert_eq!(subject(&lab, "both.test", &[]), "valid");
    // It belongs to its key, but what it says of itself can't be read.
    let (key, odd) = (lab.folder().join("odd.key"), lab.folder().join("odd.pem"));
    let [key, odd] = [&key, &odd].map(|path| path.to_str().unwrap());
    let feature = "1.3.6.1.5.5.7.1.24=DER:05:00";
    let request = [
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=odd",
    ];
    let rest = ["-addext", feature, "-keyout", key, "-out", odd];
    lab.client()
        .run_ok("openssl", [&request[..], &rest].concat())
        .unwrap();
    let words = ["--check", "-E", odd, "-K", key, "80", &server(0)];
    let pen_program = env!("CARGO_BIN_EXE_pen");
    let output = lab
        .balancer()
        .run_for(Duration::from_secs(15), pen_program, words)
        .unwrap();
    assert!(
        !output.ok() && output.text().contains("odd.pem: its TLS features"),
        "{}",
        output.text()
    );
    pen.stop();
}
