//! What Pen is asked to do: [`Config`], read from Pen's command line and commands or from TOML.
//!
//! Both forms end in the same plain data, and nothing here reads a file or asks a name server:
//! what reading needs from the world comes in through [`Outside`]. A [`Checked`] configuration is
//! one that [`Config::check`] found nothing wrong with.

mod access_log;
mod acl;
mod address;
mod as_commands;
mod check;
mod ciphers;
mod commands;
mod control;
mod difference;
mod edit;
mod error;
mod given;
mod hsts;
mod keys;
pub mod nearest;
mod pen_line;
mod proxy;
mod ranges;
mod redirect;
mod server_tls;
mod service_keys;
mod sni_route;
mod tls;
mod toml;
pub(crate) mod words;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub use access_log::{LogFormat, LogTarget};
pub use acl::{ACLS_MAX, Acl, AclChange, AclLine};
pub use address::{HostPort, ListenAt, parse_listener, parse_place, parse_server};
pub use check::{Checked, check_interface};
pub use ciphers::{Cipher, CipherList};
pub use commands::{Change, Command, CommandFault, ServerRef};
pub use control::{CONTROL_MODE_DEFAULT, ControlAt, ControlOwner};
pub use difference::{Difference, Differs};
pub use edit::{Edit, LookedUp};
pub use error::{ConfigError, ConfigErrors, Place};
pub use hsts::Hsts;
pub use keys::documented;
pub use pen_line::{PenFlag, PenLine};
pub use proxy::{
    BACKLOG_MAX, Balance, CLIENTS_MAX_MAX, CONN_MAX_DEFAULT, CONN_MAX_MAX, FastClose,
    HEAD_TIMEOUT_MAX, PENDING_MAX_MAX, ProxyOptions, SECONDS_MAX, SendProxy, Switches, TIMEOUT_MAX,
    UDP_IDLE_DEFAULT,
};
pub use ranges::{RANGE_ENDS_MAX, RangesFull, Rows};
pub use redirect::Redirect;
pub use server_tls::{ServerTls, ServerTlsOptions};
pub use sni_route::SniRoute;
pub use tls::{ClientCertificate, SslOption, TLS_TIMEOUT_MAX, TlsOptions};
use words::words;

use crate::maglev;
use crate::tables;
pub use crate::tables::{BACKENDS_PER_POOL_MAX, VIPS_MAX};

/// Most pools in one process.
pub const POOLS_MAX: usize = tables::POOLS_MAX as usize;
/// Most back ends in all pools together: identity 0 is nobody's.
pub const BACKENDS_MAX: usize = tables::BACKENDS_MAX as usize - 1;
/// Greatest weight of a back end.
pub const WEIGHT_MAX: u16 = u16::MAX;
/// Slots of a pool's table when the configuration doesn't say: a prime just above 2^16.
pub const TABLE_SIZE_DEFAULT: u32 = maglev::SIZE_DEFAULT;
/// Fewest slots that a pool's table may have.
pub const TABLE_SIZE_MIN: u32 = maglev::SIZE_MIN;
/// Most slots that a pool's table may have.
pub const TABLE_SIZE_MAX: u32 = maglev::SIZE_MAX;
/// Bytes that one slot of a table takes.
pub const SLOT_BYTES: u64 = 2;
/// Least table memory, in bytes.
pub const TABLE_MEMORY_MIN: u64 = 1 << 20;
/// Most table memory, in bytes.
pub const TABLE_MEMORY_MAX: u64 = 1 << 30;
/// VLAN identifiers that a service may name (IEEE 802.1Q: 0 and 4095 are reserved).
pub const VLAN_MAX: u16 = 4094;
/// Longest name of an interface in bytes (Linux IFNAMSIZ less its closing zero).
pub const INTERFACE_NAME_MAX: usize = 15;
/// Longest name of a service, pool or back end, in bytes: host names are such names.
pub const NAME_MAX: usize = 253;
/// Most addresses of one host name: who answers for names is not trusted to be modest.
pub const ADDRESSES_MAX: usize = 64;
/// Fewest descriptors in each ring of a queue.
pub const RING_SIZE_MIN: u32 = 64;
/// Most descriptors in each ring of a queue.
pub const RING_SIZE_MAX: u32 = 8192;
/// Most workers that may be asked for.
pub const WORKERS_MAX: u16 = 256;
/// The seed when none is configured: fixed, so that machines agree without being told to.
pub const SEED_DEFAULT: u64 = 0x0070_656e_2d64_7372;
/// Name of the one service and the one pool that Pen's command line describes.
pub const SERVICE_DEFAULT: &str = "pen";

