//! Reads a private key from PEM (RFC 7468), and leaves nothing of it behind.
//!
//! Libraries that read PEM leave what they decoded in memory that they give back; for a key each
//! buffer here is wiped.

use data_encoding::{BASE64, Encoding};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// What a key can be written as.
#[derive(Clone, Copy)]
enum Form {
    /// RFC 5958.
    Pkcs8,
    /// RFC 8017, appendix A.1.2.
    Pkcs1,
    /// RFC 5915.
    Sec1,
}

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// Nothing is called one.
    Absent,
    /// Who wants to read it has to know a password.
    Encrypted,
    /// It is called one, and is cut off or no base64.
    Broken,
}

/// The first private key of a text.
///
/// # Errors
/// There is none that can be read.
pub(super) fn read(text: &[u8]) -> Result<PrivateKeyDer<'static>, NoKey> {
    let mut lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
    let form = loop {
        let line = lines.next().ok_or(NoKey::Absent)?.trim_ascii();
        match label(line, BEGIN) {
            Some(b"PRIVATE KEY") => break Form::Pkcs8,
            Some(b"RSA PRIVATE KEY") => break Form::Pkcs1,
            Some(b"EC PRIVATE KEY") => break Form::Sec1,
            Some(b"ENCRYPTED PRIVATE KEY") => return Err(NoKey::Encrypted),
            _ => {}
        }
    };
    let mut base64 = Zeroizing::new(Vec::with_capacity(text.len()));
    loop {
        let line = lines.next().ok_or(NoKey::Broken)?.trim_ascii();
        if label(line, END).is_some() {
            break;
        }
        // Of the form before PKCS #8 (RFC 1421, section 4.6.1.1).
        if line.starts_with(b"Proc-Type:") {
            return Err(NoKey::Encrypted);
        }
        base64.extend_from_slice(line);
    }
    let mut der = decode(&base64).ok_or(NoKey::Broken)?;
    // The key wipes what it is given, which is this buffer.
    let der = std::mem::take(&mut *der);
    Ok(match form {
        Form::Pkcs8 => PrivatePkcs8KeyDer::from(der).into(),
        Form::Pkcs1 => PrivatePkcs1KeyDer::from(der).into(),
        Form::Sec1 => PrivateSec1KeyDer::from(der).into(),
    })
}

/// What a line begins or ends.
fn label<'a>(line: &'a [u8], which: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(which)?.strip_suffix(DASHES)
}

fn decode(base64: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let encoding: Encoding = BASE64;
    let mut bytes = Zeroizing::new(vec![0; encoding.decode_len(base64.len()).ok()?]);
    let length = encoding.decode_mut(base64, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of this label that holds `abc`.
    fn block(label: &str) -> String {
        format!("-----BEGIN {label}-----\nYW\nJj\n-----END {label}-----\n")
    }

    #[test]
    fn the_first_key_is_read_in_every_form_and_whatever_is_around_it() {
        for (label, form) in [
            ("PRIVATE KEY", "Pkcs8"),
            ("RSA PRIVATE KEY", "Pkcs1"),
            ("EC PRIVATE KEY", "Sec1"),
        ] {
            let other = ["CERTIFICATE", "EC PARAMETERS", "PUBLIC KEY"].map(block);
            let more = block("PRIVATE KEY").replace("YW", "Yg");
            let text = format!("a word\n{}{}{more}", other.concat(), block(label));
            for text in [text.clone(), text.replace('\n', "\r\n"), text + "rest"] {
                let key = read(text.as_bytes()).unwrap();
                assert_eq!(key.secret_der(), b"abc");
                let kind = match key {
                    PrivateKeyDer::Pkcs8(_) => "Pkcs8",
                    PrivateKeyDer::Pkcs1(_) => "Pkcs1",
                    PrivateKeyDer::Sec1(_) => "Sec1",
                    _ => "?",
                };
                assert_eq!(kind, form);
            }
        }
    }

    #[test]
    fn what_is_no_key_is_told_apart() {
        let old =
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES,0\n\nYWJj\n";
        let whole = block("PRIVATE KEY");
        let cut = whole.split_once("-----END").unwrap().0.to_owned();
        for (text, why) in [
            (String::new(), NoKey::Absent),
            (block("CERTIFICATE"), NoKey::Absent),
            (block("ENCRYPTED PRIVATE KEY"), NoKey::Encrypted),
            (old.to_owned(), NoKey::Encrypted),
            (cut, NoKey::Broken),
            (whole.replace("YW", "Y*"), NoKey::Broken),
            (whole.replace("Jj", "J"), NoKey::Broken),
        ] {
            assert_eq!(read(text.as_bytes()).unwrap_err(), why, "{text}");
        }
    }
}
