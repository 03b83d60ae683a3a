//! What `status` shows of a service's certificates.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The certificates of a service that speaks TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificatesStatus {
    /// How many are served.
    pub served: usize,
    /// How many names they can be asked for by (SNI).
    pub names: usize,
    /// How many have a fresh OCSP answer stapled.
    pub stapled: usize,
    /// Handshakes that asked for a name which the folder does not have.
    pub unknown: u64,
    /// Handshakes that were refused, as their certificate asks to be stapled and had no staple.
    pub withheld: u64,
    /// How many are in trouble.
    pub in_trouble: usize,
    /// Those in trouble, then those that expire first; not all, if there are many.
    pub shown: Vec<CertificateStatus>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Its file; of a folder that can't be listed the folder.
    pub file: String,
    /// `ECDSA`, `RSA` or `other`; `None` if nothing of it is served.
    pub key: Option<String>,
    /// When it expires, in seconds since 1970.
    pub not_after: Option<i64>,
    /// Seconds until then; negative if it has expired.
    pub left_s: Option<i64>,
    /// Seconds until its staple has expired; `None` if it has none that is fresh.
    pub staple_left_s: Option<i64>,
    /// Who can be asked for a staple (OCSP); most certificates name nobody any more.
    pub responder: Option<String>,
    /// What is wrong with it.
    pub trouble: Option<String>,
}

/// A certificate that names who answers by OCSP whether it is good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OcspQuestion {
    /// File of the certificate.
    pub certificate: String,
    /// Whom to ask: a URL that begins with `http://`.
    pub responder: String,
    /// What to ask (RFC 6960 section 4.1), in DER; `None` if the issuer is not known, who has to be in
    /// the chain.
    pub request: Option<Vec<u8>>,
    /// Where an answer has to be, to be stapled; `None` if nobody has said so.
    pub file: Option<String>,
    /// Seconds until what is stapled now has expired; `None` if nothing is.
    pub staple_left_s: Option<i64>,
}

impl fmt::Display for OcspQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_deref().unwrap_or("-");
        let (certificate, responder) = (&self.certificate, &self.responder);
        write!(
            f,
            "{certificate} responder {responder} file {file} stapled "
        )?;
        match self.staple_left_s {
            Some(left) => write!(f, "{left} s"),
            None => f.write_str("no"),
        }
    }
}
