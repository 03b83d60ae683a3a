//! Where a service sends its clients that serves nothing itself.

use std::fmt;
use std::str::FromStr;

use super::address::parse_number;

/// Where HTTPS is if nothing is said.
const HTTPS: u16 = 443;
const SCHEME: &str = "https";

/// Every request is sent to the same host and target over HTTPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The port there, at least 1.
    pub port: u16,
}

impl Redirect {
    /// The port as it stands behind a host; `None` if that goes without saying.
    pub fn said_port(self) -> Option<u16> {
        (self.port != HTTPS).then_some(self.port)
    }
}

impl FromStr for Redirect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = match text.split_once(':') {
            None if text == SCHEME => HTTPS,
            Some((SCHEME, port)) => parse_number("port", port, 1..=u16::MAX)?,
            Some(_) | None => return Err(format!("{text:?} is neither https nor https:PORT")),
        };
        Ok(Self { port })
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        match self.said_port() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (text, port, written) in [
            ("https", 443, "https"),
            ("https:443", 443, "https"),
            ("https:8443", 8443, "https:8443"),
        ] {
            let redirect: Redirect = text.parse().unwrap();
            assert_eq!(
                (redirect.port, redirect.to_string()),
                (port, written.into())
            );
        }
        for text in [
            "",
            "http",
            "HTTPS",
            "https:",
            "https:0",
            "https:65536",
            "https:1:2",
            "https://a",
        ] {
            text.parse::<Redirect>().unwrap_err();
        }
    }
}
