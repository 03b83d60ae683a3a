//! The measurements: Pen against bare forwarders, packet sockets and Debian's pen, as ratios inside one run.

mod busy;
mod forward;
mod generator;
mod packet_socket;
mod traffic;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the measurements start of themselves, inside of the lab.
#[derive(Subcommand)]
enum Part {
    #[command(hide = true)]
    Generate(generator::Options),
    #[command(hide = true)]
    Forward(forward::Options),
}

fn main() -> Result<()> {
    let options = Options::parse();
    match &options.part {
        Some(Part::Generate(options)) => generator::main(options),
        Some(Part::Forward(options)) => forward::main(options),
        None => Ok(()),
    }
}
