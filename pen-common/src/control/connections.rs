//! The shape of what `connections`, `connection` and `recent` show.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::ChosenBy;
use crate::config::words::words;

words! {
    /// How far a client's connection has come.
    Stage {
        /// Its header of the PROXY protocol is waited for.
        Header = "header",
        /// Its TLS handshake is waited for.
        Handshake = "handshake",
        /// It waits for a server that has room.
        Queue = "queue",
        /// A connection to a server is being made.
        Connecting = "connecting",
        /// It has a server.
        Open = "open",
        /// One side has ended its stream, and the other one goes on.
        HalfClosed = "half-closed",
        /// It has no request under way (HTTP mode).
        Kept = "kept",
    }
}

/// One client's connection, or its UDP flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Its number, which another one has when this one is over.
    pub number: u32,
    /// Whose client it is.
    pub service: String,
    /// Where it comes from, as a proxy in front of us says if one does; none over a Unix socket.
    pub client: Option<SocketAddr>,
    /// Name of the server that it has, had last (HTTP mode) or is being connected to.
    pub server: Option<String>,
    /// Pen's number of that server; those for emergency and abuse have none.
    pub index: Option<usize>,
    /// What chose that server.
    pub chosen_by: Option<ChosenBy>,
    /// How far it has come.
    pub stage: Stage,
    /// Milliseconds since it came.
    pub age_ms: u64,
    /// Bytes sent to the client.
    pub sx: u64,
    /// Bytes received from the client.
    pub rx: u64,
}

/// A client that was here a short while ago, or is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentClient {
    /// Its address; IPv4 also where it came mapped into IPv6.
    pub address: IpAddr,
    /// Connections to a server, in all; in HTTP mode requests.
    pub connects: u64,
    /// Bytes sent to it.
    pub sx: u64,
    /// Bytes received from it.
    pub rx: u64,
    /// Milliseconds since it last came.
    pub age_ms: u64,
    /// Pen's number of the server that it had last; those for emergency and abuse have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<usize>,
}

impl ConnectionStatus {
    /// Pen's lines for one connection. Descriptors and places in the client table are not told,
    /// and nothing is pending between two looks: these are what Pen shows where it has none. State
    /// 2 has a server, 1 has none yet. Lines that Pen has not come last.
    pub fn lines(&self) -> String {
        let state = match self.stage {
            Stage::Open | Stage::HalfClosed | Stage::Kept if self.server.is_some() => 2,
            Stage::Header
            | Stage::Handshake
            | Stage::Queue
            | Stage::Connecting
            | Stage::Open
            | Stage::HalfClosed
            | Stage::Kept => 1,
        };
        let index = self
            .index
            .map_or("-1".to_owned(), |index| index.to_string());
        format!(
            "Connection {}:\nstate = {state}\ndownfd = -1, upfd = -1\nclient = -1, server = {index}\n\
             pend = 0\n{}\n",
            self.number,
            self.words(false)
        )
    }

    /// The words of a line of `connections`, with its number before them or without.
    fn words(&self, numbered: bool) -> String {
        let number = match numbered {
            true => format!("{} ", self.number),
            false => String::new(),
        };
        let client = self.client.map_or("unix".to_owned(), |c| c.to_string());
        let server = self.server.as_deref().unwrap_or("-");
        let by = self.chosen_by.map_or("-", ChosenBy::word);
        format!(
            "{number}service {} client {client} server {server} by {by} stage {} age {} sx {} rx {}",
            self.service,
            self.stage,
            self.age_ms / 1000,
            self.sx,
            self.rx
        )
    }
}

/// One line, beginning with the number.
impl fmt::Display for ConnectionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(true))
    }
}

/// Pen's line.
impl fmt::Display for RecentClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            connects,
            sx,
            rx,
            age_ms: _,
            server: _,
        } = self;
        write!(f, "{address} connects {connects} sx {sx} rx {rx}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pens_lines() {
        let connection = ConnectionStatus {
            number: 7,
            service: "web".into(),
            client: Some(([10, 77, 0, 1], 4242).into()),
            server: Some("be1".into()),
            index: Some(1),
            chosen_by: Some(ChosenBy::RoundRobin),
            stage: Stage::Open,
            age_ms: 2999,
            sx: 30,
            rx: 4,
        };
        let about = "service web client 10.77.0.1:4242 server be1 by roundrobin stage open age 2 sx 30 rx 4";
        assert_eq!(connection.to_string(), format!("7 {about}"));
        let five =
            "Connection 7:\nstate = 2\ndownfd = -1, upfd = -1\nclient = -1, server = 1\npend = 0\n";
        assert_eq!(connection.lines(), format!("{five}{about}\n"));
        let waiting = ConnectionStatus {
            client: None,
            server: None,
            index: None,
            chosen_by: None,
            stage: Stage::Queue,
            ..connection
        };
        assert!(waiting.lines().contains("state = 1\n"));
        assert!(waiting.lines().contains("client = -1, server = -1\n"));
        assert!(
            waiting
                .to_string()
                .contains(" client unix server - by - stage queue ")
        );
        let recent = RecentClient {
            address: "fd77::1".parse().unwrap(),
            connects: 3,
            sx: 2,
            rx: 1,
            age_ms: 0,
            server: None,
        };
        assert_eq!(recent.to_string(), "fd77::1 connects 3 sx 2 rx 1");
    }
}
