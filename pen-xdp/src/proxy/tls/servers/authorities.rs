//! Whose certificates count: those of authorities, and those that are named themselves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::DemandsError;
use crate::files;
use crate::proxy::tls::certificate::{CertificateError, certificates};
use crate::proxy::tls::clients::authorities::{listed, nature};
use crate::proxy::tls::clients::folder::Folder;

/// Where the system has the authorities that it believes, as Debian's ca-certificates puts it.
pub(super) const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where authorities come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The system's.
    System,
    /// A file or a folder that is named.
    Named(PathBuf),
}

/// See the module; in DER.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Authorities {
    /// Who may issue certificates for servers.
    issuers: BTreeSet<Vec<u8>>,
    /// Certificates that are good for whoever has their key: of servers that signed their own.
    named: BTreeSet<Vec<u8>>,
}

impl Source {
    pub(super) fn of(authorities: Option<&Path>) -> Self {
        authorities.map_or(Self::System, |path| Self::Named(path.to_owned()))
    }

    /// The file or folder.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::System => Path::new(SYSTEM),
            Self::Named(path) => path,
        }
    }

    /// All files; of a folder itself, too, which may be another one.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.path().to_owned()];
        if is_folder(self.path()) {
            files.extend(listed(self.path()).into_iter().flatten());
        }
        files
    }
}

fn is_folder(path: &Path) -> bool {
    files::stat(path).is_ok_and(|found| found.is_folder)
}

impl Authorities {
    /// With the folder that they are from, if it is one; `before` is what that held.
    ///
    /// # Errors
    /// A file that is named can't be used, or there is no certificate in any.
    pub(super) fn read(source: &Source, before: &Folder) -> Result<(Self, Folder), DemandsError> {
        let path = source.path();
        let (mut found, mut folder) = (Self::default(), Folder::default());
        match source {
            Source::System if files::stat(path).is_err() => return Err(DemandsError::NoSystem),
            Source::System => found.take_usable(certificates(path)?),
            Source::Named(_) if is_folder(path) => {
                folder = Folder::read(path, before)?;
                for (file, certificate) in folder.certificates() {
                    found.take(file, certificate)?;
                }
            }
            Source::Named(_) => {
                for certificate in certificates(path)? {
                    found.take(path, &certificate)?;
                }
            }
        }
        if !found.named.is_empty() || !found.issuers.is_empty() {
            return Ok((found, folder));
        }
        let mut place = path.display().to_string();
        if let Some(why) = folder.trouble() {
            place += &format!(" ({why})");
        }
        Err(DemandsError::Nobody(place))
    }

    /// # Errors
    /// It is none that rustls can go by.
    fn take(
        &mut self,
        path: &Path,
        certificate: &CertificateDer<'static>,
    ) -> Result<(), CertificateError> {
        // Whoever has a server's key must not issue certificates for others by it, unless the
        // certificate says that it is for that.
        if nature(path, certificate)?.says_so {
            self.issuers.insert(certificate.to_vec());
        }
        self.named.insert(certificate.to_vec());
        Ok(())
    }

    /// Of the many that a distribution believes, some may be odd: who goes without them believes
    /// nobody more.
    fn take_usable(&mut self, all: Vec<CertificateDer<'static>>) {
        let path = Path::new(SYSTEM);
        let issues = |one: &CertificateDer<'static>| nature(path, one).is_ok_and(|one| one.issues);
        let usable = all.into_iter().filter(issues);
        self.issuers.extend(usable.map(|one| one.to_vec()));
    }

    /// Whether this very certificate is among those that were named.
    pub(super) fn names(&self, certificate: &CertificateDer<'_>) -> bool {
        self.named.contains(certificate.as_ref())
    }

    /// Those that issue, for rustls.
    ///
    /// # Errors
    /// It does not take one, which was tried when they were read.
    pub(super) fn roots(&self) -> Result<RootCertStore, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for authority in &self.issuers {
            roots.add(CertificateDer::from(authority.as_slice()))?;
        }
        Ok(roots)
    }
}
