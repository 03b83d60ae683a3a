//! The shape of what `status`, `servers` and `counters` show.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{CertificatesStatus, HandshakeStatus, ServerTlsStatus};

use crate::config::words::words;
use crate::config::{Busy, HashBy, LogFormat, Mode, Plane, Protocol, XdpMode};

/// Everything about a running daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Pen's version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_s: u64,
    /// Generation of the configuration in force.
    pub generation: u64,
    /// Where the configuration came from.
    pub config: ConfigStatus,
    /// What works less well than it could.
    pub degraded: Vec<Degraded>,
    /// The data plane, if services are forwarded at layer 2. Its fields stand beside those above.
    #[serde(flatten)]
    pub dsr: Option<DsrStatus>,
    /// The services of proxy mode.
    pub proxy: Vec<ProxyStatus>,
    /// The host names of back ends.
    #[serde(default)]
    pub names: Vec<NameStatus>,
}

/// A host name that back ends were written by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NameStatus {
    /// The name.
    pub name: String,
    /// What it was last heard to stand for.
    pub addresses: Vec<IpAddr>,
    /// Addresses of its that are not made use of, each with the reason.
    pub unused: Vec<String>,
    /// Seconds since that was heard.
    pub age_s: u64,
    /// Seconds until it is looked up again.
    pub next_s: u64,
    /// Why the last look-up failed.
    pub error: Option<String>,
}

impl Status {
    /// The data plane.
    ///
    /// # Panics
    /// There is none.
    #[cfg(feature = "testing")]
    pub fn dsr(&self) -> &DsrStatus {
        self.dsr.as_ref().expect("a data plane is asked for")
    }
}

/// The data plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DsrStatus {
    /// The interface that carries the VIPs.
    pub interface: InterfaceStatus,
    /// Which plane forwards.
    pub plane: PlaneStatus,
    /// How the XDP program hangs on the interface.
    pub xdp: XdpStatus,
    /// Whether workers spin, as configured.
    pub busy: Busy,
    /// The interface's receive queues.
    pub queues: Vec<QueueStatus>,
    /// The VIPs.
    pub vips: Vec<VipStatus>,
    /// The pools.
    pub pools: Vec<PoolStatus>,
    /// Every reason, those that never happened, too.
    pub counters: Vec<Counter>,
    /// NIC settings that Pen changed and puts back at stop.
    pub nic_changes: Vec<NicChange>,
}

/// One service of proxy mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Its name.
    pub service: String,
    /// How it is served.
    pub mode: Mode,
    /// Where clients connect to.
    pub listen: Vec<String>,
    /// The pool that serves it; empty for one that only redirects or leads to others.
    pub pool: String,
    /// Where it sends every request, if it serves none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
    /// Its routes by name, as they are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sni_routes: Vec<String>,
    /// Clients that it led to other services by name, which are counted there.
    #[serde(default)]
    pub led: u64,
    /// Pen's switches, as `mode` shows them.
    pub balance: String,
    /// Connections now, those that wait for a server, too.
    pub connections: u32,
    /// Most connections at the same time.
    pub conn_max: u32,
    /// Clients that wait for a server that has room.
    pub waiting: u32,
    /// Clients that were taken, in all; in HTTP mode requests.
    pub accepted: u64,
    /// Every reason why a client was not served, with its count.
    pub refused: Vec<Counter>,
    /// The servers, in the order of Pen's numbers; then those for emergency and abuse.
    pub servers: Vec<ProxyServerStatus>,
    /// How many came to each listener, in the order of `listen`.
    #[serde(default)]
    pub listeners: Vec<ListenerStatus>,
    /// Its access log; `None` if it has none and had none.
    #[serde(default)]
    pub log: Option<AccessLogStatus>,
    /// Its certificates; `None` if its clients speak no TLS.
    #[serde(default)]
    pub certificates: Option<CertificatesStatus>,
    /// How it speaks TLS to its servers; `None` if it does not.
    #[serde(default)]
    pub server_tls: Option<ServerTlsStatus>,
}

/// One listener of a service in proxy mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Where clients connect to.
    pub listen: String,
    /// Connections that were taken there, in all; flows, if it is UDP.
    pub taken: u64,
}

