//! Cables: one end a port of the switch's bridge, the other end a machine's `eth0`.

use crate::address::Station;
use crate::namespace::Namespace;

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
    /// A macvlan on a veth end: generic XDP only, and it filters like a real NIC, so that frames to
    /// unicast and multicast addresses that nobody asked for do not arrive.
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
    /// Receive and transmit queues on both ends. They must be given at creation: veth refuses to
    /// raise them later. Only the load balancer's cable may have more than one, or the flows gather
    /// on few of its queues: a veth end sends on the queue that the frame came in on.
    pub(crate) queues: u32,
    pub(crate) mtu: u32,
}

impl Cable<'_> {
    /// The `ip` command (outside of any namespace) that makes both ends, in their namespaces from
    /// the start.
    pub(crate) fn creation(&self) -> String {
        let (mtu, port) = (self.mtu, &self.port);
        let (inner, mac) = match self.nic {
            Nic::Veth => (NIC, format!("address {}", self.station.mac())),
            Nic::Macvlan => (UNDERLAY, String::new()),
        };
        let (switch, machine) = (self.switch.name(), self.machine.name());
        let queues = format!("numrxqueues {0} numtxqueues {0}", self.queues);
        format!(
            "link add {port} netns {switch} mtu {mtu} {queues} type veth \
             peer name {inner} netns {machine} mtu {mtu} {mac} {queues}"
        )
    }

    /// The commands in the switch that put this end to the others.
    pub(crate) fn at_switch(&self) -> String {
        format!("link set {} master {BRIDGE} up", self.port)
    }

    /// The commands in the machine that bring its end up.
    pub(crate) fn at_machine(&self) -> Vec<String> {
        let up = |interface| format!("link set {interface} up");
        match self.nic {
            Nic::Veth => vec![up("lo"), up(NIC)],
            Nic::Macvlan => {
                let (mac, mtu) = (self.station.mac(), self.mtu);
                let macvlan = format!(
                    "link add link {UNDERLAY} name {NIC} address {mac} mtu {mtu} \
                     type macvlan mode bridge"
                );
                vec![up("lo"), up(UNDERLAY), macvlan, up(NIC)]
            }
        }
    }
}
