//! Reads authorities from files: those that may issue clients' certificates, and no others.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::folder::Folder;
use super::{ClientsError, Sources};
use crate::files::{self, Entry};
use crate::proxy::tls::certificate::{CertificateError, certificates};

/// Reads all, in DER, in the order of their bytes and each once: the same on every machine that has
/// the same. Files of a folder that can't be used are told by it; `before` is what it held.
///
/// # Errors
/// A file that is named can't be used, or there is no authority in any.
pub(super) fn read(
    sources: &Sources,
    before: &Folder,
) -> Result<(BTreeSet<Vec<u8>>, Folder), ClientsError> {
    let mut found = BTreeSet::new();
    if let Some(path) = &sources.authorities {
        for (at, certificate) in certificates(path)?.into_iter().enumerate() {
            if !nature(path, &certificate)?.issues {
                let (path, number) = (path.clone(), at + 1);
                return Err(ClientsError::NoAuthority { path, number });
            }
            found.insert(certificate.to_vec());
        }
    }
    // Who is only passed through on the way to a root issues certificates for others as well: a
    // public authority's would let everybody in.
    if let Some(path) = &sources.chain {
        for certificate in certificates(path)? {
            let nature = nature(path, &certificate)?;
            if nature.issues && nature.signed_itself {
                found.insert(certificate.to_vec());
            }
        }
    }
    let folder = match &sources.folder {
        Some(folder) => Folder::read(folder, before)?,
        None => Folder::default(),
    };
    // What is in a folder beside authorities is nobody's business.
    for (path, certificate) in folder.certificates() {
        if nature(path, certificate)?.issues {
            found.insert(certificate.to_vec());
        }
    }
    if found.is_empty() {
        let places = sources.places();
        let places: Vec<_> = places
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let mut places = places.join(", ");
        if let Some(why) = folder.trouble() {
            places += &format!(" ({why})");
        }
        return Err(ClientsError::Nobody { places });
    }
    Ok((found, folder))
}

/// The files of a folder that may hold authorities: by their endings, or by names that
/// `openssl rehash` makes.
///
/// # Errors
/// It can't be listed.
pub(in crate::proxy::tls) fn listed(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for Entry { name, .. } in files::list(folder)? {
        if is_authoritys(&name) {
            found.insert(folder.join(name));
        }
    }
    Ok(found)
}

fn is_authoritys(name: &str) -> bool {
    let hashed = |(hash, number): (&str, &str)| {
        hash.len() == 8
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let ending = [".pem", ".crt", ".cer"]
        .iter()
        .any(|end| name.ends_with(end));
    !name.starts_with('.') && (ending || name.split_once('.').is_some_and(hashed))
}

/// What a certificate is to others.
pub(in crate::proxy::tls) struct Nature {
    /// It is an authority's.
    pub(in crate::proxy::tls) issues: bool,
    /// It says that it is.
    pub(in crate::proxy::tls) says_so: bool,
    signed_itself: bool,
}

/// # Errors
/// It is no certificate, or rustls can't go by it.
pub(in crate::proxy::tls) fn nature(
    path: &Path,
    certificate: &CertificateDer<'static>,
) -> Result<Nature, CertificateError> {
    let unusable = |why: String| CertificateError::Unusable {
        path: path.to_owned(),
        why,
    };
    let (_, read) = X509Certificate::from_der(certificate)
        .map_err(|error| unusable(format!("it is no certificate of X.509: {error}")))?;
    let constraints = read.basic_constraints();
    let constraints = constraints.map_err(|error| unusable(error.to_string()))?;
    let says_so = constraints.is_some_and(|constraints| constraints.value.ca);
    // Before version 3 there is no room for the word.
    let issues = says_so || read.version() != X509Version::V3;
    let tried = RootCertStore::empty().add(certificate.clone());
    tried.map_err(|error| unusable(error.to_string()))?;
    Ok(Nature {
        issues,
        says_so,
        signed_itself: read.subject() == read.issuer(),
    })
}
