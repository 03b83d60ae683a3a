//! Where checksums and segments that a sender left to hardware are finished. In a lab there is no hardware: veth hands
//! such frames on unfinished, and whoever takes them out of the kernel's hands must finish them.

/// Which of the switch's ports finish checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offloads {
    /// As the kernel sets them: nobody finishes anything between the client's and the back end's sockets.
    #[default]
    AsKernelSets,
    /// The load balancer's switch port finishes sums and segments: what arrives is what a wire would carry.
    SwitchPortTxOff,
    /// The back ends' switch ports finish the sums of frames still marked unfinished: the last hop is a wire. Shows
    /// whether a frame was finished twice, or finished and left marked; from veth to veth that difference hides.
    BackendPortTxOff,
}

impl Offloads {
    /// ethtool's settings for the load balancers' ports of the switch, and for the back ends' ports.
    ///
    /// `tx off`: what leaves by the port is finished, sums in software, segments at most one MTU.
    /// `gro on`: frames that the far end sends by XDP_TX or redirect are dropped unless this end polls, be it for a
    /// program of its own or for GRO.
    pub(crate) fn port_settings(self) -> (&'static str, &'static str) {
        match self {
            Self::AsKernelSets => ("gro on", "gro on"),
            Self::SwitchPortTxOff => ("gro on tx off", "gro on"),
            Self::BackendPortTxOff => ("gro on", "gro on tx off"),
        }
    }
}
