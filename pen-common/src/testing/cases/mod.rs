//! The case table: what every host does with which frame.

mod access;
mod echo;
mod errors;
mod fragments;
mod headers;
mod neighbors;
mod services;
mod tarpit;

use std::sync::LazyLock;

use super::{build::forwarded, world::net};
use crate::{
    tables::BackendId,
    verdict::{Reason, Verdict},
};

/// One frame and what becomes of it in [`World::example`](super::World::example).
#[derive(Debug, Clone)]
pub struct Case {
    /// Unique, fit for a file name.
    pub name: &'static str,
    /// Frames that come before it, through the same tables. Their verdicts don't matter here.
    /// No two cases share a datagram, so the fragment table need not be cleared between them.
    pub setup: Vec<Vec<u8>>,
    /// The frame.
    pub frame: Vec<u8>,
    /// Whether the host is to finish checksums that were left to hardware.
    pub finish: bool,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The frame afterwards: the same bytes for `Pass` and `Drop`.
    pub out: Vec<u8>,
}

/// All cases.
pub static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    [
        services::cases(),
        headers::cases(),
        fragments::cases(),
        errors::cases(),
        echo::cases(),
        access::cases(),
        neighbors::arp_cases(),
        neighbors::solicitation_cases(),
        tarpit::cases(),
    ]
    .concat()
});

impl Case {
    /// Goes to a back end; only the MAC addresses change.
    fn forward(name: &'static str, frame: Vec<u8>, id: BackendId) -> Self {
        let out = forwarded(&frame, net::backend(id));
        Self::new(name, frame, Verdict::Forward(id), out)
    }

    fn reply(name: &'static str, frame: Vec<u8>, reason: Reason, out: Vec<u8>) -> Self {
        Self::new(name, frame, Verdict::Reply(reason), out)
    }

    fn pass(name: &'static str, frame: Vec<u8>, reason: Reason) -> Self {
        let out = frame.clone();
        Self::new(name, frame, Verdict::Pass(reason), out)
    }

    fn drop(name: &'static str, frame: Vec<u8>, reason: Reason) -> Self {
        let out = frame.clone();
        Self::new(name, frame, Verdict::Drop(reason), out)
    }

    fn new(name: &'static str, frame: Vec<u8>, verdict: Verdict, out: Vec<u8>) -> Self {
        Self {
            name,
            setup: Vec::new(),
            frame,
            finish: false,
            verdict,
            out,
        }
    }

    /// These frames come first.
    fn after(self, setup: &[Vec<u8>]) -> Self {
        Self {
            setup: setup.to_vec(),
            ..self
        }
    }

    /// On a host that finishes checksums.
    fn finishing(self) -> Self {
        Self {
            finish: true,
            ..self
        }
    }
}
