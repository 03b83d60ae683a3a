#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

use pen_common::config::{ClientCertificate, TlsOptions};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::distinguished::{common_name, text};
use super::{Clients, ClientsError, Identity};

/// A folder that goes when this goes, with what openssl puts there.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Folder {
    fn new(test: &str) -> Self {
        let folder = env::temp_dir().join(format!("pen-clients-{test}-{}", process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    fn openssl(&self, words: &[&str]) -> String {
        let openssl = Command::new("openssl")
            .args(words)
            .current_dir(&self.0)
            .output();
        let output = openssl.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes NAME.pem, which signed itself, of `subject`.
    fn root(&self, name: &str, subject: &str, more: &[&str]) {
        let (key, file) = (format!("{name}.key"), format!("{name}.pem"));
        let kind = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ];
        let rest = [
            "-nodes", "-utf8", "-keyout", &key, "-out", &file, "-subj", subject,
        ];
        self.openssl(&[&kind[..], &rest, more].concat());
    }

    /// Makes NAME.pem, signed by `issuer`, and no authority.
    fn leaf(&self, name: &str, issuer: &str) {
        self.root(name, &format!("/CN={name}"), &[]);
        fs::write(self.path("ext"), "basicConstraints=CA:FALSE\n").unwrap();
        let (key, csr, file) = (
            format!("{name}.key"),
            format!("{name}.csr"),
            format!("{name}.pem"),
        );
        self.openssl(&[
            "req",
            "-new",
            "-key",
            &key,
            "-subj",
            &format!("/CN={name}"),
            "-out",
            &csr,
        ]);
        let (ca, ca_key) = (format!("{issuer}.pem"), format!("{issuer}.key"));
        let by = [
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-extfile",
            "ext",
        ];
        self.openssl(&[&["x509", "-req", "-in", &csr, "-out", &file], &by[..]].concat());
    }

    fn joined(&self, name: &str, files: &[&str]) -> PathBuf {
        let all = files
            .iter()
            .map(|file| fs::read_to_string(self.path(file)).unwrap());
        fs::write(self.path(name), all.collect::<String>()).unwrap();
        self.path(name)
    }
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 0x80);
    [&[tag, length][..], &content].concat()
}

const CN: &[u8] = &[0x55, 4, 3];
const O: &[u8] = &[0x55, 4, 10];
/// 2.5.4.13, description.
const OTHER: &[u8] = &[0x55, 4, 13];
const UTF8: u8 = 12;
const PRINTABLE: u8 = 19;
const T61: u8 = 20;
const BMP: u8 = 30;

/// One attribute of a name: type, tag, value.
type Attribute<'a> = (&'a [u8], u8, &'a [u8]);

/// A name of parts, each of attributes.
fn name(parts: &[&[Attribute<'_>]]) -> Vec<u8> {
    let parts = parts.iter().map(|part| {
        let attributes = part
            .iter()
            .map(|(kind, tag, value)| der(0x30, &[&der(6, &[kind]), &der(*tag, &[value])]));
        der(0x31, &[&attributes.collect::<Vec<_>>().concat()])
    });
    der(0x30, &[&parts.collect::<Vec<_>>().concat()])
}

#[test]
fn names_are_written_so_that_nobody_takes_them_for_others() {
    let read = |bytes: &[u8]| {
        let (_, name) = X509Name::from_der(bytes).unwrap();
        (text(&name).unwrap(), common_name(&name))
    };
    let of = |value: &[u8]| read(&name(&[&[(CN, UTF8, value)]]));
    for (value, written, plain) in [
        (&b"ann"[..], "CN=ann", Some("ann")),
        (b"a,O=b", "CN=a\\,O=b", Some("a,O=b")),
        (
            b" a+\"<>;\\ ",
            "CN=\\ a\\+\\\"\\<\\>\\;\\\\\\ ",
            Some(" a+\"<>;\\ "),
        ),
        (b"#1", "CN=\\#1", Some("#1")),
        (b"a\r\nX-Admin: 1", "CN=a\\0D\\0AX-Admin: 1", None),
        (b"a\0b", "CN=a\\00b", None),
        (b"\x7f", "CN=\\7F", None),
        ("é".as_bytes(), "CN=\\C3\\A9", Some("é")),
        ("\u{85}".as_bytes(), "CN=\\C2\\85", None),
        (b" ", "CN=\\ ", Some(" ")),
        (b"", "CN=", None),
        // No UTF-8: the value as it is encoded.
        (b"\xff", "CN=#0C01FF", None),
    ] {
        assert_eq!(of(value), (written.to_owned(), plain.map(str::to_owned)));
        assert!(written.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
    let several = name(&[
        &[(O, PRINTABLE, b"first")],
        &[(CN, PRINTABLE, b"one"), (O, UTF8, b"second")],
        &[(OTHER, UTF8, b"d")],
        &[(CN, BMP, &[0, 0x61, 0x20, 0xac])],
    ]);
    let expected = "CN=a\\E2\\82\\AC,2.5.4.13=#0C0164,CN=one+O=second,O=first";
    assert_eq!(read(&several), (expected.to_owned(), Some("a€".to_owned())));
    let (odd, none) = read(&name(&[&[(CN, T61, b"x")]]));
    assert_eq!((odd.as_str(), none), ("CN=#140178", None));
    assert_eq!(read(&name(&[])), (String::new(), None));
}

#[test]
fn names_are_written_as_openssl_writes_them() {
    let folder = Folder::new("openssl");
    let subject = "/C=DE/ST=Baden-Württemberg/O=A, \"B\" <C>; D\\+E=F/OU=#1/DC=pen/UID=7\
                   /emailAddress=a@pen.example/serialNumber=12/CN= Jörg\\/x ";
    folder.root("a", subject, &["-set_serial", "0xA1B2C3"]);
    let certificate = CertificateDer::from_pem_file(folder.path("a.pem")).unwrap();
    let identity = Identity::of(&certificate, false).unwrap();
    let asked = |what: &[&str]| {
        let words = [&["x509", "-in", "a.pem", "-noout"], what].concat();
        let said = folder.openssl(&words);
        said.trim_end_matches('\n')
            .split_once('=')
            .unwrap()
            .1
            .to_owned()
    };
    let written = asked(&["-subject", "-nameopt", "RFC2253"]);
    assert_eq!(identity.subject.as_ref(), Some(&written));
    assert_eq!(identity.issuer, identity.subject);
    assert_eq!(identity.common_name.as_deref(), Some(" Jörg/x "));
    assert_eq!(identity.serial, asked(&["-serial"]));
    let fingerprint = asked(&["-fingerprint", "-sha256"]).replace(':', "");
    assert_eq!(identity.fingerprint, fingerprint.to_lowercase());
    let now = crate::proxy::tls::store::now();
    let day = 24 * 3600;
    assert!(identity.is_valid(now) && !identity.is_valid(now + 31 * day));
    assert!(!identity.is_valid(now - day));
    // What is too long is left out, never cut.
    let long = "/OU=abcdefghijabcdefghijabcdefghijabcdefghijabcdefghij".repeat(25);
    folder.root("long", &format!("{long}/CN=ann"), &[]);
    let certificate = CertificateDer::from_pem_file(folder.path("long.pem")).unwrap();
    let identity = Identity::of(&certificate, true).unwrap();
    assert_eq!((&identity.subject, &identity.issuer), (&None, &None));
    assert_eq!(identity.common_name.as_deref(), Some("ann"));
    assert_eq!(identity.fields().count(), 2);
}

fn options(folder: &Folder) -> TlsOptions {
    TlsOptions {
        certificate: Some(folder.path("server.pem")),
        client_certificate: ClientCertificate::Required,
        ..TlsOptions::default()
    }
}

fn description(options: &TlsOptions) -> Vec<u8> {
    let clients = Clients::open(options).unwrap().unwrap();
    clients.policy().description()
}

#[test]
fn authorities_are_those_that_may_issue() {
    let folder = Folder::new("authorities");
    for name in ["one", "two"] {
        folder.root(name, &format!("/CN={name}"), &[]);
    }
    folder.leaf("leaf", "one");
    let plain = options(&folder);
    let ca = |file: PathBuf| TlsOptions {
        client_ca: Some(file),
        ..plain.clone()
    };
    let chain = |file: PathBuf| TlsOptions {
        chain: Some(file),
        ..plain.clone()
    };
    let one = description(&ca(folder.path("one.pem")));
    let both = description(&ca(folder.joined("both", &["one.pem", "two.pem"])));
    assert_ne!(one, both);
    // The same in another order, and from elsewhere.
    let again = folder.joined("again", &["two.pem", "one.pem", "two.pem"]);
    assert_eq!(description(&ca(again)), both);
    assert_eq!(
        description(&chain(folder.joined("chain", &["leaf.pem", "one.pem"]))),
        one
    );
    let (inner, hashed) = (folder.path("inner"), folder.path("inner/0123abcd.0"));
    fs::create_dir(&inner).unwrap();
    let in_folder = TlsOptions {
        client_ca_path: Some(inner.clone()),
        ..plain.clone()
    };
    let none = Clients::open(&in_folder).unwrap_err();
    assert!(matches!(none, ClientsError::Nobody { .. }), "{none}");
    fs::copy(folder.path("two.pem"), &hashed).unwrap();
    for (from, to) in [
        ("one.pem", "one.crt"),
        ("leaf.pem", "leaf.pem"),
        ("one.key", "key.pem"),
    ] {
        fs::copy(folder.path(from), inner.join(to)).unwrap();
    }
    fs::write(inner.join("README"), "nothing").unwrap();
    assert_eq!(description(&in_folder), both);
    // What is no file, or is not there, is passed over; what can't be used is told.
    fs::create_dir(inner.join("folder.pem")).unwrap();
    symlink("gone", inner.join("89abcdef.0")).unwrap();
    symlink("one.crt/gone", inner.join("odd.pem")).unwrap();
    assert_eq!(description(&in_folder), both);
    let bare = folder.path("bare");
    fs::create_dir(&bare).unwrap();
    for broken in ["loop.pem", "half.pem"] {
        let break_it = |path: &Path| match broken {
            "loop.pem" => symlink(path, path).unwrap(),
            _ => fs::write(path, "-----BEGIN CERTIFICATE-----\nAA").unwrap(),
        };
        let path = inner.join(broken);
        break_it(&path);
        let clients = Clients::open(&in_folder).unwrap().unwrap();
        assert_eq!(clients.policy().description(), both);
        let (place, why) = clients.trouble().unwrap();
        assert_eq!(place, inner.display().to_string());
        let told = why.contains(&format!("{broken}: ")) && why.ends_with("; nothing of it counts");
        assert!(told, "{why}");
        fs::remove_file(path).unwrap();
        // Where it is all there is, nobody could come.
        break_it(&bare.join(broken));
        let in_bare = TlsOptions {
            client_ca_path: Some(bare.clone()),
            ..plain.clone()
        };
        let error = Clients::open(&in_bare).unwrap_err().to_string();
        let none = error.contains("no authority of clients' certificates is in ");
        assert!(none && error.contains(&format!("{broken}: ")), "{error}");
        fs::remove_file(bare.join(broken)).unwrap();
    }
    // The chain is looked at where no other place is named.
    folder.root("three", "/CN=three", &[]);
    let other = TlsOptions {
        chain: Some(folder.path("three.pem")),
        ..in_folder.clone()
    };
    assert_eq!(description(&other), both);
    let optional = TlsOptions {
        client_certificate: ClientCertificate::Optional,
        ..in_folder
    };
    assert_ne!(description(&optional), both);
    assert!(Clients::open(&TlsOptions::default()).unwrap().is_none());
    let other = TlsOptions {
        chain: Some(folder.path("two.pem")),
        ..ca(folder.path("one.pem"))
    };
    assert_eq!(description(&other), one);
    for (wrong, expected) in [
        (
            ca(folder.joined("mixed", &["one.pem", "leaf.pem"])),
            "certificate 2 in ",
        ),
        (
            chain(folder.path("leaf.pem")),
            "no authority of clients' certificates is in ",
        ),
        (ca(folder.path("one.key")), "holds no certificate"),
        (ca(folder.path("missing")), "No such file"),
    ] {
        let error = Clients::open(&wrong).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn files_that_change_are_in_force_and_broken_ones_are_not() {
    let folder = Folder::new("change");
    for name in ["one", "two"] {
        folder.root(name, &format!("/CN={name}"), &[]);
    }
    let revoked = folder.path("revoked");
    list(&folder, &revoked);
    let asked = TlsOptions {
        client_ca: Some(folder.joined("ca", &["one.pem"])),
        client_crl: Some(revoked.clone()),
        ..options(&folder)
    };
    let clients = Clients::open(&asked).unwrap().unwrap();
    let refreshed = || {
        clients.refresh();
        (clients.policy().description(), clients.trouble().is_some())
    };
    let first = clients.policy().description();
    assert!(clients.is_of(&asked) && !clients.is_of(&options(&folder)));
    assert_eq!(refreshed(), (first.clone(), false));
    folder.joined("ca", &["two.pem", "one.pem"]);
    let (second, trouble) = refreshed();
    assert!(second != first && !trouble);
    list(&folder, &revoked);
    let (third, trouble) = refreshed();
    assert!(third != second && !trouble);
    for (path, good) in [("ca", "ca.good"), ("revoked", "revoked.good")] {
        fs::copy(folder.path(path), folder.path(good)).unwrap();
        fs::write(folder.path(path), "-----BEGIN CERT").unwrap();
        assert_eq!(refreshed(), (third.clone(), true));
        let (_, why) = clients.trouble().unwrap();
        assert!(
            why.ends_with("what was read before is still in force"),
            "{why}"
        );
        fs::copy(folder.path(good), folder.path(path)).unwrap();
        assert_eq!(refreshed(), (third.clone(), false));
    }
    fs::write(&revoked, "nothing").unwrap();
    let none = Clients::open(&asked).unwrap_err();
    assert!(matches!(none, ClientsError::NoRevocations(_)), "{none}");
}

#[test]
fn of_a_file_that_breaks_in_a_folder_what_it_held_counts() {
    let folder = Folder::new("odd");
    let inner = folder.path("inner");
    fs::create_dir(&inner).unwrap();
    for name in ["one", "two"] {
        folder.root(name, &format!("/CN={name}"), &[]);
        fs::copy(
            folder.path(&format!("{name}.pem")),
            inner.join(name).with_extension("pem"),
        )
        .unwrap();
    }
    let asked = TlsOptions {
        client_ca_path: Some(inner.clone()),
        ..options(&folder)
    };
    let ca = |files: &[&str]| TlsOptions {
        client_ca: Some(folder.joined("expected", files)),
        ..options(&folder)
    };
    let (one, both) = (
        description(&ca(&["one.pem"])),
        description(&ca(&["one.pem", "two.pem"])),
    );
    let clients = Clients::open(&asked).unwrap().unwrap();
    let refreshed = || {
        clients.refresh();
        let trouble = clients.trouble().map(|(_, why)| why);
        (clients.policy().description(), trouble.unwrap_or_default())
    };
    assert_eq!(refreshed(), (both.clone(), String::new()));
    let half = "-----BEGIN CERTIFICATE-----\nAA";
    fs::write(inner.join("two.pem"), half).unwrap();
    let (now, why) = refreshed();
    assert_eq!(now, both);
    let told = why.contains("two.pem: ") && why.ends_with("what was read before is still in force");
    assert!(told, "{why}");
    // A change of something else loses nothing of it either.
    let optional = TlsOptions {
        client_certificate: ClientCertificate::Optional,
        ..asked
    };
    let other = Clients::open_after(&optional, Some(&clients)).unwrap();
    assert_eq!(other.unwrap().trouble().unwrap().1, why);
    fs::remove_file(inner.join("two.pem")).unwrap();
    assert_eq!(refreshed(), (one.clone(), String::new()));
    // What was never read holds nothing.
    fs::write(inner.join("new.pem"), half).unwrap();
    let (now, why) = refreshed();
    assert_eq!(now, one);
    assert!(
        why.contains("new.pem: ") && why.ends_with("; nothing of it counts"),
        "{why}"
    );
    fs::copy(folder.path("two.pem"), inner.join("new.pem")).unwrap();
    assert_eq!(refreshed(), (both, String::new()));
}

#[test]
fn where_links_lead_is_watched_whatever_is_read_there() {
    let folder = Folder::new("links");
    folder.root("one", "/CN=one", &[]);
    let [here, there] = ["here", "there"].map(|name| {
        let place = folder.path(name);
        fs::create_dir(&place).unwrap();
        fs::copy(folder.path("one.pem"), place.join("ca.pem")).unwrap();
        place.canonicalize().unwrap()
    });
    let link = folder.path("ca");
    symlink("here/ca.pem", &link).unwrap();
    let asked = TlsOptions {
        client_ca: Some(link.clone()),
        ..options(&folder)
    };
    let clients = Clients::open(&asked).unwrap().unwrap();
    let watched = |place: &Path| clients.folders().contains(place);
    assert!(!clients.refresh() && watched(&here) && !watched(&there));
    let policy = clients.policy();
    symlink("there/ca.pem", folder.path("next")).unwrap();
    fs::rename(folder.path("next"), &link).unwrap();
    assert!(clients.refresh() && watched(&there));
    fs::write(there.join("ca.pem"), "nothing").unwrap();
    assert!(clients.refresh() && clients.trouble().is_some());
    assert!(!clients.refresh());
    assert_eq!(clients.policy(), policy);
}

#[test]
fn lists_may_be_long() {
    let folder = Folder::new("long");
    folder.root("one", "/CN=one", &[]);
    let revoked = folder.path("revoked");
    list(&folder, &revoked);
    let asked = TlsOptions {
        client_ca: Some(folder.path("one.pem")),
        client_crl: Some(revoked.clone()),
        ..options(&folder)
    };
    let short = description(&asked);
    // What stands before a block is nobody's business.
    let said = "what was revoked\n".repeat(1 << 17);
    assert!(said.len() > 2 << 20);
    let long = said + &fs::read_to_string(&revoked).unwrap();
    fs::write(&revoked, &long).unwrap();
    assert_eq!(description(&asked), short);
    let file = fs::File::options().append(true).open(&revoked).unwrap();
    file.set_len((32 << 20) + 1).unwrap();
    let error = Clients::open(&asked).unwrap_err().to_string();
    assert!(
        error.contains("revoked is longer than 33554432 bytes, the most"),
        "{error}"
    );
}

/// Writes a list of what `one` has revoked, which is another one each time.
fn list(folder: &Folder, to: &Path) {
    let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\ndefault_md=sha256\n\
                  default_crl_days=1\ncrlnumber=number\ncrl_extensions=e\n\
                  [e]\nauthorityKeyIdentifier=keyid\n";
    fs::write(folder.path("ca.cnf"), config).unwrap();
    fs::write(folder.path("index"), "").unwrap();
    if !folder.path("number").exists() {
        fs::write(folder.path("number"), "01\n").unwrap();
    }
    let to = to.to_str().unwrap();
    let by = ["-cert", "one.pem", "-keyfile", "one.key", "-out", to];
    folder.openssl(&[&["ca", "-gencrl", "-config", "ca.cnf"], &by[..]].concat());
}
