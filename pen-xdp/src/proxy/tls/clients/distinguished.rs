//! Names of subjects and issuers as text (RFC 4514), in characters that no header can be broken by:
//! printable ASCII and nothing else.

use std::fmt::Write;

use x509_parser::asn1_rs::{Any, Class, Tag, ToDer};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Types that have a short name: those of RFC 4514 section 3, and two that OpenSSL has as well.
const SHORT: &[(&str, &str)] = &[
    ("2.5.4.3", COMMON_NAME),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

const COMMON_NAME: &str = "CN";

/// A whole name, the last part first. `None` if it can't be written.
pub(super) fn text(name: &X509Name<'_>) -> Option<String> {
    let mut out = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (at, part) in parts.into_iter().rev().enumerate() {
        for (within, attribute) in part.iter().enumerate() {
            match (at, within) {
                (0, 0) => {}
                (_, 0) => out.push(','),
                (_, _) => out.push('+'),
            }
            put(&mut out, attribute)?;
        }
    }
    Some(out)
}

/// The last common name, which is the most specific, if it is text without control characters.
pub(super) fn common_name(name: &X509Name<'_>) -> Option<String> {
    let last = name.iter_common_name().last()?;
    let text = string(last.attr_value())?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then_some(text)
}

fn put(out: &mut String, attribute: &AttributeTypeAndValue<'_>) -> Option<()> {
    let kind = attribute.attr_type().to_id_string();
    let short = SHORT.iter().find(|(id, _)| *id == kind);
    let value = attribute.attr_value();
    let text = short.and_then(|(_, short)| Some((*short, string(value)?)));
    match text {
        Some((short, text)) => {
            out.push_str(short);
            out.push('=');
            escape(out, &text);
        }
        None => {
            out.push_str(short.map_or(kind.as_str(), |(_, short)| short));
            out.push_str("=#");
            for byte in value.to_der_vec_raw().ok()? {
                // Writing to memory does not fail.
                let _ = write!(out, "{byte:02X}");
            }
        }
    }
    Some(())
}

/// What a value says, of the kinds of text whose characters are known.
fn string(value: &Any<'_>) -> Option<String> {
    if value.class() != Class::Universal {
        return None;
    }
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            str::from_utf8(value.data).ok().map(str::to_owned)
        }
        Tag::BmpString => {
            let (pairs, rest) = value.data.as_chunks::<2>();
            let units: Vec<_> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
            let text = String::from_utf16(&units).ok();
            text.filter(|_| rest.is_empty())
        }
        _ => None,
    }
}

/// RFC 4514 section 2.4; what is no printable ASCII is written as two digits a byte.
fn escape(out: &mut String, text: &str) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            b'#' if at == 0 => out.push_str("\\#"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                // Writing to memory does not fail.
                let _ = write!(out, "\\{byte:02X}");
            }
        }
    }
}
