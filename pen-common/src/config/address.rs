//! How addresses are written: `VIP[:port]` for listeners, `host:port:max:hard:weight:prio` for
//! back ends, IPv6 in brackets in both; in proxy mode also `port` and `/path`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::{Backend, Listener, Protocol, Service};

/// Longest path of a Unix socket in bytes (Linux: 108 with its closing zero).
const SOCKET_PATH_MAX: usize = 107;

/// Why a UDP proxy refuses a path.
pub(crate) const NO_UNIX_DATAGRAMS: &str =
    "a UDP proxy has no Unix sockets: write ADDRESS:PORT, or use mode = \"tcp\"";

/// Names of ports that may stand for them (IANA): those that people balance.
const PORT_NAMES: &[(&str, u16)] = &[
    ("domain", 53),
    ("ftp", 21),
    ("http", 80),
    ("https", 443),
    ("imap", 143),
    ("imaps", 993),
    ("ldap", 389),
    ("ldaps", 636),
    ("mqtt", 1883),
    ("mysql", 3306),
    ("pop3", 110),
    ("pop3s", 995),
    ("postgresql", 5432),
    ("smtp", 25),
    ("ssh", 22),
    ("submission", 587),
];

/// Where a proxy listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAt {
    /// At a port.
    Port(Listener),
    /// At a Unix socket.
    Path(PathBuf),
}

impl ListenAt {
    /// Makes it one more of where `service` listens.
    pub(crate) fn join(self, service: &mut Service) {
        match self {
            Self::Port(listener) => service.listeners.push(listener),
            Self::Path(path) => service.proxy.paths.push(path),
        }
    }
}

/// A back end as written in Pen's positional form. Fields from the right may be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Address without brackets, host name, or path of a Unix socket.
    pub host: String,
    /// 0 if absent.
    pub port: u16,
    /// Soft limit, 0 if absent.
    pub max: u32,
    /// Hard limit, 0 if absent.
    pub hard: u32,
    /// `None` if absent or 0: the fields go by position, so a 0 here mostly only fills the place
    /// before `prio`, and Pen counts it as 1 in DSR. `server N weight 0` says that one means it.
    pub weight: Option<u16>,
    /// Priority, 0 if absent.
    pub prio: u32,
}

impl fmt::Display for HostPort {
    /// As it is written, with as few fields as say the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') && !self.host.contains('/') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        let weight = self.weight.unwrap_or(1);
        if (self.max, self.hard, weight, self.prio) != (0, 0, 1, 0) {
            let Self {
                port,
                max,
                hard,
                prio,
                ..
            } = self;
            return write!(f, ":{port}:{max}:{hard}:{weight}:{prio}");
        }
        match self.port {
            0 => Ok(()),
            port => write!(f, ":{port}"),
        }
    }
}

