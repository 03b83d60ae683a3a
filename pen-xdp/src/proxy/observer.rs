//! Looks at the connections and clients of a proxy, from any thread and while the proxy runs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use pen_common::control::{ConnectionStatus, OcspQuestion, RecentClient};

use super::Proxy;
use super::balance::Recent;
use super::connections::{Connection, Connections};
use super::service::{Service, now_ms};
use super::tls::Terms;

/// Clients that are looked at under one lock.
const LOOK: usize = 256;

/// See the module. What it shows is of one moment for each connection, not for all together.
#[derive(Debug)]
pub struct Observer {
    services: Vec<Arc<Service>>,
    connections: Arc<Connections>,
}

impl Proxy {
    /// Somebody to look at the connections.
    pub fn observer(&self) -> Observer {
        Observer {
            services: self.services.clone(),
            connections: Arc::clone(&self.connections),
        }
    }
}

impl Observer {
    /// All connections, or those of one service, in the order of their numbers.
    ///
    /// # Errors
    /// There is no such service.
    pub fn connections(&self, service: Option<&str>) -> Result<Vec<ConnectionStatus>, String> {
        let meant = self.meant(service)?;
        let all = self.connections.all();
        let of_service = |connection: &&Arc<Connection>| {
            let is = |service| Arc::ptr_eq(service, &connection.service);
            meant.is_none_or(is)
        };
        let shown = all.iter().filter(of_service);
        Ok(shown.map(|connection| connection.status()).collect())
    }

    /// One connection.
    ///
    /// # Errors
    /// There is none of this number, or it is another service's.
    pub fn connection(
        &self,
        service: Option<&str>,
        number: u32,
    ) -> Result<ConnectionStatus, String> {
        self.find(service, number).map(|found| found.status())
    }

    /// Ends a connection; the line that says which it was.
    ///
    /// # Errors
    /// As [`Observer::connection`].
    pub fn close(&self, service: Option<&str>, number: u32) -> Result<String, String> {
        let connection = self.find(service, number)?;
        // Of this very connection: the number may be another one's by now.
        self.connections.close(&connection);
        Ok(format!("closed {}", connection.status()))
    }

    /// Clients that came within so many seconds or are connected now, the newest first.
    ///
    /// # Errors
    /// There is no such service.
    pub fn recent(&self, service: Option<&str>, seconds: u32) -> Result<Vec<RecentClient>, String> {
        let meant = self.meant(service)?;
        let live = self.live();
        let mut clients = HashMap::new();
        for service in &self.services {
            if meant.is_none_or(|meant| Arc::ptr_eq(meant, service)) {
                gather(&mut clients, service, &live, u64::from(seconds) * 1000);
            }
        }
        Ok(newest_first(clients))
    }

    /// All clients that are remembered or connected now, by the name of their service.
    pub fn clients(&self) -> HashMap<String, Vec<RecentClient>> {
        let live = self.live();
        let of_service = |service: &Arc<Service>| {
            let mut clients = HashMap::new();
            gather(&mut clients, service, &live, u64::MAX);
            (service.name.clone(), newest_first(clients))
        };
        self.services.iter().map(of_service).collect()
    }

    /// The connections that come from an address, in the order of that.
    fn live(&self) -> Vec<(IpAddr, Arc<Connection>)> {
        let all = self.connections.all().into_iter();
        let mut live: Vec<_> = all
            .filter_map(|connection| Some((connection.client()?.ip(), connection)))
            .collect();
        live.sort_by_key(|(address, _)| *address);
        live
    }

    /// What is to be asked for staples, each certificate once.
    ///
    /// # Errors
    /// There is no such service.
    pub fn ocsp_questions(&self, service: Option<&str>) -> Result<Vec<OcspQuestion>, String> {
        let terms = self.terms(service)?.into_iter();
        let mut questions: Vec<_> = terms.flat_map(|terms| terms.store().questions()).collect();
        // One that has a file where two services have the same certificate.
        questions.sort_by_key(|question| (question.certificate.clone(), question.file.is_none()));
        questions.dedup_by(|next, one| next.certificate == one.certificate);
        Ok(questions)
    }

