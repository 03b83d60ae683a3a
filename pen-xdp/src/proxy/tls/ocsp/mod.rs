//! OCSP answers: whether one may be stapled, and how to ask for one (RFC 6960).
//!
//! An answer comes from a file or over plain HTTP, so that anybody may have written it. It is
//! checked here as a client would do it: one that clients refuse keeps them away, where none at all
//! would do no harm.

#[cfg(test)]
pub(super) mod authority;
mod basic;
mod der;
mod error;
mod request;
mod signer;
#[cfg(test)]
mod tests;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use basic::{Basic, Status};
use der::{Reader, tag};
pub(in crate::proxy) use error::{Refusal, StapleError};
pub(in crate::proxy) use request::request;

/// Longest answer, in bytes. They are some hundred to some thousand, and each handshake sends one.
const ANSWER_MAX: usize = 64 << 10;
/// How much a responder's clock may be ahead of ours, in seconds.
const SKEW: i64 = 300;
/// How long an answer holds that does not say when there is a newer one, in seconds. One could be
/// had at any time (RFC 6960 section 4.2.2.1): a day is short enough for a revocation to be seen
/// soon, and long enough for a responder that failed at night to be mended.
const UNDATED: i64 = 24 * 60 * 60;
/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// An OCSP answer that may be stapled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::proxy) struct Staple {
    answer: Vec<u8>,
    until: i64,
}

impl Staple {
    /// Checks an answer in DER. `chain` is the certificate that it is for, then its issuer's; `now`
    /// is in seconds since 1970.
    ///
    /// # Errors
    /// It is not for this certificate, not good, not of now, or not by who may say so.
    pub(in crate::proxy) fn check(
        answer: Vec<u8>,
        chain: &[CertificateDer<'_>],
        now: i64,
    ) -> Result<Self, StapleError> {
        let basic = Basic::read(inside(&answer)?).ok_or(StapleError::Malformed)?;
        let [leaf, issuer] = match chain {
            [] | [_] => return Err(StapleError::NoIssuer),
            [leaf, issuer, ..] => [leaf, issuer],
        };
        let leaf = certificate(leaf)?;
        let issuer = certificate(issuer)?;
        if leaf.issuer().as_raw() != issuer.subject().as_raw() {
            return Err(StapleError::WrongIssuer);
        }
        let ours = basic.singles.iter();
        let mut ours = ours.filter(|single| single.id.names(&leaf, &issuer));
        let single = ours.next().ok_or(StapleError::Other)?;
        let more = ours.count();
        if more > 0 {
            return Err(StapleError::Ambiguous(more + 1));
        }
        // Nothing that it says is told before it is clear who says it.
        let may_sign = signer::believe(&basic, &issuer, now)?;
        if basic.critical || single.critical {
            return Err(StapleError::Critical);
        }
        match single.status {
            Status::Good => {}
            Status::Revoked(at) => return Err(StapleError::Revoked(at)),
            Status::Unknown => return Err(StapleError::Unknown),
        }
        if single.this_update > now.saturating_add(SKEW) {
            return Err(StapleError::NotYet(single.this_update));
        }
        let until = single
            .next_update
            .unwrap_or_else(|| single.this_update.saturating_add(UNDATED));
        // Clients would not take it any longer than they take its signer.
        let until = may_sign.map_or(until, |may_sign| until.min(may_sign));
        let staple = Self { answer, until };
        match staple.is_fresh(now) {
            true => Ok(staple),
            false => Err(StapleError::Expired(until)),
        }
    }

    /// Whether it may still be stapled.
    pub(in crate::proxy) fn is_fresh(&self, now: i64) -> bool {
        now < self.until
    }

    /// The second, since 1970, from which it must not be stapled any more.
    pub(in crate::proxy) fn until(&self) -> i64 {
        self.until
    }

    /// What is stapled, as it came.
    pub(in crate::proxy) fn answer(&self) -> &[u8] {
        &self.answer
    }
}

/// The basic answer in an answer.
fn inside(answer: &[u8]) -> Result<&[u8], StapleError> {
    match answer.len() {
        0 => return Err(StapleError::Empty),
        length if length > ANSWER_MAX => return Err(StapleError::TooLong(length)),
        _ => {}
    }
    let mut all = Reader::new(answer);
    let mut response = all.enter(tag::SEQUENCE).ok_or(StapleError::Malformed)?;
    match all.rest().len() {
        0 => {}
        more => return Err(StapleError::Trailing(more)),
    }
    match response.take(tag::ENUMERATED) {
        Some([0]) => {}
        Some([1]) => return Err(StapleError::Refused(Refusal::Malformed)),
        Some([2]) => return Err(StapleError::Refused(Refusal::Internal)),
        Some([3]) => return Err(StapleError::Refused(Refusal::TryLater)),
        Some([5]) => return Err(StapleError::Refused(Refusal::Unsigned)),
        Some([6]) => return Err(StapleError::Refused(Refusal::Unauthorized)),
        _ => return Err(StapleError::Malformed),
    }
    let (kind, content) = typed(response).ok_or(StapleError::Malformed)?;
    match kind == BASIC {
        true => Ok(content),
        false => Err(StapleError::NotBasic),
    }
}

/// ResponseBytes: a type, and an answer of that type.
fn typed(mut response: Reader<'_>) -> Option<(&[u8], &[u8])> {
    let mut bytes = Reader::new(der::only(response.take(tag::EXPLICIT)?, tag::SEQUENCE)?);
    response.end()?;
    let typed = (bytes.take(tag::OID)?, bytes.take(tag::OCTET_STRING)?);
    bytes.end()?;
    Some(typed)
}

fn certificate<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, StapleError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(StapleError::Chain),
    }
}
