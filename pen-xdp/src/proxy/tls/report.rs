//! What a store of certificates shows of itself.

use std::sync::atomic::Ordering;

use pen_common::control::{CertificateStatus, CertificatesStatus};

use super::facts::KeyKind;
use super::held::Held;
use super::store::{Store, now};

/// Certificates that are shown; the others are counted.
const SHOWN_MAX: usize = 16;

impl Store {
    /// How many there are, and those that want to be looked at; `of_clients` is a file that clients'
    /// certificates are checked by and what is wrong with it.
    pub(super) fn status(&self, of_clients: Option<(String, String)>) -> CertificatesStatus {
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
        let others = folder.chain(of_clients);
        rows.extend(others.map(|(path, why)| unread(path, why)));
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

/// The row of what can't be read and is no certificate that is served.
fn unread(file: String, why: String) -> CertificateStatus {
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
