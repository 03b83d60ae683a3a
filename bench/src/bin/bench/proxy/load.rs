//! Loads through a proxy, and what the proxy's threads used for them.

use std::process::Command;
use std::time::Duration;
use std::{fs, io, str};

use anyhow::{Context, Result, ensure};
use lab::Process;

use super::client::{Downloaded, Paced};
use super::site::{Proxy, Site};
use super::tls::Shaken;

/// Connections of loads by small requests, for each core that loads.
pub(crate) const CONNECTIONS: u32 = 64;
/// Downloads at once.
const DOWNLOADS: u32 = 4;
/// Connections at once where each has a handshake.
const HANDSHAKES: u32 = 16;
/// What a load may take beyond its time.
const GRACE: Duration = Duration::from_secs(20);

/// What a proxy is asked to do; the work is counted in the unit named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// Small requests on connections that are kept, as fast as they are answered.
    Kept,
    /// Small requests with a new connection each, on both sides of the proxy.
    New,
    /// Streams of bytes from the server, as fast as they come.
    Bulk,
    /// Connections with a full handshake of TLS 1.3 and one small request each.
    Full,
    /// Such that resume a session of TLS 1.3.
    Resumed13,
    /// Such that resume a session of TLS 1.2.
    Resumed12,
}

impl Load {
    /// Name of the unit, and how many of what is counted make one.
    pub(crate) const fn unit(self) -> (&'static str, f64) {
        match self {
            Self::Kept => ("1,000 requests", 1e3),
            Self::New | Self::Full | Self::Resumed13 | Self::Resumed12 => {
                ("1,000 connections", 1e3)
            }
            Self::Bulk => ("Gbit", 1.25e8),
        }
    }
}

/// What came of one load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// Requests or bytes.
    pub(crate) done: f64,
    pub(crate) seconds: f64,
    /// CPU-seconds of the proxy's threads.
    pub(crate) cpu_seconds: f64,
}

impl Work {
    pub(crate) fn per_cpu_second(&self) -> f64 {
        self.done / self.cpu_seconds
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.done / self.seconds
    }
}

impl Site {
    /// Loads a proxy for some seconds.
    ///
    /// # Errors
    /// A request failed, nothing was done, or it was not what the load is about.
    pub(crate) fn measure(&self, proxy: &Proxy, load: Load, seconds: u32) -> Result<Work> {
        let opened = || lab::snmp_counter(self.machine(), "TcpPassiveOpens");
        let (before, opened_before) = (proxy.cpu_seconds()?, opened()?);
        let (done, took) = match load {
            Load::Kept => self.wrk(proxy, seconds, &[])?,
            Load::New => self.wrk(proxy, seconds, &["-H", "Connection: close"])?,
            Load::Bulk => self.download(proxy, seconds)?,
            Load::Full => self.handshakes(proxy, seconds, &[])?,
            Load::Resumed13 => self.handshakes(proxy, seconds, &["--resume"])?,
            Load::Resumed12 => self.handshakes(proxy, seconds, &["--resume", "--tls12"])?,
        };
        let cpu_seconds = proxy.cpu_seconds()? - before;
        let name = proxy.contender.name();
        ensure!(done > 0.0 && cpu_seconds > 0.0, "{name} did nothing");
        // One by the proxy and one by the server for each request, or it is not what it is called.
        let opened = opened()? - opened_before;
        ensure!(
            load != Load::New || opened as f64 >= 2.0 * done,
            "{opened} connections were opened for {done} requests through {name}"
        );
        ensure!(
            load != Load::Kept || opened as f64 <= done / 10.0,
            "connections through {name} were not kept: {opened} for {done} requests"
        );
        Ok(Work {
            done,
            seconds: took,
            cpu_seconds,
        })
    }

    /// Requests answered and the seconds that it took.
    fn wrk(&self, proxy: &Proxy, seconds: u32, more: &[&str]) -> Result<(f64, f64)> {
        let cores = self.load_cores.len() as u32;
        let threads = cores.to_string();
        let (connections, time) = ((cores * CONNECTIONS).to_string(), format!("{seconds}s"));
        let scheme = if proxy.contender.is_tls() {
            "https"
        } else {
            "http"
        };
        let url = format!("{scheme}://127.0.0.1:{}/", proxy.port);
        let words = ["-t", &threads, "-c", &connections, "-d", &time];
        let words = words.iter().chain(more).copied();
        let words = words.chain([url.as_str()]).map(str::to_owned).collect();
        let text = self.finish(self.on_load_cores("wrk".as_ref(), words), seconds)?;
        read_wrk(&text).with_context(|| format!("reading what wrk says: {text}"))?
    }

    /// Bytes and seconds.
    fn download(&self, proxy: &Proxy, seconds: u32) -> Result<(f64, f64)> {
        let words = self.words_to(proxy, "download", DOWNLOADS, seconds);
        let text = self.finish(self.own_load(words), seconds)?;
        let Downloaded { bytes, seconds } =
            serde_json::from_str(&text).with_context(|| format!("reading {text:?}"))?;
        Ok((bytes as f64, seconds))
    }

