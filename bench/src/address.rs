//! Who has which address in a lab: fixed, so that tests can name them and frames can be crafted
//! before the lab is up.
//!
//! Every interface's last address byte is also the last byte of its MAC, and `N` below:
//! `10.77.0.N`, `fd77::N` (hexadecimal, the same number) and `02:77:00:00:00:N`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context, Result};

/// How many back ends a lab can have.
pub const BACKENDS_MAX: usize = 80;
/// How many load balancers a lab can have.
pub const BALANCERS_MAX: usize = 2;
/// Prefix length of the segment in IPv4.
pub const PREFIX_V4: u8 = 24;
/// Prefix length of the segment in IPv6.
pub const PREFIX_V6: u8 = 64;

const CLIENT: u8 = 1;
const BALANCER_0: u8 = 2;
const BACKEND_0: u8 = 11;
const VIP_0: u8 = 100;

const _: () = assert!(BALANCER_0 as usize + BALANCERS_MAX <= BACKEND_0 as usize);
const _: () = assert!(BACKEND_0 as usize + BACKENDS_MAX <= VIP_0 as usize);

/// An Ethernet address; prints as `02:77:00:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = anyhow::Error;

    /// Reads the form that [`fmt::Display`] writes, the kernel's own.
    fn from_str(text: &str) -> Result<Self> {
        let bytes: Vec<u8> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16))
            .collect::<Result<_, _>>()
            .with_context(|| format!("{text:?} is no MAC like 02:77:00:00:00:01"))?;
        let bytes = bytes.try_into().ok();
        bytes
            .map(Self)
            .with_context(|| format!("{text:?} has not six bytes"))
    }
}

/// One station of the segment: both its addresses and its MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station(u8);

impl Station {
    /// The client.
    pub const fn client() -> Self {
        Self(CLIENT)
    }

    /// Load balancer `index` (0 or 1).
    pub const fn balancer(index: usize) -> Self {
        assert!(index < BALANCERS_MAX, "no such load balancer");
        Self(BALANCER_0 + index as u8)
    }

    /// Back end `index`, counted from 0.
    pub const fn backend(index: usize) -> Self {
        assert!(index < BACKENDS_MAX, "no such back end");
        Self(BACKEND_0 + index as u8)
    }

    /// VIP `index`, counted from 0. Its MAC belongs to nobody: the VIP answers with a load
    /// balancer's.
    pub const fn vip(index: usize) -> Self {
        assert!(index < (255 - VIP_0) as usize, "no such VIP");
        Self(VIP_0 + index as u8)
    }

    pub const fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.0)
    }

    pub const fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.0 as u16)
    }

    /// Both addresses, IPv4 first: what most tests loop over.
    pub const fn addresses(self) -> [IpAddr; 2] {
        [IpAddr::V4(self.v4()), IpAddr::V6(self.v6())]
    }

    /// The MAC of the station's `eth0`.
    pub const fn mac(self) -> Mac {
        Mac([0x02, 0x77, 0, 0, 0, self.0])
    }
}

/// `ADDRESS:PORT`, with brackets around IPv6.
pub fn host_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_station_has_one_number_in_all_its_addresses() {
        let station = Station::backend(2);
        assert_eq!(station.v4().to_string(), "10.77.0.13");
        assert_eq!(station.v6().to_string(), "fd77::d");
        assert_eq!(station.mac().to_string(), "02:77:00:00:00:0d");
        assert_eq!(
            host_port(Station::vip(0).addresses()[1], 80),
            "[fd77::64]:80"
        );
    }
}
