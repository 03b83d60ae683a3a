//! The programs of the interface: `steer`, and `pass` for the far end of a veth pair.
#![no_std]
#![no_main]

mod frame;
mod maps;

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX},
    macros::xdp,
    programs::XdpContext,
};
use pen_common::{
    frame::Frame,
    steer::{Delivery, Other, steer_or},
    tables::Tables,
    verdict::{Reason, Verdict},
};

use crate::{frame::XdpFrame, maps::MapMemory};

/// Hands frames for a VIP to their queue's worker, forwards them itself where there is none, and
/// leaves all else alone.
#[xdp(frags)]
#[inline(always)]
pub fn steer(context: XdpContext) -> u32 {
    let Some(memory) = MapMemory::new() else {
        return XDP_PASS;
    };
    let Some(tables) = Tables::read(&memory) else {
        return XDP_PASS;
    };
    let mut frame = XdpFrame::new(context.ctx);
    let worker = Worker {
        memory: &memory,
        redirect_len_max: tables.head.redirect_len_max as usize,
    };
    let Some(verdict) = steer_or(&mut frame, &tables, &worker) else {
        memory.count(Reason::Redirected);
        return XDP_REDIRECT;
    };
    let (reason, action) = match verdict {
        Verdict::Forward(id) => {
            memory.count_forwarded(id, frame.len());
            return XDP_TX;
        }
        Verdict::Reply(reason) => (reason, XDP_TX),
        Verdict::Pass(reason) => (reason, XDP_PASS),
        Verdict::Drop(reason) => (reason, XDP_DROP),
    };
    memory.count(reason);
    action
}

/// The worker of the frame's queue, if there is one.
struct Worker<'a> {
    memory: &'a MapMemory,
    redirect_len_max: usize,
}

impl Other<XdpFrame> for Worker<'_> {
    /// A fragment is steered where it arrives, and so is what a socket can't take whole.
    #[inline(always)]
    fn takes(&self, frame: &XdpFrame, delivery: &Delivery) -> bool {
        !delivery.is_fragment()
            && frame.len() <= self.redirect_len_max
            && self.memory.redirect(frame.queue())
    }
}

/// Leaves every frame alone.
#[xdp(frags)]
pub fn pass(_: XdpContext) -> u32 {
    XDP_PASS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
