//! A value as somebody gave it, before it is known what it should be.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use super::address::parse_number;

/// A value from a file, where kinds are distinct, or from a command, where all is words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Given<'a> {
    /// A word of a command: text, number or switch, whatever is wanted.
    Word(&'a str),
    /// TOML string.
    Text(&'a str),
    /// TOML integer.
    Whole(i64),
    /// TOML boolean.
    Flag(bool),
}

impl Display for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(text) | Self::Text(text) => write!(f, "{text:?}"),
            Self::Whole(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

impl<'a> Given<'a> {
    /// The text, or a sentence that says that one is wanted for `key`.
    pub(crate) fn text(self, key: &str) -> Result<&'a str, String> {
        match self {
            Self::Word(text) | Self::Text(text) => Ok(text),
            Self::Whole(_) | Self::Flag(_) => {
                Err(format!("{key} = {self}: a text in quotes is wanted"))
            }
        }
    }

    /// A path; an empty one would be the current folder by accident.
    pub(crate) fn path(self, key: &str) -> Result<PathBuf, String> {
        let text = self.text(key)?;
        if text.is_empty() || text.contains('\0') {
            return Err(format!("{key} = {self} is not a path"));
        }
        Ok(PathBuf::from(text))
    }

    /// One of a few words.
    pub(crate) fn word<T: FromStr<Err = String>>(self, key: &str) -> Result<T, String> {
        self.text(key)?
            .parse()
            .map_err(|why| format!("{key} = {why}"))
    }

    /// A number within `range`.
    pub(crate) fn number<T>(self, key: &str, range: RangeInclusive<T>) -> Result<T, String>
    where
        T: Copy + PartialOrd + TryFrom<u64> + Display,
    {
        let (first, last) = (range.start(), range.end());
        match self {
            Self::Word(text) => parse_number(key, text, range),
            Self::Whole(number) => u64::try_from(number)
                .ok()
                .and_then(|number| T::try_from(number).ok())
                .filter(|number| range.contains(number))
                .ok_or_else(|| format!("{key} = {number} is out of range ({first}..={last})")),
            Self::Text(_) | Self::Flag(_) => Err(format!(
                "{key} = {self}: a number without quotes is wanted ({first}..={last})"
            )),
        }
    }

    /// A switch.
    pub(crate) fn flag(self, key: &str) -> Result<bool, String> {
        match self {
            Self::Flag(flag) => Ok(flag),
            Self::Word("true" | "on" | "yes") => Ok(true),
            Self::Word("false" | "off" | "no") => Ok(false),
            Self::Word(_) | Self::Text(_) | Self::Whole(_) => {
                Err(format!("{key} = {self} is neither true nor false"))
            }
        }
    }
}
