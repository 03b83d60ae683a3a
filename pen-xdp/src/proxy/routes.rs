//! What the proxy serves, as one value: compiled whole by whoever knows the configuration, and
//! compared whole.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use pen_common::config::{Acl, Listener, Mode, ProxyOptions};

/// All services of proxy mode, in the order of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes(pub Vec<Route>);

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name.
    pub service: String,
    /// How it is served.
    pub mode: Mode,
    /// Addresses that it listens on; its options name paths.
    pub listeners: Vec<Listener>,
    /// Where clients connect to, for people.
    pub listen: Vec<String>,
    /// The pool that serves it.
    pub pool: String,
    /// Its options.
    pub options: ProxyOptions,
    /// Whom it takes at all.
    pub client_acl: Acl,
    /// Key of the hash over clients.
    pub seed: u64,
    /// Who serves it, in the order of Pen's numbers, of which some may be missing.
    pub servers: Vec<Server>,
    /// Who serves when no server can.
    pub emergency: Option<Server>,
    /// Who serves those whom the access list denies.
    pub abuse: Option<Server>,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Pen's number in the pool; those for emergency and abuse have none.
    pub number: Option<usize>,
    /// Unique in its pool.
    pub name: String,
    /// The host name that it was written by.
    pub host: Option<String>,
    /// Where it is.
    pub place: Place,
    /// Share of new clients, where weight counts.
    pub weight: u16,
    /// Lowest wins, where it counts.
    pub prio: u32,
    /// Most connections; 0 is no limit.
    pub max: u32,
    /// Most connections with clients that come back.
    pub hard: u32,
    /// Whom it serves.
    pub acl: Acl,
    /// Until when a command has taken it out, milliseconds of the monotonic clock.
    pub blacklisted_until_ms: Option<u64>,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Over TCP; port 0 stands for the port that the client came to.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Routes {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) if address.port() == 0 => address.ip().fmt(f),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
