//! All figures, in the order of the table.

use std::time::Instant;

use anyhow::{Context, Result};
use pen_common::hash::NameKey;
use pen_common::maglev::{self, Member};

use crate::contender::{Contender, Forwarder, Offer, Rig};
use crate::figure::{Figure, Target};
use crate::pairs::{Pair, Quantity, Rates, measure};
use crate::stream::{Requests, Streams};
use crate::traffic::Traffic;
use crate::{instructions, program};

/// What limits the AF_XDP plane on veth.
const BOUND: &str = "mostly the kernel's way into and out of a socket in copy mode: the row of the \
                     bare forwarder, which decides nothing, is the bound";

/// Ratios of frames. What the AF_XDP plane can do shows only with live frames: over AF_XDP the
/// generator's core is the limit before the plane's worker is. For frames per CPU-second the
/// generator must not wait, because its waiting would count. The same ratios with the other
/// generator, with each its own and with other offers stand below, without a target.
pub(crate) const PAIRS: &[Pair] = &[
    Pair {
        name: "af_xdp plane / bare AF_XDP l2fwd, frames a second without loss",
        over: Contender::AfXdp,
        under: Contender::L2fwd,
        offers: (Offer::Lossless, Offer::Lossless),
        quantity: Quantity::Rate,
        target: Target::AtLeast(0.92),
        why: "a frame pays for its decision",
    },
    Pair {
        name: "xdp plane / bare XDP_TX swap, frames a second without loss",
        over: Contender::Xdp,
        under: Contender::Swap,
        offers: (Offer::Lossless, Offer::Lossless),
        quantity: Quantity::Rate,
        target: Target::AtLeast(0.90),
        why: "a frame pays for its decision: the row of the steering program says how much",
    },
    Pair {
        name: "af_xdp plane / AF_PACKET recv and send, live frames, without loss",
        over: Contender::AfXdp,
        under: Contender::RecvSend,
        offers: (Offer::Live, Offer::Live),
        quantity: Quantity::Rate,
        target: Target::AtLeast(2.0),
        why: BOUND,
    },
    Pair {
        name: "af_xdp plane / Debian's pen, live frames, without loss",
        over: Contender::AfXdp,
        under: Contender::DebianPen,
        offers: (Offer::Live, Offer::Live),
        quantity: Quantity::Rate,
        target: Target::AtLeast(2.4),
        why: BOUND,
    },
    Pair {
        name: "xdp plane / Debian's pen, offered all the generator can, frames per CPU-second of the \
               whole machine",
        over: Contender::Xdp,
        under: Contender::DebianPen,
        offers: (Offer::All, Offer::All),
        quantity: Quantity::PerCpuSecond,
        target: Target::AtLeast(4.0),
        why: "the generator's own time counts, too",
    },
    Pair {
        name: "af_xdp plane: 100,000 flows, 1,000 VIPs, 4,096 back ends / 1, 1 and 3, without loss",
        over: Contender::AfXdpMany,
        under: Contender::AfXdp,
        offers: (Offer::Lossless, Offer::Lossless),
        quantity: Quantity::Rate,
        target: Target::AtLeast(0.85),
        why: "tables that do not fit into the caches",
    },
    Pair {
        name: "af_xdp plane / bare AF_XDP l2fwd, live frames, without loss",
        over: Contender::AfXdp,
        under: Contender::L2fwd,
        offers: (Offer::Live, Offer::Live),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "bare AF_XDP l2fwd / AF_PACKET recv and send, live frames, without loss",
        over: Contender::L2fwd,
        under: Contender::RecvSend,
        offers: (Offer::Live, Offer::Live),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "bare AF_XDP l2fwd / Debian's pen, live frames, without loss",
        over: Contender::L2fwd,
        under: Contender::DebianPen,
        offers: (Offer::Live, Offer::Live),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "xdp plane / bare XDP_TX swap, live frames, without loss",
        over: Contender::Xdp,
        under: Contender::Swap,
        offers: (Offer::Live, Offer::Live),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane by live frames / AF_PACKET recv and send over AF_XDP, without loss",
        over: Contender::AfXdp,
        under: Contender::RecvSend,
        offers: (Offer::Live, Offer::Lossless),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane by live frames / Debian's pen over AF_XDP, without loss",
        over: Contender::AfXdp,
        under: Contender::DebianPen,
        offers: (Offer::Live, Offer::Lossless),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane / AF_PACKET recv and send, live frames, offered all the generator can",
        over: Contender::AfXdp,
        under: Contender::RecvSend,
        offers: (Offer::LiveAll, Offer::LiveAll),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane / AF_PACKET recv and send, offered all the generator can",
        over: Contender::AfXdp,
        under: Contender::RecvSend,
        offers: (Offer::All, Offer::All),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane / Debian's pen, offered all the generator can",
        over: Contender::AfXdp,
        under: Contender::DebianPen,
        offers: (Offer::All, Offer::All),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane / AF_PACKET recvmmsg and sendmmsg, offered all the generator can",
        over: Contender::AfXdp,
        under: Contender::Mmsg,
        offers: (Offer::All, Offer::All),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane / AF_PACKET TPACKET_V3 and sendmmsg, offered all the generator can",
        over: Contender::AfXdp,
        under: Contender::Ring,
        offers: (Offer::All, Offer::All),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane / AF_PACKET recv and send, without loss",
        over: Contender::AfXdp,
        under: Contender::RecvSend,
        offers: (Offer::Lossless, Offer::Lossless),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane / Debian's pen, without loss",
        over: Contender::AfXdp,
        under: Contender::DebianPen,
        offers: (Offer::Lossless, Offer::Lossless),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "xdp plane / Debian's pen, without loss, frames per CPU-second of the whole machine",
        over: Contender::Xdp,
        under: Contender::DebianPen,
        offers: (Offer::Lossless, Offer::Lossless),
        quantity: Quantity::PerCpuSecond,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane / AF_PACKET recvmmsg and sendmmsg, without loss",
        over: Contender::AfXdp,
        under: Contender::Mmsg,
        offers: (Offer::Lossless, Offer::Lossless),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
    Pair {
        name: "af_xdp plane / AF_PACKET TPACKET_V3 and sendmmsg, without loss",
        over: Contender::AfXdp,
        under: Contender::Ring,
        offers: (Offer::Lossless, Offer::Lossless),
        quantity: Quantity::Rate,
        target: Target::None,
        why: "",
    },
];

/// Everything that is set up to be measured.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) rig: Rig,
    pub(crate) forwarders: Vec<Forwarder>,
    pub(crate) effort: Effort,
}

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Samples of each figure.
    pub(crate) pairs: usize,
    /// Samples of a rate of frames or requests that must reach something.
    pub(crate) judged: usize,
    /// Requests of one call of `ab`.
    pub(crate) requests: u32,
    /// Seconds of one stream.
    pub(crate) seconds: u32,
    /// Repetitions of one test-run.
    pub(crate) repeat: u32,
}

