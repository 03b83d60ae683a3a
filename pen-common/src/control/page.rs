//! What Pen's status page shows (`-w`, `status`, SIGUSR1): three tables for each service. As a page
//! and as lines for a log.

mod html;

use super::{ConnectionStatus, RecentClient, ServerStatus};
use crate::config::Mode;

/// Lines that a log gets of it at most: a look at the daemon must not drown what else is in there.
pub const STATISTICS_LINES_MAX: usize = 200;
/// Rows of one table that a page has at most, for browsers to bear it.
pub const PAGE_ROWS_MAX: usize = 10_000;

/// Everything on the page.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusPage {
    /// When it was so: `YYYY-MM-DD HH:MM:SS`, UTC.
    pub time: String,
    /// The services, in the order of the configuration.
    pub services: Vec<ServicePage>,
}

/// One service on the page.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePage {
    /// Its name.
    pub service: String,
    /// How it is served.
    pub mode: Mode,
    /// Where clients connect to.
    pub listen: Vec<String>,
    /// Its servers, in the order of their numbers.
    pub servers: Vec<ServerOnPage>,
    /// Its clients and connections; DSR sees neither.
    pub guests: Option<Guests>,
}

/// One server of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerOnPage {
    /// As `servers` shows it, with the traffic of this service alone.
    pub server: ServerStatus,
    /// Seconds left on the blacklist; 0 takes clients.
    pub blacklist_left_s: u32,
}

/// Who is at a service of proxy mode, and who was.
#[derive(Clone, Debug, PartialEq)]
pub struct Guests {
    /// Clients that are remembered at most.
    pub clients_max: u32,
    /// Those that are remembered, the newest first.
    pub clients: Vec<RecentClient>,
    /// Connections at the same time at most.
    pub conn_max: u32,
    /// Those that there are, in the order of their numbers.
    pub connections: Vec<ConnectionStatus>,
}

impl StatusPage {
    /// The page: HTML, with every text escaped.
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// The same in words, [`STATISTICS_LINES_MAX`] lines at most.
    pub fn lines(&self) -> Vec<String> {
        let mut all = self.services.iter().flat_map(ServicePage::lines);
        let mut lines = vec![self.summary()];
        // One more says how many there are besides.
        lines.extend(all.by_ref().take(STATISTICS_LINES_MAX - 2));
        let more = all.count();
        if more > 0 {
            lines.push(format!("{more} more lines; `status` shows everything"));
        }
        lines
    }

    /// Pen's line with the time. `current` are connections, in DSR flows.
    fn summary(&self) -> String {
        let services = self.services.iter();
        let servers: usize = services.clone().map(|one| one.servers.len()).sum();
        let current: u64 = services.map(ServicePage::current).sum();
        format!("Time {}, {servers} servers, {current} current", self.time)
    }
}

impl ServicePage {
    fn current(&self) -> u64 {
        let flows = self.servers.iter().map(|row| u64::from(row.server.conn));
        match &self.guests {
            Some(guests) => guests.connections.len() as u64,
            None => flows.sum(),
        }
    }

    fn lines(&self) -> Vec<String> {
        let of = format!("service {}", self.service);
        let servers = self.servers.iter().map(|row| {
            let left = row.blacklist_left_s;
            format!("{of}: server {} blacklist {left}", row.server)
        });
        let mut lines: Vec<String> = servers.collect();
        if let Some(guests) = &self.guests {
            lines.push(format!("{of}: {}", guests.clients_line()));
            let clients = guests.clients.iter();
            lines.extend(clients.map(|client| {
                let age = client.age_ms / 1000;
                let last = number(client.server);
                format!("{of}: client {client} age {age} server {last}")
            }));
            lines.push(format!("{of}: {}", guests.connections_line()));
            let connections = guests.connections.iter();
            lines.extend(connections.map(|one| format!("connection {one}")));
        }
        lines
    }
}

impl Guests {
    /// Pen's words above the table of clients.
    fn clients_line(&self) -> String {
        format!("Max number of clients: {}", self.clients_max)
    }

    /// Pen's words above the table of connections. The last one is the one that came last of those
    /// that are there.
    fn connections_line(&self) -> String {
        let last = self.connections.iter().min_by_key(|one| one.age_ms);
        format!(
            "Number of connections: {} max, {} used, {} last",
            self.conn_max,
            self.connections.len(),
            last.map_or(0, |one| one.number)
        )
    }

    /// Each connection's client by its place in the table of clients, where it is there.
    fn places(&self) -> impl Iterator<Item = Option<usize>> {
        let clients = self.clients.iter().map(|client| client.address);
        let places: std::collections::HashMap<_, _> = clients.zip(0..).collect();
        self.connections.iter().map(move |connection| {
            let client = connection.client?.ip().to_canonical();
            places.get(&client).copied()
        })
    }
}

/// A number as Pen shows it: -1 is none.
fn number(number: Option<usize>) -> String {
    number.map_or("-1".to_owned(), |number| number.to_string())
}
