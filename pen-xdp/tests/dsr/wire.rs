//! Frames by the million over a wire straight to the load balancer, each of them accounted for, and
//! changes while they flow.
//!
//! ```text
//!   client: flood -->-- wire0 -->-- lb0 (Pen)
//!            sink --<-- wire0 --<--'    back ends are MAC addresses: the sink counts each apart
//! ```

use std::{net::Ipv4Addr, sync::Arc, thread, time::Duration};

use lab::{Flood, Lab, Mac, Offer, Sink, Wire, link_counters};
use pen_common::{config::Plane, control::Status, verdict::Fate, verdict::Reason};

use crate::rig::Pen;

const BACKENDS: u8 = 3;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 80);
/// The service's; there is none at the next port.
const PORT: u16 = 53;
/// Flows, spread over the back ends.
const FLOWS: u16 = 250;
/// Losses are read by the workers four times a second.
const LOSSES: Duration = Duration::from_millis(500);

/// A lab with a wire, and Pen at its end.
struct Rig {
    pen: Pen,
    sink: Arc<Sink>,
    wire: Wire,
    lab: Lab,
}

impl Rig {
    fn start(plane: Plane) -> Self {
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
        }
    }

    fn flood(&self, offers: Vec<Offer>, count: u64) -> Flood {
        let sink = Arc::clone(&self.sink);
        Flood::start(self.lab.client(), Wire::NAME, offers, count, sink)
    }

    /// A frame of each flow, of the smallest size.
    fn flows(&self) -> Vec<Offer> {
        (0..FLOWS)
            .map(|flow| self.datagram(1024 + flow, PORT, true))
            .collect()
    }

    fn datagram(&self, from: u16, to: u16, returns: bool) -> Offer {
        let client = Ipv4Addr::new(10, 200, 0, 1);
        let builder = self
            .ethernet()
            .ipv4(client.octets(), VIP.octets(), 64)
            .udp(from, to);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[0; 18]).unwrap();
        Offer { frame, returns }
    }

    fn ping(&self) -> Offer {
        let client = Ipv4Addr::new(10, 200, 0, 1);
        let builder = self
            .ethernet()
            .ipv4(client.octets(), VIP.octets(), 64)
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
    fn to_backend(&self, index: u8, status: &Status) -> (u64, u64) {
        let arrived = self.sink.to(self.wire.backend_mac(index));
        (arrived, status.pools[0].backends[usize::from(index)].frames)
    }
}

/// What a reason counted.
fn count(status: &Status, reason: Reason) -> u64 {
    let found = |counter: &&_| {
        let counter: &pen_common::control::Counter = counter;
        counter.reason == reason.label()
    };
    status.counters.iter().find(found).unwrap().count
}

/// Everything that Pen dropped.
fn dropped(status: &Status) -> u64 {
    let drops = Reason::ALL
        .iter()
        .filter(|reason| reason.fate() == Fate::Drop);
    drops.map(|reason| count(status, *reason)).sum()
}

/// What the rings lost.
fn lost(status: &Status) -> u64 {
    let losses = status
        .queues
        .iter()
        .filter_map(|queue| queue.xdp_statistics);
    losses
        .map(|lost| lost.rx_dropped + lost.rx_ring_full + lost.rx_invalid_descs)
        .sum()
}

/// The plane that was asked for carried every frame, natively.
fn assert_plane(plane: Plane, status: &Status) {
    assert_eq!(status.plane.actual, plane, "{:?}", status.plane);
    let native = Some(pen_common::config::XdpMode::Native);
    assert_eq!(status.xdp.mode, native, "{:?}", status.xdp);
    let redirected = match plane {
        Plane::AfXdp => count(status, Reason::Forwarded),
        Plane::Auto | Plane::Xdp | Plane::AfPacket => 0,
    };
    assert_eq!(count(status, Reason::Redirected), redirected);
}

/// Ten million where time is no matter.
fn frames() -> u64 {
    match std::env::var_os("PEN_TEST_ALL") {
        Some(_) => 10_000_000,
        None => 2_000_000,
    }
}

#[test]
fn millions_of_frames_over_af_xdp_are_conserved() {
    if !lab::ready("millions_of_frames_over_af_xdp_are_conserved") {
        return;
    }
    let rig = Rig::start(Plane::AfXdp);
    // Forwarded by a worker, dropped, answered.
    let mut offers = rig.flows();
    let dropped_each = 20;
    offers.extend((0..dropped_each).map(|flow| rig.datagram(1024 + flow, PORT + 1, false)));
    offers.push(rig.ping());
    let before = link_counters(rig.lab.client(), Wire::NAME).unwrap();
    let flooded = rig.flood(offers, frames()).finish().unwrap();
    println!("{flooded:?}: {:.0} a second", flooded.rate());
    thread::sleep(LOSSES);
    let after = link_counters(rig.lab.client(), Wire::NAME).unwrap();
    let status = rig.pen.status();
    assert_plane(Plane::AfXdp, &status);

    // Offered: delivered, or counted as lost on the wire, in a ring, or dropped for a reason.
    let wire_lost = after.tx_dropped - before.tx_dropped;
    let delivered = rig.sink.total();
    assert_eq!(flooded.sent, frames());
    assert_eq!(
        flooded.sent,
        delivered + dropped(&status) + lost(&status) + wire_lost,
        "{flooded:?} {delivered} {status:?}"
    );
    // The window leaves room everywhere, so the only drops are those that were asked for.
    assert_eq!((lost(&status), wire_lost), (0, 0), "{status:?}");
    assert_eq!(dropped(&status), count(&status, Reason::NoService));
    assert_eq!(delivered, flooded.returning);
    let answered = count(&status, Reason::EchoAnswered);
    assert_eq!(answered, rig.sink.to(rig.wire.source_mac()));
    assert!(answered > 0 && dropped(&status) > 0);
    let mut to_backends = 0;
    for index in 0..BACKENDS {
        let (arrived, sent) = rig.to_backend(index, &status);
        assert_eq!(arrived, sent, "back end {index}");
        assert!(sent > 0, "back end {index} got nothing");
        to_backends += sent;
    }
    assert_eq!(to_backends, count(&status, Reason::Forwarded));
    assert_eq!(to_backends + answered, delivered);
    let frames = status.queues[0].frames.unwrap();
    assert!(frames.adds_up() && frames.in_hand == 0, "{frames:?}");
    assert_eq!(frames.posted_receive, frames.total, "{frames:?}");
}
