//! What a service demands of servers that it speaks TLS to: whose certificates count, and what it
//! shows them itself.
//!
//! All threads of a service share one value, and it stays as long as nothing of it is changed. What
//! is read from files is read again when they change, each file whole or not at all; connections and
//! sessions that began under what was in force before are used for no new request.

mod authorities;
mod error;
mod peer;
mod spoken;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests;
mod trouble;
mod unfit;
mod verifier;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pen_common::config::{Mode, ServerTls, ServerTlsOptions};
use pen_common::control::{CertificateStatus, ServerTlsStatus};
use rustls::sign::CertifiedKey;

use super::certificate::{Files, load};
use super::clients::folder::Folder;
use super::facts::{Facts, KeyKind};
use super::held::stamp;
use super::renewal::Watched;
use super::store::{Look, around, now};
use authorities::{Authorities, Source};

pub use error::DemandsError;
pub(in crate::proxy) use peer::Peer;
pub(in crate::proxy) use spoken::Spoken;

use crate::files::stat;
use crate::proxy::routes::Route;

/// See the module.
#[derive(Debug)]
pub struct Demands {
    http: bool,
    options: ServerTlsOptions,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// Of the files, taken before they were read.
    stamp: u64,
    read: Read,
    spoken: Arc<Spoken>,
    /// Why the files can't be used as they are now.
    trouble: Option<String>,
}

/// What the files hold.
#[derive(Debug)]
struct Read {
    /// Whose certificates count; `None` takes everybody's.
    authorities: Option<Authorities>,
    /// Where these are from, as far as that is a folder.
    folder: Folder,
    /// What servers get who ask, and what it says of itself.
    shown: Option<(CertifiedKey, Facts)>,
}

impl Demands {
    /// Whether a service can have them, and what is wrong that it can do without, a sentence each.
    ///
    /// # Errors
    /// It can't.
    pub fn check(mode: Mode, options: &ServerTlsOptions) -> Result<Vec<String>, DemandsError> {
        let made = match options.is_spoken() {
            true => Some(Self::open(mode == Mode::Http, options, &Folder::default())?),
            false => None,
        };
        let status = made.map(|made| made.status());
        let troubles = status.map(|status| {
            let certificate = status.certificate.and_then(|one| one.trouble);
            [status.trouble, certificate]
        });
        Ok(troubles.into_iter().flatten().flatten().collect())
    }

    /// Reads files and puts all together; `None` for a service that speaks in clear. What was there
    /// `before` stays if it was made of the same.
    pub(super) fn make(
        route: &Route,
        before: Option<&Arc<Self>>,
    ) -> Result<Option<Arc<Self>>, DemandsError> {
        let (options, http) = (&route.options.server_tls, route.mode == Mode::Http);
        if !options.is_spoken() {
            return Ok(None);
        }
        let same = before.filter(|before| before.options == *options && before.http == http);
        if let Some(before) = same {
            return Ok(Some(Arc::clone(before)));
        }
        if options.wanted == ServerTls::Unverified {
            tracing::warn!(
                "service {}: servers' certificates are not checked: whoever is in between can pass \
                 for a server",
                route.service
            );
        }
        // An odd file in the same folder loses nothing by a change of something else.
        let alike = before.filter(|one| one.options.authorities == options.authorities);
        let folder = alike.map(|before| before.held().read.folder.clone());
        let made = Self::open(http, options, &folder.unwrap_or_default())?;
        if let Some(why) = &made.held().trouble {
            tracing::warn!("TLS to servers: {why}");
        }
        Ok(Some(Arc::new(made)))
    }

    /// `before` is what a folder of authorities held.
    fn open(http: bool, options: &ServerTlsOptions, before: &Folder) -> Result<Self, DemandsError> {
        let stamp = stamp_of(options);
        let read = Read::of(options, before)?;
        let spoken = Arc::new(Spoken::new(http, options, &read)?);
        let trouble = read.folder.trouble();
        Ok(Self {
            http,
            options: options.clone(),
            held: Mutex::new(Held {
                stamp,
                read,
                spoken,
                trouble,
            }),
        })
    }

    /// What connections go by that begin now.
    pub(in crate::proxy) fn spoken(&self) -> Arc<Spoken> {
        Arc::clone(&self.held().spoken)
    }

    /// What is in force, and what is wrong with files.
    pub(in crate::proxy) fn status(&self) -> ServerTlsStatus {
        let held = self.held();
        let verified = self.options.wanted == ServerTls::Verified;
        let file = self.options.certificate.as_ref();
        let shown = held.read.shown.as_ref().zip(file);
        ServerTlsStatus {
            authorities: verified.then(|| self.place()),
            certificate: shown.map(|((_, facts), file)| row(file.display().to_string(), facts)),
            trouble: held.trouble.clone(),
        }
    }

