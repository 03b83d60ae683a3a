//! Instructions that `steer` takes for a packet, counted by valgrind's callgrind: the same on a loaded machine as on a quiet one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Packets of the short and of the long run; the difference of the two leaves out what starting costs.
const SHORT: u64 = 1_000;
const LONG: u64 = 11_000;

/// Instructions for one IPv4 TCP packet that is forwarded.
///
/// # Errors
/// valgrind or the program that steers packets in a loop is missing.
pub(crate) fn per_packet(folder: &Path) -> Result<f64> {
    ensure!(
        lab::installed("valgrind"),
        "valgrind is missing (packaging/setup.sh bench installs it)"
    );
    let program = program()?;
    let short = count(&program, SHORT, folder)?;
    let long = count(&program, LONG, folder)?;
    Ok((long - short) as f64 / (LONG - SHORT) as f64)
}

fn program() -> Result<PathBuf> {
    let program = lab::binary("bench")?
        .with_file_name("examples")
        .join("steer_count");
    ensure!(
        program.is_file(),
        "{} is not built; build it: cargo build --release -p pen-common --features testing --examples",
        program.display()
    );
    Ok(program)
}

fn count(program: &Path, packets: u64, folder: &Path) -> Result<u64> {
    let out = folder.join(format!("callgrind-{packets}"));
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            &format!("--callgrind-out-file={}", out.display()),
        ])
        .arg(program)
        .arg(packets.to_string())
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
