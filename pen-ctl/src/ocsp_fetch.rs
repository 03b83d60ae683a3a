//! `ocsp-fetch`: asks for the OCSP answers of all certificates and puts the good ones where the
//! daemon looks for them. The daemon says whom to ask, what, where to, and whether an answer is good;
//! what reaches the network and writes files has the rights of who called.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pen_common::control::OcspQuestion;

/// For one answer, from the look-up of the responder's name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(15);
/// As the daemon has it.
const ANSWER_MAX: u64 = 64 << 10;

/// What became of one certificate's answer, a line for its caller.
pub(crate) struct Fetched {
    pub(crate) certificate: String,
    pub(crate) outcome: Result<String>,
}

/// Fetches them all, one after the other; `check` is the daemon's word about an answer in a file.
pub(crate) fn fetch(
    questions: Vec<OcspQuestion>,
    check: impl Fn(&str, &Path) -> Result<String>,
) -> Vec<Fetched> {
    let mut silent = HashSet::new();
    let mut fetched = Vec::new();
    for question in questions {
        fetched.push(Fetched {
            outcome: fetch_one(&question, &mut silent, &check),
            certificate: question.certificate,
        });
    }
    fetched
}

/// `silent` are responders that did not answer, and are not waited for once more.
fn fetch_one(
    question: &OcspQuestion,
    silent: &mut HashSet<String>,
    check: impl Fn(&str, &Path) -> Result<String>,
) -> Result<String> {
    let Some(request) = &question.request else {
        bail!("its issuer is not known: add the issuer's certificate to the chain (`chain`, -G)");
    };
    let Some(file) = &question.file else {
        bail!("there is no file for its OCSP answer: add ssl_ocsp_response = \"FILE\"");
    };
    let responder = || format!("responder {}", question.responder);
    if silent.contains(&question.responder) {
        bail!("{} did not answer before", responder());
    }
    let answer = ask(&question.responder, request);
    if answer.is_err() {
        silent.insert(question.responder.clone());
    }
    let answer = answer.with_context(responder)?;
    // Beside it, to take its place at once; the daemon takes it for nothing by this name, and it is
    // nobody else's who fetches at the same time.
    let new = PathBuf::from(format!("{file}.{}.new", process::id()));
    let written = write(&new, &answer);
    let written = written.with_context(|| format!("can't write {}", new.display()));
    let placed = written.and_then(|()| {
        let good = check(&question.certificate, &new)?;
        let moved = fs::rename(&new, file);
        moved.with_context(|| format!("can't write {file}"))?;
        Ok(good.replace(&new.display().to_string(), file))
    });
    if placed.is_err() {
        // That is what its caller is told of; what was there before is untouched.
        let _ = fs::remove_file(&new);
    }
    placed
}

/// By POST, as every responder has it (RFC 6960 appendix A.1).
fn ask(responder: &str, request: &[u8]) -> Result<Vec<u8>> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .build();
    let mut response = ureq::Agent::new_with_config(config)
        .post(responder)
        .header("Content-Type", "application/ocsp-request")
        .send(request)?;
    let body = response.body_mut().with_config().limit(ANSWER_MAX);
    Ok(body.read_to_vec()?)
}

/// For everybody to read, as the answer is.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    // A link that somebody put there is not followed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
