//! All figures, in the order of the table.

use std::time::Instant;

use anyhow::{Context, Result};
use pen_common::flow::HashKey;
use pen_common::maglev::{self, Member};

use crate::contender::{Contender, Forwarder, Rig};
use crate::figure::{Figure, Target};
use crate::pairs::{Pair, Quantity, Rates, measure};
use crate::stream::{Requests, Streams};
use crate::traffic::Traffic;
use crate::{instructions, program};

/// Ratios of frames.
pub(crate) const PAIRS: &[Pair] = &[
    Pair {
        name: "af_xdp plane / bare AF_XDP l2fwd, frames a second",
        over: Contender::AfXdp,
        under: Contender::L2fwd,
        quantity: Quantity::Rate,
        target: Target::AtLeast(0.92),
    },
    Pair {
        name: "xdp plane / bare XDP_TX swap, frames a second",
        over: Contender::Xdp,
        under: Contender::Swap,
        quantity: Quantity::Rate,
        target: Target::AtLeast(0.90),
    },
    Pair {
        name: "af_xdp plane / AF_PACKET recv and send",
        over: Contender::AfXdp,
        under: Contender::RecvSend,
        quantity: Quantity::Rate,
        target: Target::AtLeast(2.0),
    },
    Pair {
        name: "af_xdp plane / Debian's pen",
        over: Contender::AfXdp,
        under: Contender::DebianPen,
        quantity: Quantity::Rate,
        target: Target::AtLeast(2.4),
    },
    Pair {
        name: "xdp plane / Debian's pen, frames per CPU-second of the whole machine",
        over: Contender::Xdp,
        under: Contender::DebianPen,
        quantity: Quantity::PerCpuSecond,
        target: Target::AtLeast(4.0),
    },
    Pair {
        name: "af_xdp plane: 100,000 flows, 1,000 VIPs, 4,096 back ends / one flow, one VIP, 3 back ends",
        over: Contender::AfXdpMany,
        under: Contender::AfXdp,
        quantity: Quantity::Rate,
        target: Target::AtLeast(0.85),
    },
    Pair {
        name: "af_xdp plane / AF_PACKET recvmmsg and sendmmsg",
        over: Contender::AfXdp,
        under: Contender::Mmsg,
        quantity: Quantity::Rate,
        target: Target::None,
    },
    Pair {
        name: "af_xdp plane / AF_PACKET TPACKET_V3 and sendmmsg",
        over: Contender::AfXdp,
        under: Contender::Ring,
        quantity: Quantity::Rate,
        target: Target::None,
    },
    Pair {
        name: "bare AF_XDP l2fwd / AF_PACKET recv and send",
        over: Contender::L2fwd,
        under: Contender::RecvSend,
        quantity: Quantity::Rate,
        target: Target::None,
    },
    Pair {
        name: "bare AF_XDP l2fwd / Debian's pen",
        over: Contender::L2fwd,
        under: Contender::DebianPen,
        quantity: Quantity::Rate,
        target: Target::None,
    },
];

/// What else one needs to know to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Samples of each figure.
    pub(crate) pairs: usize,
    /// Requests of one call of `ab`.
    pub(crate) requests: u32,
    /// Seconds of one stream.
    pub(crate) seconds: u32,
    /// Repetitions of one test-run.
    pub(crate) repeat: u32,
}

/// The ratios of frames; `wanted` chooses by name.
pub(crate) fn frames(
    rig: &Rig,
    forwarders: &[Forwarder],
    effort: Effort,
    rates: &mut Rates,
    wanted: impl Fn(&str) -> bool,
) -> Vec<Figure> {
    PAIRS
        .iter()
        .filter(|pair| wanted(pair.name))
        .map(|pair| {
            eprintln!("{} ...", pair.name);
            measure(rig, forwarders, pair, effort.pairs, rates).unwrap_or_else(|why| {
                Figure::missing(pair.name, "x", pair.target, format!("{why:#}"))
            })
        })
        .collect()
}

/// One figure that is not about rates of frames.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Other {
    pub(crate) name: &'static str,
    unit: &'static str,
    target: Target,
    measure: fn(&Rig, &[Forwarder], Effort) -> Result<(Vec<f64>, String)>,
}

