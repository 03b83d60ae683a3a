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

/// Bytes kept of a frame. Each slot of tcpdump's ring is as large: kept whole (256 KiB), 8 frames
/// would fill it.
const SNAP: &str = "9300";
/// KiB of the ring: some 2,000 slots.
const RING: &str = "32768";

/// A capture that runs until it is stopped or dropped.
///
/// An interface with a native XDP program shows here only what the program passes; what it
/// redirects or sends back is seen at the switch's end of the cable. Frames longer than 9,300
/// bytes, so those not yet cut into segments, are kept up to there.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

impl Capture {
    /// Catches what passes `interface` in both directions and matches `filter` (tcpdump's language,
    /// empty for all). The interface is not made promiscuous. When this returns, the capture sees
    /// every frame.
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
            "-Z",
            "root",
            "-s",
            SNAP,
            "-B",
            RING,
        ];
        let words = options.into_iter().chain(["-i", interface, "-w", &path]);
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
    ///
    /// # Errors
    /// Frames passed that the capture had no room for: what it shows would not be all.
    pub fn stop(mut self) -> Result<Vec<Vec<u8>>> {
        thread::sleep(SETTLE);
        self.tcpdump.stop(Signal::Int, START_LIMIT)?;
        let output = self.tcpdump.output();
        let whole = output
            .lines()
            .any(|line| line == "0 packets dropped by kernel");
        ensure!(
            whole,
            "the capture is not whole; tcpdump printed:\n{output}"
        );
        self.frames()
    }
}
