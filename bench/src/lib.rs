//! The lab: machines on one Ethernet segment, made of network namespaces, for tests, the demo and
//! measurements.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use lab::{Lab, Nginx, Signal, Station};
//! use std::time::Duration;
//!
//! let lab = Lab::builder().backends(3).queues(4).build()?;
//! let _web = Nginx::start_all(&lab, &[80])?;
//! let bpffs = lab.bpffs();
//! let mut pen = lab.balancer().spawn("pen", ["--bpffs".as_ref(), bpffs.as_os_str()])?;
//! pen.wait_for_line("ready", Duration::from_secs(5))?;
//! let page = lab::fetch(lab.client(), Station::vip(0).addresses()[0], 80, "/")?;
//! assert!(page.starts_with("be"), "{page}");
//! pen.stop(Signal::Term, Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything a lab makes is gone when it is dropped, and also when its process is killed
//! (`guard.rs`).

mod address;
mod capture;
mod counter;
mod debian;
pub mod echo;
mod flood;
pub mod forwarder;
mod guard;
mod link;
mod load;
mod namespace;
mod offload;
mod pass;
mod pcap;
mod peer;
mod process;
pub mod raw_socket;
mod require;
mod server;
mod sink;
mod topology;
mod wire;

pub use address::{BACKENDS_MAX, BALANCERS_MAX, Mac, PREFIX_V4, PREFIX_V6, Station, host_port};
pub use capture::Capture;
pub use counter::{LinkCounters, driver_counter, link_counters, snmp_counter};
pub use debian::DebianPen;
pub use flood::{Flood, Flooded, Offer, Offered};
pub use link::{BRIDGE, NIC, Nic, UNDERLAY};
pub use load::{Load, Tally};
pub use namespace::Namespace;
pub use offload::Offloads;
pub use pass::{Passing, attach_foreign};
pub use pcap::{read_pcap, write_pcap};
pub use peer::{Peer, binary, neighbour, object, send_frames};
pub use process::{Output, Process, Signal};
pub use require::{installed, missing, ready, skip};
pub use server::{Iperf, Nginx, big_file, download_is_intact, fetch, fetch_within};
pub use sink::Sink;
pub use topology::{Builder, Lab};
pub use wire::Wire;