    /// Connections and seconds.
    fn handshakes(&self, proxy: &Proxy, seconds: u32, more: &[&str]) -> Result<(f64, f64)> {
        let mut words = self.words_to(proxy, "handshakes", HANDSHAKES, seconds);
        words.extend(more.iter().map(ToString::to_string));
        let text = self.finish(self.own_load(words), seconds)?;
        let shaken: Shaken =
            serde_json::from_str(&text).with_context(|| format!("reading {text:?}"))?;
        Ok((shaken.connections as f64, shaken.seconds))
    }

    /// One of our own loads on a proxy, over TLS if that is what it speaks.
    fn words_to(&self, proxy: &Proxy, part: &str, connections: u32, seconds: u32) -> Vec<String> {
        let mut words = own_words(part, proxy.port, connections, seconds);
        if proxy.contender.is_tls() {
            words.push(format!(
                "--ca={}",
                self.certificates().join("ca.pem").display()
            ));
        }
        words
    }

    /// Answers at `rate` requests a second over all connections.
    ///
    /// # Errors
    /// The rate could not be kept up.
    pub(crate) fn pace(&self, port: u16, rate: f64, seconds: u32) -> Result<Paced> {
        let mut words = own_words("pace", port, CONNECTIONS, seconds);
        words.push(format!("--rate={rate}"));
        let text = self.finish(self.own_load(words), seconds)?;
        let paced: Paced =
            serde_json::from_str(&text).with_context(|| format!("reading {text:?}"))?;
        ensure!(
            paced.rate > 0.95 * rate,
            "{:.0} of {rate:.0} requests a second were answered",
            paced.rate
        );
        Ok(paced)
    }

    /// Opens connections that stay idle after one answer each, until the returned value is dropped.
    pub(crate) fn hold(&self, proxy: &Proxy, connections: u32) -> Result<Process> {
        let words = self.words_to(proxy, "hold", connections, 0);
        let process = self.machine().spawn_command(self.own_load(words), "hold")?;
        process.wait_for_line("holding", 2 * GRACE)?;
        Ok(process)
    }

    /// Runs a load to its end and returns what it printed.
    fn finish(&self, command: Command, seconds: u32) -> Result<String> {
        let mut process = self.machine().spawn_command(command, "load")?;
        let status = process.wait(Duration::from_secs(seconds.into()) + GRACE)?;
        let output = process.output();
        ensure!(status.success(), "a load failed: {output}");
        Ok(output)
    }
}

fn own_words(part: &str, port: u16, connections: u32, seconds: u32) -> Vec<String> {
    vec![
        part.into(),
        format!("--to=127.0.0.1:{port}"),
        format!("--connections={connections}"),
        format!("--milliseconds={}", u64::from(seconds) * 1000),
    ]
}

/// Requests and seconds; `None` if there are none. Errors of connections or of answers make it an
/// error: the figure would be of something else.
fn read_wrk(text: &str) -> Option<Result<(f64, f64)>> {
    let lines = || text.lines().map(str::trim);
    let bad =
        lines().find(|line| line.starts_with("Socket errors:") || line.starts_with("Non-2xx"));
    let line = lines().find(|line| line.contains(" requests in "))?;
    let done: f64 = line.split(' ').next()?.parse().ok()?;
    let rate = lines().find_map(|line| line.strip_prefix("Requests/sec:"))?;
    let rate: f64 = rate.trim().parse().ok()?;
    if let Some(bad) = bad {
        return Some(Err(anyhow::anyhow!("wrk says: {bad}")));
    }
    (rate > 0.0).then(|| Ok((done, done / rate)))
}

/// How many files this process may have open (proc(5)), and so what it starts.
pub(crate) fn open_files() -> io::Result<u32> {
    let text = fs::read_to_string("/proc/self/limits")?;
    files_in(&text).ok_or_else(|| io::Error::other("no limit of open files in /proc/self/limits"))
}

fn files_in(limits: &str) -> Option<u32> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u32::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 2s test @ http://127.0.0.1:8001/\n  1 threads and 64 connections\n  \
                       Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.02ms\n  \
                       30000 requests in 2.10s, 6.02MB read\nRequests/sec:  15000.00\n\
                       Transfer/sec:      3.01MB\n";

    #[test]
    fn what_wrk_says_is_understood() {
        assert_eq!(read_wrk(WRK).unwrap().unwrap(), (30000.0, 2.0));
        let bad = WRK.replace(
            "Requests/sec",
            "  Socket errors: connect 0, read 3\nRequests/sec",
        );
        let error = read_wrk(&bad).unwrap().unwrap_err().to_string();
        assert!(error.contains("read 3"), "{error}");
        assert!(read_wrk("unable to connect").is_none());
    }

    #[test]
    fn the_limit_of_open_files_is_found() {
        let text = "Limit   Soft Limit  Hard Limit  Units\n\
                    Max processes     100   200   processes\n\
                    Max open files            20000                20000                files\n";
        assert_eq!(files_in(text), Some(20_000));
        assert!(open_files().unwrap() > 0);
    }
}
