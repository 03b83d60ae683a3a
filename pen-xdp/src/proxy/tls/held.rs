//! One certificate that is held, and read again when its files change.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use rustls::sign::CertifiedKey;

use super::certificate::{CertificateError, Files, load, read};
use super::facts::Facts;
use super::ocsp::Staple;

/// A certificate that can be served, with what is stapled to it.
#[derive(Debug)]
pub(super) struct Certificate {
    facts: Facts,
    plain: Arc<CertifiedKey>,
    /// The same with a staple, and the second since 1970 from which that is none any more.
    stapled: Option<(Arc<CertifiedKey>, i64)>,
    /// Why there is no staple though there is a file for one.
    unstapled: Option<String>,
}

impl Certificate {
    fn read(files: &Files, now: i64) -> Result<Self, CertificateError> {
        let plain = load(files)?;
        let unusable = |why| CertificateError::Unusable {
            path: files.certificate.clone(),
            why,
        };
        let facts = plain.cert.first().map(|leaf| Facts::of(leaf));
        let facts = facts.unwrap_or_else(|| Err("there is no certificate in it".to_owned()));
        let facts = facts.map_err(unusable)?;
        let staple = files
            .staple
            .as_deref()
            .map(|file| staple(file, &plain, now));
        let (stapled, unstapled) = match staple {
            None => (None, None),
            Some(Err(why)) => (None, Some(why)),
            Some(Ok(staple)) => {
                let mut with = plain.clone();
                with.ocsp = Some(staple.answer().to_vec());
                (Some((Arc::new(with), staple.until())), None)
            }
        };
        Ok(Self {
            facts,
            plain: Arc::new(plain),
            stapled,
            unstapled,
        })
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
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
            return Some(why.clone());
        }
        if self.stapled.is_some() && self.stapled_until(now).is_none() {
            return Some("its OCSP answer has expired: fetch a new one".to_owned());
        }
        self.lacks_staple(now).then(|| {
            "it asks to be stapled (must-staple), and there is no OCSP answer for it".to_owned()
        })
    }
}

fn staple(file: &Path, key: &CertifiedKey, now: i64) -> Result<Staple, String> {
    let answer = read(file).map_err(|error| error.to_string())?;
    let checked = Staple::check(answer.to_vec(), &key.cert, now);
    checked.map_err(|error| format!("{}: {error}", file.display()))
}

/// See the module.
#[derive(Debug)]
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
    pub(super) fn read(name: String, files: Files, now: i64) -> Self {
        let mut held = Self {
            name,
            stamp: stamp(files.iter()),
            files,
            certificate: None,
            trouble: None,
            gone: None,
        };
        held.load(false, now);
        held
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
        match Certificate::read(&self.files, now) {
            Ok(certificate) => {
                let before = self.certificate.as_ref();
                if again && before.is_some_and(|one| one.unstapled == certificate.unstapled) {
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
pub(super) fn stamp<'a>(files: impl Iterator<Item = &'a Path>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        let data = fs::metadata(file).ok();
        let data = data.map(|data| {
            let written = (data.mtime(), data.mtime_nsec());
            let changed = (data.ctime(), data.ctime_nsec());
            (data.dev(), data.ino(), data.size(), written, changed)
        });
        data.hash(&mut hasher);
    }
    hasher.finish()
}
