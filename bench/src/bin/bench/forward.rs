//! Forwarders to be measured against, each as simple as its interface allows: every frame goes back
//! out with a fixed back end's MAC, and nothing is decided.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use clap::{Args, ValueEnum};
use lab::Mac;

use crate::packet_socket::{Batch, PacketSocket, Ring};

/// How frames are taken and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum How {
    /// A packet socket, one frame a call
    RecvSend,
    /// A packet socket, up to 64 frames a call
    Mmsg,
    /// A packet socket with a mapped receive ring (TPACKET_V3)
    Ring,
    /// The XDP program `swap`: XDP_TX after an exchange of the MACs
    XdpSwap,
}

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long)]
    how: How,
    #[arg(long)]
    interface: String,
    /// The back end's MAC
    #[arg(long)]
    to: Mac,
    #[arg(long)]
    core: usize,
    /// The eBPF object with the program `swap`
    #[arg(long)]
    object: PathBuf,
}

/// Forwards until killed; prints `ready` when it has begun.
pub(crate) fn main(options: &Options) -> Result<()> {
    let id = options.core;
    ensure!(
        core_affinity::set_for_current(core_affinity::CoreId { id }),
        "there is no core {id}"
    );
    let interface = &options.interface;
    let opening = || format!("opening a packet socket on {interface}");
    let to = options.to.0;
    let change = |frame: &mut [u8]| {
        if let Some(destination) = frame.first_chunk_mut() {
            *destination = to;
        }
    };
    match options.how {
        How::RecvSend => {
            let mut socket = PacketSocket::open(interface).with_context(opening)?;
            println!("ready");
            let mut buffer = [0; 2048];
            loop {
                let length = socket.receive(&mut buffer)?;
                change(&mut buffer);
                socket.send(&buffer[..length])?;
            }
        }
        How::Mmsg => {
            let socket = PacketSocket::open(interface).with_context(opening)?;
            println!("ready");
            let mut batch = Batch::new();
            loop {
                let count = batch.receive(&socket)?;
                batch.forward(&socket, count, change)?;
            }
        }
        How::Ring => {
            let mut ring = Ring::open(interface).with_context(opening)?;
            println!("ready");
            loop {
                ring.forward(change)?;
            }
        }
        How::XdpSwap => swap(options),
    }
}

fn swap(options: &Options) -> Result<()> {
    let object = &options.object;
    let mut ebpf =
        Ebpf::load_file(object).with_context(|| format!("loading {}", object.display()))?;
    let program: &mut Xdp = ebpf
        .program_mut("swap")
        .context("the object has no program swap")?
        .try_into()?;
    program.load().context("loading the program swap")?;
    // The mode is named, so that nothing falls back unseen. The link ends with this process.
    program
        .attach(&options.interface, XdpMode::Driver)
        .context("attaching the program swap")?;
    println!("ready");
    loop {
        std::thread::park();
    }
}
