//! An authority for tests that issues certificates as they are asked for, and answers by OCSP what
//! has become of them; openssl does both.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Lab, Process};

use crate::certificates::ECDSA;

/// See the module; its files are in a folder that goes with the lab.
pub(crate) struct Authority<'a> {
    lab: &'a Lab,
    folder: PathBuf,
}

/// What a certificate is to be.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Its subject, by which tests tell it from others; its files are called so.
    pub(crate) subject: &'a str,
    /// The names and addresses that it is for, with a blank between; without any it has no
    /// subjectAltName.
    pub(crate) names: &'a str,
    pub(crate) kind: &'a [&'a str],
    pub(crate) days: &'a str,
    pub(crate) must_staple: bool,
    /// Who answers by OCSP, if it says so.
    pub(crate) responder: Option<&'a str>,
}

impl<'a> Wish<'a> {
    pub(crate) fn of(subject: &'a str, names: &'a str) -> Self {
        Self {
            subject,
            names,
            kind: ECDSA,
            days: "30",
            must_staple: false,
            responder: None,
        }
    }
}

impl<'a> Authority<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Self {
        Self::called(lab, "authority")
    }

    /// One more of another name.
    pub(crate) fn called(lab: &'a Lab, name: &str) -> Self {
        let folder = lab.folder().join(name);
        fs::create_dir_all(&folder).unwrap();
        let it = Self { lab, folder };
        let (key, ca) = (it.path("ca.key"), it.path("ca.pem"));
        it.openssl(
            &[
                &["req", "-newkey"],
                ECDSA,
                &["-nodes", "-keyout", &key, "-x509", "-days", "30"],
                &[
                    "-addext",
                    "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
                ],
                &["-subj", &format!("/CN={name}"), "-out", &ca],
            ]
            .concat(),
        );
        fs::write(it.path("index"), "").unwrap();
        it
    }

    /// Its own certificate, for clients to trust.
    pub(crate) fn ca(&self) -> String {
        self.path("ca.pem")
    }

    /// A file of an issued certificate: its ending is `crt`, `key`, or `pem` for both.
    pub(crate) fn file(&self, subject: &str, ending: &str) -> String {
        self.path(&format!("{subject}.{ending}"))
    }

    /// Issues a certificate; see [`Authority::file`] for where it is then.
    pub(crate) fn issue(&self, wish: Wish<'_>) {
        let at = |ending| self.file(wish.subject, ending);
        let (key, csr, crt, extensions) = (at("key"), at("csr"), at("crt"), at("ext"));
        let subject = format!("/CN={}", wish.subject);
        let key_and_request = ["-nodes", "-keyout", &key, "-subj", &subject, "-out", &csr];
        self.openssl(&[&["req", "-newkey"], wish.kind, &key_and_request].concat());
        let names: Vec<_> = wish.names.split_whitespace().collect();
        let mut text = String::new();
        if !names.is_empty() {
            let kind = |name: &&str| match name.parse::<IpAddr>() {
                Ok(address) => format!("IP:{address}"),
                Err(_) => format!("DNS:{name}"),
            };
            let names: Vec<_> = names.iter().map(kind).collect();
            text += &format!("subjectAltName={}\n", names.join(","));
            text += "extendedKeyUsage=serverAuth,clientAuth\nauthorityKeyIdentifier=keyid\n";
        }
        if wish.must_staple {
            text += "tlsfeature=status_request\n";
        }
        if let Some(url) = wish.responder {
            text += &format!("authorityInfoAccess=OCSP;URI:{url}\n");
        }
        fs::write(&extensions, text).unwrap();
        let (ca, ca_key) = (self.ca(), self.path("ca.key"));
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            wish.days,
            "-extfile",
            &extensions,
            "-out",
            &crt,
        ]);
        self.join(wish.subject);
        self.enter(wish.subject, "V");
    }

    /// Issues one again that was valid for a year until then, as ASN.1 writes a time.
    pub(crate) fn expire(&self, subject: &str, end: &str) {
        let (config, index) = (self.path("expire.cnf"), self.path("expire.index"));
        let text = format!(
            "[ca]\ndefault_ca=d\n[d]\ndatabase={index}\ndefault_md=sha256\npolicy=p\n\
             rand_serial=yes\n\
             new_certs_dir={}\n[p]\ncommonName=supplied\n",
            self.folder.display()
        );
        fs::write(&config, text).unwrap();
        fs::write(&index, "").unwrap();
        let at = |ending| self.file(subject, ending);
        let (csr, crt, extensions) = (at("csr"), at("crt"), at("ext"));
        let (ca, key) = (self.ca(), self.path("ca.key"));
        let by = ["ca", "-batch", "-notext", "-config", &config];
        let with = ["-cert", &ca, "-keyfile", &key, "-extfile", &extensions];
        let year = end[..4].parse::<u32>().unwrap() - 1;
        let start = format!("{year}{}", &end[4..]);
        let what = [
            "-startdate",
            &start,
            "-enddate",
            end,
            "-in",
            &csr,
            "-out",
            &crt,
        ];
        self.openssl(&[&by[..], &with, &what].concat());
        self.join(subject);
    }

    /// Puts a certificate and its key into one file.
    fn join(&self, subject: &str) {
        let both = ["crt", "key"].map(|ending| self.file(subject, ending));
        let both = both.map(|file| fs::read_to_string(file).unwrap());
        fs::write(self.file(subject, "pem"), both.concat()).unwrap();
    }

    /// What it says by OCSP of a certificate from now on: `V` valid, `R` revoked.
    pub(crate) fn enter(&self, subject: &str, state: &str) {
        let index = PathBuf::from(self.path("index"));
        let serial = self.openssl(&[
            "x509",
            "-in",
            &self.file(subject, "crt"),
            "-noout",
            "-serial",
        ]);
        let serial = serial.trim().trim_start_matches("serial=").to_owned();
        let before = fs::read_to_string(&index).unwrap();
        let others = before.lines().filter(|line| !line.contains(&serial));
        let mut lines: Vec<String> = others.map(str::to_owned).collect();
        let revoked = if state == "R" { "250101000000Z" } else { "" };
        lines.push(format!(
            "{state}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN={subject}"
        ));
        fs::write(index, lines.join("\n") + "\n").unwrap();
    }

    /// Writes what it answers by OCSP about a certificate, good for a day, into a file.
    pub(crate) fn answer(&self, subject: &str, file: &Path) {
        self.sign_answer(&[], subject, &["-ndays", "1", "-respout"], file);
    }

    /// As [`Authority::answer`], good for some seconds of a minute; says when it is over, in seconds
    /// since 1970. openssl's shortest is a minute: its clock is behind by the rest of one.
    pub(crate) fn answer_briefly(&self, subject: &str, file: &Path, seconds: u8) -> f64 {
        let behind = format!("-{}s", 60 - seconds);
        let by = ["faketime", "-f", &behind];
        // What is half written would be looked at.
        let new = file.with_extension("new");
        self.sign_answer(&by, subject, &["-nmin", "1", "-respout"], &new);
        let script = "date +%s -d \"$(openssl ocsp -respin \"$0\" -noverify -resp_text \
                      | sed -n 's/.*Next Update: //p')\"";
        let words = ["-c", script, new.to_str().unwrap()];
        let end = self.lab.client().run_ok("sh", words).unwrap().stdout;
        fs::rename(new, file).unwrap();
        end.trim().parse().unwrap()
    }

    /// Signs an answer by a program that runs openssl, or by openssl itself.
    fn sign_answer(&self, by: &[&str], subject: &str, how: &[&str], file: &Path) {
        let (ca, crt) = (self.ca(), self.file(subject, "crt"));
        let request = self.file(subject, "req");
        let asked = ["-no_nonce", "-reqout", &request];
        self.openssl(&[&["ocsp", "-issuer", &ca, "-cert", &crt][..], &asked].concat());
        let (index, key) = (self.path("index"), self.path("ca.key"));
        let what = ["openssl", "ocsp", "-index", &index, "-CA", &ca];
        let signer = ["-rsigner", &ca, "-rkey", &key, "-reqin", &request];
        let words = [by, &what, &signer, how, &[file.to_str().unwrap()]].concat();
        self.lab.client().run_ok(words[0], &words[1..]).unwrap();
    }

    /// Answers by OCSP over HTTP, on the client's machine, until it is dropped.
    pub(crate) fn respond(&self, port: u16) -> Process {
        let (index, ca, key) = (self.path("index"), self.ca(), self.path("ca.key"));
        let port = port.to_string();
        let words = [
            "ocsp", "-port", &port, "-index", &index, "-CA", &ca, "-rsigner", &ca, "-rkey", &key,
            "-ndays", "1",
        ];
        let process = self.lab.client().spawn("openssl", words).unwrap();
        process
            .wait_for_line(
                "waiting for OCSP client connections",
                Duration::from_secs(15),
            )
            .unwrap();
        process
    }

    /// Writes a list of all that it has revoked (see [`Authority::enter`]) into a file.
    pub(crate) fn list(&self, file: &str) {
        let (config, index) = (self.path("ca.cnf"), self.path("index"));
        let text = format!(
            "[ca]\ndefault_ca=d\n[d]\ndatabase={index}\ndefault_md=sha256\n\
             default_crl_days=1\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n"
        );
        fs::write(&config, text).unwrap();
        let (ca, key) = (self.ca(), self.path("ca.key"));
        let by = ["-cert", &ca, "-keyfile", &key, "-out", file];
        self.openssl(&[&["ca", "-gencrl", "-config", &config], &by[..]].concat());
    }

    fn path(&self, file: &str) -> String {
        self.folder.join(file).to_str().unwrap().to_owned()
    }

    fn openssl(&self, words: &[&str]) -> String {
        self.lab.client().run_ok("openssl", words).unwrap().stdout
    }
}
