//! The PROXY protocol, versions 1 and 2: what a proxy says about its client before the client's own
//! bytes (HAProxy's `proxy-protocol.txt`). Bytes in, values out; no I/O.
//!
//! A header is taken only as a whole: of its beginning it is told how many bytes there must be at
//! least, so that a reader may look without taking anything away from what follows.

pub mod crc32c;
mod ssl;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};

use crate::config::words::words;

pub use ssl::{Ssl, SslCertificate};
pub use v1::{LINE_MAX, write_v1};
pub use v2::{HEADER_MAX, UNIQUE_ID_MAX, write_v2};

/// Types of TLVs that are known here.
pub mod tlv {
    /// The name that the client asked for, as TLS tells it (SNI).
    pub const AUTHORITY: u8 = 0x02;
    /// CRC32C of the whole header, in which its own four bytes count as 0.
    pub const CRC32C: u8 = 0x03;
    /// Filling without a meaning.
    pub const NOOP: u8 = 0x04;
    /// What a connection is called by all proxies that it passes.
    pub const UNIQUE_ID: u8 = 0x05;
    /// What a client's TLS is, and its certificate; see [`super::Ssl`].
    pub const SSL: u8 = 0x20;
}

/// What the first bytes of a stream are, unless they are wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Partial {
        /// Bytes that there must be at least, from the first on; more than there are, and at most
        /// [`HEADER_MAX`].
        total: usize,
    },
    /// A header, and perhaps something behind it.
    Complete {
        /// Bytes that it takes.
        used: usize,
        /// What it says.
        header: Header,
    },
}

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The proxy speaks for itself: a health check, say. The connection's own addresses count.
    pub local: bool,
    /// Who talks to whom. Without them the proxy doesn't know, or they are none of IP, and the
    /// connection's own addresses count.
    pub addresses: Option<Addresses>,
    /// Whether it carries a checksum, which was right. Version 2 only.
    pub checksum: bool,
    /// What else it says, without the checksum, in order. Version 2 only.
    pub tlvs: Vec<Tlv>,
}

/// Both ends of a connection, which are of the same family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    source: SocketAddr,
    destination: SocketAddr,
}

/// One more thing that a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlv {
    /// Its type; see [`tlv`].
    pub kind: u8,
    /// Its value.
    pub value: Vec<u8>,
}

words! {
    /// What is wrong with a header.
    ParseError {
        /// The first bytes are those of neither version.
        BadSignature = "bad-signature",
        /// A version other than 2 behind the signature of version 2, or an unknown command.
        BadVersion = "bad-version",
        /// No family of addresses or kind of transport that there is.
        BadFamily = "bad-family",
        /// A line with too few or too many words or blanks, or not ended as it should be.
        BadLine = "bad-line",
        /// Something is cut off, or as long as it can't be.
        BadLength = "bad-length",
        /// Not an address of the family, or not a port.
        BadAddress = "bad-address",
        /// The checksum doesn't fit, or there are two.
        BadChecksum = "bad-checksum",
        /// Longer than a header may be.
        TooLong = "too-long",
    }
}

/// Reads a header from the beginning of a stream.
///
/// # Errors
/// What is wrong with it; more bytes don't mend that.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    if begins(bytes, v1::SIGNATURE) {
        v1::parse(bytes)
    } else if begins(bytes, &v2::SIGNATURE) {
        v2::parse(bytes)
    } else {
        Err(ParseError::BadSignature)
    }
}

impl Addresses {
    /// Both ends; `None` if they are of two families. IPv4 in the clothes of IPv6 is IPv4, if both
    /// are.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Option<Self> {
        let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
        let (from, to) = match (from, to) {
            (IpAddr::V4(_), IpAddr::V4(_)) => (from, to),
            _ => (source.ip(), destination.ip()),
        };
        (from.is_ipv4() == to.is_ipv4()).then(|| Self {
            source: SocketAddr::new(from, source.port()),
            destination: SocketAddr::new(to, destination.port()),
        })
    }

    /// Who connected.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// Where to.
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }
}

/// Whether the bytes that are there are those of the signature, as far as both go.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(one, other)| one == other)
}