impl Bench {
    /// The forwarder of a contender.
    ///
    /// # Errors
    /// It could not be started.
    pub(crate) fn forwarder(&self, contender: Contender) -> Result<&Forwarder> {
        let mut found = self.forwarders.iter();
        found
            .find(|forwarder| forwarder.contender() == contender)
            .with_context(|| format!("{} is not running, see below", contender.name()))
    }

    /// The ratio of a pair.
    pub(crate) fn ratio(&self, pair: &Pair, rates: &mut Rates) -> Figure {
        eprintln!("{} ...", pair.name);
        measure(self, pair, rates)
            .map(|figure| figure.because(pair.why))
            .unwrap_or_else(|why| Figure::missing(pair.name, "x", pair.target, format!("{why:#}")))
    }

    /// One of the others.
    pub(crate) fn other(&self, other: &Other) -> Figure {
        let Other {
            name,
            unit,
            target,
            measure,
            why,
        } = *other;
        eprintln!("{name} ...");
        match measure(self) {
            Ok((samples, note)) => Figure::new(name, unit, target, samples)
                .note(note)
                .because(why),
            Err(why) => Figure::missing(name, unit, target, format!("{why:#}")),
        }
    }
}

impl Effort {
    /// Pairs behind a figure: on a machine that is shared, medians of nine differ by a sixth from one
    /// run to the next.
    pub(crate) const fn pairs_for(&self, target: Target) -> usize {
        match target {
            Target::AtLeast(_) | Target::AtMost(_) => self.judged,
            Target::None => self.pairs,
        }
    }
}

/// Samples and a note.
type Measured = Result<(Vec<f64>, String)>;

/// One figure that is not about rates of frames.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Other {
    pub(crate) name: &'static str,
    unit: &'static str,
    target: Target,
    measure: fn(&Bench) -> Measured,
    /// What limits it, for when it is missed.
    why: &'static str,
}

