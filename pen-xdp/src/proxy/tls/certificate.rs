//! Reads a certificate with its chain and its key.

use std::io;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use zeroize::{Zeroize, Zeroizing};

use super::facts::public_key;
use super::private_key::{self, NoKey};
use super::unchecked::Unchecked;
use crate::files;

/// Longest file that is read, in bytes: some hundred certificates.
const FILE_MAX: u64 = 1 << 20;
/// What a block begins with (RFC 7468, section 2).
const BEGIN: &[u8] = b"-----BEGIN ";
/// And one with a certificate.
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Files that one certificate is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and what comes behind it in its file, which is its chain.
    pub certificate: PathBuf,
    /// The key; `None` if it is in the certificate's file.
    pub key: Option<PathBuf>,
    /// More of the chain.
    pub chain: Option<PathBuf>,
    /// An OCSP answer.
    pub staple: Option<PathBuf>,
}

impl Files {
    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Path> {
        let others = [&self.key, &self.chain, &self.staple];
        let others = others.into_iter().filter_map(Option::as_deref);
        std::iter::once(self.certificate.as_path()).chain(others)
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file can't be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// It is a folder, a FIFO or the like.
    #[error("{} is no regular file", .0.display())]
    NoFile(PathBuf),
    /// A file is no certificate's.
    #[error("{} is longer than {FILE_MAX} bytes: that is no file of certificates or keys", .0.display())]
    TooLong(PathBuf),
    /// There is no certificate in it.
    #[error("{} holds no certificate: it must be PEM, with a block BEGIN CERTIFICATE", .0.display())]
    NoCertificate(PathBuf),
    /// There is no key in it.
    #[error(
        "{} holds no private key: it must be PEM, with a block BEGIN PRIVATE KEY; a key in a file \
         of its own is named by `key` (-K)",
        .0.display()
    )]
    NoKey(PathBuf),
    /// Its key can be read by who knows a password, and nobody is there to ask.
    #[error(
        "the key in {path} is encrypted; write it out without a password: openssl pkey -in {path}",
        path = .0.display()
    )]
    Encrypted(PathBuf),
    /// There is none in a folder, and none for who asks for no name.
    #[error(
        "{} holds no certificate that can be used: put one there, for example NAME.crt with \
         NAME.key, or name one by `certificate` (-E)",
        .0.display()
    )]
    NothingServed(PathBuf),
    /// It is no PEM that can be read, or what is in it is nothing that can be used.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key is another certificate's.
    #[error(
        "the key in {} is not that of the first certificate in {}: name the two that belong together",
        key.display(),
        certificate.display()
    )]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

impl CertificateError {
    /// Whether it is that a file is not there.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Unreadable { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a certificate, its chain and its key.
///
/// # Errors
/// See [`CertificateError`].
pub fn load(files: &Files) -> Result<CertifiedKey, CertificateError> {
    load_by(files, Trust::None).map(|(read, _)| read)
}

/// The same, with a key that is to be checked soon if it can be.
///
/// # Errors
/// As there, as far as they are seen without.
pub(super) fn load_on_trust(files: &Files) -> Result<Loaded, CertificateError> {
    load_by(files, Trust::Key)
}

/// A certificate, and its key if that is still to be checked.
pub(super) type Loaded = (CertifiedKey, Option<Arc<Unchecked>>);

/// What need not be checked before a certificate is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    None,
    /// Whether its key is one.
    Key,
}

fn load_by(files: &Files, trust: Trust) -> Result<Loaded, CertificateError> {
    let other = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
    let certificate = read(&files.certificate)?;
    let (key, chain) = (other(&files.key)?, other(&files.chain)?);
    let contents = Contents {
        certificate: &certificate,
        key: key.as_ref().map(|bytes| bytes.as_slice()),
        chain: chain.as_ref().map(|bytes| bytes.as_slice()),
    };
    contents.parse(files, trust)
}

/// What is in the files of a certificate.
pub(super) struct Contents<'a> {
    pub(super) certificate: &'a [u8],
    pub(super) key: Option<&'a [u8]>,
    pub(super) chain: Option<&'a [u8]>,
}

impl Contents<'_> {
    /// The certificate in them; `files` are what errors name.
    ///
    /// # Errors
    /// See [`CertificateError`]; of the kernel's there is none.
    fn parse(&self, files: &Files, trust: Trust) -> Result<Loaded, CertificateError> {
        let certificate = &files.certificate;
        let mut certificates = certificates_in(certificate, self.certificate)?;
        if let (Some(path), Some(chain)) = (&files.chain, self.chain) {
            certificates.extend(certificates_in(path, chain)?);
        }
        let key = files.key.as_ref().unwrap_or(certificate);
        let private = private_key(key, self.key.unwrap_or(self.certificate))?;
        join((certificate, certificates), (key, private), trust)
    }
}

