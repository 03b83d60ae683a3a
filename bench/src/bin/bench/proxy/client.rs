//! The clients of the measurements that `wrk` is not: at a fixed rate, idle, and for bulk.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::server::{BODY_BYTES, BULK};
use super::tls;

/// How long an answer may take before it is lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Left out at the start of a paced load: everybody wakes up.
const WARM_UP: Duration = Duration::from_millis(200);
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What a request goes by: TCP, or TLS over it.
pub(super) trait Wire: Read + Write + Send {}

impl Wire for TcpStream {}

/// A load of our own.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    pub(super) connections: u32,
    #[arg(long, default_value_t = 1000)]
    pub(super) milliseconds: u64,
    #[command(flatten)]
    pub(super) tls: tls::Options,
    /// Requests a second over all connections (paced load only)
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
}

/// Answers to requests at a fixed rate.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Paced {
    /// Answers that count.
    pub(crate) answers: u64,
    /// Answers a second.
    pub(crate) rate: f64,
    /// Microseconds from when a request was due until its answer was there.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// What was downloaded.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Downloaded {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
}

/// Asks at a fixed rate, whatever comes back, and prints [`Paced`].
///
/// Each connection has the times at which its requests are due, and an answer's time counts from
/// then, not from when the request could be sent at last: a proxy that stalls is charged with
/// everybody who had to wait.
pub(crate) fn pace(options: &Options) -> Result<()> {
    ensure!(
        options.rate > 0.0 && options.connections > 0,
        "a paced load needs a rate and connections"
    );
    // Sleeping is late by 50 us as a rule; threads inherit this.
    fs::write("/proc/self/timerslack_ns", "1").context("setting the slack of timers")?;
    let streams = open(options)?;
    let start = Instant::now() + Duration::from_millis(20);
    let end = start + WARM_UP + Duration::from_millis(options.milliseconds);
    let every = Duration::from_secs_f64(f64::from(options.connections) / options.rate);
    let threads = (0_u32..).zip(streams).map(|(index, stream)| {
        let first = start + Duration::from_secs_f64(f64::from(index) / options.rate);
        thread::spawn(move || ask_when_due(stream, (first, end, every), start + WARM_UP))
    });
    let mut times = Vec::new();
    for thread in threads.collect::<Vec<_>>() {
        let of_one = thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        times.extend(of_one?);
    }
    times.sort_unstable();
    let paced = Paced {
        answers: times.len() as u64,
        rate: times.len() as f64 / (end - start - WARM_UP).as_secs_f64(),
        p50: share(&times, 0.5).context("no answers")?,
        p99: share(&times, 0.99).context("no answers")?,
    };
    println!("{}", serde_json::to_string(&paced)?);
    Ok(())
}

/// Times of one connection's answers to requests that were due from `counts` on.
fn ask_when_due(
    mut stream: Box<dyn Wire>,
    (first, end, every): (Instant, Instant, Duration),
    counts: Instant,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut due = first;
    while due < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        exchange(&mut *stream)?;
        if due >= counts {
            times.push(due.elapsed());
        }
        due += every;
    }
    Ok(times)
}

/// The value that this share of sorted times does not exceed, microseconds.
fn share(sorted: &[Duration], share: f64) -> Option<f64> {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    let time = sorted.get(at.checked_sub(1)?)?;
    Some(time.as_secs_f64() * 1e6)
}

/// Opens connections, has one answer on each, says `holding` and keeps them until it is killed.
pub(crate) fn hold(options: &Options) -> Result<()> {
    let mut streams = open(options)?;
    for stream in &mut streams {
        exchange(&mut **stream)?;
    }
    println!("holding");
    loop {
        thread::park();
    }
}

/// Reads streams without an end for a while, and prints [`Downloaded`].
pub(crate) fn download(options: &Options) -> Result<()> {
    let start = Instant::now();
    let end = start + Duration::from_millis(options.milliseconds);
    let threads = open(options)?.into_iter().map(|mut stream| {
        thread::spawn(move || -> Result<u64> {
            stream.write_all(request(BULK).as_bytes())?;
            let mut buffer = vec![0; 256 << 10];
            let mut bytes = 0;
            while Instant::now() < end {
                let length = stream.read(&mut buffer).context("reading a stream")?;
                ensure!(length > 0, "a stream ended after {bytes} bytes");
                bytes += length as u64;
            }
            Ok(bytes)
        })
    });
    let mut bytes = 0;
    for thread in threads.collect::<Vec<_>>() {
        bytes += thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", serde_json::to_string(&Downloaded { bytes, seconds })?);
    Ok(())
}

fn open(options: &Options) -> Result<Vec<Box<dyn Wire>>> {
    let config = options.tls.config()?;
    let one = |number| -> Result<Box<dyn Wire>> {
        let stream = connect(options).with_context(|| format!("connection {number}"))?;
        match &config {
            Some(config) => Ok(Box::new(tls::over(config, stream)?)),
            None => Ok(Box::new(stream)),
        }
    };
    (1..=options.connections).map(one).collect()
}

/// One connection, without TLS.
pub(super) fn connect(options: &Options) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&options.to, PATIENCE)
        .with_context(|| format!("connecting to {}", options.to))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: bench.test\r\n\r\n")
}

/// One request and its whole answer.
fn exchange(stream: &mut dyn Wire) -> Result<()> {
    stream.write_all(request("/").as_bytes())?;
    let mut buffer = [0; 1024];
    let mut length = 0;
    while !is_whole(&buffer[..length]) {
        let more = stream
            .read(&mut buffer[length..])
            .context("waiting for an answer")?;
        ensure!(more > 0, "the connection ended before the answer");
        length += more;
    }
    Ok(())
}

pub(super) fn is_whole(answer: &[u8]) -> bool {
    let end = answer
        .windows(HEAD_END.len())
        .position(|bytes| bytes == HEAD_END);
    end.is_some_and(|at| answer.len() >= at + HEAD_END.len() + BODY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_sorted_times() {
        let times: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        let of = |part| share(&times, part).unwrap().round();
        assert_eq!((of(0.5), of(0.99), of(1.0)), (100.0, 198.0, 200.0));
        assert_eq!(share(&[], 0.5), None);
    }

    #[test]
    fn an_answer_is_whole_with_its_body() {
        let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        answer.extend([b'x'; BODY_BYTES - 1]);
        assert!(!is_whole(&answer));
        answer.push(b'x');
        assert!(is_whole(&answer));
    }
}
