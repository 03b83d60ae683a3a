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
    steer::{Class, Delivery, classify, deliver},
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
    let verdict = match classify(&mut frame, &tables) {
        Class::Deliver(delivery) => {
            if for_a_worker(&frame, &tables, &delivery) && memory.redirect(frame.queue()) {
                memory.count(Reason::Redirected);
                return XDP_REDIRECT;
            }
            deliver(&mut frame, &tables, &delivery)
        }
        Class::Done(verdict) => verdict,
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

/// A fragment is steered where it arrives, and so is what a socket can't take whole.
#[inline(always)]
fn for_a_worker(frame: &XdpFrame, tables: &Tables<'_, MapMemory>, delivery: &Delivery) -> bool {
    !delivery.is_fragment() && frame.len() <= tables.head.redirect_len_max as usize
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
