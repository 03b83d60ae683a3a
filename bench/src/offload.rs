//! Where checksums and segments that a sender left to hardware are finished. In a lab there is no
//! hardware: veth hands such frames on unfinished, and whoever takes them out of the kernel's hands
//! must finish them.

/// Which of the switch's ports finish checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offloads {
    /// As the kernel sets them: nobody finishes anything between the client's and the back end's
    /// sockets.
    #[default]
    AsKernelSets,
    /// The load balancer's switch port finishes sums and segments: what arrives is what a wire
    /// would carry.
    SwitchPortTxOff,
    /// The back ends' switch ports finish the sums of frames still marked unfinished: the last hop
    /// is a wire. Shows whether a frame was finished twice, or finished and left marked; from veth
    /// to veth that difference hides.
    BackendPortTxOff,
}

impl Offloads {
    /// Whether the switch's ports to the load balancers, and those to the back ends, finish what
    /// leaves by them (`tx off`: sums in software, segments at most one MTU).
    pub(crate) fn finished_at(self) -> (bool, bool) {
        match self {
            Self::AsKernelSets => (false, false),
            Self::SwitchPortTxOff => (true, false),
            Self::BackendPortTxOff => (false, true),
        }
    }
}
