//! Access lists: which addresses may pass.

use std::net::IpAddr;

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

impl Acl {
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
}

impl AclLine {
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