    /// Says for how long an OCSP answer would be stapled to a certificate.
    ///
    /// # Errors
    /// It would not be; or there is no such certificate or service.
    pub fn check_ocsp_answer(
        &self,
        service: Option<&str>,
        certificate: &Path,
        answer: &Path,
    ) -> Result<String, String> {
        let terms = self.terms(service)?;
        let certificate =
            std::path::absolute(certificate).unwrap_or_else(|_| certificate.to_owned());
        let certificate = certificate.as_path();
        let mut checked = terms
            .iter()
            .filter_map(|terms| terms.store().check_answer(certificate, answer));
        let none = || {
            format!(
                "no certificate of {} is served: `status` and `ocsp` show those that are",
                certificate.display()
            )
        };
        let left = checked.next().ok_or_else(none)??;
        Ok(format!("{} is good for {left} s", answer.display()))
    }

    /// Of the services that speak TLS, or of one.
    fn terms(&self, service: Option<&str>) -> Result<Vec<Arc<Terms>>, String> {
        let meant = self.meant(service)?;
        let services = self.services.iter();
        let services = services.filter(|one| meant.is_none_or(|meant| Arc::ptr_eq(meant, one)));
        Ok(services.filter_map(|service| service.terms()).collect())
    }

    fn find(&self, service: Option<&str>, number: u32) -> Result<Arc<Connection>, String> {
        let meant = self.meant(service)?;
        let found = self.connections.get(number);
        let found = found.ok_or_else(|| {
            format!("there is no connection {number}: `connections` shows those that are there")
        })?;
        match meant {
            Some(service) if !Arc::ptr_eq(service, &found.service) => Err(format!(
                "connection {number} is of service {}, not of {}",
                found.service.name, service.name
            )),
            Some(_) | None => Ok(found),
        }
    }

