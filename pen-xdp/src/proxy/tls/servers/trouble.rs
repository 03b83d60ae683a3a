//! Why there is no TLS with a server, in words for who has to mend it.

use std::io;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error};
use x509_parser::time::ASN1Time;

use super::unfit::Unfit;

/// Names of a certificate that are told of.
const NAMES_MAX: usize = 4;

/// What an error of a handshake comes from; `authorities` is where they are.
pub(super) fn words(error: &io::Error, authorities: &str) -> String {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    match (of_tls, error.kind()) {
        (Some(error), _) => of(error, authorities),
        (None, io::ErrorKind::TimedOut) => "the handshake was not over in time".to_owned(),
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            "it ended the connection in the handshake".to_owned()
        }
        (None, _) => error.to_string(),
    }
}

fn of(error: &Error, authorities: &str) -> String {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "rustls has many errors, and may get others"
    )]
    match error {
        Error::InvalidCertificate(why) => of_certificate(why, authorities),
        Error::InvalidMessage(_) => "it speaks no TLS here".to_owned(),
        Error::AlertReceived(alert) => format!("it refused the handshake: alert {alert:?}"),
        Error::PeerIncompatible(why) => format!("it speaks no TLS that Pen does: {why:?}"),
        other => other.to_string(),
    }
}

fn of_certificate(why: &CertificateError, authorities: &str) -> String {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "rustls has many errors, and may get others"
    )]
    match why {
        CertificateError::Expired => "its certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired {}", day(*not_after))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid before {}", day(*not_before))
        }
        CertificateError::UnknownIssuer => {
            format!("its certificate is signed by nobody in {authorities}")
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            if presented.is_empty() {
                return format!(
                    "its certificate is not for {expected}: it has no names (subjectAltName)"
                );
            }
            let named = presented.iter().take(NAMES_MAX).map(|name| bare(name));
            let named = named.collect::<Vec<_>>().join(", ");
            let more = if presented.len() > NAMES_MAX {
                " and others"
            } else {
                ""
            };
            format!("its certificate is not for {expected}, but for {named}{more}")
        }
        CertificateError::BadSignature => {
            "a signature of its certificate's chain is wrong".to_owned()
        }
        CertificateError::Other(other) if let Some(unfit) = other.0.downcast_ref::<Unfit>() => {
            unfit.to_string()
        }
        other => format!("its certificate is not accepted: {other}"),
    }
}

/// rustls writes `DnsName("web.test")` and `IpAddress(192.0.2.1)`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, rest)| rest);
    inner.trim_end_matches(')').trim_matches('"')
}

fn day(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let date = ASN1Time::from_timestamp(time);
    date.map_or_else(
        |_| "long ago".to_owned(),
        |date| date.to_datetime().date().to_string(),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::pki_types::ServerName;
    use rustls::{AlertDescription, InvalidMessage, OtherError};

    use super::*;

    fn told(error: Error) -> String {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        words(&error, "/ca.pem")
    }

    #[test]
    fn what_is_wrong_is_said_with_what_would_mend_it() {
        let at = |second| UnixTime::since_unix_epoch(Duration::from_secs(second));
        let for_name = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("web.test").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let expired = CertificateError::ExpiredContext {
            time: at(1_900_000_000),
            not_after: at(1_767_312_000),
        };
        let other = r#"DnsName("other.test")"#;
        for (why, expected) in [
            (expired, "its certificate expired 2026-01-02"),
            (
                CertificateError::UnknownIssuer,
                "its certificate is signed by nobody in /ca.pem",
            ),
            (
                for_name(&[other]),
                "its certificate is not for web.test, but for other.test",
            ),
            (
                for_name(&[other, "IpAddress(::1)", other, other, other]),
                "its certificate is not for web.test, but for other.test, ::1, other.test, \
                 other.test and others",
            ),
            (
                CertificateError::Other(OtherError(Arc::new(Unfit::SignedItself))),
                "it signed its certificate itself: name this very certificate by `server_ca`",
            ),
            (
                for_name(&[]),
                "its certificate is not for web.test: it has no names (subjectAltName)",
            ),
        ] {
            assert_eq!(told(Error::InvalidCertificate(why)), expected);
        }
        let clear = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(told(clear), "it speaks no TLS here");
        let alert = Error::AlertReceived(AlertDescription::UnrecognisedName);
        assert_eq!(
            told(alert),
            "it refused the handshake: alert UnrecognisedName"
        );
        for (kind, expected) in [
            (
                io::ErrorKind::TimedOut,
                "the handshake was not over in time",
            ),
            (
                io::ErrorKind::UnexpectedEof,
                "it ended the connection in the handshake",
            ),
        ] {
            assert_eq!(words(&kind.into(), ""), expected);
        }
    }
}
