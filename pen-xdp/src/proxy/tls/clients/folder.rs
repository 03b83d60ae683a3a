//! Folders of authorities: a file that can't be used keeps nobody from using the others.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::authorities::{listed, nature};
use crate::files;
use crate::proxy::tls::certificate::{CertificateError, certificates};

/// Files that are named when they can't be used.
const NAMED_MAX: usize = 4;

/// What is in a folder: of each file all certificates, or none.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy::tls) struct Folder {
    files: BTreeMap<PathBuf, Vec<CertificateDer<'static>>>,
    /// What is wrong with others, a sentence each.
    odd: Vec<String>,
}

impl Folder {
    /// Reads a folder. Of a file that can't be used counts what it held `before`: it may be
    /// half written.
    ///
    /// # Errors
    /// The folder can't be listed.
    pub(in crate::proxy::tls) fn read(
        folder: &Path,
        before: &Self,
    ) -> Result<Self, CertificateError> {
        let listed = listed(folder).map_err(|error| CertificateError::Unreadable {
            path: folder.to_owned(),
            error,
        })?;
        let mut found = Self::default();
        for path in listed {
            let known = before.files.get(&path).filter(|known| !known.is_empty());
            let read = match (of_file(&path), known) {
                (Ok(read), _) => read,
                // Keys lie in such folders, too.
                (Err(CertificateError::NoCertificate(_)), None) => Vec::new(),
                (Err(error), Some(known)) => {
                    let why = format!("{error}; what was read before is still in force");
                    found.odd.push(why);
                    known.clone()
                }
                (Err(error), None) => {
                    found.odd.push(format!("{error}; nothing of it counts"));
                    continue;
                }
            };
            found.files.insert(path, read);
        }
        Ok(found)
    }

    /// All certificates, each with its file.
    pub(in crate::proxy::tls) fn certificates(
        &self,
    ) -> impl Iterator<Item = (&Path, &CertificateDer<'static>)> {
        let files = self.files.iter();
        files.flat_map(|(path, all)| all.iter().map(|one| (path.as_path(), one)))
    }

    /// What is wrong with files, in one sentence; `None` if nothing is.
    pub(in crate::proxy::tls) fn trouble(&self) -> Option<String> {
        (!self.odd.is_empty()).then(|| self.to_string())
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<_> = self
            .odd
            .iter()
            .take(NAMED_MAX)
            .map(String::as_str)
            .collect();
        f.write_str(&named.join("; "))?;
        match self.odd.len() - named.len() {
            0 => Ok(()),
            more => write!(f, "; {more} more files can't be used"),
        }
    }
}

/// Nothing where no file is: what a link names can be gone, as can be what was listed, and folders
/// have such names as well.
fn of_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    // Not by opening it, as who opens a pipe waits.
    if files::stat(path).is_ok_and(|found| !found.is_file) {
        return Ok(Vec::new());
    }
    let all = match certificates(path) {
        Err(CertificateError::Unreadable { error, .. }) if is_gone(&error) => return Ok(Vec::new()),
        all => all?,
    };
    for certificate in &all {
        nature(path, certificate)?;
    }
    Ok(all)
}

fn is_gone(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::NotFound || kind == io::ErrorKind::NotADirectory
}
