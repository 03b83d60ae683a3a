//! What a service in proxy mode is asked for beside its listeners and its pool.

use std::net::IpAddr;
use std::path::PathBuf;

use super::words::words;
use super::{
    Acl, Backend, Hsts, LogFormat, LogTarget, Redirect, ServerTlsOptions, SniRoute, TlsOptions,
};

/// Connections of one service at the same time, if nothing is said.
pub const CONN_MAX_DEFAULT: u32 = 10_000;
/// Seconds without a datagram in either direction after which a UDP flow ends, if nothing is said:
/// nothing else ever ends it.
pub const UDP_IDLE_DEFAULT: u32 = 60;

/// Longest time that a connection to a server may take, in seconds.
pub const TIMEOUT_MAX: u32 = 3600;
/// Longest of the other times, in seconds: a year.
pub const SECONDS_MAX: u32 = 365 * 24 * 3600;
/// Longest time that the head of a request may take, in seconds.
pub const HEAD_TIMEOUT_MAX: u32 = 3600;
/// Most clients that one service remembers.
pub const CLIENTS_MAX_MAX: u32 = 10_000_000;
/// Most connections of one service at the same time.
pub const CONN_MAX_MAX: u32 = 1_000_000;
/// Most connections to servers that may be under way.
pub const PENDING_MAX_MAX: u32 = 1_000_000;
/// Longest queue of clients that may be asked of the kernel.
pub const BACKLOG_MAX: u32 = 65_535;

words! {
    /// What chooses a server for a client that none is remembered for, or how that is done. The
    /// first that is switched on of prio, weight, hash and least chooses; without any of them the
    /// servers take turns.
    Balance {
        /// Clients are not remembered, and `hash` counts the client's port in (Pen's `-r`).
        RoundRobin = "roundrobin",
        /// The client's address chooses (Pen's `-h`).
        Hash = "hash",
        /// The server with the fewest connections for its weight (Pen's `-W`).
        Weight = "weight",
        /// The server with the lowest `prio`.
        Prio = "prio",
        /// The server with the fewest connections.
        Least = "least",
        /// A client is never given another server than the one chosen first (Pen's `-s`).
        Stubborn = "stubborn",
    }
}

words! {
    /// Which side's end of its stream ends the connection at once (Pen's `tcp_fastclose`).
    FastClose {
        /// Neither: each half is closed for itself.
        Off = "off",
        /// The server's.
        Up = "up",
        /// The client's.
        Down = "down",
        /// Either.
        Both = "both",
    }
}

words! {
    /// What servers are told of their clients before the first byte of theirs.
    SendProxy {
        /// Nothing.
        Off = "off",
        /// A line of the PROXY protocol, version 1.
        V1 = "v1",
        /// A header of version 2, with a checksum.
        V2 = "v2",
    }
}

/// Switches that are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches(u8);

impl Switches {
    const fn bit(switch: Balance) -> u8 {
        1 << switch as u8
    }

    /// Turns one switch on or off.
    pub fn set(&mut self, switch: Balance, on: bool) {
        match on {
            true => self.0 |= Self::bit(switch),
            false => self.0 &= !Self::bit(switch),
        }
    }

    /// Whether a switch is on.
    pub const fn has(self, switch: Balance) -> bool {
        self.0 & Self::bit(switch) != 0
    }
}