    /// Where authorities come from.
    fn place(&self) -> String {
        let source = Source::of(self.options.authorities.as_deref());
        source.path().display().to_string()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for Demands {
    /// Reads the files again if they are not what they were, or could not be used. What can't be
    /// used leaves what is in force.
    fn refresh(&self) -> Look {
        let (before, folder) = {
            let held = self.held();
            (
                (held.stamp, held.trouble.is_none()),
                held.read.folder.clone(),
            )
        };
        // Nobody who connects waits for a disk.
        let stamp = stamp_of(&self.options);
        let changed = stamp != before.0;
        let look = Look {
            changed,
            again: None,
        };
        if !changed && before.1 {
            return look;
        }
        let read = Read::of(&self.options, &folder);
        let made = read.and_then(|read| {
            let spoken = Spoken::new(self.http, &self.options, &read)?;
            Ok((read, spoken))
        });
        let mut held = self.held();
        held.stamp = stamp;
        let trouble = match made {
            Ok((read, spoken)) => {
                let trouble = read.folder.trouble();
                match read.is_as(&held.read) {
                    true => held.read.folder = read.folder,
                    false => {
                        tracing::info!(
                            "TLS to servers: authorities or our certificate were read anew"
                        );
                        (held.read, held.spoken) = (read, Arc::new(spoken));
                    }
                }
                trouble
            }
            Err(error) => Some(format!("{error}; what was read before is still in force")),
        };
        if let Some(why) = trouble.as_ref().filter(|_| trouble != held.trouble) {
            tracing::warn!("TLS to servers: {why}");
        }
        held.trouble = trouble;
        look
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let files = files(&self.options);
        let mut folders: BTreeSet<_> = files.iter().flat_map(|file| around(file)).collect();
        folders.extend(
            files
                .into_iter()
                .filter(|file| stat(file).is_ok_and(|found| found.is_folder)),
        );
        folders
    }
}

impl Read {
    /// `before` is what a folder of authorities held.
    ///
    /// # Errors
    /// A file can't be used.
    fn of(options: &ServerTlsOptions, before: &Folder) -> Result<Self, DemandsError> {
        let read = match options.wanted {
            ServerTls::Verified => {
                let source = Source::of(options.authorities.as_deref());
                Some(Authorities::read(&source, before)?)
            }
            ServerTls::Unverified | ServerTls::Off => None,
        };
        let (authorities, folder) = read.unzip();
        Ok(Self {
            authorities,
            folder: folder.unwrap_or_default(),
            shown: own(options)?,
        })
    }

    /// Whether files that were written anew say the same.
    fn is_as(&self, other: &Self) -> bool {
        fn chain(read: &Read) -> Option<&[rustls::pki_types::CertificateDer<'static>]> {
            read.shown.as_ref().map(|(key, _)| key.cert.as_slice())
        }
        self.authorities == other.authorities && chain(self) == chain(other)
    }
}

/// What servers get who ask for a certificate.
fn own(options: &ServerTlsOptions) -> Result<Option<(CertifiedKey, Facts)>, DemandsError> {
    let Some(certificate) = &options.certificate else {
        return Ok(None);
    };
    let key = load(&Files {
        certificate: certificate.clone(),
        key: options.key.clone(),
        chain: None,
        staple: None,
    })?;
    let facts = key.cert.first().map(|leaf| Facts::of(leaf));
    match facts {
        Some(Ok(facts)) => Ok(Some((key, facts))),
        Some(Err(why)) => Err(DemandsError::Unreadable {
            path: certificate.clone(),
            why,
        }),
        None => Ok(None),
    }
}

fn files(options: &ServerTlsOptions) -> Vec<PathBuf> {
    let mut files = match options.wanted {
        ServerTls::Verified => Source::of(options.authorities.as_deref()).files(),
        ServerTls::Unverified | ServerTls::Off => Vec::new(),
    };
    files.extend(
        [&options.certificate, &options.key]
            .into_iter()
            .flatten()
            .cloned(),
    );
    files
}

fn stamp_of(options: &ServerTlsOptions) -> u64 {
    stamp(files(options).iter().map(PathBuf::as_path))
}

fn row(file: String, facts: &Facts) -> CertificateStatus {
    let now = now();
    let word = match facts.key {
        KeyKind::Ecdsa => "ECDSA",
        KeyKind::Rsa => "RSA",
        KeyKind::Other => "other",
    };
    let fault = match now {
        now if now > facts.not_after => Some("it has expired"),
        now if now < facts.not_before => Some("it is not valid yet"),
        _ => None,
    };
    CertificateStatus {
        trouble: fault.map(|why| format!("{file}: {why}")),
        file,
        key: Some(word.to_owned()),
        not_after: Some(facts.not_after),
        left_s: Some(facts.not_after - now),
        staple_left_s: None,
        responder: None,
    }
}
