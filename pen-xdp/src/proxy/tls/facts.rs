//! What a certificate says of itself: whose it is, from when until when, and who is to be asked
//! about it.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};

use x509_parser::asn1_rs::{Oid, oid};
use x509_parser::extensions::{AccessDescription, GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_PKIX_ACCESS_DESCRIPTOR_OCSP,
    OID_PKIX_AUTHORITY_INFO_ACCESS,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// TLS features that a certificate wants of its server (RFC 7633 section 6).
const TLS_FEATURE: Oid<'static> = oid!(1.3.6.1.5.5.7.1.24);
/// The feature that wants an OCSP answer stapled: the number of the extension `status_request`
/// (RFC 6066 section 8).
const STATUS_REQUEST: u32 = 5;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Facts {
    /// Host names that it is for, in lower case; `*.` in front of one stands for any one label.
    pub(in crate::proxy) names: Vec<String>,
    /// Addresses that it is for. By these no client asks for it, and servers are known.
    pub(in crate::proxy) addresses: Vec<IpAddr>,
    /// The first second, since 1970, in which it is valid.
    pub(in crate::proxy) not_before: i64,
    /// The last one.
    pub(in crate::proxy) not_after: i64,
    /// Who answers by OCSP whether it is revoked: a URL that begins with `http://`.
    pub(in crate::proxy) responder: Option<String>,
    /// It is worth nothing to clients without a stapled OCSP answer.
    pub(in crate::proxy) must_staple: bool,
    /// What its key is.
    pub(in crate::proxy) key: KeyKind,
}

/// Kinds of keys, as clients tell them apart that can't use all of them; what is offered first is
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::proxy) enum KeyKind {
    /// On any curve.
    Ecdsa,
    /// Of any length.
    Rsa,
    /// Ed25519, and whatever comes.
    Other,
}

impl Facts {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// It is none, or what it says of names or features can't be read.
    pub(in crate::proxy) fn of(certificate: &[u8]) -> Result<Self, String> {
        let (rest, certificate) = X509Certificate::from_der(certificate)
            .map_err(|error| format!("it is no certificate of X.509: {error}"))?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the certificate", rest.len()));
        }
        let validity = certificate.validity();
        Ok(Self {
            names: names(&certificate)?,
            addresses: addresses(&certificate),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            responder: responder(&certificate),
            must_staple: must_staple(&certificate)?,
            key: kind(&certificate),
        })
    }
}

/// What checks signatures of a certificate's key, in DER (SubjectPublicKeyInfo, RFC 5280 section
/// 4.1.2.7).
///
/// # Errors
/// It is no certificate.
pub(super) fn public_key(certificate: &[u8]) -> Result<&[u8], String> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("it is no certificate of X.509: {error}"))?;
    Ok(certificate.tbs_certificate.subject_pki.raw)
}

/// Who uses subjectAltName at all has said there whose the certificate is: the common name counts
/// without one only (RFC 6125 section 6.4.4).
fn names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let alternative = certificate
        .subject_alternative_name()
        .map_err(|error| format!("its subjectAltName can't be read: {error}"))?;
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        let name = name.to_ascii_lowercase();
        if is_name(&name) && !names.contains(&name) {
            names.push(name);
        }
    };
    match alternative {
        Some(alternative) => {
            for name in &alternative.value.general_names {
                if let GeneralName::DNSName(name) = name {
                    add(name);
                }
            }
        }
        None => {
            // The last one is the most specific.
            let common = certificate.subject().iter_common_name().last();
            if let Some(Ok(name)) = common.map(|common| common.as_str()) {
                add(name);
            }
        }
    }
    Ok(names)
}

/// Of four or sixteen bytes (RFC 5280 section 4.2.1.6); what is longer has a mask, and is nobody's.
fn addresses(certificate: &X509Certificate<'_>) -> Vec<IpAddr> {
    let Ok(Some(alternative)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = alternative.value.general_names.iter();
    let address = |name: &GeneralName<'_>| {
        let GeneralName::IPAddress(bytes) = name else {
            return None;
        };
        let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
        v4.or(<[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
    };
    names.filter_map(address).collect()
}

/// Whether a client can ask for it: host names are ASCII, and addresses are none.
fn is_name(name: &str) -> bool {
    let bare = name.strip_prefix("*.").unwrap_or(name);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| matches!(label.len(), 1..=63) && label.bytes().all(fits);
    bare.len() <= 253 && bare.split('.').all(label) && bare.parse::<Ipv4Addr>().is_err()
}

/// What can't be read of it is no reason to go without the certificate: it is for asking only.
fn responder(certificate: &X509Certificate<'_>) -> Option<String> {
    let access = certificate.get_extension_unique(&OID_PKIX_AUTHORITY_INFO_ACCESS);
    let ParsedExtension::AuthorityInfoAccess(access) = access.ok()??.parsed_extension() else {
        return None;
    };
    access.iter().find_map(url)
}

fn url(access: &AccessDescription<'_>) -> Option<String> {
    let GeneralName::URI(url) = access.access_location else {
        return None;
    };
    let http = (url.get(..7)).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
    // It goes into a request's head.
    let whole = url.len() > 7 && url.bytes().all(|byte| byte.is_ascii_graphic());
    let ocsp = access.access_method == OID_PKIX_ACCESS_DESCRIPTOR_OCSP;
    (ocsp && http && whole).then(|| url.to_owned())
}

fn must_staple(certificate: &X509Certificate<'_>) -> Result<bool, String> {
    let feature = certificate
        .get_extension_unique(&TLS_FEATURE)
        .map_err(|error| format!("its TLS features can't be read: {error}"))?;
    let Some(feature) = feature else {
        return Ok(false);
    };
    match Vec::<u32>::from_der(feature.value) {
        Ok(([], features)) => Ok(features.contains(&STATUS_REQUEST)),
        _ => Err("its TLS features are no list of numbers (RFC 7633 section 4)".to_owned()),
    }
}

fn kind(certificate: &X509Certificate<'_>) -> KeyKind {
    let algorithm = &certificate.public_key().algorithm.algorithm;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        KeyKind::Ecdsa
    } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
        KeyKind::Rsa
    } else {
        KeyKind::Other
    }
}