/// A certificate, the first of its chain, with its key, each with where it comes from.
fn join(
    (certificate, chain): (&Path, Vec<CertificateDer<'static>>),
    (key, mut private): (&Path, PrivateKeyDer<'static>),
    trust: Trust,
) -> Result<Loaded, CertificateError> {
    let unusable = |path: &Path, why| CertificateError::Unusable {
        path: path.to_owned(),
        why,
    };
    // Not by rustls, which reads no certificates of version 1: there are many that their owners
    // signed themselves, and clients that trust them.
    let public = public_key(chain.first().map_or(&[][..], |leaf| leaf));
    if trust == Trust::Key
        && let Ok(public) = public
    {
        private = match Unchecked::new(private, public) {
            Ok(one) => {
                let one = Arc::new(one);
                let signing = Arc::clone(&one) as Arc<dyn SigningKey>;
                return Ok((CertifiedKey::new(chain, signing), Some(one)));
            }
            Err(private) => private,
        };
    }
    let signing = any_supported_type(&private);
    // What signs has a copy of its own, which its library wipes.
    private.zeroize();
    let signing = signing.map_err(|error| unusable(key, error.to_string()))?;
    let public = public.map_err(|why| unusable(certificate, why))?;
    if signing.public_key().is_some_and(|own| *own != *public) {
        return Err(CertificateError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        });
    }
    Ok((CertifiedKey::new(chain, signing), None))
}

/// All certificates of a PEM file.
///
/// # Errors
/// It can't be read, or there is none in it.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    certificates_in(path, &read(path)?)
}

/// The same of what is in a file.
fn certificates_in(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let each = blocks(bytes).filter(|block| block.starts_with(CERTIFICATE));
    let each = each.flat_map(CertificateDer::pem_slice_iter);
    let found: Result<Vec<_>, _> = each.collect();
    let found = found.map_err(|error| CertificateError::Unusable {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    match found.is_empty() {
        true => Err(CertificateError::NoCertificate(path.to_owned())),
        false => Ok(found),
    }
}

/// The blocks of a PEM file, each with what comes before the next. Who reads certificates is not given
/// a key to decode, of which a copy would be left in memory.
fn blocks(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut lines = rest.split_inclusive(|byte| matches!(byte, b'\n' | b'\r'));
        let first = lines.next()?.len();
        let more: usize = lines
            .take_while(|line| !line.starts_with(BEGIN))
            .map(<[u8]>::len)
            .sum();
        let (block, behind) = rest.split_at(first + more);
        rest = behind;
        Some(block)
    })
}

/// The first key of what is in a file.
fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateError> {
    private_key::read(bytes).map_err(|why| match why {
        NoKey::Absent => CertificateError::NoKey(path.to_owned()),
        NoKey::Encrypted => CertificateError::Encrypted(path.to_owned()),
        NoKey::Broken => CertificateError::Unusable {
            path: path.to_owned(),
            why: "its private key is cut off, or no base64".to_owned(),
        },
    })
}

/// A file whole, wiped when it goes: there may be a key in it.
///
/// # Errors
/// It can't be read, or is too long.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    read_within(path, FILE_MAX)
}

/// The same for a file of up to `max` bytes.
pub(super) fn read_within(path: &Path, max: u64) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let unreadable = |error| CertificateError::Unreadable {
        path: path.to_owned(),
        error,
    };
    let file = files::open(path).map_err(unreadable)?;
    // Of a FIFO or a device nobody knows when it has an end.
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(CertificateError::NoFile(path.to_owned()));
    }
    // A buffer that grows leaves copies behind.
    let size = file.metadata().map_or(0, |data| data.len().min(max));
    let mut bytes = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    let read = file.take(max + 1).read_to_end(&mut bytes);
    if read.map_err(unreadable)? as u64 > max {
        return Err(CertificateError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_decoded_whatever_stands_around_them() {
        let block = |label: &str, base64: &str| {
            format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
        };
        // A decoder of keys would stumble over this one.
        let key = block("PRIVATE KEY", "*");
        let first = block("CERTIFICATE", "YWJj");
        let second = block("CERTIFICATE", "ZGVm");
        let text = format!("a word\n{key}{first}{key}words\n{second}{key}");
        for text in [
            text.clone(),
            text.replace('\n', "\r\n"),
            second.clone() + &second,
        ] {
            let found = certificates_in("x".as_ref(), text.as_bytes()).unwrap();
            let found: Vec<&[u8]> = found.iter().map(AsRef::as_ref).collect();
            assert_eq!(found.len(), 2);
            assert_eq!(found[1], b"def");
        }
        let cut = first.split_once("-----END").unwrap().0;
        for (text, why) in [
            (key, "x holds no certificate"),
            (block("CERTIFICATE", "*"), "x: "),
            (format!("{second}{cut}{second}"), "x: "),
        ] {
            let error = certificates_in("x".as_ref(), text.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with(why), "{error}");
        }
    }
}