const _: () = assert!(VIPS_MAX >= 1000 && POOLS_MAX >= 256 && BACKENDS_PER_POOL_MAX >= 4096);
const _: () = assert!(BACKENDS_PER_POOL_MAX <= BACKENDS_MAX);
const SLOTS_PER_WORD: u64 = tables::SLOTS_PER_WORD as u64;
const _: () = assert!(SLOT_BYTES * SLOTS_PER_WORD == 8);
const _: () = assert!(TABLE_SIZE_MIN < TABLE_SIZE_DEFAULT && TABLE_SIZE_DEFAULT < TABLE_SIZE_MAX);
const _: () = assert!(TABLE_SIZE_MAX as u64 * SLOT_BYTES * 2 < TABLE_MEMORY_MAX);
const _: () = assert!(RING_SIZE_MIN.is_power_of_two() && RING_SIZE_MAX.is_power_of_two());

words! {
    /// Where frames are forwarded.
    Plane {
        /// AF_XDP on native XDP, the program's own forwarding on generic XDP.
        Auto = "auto",
        /// AF_XDP workers in user space.
        AfXdp = "af_xdp",
        /// The XDP program itself, without workers.
        Xdp = "xdp",
        /// A packet socket: for hosts without BPF, and as the baseline.
        AfPacket = "af_packet",
    }
}

words! {
    /// How the XDP program hangs on the interface.
    XdpMode {
        /// Native where the driver has it, else generic.
        Auto = "auto",
        /// In the driver.
        Native = "native",
        /// In the kernel's common receive path.
        Generic = "generic",
    }
}

words! {
    /// Whether workers spin.
    Busy {
        /// Spin while there is traffic, park when idle.
        Auto = "auto",
        /// Spin for ever.
        Always = "always",
        /// Sleep in poll() between batches.
        Never = "never",
    }
}

words! {
    /// Whether a faculty of the driver is made use of.
    Use {
        /// Where the driver has it and it is safe.
        Auto = "auto",
        /// Never.
        Never = "never",
    }
}

words! {
    /// How a service is served.
    Mode {
        /// Direct server return: forwarded at layer 2, answered by the back end itself.
        Dsr = "dsr",
        /// Proxy: bytes of TCP connections are passed on.
        Tcp = "tcp",
        /// Proxy: UDP datagrams are passed on, all of a flow to one server.
        Udp = "udp",
        /// Proxy: every HTTP/1 request is passed on for itself.
        Http = "http",
    }
}

words! {
    /// Which part of a flow chooses its back end.
    HashBy {
        /// Addresses and ports (Pen's `-r`).
        Flow = "flow",
        /// The source address alone (Pen without `-r`).
        Source = "source",
    }
}

words! {
    /// What becomes of forwarding past the kernel when Pen stops.
    OnStop {
        /// It ends: everything is given back.
        Detach = "detach",
        /// The program goes on by itself, until the next Pen takes over.
        Keep = "keep",
    }
}

words! {
    /// How a configuration is written down.
    ConfigForm {
        /// As a TOML file, for `--config`.
        Toml = "toml",
        /// As commands, for `-F`.
        Commands = "commands",
    }
}

