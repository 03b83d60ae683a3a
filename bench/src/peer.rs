//! Where the programs of the lab are, and the small servers and clients of `lab-peer` as values.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use crate::address::host_port;
use crate::load::{Load, Tally};
use crate::namespace::Namespace;
use crate::pcap::write_pcap;
use crate::process::Process;
use crate::topology::Lab;

const START_LIMIT: Duration = Duration::from_secs(5);

/// Finds a program of this workspace (`lab-peer`, `l2fwd`, `pen`, `penctl`) that cargo has built,
/// of the same profile as the caller's: in `$PEN_BIN`, beside the running program, or in the
/// workspace's target folder.
///
/// # Errors
/// It is not there; the text says how to build it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let running = env::current_exe().context("finding the running program")?;
    let beside: Vec<&Path> = running.ancestors().skip(1).take(2).collect();
    // A test runs from PROFILE/deps, a program from PROFILE.
    let profile = beside
        .iter()
        .filter_map(|folder| folder.file_name())
        .find(|name| *name != "deps")
        .context("the running program stands in no folder")?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"),
        PathBuf::from,
    );
    env::var_os("PEN_BIN")
        .map(PathBuf::from)
        .into_iter()
        .chain(beside.iter().map(|folder| folder.to_path_buf()))
        .chain([target.join(profile)])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built; build it with: cargo build --workspace"))
}

/// The workspace's eBPF object of bare programs to measure against: `redirect` with its map
/// `SOCKETS`, and `swap`.
pub fn object() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("pen-xdp")
        .join("bpf/bench.o")
}

/// A running `lab-peer` server; it ends when dropped.
#[derive(Debug)]
pub struct Peer {
    process: Process,
}

impl Peer {
    /// UDP on all VIPs of back end `index`: answers each datagram with `be0 CLIENT:PORT TEXT`.
    pub fn udp(lab: &Lab, index: usize, port: u16) -> Result<Self> {
        Self::serve(lab, index, "udp-echo", port)
    }

    /// TCP on all VIPs of back end `index`: greets with the line `be0 CLIENT:PORT`, then returns
    /// what it is sent.
    pub fn tcp(lab: &Lab, index: usize, port: u16) -> Result<Self> {
        Self::serve(lab, index, "tcp-ident", port)
    }

    /// The program, to stop or signal it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn serve(lab: &Lab, index: usize, what: &str, port: u16) -> Result<Self> {
        let listen = lab
            .vips()
            .map(|vip| format!("--listen={}", host_port(vip, port)));
        let words = [what.to_owned(), format!("--name=be{index}")]
            .into_iter()
            .chain(listen);
        let process = lab.backend(index).spawn(binary("lab-peer")?, words)?;
        process.wait_for_line("ready", START_LIMIT)?;
        Ok(Self { process })
    }
}

impl Load {
    /// Starts the load; [`Load::finish`] reads the result.
    pub fn spawn(&self, from: &Namespace) -> Result<Process> {
        let what = if self.tcp { "tcp-load" } else { "udp-load" };
        let words = [
            what.to_owned(),
            format!("--to={}", self.to),
            format!("--flows={}", self.flows),
            format!("--count={}", self.count),
            format!("--rate={}", self.rate),
        ];
        from.spawn(binary("lab-peer")?, words)
    }

    /// Waits for the end of a load and returns its tally.
    pub fn finish(&self, mut process: Process) -> Result<Tally> {
        let limit = Duration::from_secs(self.count / self.rate.max(1) + 15);
        let status = process.wait(limit)?;
        let output = process.output();
        ensure!(status.success(), "the load failed: {output}");
        let line = output.lines().last().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("reading the tally {output:?}"))
    }

    /// Runs the load to its end.
    pub fn run(&self, from: &Namespace) -> Result<Tally> {
        self.finish(self.spawn(from)?)
    }
}

/// Sends frames as they are out of `interface`, in order.
pub fn send_frames(from: &Namespace, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
    let file = from
        .folder()
        .join(format!("{}-send.pcap", from.next_number()));
    write_pcap(&file, frames)?;
    let words = ["send-frames", "--interface", interface, "--file"].map(Into::into);
    from.run_ok(binary("lab-peer")?, words.into_iter().chain([file.clone()]))?;
    fs::remove_file(&file).context("removing the frames that were sent")
}

/// The MAC that `from` has for an address, if it has one: who answers for a VIP, for example.
pub fn neighbour(from: &Namespace, address: std::net::IpAddr) -> Result<Option<String>> {
    let text = from.ip(&format!("neigh show to {address}"))?.stdout;
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "lladdr")
        .skip(1);
    Ok(words.next().map(str::to_owned))
}
