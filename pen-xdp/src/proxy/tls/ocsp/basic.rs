//! The basic OCSP answer, taken apart (RFC 6960 section 4.2.1). Nothing of it is believed yet.

use x509_parser::asn1_rs::GeneralizedTime;
use x509_parser::prelude::X509Certificate;

use super::der::{self, Reader, tag};
use super::request::{CertId, key_id};

/// Version 1, which is to be left out and is not by everybody.
const V1: &[u8] = &[0];

/// Bytes with a signature: an answer, or a certificate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed<'a> {
    /// What is signed.
    pub(super) message: &'a [u8],
    /// The inside of an AlgorithmIdentifier.
    pub(super) algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    rest: Reader<'a>,
}

impl<'a> Signed<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = Reader::new(der::only(bytes, tag::SEQUENCE)?);
        let message = rest.value().filter(|value| value.tag == tag::SEQUENCE)?;
        Some(Self {
            message: message.whole,
            algorithm: rest.take(tag::SEQUENCE)?,
            signature: rest.bits()?,
            rest,
        })
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Basic<'a> {
    pub(super) signed: Signed<'a>,
    pub(super) responder: Responder<'a>,
    pub(super) singles: Vec<Single<'a>>,
    /// Certificates that come with it, in DER.
    pub(super) certificates: Vec<&'a [u8]>,
    /// It has an extension that who does not know it must not overlook.
    pub(super) critical: bool,
}

/// Who says that it answers.
#[derive(Debug)]
pub(super) enum Responder<'a> {
    /// By the subject of its certificate.
    Name(&'a [u8]),
    /// By a hash of its key.
    Key(&'a [u8]),
}

/// What is said of one certificate.
#[derive(Debug)]
pub(super) struct Single<'a> {
    pub(super) id: CertId<'a>,
    pub(super) status: Status,
    /// Seconds since 1970, as all times here.
    pub(super) this_update: i64,
    pub(super) next_update: Option<i64>,
    pub(super) critical: bool,
}

/// What is said.
#[derive(Debug)]
pub(super) enum Status {
    Good,
    Revoked(i64),
    Unknown,
}

impl<'a> Basic<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let signed = Signed::read(bytes)?;
        let mut rest = signed.rest;
        let mut certificates = Vec::new();
        if let Some(list) = rest.optional(tag::EXPLICIT)? {
            let mut list = Reader::new(der::only(list, tag::SEQUENCE)?);
            while !list.rest().is_empty() {
                certificates.push(list.value()?.whole);
            }
        }
        rest.end()?;

        let mut data = Reader::new(der::only(signed.message, tag::SEQUENCE)?);
        if let Some(version) = data.optional(tag::EXPLICIT)? {
            (der::only(version, tag::INTEGER)? == V1).then_some(())?;
        }
        let responder = Responder::read(&mut data)?;
        time(data.take(tag::TIME)?)?;
        let mut list = data.enter(tag::SEQUENCE)?;
        let mut singles = Vec::new();
        while !list.rest().is_empty() {
            singles.push(Single::read(list.enter(tag::SEQUENCE)?)?);
        }
        let critical = critical(&mut data)?;
        data.end()?;
        Some(Self {
            signed,
            responder,
            singles,
            certificates,
            critical,
        })
    }
}

impl<'a> Responder<'a> {
    fn read(data: &mut Reader<'a>) -> Option<Self> {
        const NAME: u8 = tag::EXPLICIT | 1;
        const KEY: u8 = tag::EXPLICIT | 2;
        let value = data.value()?;
        match value.tag {
            NAME => Some(Self::Name(value.content)),
            KEY => der::only(value.content, tag::OCTET_STRING).map(Self::Key),
            _ => None,
        }
    }

    pub(super) fn is(&self, certificate: &X509Certificate<'_>) -> bool {
        match self {
            Self::Name(name) => *name == certificate.subject().as_raw(),
            Self::Key(key) => *key == key_id(certificate),
        }
    }
}

impl<'a> Single<'a> {
    fn read(mut single: Reader<'a>) -> Option<Self> {
        let id = CertId::read(single.enter(tag::SEQUENCE)?)?;
        let status = Status::read(&mut single)?;
        let this_update = time(single.take(tag::TIME)?)?;
        let next_update = match single.optional(tag::EXPLICIT)? {
            Some(next) => Some(time(der::only(next, tag::TIME)?)?),
            None => None,
        };
        let critical = critical(&mut single)?;
        single.end()?;
        Some(Self {
            id,
            status,
            this_update,
            next_update,
            critical,
        })
    }
}

impl Status {
    fn read(single: &mut Reader<'_>) -> Option<Self> {
        const GOOD: u8 = tag::CONTEXT;
        const REVOKED: u8 = tag::EXPLICIT | 1;
        const UNKNOWN: u8 = tag::CONTEXT | 2;
        let value = single.value()?;
        match (value.tag, value.content) {
            (GOOD, []) => Some(Self::Good),
            (UNKNOWN, []) => Some(Self::Unknown),
            (REVOKED, content) => {
                let mut info = Reader::new(content);
                let at = time(info.take(tag::TIME)?)?;
                info.optional(tag::EXPLICIT)?;
                info.end()?;
                Some(Self::Revoked(at))
            }
            _ => None,
        }
    }
}

/// Extensions, where there are some, and whether one of them is critical: none is known here.
fn critical(of: &mut Reader<'_>) -> Option<bool> {
    let Some(list) = of.optional(tag::EXPLICIT | 1)? else {
        return Some(false);
    };
    let mut list = Reader::new(der::only(list, tag::SEQUENCE)?);
    let mut critical = false;
    while !list.rest().is_empty() {
        let mut extension = list.enter(tag::SEQUENCE)?;
        extension.take(tag::OID)?;
        critical |= extension
            .optional(tag::BOOLEAN)?
            .is_some_and(|value| value != [0]);
        extension.take(tag::OCTET_STRING)?;
        extension.end()?;
    }
    Some(critical)
}

/// Seconds since 1970 of `YYYYMMDDHHMMSSZ`, the only form there is in DER for whole seconds.
fn time(text: &[u8]) -> Option<i64> {
    if text.len() != 15 || text.last() != Some(&b'Z') {
        return None;
    }
    let time = GeneralizedTime::from_bytes(text).ok()?;
    Some(time.utc_datetime().ok()?.unix_timestamp())
}
