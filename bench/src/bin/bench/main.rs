//! The measurements: Pen against bare forwarders, packet sockets and Debian's pen, as ratios inside
//! one run.
//!
//! `make bench` runs them and writes `bench/results`: this set, and by `--proxy` the one about the
//! TCP proxy (`proxy/`). Everything happens in a lab of its own; nothing is left behind.

mod busy;
mod contender;
mod figure;
mod figures;
mod forward;
mod generator;
mod instructions;
mod live;
mod machine;
mod packet_socket;
mod pairs;
mod pen;
mod plot;
mod program;
mod proxy;
mod result;
mod stream;
mod traffic;
mod wire;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use lab::Lab;

use crate::contender::{Contender, Forwarder, Offer, Polling, Rig};
use crate::figures::{Bench, Effort, OTHERS, PAIRS};
use crate::machine::Machine;
use crate::pairs::Rates;
use crate::result::Results;

/// Forwarders get this core until Pen says where its worker is.
const CORE: usize = 1;
/// Pairs behind each figure about frames.
const PAIRS_EACH: usize = 9;
/// Times as many behind rates of frames and requests that must reach something: their rounds differ most.
const JUDGED_TIMES: usize = 3;

#[derive(Parser)]
#[command(about = "Measure Pen against its peers and write bench/results")]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// Only see that everything works: one short pair of each; writes nothing
    #[arg(long)]
    quick: bool,
    /// Measure the proxy instead of frames
    #[arg(long)]
    proxy: bool,
    /// Interleaved pairs behind each figure, three times as many for rates with a target; 9 if left
    /// out, of the proxy 5 rounds
    #[arg(long)]
    pairs: Option<usize>,
    /// Length of one run of frames
    #[arg(long, default_value_t = 400)]
    milliseconds: u64,
    /// Only figures whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Where to write; the checkout's bench/results if left out
    #[arg(long)]
    results: Option<PathBuf>,
}

/// What the measurements start of themselves, inside of the lab.
#[derive(Subcommand)]
enum Part {
    #[command(hide = true)]
    Generate(generator::Options),
    #[command(hide = true)]
    Forward(forward::Options),
    #[command(hide = true)]
    Steer(instructions::Options),
    #[command(hide = true)]
    Serve(proxy::server::Options),
    #[command(hide = true)]
    Pace(proxy::client::Options),
    #[command(hide = true)]
    Hold(proxy::client::Options),
    #[command(hide = true)]
    Download(proxy::client::Options),
    /// Part of the measurement: connections with a TLS handshake each
    Handshakes(proxy::client::Options),
}

impl Options {
    /// Whether the figure of this name shall be measured.
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|part| name.contains(part))
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    match &options.part {
        Some(Part::Generate(options)) => generator::main(options)?,
        Some(Part::Forward(options)) => forward::main(options)?,
        Some(Part::Steer(options)) => instructions::main(options)?,
        Some(Part::Serve(options)) => proxy::server::main(options)?,
        Some(Part::Pace(options)) => proxy::client::pace(options)?,
        Some(Part::Hold(options)) => proxy::client::hold(options)?,
        Some(Part::Download(options)) => proxy::client::download(options)?,
        Some(Part::Handshakes(options)) => proxy::tls::handshakes(options)?,
        None if options.proxy => return proxy::run(&options),
        None => return run(&options),
    }
    Ok(ExitCode::SUCCESS)
}

fn run(options: &Options) -> Result<ExitCode> {
    check_prerequisites()?;
    let effort = effort(options);
    let wanted = |name: &str| options.wants(name);
    let all = PAIRS.iter().map(|pair| pair.name);
    if !all.chain(OTHERS.iter().map(|other| other.name)).any(wanted) {
        eprintln!("No figure of frames has this in its name; nothing is measured.");
        return Ok(ExitCode::SUCCESS);
    }
    let machine = Machine::this()?;
    let mut rig = Rig {
        lab: Lab::builder()
            .backends(1)
            .build()
            .context("building a lab")?,
        object: contender::object()?,
        own: env::current_exe().context("finding the running program")?,
        core: CORE,
        polling: Polling::default(),
        milliseconds: if options.quick {
            200
        } else {
            options.milliseconds
        },
    };
    let mut facts = vec![format!(
        "{} It slows everybody down, and frames per CPU-second count it in: that ratio of XDP, \
         which needs one core, comes out too low on a busy machine.",
        other_work()?
    )];
    let forwarders = start_all(&mut rig, &mut facts);

    let bench = Bench {
        rig,
        forwarders,
        effort,
    };
    let mut rates = Rates::default();
    let pairs = PAIRS.iter().filter(|pair| wanted(pair.name));
    let mut figures: Vec<_> = pairs.map(|pair| bench.ratio(pair, &mut rates)).collect();
    let others = OTHERS.iter().filter(|other| wanted(other.name));
    figures.extend(others.map(|other| bench.other(other)));
    let results = Results {
        machine,
        pairs: (effort.pairs, effort.judged),
        milliseconds: bench.rig.milliseconds,
        facts,
        figures,
        rates: rates.lossless(Offer::Lossless),
        overloads: rates.overloads(),
        live: rates.lossless(Offer::Live),
    };
    finish(options, &results)
}