/// The access log of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessLogStatus {
    /// A file or an address; `None` while it is off.
    pub target: Option<String>,
    /// How its lines are written.
    pub format: LogFormat,
    /// Lines that were written, since the daemon's start.
    pub written: u64,
    /// Lines that there was no room for, as they came faster than they could be written.
    pub dropped: u64,
    /// Lines that could not be written.
    pub failed: u64,
}

/// One server of a service in proxy mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyServerStatus {
    /// Pen's number in the pool, from 0; those for emergency and abuse have none.
    pub index: Option<usize>,
    /// Its name.
    pub name: String,
    /// Where it is: `ADDRESS:PORT` or a path.
    pub address: String,
    /// Its weight.
    pub weight: u16,
    /// Whether it takes new clients.
    pub state: BackendState,
    /// Seconds left on the blacklist.
    pub blacklist_left_s: Option<u32>,
    /// Connections now.
    pub conn: u32,
    /// Connections that were made to it, in all.
    pub connects: u64,
    /// Connections that could not be made, in all.
    pub failures: u64,
    /// Bytes sent to it.
    pub sx: u64,
    /// Bytes received from it.
    pub rx: u64,
    /// The last handshake with it; `None` if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<HandshakeStatus>,
}

/// Where the configuration came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// A file's name, or `command line`.
    pub source: String,
    /// Why it could not be read again, or made so, the last time that was wanted; it is in force as it
    /// was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The interface that carries the VIPs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name.
    pub name: String,
    /// Kernel's index.
    pub index: u32,
    /// Address in colon form.
    pub mac: String,
    /// Bytes of payload that a frame may carry.
    pub mtu: u32,
    /// Driver; empty if unknown.
    pub driver: String,
}

/// Which plane forwards, and how that came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlaneStatus {
    /// As configured.
    pub wanted: Plane,
    /// In force; never `auto`.
    pub actual: Plane,
    /// Why this one, in one sentence.
    pub why: String,
    /// What was tried, best first.
    pub rungs: Vec<Rung>,
}

/// One plane that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// Which.
    pub plane: Plane,
    /// Whether it was taken.
    pub taken: bool,
    /// Why, or why not.
    pub why: String,
}

/// How the XDP program hangs on the interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct XdpStatus {
    /// Native or generic; `None` without a program.
    pub mode: Option<XdpMode>,
    /// Why, in one sentence.
    pub why: String,
}

words! {
    /// Who forwards a queue's frames.
    ServedBy {
        /// A worker in user space.
        Worker = "worker",
        /// The XDP program.
        Program = "program",
    }
}

/// One receive queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its number.
    pub queue: u32,
    /// Who forwards its frames.
    pub served_by: ServedBy,
    /// Worker's number, if a worker serves it.
    pub worker: Option<u32>,
    /// Core that the worker is pinned to.
    pub core: Option<u32>,
    /// Whether frames reach the worker without a copy.
    pub zero_copy: bool,
    /// Whether frames may span several buffers.
    pub multi_buffer: bool,
    /// Whether the kernel says when it needs waking.
    pub need_wakeup: bool,
    /// Whether preferred busy polling is on.
    pub busy_poll: bool,
    /// Frames sent per system call, where the kernel lets one choose.
    pub tx_budget: Option<u32>,
    /// Milliseconds since the worker's last sign of life.
    pub heartbeat_age_ms: Option<u64>,
    /// Where the UMEM's frames are.
    pub frames: Option<FrameAccount>,
    /// What the socket lost.
    pub xdp_statistics: Option<XdpStatistics>,
}

/// Where the frames of a UMEM are: the first three add up to the total.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameAccount {
    /// With the kernel, to be filled.
    pub posted_receive: u64,
    /// With the worker.
    pub in_hand: u64,
    /// With the kernel, to be sent.
    pub posted_send: u64,
    /// All.
    pub total: u64,
}

impl FrameAccount {
    /// Whether no frame is lost or counted twice.
    pub fn adds_up(&self) -> bool {
        self.posted_receive
            .checked_add(self.in_hand)
            .and_then(|sum| sum.checked_add(self.posted_send))
            == Some(self.total)
    }
}

