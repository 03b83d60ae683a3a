//! Keys of session tickets that machines share, from a file.
//!
//! The format is that of HAProxy's `tls-ticket-keys`, so that one file serves both: a key a line, in
//! base64, of 48 or 80 bytes. The first 16 are its name, the rest is secret. New keys are appended:
//! the last one is there to be known everywhere before it is used, the one before it encrypts, and
//! of older ones the one before that still decrypts. Unlike HAProxy we take fewer than three.

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use data_encoding::{BASE64, Encoding};
use zeroize::Zeroizing;

use super::certificate::{CertificateError, read};

/// What tells a key from others, in bytes.
pub(super) const NAME: usize = 16;
/// Bytes of a key with AES-128 in HAProxy, and with AES-256.
const LENGTHS: [usize; 2] = [48, 80];
/// Lines that count, from the end of the file.
const KEPT: usize = 3;
/// openssl breaks base64 after 48 bytes: a key of 80 leaves so many for the next line.
const WRAPPED: usize = 80 - 48;
/// Keeps what is made of a key here apart from what others make of it.
const SALT: &[u8] = b"pen ticket keys 1";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum TicketKeysError {
    /// The file can't be read.
    #[error(transparent)]
    Unreadable(CertificateError),
    /// A line is no base64.
    #[error(
        "{}, line {line}: this is no base64; write a key into one line of its own: openssl rand 80 | \
         openssl base64 -A",
        path.display()
    )]
    NotBase64 {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// A line is the rest of a key that openssl has broken.
    #[error(
        "{}, line {line}: this is the rest of a key that begins in line {}; join the two lines, and \
         write new keys by openssl rand 80 | openssl base64 -A",
        path.display(),
        line - 1
    )]
    Wrapped {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// A line is too short or too long.
    #[error(
        "{}, line {line}: a key has 48 or 80 bytes, and this has {length}; write one by openssl rand \
         80 | openssl base64 -A",
        path.display()
    )]
    Length {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// Bytes of what is there.
        length: usize,
    },
    /// A ticket would not say which of two keys it is of.
    #[error(
        "{}, line {line}: this key has the name, its first 16 bytes, of that in line {first}; leave \
         out one of them",
        path.display()
    )]
    Twice {
        /// Which file.
        path: PathBuf,
        /// The line of the second, from 1.
        line: usize,
        /// That of the first.
        first: usize,
    },
    /// There is no key in it.
    #[error(
        "{} holds no key; write one by openssl rand 80 | openssl base64 -A",
        .0.display()
    )]
    Empty(PathBuf),
}

/// One key.
pub(super) struct Key {
    name: [u8; NAME],
    /// What others are derived from; its library wipes it.
    secret: Prk,
}

impl Key {
    pub(super) fn name(&self) -> &[u8; NAME] {
        &self.name
    }

    pub(super) fn secret(&self) -> &Prk {
        &self.secret
    }
}

impl fmt::Debug for Key {
    /// Its name is in every ticket; nothing else is told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:x?})", self.name)
    }
}

/// Those of a file that count.
#[derive(Debug)]
pub(super) struct Keys {
    writing: Key,
    others: Vec<Key>,
}

impl Keys {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`TicketKeysError`].
    pub(super) fn read(path: &Path) -> Result<Self, TicketKeysError> {
        let bytes = read(path).map_err(TicketKeysError::Unreadable)?;
        Self::parse(path, &bytes)
    }

    /// That which encrypts.
    pub(super) fn writing(&self) -> &Key {
        &self.writing
    }

    /// The one of this name.
    pub(super) fn find(&self, name: &[u8]) -> Option<&Key> {
        let mut all = std::iter::once(&self.writing).chain(&self.others);
        all.find(|key| key.name == name)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, TicketKeysError> {
        let mut found: Vec<(usize, Key)> = Vec::new();
        let mut before = None;
        for (at, text) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let (text, line) = (text.trim_ascii(), at + 1);
            if text.is_empty() {
                continue;
            }
            let key = decode(path, line, text)?;
            let length = key.len();
            match key.split_first_chunk::<NAME>() {
                Some((name, secret)) if LENGTHS.contains(&length) => {
                    let secret = Salt::new(HKDF_SHA256, SALT).extract(secret);
                    let name = *name;
                    found.push((line, Key { name, secret }));
                }
                _ if length == WRAPPED && before == Some((at, LENGTHS[0])) => {
                    return Err(TicketKeysError::Wrapped {
                        path: path.to_owned(),
                        line,
                    });
                }
                _ => {
                    return Err(TicketKeysError::Length {
                        path: path.to_owned(),
                        line,
                        length,
                    });
                }
            }
            before = Some((line, length));
        }
        let kept = found.split_off(found.len().saturating_sub(KEPT));
        Self::of(path, kept)
    }

    /// `kept`: at most three, each with its line.
    fn of(path: &Path, mut kept: Vec<(usize, Key)>) -> Result<Self, TicketKeysError> {
        for (at, (line, key)) in kept.iter().enumerate() {
            let mut earlier = kept.iter().take(at);
            if let Some((first, _)) = earlier.find(|(_, other)| other.name == key.name) {
                return Err(TicketKeysError::Twice {
                    path: path.to_owned(),
                    line: *line,
                    first: *first,
                });
            }
        }
        if kept.is_empty() {
            return Err(TicketKeysError::Empty(path.to_owned()));
        }
        let (_, writing) = kept.remove(kept.len().saturating_sub(2));
        let others = kept.into_iter().map(|(_, key)| key).collect();
        Ok(Self { writing, others })
    }
}

/// # Errors
/// It is no base64.
fn decode(path: &Path, line: usize, text: &[u8]) -> Result<Zeroizing<Vec<u8>>, TicketKeysError> {
    let wrong = || TicketKeysError::NotBase64 {
        path: path.to_owned(),
        line,
    };
    let base64 = base64();
    let room = base64.decode_len(text.len()).map_err(|_| wrong())?;
    let mut bytes = Zeroizing::new(vec![0; room]);
    let length = base64.decode_mut(text, &mut bytes).map_err(|_| wrong())?;
    bytes.truncate(length);
    Ok(bytes)
}

/// As HAProxy reads it, which does not mind bits behind the last byte.
fn base64() -> Encoding {
    let mut lenient = BASE64.specification();
    lenient.check_trailing_bits = false;
    lenient.encoding().unwrap_or(BASE64)
}
