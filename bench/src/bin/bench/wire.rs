//! Wires: a veth pair from the client straight to the load balancer for each forwarder, without a
//! switch that would cost more than what is measured. All forwarders are there at the same time,
//! and only the one whose wire is offered frames works.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use lab::{Lab, Mac};

use crate::traffic::BACKEND_MAC;

/// One wire; its two ends bear the same name.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    name: String,
    number: u8,
}

impl Wire {
    /// Plugs wire `number`, whose back ends `0..backends` are permanent neighbours of the load
    /// balancer.
    pub(crate) fn plug(lab: &Lab, number: u8, backends: usize) -> Result<Self> {
        let wire = Self {
            name: format!("wire{number}"),
            number,
        };
        let (client, balancer) = (lab.client(), lab.balancer());
        let name = &wire.name;
        client.ip(&format!(
            "link add {name} address {} type veth peer name {name} netns {} address {}",
            Self::client_mac(),
            balancer.name(),
            wire.balancer_mac(),
        ))?;
        client.ip(&format!("link set {name} up"))?;
        balancer.ip(&format!("link set {name} up"))?;
        balancer.ip(&format!("addr add {}/16 dev {name}", wire.address(0, 2)))?;
        let mut neighbours = String::new();
        for index in 0..backends {
            let (address, mac) = (wire.backend(index), Self::backend_mac(index));
            writeln!(
                neighbours,
                "neigh replace {address} lladdr {mac} dev {name} nud permanent"
            )?;
        }
        let file = balancer.folder().join(format!("{name}-neighbours"));
        fs::write(&file, neighbours).context("writing the list of neighbours")?;
        balancer.run_ok("ip", ["-batch".as_ref(), file.as_os_str()])?;
        Ok(wire)
    }

    /// Makes the first `count` back ends real, all at the client's end, for a forwarder that asks
    /// by ARP itself.
    pub(crate) fn answer_for_backends(&self, lab: &Lab, count: usize) -> Result<()> {
        for index in 0..count {
            let (address, name) = (self.backend(index), &self.name);
            lab.client()
                .ip(&format!("addr add {address}/16 dev {name}"))?;
        }
        Ok(())
    }

    /// Name of both ends.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// MAC of the end that forwards.
    pub(crate) fn balancer_mac(&self) -> Mac {
        Mac([0x02, 0x77, 1, 0, 0, self.number])
    }

    /// MAC of the end that generates and counts; a back end's, too.
    fn client_mac() -> Mac {
        Mac([BACKEND_MAC[0], BACKEND_MAC[1], 0, 0, 0, 1])
    }

    /// Address of back end `index`, counted from 0.
    pub(crate) fn backend(&self, index: usize) -> Ipv4Addr {
        self.address(1 + (index >> 8) as u8, index as u8)
    }

    /// MAC of back end `index`.
    pub(crate) fn backend_mac(index: usize) -> Mac {
        let [high, low] = (index as u16).to_be_bytes();
        Mac([BACKEND_MAC[0], BACKEND_MAC[1], 1, 0, high, low])
    }

    fn address(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 100 + self.number, third, fourth)
    }
}
