//! What a store of certificates shows of itself.

use std::path::Path;
use std::sync::atomic::Ordering;

use pen_common::control::{CertificateStatus, CertificatesStatus, OcspQuestion};

use super::certificate::read;
use super::directory::place_of_answer;
use super::facts::KeyKind;
use super::held::Held;
use super::ocsp::{Staple, request};
use super::store::{Store, now};

/// Certificates that are shown; the others are counted.
const SHOWN_MAX: usize = 16;

impl Store {
    /// How many there are, and those that want to be looked at; `beside` are files that belong to
    /// them, and what is wrong with each.
    pub(super) fn status(
        &self,
        beside: impl IntoIterator<Item = (String, String)>,
    ) -> CertificatesStatus {
        let now = now();
        let (names, counts) = (self.names(), self.counts());
        let read = self.read();
        let certificates: Vec<_> = read.all().filter_map(Held::certificate).collect();
        let stapled = certificates
            .iter()
            .filter(|one| one.stapled_until(now).is_some());
        let mut rows: Vec<_> = read.all().map(|held| row(held, now)).collect();
        let folder = self.folder().map(|folder| folder.display().to_string());
        let folder = folder.into_iter().zip(read.folder_trouble.clone());
        let others = folder.chain(beside);
        rows.extend(others.map(|(file, why)| other(file, why)));
        let in_trouble = rows.iter().filter(|row| row.trouble.is_some()).count();
        rows.sort_by(|a, b| {
            let key = |row: &CertificateStatus| (row.trouble.is_none(), row.not_after);
            key(a).cmp(&key(b)).then_with(|| a.file.cmp(&b.file))
        });
        rows.truncate(SHOWN_MAX);
        CertificatesStatus {
            served: certificates.len(),
            names,
            stapled: stapled.count(),
            unknown: counts.unknown.load(Ordering::Relaxed),
            withheld: counts.withheld.load(Ordering::Relaxed),
            in_trouble,
            shown: rows,
        }
    }

    /// What is to be asked for staples, in the order of the certificates' files.
    pub(in crate::proxy) fn questions(&self) -> Vec<OcspQuestion> {
        let (now, read) = (now(), self.read());
        let default = read.default.as_ref().map(|held| question(held, None, now));
        let named = read.named.values().map(|held| {
            let place = place_of_answer(&held.files.certificate);
            question(held, Some(&place), now)
        });
        let mut questions: Vec<_> = default.into_iter().chain(named).flatten().collect();
        questions.sort_by(|a, b| a.certificate.cmp(&b.certificate));
        questions
    }

    /// Whether the answer in a file would be stapled to the certificate of another; the seconds for
    /// which it would. `None` if there is no such certificate.
    pub(in crate::proxy) fn check_answer(
        &self,
        certificate: &Path,
        answer: &Path,
    ) -> Option<Result<i64, String>> {
        let now = now();
        let chain = {
            let read = self.read();
            let mut all = read.all();
            let is_meant =
                |file: &Path| std::path::absolute(file).is_ok_and(|file| file == certificate);
            let held = all.find(|held| is_meant(&held.files.certificate))?;
            held.certificate()?.key(now).cert.clone()
        };
        let bytes = read(answer).map_err(|error| error.to_string());
        Some(bytes.and_then(|bytes| {
            let staple = Staple::check(bytes.to_vec(), &chain, now);
            staple
                .map(|staple| staple.until() - now)
                .map_err(|error| format!("{}: {error}", answer.display()))
        }))
    }
}

/// `place` is where an answer is looked for if nothing else is said.
fn question(held: &Held, place: Option<&Path>, now: i64) -> Option<OcspQuestion> {
    let certificate = held.certificate()?;
    // Who asks is in another folder than we.
    let text = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        path.display().to_string()
    };
    let until = certificate.stapled_until(now);
    Some(OcspQuestion {
        certificate: text(&held.files.certificate),
        responder: certificate.facts().responder.clone()?,
        request: request(&certificate.key(now).cert),
        file: held.files.staple.as_deref().or(place).map(text),
        staple_left_s: until.map(|until| until - now),
    })
}

fn row(held: &Held, now: i64) -> CertificateStatus {
    let certificate = held.certificate();
    let facts = certificate.map(|one| one.facts());
    let until = certificate.and_then(|one| one.stapled_until(now));
    CertificateStatus {
        file: held.files.certificate.display().to_string(),
        key: facts.map(|facts| {
            let word = match facts.key {
                KeyKind::Ecdsa => "ECDSA",
                KeyKind::Rsa => "RSA",
                KeyKind::Other => "other",
            };
            word.to_owned()
        }),
        not_after: facts.map(|facts| facts.not_after),
        left_s: facts.map(|facts| facts.not_after - now),
        staple_left_s: until.map(|until| until - now),
        responder: facts.and_then(|facts| facts.responder.clone()),
        trouble: held.trouble(now),
    }
}

/// The row of what is in trouble and no certificate: a folder that can't be listed, or a file that
/// belongs to certificates.
fn other(file: String, why: String) -> CertificateStatus {
    CertificateStatus {
        file,
        key: None,
        not_after: None,
        left_s: None,
        staple_left_s: None,
        responder: None,
        trouble: Some(why),
    }
}
