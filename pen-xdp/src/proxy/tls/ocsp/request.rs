//! Whom an answer is about, and how it is asked for.

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::der::{self, Reader, tag};

/// 1.3.14.3.2.26.
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// 2.16.840.1.101.3.4.2.1.
const SHA2_256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

/// How OCSP names a certificate (RFC 6960 section 4.1.1).
#[derive(Debug)]
pub(super) struct CertId<'a> {
    algorithm: &'a [u8],
    name: &'a [u8],
    key: &'a [u8],
    serial: &'a [u8],
}

impl<'a> CertId<'a> {
    pub(super) fn read(mut id: Reader<'a>) -> Option<Self> {
        let mut algorithm = id.enter(tag::SEQUENCE)?;
        let read = Self {
            algorithm: algorithm.take(tag::OID)?,
            name: id.take(tag::OCTET_STRING)?,
            key: id.take(tag::OCTET_STRING)?,
            serial: id.take(tag::INTEGER)?,
        };
        algorithm.optional(tag::NULL)?;
        algorithm.end()?;
        id.end()?;
        Some(read)
    }

    /// Whether it is this certificate. Hashes of other kinds are nobody's: no responder uses them.
    pub(super) fn names(&self, leaf: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
        let algorithm = match self.algorithm {
            SHA1 => &SHA1_FOR_LEGACY_USE_ONLY,
            SHA2_256 => &SHA256,
            _ => return false,
        };
        self.serial == leaf.raw_serial()
            && self.name == hash(algorithm, leaf.issuer().as_raw())
            && self.key == key_hash(algorithm, issuer)
    }
}

/// The SHA-1 by which responders call themselves (RFC 6960 section 4.2.1); it guards nothing there.
pub(super) fn key_id(certificate: &X509Certificate<'_>) -> Vec<u8> {
    key_hash(&SHA1_FOR_LEGACY_USE_ONLY, certificate)
}

fn key_hash(algorithm: &'static Algorithm, certificate: &X509Certificate<'_>) -> Vec<u8> {
    hash(algorithm, &certificate.public_key().subject_public_key.data)
}

fn hash(algorithm: &'static Algorithm, bytes: &[u8]) -> Vec<u8> {
    digest(algorithm, bytes).as_ref().to_vec()
}

/// The request for what a responder knows of a certificate (RFC 6960 section 4.1); `chain` is the
/// certificate, then its issuer's. `None` if one of the two is missing or can't be read.
///
/// It is named by SHA-1, the one hash that every responder knows: nothing is trusted for it. There
/// is no nonce, as an answer is for many clients, and responders keep some ready (RFC 5019
/// section 2.1).
pub(in crate::proxy) fn request(chain: &[CertificateDer<'_>]) -> Option<Vec<u8>> {
    let [leaf, issuer, ..] = chain else {
        return None;
    };
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let (_, issuer) = X509Certificate::from_der(issuer).ok()?;
    let name = hash(&SHA1_FOR_LEGACY_USE_ONLY, leaf.issuer().as_raw());
    let algorithm = der::write(
        tag::SEQUENCE,
        &[
            &der::write(tag::OID, &[SHA1])?,
            &der::write(tag::NULL, &[])?,
        ],
    )?;
    let id = der::write(
        tag::SEQUENCE,
        &[
            &algorithm,
            &der::write(tag::OCTET_STRING, &[&name])?,
            &der::write(tag::OCTET_STRING, &[&key_id(&issuer)])?,
            &der::write(tag::INTEGER, &[leaf.raw_serial()])?,
        ],
    )?;
    // One request, in a list, in what could be signed, in what could have a signature.
    (0..4).try_fold(id, |inside, _| der::write(tag::SEQUENCE, &[&inside]))
}
