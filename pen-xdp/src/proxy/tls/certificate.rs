//! Reads a certificate with its chain and its key.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fs::File, io};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Longest file that is read, in bytes: some hundred certificates.
const FILE_MAX: u64 = 1 << 20;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file can't be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// A file is no certificate's.
    #[error("{} is longer than {FILE_MAX} bytes: that is no certificate", .0.display())]
    TooLong(PathBuf),
    /// There is no certificate in it.
    #[error("{} holds no certificate: it must be PEM, with a block BEGIN CERTIFICATE", .0.display())]
    NoCertificate(PathBuf),
    /// There is no key in it.
    #[error(
        "{} holds no private key: it must be PEM, with a block BEGIN PRIVATE KEY; a key in a file \
         of its own is named by `key` (-K)",
        .0.display()
    )]
    NoKey(PathBuf),
    /// Its key can be read by who knows a password, and nobody is there to ask.
    #[error(
        "the key in {path} is encrypted; write it out without a password: openssl pkey -in {path}",
        path = .0.display()
    )]
    Encrypted(PathBuf),
    /// It is no PEM that can be read, or what is in it is nothing that can be used.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key is another certificate's.
    #[error(
        "the key in {} is not that of the first certificate in {}: name the two that belong together",
        key.display(),
        certificate.display()
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// Reads a certificate and what comes behind it in its file, which is its chain; `chain` is a file
/// with more of that. Without a file of its own the key is in the certificate's.
///
/// # Errors
/// See [`CertificateError`].
pub fn load(
    certificate: &Path,
    key: Option<&Path>,
    chain: Option<&Path>,
) -> Result<CertifiedKey, CertificateError> {
    let mut certificates = certificates(certificate)?;
    if let Some(chain) = chain {
        certificates.extend(self::certificates(chain)?);
    }
    let key = key.unwrap_or(certificate);
    let private = private_key(key)?;
    let unusable = |path: &Path, error: rustls::Error| CertificateError::Unusable {
        path: path.to_owned(),
        why: error.to_string(),
    };
    let private = default_provider()
        .key_provider
        .load_private_key(private)
        .map_err(|error| unusable(key, error))?;
    let certified = CertifiedKey::new(certificates, private);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        }),
        Err(error) => Err(unusable(certificate, error)),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| CertificateError::Unusable {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    match found.is_empty() {
        true => Err(CertificateError::NoCertificate(path.to_owned())),
        false => Ok(found),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let encrypted = bytes.windows(9).any(|word| word == b"ENCRYPTED");
        match encrypted {
            true => CertificateError::Encrypted(path.to_owned()),
            false => CertificateError::NoKey(path.to_owned()),
        }
    })
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |error| CertificateError::Unreadable {
        path: path.to_owned(),
        error,
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let read = file.take(FILE_MAX + 1).read_to_end(&mut bytes);
    if read.map_err(unreadable)? as u64 > FILE_MAX {
        return Err(CertificateError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}
