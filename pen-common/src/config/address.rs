//! How addresses are written: `VIP[:port]` for listeners, `host:port:max:hard:weight:prio` for
//! back ends, IPv6 in brackets in both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Backend, Listener, Protocol};

/// A back end as written in Pen's positional form. Fields from the right may be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Address without brackets, or host name.
    pub host: String,
    /// 0 if absent.
    pub port: u16,
    /// Soft limit, 0 if absent.
    pub max: u32,
    /// Hard limit, 0 if absent.
    pub hard: u32,
    /// `None` if absent or 0: the fields go by position, so a 0 here mostly only fills the place
    /// before `prio`, and Pen counts it as 1. `server N weight 0` says that one means it.
    pub weight: Option<u16>,
    /// Priority, 0 if absent.
    pub prio: u32,
}

impl HostPort {
    /// Writes what was given over `backend`, whose name becomes the host as written.
    pub(crate) fn fill(self, backend: &mut Backend) {
        backend.name.clone_from(&self.host);
        backend.host = self.host;
        backend.port = self.port;
        backend.weight = self.weight.unwrap_or(1);
        backend.max = self.max;
        backend.hard = self.hard;
        backend.prio = self.prio;
    }
}

/// Parses `address[:port][/tcp|/udp]`; the port is 0 (all ports) if absent, the protocol
/// `protocol`.
///
/// # Errors
/// A sentence that names the text and how to write it.
pub fn parse_listener(text: &str, protocol: Protocol) -> Result<Listener, String> {
    if text.starts_with(['/', '.']) {
        let what = "is a path, and a Unix socket can't be a VIP: write ADDRESS:PORT";
        return Err(format!("{text:?} {what}"));
    }
    let (place, protocol) = match text.rsplit_once('/') {
        Some((place, word)) => (
            place,
            word.parse::<Protocol>()
                .map_err(|why| format!("VIP {text:?}: {why}"))?,
        ),
        None => (text, protocol),
    };
    let (host, rest) = split_host(place).map_err(|why| format!("VIP {text:?}: {why}"))?;
    if host.parse::<u16>().is_ok() && rest.is_none() {
        return Err(format!(
            "{text:?} is a port without an address: DSR needs the VIP itself, ADDRESS:{text}"
        ));
    }
    let address: IpAddr = host.parse().map_err(|_| {
        format!("VIP {text:?}: {host:?} is not an address (names are not looked up for VIPs)")
    })?;
    let port = match rest {
        None => 0,
        Some(port) => parse_port(port).map_err(|why| format!("VIP {text:?}: {why}"))?,
    };
    check_unicast(address).map_err(|why| format!("VIP {text:?}: {why}"))?;
    Ok(Listener {
        address,
        port,
        protocol,
    })
}

/// Parses `host[:port[:max[:hard[:weight[:prio]]]]]`, IPv6 in brackets.
///
/// # Errors
/// A sentence that names the text, the field and how to write it.
pub fn parse_server(text: &str) -> Result<HostPort, String> {
    let wrong = |why: String| format!("server {text:?}: {why}");
    if text.contains('/') {
        return Err(wrong(
            "a Unix socket can't be a back end in DSR: write its address".into(),
        ));
    }
    let (host, rest) = split_host(text).map_err(wrong)?;
    check_host(host).map_err(wrong)?;
    let mut fields = rest.map(|rest| rest.split(':')).into_iter().flatten();
    let mut server = HostPort {
        host: host.to_owned(),
        port: 0,
        max: 0,
        hard: 0,
        weight: None,
        prio: 0,
    };
    if let Some(field) = fields.next() {
        server.port = parse_port(field).map_err(wrong)?;
    }
    if let Some(field) = fields.next() {
        server.max = parse_number("max", field, 0..=u32::MAX).map_err(wrong)?;
    }
    if let Some(field) = fields.next() {
        server.hard = parse_number("hard", field, 0..=u32::MAX).map_err(wrong)?;
    }
    if let Some(field) = fields.next() {
        let weight = parse_number("weight", field, 0..=u16::MAX).map_err(wrong)?;
        server.weight = Some(weight).filter(|weight| *weight > 0);
    }
    if let Some(field) = fields.next() {
        server.prio = parse_number("prio", field, 0..=u32::MAX).map_err(wrong)?;
    }
    match fields.next() {
        None => Ok(server),
        Some(more) => Err(wrong(format!(
            "there is nothing after prio, but {more:?} follows: host:port:max:hard:weight:prio"
        ))),
    }
}

/// Whether `host` can be asked for: an address, or the letters of a host name (RFC 1123, and the
/// underscore that many zones use).
pub(crate) fn check_host(host: &str) -> Result<(), String> {
    if host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if host.len() > 253 || !host.chars().all(named) {
        return Err(format!("{host:?} is neither an address nor a host name"));
    }
    // "10.0.0.300" is a slip of the hand, not a name for the resolver to puzzle over.
    if host.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(format!(
            "{host:?} is not an address: four numbers up to 255 make one"
        ));
    }
    Ok(())
}

/// Whether clients or back ends can have this address.
pub(crate) fn check_unicast(address: IpAddr) -> Result<(), String> {
    let wrong = match address {
        IpAddr::V4(v4) => {
            v4 == Ipv4Addr::UNSPECIFIED
                || v4.is_loopback()
                || v4.is_multicast()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6 == Ipv6Addr::UNSPECIFIED
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some()
        }
    };
    match wrong {
        false => Ok(()),
        true => Err(format!(
            "{address} can't be reached through an interface: use a unicast address"
        )),
    }
}

/// Splits the host (brackets removed) from what follows its colon, if one does.
fn split_host(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (host, rest) = bracketed
            .split_once(']')
            .ok_or("the closing bracket is missing: [ADDRESS]:PORT")?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(format!("{host:?} is not an IPv6 address"));
        }
        return match rest.strip_prefix(':') {
            Some(rest) => Ok((host, Some(rest))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(format!("{rest:?} follows the bracket: [ADDRESS]:PORT")),
        };
    }
    let of_ipv6 = |c: char| c.is_ascii_hexdigit() || c == ':';
    if text.parse::<Ipv6Addr>().is_ok() || (text.contains("::") && text.chars().all(of_ipv6)) {
        return Err(format!(
            "an IPv6 address is written in brackets: [{text}], [{text}]:80"
        ));
    }
    Ok(match text.split_once(':') {
        Some((host, rest)) => (host, Some(rest)),
        None => (text, None),
    })
}

/// Parses a port; 0 is one.
pub(crate) fn parse_port(text: &str) -> Result<u16, String> {
    parse_number("port", text, 0..=u16::MAX)
}

/// Parses a decimal number within `range`; the error names `what`.
pub(crate) fn parse_number<T>(
    what: &str,
    text: &str,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, String>
where
    T: Copy + PartialOrd + TryFrom<u64> + std::fmt::Display,
{
    let (first, last) = (range.start(), range.end());
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "{what} = {text:?} is not a number ({first}..={last})"
        ));
    }
    text.parse::<u64>()
        .ok()
        .and_then(|number| T::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("{what} = {text} is out of range ({first}..={last})"))
}
