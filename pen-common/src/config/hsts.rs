//! What browsers are told of a host that is to be asked over HTTPS alone (RFC 6797).

use std::fmt;
use std::str::FromStr;

use super::address::parse_number;

/// What stands for no such word.
pub(super) const OFF: &str = "off";

const SUBDOMAINS: &str = "includeSubDomains";
const PRELOAD: &str = "preload";

/// The value of `Strict-Transport-Security`, as a command says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hsts {
    /// Seconds that it holds; 0 takes it back.
    pub max_age: u32,
    /// Whether it holds for the names below this one, too.
    pub subdomains: bool,
    /// Whether browsers may know it before they ever asked.
    pub preload: bool,
}

impl Hsts {
    /// As the header says it.
    pub fn header(self) -> String {
        let mut header = format!("max-age={}", self.max_age);
        for word in self.words() {
            header.push_str("; ");
            header.push_str(word);
        }
        header
    }

    /// Reads what [`Hsts`] is written as, or `off`.
    ///
    /// # Errors
    /// What is wrong with it, to stand behind the value.
    pub fn read(text: &str) -> Result<Option<Self>, String> {
        match text {
            OFF => Ok(None),
            text => text.parse().map(Some),
        }
    }

    fn words(self) -> impl Iterator<Item = &'static str> {
        let words = [(self.subdomains, SUBDOMAINS), (self.preload, PRELOAD)];
        words
            .into_iter()
            .filter_map(|(said, word)| said.then_some(word))
    }
}

impl FromStr for Hsts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_ascii_whitespace();
        let seconds = words.next().unwrap_or_default();
        let mut hsts = Self {
            max_age: parse_number("seconds", seconds, 0..=u32::MAX)?,
            subdomains: false,
            preload: false,
        };
        for word in words {
            if word.eq_ignore_ascii_case(SUBDOMAINS) {
                hsts.subdomains = true;
            } else if word.eq_ignore_ascii_case(PRELOAD) {
                hsts.preload = true;
            } else {
                let known = format!("{SUBDOMAINS} nor {PRELOAD}");
                return Err(format!("{word:?} is neither {known}"));
            }
        }
        Ok(hsts)
    }
}

impl fmt::Display for Hsts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.max_age)?;
        self.words().try_for_each(|word| write!(f, " {word}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_browsers_get() {
        for (text, written, header) in [
            ("63072000", "63072000", "max-age=63072000"),
            ("0", "0", "max-age=0"),
            (
                "1 preload  INCLUDESUBDOMAINS",
                "1 includeSubDomains preload",
                "max-age=1; includeSubDomains; preload",
            ),
        ] {
            let hsts: Hsts = text.parse().unwrap();
            assert_eq!(hsts.to_string(), written);
            assert_eq!(hsts.header(), header);
            assert_eq!(Hsts::read(written), Ok(Some(hsts)));
        }
        assert_eq!(Hsts::read("off"), Ok(None));
        for text in [
            "",
            "preload",
            "-1",
            "4294967296",
            "1 includesubdomain",
            "1y",
        ] {
            Hsts::read(text).unwrap_err();
        }
    }
}
