//! One certificate that is held, and read again when its files change.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::sign::CertifiedKey;

use super::certificate::{CertificateError, Files, load, load_on_trust, read};
use super::facts::Facts;
use super::ocsp::Staple;
use super::unchecked::Unchecked;
use crate::files;

/// A certificate that can be served, with what is stapled to it.
#[derive(Debug)]
pub(super) struct Certificate {
    facts: Facts,
    plain: Arc<CertifiedKey>,
    /// The same with a staple, and the second since 1970 from which that is none any more.
    stapled: Option<(Arc<CertifiedKey>, i64)>,
    /// Why the file for a staple holds none.
    unstapled: Option<String>,
    /// Its key, if that was taken on trust.
    unchecked: Option<Arc<Unchecked>>,
}

impl Certificate {
    fn read(files: &Files, before: Option<&Self>, now: i64) -> Result<Self, CertificateError> {
        let read = Self::of(load(files)?, files)?;
        Ok(read.stapled(files, before, now))
    }

    fn read_on_trust(files: &Files, now: i64) -> Result<Self, CertificateError> {
        let (plain, unchecked) = load_on_trust(files)?;
        let read = Self {
            unchecked,
            ..Self::of(plain, files)?
        };
        Ok(read.stapled(files, None, now))
    }

    /// Without a staple.
    ///
    /// # Errors
    /// What the certificate says of itself can't be read.
    pub(super) fn of(plain: CertifiedKey, files: &Files) -> Result<Self, CertificateError> {
        let unusable = |why| CertificateError::Unusable {
            path: files.certificate.clone(),
            why,
        };
        let facts = plain.cert.first().map(|leaf| Facts::of(leaf));
        let facts = facts.unwrap_or_else(|| Err("there is no certificate in it".to_owned()));
        let facts = facts.map_err(unusable)?;
        Ok(Self {
            facts,
            plain: Arc::new(plain),
            stapled: None,
            unstapled: None,
            unchecked: None,
        })
    }

    /// With the staple, if there is a file for one.
    fn stapled(mut self, files: &Files, before: Option<&Self>, now: i64) -> Self {
        if let Some(file) = &files.staple {
            self.staple(file, before, now);
        }
        self
    }

    /// Takes the staple of a file. What is none of the certificate's takes nothing away: the one
    /// `before`, if it was the same certificate's, is good for as long as it said. Who removes the
    /// file wants none.
    fn staple(&mut self, file: &Path, before: Option<&Self>, now: i64) {
        let checked = read(file)
            .map_err(|error| (error.to_string(), error.is_absence()))
            .and_then(|answer| {
                let checked = Staple::check(answer.to_vec(), &self.plain.cert, now);
                checked.map_err(|error| {
                    let why = format!("{}: {error}", file.display());
                    (why, error.is_verdict())
                })
            });
        let (answer, until) = match checked {
            Ok(staple) => (Some(staple.answer().to_vec()), staple.until()),
            Err((why, verdict)) => {
                self.unstapled = Some(why);
                let same = before.filter(|before| !verdict && before.plain.cert == self.plain.cert);
                match same.and_then(|before| before.stapled.as_ref()) {
                    Some((stapled, until)) => (stapled.ocsp.clone(), *until),
                    None => return,
                }
            }
        };
        let mut with = (*self.plain).clone();
        with.ocsp = answer;
        self.stapled = Some((Arc::new(with), until));
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether clients find it in time.
    pub(super) fn is_valid(&self, now: i64) -> bool {
        (self.facts.not_before..=self.facts.not_after).contains(&now)
    }

    /// Until when it has a staple, in seconds since 1970; `None` if it has none now.
    pub(super) fn stapled_until(&self, now: i64) -> Option<i64> {
        let (_, until) = self.stapled.as_ref()?;
        (now < *until).then_some(*until)
    }

    /// What clients get now.
    pub(super) fn key(&self, now: i64) -> &Arc<CertifiedKey> {
        match &self.stapled {
            Some((stapled, until)) if now < *until => stapled,
            _ => &self.plain,
        }
    }

    /// Why it must not be served now: clients that know its wish for a staple would refuse it.
    pub(super) fn lacks_staple(&self, now: i64) -> bool {
        self.facts.must_staple && self.stapled_until(now).is_none()
    }

    /// What is wrong with it now, a sentence; nothing of what its files are.
    fn fault(&self, now: i64) -> Option<String> {
        if now > self.facts.not_after {
            return Some("it has expired".to_owned());
        }
        if now < self.facts.not_before {
            return Some("it is not valid yet".to_owned());
        }
        if let Some(why) = &self.unstapled {
            return Some(match self.stapled_until(now) {
                Some(_) => format!("{why}; the one before is still stapled"),
                None => why.clone(),
            });
        }
        if self.stapled.is_some() && self.stapled_until(now).is_none() {
            return Some("its OCSP answer has expired: fetch a new one".to_owned());
        }
        self.lacks_staple(now).then(|| {
            "it asks to be stapled (must-staple), and there is no OCSP answer for it".to_owned()
        })
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// What its file is called.
    pub(super) name: String,
    pub(super) files: Files,
    /// Of the files, taken before they were read.
    stamp: u64,
    certificate: Option<Arc<Certificate>>,
    /// Why its files can't be used as they are now.
    trouble: Option<String>,
    /// Since when its files are not there.
    pub(super) gone: Option<Instant>,
}

/// What reading again came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Renewed {
    /// All is as it was.
    Same,
    /// Another certificate, or staple, is served from now on.
    Changed,
    /// The files are in trouble, and were in none or in another before.
    Broken,
}

impl Held {
    /// One that can be used now.
    ///
    /// # Errors
    /// It can't.
    pub(super) fn open(files: Files, now: i64) -> Result<Self, CertificateError> {
        let stamp = stamp(files.iter());
        let certificate = Certificate::read(&files, None, now)?;
        Ok(Self {
            name: String::new(),
            files,
            stamp,
            certificate: Some(Arc::new(certificate)),
            trouble: None,
            gone: None,
        })
    }