/// Options of a service in proxy mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyOptions {
    /// How servers are chosen.
    pub balance: Switches,
    /// Seconds that a connection to a server may take (`-t`); at least 1.
    pub timeout: u32,
    /// Seconds without a byte in either direction after which a connection is closed; 0 is never,
    /// and for flows of UDP [`UDP_IDLE_DEFAULT`].
    pub idle_timeout: u32,
    /// Seconds that a server gets no clients after a failed connection (`-b`).
    pub blacklist: u32,
    /// Seconds that a client's server is remembered (`-T`); 0 is for ever.
    pub tracking: u32,
    /// Clients that are remembered (`-c`); the one not seen for longest goes first.
    pub clients_max: u32,
    /// Connections at the same time (`-x`).
    pub conn_max: u32,
    /// Connections to servers that may be under way before no more clients are taken.
    pub pending_max: u32,
    /// Clients that the kernel keeps waiting before they are taken (`-q`).
    pub backlog: u32,
    /// Which side's end ends the connection at once.
    pub tcp_fastclose: FastClose,
    /// Whether the kernel asks silent peers whether they are still there (SO_KEEPALIVE).
    pub keepalive: bool,
    /// Address that connections to servers come from.
    pub source: Option<IpAddr>,
    /// Access list that clients must pass.
    pub client_acl: u8,
    /// Who serves when no server can (`-e`).
    pub emergency: Option<Backend>,
    /// Who serves clients that the access list denies (`-B`); without one they are refused.
    pub abuse: Option<Backend>,
    /// Seconds that a client waits while all servers have as many connections as they may have.
    pub queue_timeout: u32,
    /// Connections of one client at the same time; 0 is no limit.
    pub client_conn_max: u32,
    /// New connections of one client in a second; 0 is no limit.
    pub client_conn_rate: u32,
    /// Whether connections to servers come from the client's own address, where both are of one
    /// family. The servers' answers must come back through this host.
    pub transparent: bool,
    /// Networks whose clients are proxies and begin with a header of the PROXY protocol, each line
    /// permitting one; without lines nobody does.
    pub accept_proxy: Acl,
    /// What servers are told of their clients.
    pub send_proxy: SendProxy,
    /// Seconds that the head of a request may take to arrive, and that a client may stay silent
    /// between two requests; at least 1. HTTP only.
    pub head_timeout: u32,
    /// Whose X-Forwarded-For is kept and added to; that of all others is replaced. HTTP only.
    pub trusted: Acl,
    /// Whether answers that are Pen's own say why, in the header X-Pen-Reason. HTTP only.
    pub reason_header: bool,
    /// Where all requests are sent instead of being served: such a service has no pool. HTTP only.
    pub redirect: Option<Redirect>,
    /// What answers over TLS say to browsers.
    pub hsts: Option<Hsts>,
    /// Unix sockets to listen on, beside the service's VIPs.
    pub paths: Vec<PathBuf>,
    /// Where a line goes for each connection, flow or request (`-l`); `None` is nowhere.
    pub log: Option<LogTarget>,
    /// How such a line is written.
    pub log_format: LogFormat,
    /// Whether and how clients speak TLS. TCP and HTTP only.
    pub tls: TlsOptions,
    /// Whether and how servers are spoken to over TLS. TCP and HTTP only.
    pub server_tls: ServerTlsOptions,
    /// Services that clients get who ask for their names, each name once, in the order of their
    /// declaration. TCP only.
    pub sni_routes: Vec<SniRoute>,
}

impl Default for ProxyOptions {
    /// Pen's values, except for `conn_max`: Pen stops at 500 connections, which is few today.
    fn default() -> Self {
        Self {
            balance: Switches::default(),
            timeout: 3,
            idle_timeout: 0,
            blacklist: 30,
            tracking: 0,
            clients_max: 2048,
            conn_max: CONN_MAX_DEFAULT,
            pending_max: 100,
            backlog: 500,
            tcp_fastclose: FastClose::Off,
            keepalive: false,
            source: None,
            client_acl: 0,
            emergency: None,
            abuse: None,
            queue_timeout: 0,
            client_conn_max: 0,
            client_conn_rate: 0,
            transparent: false,
            accept_proxy: Acl::default(),
            send_proxy: SendProxy::Off,
            head_timeout: 10,
            trusted: Acl::default(),
            reason_header: false,
            redirect: None,
            hsts: None,
            paths: Vec::new(),
            log: None,
            log_format: LogFormat::Pen,
            tls: TlsOptions::default(),
            server_tls: ServerTlsOptions::default(),
            sni_routes: Vec::new(),
        }
    }
}
