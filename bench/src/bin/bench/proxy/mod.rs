//! The second set: the proxy, TCP and HTTP, against Debian's HAProxy, nginx and pen, by work for each
//! CPU-second of the proxy's threads.
//!
//! Everything is in one namespace of a lab, over loopback: the proxy on one core, load and back end
//! on the other. Most of the time the load's core is the limit, so work a second would say little
//! about the proxy, and work for each second of its own says what a core of its own could do.

pub(crate) mod client;
mod contender;
mod figures;
mod latency;
mod load;
mod memory;
mod names;
mod result;
pub(crate) mod server;
mod site;
pub(crate) mod tls;
mod usage;

use std::path::Path;
use std::process::ExitCode;
use std::{env, thread};

use anyhow::{Context, Result, ensure};

use self::contender::Contender;
use self::figures::{Bench, Effort};
use self::result::Results;
use self::site::Site;
use crate::Options;
use crate::machine::Machine;

/// Rounds behind each figure.
const ROUNDS: usize = 5;

/// Measures everything that is wanted, shows it and writes it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    check_prerequisites()?;
    let wanted = |name: &str| options.wants(name);
    if !figures::any(&wanted) {
        eprintln!("No figure of the proxy has this in its name; nothing is measured.");
        return Ok(ExitCode::SUCCESS);
    }
    let machine = Machine::this()?;
    let effort = effort(options);
    let cores = thread::available_parallelism()
        .context("counting cores")?
        .get();
    let mut facts = facts()?;
    let bench = Bench::start(Site::build(cores)?, effort, cores, &mut facts);
    let (figures, rates) = bench.all(&wanted);
    let results = Results {
        machine,
        rounds: effort.rounds,
        seconds: effort.seconds,
        haproxy: Contender::Haproxy.name(),
        facts,
        figures,
        rates,
    };
    println!("{}", results.table());
    if !options.quick {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        results.write(options.results.as_ref().unwrap_or(&own))?;
    } else if let Some(folder) = &options.results {
        results.write(folder)?;
    }
    // What this machine can't show is no failure of the measurement.
    let missing = results
        .figures
        .iter()
        .any(|figure| figure.value.is_none() && !figures::beyond(&figure.name, cores));
    Ok(crate::exit(options, missing))
}

fn facts() -> Result<Vec<String>> {
    let mut facts = vec![format!(
        "{} It makes those wait whom it meets: latency tells nothing on a busy machine, and ratios \
         of CPU-seconds are farther apart.",
        crate::other_work()?
    )];
    if cfg!(debug_assertions) {
        facts.push("Pen was built without optimisation: it works, but nothing is measured.".into());
    }
    Ok(facts)
}

fn effort(options: &Options) -> Effort {
    if options.quick {
        return Effort {
            rounds: 1,
            seconds: 1,
            connections: 2000,
        };
    }
    Effort {
        rounds: options.pairs.unwrap_or(ROUNDS).max(1),
        seconds: 3,
        connections: 10_000,
    }
}

fn check_prerequisites() -> Result<()> {
    if let Some(what) = lab::missing() {
        anyhow::bail!("no measurement without it: {what}");
    }
    for program in ["taskset", "curl", "openssl", "wrk", "haproxy", "nginx"] {
        ensure!(
            lab::installed(program),
            "{program} is missing; mend: packaging/setup.sh test bench"
        );
    }
    lab::binary("pen").map(drop)
}
