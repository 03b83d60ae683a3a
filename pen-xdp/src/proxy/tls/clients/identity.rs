//! Who a client is by its certificate, as servers are told.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::distinguished::{common_name, text};

/// Longest text that servers are told of a name, in bytes. Longer ones are left out: a part of one
/// may be another's.
const TEXT_MAX: usize = 1024;

/// What is known of a client over TLS.
#[derive(Debug)]
pub(in crate::proxy) enum Standing {
    /// It was not asked.
    Unasked,
    /// It was asked for a certificate, and has none.
    Anonymous,
    /// Its certificate was checked.
    Known(Box<Identity>),
}

/// What a certificate says of whose it is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Identity {
    /// In printable ASCII (RFC 4514); `None` if it is too long.
    pub(in crate::proxy) subject: Option<String>,
    /// As the subject.
    pub(in crate::proxy) issuer: Option<String>,
    /// The subject's common name, in any characters but those that control something.
    pub(in crate::proxy) common_name: Option<String>,
    /// In hexadecimal digits, as OpenSSL writes it.
    pub(in crate::proxy) serial: String,
    /// SHA-256 of the certificate in DER, in hexadecimal digits.
    pub(in crate::proxy) fingerprint: String,
    /// The seconds since 1970 in which the certificate is valid.
    valid: std::ops::RangeInclusive<i64>,
    /// It was shown in an earlier connection, which this one resumes.
    pub(in crate::proxy) resumed: bool,
}

impl Identity {
    /// Reads a certificate in DER that was checked.
    ///
    /// # Errors
    /// It can't be read.
    pub(in crate::proxy::tls) fn of(certificate: &[u8], resumed: bool) -> Result<Self, String> {
        let (_, read) = X509Certificate::from_der(certificate)
            .map_err(|error| format!("its certificate can't be read: {error}"))?;
        let bounded = |text: &String| text.len() <= TEXT_MAX;
        let validity = read.validity();
        Ok(Self {
            subject: text(read.subject()).filter(bounded),
            issuer: text(read.issuer()).filter(bounded),
            common_name: common_name(read.subject()).filter(bounded),
            serial: match read.raw_serial() {
                [0, rest @ ..] if !rest.is_empty() => hex(rest).to_uppercase(),
                serial => hex(serial).to_uppercase(),
            },
            fingerprint: hex(digest(&SHA256, certificate).as_ref()),
            valid: validity.not_before.timestamp()..=validity.not_after.timestamp(),
            resumed,
        })
    }

    /// Whether the certificate is valid at this second: of a session that is resumed nobody has
    /// looked.
    pub(in crate::proxy::tls) fn is_valid(&self, now: i64) -> bool {
        self.valid.contains(&now)
    }

    /// What servers are told in the heads of requests: names and values.
    pub(in crate::proxy) fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("X-SSL-Client-S-DN", self.subject.as_deref()),
            ("X-SSL-Client-I-DN", self.issuer.as_deref()),
            ("X-SSL-Client-Serial", Some(self.serial.as_str())),
            ("X-SSL-Client-SHA256", Some(self.fingerprint.as_str())),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to memory does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}