    /// One that may be in trouble.
    pub(super) fn read(name: String, files: Files, now: i64) -> Self {
        let mut held = Self::bare(name, files);
        held.load(false, now);
        held
    }

    /// The same, whose key may be still to be checked ([`Held::check_key`]).
    pub(super) fn read_on_trust(name: String, files: Files, now: i64) -> Self {
        let mut held = Self::bare(name, files);
        match Certificate::read_on_trust(&held.files, now) {
            Ok(certificate) => held.certificate = Some(Arc::new(certificate)),
            Err(error) => held.trouble = Some(error.to_string()),
        }
        held
    }

    fn bare(name: String, files: Files) -> Self {
        Self {
            name,
            stamp: stamp(files.iter()),
            files,
            certificate: None,
            trouble: None,
            gone: None,
        }
    }

    /// Whether its key was taken on trust and is not known to be one.
    pub(super) fn has_unchecked_key(&self) -> bool {
        let certificate = self.certificate.as_ref();
        let key = certificate.and_then(|one| one.unchecked.as_ref());
        key.is_some_and(|key| !key.is_sound())
    }

    /// Checks its key. What has none is not served any more, and its trouble is known.
    pub(super) fn check_key(&mut self, now: i64) -> Renewed {
        let certificate = self.certificate.as_ref();
        let key = certificate.and_then(|one| one.unchecked.as_ref());
        if key.is_none_or(|key| key.check()) {
            return Renewed::Same;
        }
        self.certificate = None;
        self.load(false, now);
        Renewed::Changed
    }

    /// Reads its files again if they are not what they were, or could not be used. What can't be
    /// read leaves what is served.
    pub(super) fn renew(&mut self, files: &Files, now: i64) -> Renewed {
        self.gone = None;
        let stamp = stamp(files.iter());
        let same = stamp == self.stamp && *files == self.files;
        let unstapled = self
            .certificate
            .as_ref()
            .and_then(|one| one.unstapled.as_ref());
        if same && self.trouble.is_none() && unstapled.is_none() {
            return Renewed::Same;
        }
        (self.files, self.stamp) = (files.clone(), stamp);
        self.load(same, now)
    }

    /// `again`: the files are what they were, only the time is another.
    fn load(&mut self, again: bool, now: i64) -> Renewed {
        let before = self.certificate.as_deref();
        match Certificate::read(&self.files, before, now) {
            Ok(certificate) => {
                // Not after trouble: what could not be read then may be another certificate.
                let settled = again && self.trouble.is_none();
                if settled && before.is_some_and(|one| one.unstapled == certificate.unstapled) {
                    return Renewed::Same;
                }
                self.certificate = Some(Arc::new(certificate));
                self.trouble = None;
                Renewed::Changed
            }
            Err(error) => {
                let trouble = Some(error.to_string());
                match self.trouble == trouble {
                    true => Renewed::Same,
                    false => {
                        self.trouble = trouble;
                        Renewed::Broken
                    }
                }
            }
        }
    }

    pub(super) fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref()
    }

    /// What is wrong with its files, or with what is served of them.
    pub(super) fn trouble(&self, now: i64) -> Option<String> {
        let fault = || self.certificate.as_ref().and_then(|one| one.fault(now));
        match &self.trouble {
            None => Some(format!(
                "{}: {}",
                self.files.certificate.display(),
                fault()?
            )),
            Some(why) if self.certificate.is_none() => Some(why.clone()),
            Some(why) => Some(format!("{why}; what was read before is still served")),
        }
    }
}

