//! Cables: one end a port of the switch's bridge, the other end a machine's `eth0`.

use anyhow::Result;

use crate::address::Station;
use crate::namespace::{Namespace, ip};

/// The name of every machine's interface on the segment.
pub const NIC: &str = "eth0";
/// The interface under a macvlan [`NIC`].
pub const UNDERLAY: &str = "under0";
/// The switch's bridge.
pub const BRIDGE: &str = "br0";

/// What the load balancer's `eth0` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nic {
    /// A veth end: takes native XDP, and every frame that the switch sends it.
    #[default]
    Veth,
    /// A macvlan on a veth end: generic XDP only, and it filters like a real NIC, so that frames to unicast and
    /// multicast addresses that nobody asked for do not arrive.
    Macvlan,
}

/// One cable between the switch and a machine.
#[derive(Debug)]
pub(crate) struct Cable<'a> {
    pub(crate) switch: &'a Namespace,
    /// Name of the end in the switch.
    pub(crate) port: String,
    pub(crate) machine: &'a Namespace,
    pub(crate) station: Station,
    pub(crate) nic: Nic,
    /// Receive and transmit queues on both ends. They must be given at creation: veth refuses to raise them later.
    /// Only the load balancer's cable may have more than one, or the flows gather on few of its queues: a veth end
    /// sends on the queue that the frame came in on.
    pub(crate) queues: u32,
    pub(crate) mtu: u32,
}

impl Cable<'_> {
    /// Makes both ends, in their namespaces from the start, and brings them up.
    pub(crate) fn plug(&self) -> Result<()> {
        let (mtu, port) = (self.mtu, &self.port);
        let queues = format!("numrxqueues {0} numtxqueues {0}", self.queues);
        let (inner, mac) = match self.nic {
            Nic::Veth => (NIC, format!("address {}", self.station.mac())),
            Nic::Macvlan => (UNDERLAY, String::new()),
        };
        let (switch, machine) = (self.switch.name(), self.machine.name());
        let words = format!(
            "link add {port} netns {switch} mtu {mtu} {queues} type veth \
             peer name {inner} netns {machine} mtu {mtu} {mac} {queues}"
        );
        ip(words.split_whitespace())?;
        self.switch
            .ip(&format!("link set {port} master {BRIDGE} up"))?;
        self.machine.ip(&format!("link set {inner} up"))?;
        if self.nic == Nic::Macvlan {
            let mac = self.station.mac();
            self.machine.ip(&format!(
                "link add link {UNDERLAY} name {NIC} address {mac} mtu {mtu} type macvlan mode bridge"
            ))?;
            self.machine.ip(&format!("link set {NIC} up"))?;
        }
        // Frames that the far end sends by XDP_TX or redirect are dropped unless this end polls: with a program or GRO.
        self.switch.ethtool(&format!("-K {port} gro on"))?;
        Ok(())
    }
}
