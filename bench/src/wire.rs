//! A wire: a cable from the client straight to the load balancer, without a switch between them
//! that would cost more than what is loaded. Back ends are names there: permanent neighbours of
//! the load balancer, whose frames a [`Sink`](crate::Sink) at the client's end counts.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::address::Mac;
use crate::sink::PREFIX;
use crate::topology::Lab;

/// One wire; both its ends bear the same name.
#[derive(Debug, Clone, Copy)]
pub struct Wire;

impl Wire {
    /// Of both ends.
    pub const NAME: &'static str = "wire0";

    /// Plugs it; the load balancer knows back ends `0..backends`.
    ///
    /// # Errors
    /// It is plugged already.
    pub fn plug(lab: &Lab, backends: u8) -> Result<Self> {
        let (wire, name) = (Self, Self::NAME);
        let (client, balancer) = (lab.client(), lab.balancer());
        client.ip(&format!(
            "link add {name} address {} type veth peer name {name} netns {} address {}",
            wire.source_mac(),
            balancer.name(),
            wire.balancer_mac(),
        ))?;
        for end in [client, balancer] {
            // Otherwise the kernel sends frames of its own, which disturb counts.
            end.sysctl(&[&format!("net.ipv6.conf.{name}.disable_ipv6=1")])?;
            end.ip(&format!("link set {name} up"))?;
        }
        balancer.ip(&format!("addr add 10.100.255.1/16 dev {name}"))?;
        let neighbours = (0..backends).map(|index| {
            let (address, mac) = (wire.backend(index), wire.backend_mac(index));
            format!("neigh replace {address} lladdr {mac} dev {name} nud permanent")
        });
        balancer.ip_batch(&neighbours.collect::<Vec<_>>())?;
        Ok(wire)
    }

    /// Whom frames for the load balancer go to.
    pub fn balancer_mac(self) -> Mac {
        Mac([0x02, 0x77, 1, 0, 0, 0])
    }

    /// Whom frames come from; a sink counts answers to it.
    pub fn source_mac(self) -> Mac {
        Mac([PREFIX[0], PREFIX[1], 0, 0, 0, 0xff])
    }

    /// Address of back end `index`.
    pub fn backend(self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 100, 0, index + 1)
    }

    /// MAC address of back end `index`.
    pub fn backend_mac(self, index: u8) -> Mac {
        Mac([PREFIX[0], PREFIX[1], 1, 0, 0, index])
    }
}
