//! A forwarder without a decision: what arrives on an interface goes back out of it to one MAC,
//! over AF_XDP. The base that Pen's speed is measured against, and the proof that the lab's wiring
//! works.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::maps::XskMap;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use clap::Parser;
use lab::Mac;
use lab::forwarder::{Forwarder, Service, serve};

#[derive(Parser)]
#[command(about = "Forward all frames of an interface to one MAC over AF_XDP")]
struct Options {
    #[arg(long)]
    interface: String,
    /// The MAC to forward to
    #[arg(long)]
    to: Mac,
    /// Queues to serve, from 0
    #[arg(long, default_value_t = 1)]
    queues: u32,
    /// Attach the program in generic mode
    #[arg(long)]
    generic: bool,
    /// Spin with preferred busy polling
    #[arg(long)]
    busy: bool,
    /// Take frames of several buffers (jumbo)
    #[arg(long)]
    multi_buffer: bool,
    /// The core to stay on
    #[arg(long)]
    core: Option<usize>,
    /// The eBPF object with the program and the map of sockets
    #[arg(long)]
    object: PathBuf,
    #[arg(long, default_value = "redirect")]
    program: String,
    #[arg(long, default_value = "SOCKETS")]
    map: String,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(id) = options.core {
        ensure!(
            core_affinity::set_for_current(core_affinity::CoreId { id }),
            "no core {id}"
        );
    }
    let own = fs::read_to_string(format!("/sys/class/net/{}/address", options.interface))
        .with_context(|| format!("there is no interface {} here", options.interface))?;
    let own: Mac = own.trim().parse()?;
    let service = Service {
        busy: options.busy,
        multi_buffer: options.multi_buffer,
    };
    let mut queues = (0..options.queues)
        .map(|queue| Forwarder::open(&options.interface, queue, own, options.to, service))
        .collect::<Result<Vec<_>>>()?;

    let mut ebpf = aya::Ebpf::load_file(&options.object)
        .with_context(|| format!("loading {}", options.object.display()))?;
    let map = ebpf
        .map_mut(&options.map)
        .with_context(|| format!("no map {}", options.map))?;
    let mut sockets = XskMap::try_from(map)?;
    for (number, queue) in (0..).zip(&queues) {
        sockets
            .set(number, queue.socket(), 0)
            .context("putting a socket into the map")?;
    }
    let program: &mut Xdp = ebpf
        .program_mut(&options.program)
        .with_context(|| format!("no program {}", options.program))?
        .try_into()?;
    program.load().context("loading the program")?;
    // The mode is named, so that nothing falls back unseen. The link ends with this process.
    let mode = if options.generic {
        XdpMode::Skb
    } else {
        XdpMode::Driver
    };
    program
        .attach(&options.interface, mode)
        .context("attaching the program")?;
    println!("ready");
    serve(&mut queues).context("forwarding")
}
