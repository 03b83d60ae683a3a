//! The half of a test that runs inside the load balancer's namespace: ports, workers, and the
//! program that hands frames to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::maps::XskMap;
use aya::programs::{Xdp, xdp::XdpMode};
use lab::{NIC, Station};
use pen::mapped::{Mapped, now_ns};
use pen::plane::af_packet::RawPort;
use pen::plane::af_xdp::{XskConfig, XskPort};
use pen::plane::{Busy, Port, Queue, WorkerConfig, WorkerReport, Workers};
use pen_common::tables::Mac;
use pen_common::verdict::Reason;
use serde::{Deserialize, Serialize};

use crate::memory;

/// Under this name the plan stands in the environment.
pub(crate) const PLAN: &str = "PEN_PORTS_PLAN";
/// Its program `redirect` hands every frame to its queue's socket.
const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/bench.o");
/// How long the inner half waits for the outer one at most.
const LIMIT: Duration = Duration::from_secs(60);

/// What the inner half does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Plan {
    /// AF_XDP workers, one a queue.
    Xsk(Xsk),
    /// One worker on a packet socket.
    Raw,
    /// Opening what can't be opened, and what was just closed.
    Open,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Xsk {
    pub(crate) queues: u32,
    pub(crate) generic: bool,
    pub(crate) multi_buffer: bool,
    /// `auto`, `always` (with preferred busy polling) or `never`.
    pub(crate) busy: String,
}

/// What the inner half saw, printed as its last line.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) bytes: u64,
    pub(crate) heartbeat_age_ns: u64,
    pub(crate) queues: Vec<QueueLine>,
    pub(crate) degraded: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct QueueLine {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) conserved: bool,
    pub(crate) in_flight: u32,
    pub(crate) lost: u64,
    pub(crate) unsent: u64,
}

/// The inner half; `stop` is a file that the outer half makes when it has done.
pub(crate) fn run(plan: &Plan, stop: &Path) -> Result<()> {
    let report = match plan {
        Plan::Xsk(plan) => xsk(plan, stop)?,
        Plan::Raw => raw(stop)?,
        Plan::Open => {
            open()?;
            Report::default()
        }
    };
    println!("report {}", serde_json::to_string(&report)?);
    Ok(())
}

fn wait_for(stop: &Path) -> Result<()> {
    println!("ready");
    let end = Instant::now() + LIMIT;
    while !stop.exists() {
        ensure!(Instant::now() < end, "nobody said stop");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// All of the first VIP goes to the first back end.
fn tables() -> Arc<Mapped> {
    let mac = |station: Station| Mac::new(station.mac().0);
    let own = mac(Station::balancer(0));
    memory::one_vip(own, Station::vip(0).v4(), mac(Station::backend(0)))
}

fn report(memory: &Mapped, workers: &[WorkerReport], degraded: Vec<String>) -> Report {
    let counts = Reason::ALL
        .iter()
        .map(|reason| (reason.label().to_owned(), memory.count(*reason)))
        .filter(|(_, count)| *count > 0);
    let queues = workers.iter().flat_map(|worker| &worker.queues);
    Report {
        counts: counts.collect(),
        bytes: memory.traffic(memory::BACKEND).bytes,
        heartbeat_age_ns: now_ns() - memory.heartbeat(0),
        queues: queues
            .map(|queue| QueueLine {
                received: queue.received,
                sent: queue.sent,
                conserved: queue.accounting.is_conserved(),
                in_flight: queue.accounting.send + queue.accounting.hand,
                lost: queue.losses.dropped + queue.losses.ring_full + queue.losses.invalid,
                unsent: queue.losses.unsent,
            })
            .collect(),
        degraded,
    }
}

fn config(queue: u32) -> XskConfig {
    XskConfig::new(NIC, "veth", queue)
}

fn xsk(plan: &Xsk, stop: &Path) -> Result<Report> {
    let busy = match plan.busy.as_str() {
        "always" => Busy::Always,
        "never" => Busy::Never,
        _ => Busy::Auto,
    };
    let tables = tables();
    let mut ebpf = aya::Ebpf::load_file(OBJECT).with_context(|| format!("loading {OBJECT}"))?;
    let mut sockets = XskMap::try_from(ebpf.map_mut("SOCKETS").context("no map SOCKETS")?)?;
    let mut configs = Vec::new();
    let mut degraded = Vec::new();
    for number in 0..plan.queues {
        let port = XskPort::open(&XskConfig {
            multi_buffer: plan.multi_buffer,
            busy_poll: busy == Busy::Always,
            ..config(number)
        })?;
        let mode = port.mode();
        ensure!(!mode.zero_copy, "veth has no zero copy");
        ensure!(mode.multi_buffer == plan.multi_buffer, "{mode:?}");
        // The kernel's answer: a budget, or word that it has none.
        let refused = mode.degraded.iter().any(|d| d.what == "send-budget");
        ensure!(mode.send_budget == (!refused).then_some(256), "{mode:?}");
        degraded.extend(mode.degraded.iter().map(|d| d.what.to_owned()));
        sockets.set(number, port.descriptor().context("no descriptor")?, 0)?;
        configs.push(WorkerConfig {
            core: None,
            busy,
            queues: vec![Queue {
                number,
                port,
                // Sums that the sender left to hardware are finished: no mark of it is here.
                memory: memory::row(&tables, number, true),
            }],
        });
    }
    let (sender, _events) = crossbeam::channel::bounded(16);
    let workers = Workers::start(configs, &sender)?;
    let program: &mut Xdp = ebpf
        .program_mut("redirect")
        .context("no program redirect")?
        .try_into()?;
    program.load()?;
    let mode = if plan.generic {
        XdpMode::Skb
    } else {
        XdpMode::Driver
    };
    let link = program.attach(NIC, mode)?;
    wait_for(stop)?;
    program.detach(link)?;
    Ok(report(&tables, &workers.stop(), degraded))
}

fn raw(stop: &Path) -> Result<Report> {
    // Sums are left to hardware on the way in, and described so on the way out.
    let tables = tables();
    let config = WorkerConfig {
        core: None,
        busy: Busy::Auto,
        queues: vec![Queue {
            number: 0,
            port: RawPort::open(NIC)?,
            memory: memory::row(&tables, 0, false),
        }],
    };
    let (sender, _events) = crossbeam::channel::bounded(16);
    let workers = Workers::start(vec![config], &sender)?;
    wait_for(stop)?;
    Ok(report(&tables, &workers.stop(), Vec::new()))
}

/// Errors by name, and a queue that is free again a moment after its socket was closed.
fn open() -> Result<()> {
    use pen::plane::af_xdp::OpenError;
    let missing = XskPort::open(&config(7));
    ensure!(matches!(
        missing,
        Err(OpenError::NoSuchQueue { queue: 7, .. })
    ));
    let unknown = XskPort::open(&XskConfig {
        interface: "nowhere0".into(),
        ..config(0)
    });
    ensure!(matches!(unknown, Err(OpenError::NoSuchInterface { .. })));
    let port = XskPort::open(&config(0))?;
    ensure!(port.accounting().receive == port.accounting().total);
    let start = Instant::now();
    let second = XskPort::open(&config(0));
    ensure!(matches!(second, Err(OpenError::Busy { queue: 0, .. })));
    ensure!(start.elapsed() >= Duration::from_millis(900), "not patient");
    drop(port);
    for _ in 0..10 {
        drop(XskPort::open(&config(0))?);
    }
    Ok(())
}

/// Where the outer half says that it has done.
pub(crate) fn stop_file(folder: &Path) -> PathBuf {
    folder.join("stop")
}
