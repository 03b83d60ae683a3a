//! Folders of certificates: who asks for a name gets what was put there for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Lab, Nginx};

use crate::{
    authority::{Authority, Wish},
    certificates::RSA,
    rig::{Pen, addresses, lab, server},
};

const LIMIT: Duration = Duration::from_secs(60);

/// What openssl's client says of a handshake, who sends nothing.
pub(crate) fn handshake(lab: &Lab, words: &[&str]) -> String {
    let to = format!("{}:80", addresses()[0]);
    let script = "exec openssl s_client -connect \"$@\" </dev/null 2>&1";
    let all = [&["-c", script, "sh", &to], words].concat();
    lab.client().run_for(LIMIT, "sh", &all).unwrap().text()
}

/// The subject of the certificate that who asks for `name` gets; `-` without one.
pub(crate) fn subject(lab: &Lab, name: &str, more: &[&str]) -> String {
    let said = handshake(lab, &[&["-servername", name], more].concat());
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("subject=CN = "));
    line.unwrap_or("-").to_owned()
}

/// A folder for certificates by name.
pub(crate) fn folder(lab: &Lab) -> PathBuf {
    let folder = lab.folder().join("sni");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A Pen with a certificate for everybody, called `default`, and a folder of others.
pub(crate) fn start(lab: &Lab, authority: &Authority<'_>, folder: &Path) -> Pen {
    authority.issue(Wish::of("default", "default.test"));
    let path = format!("ssl_sni_path {}", folder.display());
    let own = authority.file("default", "pem");
    Pen::start(lab, &["-E", &own, "-O", &path, "80", &server(0)])
}

/// Puts a certificate of the authority's into a folder, by other names.
pub(crate) fn put(authority: &Authority<'_>, subject: &str, to: &Path, files: &[(&str, &str)]) {
    for (ending, file) in files {
        let from = match *ending {
            "ca" => authority.ca(),
            ending => authority.file(subject, ending),
        };
        fs::copy(from, to.join(file)).unwrap();
    }
}

#[test]
fn names_get_their_certificates_in_every_layout() {
    if !lab::ready("names_get_their_certificates_in_every_layout") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    let rsa = |wish| Wish { kind: RSA, ..wish };
    for wish in [
        Wish::of("pens", ""),
        Wish::of("haproxys", "b.test also.test"),
        Wish::of("certbots", "c.test"),
        Wish::of("wide", "*.w.test"),
        Wish::of("both-ec", "d.test"),
        rsa(Wish::of("both-rsa", "d.test")),
        Wish::of("older", "e.test"),
        Wish::of("exact", "deep.w.test"),
    ] {
        authority.issue(wish);
    }
    put(
        &authority,
        "pens",
        &folder,
        &[
            ("crt", "A.test.crt"),
            ("key", "A.test.key"),
            ("ca", "A.test.ca"),
        ],
    );
    put(&authority, "haproxys", &folder, &[("pem", "b.test.pem")]);
    let (live, archive) = (folder.join("c.test"), lab.folder().join("archive"));
    [&live, &archive]
        .iter()
        .for_each(|folder| fs::create_dir(folder).unwrap());
    put(
        &authority,
        "certbots",
        &archive,
        &[("crt", "fullchain1.pem"), ("key", "privkey1.pem")],
    );
    for file in ["fullchain", "privkey"] {
        let target = format!("../../archive/{file}1.pem");
        std::os::unix::fs::symlink(target, live.join(format!("{file}.pem"))).unwrap();
    }
    put(&authority, "wide", &folder, &[("pem", "some.file.pem")]);
    put(
        &authority,
        "both-ec",
        &folder,
        &[("pem", "d.test.pem.ecdsa")],
    );
    put(
        &authority,
        "both-rsa",
        &folder,
        &[("pem", "d.test.pem.rsa")],
    );
    put(
        &authority,
        "older",
        &folder,
        &[("crt", "e.test.crt"), ("key", "e.test.key")],
    );
    put(&authority, "exact", &folder, &[("pem", "deep.w.test.pem")]);
    // None of these is a certificate's, and none of them is a reason to complain.
    for file in ["README", ".b.test.pem", "e.test.issuer.crt"] {
        fs::write(folder.join(file), "nothing").unwrap();
    }
    let pen = start(&lab, &authority, &folder);
    let old = ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"];
    let rsa_only = ["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"];
    for (name, more, expected) in [
        ("a.test", &[][..], "pens"),
        ("A.TesT", &[], "pens"),
        ("b.test", &[], "haproxys"),
        ("also.test", &[], "haproxys"),
        ("c.test", &[], "certbots"),
        ("x.w.test", &[], "wide"),
        ("deep.w.test", &[], "exact"),
        ("x.y.w.test", &[], "default"),
        ("w.test", &[], "default"),
        ("d.test", &[], "both-ec"),
        ("d.test", &old, "both-rsa"),
        ("d.test", &rsa_only, "both-rsa"),
        ("e.test", &[], "older"),
        ("some.file", &[], "wide"),
        ("unknown.test", &[], "default"),
    ] {
        assert_eq!(subject(&lab, name, more), expected, "{name} {more:?}");
    }
    let none = handshake(&lab, &["-noservername"]);
    assert!(none.contains("subject=CN = default"), "{none}");
    let chain = handshake(&lab, &["-servername", "a.test", "-showcerts"]);
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2, "{chain}");
    let certificates = pen.service().certificates.unwrap();
    assert_eq!(
        (certificates.served, certificates.in_trouble),
        (9, 0),
        "{certificates:?}"
    );
    // Without other names the subject is one. pens, A.test, b.test, also.test, c.test, *.w.test, some.file, d.test, e.test, deep.w.test.
    assert_eq!(
        (certificates.names, certificates.unknown),
        (10, 3),
        "{certificates:?}"
    );
    pen.wait_until_idle();
    pen.stop();
}

