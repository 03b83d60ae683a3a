//! What Pen itself answers, where no server does.

use http::StatusCode;
use pen_common::control::Refused;

use super::date;
use super::headers::{Given, put, write_given};

/// An answer of our own.
#[derive(Debug)]
pub(super) struct Words {
    pub(super) status: StatusCode,
    text: String,
    /// Why no server answered, in one word, for programs.
    reason: Option<&'static str>,
    /// Where else to ask; that does not change, so that browsers may remember it.
    location: Option<String>,
}

impl Words {
    /// The answer to a request that no server answers; with `told` it says why, for programs.
    pub(super) fn refusal(why: Refused, told: bool) -> Self {
        Self {
            reason: told.then(|| why.word()),
            ..Self::plain(status(why), why.text())
        }
    }

    /// A few words for people.
    pub(super) fn plain(status: StatusCode, why: &str) -> Self {
        Self {
            status,
            text: format!("{status}: {why}\n"),
            reason: None,
            location: None,
        }
    }

    /// Sends a client elsewhere.
    pub(super) fn elsewhere(status: StatusCode, why: &str, location: String) -> Self {
        Self {
            location: Some(location),
            ..Self::plain(status, why)
        }
    }

    /// Bytes of the body.
    pub(super) fn length(&self) -> usize {
        self.text.len()
    }

    /// As it is sent; who asks for the head alone gets no more.
    pub(super) fn written(&self, given: Given<'_>, head_alone: bool) -> Vec<u8> {
        let mut out = format!("HTTP/1.{} {}\r\n", given.minor, self.status).into_bytes();
        put(&mut out, "Content-Type", b"text/plain");
        match &self.location {
            Some(location) => put(&mut out, "Location", location.as_bytes()),
            None => put(&mut out, "Cache-Control", b"no-store"),
        }
        if let Some(reason) = self.reason {
            put(&mut out, "X-Pen-Reason", reason.as_bytes());
        }
        put(
            &mut out,
            "Content-Length",
            self.text.len().to_string().as_bytes(),
        );
        put(&mut out, "Date", &date::now());
        write_given(&mut out, given);
        out.extend_from_slice(b"\r\n");
        if !head_alone {
            out.extend_from_slice(self.text.as_bytes());
        }
        out
    }
}

/// Whose fault it is: the client's, the server's, or nobody's that could serve.
fn status(why: Refused) -> StatusCode {
    match why {
        Refused::BadRequest => StatusCode::BAD_REQUEST,
        Refused::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        Refused::AclDenied => StatusCode::FORBIDDEN,
        Refused::SlowHead | Refused::SlowBody => StatusCode::REQUEST_TIMEOUT,
        Refused::ConnectFailed | Refused::BadAnswer => StatusCode::BAD_GATEWAY,
        Refused::TooLate => StatusCode::GATEWAY_TIMEOUT,
        Refused::ClientConnections | Refused::ClientRate => StatusCode::TOO_MANY_REQUESTS,
        Refused::TooManyConnections
        | Refused::HostLacks
        | Refused::BadProxyHeader
        | Refused::BadHandshake
        | Refused::SlowHandshake
        | Refused::UnknownName
        | Refused::Dropped
        | Refused::ServerAcl
        | Refused::Blacklisted
        | Refused::ServerFull
        | Refused::NoWeight
        | Refused::Stubborn
        | Refused::NoServer
        | Refused::Ended => StatusCode::SERVICE_UNAVAILABLE,
    }
}