/// What a worker's socket lost, as the kernel counts it; since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XdpStatistics {
    /// Frames lost for other reasons than those below.
    pub rx_dropped: u64,
    /// Descriptors that the kernel did not accept, of the fill ring and of the send ring.
    pub invalid_descs: u64,
    /// Frames lost because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times that the fill ring was empty.
    pub rx_fill_ring_empty_descs: u64,
    /// Frames that the kernel refused to send.
    pub unsent: u64,
}

/// Something that works less well than it could.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Degraded {
    /// What.
    pub what: String,
    /// Why, and what would mend it.
    pub why: String,
}

words! {
    /// Who answers for a VIP's address.
    Owner {
        /// Pen: it answers ARP, neighbour solicitations and pings.
        Own = "own",
        /// The kernel: a local interface has the address.
        Kernel = "kernel",
    }
}

/// One VIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VipStatus {
    /// The address.
    pub address: IpAddr,
    /// The port; 0 stands for all.
    pub port: u16,
    /// Layer 4 protocol.
    pub protocol: Protocol,
    /// The VLAN its frames carry, if one is configured.
    pub vlan: Option<u16>,
    /// Its service.
    pub service: String,
    /// The pool behind it.
    pub pool: String,
    /// What chooses the back end.
    pub hash: HashBy,
    /// Who answers for the address.
    pub owner: Owner,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Slots of its table.
    pub table_size: u32,
    /// Its back ends, in the order of Pen's numbers.
    pub backends: Vec<BackendStatus>,
}

words! {
    /// Whether a back end takes new flows.
    BackendState {
        /// It does.
        Up = "up",
        /// No: nobody on the segment answers for its address.
        NoMac = "no-mac",
        /// No: blacklisted for a time.
        Blacklisted = "blacklisted",
        /// No: its weight is 0.
        Drained = "drained",
        /// No: its host name does not stand for its address any more.
        Gone = "gone",
    }
}

/// One back end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Pen's number in its pool, from 0.
    pub index: usize,
    /// Identity in the tables; 0 is nobody's.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC in colon form; `None` while unknown.
    pub mac: Option<String>,
    /// Its weight.
    pub weight: u16,
    /// Whether it takes new flows.
    pub state: BackendState,
    /// Seconds left on the blacklist.
    pub blacklist_left_s: Option<u32>,
    /// Slots of the pool's table that are its.
    pub slots: u32,
    /// Flows of which a frame went to it in the last five minutes.
    pub flows: u32,
    /// Frames forwarded to it.
    pub frames: u64,
    /// Bytes forwarded to it, whole frames.
    pub bytes: u64,
}

/// One reason with its count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    /// The reason's word.
    pub reason: String,
    /// What it means.
    pub text: String,
    /// How often.
    pub count: u64,
}

/// A NIC setting that Pen changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NicChange {
    /// Which setting.
    pub what: String,
    /// As it was, and as it will be again.
    pub before: String,
    /// As it is now.
    pub now: String,
}

/// A back end in Pen's terms; shown as Pen's `servers` line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Pen's number, from 0.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Its address; unspecified for a Unix socket.
    pub address: IpAddr,
    /// The path of a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its port; 0 stands for the VIP's, or for a Unix socket's none.
    pub port: u16,
    /// Flows: in DSR those of which a frame was seen in the last five minutes, as no end is seen.
    pub conn: u32,
    /// Soft connection limit.
    pub max: u32,
    /// Hard connection limit.
    pub hard: u32,
    /// Its weight.
    pub weight: u16,
    /// Priority.
    pub prio: u32,
    /// Bytes forwarded to it.
    pub sx: u64,
    /// Bytes from it; DSR sees none.
    pub rx: u64,
}

impl fmt::Display for ServerStatus {
    /// Byte for byte what scripts parse.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            address,
            path,
            port,
            conn,
            max,
            hard,
            weight,
            prio,
            sx,
            rx,
            ..
        } = self;
        let address = match path {
            Some(path) => path.clone(),
            None => address.to_string(),
        };
        write!(
            f,
            "{index} addr {address} port {port} conn {conn} max {max} hard {hard} "
        )?;
        write!(f, "weight {weight} prio {prio} sx {sx} rx {rx}")
    }
}