words! {
    /// Layer 4 protocol of a listener.
    Protocol {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

/// How many workers serve the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One a core, as many as there are queues, one core left to the rest of the machine.
    Auto,
    /// So many, never more than queues.
    Count(u16),
}

/// Everything that Pen is asked to do. Plain data: see [`Config::check`] for what must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Interface that carries the VIPs (`dsr_if`); empty if none was named.
    pub interface: String,
    /// Where frames are forwarded.
    pub plane: Plane,
    /// How the XDP program is attached.
    pub xdp_mode: XdpMode,
    /// Whether workers spin.
    pub busy: Busy,
    /// How many workers serve the queues.
    pub workers: Workers,
    /// Whether AF_XDP sockets may be bound without copying.
    pub zero_copy: Use,
    /// Whether frames larger than one buffer are taken (jumbo frames).
    pub multi_buffer: Use,
    /// Descriptors in each ring of a queue; a power of two.
    pub ring_size: u32,
    /// Key of the flow hash; machines that share it choose alike.
    pub seed: u64,
    /// Whether checksums that the sender left to the hardware are finished where needed.
    pub finish_checksums: bool,
    /// Bytes for the slots of all pools, fixed at start; `None` for [`Config::table_memory`]'s own sum.
    pub table_memory: Option<u64>,
    /// Where Pen is asked while it runs (`-C`).
    pub control: Option<ControlAt>,
    /// Mode of the control socket's file.
    pub control_mode: u32,
    /// Whose the control socket's file is; whoever runs Pen, if not said.
    pub control_owner: Option<ControlOwner>,
    /// Access list of those who may come to the control port; Unix sockets have their mode.
    pub control_acl: u8,
    /// Access list whose permitted addresses, which nobody has, hang whoever connects; `None` for none.
    pub tarpit_acl: Option<u8>,
    /// Path of the pid file (`-p`).
    pub pid_file: Option<PathBuf>,
    /// Stay in the foreground (`-f`).
    pub foreground: bool,
    /// Debug level (`-d`, repeatable).
    pub debug: u8,
    /// The user that it goes on as when it has started (`-u`).
    pub user: Option<String>,
    /// Whether the command `exit` stops Pen (`-X`).
    pub allow_exit: bool,
    /// Seconds that connections may take to end when Pen stops.
    pub drain_timeout: u32,
    /// What becomes of forwarding past the kernel when Pen stops.
    pub on_stop: OnStop,
    /// File that the HTML status page is written to (`-w`).
    pub web_stats: Option<PathBuf>,
    /// Where the BPF file system is mounted: program link and maps are pinned below it.
    pub bpffs: PathBuf,
    /// Where Pen keeps what the next start must know (saved NIC settings).
    pub run_dir: PathBuf,
    /// Access lists, by number; those that are not there are empty.
    pub acls: Vec<Acl>,
    /// What is served.
    pub services: Vec<Service>,
    /// Who serves it.
    pub pools: Vec<Pool>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interface: String::new(),
            plane: Plane::Auto,
            xdp_mode: XdpMode::Auto,
            busy: Busy::Auto,
            workers: Workers::Auto,
            zero_copy: Use::Auto,
            multi_buffer: Use::Auto,
            ring_size: 2048,
            seed: SEED_DEFAULT,
            finish_checksums: true,
            table_memory: None,
            control: None,
            control_mode: CONTROL_MODE_DEFAULT,
            control_owner: None,
            control_acl: 0,
            tarpit_acl: None,
            pid_file: None,
            foreground: false,
            debug: 0,
            user: None,
            allow_exit: false,
            drain_timeout: 0,
            on_stop: OnStop::Detach,
            web_stats: None,
            bpffs: PathBuf::from("/sys/fs/bpf"),
            run_dir: PathBuf::from("/run/pen"),
            acls: Vec::new(),
            services: Vec::new(),
            pools: Vec::new(),
        }
    }
}

