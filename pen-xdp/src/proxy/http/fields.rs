//! Names of headers that mean something to a proxy.

/// What a header is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Connection,
    ContentLength,
    Date,
    Expect,
    Host,
    /// Strict-Transport-Security.
    Hsts,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    /// Meant for the next hop alone, and nothing to us.
    Hop,
    /// X-Forwarded-For.
    For,
    /// X-Forwarded-Proto.
    Proto,
    /// X-Forwarded-Host.
    ForwardedHost,
    /// Says where a request comes from in a way that we don't.
    Claim,
    /// Says who a client is by its certificate.
    Identity,
    /// Passes as it is.
    Other,
}

/// What begins the names of headers in which proxies say where a request comes from.
const CLAIMS: Beginning = *b"x-forwarded-";

/// What begins the names of headers in which servers are told who a client is by its certificate.
const IDENTITIES: Beginning = *b"x-ssl-client";

/// What a name begins with. Both are as long, so that each name is folded once.
type Beginning = [u8; 12];

/// Names that must not come behind a body: who reads them there might go by them (RFC 9110, 6.5.1).
const NOT_IN_TRAILERS: &[&str] = &[
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "max-forwards",
    "proxy-authorization",
    "set-cookie",
];

impl Field {
    /// Names are the same however they are written (RFC 9110, 5.1).
    pub(super) fn of(name: &str) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is("te") => Self::Te,
            4 if is("host") => Self::Host,
            4 if is("date") => Self::Date,
            6 if is("expect") => Self::Expect,
            7 if is("upgrade") => Self::Upgrade,
            7 if is("trailer") => Self::Trailer,
            9 if is("forwarded") => Self::Claim,
            10 if is("connection") => Self::Connection,
            10 if is("keep-alive") => Self::Hop,
            14 if is("content-length") => Self::ContentLength,
            14 if is("http2-settings") => Self::Hop,
            15 if is("x-forwarded-for") => Self::For,
            16 if is("x-forwarded-host") => Self::ForwardedHost,
            16 if is("proxy-connection") => Self::Hop,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            17 if is("x-forwarded-proto") => Self::Proto,
            25 if is("strict-transport-security") => Self::Hsts,
            _ => match beginning(name.as_bytes()) {
                Some(CLAIMS) => Self::Claim,
                Some(IDENTITIES) => Self::Identity,
                Some(_) | None => Self::Other,
            },
        }
    }

    /// Whether it may stand behind a body.
    pub(super) fn may_trail(self, name: &str) -> bool {
        match self {
            Self::Connection
            | Self::ContentLength
            | Self::Date
            | Self::Expect
            | Self::Host
            | Self::Hsts
            | Self::Te
            | Self::Trailer
            | Self::TransferEncoding
            | Self::Upgrade
            | Self::Hop
            | Self::Identity => false,
            Self::For | Self::Proto | Self::ForwardedHost | Self::Claim | Self::Other => {
                !(NOT_IN_TRAILERS.iter()).any(|other| name.eq_ignore_ascii_case(other))
            }
        }
    }

    /// Whether it says where a request comes from.
    pub(super) fn claims(self) -> bool {
        matches!(
            self,
            Self::For | Self::Proto | Self::ForwardedHost | Self::Claim | Self::Identity
        )
    }
}

/// Servers that hand headers on as variables of a program (CGI, RFC 3875, 4.1.18) make one sign of
/// `-` and `_`, and some of them of everything else that is no letter or digit.
fn beginning(name: &[u8]) -> Option<Beginning> {
    let begin: &Beginning = name.first_chunk()?;
    // Both begin with it and few other names do: what costs is not done for those.
    if !begin[0].eq_ignore_ascii_case(&b'x') {
        return None;
    }
    Some(begin.map(|byte| match byte.is_ascii_alphanumeric() {
        true => byte.to_ascii_lowercase(),
        false => b'-',
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_however_they_are_written() {
        for (name, field) in [
            ("CONNECTION", Field::Connection),
            ("Content-Length", Field::ContentLength),
            ("date", Field::Date),
            ("hOST", Field::Host),
            ("Strict-Transport-Security", Field::Hsts),
            ("Keep-Alive", Field::Hop),
            ("proxy-connection", Field::Hop),
            ("HTTP2-Settings", Field::Hop),
            ("X-Forwarded-For", Field::For),
            ("x-forwarded-proto", Field::Proto),
            ("X-FORWARDED-HOST", Field::ForwardedHost),
            ("Forwarded", Field::Claim),
            ("X-Forwarded-Port", Field::Claim),
            ("X_Forwarded_For", Field::Claim),
            ("x-forwarded_proto", Field::Claim),
            ("X.Forwarded.For", Field::Claim),
            ("X-Forwarded~Proto", Field::Claim),
            ("X!Forwarded!", Field::Claim),
            ("X-Forwarded-", Field::Claim),
            ("X-SSL-Client-Verify", Field::Identity),
            ("x_ssl_CLIENT_s-dn", Field::Identity),
            ("X.SSL.Client.S-DN", Field::Identity),
            ("X!SSL!Client!Verify", Field::Identity),
            ("x~ssl`CLIENT^verify", Field::Identity),
            ("X-SSL-Client", Field::Identity),
            ("X-SSL-0lient", Field::Other),
            ("X-SSL-Clien", Field::Other),
            ("x-forwarded", Field::Other),
            ("x-forwarder-for", Field::Other),
            ("Transfer-Encodinx", Field::Other),
            ("Cookie", Field::Other),
            ("", Field::Other),
        ] {
            assert_eq!(Field::of(name), field, "{name}");
        }
    }

    #[test]
    fn what_frames_or_permits_does_not_trail() {
        let trails = |name| Field::of(name).may_trail(name);
        for name in [
            "Content-Length",
            "transfer-encoding",
            "Host",
            "Authorization",
            "SET-COOKIE",
            "Trailer",
            "Connection",
        ] {
            assert!(!trails(name), "{name}");
        }
        assert!(trails("X-Sum") && trails("X-Forwarded-For"));
    }
}