/// The others.
pub(crate) const OTHERS: &[Other] = &[
    Other {
        name: "steering program / bare swap, time per forwarded frame in the same wrapper",
        unit: "x",
        target: Target::AtMost(4.0),
        measure: steering_program,
        why: "the parser, the look-ups and the counters, which the swap has not",
    },
    Other {
        name: "steer on a slice, instructions per IPv4 TCP packet",
        unit: "instructions",
        target: Target::AtMost(250.0),
        measure: |bench| {
            let count = instructions::per_packet(&bench.rig.own, bench.rig.lab.folder())?;
            Ok((vec![count], "counted by callgrind".into()))
        },
        why: "spread over the whole way, with a check for each piece read",
    },
    Other {
        name: "iperf3 client to server, through the VIP / through bare l2fwd",
        unit: "x",
        target: Target::AtLeast(0.95),
        measure: streams,
        why: "the worker shares the machine's cores with both ends of the stream",
    },
    Other {
        name: "ab -c 20 -n 10000, through the VIP / direct",
        unit: "x",
        target: Target::AtLeast(0.9),
        measure: requests,
        why: "the worker shares the machine's cores with ab and the server",
    },
    Other {
        name: "Maglev table of 65,537 slots and 1,000 back ends, build",
        unit: "ms",
        target: Target::AtMost(10.0),
        measure: |bench| Ok((maglev_builds(bench.effort.pairs), String::new())),
        why: "one core builds it",
    },
    Other {
        name: "configuration change to publication (a weight among 3 back ends)",
        unit: "ms",
        target: Target::AtMost(20.0),
        measure: |bench| changes(bench, Contender::AfXdp),
        why: "all workers are waited for, and the kernel's grace period (membarrier)",
    },
    Other {
        name: "configuration change to publication (a weight among 4,096 back ends, 409,609 slots)",
        unit: "ms",
        target: Target::None,
        measure: |bench| changes(bench, Contender::AfXdpMany),
        why: "",
    },
];

fn steering_program(bench: &Bench) -> Measured {
    let (rig, effort) = (&bench.rig, bench.effort);
    let wire = bench.forwarder(Contender::Xdp)?.wire();
    let steer = program::attached(rig.lab.balancer(), wire.name())?;
    let frames = Traffic { flows: 1, vips: 1 }.frames(wire.balancer_mac());
    let frame = frames.first().context("one flow has a frame")?;
    let costs = program::measure(&rig.object, &steer, frame, (effort.pairs, effort.repeat))?;
    let of = |what: fn(&program::Cost) -> f64| {
        crate::figure::median(&costs.iter().map(what).collect::<Vec<_>>()).unwrap_or_default()
    };
    let note = format!(
        "{:.0} ns against {:.0} ns, wrapper included",
        of(|cost| cost.steer),
        of(|cost| cost.swap)
    );
    Ok((
        costs.iter().map(|cost| cost.steer / cost.swap).collect(),
        note,
    ))
}

fn streams(bench: &Bench) -> Measured {
    let effort = bench.effort;
    let streams = Streams::start(&bench.rig)?;
    let mut samples = Vec::new();
    let mut through_pen = Vec::new();
    for _ in 0..effort.pairs {
        let (pen, bare) = streams.measure(effort.seconds)?;
        samples.push(pen / bare);
        through_pen.push(pen / 1e9);
    }
    let median = crate::figure::median(&through_pen).unwrap_or_default();
    Ok((samples, format!("{median:.2} Gbit/s through the VIP")))
}

fn requests(bench: &Bench) -> Measured {
    let effort = bench.effort;
    let requests = Requests::start()?;
    let (mut samples, mut through_pen, mut failed) = (Vec::new(), Vec::new(), 0);
    for _ in 0..effort.judged {
        let (pen, direct) = requests.measure(effort.requests)?;
        samples.push(pen.per_second / direct.per_second);
        through_pen.push(pen.per_second);
        failed += pen.failed;
    }
    let median = crate::figure::median(&through_pen).unwrap_or_default();
    Ok((
        samples,
        format!("{median:.0} a second through the VIP, {failed} failed"),
    ))
}

fn maglev_builds(count: usize) -> Vec<f64> {
    let names: Vec<String> = (0..1000)
        .map(|i| format!("10.0.{}.{}", i / 250, i % 250))
        .collect();
    let members: Vec<Member<'_>> = (1..)
        .zip(&names)
        .map(|(id, name)| Member {
            id,
            name,
            weight: 1,
        })
        .collect();
    let key = NameKey::from_seed(1);
    (0..count)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(maglev::build(&members, maglev::SIZE_DEFAULT, key));
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect()
}

/// From the first byte of the command to the reply, which comes when all workers see the change.
fn changes(bench: &Bench, contender: Contender) -> Measured {
    let pen = bench.forwarder(contender)?.pen().context("not Pen")?;
    let mut samples = Vec::new();
    for turn in 0..bench.effort.pairs {
        let before = pen.status()?.generation;
        let start = Instant::now();
        pen.command(&format!("server 0 weight {}", 2 + turn % 2))?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
        let after = pen.status()?.generation;
        anyhow::ensure!(after > before, "the generation is still {after}");
    }
    Ok((samples, "command to reply over the control socket".into()))
}