#[test]
fn a_name_is_never_a_path_and_a_huge_one_is_refused() {
    if !lab::ready("a_name_is_never_a_path_and_a_huge_one_is_refused") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    authority.issue(Wish::of("inside", "inside.test"));
    authority.issue(Wish::of("outside", "outside.test"));
    put(&authority, "inside", &folder, &[("pem", "inside.test.pem")]);
    put(
        &authority,
        "outside",
        lab.folder(),
        &[("pem", "outside.test.pem")],
    );
    let pen = start(&lab, &authority, &folder);
    for name in [
        "../outside.test",
        "../sni/inside.test",
        "./inside.test",
        "/etc/passwd",
        "*.test",
    ] {
        let got = subject(&lab, name, &[]);
        assert!(["-", "default"].contains(&got.as_str()), "{name}: {got}");
    }
    let before = pen.resident_kib();
    // A ClientHello of one megabyte, in as many records as it takes; and a name of 60,000 bytes in
    // one of a size that may be.
    let script = "import struct\n\
         def records(body):\n\
         \x20 m = b'\\x01' + len(body).to_bytes(3, 'big') + body\n\
         \x20 return b''.join(b'\\x16\\x03\\x01' + struct.pack('>H', len(m[i:i+16000])) + m[i:i+16000] for i in range(0, len(m), 16000))\n\
         def hello(name):\n\
         \x20 sni = struct.pack('>HBH', (len(name) + 3) & 65535, 0, len(name) & 65535) + name\n\
         \x20 ext = struct.pack('>HH', 0, len(sni) & 65535) + sni\n\
         \x20 return b'\\x03\\x03' + bytes(32) + b'\\0' + struct.pack('>HH', 2, 0x1301) + b'\\1\\0' + struct.pack('>H', len(ext) & 65535) + ext\n\
         for size in [1 << 20, 60000]:\n\
         \x20 for i in range(20):\n\
         \x20\x20 c = connect(); c.settimeout(20)\n\
         \x20\x20 try:\n\
         \x20\x20\x20 c.sendall(records(hello(b'a' * size)))\n\
         \x20\x20\x20 while c.recv(4096): pass\n\
         \x20\x20 except ConnectionError: pass\n\
         \x20\x20 c.close()\n\
         print('over')\n";
    let said = crate::python::client(&lab, script);
    assert!(said.ends_with("over"), "{said}");
    pen.wait_until_idle();
    // Those of openssl's names count as well where they were refused.
    let refused = pen.refused("bad-handshake");
    assert!((40..=45).contains(&refused), "{refused}");
    let grown = pen.resident_kib().saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB more than before");
    assert_eq!(subject(&lab, "inside.test", &[]), "inside");
    pen.stop();
}

#[test]
fn a_folder_alone_serves_its_names_and_nobody_else() {
    if !lab::ready("a_folder_alone_serves_its_names_and_nobody_else") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let (authority, folder) = (Authority::new(&lab), folder(&lab));
    authority.issue(Wish::of("own", "own.test"));
    put(&authority, "own", &folder, &[("pem", "own.test.pem")]);
    let path = format!("ssl_sni_path {}", folder.display());
    let pen = Pen::start(&lab, &["-O", &path, "80", &server(0)]);
    assert_eq!(subject(&lab, "own.test", &[]), "own");
    assert_eq!(subject(&lab, "other.test", &[]), "-");
    assert_eq!(pen.service().certificates.unwrap().unknown, 1);
    assert_eq!(pen.refused("bad-handshake"), 1);
    pen.stop();
}
