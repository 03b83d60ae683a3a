//! What a service wants of its clients' certificates: whether they must show one, who must have
//! issued it, what has been revoked.
//!
//! It is read from files and read again when these change, each file whole or not at all: who is
//! trusted is never what was half written. rustls checks certificates by it; what it does not look
//! at is the validity of an authority's own certificate.

pub(super) mod authorities;
mod distinguished;
mod error;
pub(super) mod folder;
mod identity;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pen_common::config::{ClientCertificate, TlsOptions};

use super::held::stamp;
use super::store::around;

pub use error::ClientsError;
pub(in crate::proxy) use identity::{Identity, Standing};
pub(super) use policy::Policy;

use folder::Folder;

/// See the module.
#[derive(Debug)]
pub(super) struct Clients {
    sources: Sources,
    held: Mutex<Held>,
}

/// Where authorities and revocations come from, and what is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sources {
    asked: ClientCertificate,
    authorities: Option<PathBuf>,
    /// The server's own chain, where no other place is named: those in it that signed themselves
    /// count.
    chain: Option<PathBuf>,
    folder: Option<PathBuf>,
    revoked: Option<PathBuf>,
}

#[derive(Debug)]
struct Held {
    /// Of the files, taken before they were read.
    stamp: u64,
    policy: Arc<Policy>,
    /// What it was made of, as far as that is a folder.
    folder: Folder,
    /// Why files can't be used as they are now.
    trouble: Option<String>,
}

impl Clients {
    /// Reads all files; `None` if clients are not asked.
    ///
    /// # Errors
    /// One of them can't be used, or there is no authority in any.
    pub(super) fn open(options: &TlsOptions) -> Result<Option<Self>, ClientsError> {
        Self::open_after(options, None)
    }

    /// As [`Clients::open`], where others were in force `before`: an odd file in the same folder
    /// loses nothing by a change of something else.
    pub(super) fn open_after(
        options: &TlsOptions,
        before: Option<&Self>,
    ) -> Result<Option<Self>, ClientsError> {
        let Some(sources) = Sources::of(options) else {
            return Ok(None);
        };
        let stamp = stamp(sources.files().iter().map(PathBuf::as_path));
        let alike = before.filter(|before| before.sources.folder == sources.folder);
        let folder = alike.map(|before| before.held().folder.clone());
        let (policy, folder) = Policy::read(&sources, &folder.unwrap_or_default())?;
        Ok(Some(Self {
            sources,
            held: Mutex::new(Held {
                stamp,
                policy: Arc::new(policy),
                trouble: folder.trouble(),
                folder,
            }),
        }))
    }

    /// Whether it is what `options` ask for.
    pub(super) fn is_of(&self, options: &TlsOptions) -> bool {
        Sources::of(options).as_ref() == Some(&self.sources)
    }

    /// Reads the files again if they are not what they were, or could not be used. What can't be
    /// used leaves what is in force. Says whether they are not what they were: other folders may
    /// have to be watched then, whatever came of reading.
    pub(super) fn refresh(&self) -> bool {
        let mut held = self.held();
        let stamp = stamp(self.sources.files().iter().map(PathBuf::as_path));
        let other = stamp != held.stamp;
        if !other && held.trouble.is_none() {
            return false;
        }
        held.stamp = stamp;
        let trouble = match Policy::read(&self.sources, &held.folder) {
            Ok((policy, folder)) => {
                if policy != *held.policy {
                    held.policy = Arc::new(policy);
                }
                held.folder = folder;
                held.folder.trouble()
            }
            Err(error) => Some(format!("{error}; what was read before is still in force")),
        };
        if let Some(why) = trouble.as_ref().filter(|_| trouble != held.trouble) {
            tracing::warn!("client certificates: {why}");
        }
        held.trouble = trouble;
        other
    }

    /// What is in force.
    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.held().policy)
    }

    /// The file or folder that stands for all, and what is wrong with them now, a sentence.
    pub(super) fn trouble(&self) -> Option<(String, String)> {
        let why = self.held().trouble.clone()?;
        let sources = &self.sources;
        let all = [&sources.authorities, &sources.folder, &sources.chain];
        let first = all.into_iter().flatten().next();
        Some((
            first.map_or_else(String::new, |path| path.display().to_string()),
            why,
        ))
    }

    /// Every folder in which something happens when one of the files becomes another one.
    pub(super) fn folders(&self) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        for file in self.sources.files() {
            folders.extend(around(&file));
        }
        folders.extend(self.sources.folder.clone());
        folders
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sources {
    /// `None` if clients are not asked.
    fn of(options: &TlsOptions) -> Option<Self> {
        let authorities = options.client_ca.clone();
        let folder = options.client_ca_path.clone();
        // Pen's -G is both, and a chain of a server's with its root in it is common: who names
        // authorities elsewhere does not mean that one.
        let named = authorities.is_some() || folder.is_some();
        let chain = options.chain.clone().filter(|_| !named);
        options.asks_clients().then_some(Self {
            asked: options.client_certificate,
            authorities,
            chain,
            folder,
            revoked: options.client_crl.clone(),
        })
    }

    /// All files, and the folder itself, which may be another one.
    fn files(&self) -> Vec<PathBuf> {
        let single = [&self.authorities, &self.chain, &self.folder, &self.revoked];
        let mut files: Vec<_> = single.into_iter().flatten().cloned().collect();
        let listed = self.folder.as_deref().map(authorities::listed);
        files.extend(listed.and_then(Result::ok).into_iter().flatten());
        files
    }

    /// What a reader is to be told to mend.
    fn places(&self) -> Vec<&Path> {
        let all = [&self.authorities, &self.chain, &self.folder];
        all.into_iter().filter_map(Option::as_deref).collect()
    }
}
