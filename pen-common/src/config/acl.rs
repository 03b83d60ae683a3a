//! Access lists: which addresses may pass.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::parse_number;
use super::commands::shown;

/// Access lists that there are: Pen's numbers 0 to 9.
pub const ACLS_MAX: usize = 10;

/// An access list. The first line that matches decides; where none does, the opposite of the last
/// line; an empty list lets everyone pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acl {
    /// In order.
    pub lines: Vec<AclLine>,
}

/// Addresses, and whether they may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclLine {
    /// Whether they may pass.
    pub permit: bool,
    /// An address of the network; its bits beyond the prefix are 0.
    pub network: IpAddr,
    /// Leading bits that count.
    pub prefix: u8,
}

/// One change of an access list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AclChange {
    /// More lines at its end. One command can mean two: `all` is both families.
    Add(Vec<AclLine>),
    /// No lines any more: everyone passes.
    Clear,
}

impl Acl {
    /// Carries out a change.
    pub fn change(&mut self, change: &AclChange) {
        match change {
            AclChange::Add(lines) => self.lines.extend_from_slice(lines),
            AclChange::Clear => self.lines.clear(),
        }
    }

    /// Whether a client may pass.
    pub fn permits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let hit = self.lines.iter().find(|line| line.matches(client));
        match (hit, self.lines.last()) {
            (Some(line), _) => line.permit,
            (None, Some(last)) => !last.permit,
            (None, None) => true,
        }
    }

    /// Whether the tarpit that goes by this list takes an address: the first line that matches permits
    /// it. Who is not named is left alone, whatever the last line says.
    pub fn traps(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let hit = self.lines.iter().find(|line| line.matches(address));
        hit.is_some_and(|line| line.permit)
    }

    /// Whether a line says by name that this client may pass.
    pub fn names(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let mut lines = self.lines.iter();
        lines.any(|line| line.permit && line.matches(client))
    }
}

impl fmt::Display for AclLine {
    /// As it is written: `permit 10.0.0.0/8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.permit { "permit" } else { "deny" };
        write!(f, "{verb} {}/{}", self.network, self.prefix)
    }
}

/// Parses what follows the number in `acl N permit|deny ...`: `IP`, `IP MASK`, `IP/LEN` or `all`.
///
/// # Errors
/// A sentence that names the text and how to write it.
pub(crate) fn parse_acl_lines(words: &[&str]) -> Result<Vec<AclLine>, String> {
    let wrong = |why: String| format!("access list: {:?}: {why}", shown(&words.join(" ")));
    let usage = "write permit or deny, then IP, IP/LENGTH, IP MASK or all: permit 10.0.0.0/8";
    let (permit, who) = match words {
        ["permit", who @ ..] => (true, who),
        ["deny", who @ ..] => (false, who),
        _ => return Err(wrong(usage.to_owned())),
    };
    if let ["country", ..] = who {
        let why = "lists by country aren't there: Pen has no table of countries; write networks";
        return Err(wrong(why.to_owned()));
    }
    let lines = lines(permit, who).unwrap_or_else(|| Err(usage.to_owned()));
    lines.map_err(wrong)
}

/// Parses networks by themselves, each as a line that permits it.
///
/// # Errors
/// Why the text names none, and how to write it.
pub(crate) fn parse_networks(text: &str) -> Result<Vec<AclLine>, String> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    lines(true, &words)
        .unwrap_or_else(|| Err("write IP, IP/LENGTH, IP MASK or all: 10.0.0.0/8".to_owned()))
}

/// Lines about those who are named; `None` if these are not the words for anybody.
fn lines(permit: bool, who: &[&str]) -> Option<Result<Vec<AclLine>, String>> {
    let networks = match who {
        ["all"] => Ok(vec![
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        ]),
        [network] => parse_network(network).map(|network| vec![network]),
        [address, mask] => parse_masked(address, mask).map(|network| vec![network]),
        _ => return None,
    };
    Some(networks.map(|networks| {
        let networks = networks.into_iter();
        let lines = networks.map(|(network, prefix)| AclLine::new(permit, network, prefix));
        lines.collect()
    }))
}

fn parse_network(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("{:?} is not an address", shown(address)))?;
    let longest = longest_prefix(address);
    let prefix = match length {
        Some(length) => parse_number("the length", length, 0..=longest)?,
        None => longest,
    };
    Ok((address, prefix))
}

fn parse_masked(address: &str, mask: &str) -> Result<(IpAddr, u8), String> {
    let wrong = |text: &str| format!("{:?} is not an IPv4 address", shown(text));
    let address: Ipv4Addr = address.parse().map_err(|_| wrong(address))?;
    let bits = mask.parse::<Ipv4Addr>().map_err(|_| wrong(mask))?.to_bits();
    // Pen took any bits; a mask with holes was a slip each time somebody wrote one.
    match bits.leading_ones() + bits.trailing_zeros() {
        32.. => {
            let prefix = u8::try_from(bits.leading_ones()).expect("an address has 32 bits");
            Ok((IpAddr::V4(address), prefix))
        }
        _ => Err(format!("the mask {mask} has holes: ones, then zeros")),
    }
}

fn longest_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl AclLine {
    /// A line about the network that `address` is in.
    pub(crate) fn new(permit: bool, address: IpAddr, prefix: u8) -> Self {
        // IPv4 clients are seen as such, so a network of mapped addresses would match nobody.
        let (address, prefix) = match (address.to_canonical(), prefix.checked_sub(96)) {
            (IpAddr::V4(v4), Some(prefix)) if address.is_ipv6() => (IpAddr::V4(v4), prefix),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => (address, prefix),
        };
        // Pen compared with the bits beyond the mask as written, and such a line never matched.
        let network = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
        };
        Self {
            permit,
            network,
            prefix,
        }
    }

    /// A line that denies one address.
    pub(super) fn deny_one(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self::new(false, address, longest_prefix(address))
    }

    /// Whether it names a network as [`AclLine::new`] would write it.
    pub(crate) fn is_sound(&self) -> bool {
        self.prefix <= longest_prefix(self.network)
            && *self == Self::new(self.permit, self.network, self.prefix)
    }

    fn matches(&self, client: IpAddr) -> bool {
        match (self.network, client) {
            (IpAddr::V4(network), IpAddr::V4(client)) => {
                let unequal = network.to_bits() ^ client.to_bits();
                unequal.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(client)) => {
                let unequal = network.to_bits() ^ client.to_bits();
                unequal.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}
