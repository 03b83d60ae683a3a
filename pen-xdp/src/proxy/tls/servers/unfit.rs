//! Why a certificate is not believed that servers mostly made themselves. Checking ends at such a
//! one with words for programmers, or none.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error, OtherError};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// See the module; what it says stands behind nothing, and names the mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// RFC 5280 section 4.2.1.9; whoever believes it as a server's would believe all that it signs.
    #[error(
        "its certificate is an authority's (CA:TRUE, as `openssl req -x509` makes them), which no \
         server's may be that is not named itself: name this very certificate by `server_ca`, \
         where it counts as an authority, too, or one made with basicConstraints=CA:FALSE"
    )]
    Authority,
    /// Nobody else vouches for it.
    #[error("it signed its certificate itself: name this very certificate by `server_ca`")]
    SignedItself,
    /// Who signed it may not.
    #[error(
        "its certificate is signed by one that is no authority's (CA:TRUE is not in its \
         basicConstraints): have it signed by an authority, or name this very certificate by \
         `server_ca`"
    )]
    SignedByNoAuthority,
    /// It has no extensions, so that no name is in it.
    #[error(
        "its certificate is of X.509 version 1, which is for no name and never believed: make one \
         of version 3 with subjectAltName"
    )]
    Old,
}

impl Unfit {
    /// What it is that a check of a server's certificate, and of those that came with it, ended with
    /// this `error` for; `None` if that says it itself.
    pub(super) fn of(
        end_entity: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        error: &Error,
    ) -> Option<Self> {
        let Error::InvalidCertificate(why) = error else {
            return None;
        };
        let (_, own) = X509Certificate::from_der(end_entity).ok()?;
        let strange = matches!(why, CertificateError::Other(_));
        if own.version() != X509Version::V3 {
            return Some(Self::Old);
        }
        if !strange && *why != CertificateError::UnknownIssuer {
            return None;
        }
        if issues(&own) {
            return Some(Self::Authority);
        }
        if own.subject() == own.issuer() {
            return Some(Self::SignedItself);
        }
        let mut signers = others.iter().filter_map(|other| {
            let (_, other) = X509Certificate::from_der(other).ok()?;
            (other.subject() == own.issuer()).then(|| issues(&other))
        });
        (strange && signers.any(|issues| !issues)).then_some(Self::SignedByNoAuthority)
    }
}

/// Whether it says that it is an authority's.
fn issues(certificate: &X509Certificate<'_>) -> bool {
    let constraints = certificate.basic_constraints().ok().flatten();
    constraints.is_some_and(|constraints| constraints.value.ca)
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Self {
        CertificateError::Other(OtherError(Arc::new(unfit))).into()
    }
}
