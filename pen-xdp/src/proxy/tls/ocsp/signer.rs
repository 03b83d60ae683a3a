//! Who signed an answer, and whether they may (RFC 6960 section 4.2.2.2).

use rustls::crypto::aws_lc_rs::default_provider;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::StapleError;
use super::basic::{Basic, Signed};
use super::der::{self, Reader, tag};

/// sha1WithRSAEncryption and ecdsa-with-SHA1.
const BY_SHA1: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01],
];

/// Believes an answer or refuses it; gives the last second in which who signed it may do so, or
/// `None` if that is the issuer itself. A delegate's own revocation is not looked into: there would
/// be no end to it, and most are marked as not to be asked for (id-pkix-ocsp-nocheck).
pub(super) fn believe(
    basic: &Basic<'_>,
    issuer: &X509Certificate<'_>,
    now: i64,
) -> Result<Option<i64>, StapleError> {
    let mut why = StapleError::NoSigner;
    if basic.responder.is(issuer) {
        match verify(&basic.signed, issuer) {
            Ok(()) => return Ok(None),
            Err(error) => why = error,
        }
    }
    for certificate in &basic.certificates {
        let Ok(([], delegate)) = X509Certificate::from_der(certificate) else {
            continue;
        };
        // An issuer that sends its own certificate along is no delegate.
        let own = delegate.public_key().raw == issuer.public_key().raw;
        if own || !basic.responder.is(&delegate) {
            continue;
        }
        let believed = verify(&basic.signed, &delegate)
            .and_then(|()| may_sign(certificate, &delegate, issuer))
            .and_then(|()| until(&delegate, now));
        match believed {
            Ok(until) => return Ok(Some(until)),
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn may_sign(
    certificate: &[u8],
    delegate: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
) -> Result<(), StapleError> {
    let signed = Signed::read(certificate).ok_or(StapleError::Malformed)?;
    if delegate.issuer().as_raw() != issuer.subject().as_raw() {
        return Err(StapleError::Stranger);
    }
    match verify(&signed, issuer) {
        Err(StapleError::Signature) => return Err(StapleError::Stranger),
        other => other?,
    }
    // Any other purpose, even "any", does not do.
    match delegate.extended_key_usage() {
        Ok(Some(usage)) if usage.value.ocsp_signing => Ok(()),
        _ => Err(StapleError::Purpose),
    }
}

fn until(delegate: &X509Certificate<'_>, now: i64) -> Result<i64, StapleError> {
    let validity = delegate.validity();
    let (from, until) = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    match (from..=until).contains(&now) {
        true => Ok(until),
        false => Err(StapleError::Delegate { from, until }),
    }
}

/// Whether the key of a certificate made a signature. What rustls takes of certificates is taken
/// here.
fn verify(signed: &Signed<'_>, by: &X509Certificate<'_>) -> Result<(), StapleError> {
    let kind = Reader::new(signed.algorithm).take(tag::OID);
    if kind.is_some_and(|kind| BY_SHA1.contains(&kind)) {
        return Err(StapleError::Sha1);
    }
    let (algorithm, key) = key(by).ok_or(StapleError::Signature)?;
    let mut known = false;
    for possible in default_provider().signature_verification_algorithms.all {
        if possible.signature_alg_id().as_ref() != signed.algorithm {
            continue;
        }
        known = true;
        if possible.public_key_alg_id().as_ref() == algorithm {
            let right = possible.verify_signature(key, signed.message, signed.signature);
            return right.map_err(|_| StapleError::Signature);
        }
    }
    Err(match known {
        true => StapleError::Signature,
        false => StapleError::Algorithm,
    })
}

/// What kind of key a certificate has, as the inside of an AlgorithmIdentifier, and the key.
fn key<'a>(of: &X509Certificate<'a>) -> Option<(&'a [u8], &'a [u8])> {
    let mut key = Reader::new(der::only(
        of.tbs_certificate.subject_pki.raw,
        tag::SEQUENCE,
    )?);
    let algorithm = key.take(tag::SEQUENCE)?;
    let bits = key.bits()?;
    key.end()?;
    Some((algorithm, bits))
}