fn effort(options: &Options) -> Effort {
    if options.quick {
        return Effort {
            pairs: 1,
            judged: 1,
            requests: 500,
            seconds: 1,
            repeat: 10_000,
        };
    }
    let pairs = options.pairs.unwrap_or(PAIRS_EACH).max(1);
    Effort {
        pairs,
        judged: JUDGED_TIMES * pairs,
        requests: 10_000,
        seconds: 2,
        repeat: 1_000_000,
    }
}

/// Shows and writes what was measured.
fn finish(options: &Options, results: &Results) -> Result<ExitCode> {
    println!("{}", results.table());
    let missing = results.figures.iter().any(|figure| figure.value.is_none());
    if !options.quick {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        results.write(options.results.as_ref().unwrap_or(&own))?;
    }
    Ok(exit(options, missing))
}

/// A figure that was not measured is said aloud, and is a failure where everything must be there.
fn exit(options: &Options, missing: bool) -> ExitCode {
    let strict = options.quick || env::var("CI").as_deref() == Ok("true");
    if strict && missing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Starts every forwarder; Pen first, because it says where and how the others shall run.
fn start_all(rig: &mut Rig, facts: &mut Vec<String>) -> Vec<Forwarder> {
    let order = [
        Contender::AfXdp,
        Contender::AfXdpMany,
        Contender::Xdp,
        Contender::L2fwd,
        Contender::Swap,
        Contender::RecvSend,
        Contender::Mmsg,
        Contender::Ring,
        Contender::DebianPen,
    ];
    let mut forwarders = Vec::new();
    for (number, contender) in (1..).zip(order) {
        eprintln!("starting {} ...", contender.name());
        let started = rig.start(contender, number).and_then(|forwarder| {
            follow_pen(rig, &forwarder, facts)?;
            rig.warm_up(&forwarder)?;
            Ok(forwarder)
        });
        match started {
            Ok(forwarder) => forwarders.push(forwarder),
            Err(why) => {
                eprintln!("{why:#}");
                facts.push(format!("{} was not measured: {why:#}", contender.name()));
            }
        }
    }
    forwarders
}

/// How much of the machine something else uses, by a second of doing nothing.
fn other_work() -> Result<String> {
    let before = busy::busy_seconds()?;
    thread::sleep(Duration::from_secs(1));
    let busy = busy::busy_seconds()? - before;
    Ok(format!(
        "Before the first run other work kept {busy:.2} cores busy."
    ))
}

fn follow_pen(rig: &mut Rig, forwarder: &Forwarder, facts: &mut Vec<String>) -> Result<()> {
    let Some(pen) = forwarder
        .pen()
        .filter(|_| forwarder.contender() == Contender::AfXdp)
    else {
        return Ok(());
    };
    rig.core = pen.core()?.context("no worker has a core")?;
    rig.polling = pen.polling()?;
    let how = if rig.polling.busy {
        "poll the device themselves"
    } else {
        "do not poll the device"
    };
    let settings: Vec<String> = rig
        .polling
        .settings
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let settings = match settings.join(", ") {
        none if none.is_empty() => none,
        some => format!(" ({some})"),
    };
    facts.push(format!(
        "Pen's workers {how}{settings}; the bare AF_XDP forwarder does as they do."
    ));
    Ok(())
}

fn check_prerequisites() -> Result<()> {
    if let Some(what) = lab::missing() {
        bail!("no measurement without it: {what}");
    }
    for (program, package) in [
        ("taskset", "util-linux"),
        ("iperf3", "iperf3"),
        ("ab", "apache2-utils"),
        ("nginx", "nginx-light"),
    ] {
        ensure!(
            lab::installed(program),
            "{program} is missing; mend: apt-get install {package}, or packaging/setup.sh test"
        );
    }
    for program in ["pen", "l2fwd"] {
        lab::binary(program)?;
    }
    let cores = thread::available_parallelism()
        .context("counting cores")?
        .get();
    ensure!(
        cores >= 2,
        "measuring takes 2 cores: one for the generator, one for the forwarder"
    );
    Ok(())
}
