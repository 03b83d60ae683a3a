//! Certificates for tests, made by openssl as its users make them.

use std::fs;
use std::path::{Path, PathBuf};

use lab::Lab;

use crate::rig::addresses;

/// Files of one certificate; all are in a folder that goes with the lab.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// Who signed it, for clients to trust.
    pub(crate) ca: String,
    /// The certificate and its chain.
    pub(crate) chain: String,
    /// Its key.
    pub(crate) key: String,
    /// All of it in one file.
    pub(crate) whole: String,
}

/// The kinds of keys.
pub(crate) const ECDSA: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
pub(crate) const RSA: &[&str] = &["rsa:2048"];

/// A certificate for `pen.test` and all addresses of the balancer, of an authority of its own.
pub(crate) fn make(lab: &Lab, name: &str, kind: &[&str]) -> Certificate {
    let folder = lab.folder().join(name);
    fs::create_dir_all(&folder).unwrap();
    let at = |file: &str| folder.join(file).to_str().unwrap().to_owned();
    let [v4, v6] = addresses();
    let names = format!("subjectAltName=DNS:pen.test,IP:{v4},IP:{v6}\n");
    fs::write(folder.join("names"), names).unwrap();
    let run = |words: &[&str]| {
        lab.client().run_ok("openssl", words).unwrap();
    };
    let request = ["req", "-newkey"].iter().chain(kind).copied();
    let request: Vec<&str> = request.chain(["-nodes", "-keyout"]).collect();
    let (ca_key, key, csr) = (at("ca.key"), at("key.pem"), at("csr"));
    let (ca, leaf) = (at("ca.pem"), at("leaf.pem"));
    let of_ca = [
        &ca_key, "-x509", "-days", "30", "-subj", "/CN=ca", "-out", &ca,
    ];
    run(&[&request[..], &of_ca].concat());
    run(&[&request[..], &[&key, "-subj", "/CN=pen.test", "-out", &csr]].concat());
    let (names, signing) = (at("names"), [&*ca, "-CAkey", &ca_key, "-CAcreateserial"]);
    let of_leaf = ["-days", "30", "-extfile", &names, "-out", &leaf];
    run(&[
        &["x509", "-req", "-in", &csr, "-CA"],
        &signing[..],
        &of_leaf,
    ]
    .concat());
    Certificate {
        chain: joined(&folder, "chain.pem", &[&leaf, &ca]),
        whole: joined(&folder, "whole.pem", &[&leaf, &ca, &key]),
        ca,
        key,
    }
}

fn joined(folder: &Path, name: &str, files: &[&str]) -> String {
    let path: PathBuf = folder.join(name);
    let all = files.iter().map(|file| fs::read_to_string(file).unwrap());
    fs::write(&path, all.collect::<String>()).unwrap();
    path.to_str().unwrap().to_owned()
}