/// The others.
pub(crate) const OTHERS: &[Other] = &[
    Other {
        name: "steering program / bare swap, time per forwarded frame in the same wrapper",
        unit: "x",
        target: Target::AtMost(4.0),
        measure: steering_program,
    },
    Other {
        name: "steer on a slice, instructions per IPv4 TCP packet",
        unit: "instructions",
        target: Target::AtMost(250.0),
        measure: |rig, _, _| {
            let count = instructions::per_packet(&rig.own, rig.lab.folder())?;
            Ok((vec![count], "counted by callgrind".into()))
        },
    },
    Other {
        name: "iperf3 client to server, through the VIP / through bare l2fwd",
        unit: "x",
        target: Target::AtLeast(0.95),
        measure: streams,
    },
    Other {
        name: "ab -c 20 -n 10000, through the VIP / direct",
        unit: "x",
        target: Target::AtLeast(0.9),
        measure: requests,
    },
    Other {
        name: "Maglev table of 65,537 slots and 1,000 back ends, build",
        unit: "ms",
        target: Target::AtMost(10.0),
        measure: |_, _, effort| Ok((maglev_builds(effort.pairs), String::new())),
    },
    Other {
        name: "configuration change to publication (a weight among 3 back ends)",
        unit: "ms",
        target: Target::AtMost(20.0),
        measure: |_, forwarders, effort| changes(forwarders, Contender::AfXdp, effort),
    },
    Other {
        name: "configuration change to publication (a weight among 4,096 back ends, 409,609 slots)",
        unit: "ms",
        target: Target::None,
        measure: |_, forwarders, effort| changes(forwarders, Contender::AfXdpMany, effort),
    },
];

/// One of the others.
pub(crate) fn other(rig: &Rig, forwarders: &[Forwarder], effort: Effort, other: &Other) -> Figure {
    let Other {
        name,
        unit,
        target,
        measure,
    } = *other;
    eprintln!("{name} ...");
    match measure(rig, forwarders, effort) {
        Ok((samples, note)) => Figure::new(name, unit, target, samples).note(note),
        Err(why) => Figure::missing(name, unit, target, format!("{why:#}")),
    }
}

fn find(forwarders: &[Forwarder], contender: Contender) -> Result<&Forwarder> {
    let mut found = forwarders.iter();
    found
        .find(|forwarder| forwarder.contender() == contender)
        .with_context(|| format!("{} is not running", contender.name()))
}

fn steering_program(
    rig: &Rig,
    forwarders: &[Forwarder],
    effort: Effort,
) -> Result<(Vec<f64>, String)> {
    let wire = find(forwarders, Contender::Xdp)?.wire();
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

fn streams(rig: &Rig, _: &[Forwarder], effort: Effort) -> Result<(Vec<f64>, String)> {
    let streams = Streams::start(rig)?;
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

fn requests(_: &Rig, _: &[Forwarder], effort: Effort) -> Result<(Vec<f64>, String)> {
    let requests = Requests::start()?;
    let (mut samples, mut through_pen, mut failed) = (Vec::new(), Vec::new(), 0);
    for _ in 0..effort.pairs {
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
    let key = HashKey { k0: 1, k1: 2 };
    (0..count)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(maglev::build(&members, maglev::SIZE_DEFAULT, key));
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect()
}

/// From the first byte of the command to the reply, which comes when all workers see the change.
fn changes(
    forwarders: &[Forwarder],
    contender: Contender,
    effort: Effort,
) -> Result<(Vec<f64>, String)> {
    let pen = find(forwarders, contender)?.pen().context("not Pen")?;
    let mut samples = Vec::new();
    for turn in 0..effort.pairs {
        let before = pen.status()?.generation;
        let start = Instant::now();
        pen.command(&format!("server 0 weight {}", 2 + turn % 2))?;
        samples.push(start.elapsed().as_secs_f64() * 1e3);
        let after = pen.status()?.generation;
        anyhow::ensure!(after > before, "the generation is still {after}");
    }
    Ok((samples, "command to reply over the control socket".into()))
}
