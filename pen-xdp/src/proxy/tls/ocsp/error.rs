//! Why an OCSP answer is not stapled, in sentences for who has to mend it.

use x509_parser::prelude::ASN1Time;

use super::ANSWER_MAX;

/// Why an answer is not stapled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum StapleError {
    /// It is empty.
    #[error("the OCSP answer is empty; fetch it again")]
    Empty,
    /// It is longer than any.
    #[error("the OCSP answer has {0} bytes, more than the {ANSWER_MAX} that are allowed for one")]
    TooLong(usize),
    /// It is something else, or cut off.
    #[error(
        "it is no whole OCSP answer in DER (RFC 6960 section 4.2.1); fetch it again, and not as \
         text or PEM"
    )]
    Malformed,
    /// Something follows it.
    #[error("{0} bytes follow the OCSP answer; fetch it again")]
    Trailing(usize),
    /// The responder did not answer.
    #[error("the responder did not answer but said {0}; fetch it again later, or ask the issuer")]
    Refused(Refusal),
    /// It is of a type that nobody uses.
    #[error(
        "the OCSP answer is not of the basic type (id-pkix-ocsp-basic), the only one in \
         use; ask the issuer"
    )]
    NotBasic,
    /// Something in it must not be overlooked, and is not known.
    #[error("the OCSP answer has a critical extension, which is not known and may not be ignored")]
    Critical,
    /// Nobody is known who could have signed it.
    #[error(
        "the OCSP answer can't be checked without the certificate's issuer: add the issuer's \
         certificate to the certificate's file, or name a file with it by `chain` (-G)"
    )]
    NoIssuer,
    /// What comes second in the chain is not the first one's issuer.
    #[error(
        "the OCSP answer can't be checked: what follows the certificate is not its issuer's; put \
         the issuer's certificate first in `chain` (-G)"
    )]
    WrongIssuer,
    /// The certificate or its issuer's can't be read.
    #[error("the OCSP answer can't be checked: the certificate or its issuer's can't be read")]
    Chain,
    /// It is about others.
    #[error("the OCSP answer is not about this certificate; fetch the one for it")]
    Other,
    /// It is about this one more than once.
    #[error(
        "the OCSP answer speaks of this certificate {0} times; one that does so once is needed"
    )]
    Ambiguous(usize),
    /// Who is said to have signed it is not there.
    #[error(
        "the OCSP answer is signed neither by the certificate's issuer nor by one whose \
         certificate comes with it; ask the responder that the certificate names"
    )]
    NoSigner,
    /// SHA-1 can be forged.
    #[error(
        "the OCSP answer, or the certificate of who signed it, is signed with SHA-1, which is not \
         trusted any more; the responder has to use SHA-256"
    )]
    Sha1,
    /// Nobody here can check it.
    #[error(
        "the OCSP answer, or the certificate of who signed it, is signed in a way that is not \
         known here; RSA and ECDSA with SHA-256, SHA-384 or SHA-512 are"
    )]
    Algorithm,
    /// It has been changed, or somebody else signed it.
    #[error("the OCSP answer's signature is wrong; fetch it again")]
    Signature,
    /// Its signer is another issuer's delegate.
    #[error(
        "the OCSP answer is signed by one whose certificate is not of this certificate's issuer"
    )]
    Stranger,
    /// Its signer may sign other things.
    #[error(
        "the OCSP answer is signed by one whose certificate is not for that (extended key usage \
         OCSPSigning); ask the issuer"
    )]
    Purpose,
    /// Its signer may do so at another time.
    #[error(
        "the OCSP answer is signed by one whose certificate is valid from {} to {}; fetch a newer \
         one",
        date(*from),
        date(*until)
    )]
    Delegate {
        /// In seconds since 1970.
        from: i64,
        /// The last second.
        until: i64,
    },
    /// Nobody must use this certificate.
    #[error("the certificate was revoked on {}; get a new one", date(*.0))]
    Revoked(i64),
    /// The responder does not know it.
    #[error("the responder does not know the certificate; ask its issuer")]
    Unknown,
    /// It comes from the future.
    #[error("the OCSP answer holds from {} only; is the clock of this host right?", date(*.0))]
    NotYet(i64),
    /// There is a newer one.
    #[error("the OCSP answer held until {}; fetch a newer one", date(*.0))]
    Expired(i64),
}

impl StapleError {
    /// Whether it is what the issuer says of the certificate now: an older word counts no more.
    pub(in crate::proxy) fn is_verdict(&self) -> bool {
        matches!(self, Self::Revoked(_) | Self::Unknown)
    }
}

/// What a responder says instead of answering (RFC 6960 section 4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::proxy) enum Refusal {
    /// It does not understand the request.
    #[error("\"malformedRequest\"")]
    Malformed,
    /// Something is wrong with it.
    #[error("\"internalError\"")]
    Internal,
    /// It is busy.
    #[error("\"tryLater\"")]
    TryLater,
    /// It wants requests signed.
    #[error("\"sigRequired\"")]
    Unsigned,
    /// It does not answer us, or not for this issuer.
    #[error("\"unauthorized\"")]
    Unauthorized,
}

/// A time as mails have it; what no calendar has stays a number.
fn date(seconds: i64) -> String {
    let date = ASN1Time::from_timestamp(seconds).map_err(|_| ());
    let text = date.and_then(|date| date.to_rfc2822().map_err(|_| ()));
    text.unwrap_or_else(|()| format!("{seconds} (seconds since 1970)"))
}