    fn meant(&self, service: Option<&str>) -> Result<Option<&Arc<Service>>, String> {
        let Some(name) = service else {
            return Ok(None);
        };
        let found = self.services.iter().find(|service| service.name == name);
        let names = || {
            let names = self.services.iter().take(8).map(|s| s.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        found.map(Some).ok_or_else(|| {
            format!(
                "there is no service {name:?} in proxy mode; there are: {}",
                names()
            )
        })
    }
}

/// Adds the clients of a service; `live` is in the order of addresses.
fn gather(
    clients: &mut HashMap<IpAddr, RecentClient>,
    service: &Service,
    live: &[(IpAddr, Arc<Connection>)],
    within_ms: u64,
) {
    for some in seen(service, live, within_ms).chunks(LOOK) {
        let choice = service.choice();
        let index = |recent: &Recent| choice.point(recent.last?)?.index;
        for recent in some {
            add(clients, recent, index(recent));
        }
    }
}

fn newest_first(clients: HashMap<IpAddr, RecentClient>) -> Vec<RecentClient> {
    let mut clients: Vec<RecentClient> = clients.into_values().collect();
    clients.sort_by_key(|client| (client.age_ms, client.address));
    clients
}

/// The clients that a service has seen, and those that it has. `live` is in the order of addresses.
fn seen(service: &Service, live: &[(IpAddr, Arc<Connection>)], within_ms: u64) -> Vec<Recent> {
    let now_ms = now_ms();
    let is_mine = |(_, connection): &&(IpAddr, Arc<Connection>)| {
        std::ptr::eq(&raw const *connection.service, service)
    };
    let mine: Vec<_> = live.iter().filter(is_mine).collect();
    let of_clients: Vec<_> = mine.chunk_by(|(one, _), (other, _)| one == other).collect();
    let recent = service.choice().balancer.recent(now_ms, within_ms);
    let recent = recent.into_iter().map(|client| (client.address, client));
    let mut clients: HashMap<_, _> = recent.collect();
    for some in of_clients.chunks(LOOK) {
        // A connection hands its bytes over to the client under the same lock: none is lost on the
        // way, and none is there twice. It is held for moments, as clients that come wait for it.
        let choice = service.choice();
        for connections in some {
            let address = connections.first().map(|(address, _)| *address);
            let client = address.and_then(|address| choice.balancer.client(address, now_ms));
            let Some(mut client) = client else { continue };
            for (sent, received) in connections.iter().map(|(_, one)| one.bytes()) {
                client.sent += sent;
                client.received += received;
            }
            clients.insert(client.address, client);
        }
    }
    clients.into_values().collect()
}

/// A client as one service knows it, whose server has this number.
fn add(clients: &mut HashMap<IpAddr, RecentClient>, recent: &Recent, server: Option<usize>) {
    let more = RecentClient {
        address: recent.address,
        connects: recent.connects,
        sx: recent.sent,
        rx: recent.received,
        age_ms: recent.age_ms,
        server,
    };
    match clients.entry(recent.address) {
        Entry::Vacant(entry) => {
            entry.insert(more);
        }
        Entry::Occupied(mut entry) => {
            let client = entry.get_mut();
            client.connects += more.connects;
            client.sx += more.sx;
            client.rx += more.rx;
            if more.age_ms < client.age_ms {
                (client.age_ms, client.server) = (more.age_ms, more.server);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::proxy::balance::Client;
    use crate::proxy::connections::{Presence, tests::service};
    use crate::proxy::service::Visit;

    /// A client at a service that was sent and has sent so many bytes.
    fn guest(service: &Arc<Service>, at: &str, sent: u64, received: u64) -> (Presence, Visit) {
        let at: SocketAddr = at.parse().unwrap();
        let presence = service.begin(Some(at));
        let client = Client {
            address: Some(at.ip()),
            port: at.port(),
        };
        let mut visit = service.admit(client, &mut None).unwrap();
        presence.tries(&visit.next().unwrap(), visit.chosen_by());
        visit.connected();
        presence.counts.down.fetch_add(sent, Ordering::Relaxed);
        presence.counts.up.fetch_add(received, Ordering::Relaxed);
        (presence, visit)
    }

    fn two() -> (Observer, Vec<Arc<Service>>) {
        let connections = Arc::new(Connections::default());
        let services = ["web", "mail"].map(|name| service(name, &connections));
        let observer = Observer {
            services: services.to_vec(),
            connections,
        };
        (observer, services.to_vec())
    }

    #[test]
    fn a_client_has_its_bytes_once_whatever_has_ended() {
        let (observer, services) = two();
        let lines = |service| {
            let recent = observer.recent(service, 300).unwrap();
            let mut lines: Vec<String> = recent.iter().map(RecentClient::to_string).collect();
            lines.sort();
            lines
        };
        let first = guest(&services[0], "192.0.2.1:1", 10, 1);
        let second = guest(&services[0], "192.0.2.1:2", 20, 2);
        let mail = guest(&services[1], "192.0.2.1:3", 40, 4);
        let other = guest(&services[1], "[2001:db8::1]:4", 7, 8);
        let all = [
            "192.0.2.1 connects 3 sx 70 rx 7",
            "2001:db8::1 connects 1 sx 7 rx 8",
        ];
        assert_eq!(lines(None), all);
        drop(first);
        assert_eq!(lines(None), all);
        drop((second, mail, other));
        assert_eq!(lines(None), all);
        assert_eq!(lines(Some("web")), ["192.0.2.1 connects 2 sx 30 rx 3"]);
    }

    #[test]
    fn a_service_that_is_named_has_only_its_own_connections() {
        let (observer, services) = two();
        let _web = guest(&services[0], "192.0.2.1:1", 0, 0);
        let _mail = guest(&services[1], "192.0.2.1:2", 0, 0);
        let mails = observer.connections(Some("mail")).unwrap();
        assert_eq!((mails.len(), mails[0].number), (1, 1));
        assert_eq!(observer.connection(Some("web"), 0).unwrap().number, 0);
        let refusal = observer.close(Some("web"), 1).unwrap_err();
        assert_eq!(refusal, "connection 1 is of service mail, not of web");
        assert!(!observer.connections.get(1).unwrap().is_closing());
        let refusal = observer.connections(Some("ftp")).unwrap_err();
        assert_eq!(
            refusal,
            "there is no service \"ftp\" in proxy mode; there are: web, mail"
        );
        let refusal = observer.connection(None, 7).unwrap_err();
        assert!(refusal.starts_with("there is no connection 7: "));
    }
}
