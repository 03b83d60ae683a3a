//! Why a service can't speak TLS to its servers.

use std::path::PathBuf;

use super::authorities::SYSTEM;
use crate::proxy::tls::certificate::CertificateError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum DemandsError {
    /// A file can't be read, or is none of certificates.
    #[error(transparent)]
    File(CertificateError),
    /// There is no key for what servers are shown.
    #[error(
        "{} holds no private key: it must be PEM, with a block BEGIN PRIVATE KEY; a key in a file \
         of its own is named by `server_key`",
        .0.display()
    )]
    NoKey(PathBuf),
    /// What servers are shown can't be read.
    #[error("{}: {why}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The system has no authorities, or elsewhere.
    #[error(
        "{SYSTEM}, the system's authorities, is not there: install ca-certificates, or name the \
         authorities of servers' certificates by `server_ca`"
    )]
    NoSystem,
    /// There is no certificate at all in a place, of which is said what is wrong with it.
    #[error(
        "no authority of servers' certificates is in {0}: put one there (PEM; in a folder NAME.pem or \
         NAME.crt), or name another place by `server_ca`"
    )]
    Nobody(String),
    /// rustls does not take what was put together.
    #[error("no TLS can be spoken to servers: {0}")]
    Unusable(#[from] rustls::Error),
}

impl From<CertificateError> for DemandsError {
    fn from(error: CertificateError) -> Self {
        if let CertificateError::NoKey(path) = error {
            return Self::NoKey(path);
        }
        Self::File(error)
    }
}