/// A number that is another one when one of the files is.
pub(super) fn stamp<'a>(files: impl IntoIterator<Item = &'a Path>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        files::stat(file).ok().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
    use rustls::crypto::aws_lc_rs::sign::any_supported_type;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::proxy::tls::facts::KeyKind;
    use crate::proxy::tls::ocsp::authority::{Authority, P256};
    use crate::proxy::tls::ocsp::request;
    use crate::proxy::tls::store::now;

    impl Certificate {
        /// One that nobody could use: what it says of itself, and any key.
        pub(in crate::proxy::tls) fn for_tests(
            names: &[&str],
            key: KeyKind,
            not_after: i64,
        ) -> Self {
            let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
            let pair = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
            let pair = PrivateKeyDer::try_from(pair.as_ref().to_vec()).unwrap();
            let signing = any_supported_type(&pair).unwrap();
            Self {
                facts: Facts {
                    names: names.iter().map(|name| (*name).to_owned()).collect(),
                    addresses: Vec::new(),
                    not_before: 0,
                    not_after,
                    responder: None,
                    must_staple: false,
                    key,
                },
                plain: Arc::new(CertifiedKey::new(Vec::new(), signing)),
                stapled: None,
                unstapled: None,
                unchecked: None,
            }
        }
    }

    /// Files of a certificate that asks to be stapled, with an answer that is good for a day.
    fn files(authority: &Authority) -> Files {
        authority.issue("www", "ca", "full");
        authority.knows(&["www"], &[]);
        let question = request(&authority.chain("www")).unwrap();
        let answer = authority.answer(&question, "ca", "-ndays 1");
        let at = |file: &str| authority.file(file);
        fs::write(at("www.ocsp"), answer).unwrap();
        Files {
            certificate: at("www.pem"),
            key: Some(at("www.key")),
            chain: Some(at("ca.pem")),
            staple: Some(at("www.ocsp")),
        }
    }

    #[test]
    fn a_staple_is_served_until_it_expires_and_not_a_second_longer() {
        let authority = Authority::new("expiry", P256);
        let (files, now) = (files(&authority), now());
        let held = Held::read(String::new(), files, now);
        let certificate = held.certificate().unwrap();
        let until = certificate.stapled_until(now).unwrap();
        assert!((now + 86_000..=now + 86_400).contains(&until));
        for (second, stapled) in [(now, true), (until - 1, true), (until, false)] {
            assert_eq!(certificate.key(second).ocsp.is_some(), stapled);
            assert_eq!(certificate.lacks_staple(second), !stapled);
            assert_eq!(held.trouble(second).is_none(), stapled);
        }
        let said = held.trouble(until).unwrap();
        assert!(said.contains("OCSP answer has expired"), "{said}");
        let said = held.trouble(certificate.facts().not_after + 1).unwrap();
        assert!(said.contains("www.pem: it has expired"), "{said}");
    }

    #[test]
    fn what_did_not_change_is_not_read_and_what_broke_is_said_once() {
        let authority = Authority::new("renewal", P256);
        let (files, now) = (files(&authority), now());
        let mut held = Held::read(String::new(), files.clone(), now);
        assert_eq!(held.renew(&files, now), Renewed::Same);
        let (certificate, staple) = (&files.certificate, files.staple.as_ref().unwrap());
        let whole = fs::read(certificate).unwrap();
        fs::write(certificate, &whole[..100]).unwrap();
        assert_eq!(held.renew(&files, now), Renewed::Broken);
        assert_eq!(held.renew(&files, now), Renewed::Same);
        assert!(held.certificate().is_some());
        fs::write(certificate, &whole).unwrap();
        assert_eq!(held.renew(&files, now), Renewed::Changed);
        // A bad answer costs nothing while the one before is good, and is looked at again each time.
        fs::write(staple, "no answer").unwrap();
        assert_eq!(held.renew(&files, now), Renewed::Changed);
        assert_eq!(held.renew(&files, now), Renewed::Same);
        let until = held.certificate().unwrap().stapled_until(now).unwrap();
        let said = held.trouble(now).unwrap();
        assert!(
            said.contains("www.ocsp: ") && said.contains("still stapled"),
            "{said}"
        );
        let said = held.trouble(until).unwrap();
        assert!(
            said.contains("www.ocsp: ") && !said.contains("still"),
            "{said}"
        );
        // Nor has who starts with one a staple.
        let other = Held::read(String::new(), files.clone(), now);
        assert!(other.certificate().unwrap().stapled_until(now).is_none());
        // Trouble that was over when it was looked at again, of files that did not change since.
        let other = Held::read(String::new(), files.clone(), now);
        held.stamp = other.stamp;
        held.trouble = Some("Too many open files".to_owned());
        assert_eq!(held.renew(&files, now), Renewed::Changed);
        assert!(held.trouble.is_none());
        let none = Files {
            staple: None::<PathBuf>,
            ..files
        };
        assert_eq!(held.renew(&none, now), Renewed::Changed);
        assert!(held.trouble(now).unwrap().contains("must-staple"));
    }
}
