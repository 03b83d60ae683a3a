//! What becomes of a frame, and why.

use crate::tables::BackendId;

/// The outcome of [`crate::steer::steer`]. The frame is already rewritten for `Forward` and
/// `Reply`, and untouched for `Pass` and `Drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To be sent to this back end.
    Forward(BackendId),
    /// Turned into an answer in place, to be sent back.
    Reply(Reason),
    /// Not ours: the kernel's.
    Pass(Reason),
    /// Ours, and can't be forwarded.
    Drop(Reason),
}

impl Verdict {
    /// The counter that this outcome belongs to.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Forward(_) => Reason::Forwarded,
            Self::Reply(reason) | Self::Pass(reason) | Self::Drop(reason) => reason,
        }
    }
}

/// The kind of fate that a [`Reason`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Sent to a back end, or on its way to a worker that does so.
    Forward,
    /// Answered in place.
    Reply,
    /// Left to the kernel.
    Pass,
    /// Dropped.
    Drop,
    /// Something that happened to a frame beside its fate.
    Note,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $fate:ident $label:literal $text:literal,)*) => {
        /// Why a frame met its fate: counter index, metric label, `penctl` text and test
        /// expectation in one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $text] $name,)* }

        impl Reason {
            /// All of them, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The label of metrics and JSON: lower case, hyphens.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// One line for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Which fate it explains.
            pub const fn fate(self) -> Fate {
                match self { $(Self::$name => Fate::$fate,)* }
            }
        }
    };
}

reasons! {
    Forwarded Forward "forwarded" "sent to a back end",
    Redirected Forward "redirected" "handed by the program to its queue's worker",
    ArpAnswered Reply "arp-answered" "ARP request for a VIP answered",
    NeighborAnswered Reply "neighbor-answered" "IPv6 neighbour solicitation for a VIP answered",
    EchoAnswered Reply "echo-answered" "ping of a VIP answered",
    TarpitAsked Reply "tarpit-asked" "ARP request or neighbour solicitation for an address of the tarpit answered",
    TarpitAnswered Reply "tarpit-answered" "connection to an address of the tarpit answered, to hang",
    TooShort Pass "too-short" "too short to say where it is going",
    NotIp Pass "not-ip" "neither IPv4, IPv6 nor ARP",
    NotOurMac Pass "not-our-mac" "destination MAC is not this interface's",
    NotVip Pass "not-vip" "destination is no VIP",
    OtherVlan Pass "other-vlan" "a VIP, but in a VLAN other than the service's",
    KernelOwned Pass "kernel-owned" "the kernel owns the address and no DSR service takes it",
    VipClaimed Pass "vip-claimed" "another host says that it owns a VIP of ours",
    Loop Drop "loop" "came back from ourselves or from the back end it was sent to",
    AclDenied Drop "acl-denied" "the service's access list denies the client",
    NoService Drop "no-service" "to a VIP of ours, but no service takes this port or protocol",
    NoBackend Drop "no-backend" "no back end of the pool takes new flows",
    NoMac Drop "no-mac" "the back end has no known MAC address, or is blacklisted",
    FragmentFirstMissing Drop "fragment-first-missing" "later fragment whose first one was not seen",
    Truncated Drop "truncated" "to a VIP, but its headers end early",
    BadHeader Drop "bad-header" "to a VIP, but its headers contradict themselves",
    HeaderChain Drop "header-chain" "to a VIP, with more IPv6 extension headers than are followed",
    IcmpUnmatched Drop "icmp-unmatched" "ICMP error for a VIP that quotes no flow of a service",
    EchoFragment Drop "echo-fragment" "ping of a VIP in fragments, not answered",
    EchoRefused Drop "echo-refused" "ping of a VIP from an address that can't be answered",
    NeighborRefused Drop "neighbor-refused" "neighbour solicitation that RFC 4861 says to ignore",
    TarpitSwallowed Drop "tarpit-swallowed" "other TCP to an address of the tarpit, or a connection that can't be answered",
    Late Drop "late" "configuration changed while the frame was on its way to a worker",
    NoRoom Drop "no-room" "an answer did not fit into the frame's buffer",
    NotWhole Drop "not-whole" "a worker got a frame in more pieces than it can send",
    ChecksumFinished Note "checksum-finished" "checksum left to hardware by the sender, finished",
}

/// How many counters a row has; room for reasons to come.
pub const COUNTERS: usize = 64;

const _: () = assert!(Reason::ALL.len() <= COUNTERS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_follow_counter_order() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            let same = Reason::ALL
                .iter()
                .filter(|other| other.label() == reason.label());
            assert_eq!(same.count(), 1, "{}", reason.label());
        }
    }
}
