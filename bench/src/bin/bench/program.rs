//! Nanoseconds that the steering program takes for a forwarded packet, by the kernel's own
//! test-run: against a bare swap, each behind the same wrapper, which puts the frame back as it was
//! sent and tail-calls. Without it every run but the first would see a frame that is already
//! rewritten.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya::EbpfLoader;
use aya::maps::ProgramArray;
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp, loaded_programs};
use lab::Namespace;

use crate::traffic::FRAME_BYTES;

/// The action of a program that sends the frame back (`XDP_TX`).
const XDP_TX: u32 = 3;

/// Nanoseconds a frame, of one test-run each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) steer: f64,
    pub(crate) swap: f64,
}

/// Measures the program that is attached to `interface` with `frame`, `count` times, with `repeat`
/// runs each.
///
/// # Errors
/// There is no program, or it does not send the frame back.
pub(crate) fn measure(
    object: &Path,
    steer: &ProgramFd,
    frame: &[u8; FRAME_BYTES],
    (count, repeat): (usize, u32),
) -> Result<Vec<Cost>> {
    let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| frame[at * 4 + byte]));
    let macs = [word(0), word(1), word(2)];
    let mut ebpf = EbpfLoader::new()
        .override_global("MACS", &macs, true)
        .load_file(object)
        .with_context(|| format!("loading {}", object.display()))?;
    let map = ebpf
        .take_map("UNDER_TEST")
        .context("the object has no map UNDER_TEST")?;
    let mut under_test = ProgramArray::try_from(map)?;
    let mut load = |name: &str| -> Result<ProgramFd> {
        let program: &mut Xdp = ebpf
            .program_mut(name)
            .context("not in the object")?
            .try_into()?;
        program.load()?;
        Ok(program.fd()?.try_clone()?)
    };
    let swap = load("swap").context("loading the program swap")?;
    load("restore").context("loading the program restore")?;
    let restore: &Xdp = ebpf
        .program("restore")
        .context("loaded above")?
        .try_into()?;
    let mut run = |program: &ProgramFd| -> Result<f64> {
        under_test
            .set(0, program, 0)
            .context("placing a program behind the wrapper")?;
        let mut back = [0; 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut back),
            repeat,
            ..TestRunOptions::new()
        };
        let result = restore.test_run(options).context("running a program")?;
        ensure!(
            result.return_value == XDP_TX && back[..6] != frame[..6],
            "a program did not forward the frame but answered {}",
            result.return_value
        );
        Ok(result.duration.as_nanos() as f64)
    };
    (0..count)
        .map(|_| {
            Ok(Cost {
                steer: run(steer)?,
                swap: run(&swap)?,
            })
        })
        .collect()
}

/// The XDP program on an interface.
///
/// # Errors
/// There is none.
pub(crate) fn attached(machine: &Namespace, interface: &str) -> Result<ProgramFd> {
    let text = machine
        .ip(&format!("-json link show dev {interface}"))?
        .stdout;
    let links: serde_json::Value = serde_json::from_str(&text).context("reading ip's answer")?;
    let id = links[0]["xdp"]["prog"]["id"]
        .as_u64()
        .with_context(|| format!("no XDP program on {interface}"))?;
    for program in loaded_programs() {
        let program = program.context("listing the programs of the kernel")?;
        if u64::from(program.id()) == id {
            return program.fd().context("opening the program");
        }
    }
    anyhow::bail!("the program {id} on {interface} is gone")
}
