//! Checks what a server shows of itself.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::authorities::Authorities;
use super::unfit::Unfit;
use crate::proxy::tls::facts::Facts;

/// See the module.
#[derive(Debug)]
pub(super) struct Verifier {
    /// Without any, whoever answers is believed.
    trust: Option<(Authorities, RootCertStore)>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// # Errors
    /// rustls does not take an authority.
    pub(super) fn new(
        authorities: Option<&Authorities>,
        provider: &CryptoProvider,
    ) -> Result<Self, Error> {
        let rooted = |all: &Authorities| Ok::<_, Error>((all.clone(), all.roots()?));
        Ok(Self {
            trust: authorities.map(rooted).transpose()?,
            algorithms: provider.signature_verification_algorithms,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.check(end_entity, intermediates, server_name, now);
        checked.map_err(|error| {
            let unfit = Unfit::of(end_entity, intermediates, &error);
            unfit.map_or(error, Error::from)
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Of a certificate that is anybody's a signature says nothing, and old ones that servers
        // signed themselves are not read by rustls at all.
        match self.trust {
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => verify_tls12_signature(message, cert, signed, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.trust {
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => verify_tls13_signature(message, cert, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl Verifier {
    /// # Errors
    /// Nobody who is believed vouches for the certificate, or not for this server, or not now.
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        server: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some((authorities, roots)) = &self.trust else {
            return Ok(());
        };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if authorities.names(end_entity) {
            is_valid(end_entity, now)?;
        } else {
            let all = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, others, now, all)?;
        }
        verify_server_name(&parsed, server)
    }
}

/// # Errors
/// It is not valid at this time.
fn is_valid(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let facts = Facts::of(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let second = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let at = |second: i64| UnixTime::since_unix_epoch(seconds(second));
    if second > facts.not_after {
        let (time, not_after) = (now, at(facts.not_after));
        return Err(CertificateError::ExpiredContext { time, not_after }.into());
    }
    if second < facts.not_before {
        let (time, not_before) = (now, at(facts.not_before));
        return Err(CertificateError::NotValidYetContext { time, not_before }.into());
    }
    Ok(())
}

/// What was before 1970 is as good as then.
fn seconds(second: i64) -> std::time::Duration {
    std::time::Duration::from_secs(u64::try_from(second).unwrap_or(0))
}
