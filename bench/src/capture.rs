//! The frames that pass an interface, caught by tcpdump, VLAN tags included.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::namespace::Namespace;
use crate::pcap::read_pcap;
use crate::process::{Process, Signal};

const START_LIMIT: Duration = Duration::from_secs(5);
/// Time for frames on their way through a queue or a softirq.
const SETTLE: Duration = Duration::from_millis(100);

/// A capture that runs until it is stopped or dropped.
///
/// An interface with a native XDP program shows here only what the program passes; what it redirects or sends back is
/// seen at the switch's end of the cable.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

impl Capture {
    /// Catches what passes `interface` in both directions and matches `filter` (tcpdump's language, empty for all).
    /// The interface is not made promiscuous. When this returns, the capture sees every frame.
    pub fn start(machine: &Namespace, interface: &str, filter: &str) -> Result<Self> {
        let number = machine.next_number();
        let file = machine.folder().join(format!("{number}-{interface}.pcap"));
        let path = file.to_string_lossy().into_owned();
        // -U with immediate mode: each frame is in the file at once; -Z: the folder is root's.
        let options = [
            "-p",
            "-n",
            "-U",
            "--immediate-mode",
            "-s",
            "0",
            "-Z",
            "root",
            "-i",
        ];
        let words = options.into_iter().chain([interface, "-w", &path]);
        let tcpdump = machine.spawn("tcpdump", words.chain(filter.split_whitespace()))?;
        tcpdump.wait_for_line("listening on", START_LIMIT)?;
        Ok(Self { tcpdump, file })
    }

    /// The frames so far.
    pub fn frames(&self) -> Result<Vec<Vec<u8>>> {
        // tcpdump writes the head with the first frame.
        let empty = self.file.metadata().map_or(0, |data| data.len()) == 0;
        if empty {
            Ok(Vec::new())
        } else {
            read_pcap(&self.file)
        }
    }

    /// Waits until at least `count` frames were caught and returns them all.
    ///
    /// # Errors
    /// Fewer came in `limit`.
    pub fn wait_for(&self, count: usize, limit: Duration) -> Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + limit;
        loop {
            let frames = self.frames()?;
            if frames.len() >= count {
                return Ok(frames);
            }
            let seen = frames.len();
            ensure!(
                Instant::now() < deadline,
                "{seen} of {count} frames caught in {limit:?}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the capture, after a moment for frames still on their way, and returns its frames.
    pub fn stop(mut self) -> Result<Vec<Vec<u8>>> {
        thread::sleep(SETTLE);
        self.tcpdump.stop(Signal::Int, START_LIMIT)?;
        self.frames()
    }
}
