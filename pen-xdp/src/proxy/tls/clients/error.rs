//! Why clients' certificates can't be checked.

use std::path::PathBuf;

use super::policy::LISTS_MAX;
use crate::proxy::tls::certificate::CertificateError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// A file can't be read, or is none of certificates.
    #[error(transparent)]
    File(#[from] CertificateError),
    /// Who has the certificate must not be taken for who may issue others.
    #[error(
        "certificate {number} in {} is no authority's (its basicConstraints don't say CA:TRUE): name \
         a file with those that issue clients' certificates by `client_ca`",
        path.display()
    )]
    NoAuthority {
        /// Which file.
        path: PathBuf,
        /// Which certificate in it, from 1.
        number: usize,
    },
    /// There is none at all.
    #[error(
        "no authority of clients' certificates is in {places}: name a file with some by `client_ca`, \
         or put them there (of `chain` (-G) those count that signed themselves, and none where \
         `client_ca` or `client_ca_path` (-A) is given)"
    )]
    Nobody {
        /// Where they could be, and why they are not if that is known.
        places: String,
    },
    /// There is no list in the file.
    #[error(
        "{} holds no list of revoked certificates: it must be PEM, with a block BEGIN X509 CRL",
        .0.display()
    )]
    NoRevocations(PathBuf),
    /// Lists that are no lists would take all memory.
    #[error(
        "{} is longer than {LISTS_MAX} bytes, the most that lists of revoked certificates may take: \
         leave out of `client_crl` what no authority of clients' certificates has issued",
        .0.display()
    )]
    TooLong(PathBuf),
    /// rustls does not take a list.
    #[error("{}: {why}", path.display())]
    Revocations {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}
