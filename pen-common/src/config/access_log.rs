//! Where the access log of a service goes, and how its lines are written.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::words::words;

/// The word that stands for no log.
const OFF: &str = "off";

words! {
    /// How a line of the access log is written.
    LogFormat {
        /// As Pen: client, second, server, first line of what the client sent.
        Pen = "pen",
        /// NCSA's, with Pen's fields behind.
        Common = "common",
        /// As `common`, with Referer and User-Agent before Pen's fields.
        Combined = "combined",
        /// One JSON object a line, with everything.
        Json = "json",
    }
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// To the end of a file.
    File(PathBuf),
    /// To this address, each in a UDP datagram of its own; penlogd is such an address.
    Datagrams(SocketAddr),
}

impl LogTarget {
    /// Reads `/PATH`, `PATH` or `ADDRESS:PORT`; `None` is the word `off`. As in Pen a value with a
    /// colon is an address unless it begins with a slash.
    ///
    /// # Errors
    /// A sentence that says what may stand there.
    pub(crate) fn read(text: &str) -> Result<Option<Self>, String> {
        match text {
            OFF => return Ok(None),
            "" => return Err("is no file".to_owned()),
            _ if text.contains('\0') => return Err("is no file: no name holds a NUL".to_owned()),
            _ => {}
        }
        text.parse().map(Some)
    }
}

impl FromStr for LogTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') || !text.contains(':') {
            return Ok(Self::File(PathBuf::from(text)));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 && !address.ip().is_unspecified() => {
                Ok(Self::Datagrams(address))
            }
            Ok(_) => Err("is nowhere that a datagram could go to".to_owned()),
            Err(_) => Err(
                "is no ADDRESS:PORT (names are not looked up here); a file with a colon in its \
                 name begins with /"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Datagrams(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_an_address_unless_a_slash_comes_first() {
        for (text, expected) in [
            ("/var/log/a:80", LogTarget::File("/var/log/a:80".into())),
            ("pen.log", LogTarget::File("pen.log".into())),
            (
                "192.0.2.1:10000",
                LogTarget::Datagrams("192.0.2.1:10000".parse().unwrap()),
            ),
            (
                "[2001:db8::1]:9",
                LogTarget::Datagrams("[2001:db8::1]:9".parse().unwrap()),
            ),
        ] {
            let read = LogTarget::read(text).unwrap().unwrap();
            assert_eq!(read, expected);
            assert_eq!(read.to_string(), text);
        }
        assert_eq!(LogTarget::read("off"), Ok(None));
        for (text, why) in [
            ("", "no file"),
            ("a\0", "NUL"),
            ("loghost:514", "not looked up"),
            ("192.0.2.1:0", "nowhere"),
            ("0.0.0.0:9", "nowhere"),
        ] {
            let told = LogTarget::read(text).unwrap_err();
            assert!(told.contains(why), "{text:?}: {told}");
        }
    }
}
