//! Counters of a machine's kernel.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::namespace::Namespace;

/// Frames and losses of one interface since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_dropped: u64,
    pub rx_errors: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_dropped: u64,
    pub tx_errors: u64,
}

#[derive(Deserialize)]
struct Link {
    stats64: Stats,
}

#[derive(Deserialize)]
struct Stats {
    rx: Direction,
    tx: Direction,
}

#[derive(Deserialize)]
struct Direction {
    packets: u64,
    bytes: u64,
    dropped: u64,
    errors: u64,
}

/// What the kernel counted on `interface`.
///
/// # Errors
/// There is no such interface.
pub fn link_counters(machine: &Namespace, interface: &str) -> Result<LinkCounters> {
    let text = machine
        .ip(&format!("-json -stats link show dev {interface}"))?
        .stdout;
    let links: Vec<Link> = serde_json::from_str(&text)
        .with_context(|| format!("reading the counters of {interface}: {text}"))?;
    let Stats { rx, tx } = links
        .into_iter()
        .next()
        .context("ip showed no link")?
        .stats64;
    Ok(LinkCounters {
        rx_packets: rx.packets,
        rx_bytes: rx.bytes,
        rx_dropped: rx.dropped,
        rx_errors: rx.errors,
        tx_packets: tx.packets,
        tx_bytes: tx.bytes,
        tx_dropped: tx.dropped,
        tx_errors: tx.errors,
    })
}

/// One of the machine's protocol counters since it was made, by nstat's name: `TcpInCsumErrors`,
/// `UdpInCsumErrors`, `IpForwDatagrams`, `TcpRetransSegs`, ...
///
/// # Errors
/// The kernel has no counter of this name.
pub fn snmp_counter(machine: &Namespace, name: &str) -> Result<u64> {
    // -a: since ever, -z: also those that are 0, -s: leave no history behind.
    let text = machine.run_ok("nstat", ["-a", "-z", "-s", name])?.stdout;
    text.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .find(|(found, _)| *found == name)
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("this kernel counts no {name}"))
}

/// One of the driver's own counters (`ethtool -S`); veth has `rx_queue_0_xdp_packets`,
/// `peer_tx_queue_0_xdp_xmit`, ...
///
/// # Errors
/// The driver has no counter of this name.
pub fn driver_counter(machine: &Namespace, interface: &str, name: &str) -> Result<u64> {
    let text = machine.ethtool(&format!("-S {interface}"))?.stdout;
    text.lines()
        .filter_map(|line| line.trim().split_once(": "))
        .find(|(found, _)| *found == name)
        .and_then(|(_, value)| value.parse().ok())
        .with_context(|| format!("{interface} counts no {name}:\n{text}"))
}
