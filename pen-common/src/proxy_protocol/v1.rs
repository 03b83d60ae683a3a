//! Version 1: one line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Addresses, Header, ParseError, Parsed};

/// Longest line, with its end.
pub const LINE_MAX: usize = 107;

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The shortest line there is.
const LINE_MIN: usize = b"PROXY UNKNOWN\r\n".len();

/// The line for a connection; of one that is not of IP, or whose ends aren't known, it says so.
pub fn write_v1(addresses: Option<&Addresses>) -> Vec<u8> {
    let Some(addresses) = addresses else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let (source, destination) = (addresses.source, addresses.destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let (from_port, to_port) = (source.port(), destination.port());
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ParseError> {
    let seen = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        let missing = if seen.ends_with(b"\r") { 1 } else { 2 };
        let total = LINE_MIN.max(seen.len() + missing);
        return match total <= LINE_MAX {
            true => Ok(Parsed::Partial { total }),
            false => Err(ParseError::TooLong),
        };
    };
    let line = seen[..end].strip_suffix(b"\r");
    let line = line.and_then(|line| std::str::from_utf8(line).ok());
    let addresses = parse_line(line.ok_or(ParseError::BadLine)?)?;
    let header = Header {
        addresses,
        ..Header::default()
    };
    let used = end + 1;
    Ok(Parsed::Complete { used, header })
}

/// Each blank parts two words, so that one too many makes an empty word, which is nothing.
fn parse_line(line: &str) -> Result<Option<Addresses>, ParseError> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        // What follows has no meaning, and may be anything.
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4", source, destination, from, to] => pair(
            parse_address::<Ipv4Addr>(source)?,
            parse_address::<Ipv4Addr>(destination)?,
            [from, to],
        ),
        ["PROXY", "TCP6", source, destination, from, to] => pair(
            parse_address::<Ipv6Addr>(source)?,
            parse_address::<Ipv6Addr>(destination)?,
            [from, to],
        ),
        ["PROXY", "TCP4" | "TCP6", ..] => Err(ParseError::BadLine),
        _ => Err(ParseError::BadFamily),
    }
}

fn pair(from: IpAddr, to: IpAddr, ports: [&str; 2]) -> Result<Option<Addresses>, ParseError> {
    let source = SocketAddr::new(from, parse_port(ports[0])?);
    let destination = SocketAddr::new(to, parse_port(ports[1])?);
    Ok(Addresses::new(source, destination))
}

fn parse_address<T: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, ParseError> {
    let address: T = text.parse().map_err(|_| ParseError::BadAddress)?;
    Ok(address.into())
}

/// In digits, without a sign or zeros in front.
fn parse_port(text: &str) -> Result<u16, ParseError> {
    let port: u16 = text.parse().map_err(|_| ParseError::BadAddress)?;
    match port.to_string() == text {
        true => Ok(port),
        false => Err(ParseError::BadAddress),
    }
}
