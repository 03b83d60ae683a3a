//! A wire straight to the load balancer, and Pen at its end: for frames by the million.
//!
//! ```text
//!   client: flood -->-- wire0 -->-- lb0 (Pen)
//!            sink --<-- wire0 --<--'    back ends are MAC addresses: the sink counts each apart
//! ```

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lab::{Flood, Lab, Offer, Offered, Sink, Wire};
use pen_common::{config::Plane, control::Status, verdict::Fate, verdict::Reason};

use crate::rig::Pen;

pub(crate) const BACKENDS: u8 = 3;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 80);
/// The service's; there is none at the next port.
pub(crate) const PORT: u16 = 53;
/// A client; the sink tells even addresses from odd ones.
pub(crate) const EVEN: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
/// Flows of a client, spread over the back ends.
const FLOWS: u16 = 250;
/// Losses are read by the workers four times a second.
pub(crate) const LOSSES: Duration = Duration::from_millis(500);

/// A lab with a wire, and Pen at its end.
pub(crate) struct Rig {
    pub(crate) pen: Pen,
    pub(crate) sink: Arc<Sink>,
    pub(crate) wire: Wire,
    pub(crate) lab: Lab,
    /// Two at a time would share the cores, and neither be fast.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Rig {
    pub(crate) fn start(plane: Plane) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::builder().backends(1).build().unwrap();
        let wire = Wire::plug(&lab, BACKENDS).unwrap();
        let sink = Arc::new(Sink::attach(lab.client(), Wire::NAME).unwrap());
        let backends: Vec<_> = (0..BACKENDS)
            .map(|index| format!("\"{}\"", wire.backend(index)))
            .collect();
        let services = format!(
            "[[service]]\nname = \"dns\"\nlisten = \"{VIP}:{PORT}/udp\"\n\
             [[pool]]\nname = \"dns\"\nbackend = [{}]\n",
            backends.join(", ")
        );
        let top = format!("plane = \"{plane}\"\nxdp_mode = \"native\"\n");
        let pen = Pen::start_at(&lab, (0, Wire::NAME), &top, &services);
        Self {
            pen,
            sink,
            wire,
            lab,
            _alone: alone,
        }
    }

    pub(crate) fn flood(&self, lists: Vec<Vec<Offer>>, count: u64) -> Flood {
        self.offer(Offered {
            lists,
            count,
            window: Offered::WINDOW,
        })
    }

    pub(crate) fn offer(&self, offered: Offered) -> Flood {
        let sink = Arc::clone(&self.sink);
        Flood::start(self.lab.client(), Wire::NAME, offered, sink)
    }

    /// A frame of each flow of one client, of the smallest size.
    pub(crate) fn flows(&self, client: Ipv4Addr) -> Vec<Offer> {
        (0..FLOWS)
            .map(|flow| self.datagram((client, 1024 + flow), PORT, true))
            .collect()
    }

    pub(crate) fn datagram(&self, from: (Ipv4Addr, u16), to: u16, returns: bool) -> Offer {
        let builder = self
            .ethernet()
            .ipv4(from.0.octets(), VIP.octets(), 64)
            .udp(from.1, to);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[0; 18]).unwrap();
        Offer { frame, returns }
    }

    pub(crate) fn ping(&self) -> Offer {
        let builder = self
            .ethernet()
            .ipv4(EVEN.octets(), VIP.octets(), 64)
            .icmpv4_echo_request(7, 1);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[0; 18]).unwrap();
        Offer {
            frame,
            returns: true,
        }
    }

    fn ethernet(&self) -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
        let (from, to) = (self.wire.source_mac(), self.wire.balancer_mac());
        etherparse::PacketBuilder::ethernet2(from.0, to.0)
    }

    /// What arrived for a back end, and what Pen says that it sent there.
    pub(crate) fn to_backend(&self, index: u8, status: &Status) -> (u64, u64) {
        let arrived = self.sink.to(self.wire.backend_mac(index));
        (
            arrived,
            status.dsr().pools[0].backends[usize::from(index)].frames,
        )
    }
}

/// What a reason counted.
pub(crate) fn count(status: &Status, reason: Reason) -> u64 {
    let found = |counter: &&_| {
        let counter: &pen_common::control::Counter = counter;
        counter.reason == reason.label()
    };
    status.dsr().counters.iter().find(found).unwrap().count
}

/// Everything that Pen dropped.
pub(crate) fn dropped(status: &Status) -> u64 {
    let drops = Reason::ALL
        .iter()
        .filter(|reason| reason.fate() == Fate::Drop);
    drops.map(|reason| count(status, *reason)).sum()
}

/// What the rings lost.
pub(crate) fn lost(status: &Status) -> u64 {
    let losses = status
        .dsr()
        .queues
        .iter()
        .filter_map(|queue| queue.xdp_statistics);
    losses
        .map(|lost| lost.rx_dropped + lost.rx_ring_full + lost.invalid_descs)
        .sum()
}

/// The plane that was asked for carried every frame, natively.
pub(crate) fn assert_plane(plane: Plane, status: &Status) {
    assert_eq!(status.dsr().plane.actual, plane, "{:?}", status.dsr().plane);
    let native = Some(pen_common::config::XdpMode::Native);
    assert_eq!(status.dsr().xdp.mode, native, "{:?}", status.dsr().xdp);
    // The program counts what it hands over, room in the ring or not.
    let redirected = count(status, Reason::Redirected) - lost(status);
    let forwarded = count(status, Reason::Forwarded);
    match plane {
        // A machine that others keep busy may hold a worker up until its heartbeat is old (a loop
        // that only reads the clock was seen to stand still for 0.7 s), and the program forwards
        // meanwhile. That is the exception, or it was not this plane.
        Plane::AfXdp => assert!(
            redirected <= forwarded && redirected >= forwarded / 100 * 95,
            "{redirected} of {forwarded}: {status:?}"
        ),
        Plane::Auto | Plane::Xdp | Plane::AfPacket => assert_eq!(redirected, 0, "{status:?}"),
    }
}
