//! Version 2: sixteen bytes, addresses, and values with their type and length (TLVs).

use std::net::{IpAddr, SocketAddr};

use super::crc32c::Crc32c;
use super::{Addresses, Header, ParseError, Parsed, Tlv, tlv};

/// Longest header that is taken or made. The field for its length would allow 64 KiB, but a header
/// is meant to be one segment.
pub const HEADER_MAX: usize = 4096;
/// Longest value of [`tlv::UNIQUE_ID`].
pub const UNIQUE_ID_MAX: usize = 128;

pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length of the rest.
const FIXED: usize = 16;
/// Type and length of a TLV.
const TLV_FIXED: usize = 3;

const VERSION: u8 = 0x20;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A header of this version. Without addresses it is the proxy's own word (LOCAL): the one form
/// without them that no receiver may refuse. The checksum comes first, where no other length that
/// was spoilt on the way can hide it. `None` if it would be longer than [`HEADER_MAX`].
pub fn write_v2(header: &Header) -> Option<Vec<u8>> {
    let addresses = header.addresses.filter(|_| !header.local);
    let (command, family) = match addresses {
        Some(addresses) if addresses.source.is_ipv4() => (PROXY, TCP4),
        Some(_) => (PROXY, TCP6),
        None => (LOCAL, UNSPEC),
    };
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([VERSION | command, family, 0, 0]);
    if let Some(addresses) = addresses {
        put_addresses(&mut bytes, &addresses);
    }
    let checksum = bytes.len() + TLV_FIXED;
    if header.checksum {
        put_tlv(&mut bytes, tlv::CRC32C, &[0; 4])?;
    }
    for Tlv { kind, value } in &header.tlvs {
        put_tlv(&mut bytes, *kind, value)?;
    }
    if bytes.len() > HEADER_MAX {
        return None;
    }
    let rest = u16::try_from(bytes.len() - FIXED).ok()?;
    bytes[14..16].copy_from_slice(&rest.to_be_bytes());
    if header.checksum {
        let value = Crc32c::new().with(&bytes).value().to_be_bytes();
        bytes[checksum..checksum + value.len()].copy_from_slice(&value);
    }
    Some(bytes)
}

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    if let Some(version) = bytes.get(SIGNATURE.len())
        && ![VERSION | LOCAL, VERSION | PROXY].contains(version)
    {
        return Err(ParseError::BadVersion);
    }
    let Some((fixed, _)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Parsed::Partial { total: FIXED });
    };
    let [.., command, family, high, low] = *fixed;
    let total = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if total > HEADER_MAX {
        return Err(ParseError::TooLong);
    }
    let local = command == VERSION | LOCAL;
    let size = match address_size(family) {
        Some(size) => size,
        None if local => total - FIXED,
        None => return Err(ParseError::BadFamily),
    };
    if FIXED + size > total && !local {
        return Err(ParseError::BadLength);
    }
    let Some(whole) = bytes.get(..total) else {
        return Ok(Parsed::Partial { total });
    };
    let header = match local {
        true => parse_local(whole, size)?,
        false => {
            let (tlvs, checksum) = parse_tlvs(whole, FIXED + size)?;
            Header {
                local,
                addresses: parse_addresses(family, &whole[FIXED..FIXED + size]),
                checksum,
                tlvs,
            }
        }
    };
    let used = total;
    Ok(Parsed::Complete { used, header })
}

/// What a proxy says of itself is taken whatever follows the first sixteen bytes: it must be passed
/// over. Only a checksum that is there is held to.
fn parse_local(whole: &[u8], size: usize) -> Result<Header, ParseError> {
    let (tlvs, checksum) = match parse_tlvs(whole, FIXED + size) {
        Err(ParseError::BadChecksum) => return Err(ParseError::BadChecksum),
        Err(_) => (Vec::new(), false),
        Ok(found) => found,
    };
    Ok(Header {
        local: true,
        addresses: None,
        checksum,
        tlvs,
    })
}

/// Bytes that the addresses of a family take; `None` if there is no such family or transport. With
/// one of the two unspecified, addresses are not looked for.
fn address_size(family: u8) -> Option<usize> {
    match (family >> 4, family & 0xf) {
        (0, 0..=2) | (1..=3, 0) => Some(0),
        (1, 1 | 2) => Some(2 * (4 + 2)),
        (2, 1 | 2) => Some(2 * (16 + 2)),
        (3, 1 | 2) => Some(2 * 108),
        _ => None,
    }
}

/// Those of IP; the names of Unix sockets say nothing here.
fn parse_addresses(family: u8, bytes: &[u8]) -> Option<Addresses> {
    let (from, to, ports) = match (family >> 4, bytes.len()) {
        (1, 12) => {
            let (from, rest) = bytes.split_first_chunk::<4>()?;
            let (to, ports) = rest.split_first_chunk::<4>()?;
            (IpAddr::from(*from), IpAddr::from(*to), ports)
        }
        (2, 36) => {
            let (from, rest) = bytes.split_first_chunk::<16>()?;
            let (to, ports) = rest.split_first_chunk::<16>()?;
            (IpAddr::from(*from), IpAddr::from(*to), ports)
        }
        _ => return None,
    };
    let [a, b, c, d] = *ports.first_chunk()?;
    Addresses::new(
        SocketAddr::new(from, u16::from_be_bytes([a, b])),
        SocketAddr::new(to, u16::from_be_bytes([c, d])),
    )
}

/// The TLVs from `at` to the end, and whether there is a checksum, which is then right.
fn parse_tlvs(whole: &[u8], at: usize) -> Result<(Vec<Tlv>, bool), ParseError> {
    let mut rest = whole.get(at..).ok_or(ParseError::BadLength)?;
    let (mut tlvs, mut checksum) = (Vec::new(), false);
    while !rest.is_empty() {
        let fixed = rest.split_first_chunk::<TLV_FIXED>();
        let ([kind, high, low], values) = fixed.ok_or(ParseError::BadLength)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let value = values.get(..length).ok_or(ParseError::BadLength)?;
        match *kind {
            tlv::CRC32C => {
                let place = whole.len() - values.len();
                if checksum || !fits(whole, place, value)? {
                    return Err(ParseError::BadChecksum);
                }
                checksum = true;
            }
            tlv::UNIQUE_ID if length > UNIQUE_ID_MAX => return Err(ParseError::BadLength),
            kind => tlvs.push(Tlv {
                kind,
                value: value.to_vec(),
            }),
        }
        rest = &values[length..];
    }
    Ok((tlvs, checksum))
}

/// Whether this is the checksum of the whole header, with its own bytes at `place` as 0.
fn fits(whole: &[u8], place: usize, value: &[u8]) -> Result<bool, ParseError> {
    let value: [u8; 4] = value.try_into().map_err(|_| ParseError::BadLength)?;
    let crc = Crc32c::new().with(&whole[..place]).with(&[0; 4]);
    let crc = crc.with(&whole[place + value.len()..]);
    Ok(crc.value() == u32::from_be_bytes(value))
}

fn put_addresses(bytes: &mut Vec<u8>, addresses: &Addresses) {
    let (source, destination) = (addresses.source, addresses.destination);
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(v4) => bytes.extend(v4.octets()),
            IpAddr::V6(v6) => bytes.extend(v6.octets()),
        }
    }
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
}

fn put_tlv(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) -> Option<()> {
    bytes.push(kind);
    bytes.extend(u16::try_from(value.len()).ok()?.to_be_bytes());
    bytes.extend(value);
    Some(())
}
