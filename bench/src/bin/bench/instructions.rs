//! Instructions that `steer` takes for a packet, counted by valgrind's callgrind: the same on a
//! loaded machine as on a quiet one.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use pen_common::frame::SliceFrame;
use pen_common::steer::steer;
use pen_common::testing::{World, net, v4};
use pen_common::verdict::Verdict;

/// Packets of the short and of the long run; the difference of the two leaves out what starting
/// costs.
const SHORT: u64 = 1_000;
const LONG: u64 = 11_000;
/// Bytes of a frame's two MAC addresses.
const MACS: usize = 12;

/// How often to steer.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long)]
    packets: u64,
}

/// Steers one IPv4 TCP packet again and again on a slice, its MACs put back each time.
pub(crate) fn main(options: &Options) -> Result<()> {
    let world = World::example();
    // As the workers do.
    world.set_finish(true);
    let frame = v4(net::CLIENT4, net::VIP4).tcp(40_000, 81, &[0; 6]).frame();
    let mut buffer = frame.clone();
    for _ in 0..options.packets {
        buffer[..MACS].copy_from_slice(&frame[..MACS]);
        let mut slice = SliceFrame::new(black_box(&mut buffer), frame.len());
        let verdict = steer(&mut slice, &world.tables());
        ensure!(
            matches!(black_box(verdict), Verdict::Forward(_)),
            "not forwarded: {verdict:?}"
        );
    }
    Ok(())
}

/// Instructions for one packet that is forwarded; `own` is the running program.
///
/// # Errors
/// valgrind is missing or does not run.
pub(crate) fn per_packet(own: &Path, folder: &Path) -> Result<f64> {
    ensure!(
        lab::installed("valgrind"),
        "valgrind is missing (packaging/setup.sh bench installs it)"
    );
    let short = count(own, SHORT, folder)?;
    let long = count(own, LONG, folder)?;
    Ok((long - short) as f64 / (LONG - SHORT) as f64)
}

fn count(own: &Path, packets: u64, folder: &Path) -> Result<u64> {
    let out = folder.join(format!("callgrind-{packets}"));
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(own)
        .arg("steer")
        .arg(format!("--packets={packets}"))
        .output()
        .context("starting valgrind")?;
    ensure!(
        output.status.success(),
        "valgrind failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = fs::read_to_string(&out).with_context(|| format!("reading {}", out.display()))?;
    total(&text).with_context(|| format!("{} has no total", out.display()))
}

/// The sum of all costs, which callgrind writes as `summary: N` or `totals: N`.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| {
        line.strip_prefix("summary: ")
            .or_else(|| line.strip_prefix("totals: "))
    })?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn the_total_is_found() {
        assert_eq!(total("events: Ir\nsummary: 4711\n\nfn=x\n"), Some(4711));
        assert_eq!(total("events: Ir\n"), None);
    }
}