/// Something that clients reach: one or more VIPs and the pool behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique among services.
    pub name: String,
    /// Where clients connect to.
    pub listeners: Vec<Listener>,
    /// How it is served.
    pub mode: Mode,
    /// Name of the pool that serves it; empty for one that only redirects, or leads by name to others.
    pub pool: String,
    /// The VLAN that its frames carry (1..=4094); `None` takes them with or without tags.
    pub vlan: Option<u16>,
    /// What chooses the back end in DSR.
    pub hash: HashBy,
    /// What else it is asked for in proxy mode.
    pub proxy: ProxyOptions,
}

/// One VIP: an address with a protocol and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Listener {
    /// The virtual address.
    pub address: IpAddr,
    /// Port; 0 stands for all ports.
    pub port: u16,
    /// Layer 4 protocol.
    pub protocol: Protocol,
}

/// Back ends that serve alike, and the size of their table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique among pools.
    pub name: String,
    /// Slots of the Maglev table: a prime in [`TABLE_SIZE_MIN`]`..=`[`TABLE_SIZE_MAX`].
    pub table_size: u32,
    /// The back ends; Pen's `server N` counts them from 0.
    pub backends: Vec<Backend>,
}

/// One machine that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique in its pool; its identity over restarts. The address as written unless given.
    pub name: String,
    /// Address, host name or path of a Unix socket as written.
    pub host: String,
    /// What `host` stands for, of several addresses one; unspecified for a path.
    pub address: IpAddr,
    /// The other addresses that `host` stood for when the configuration was read.
    pub further: Vec<IpAddr>,
    /// The number of the back end as written whose host name stands for this one too; `None` for
    /// those that were written.
    pub of: Option<usize>,
    /// The host name does not stand for `address` any more: nobody new is sent there.
    pub gone: bool,
    /// Port; 0 stands for the VIP's.
    pub port: u16,
    /// Share of new flows; 0 takes none.
    pub weight: u16,
    /// Soft connection limit, 0 for none; proxy mode, as DSR does not see connections end.
    pub max: u32,
    /// Connections up to which clients come back to it all the same; proxy mode.
    pub hard: u32,
    /// Priority, lower wins; proxy mode.
    pub prio: u32,
    /// Seconds from start during which it takes no new flows.
    pub blacklist: u32,
    /// Access list of those that it serves; proxy mode.
    pub acl: u8,
}

impl Service {
    /// Where clients connect to, as Pen writes it: `ADDRESS:PORT`, IPv6 in brackets, or a path.
    pub fn listen_texts(&self) -> Vec<String> {
        let listeners = self.listeners.iter();
        let listeners = listeners.map(|l| SocketAddr::new(l.address, l.port).to_string());
        let paths = self.proxy.paths.iter();
        listeners
            .chain(paths.map(|path| path.display().to_string()))
            .collect()
    }

    /// A DSR service named `name`, served by the pool of the same name, without listeners.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            listeners: Vec::new(),
            mode: Mode::Dsr,
            pool: name.to_owned(),
            vlan: None,
            hash: HashBy::Flow,
            proxy: ProxyOptions::default(),
        }
    }

    /// Where all requests are sent, if none is served here.
    pub fn redirect(&self) -> Option<Redirect> {
        self.proxy.redirect.filter(|_| self.mode == Mode::Http)
    }

    /// Pen's switches as `mode` shows them. In DSR only `roundrobin` means anything.
    pub fn switches(&self) -> Switches {
        match self.mode {
            Mode::Tcp | Mode::Udp | Mode::Http => self.proxy.balance,
            Mode::Dsr => {
                let mut switches = Switches::default();
                switches.set(Balance::RoundRobin, self.hash == HashBy::Flow);
                switches
            }
        }
    }
}

impl Pool {
    /// An empty pool named `name`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            table_size: TABLE_SIZE_DEFAULT,
            backends: Vec::new(),
        }
    }
}

