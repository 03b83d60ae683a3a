//! VIPs that the kernel would answer for behind the packet socket's back.
//!
//! A packet socket takes nothing away: the kernel gets its own copy of every frame. As long as no
//! interface has the VIP, the kernel drops its copy; once one has it, the kernel answers clients of
//! services that it knows nothing of with resets. The program's planes have no such copy.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context, Result, bail};
use pen_common::{
    config::{Config, Plane},
    control::Degraded,
};

use crate::{gateways, netlink::Netlink, nic, ownership::Owned};

/// Looks at the addresses of this host, and at its gateways.
///
/// # Errors
/// VIPs that the kernel has too, each with the mend; gateways that the tarpit would answer for; or the
/// kernel does not list its addresses or routes.
pub(super) fn refuse(config: &Config) -> Result<()> {
    refuse_gateways(config, &gateways(config)?)?;
    if config.plane != Plane::AfPacket {
        return Ok(());
    }
    let owned = Netlink::open()
        .and_then(|mut netlink| Owned::read(&mut netlink))
        .context("this host's addresses can't be read")?;
    let conflicts = conflicts(config, &owned);
    if !conflicts.is_empty() {
        let whys: Vec<String> = conflicts
            .into_iter()
            .map(|Degraded { what, why }| format!("{what} {why}"))
            .collect();
        bail!("{}", whys.join("\n"));
    }
    Ok(())
}

/// Whom this host's routes lead on by, if it is of use to know.
///
/// # Errors
/// The kernel does not list its routes.
pub(super) fn gateways(config: &Config) -> Result<BTreeSet<IpAddr>> {
    match config.tarpit() {
        Some(_) => gateways::gateways().context("this host's routes can't be read"),
        None => Ok(BTreeSet::new()),
    }
}

fn refuse_gateways(config: &Config, gateways: &BTreeSet<IpAddr>) -> Result<()> {
    let Some(acl) = config.tarpit() else {
        return Ok(());
    };
    let number = config.tarpit_acl.unwrap_or_default();
    match gateways.iter().find(|gateway| acl.traps(**gateway)) {
        None => Ok(()),
        Some(gateway) => bail!(
            "the tarpit would answer for {gateway}, by which this host's routes lead: list {number} \
             permits it; mend: acl {number} deny {gateway}, before the line that permits it"
        ),
    }
}

/// VIPs that the kernel answers for as well, at this moment.
pub(super) fn conflicts(config: &Config, owned: &Owned) -> Vec<Degraded> {
    if config.plane != Plane::AfPacket {
        return Vec::new();
    }
    let listeners = config.dsr_services().flat_map(|service| &service.listeners);
    let vips: BTreeSet<IpAddr> = listeners.map(|listener| listener.address).collect();
    vips.into_iter()
        .filter_map(|vip| {
            let (ifindex, prefix) = owned.place(vip)?;
            let name = nic::name(ifindex).unwrap_or_else(|| format!("interface {ifindex}"));
            Some(Degraded {
                what: format!("VIP {vip}"),
                why: format!(
                    "is an address of {name}: with plane = af_packet the kernel gets every frame \
                     too and answers clients with resets; mend: ip addr del {vip}/{prefix} dev \
                     {name}, or plane = xdp"
                ),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use pen_common::config::{Listener, Protocol, Service};
    use rtnetlink::packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
    };

    use super::*;

    fn config(plane: Plane) -> Config {
        let mut service = Service::new("web");
        for address in ["192.0.2.1", "192.0.2.2"] {
            service.listeners.extend([80, 443].map(|port| Listener {
                address: address.parse().unwrap(),
                port,
                protocol: Protocol::Tcp,
            }));
        }
        Config {
            plane,
            services: vec![service],
            ..Config::default()
        }
    }

    fn owned() -> Owned {
        let mut message = AddressMessage::default();
        // Loopback: the one interface that every namespace has, by this number.
        message.header.index = 1;
        message.header.prefix_len = 32;
        let address = "192.0.2.2".parse().unwrap();
        message.attributes.push(AddressAttribute::Local(address));
        let mut owned = Owned::default();
        owned.learn(&RouteNetlinkMessage::NewAddress(message));
        owned
    }

    #[test]
    fn a_vip_of_the_kernels_is_named_once_with_interface_and_mend() {
        let found = conflicts(&config(Plane::AfPacket), &owned());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, "VIP 192.0.2.2");
        assert!(
            found[0].why.contains("ip addr del 192.0.2.2/32 dev lo"),
            "{}",
            found[0].why
        );
        assert!(conflicts(&config(Plane::AfPacket), &Owned::default()).is_empty());
    }

    #[test]
    fn where_a_program_takes_the_frames_the_kernel_may_have_the_address() {
        for plane in [Plane::Auto, Plane::AfXdp, Plane::Xdp] {
            assert!(conflicts(&config(plane), &owned()).is_empty(), "{plane}");
        }
    }
}