impl HostPort {
    /// How a back end is written.
    pub(crate) fn of(backend: &Backend) -> Self {
        Self {
            host: backend.host.clone(),
            port: backend.port,
            max: backend.max,
            hard: backend.hard,
            weight: Some(backend.weight).filter(|weight| *weight > 0),
            prio: backend.prio,
        }
    }

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

/// Parses where a proxy listens: `port` (on all addresses), `address:port` with IPv6 in brackets
/// or, as Pen took it, with the last colon before the port; or `/path` of a Unix socket. What is
/// written after the port (`/tcp`, `/udp`) must be the `protocol` of the proxy.
///
/// # Errors
/// A sentence that names the text and how to write it.
pub fn parse_place(text: &str, protocol: Protocol) -> Result<ListenAt, String> {
    let wrong = |why: String| format!("listen {text:?}: {why}");
    if text.starts_with(['/', '.']) {
        if protocol == Protocol::Udp {
            return Err(wrong(NO_UNIX_DATAGRAMS.to_owned()));
        }
        check_path(text).map_err(wrong)?;
        return Ok(ListenAt::Path(PathBuf::from(text)));
    }
    let (place, said) = match text.rsplit_once('/') {
        Some((place, word)) => (place, word.parse::<Protocol>().map_err(wrong)?),
        None => (text, protocol),
    };
    check_protocol(said, protocol).map_err(wrong)?;
    let (address, port) = split_place(place).map_err(wrong)?;
    if port == 0 {
        return Err(wrong(
            "a proxy listens at one port, and 0 is none".to_owned(),
        ));
    }
    check_bindable(address).map_err(wrong)?;
    Ok(ListenAt::Port(Listener {
        address,
        port,
        protocol,
    }))
}

/// Whether a proxy for `wanted` can listen for `said`.
pub(crate) fn check_protocol(said: Protocol, wanted: Protocol) -> Result<(), String> {
    match said == wanted {
        true => Ok(()),
        false => Err(format!(
            "/{said} takes a service of its own with mode = \"{said}\": this proxy is for {wanted}"
        )),
    }
}

/// Address and port of a listener; a port alone is on all addresses of both families.
fn split_place(place: &str) -> Result<(IpAddr, u16), String> {
    let is_port =
        |word: &str| word.bytes().all(|b| b.is_ascii_digit()) || named_port(word).is_some();
    let portless = || format!("the port is missing: {place}:80");
    if !place.is_empty() && is_port(place) {
        return Ok((Ipv6Addr::UNSPECIFIED.into(), parse_named_port(place)?));
    }
    let pens_ipv6 = place
        .rsplit_once(':')
        .filter(|_| !place.starts_with('['))
        .and_then(|(host, port)| Some((host.parse::<Ipv6Addr>().ok()?, port)));
    if let Some((address, port)) = pens_ipv6 {
        return Ok((address.into(), parse_named_port(port)?));
    }
    let (host, port) = split_host(place)?;
    let address = host
        .parse()
        .map_err(|_| format!("{host:?} is not an address (names are not looked up here)"))?;
    Ok((address, parse_named_port(port.ok_or_else(portless)?)?))
}

/// Parses `host[:port[:max[:hard[:weight[:prio]]]]]`, IPv6 in brackets; a host with a slash is the
/// path of a Unix socket.
///
/// # Errors
/// A sentence that names the text, the field and how to write it.
pub fn parse_server(text: &str) -> Result<HostPort, String> {
    let wrong = |why: String| format!("server {text:?}: {why}");
    let (host, rest) = split_host(text).map_err(wrong)?;
    match host.contains('/') {
        true => check_path(host).map_err(wrong)?,
        false => check_host(host).map_err(wrong)?,
    }
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
        server.port = parse_named_port(field).map_err(wrong)?;
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

/// Whether a proxy can listen at this address; the unspecified one stands for all.
pub(crate) fn check_bindable(address: IpAddr) -> Result<(), String> {
    match address.is_unspecified() {
        true => Ok(()),
        false => check_connectable(address),
    }
}

/// Whether a connection can go to, or come from, this address; this machine's own do.
pub(crate) fn check_connectable(address: IpAddr) -> Result<(), String> {
    if let IpAddr::V4(v4) = address.to_canonical()
        && address.is_ipv6()
    {
        return Err(format!("{address} is an IPv4 address: write {v4}"));
    }
    match address.is_loopback() {
        true => Ok(()),
        false => check_unicast(address)
            .map_err(|_| format!("{address} is no address of one machine: use a unicast address")),
    }
}

/// Whether a Unix socket can be there. The daemon changes its folder, so the path is a whole one.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!(
            "{path:?} is not the path of a Unix socket: it begins with a slash"
        ));
    }
    let strange = |c: char| c.is_control() || c.is_whitespace();
    if path.len() > SOCKET_PATH_MAX || path.ends_with('/') || path.contains(strange) {
        return Err(format!(
            "{path:?} can't be the path of a Unix socket (up to {SOCKET_PATH_MAX} bytes, no blanks)"
        ));
    }
    Ok(())
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
fn parse_port(text: &str) -> Result<u16, String> {
    parse_number("port", text, 0..=u16::MAX)
}

/// Parses a port or one of a few names for it.
pub(crate) fn parse_named_port(text: &str) -> Result<u16, String> {
    named_port(text).map_or_else(|| parse_port(text), Ok)
}

fn named_port(text: &str) -> Option<u16> {
    let named = PORT_NAMES.iter().find(|(name, _)| *name == text);
    named.map(|(_, port)| *port)
}

/// Parses a decimal number within `range`; the error names `what`.
pub(crate) fn parse_number<T>(
    what: &str,
    text: &str,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, String>
where
    T: Copy + PartialOrd + TryFrom<u64> + fmt::Display,
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