impl Backend {
    /// A back end of weight 1 at `address`, named and written as that address.
    pub fn new(address: IpAddr) -> Self {
        Self {
            name: address.to_string(),
            host: address.to_string(),
            address,
            further: Vec::new(),
            of: None,
            gone: false,
            port: 0,
            weight: 1,
            max: 0,
            hard: 0,
            prio: 0,
            blacklist: 0,
            acl: 0,
        }
    }
}

impl Backend {
    /// The path, if it is a Unix socket: its `address` then says nothing.
    pub fn path(&self) -> Option<&Path> {
        self.host.contains('/').then(|| Path::new(&self.host))
    }

    /// The host name, if it was written by one.
    pub fn host_name(&self) -> Option<&str> {
        let is_name = self.path().is_none() && self.host.parse::<IpAddr>().is_err();
        is_name.then_some(self.host.as_str())
    }

    /// A back end of which nothing has been said yet.
    pub(crate) fn unsaid() -> Self {
        Self {
            name: String::new(),
            host: String::new(),
            ..Self::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        }
    }
}

impl Config {
    /// The services that are forwarded at layer 2.
    pub fn dsr_services(&self) -> impl Iterator<Item = &Service> + Clone {
        let services = self.services.iter();
        services.filter(|service| service.mode == Mode::Dsr)
    }

    /// The services that the proxy serves.
    pub fn proxy_services(&self) -> impl Iterator<Item = &Service> + Clone {
        let services = self.services.iter();
        services.filter(|service| service.mode != Mode::Dsr)
    }

    /// The pools of services that are forwarded at layer 2, in the order of the configuration. A
    /// pool that no service uses has its table, too.
    pub fn dsr_pools(&self) -> impl Iterator<Item = &Pool> + Clone {
        self.pools.iter().filter(|pool| self.needs_table(pool))
    }

    /// The pool named `name`.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// Carries out a change of access list `number`, which comes to be if it was not there.
    pub fn change_acl(&mut self, number: u8, change: &AclChange) {
        let number = usize::from(number);
        if self.acls.len() <= number {
            self.acls.resize_with(number + 1, Acl::default);
        }
        self.acls[number].change(change);
    }

    /// Whether a pool needs a table: one that only proxies use does not.
    pub fn needs_table(&self, pool: &Pool) -> bool {
        let mut users = self.services.iter().filter(|s| s.pool == pool.name);
        users.clone().next().is_none() || users.any(|service| service.mode == Mode::Dsr)
    }

    /// Bytes that the slots of all pools take once. A table begins at a word of its own.
    pub fn slot_bytes(&self) -> u64 {
        self.dsr_pools()
            .map(|pool| u64::from(pool.table_size).next_multiple_of(SLOTS_PER_WORD) * SLOT_BYTES)
            .sum()
    }

    /// Least bytes to set aside for slots: tables are written beside those in use, and one change
    /// may concern every pool.
    pub fn table_memory_needed(&self) -> u64 {
        self.slot_bytes() * 2
    }

    /// Bytes to set aside for slots: as configured, else what is needed and room for the largest
    /// pool twice more, so that gaps between tables of different sizes do not matter.
    pub fn table_memory(&self) -> u64 {
        self.table_memory.unwrap_or_else(|| {
            let largest = self
                .dsr_pools()
                .map(|pool| pool.table_size)
                .max()
                .unwrap_or(0);
            let spare = u64::from(largest) * SLOT_BYTES * 2;
            (self.table_memory_needed() + spare).clamp(TABLE_MEMORY_MIN, TABLE_MEMORY_MAX)
        })
    }
}

/// What reading a configuration needs from the world; tests bring their own.
pub trait Outside {
    /// The addresses that `host` stands for, in any order. The error is the bare reason, without
    /// the name.
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String>;

    /// The text of a file. The error is the bare reason, without the path.
    fn read(&self, path: &Path) -> Result<String, String>;
}
