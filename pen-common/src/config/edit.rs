//! Changes of a running configuration that are more than a number: who serves, and where clients
//! come in. What comes out is checked whole, as a file is.

use std::net::IpAddr;
use std::path::Path;

use super::commands::{Change, ServerRef};
use super::pen_line::full_name;
use super::toml::resolve;
use super::{
    Backend, Config, Mode, Outside, Protocol, Service, parse_listener, parse_place, parse_server,
};

/// One such change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A server more, behind those that are there: `host:port:max:hard:weight:prio`.
    Add(String, Vec<Change>),
    /// A server less; the numbers of those behind it move down.
    Remove(ServerRef),
    /// A server that is elsewhere, or different otherwise; one behind the last number is new.
    Server(ServerRef, Vec<Change>),
    /// Clients of the service come in here from now on.
    Listen(String),
    /// HTTP requests are passed on instead of TCP connections, or not.
    Http(bool),
    /// A key of a service in proxy mode, which names servers.
    Option {
        /// Its name.
        key: &'static str,
        /// Its value as written.
        value: String,
    },
}

impl Edit {
    /// The host that has to be looked up for it.
    pub fn host(&self) -> Option<String> {
        let text = match self {
            Self::Add(server, _) => server,
            Self::Server(_, changes) => {
                let host = |change: &Change| match change {
                    Change::Address(host) => Some(host.clone()),
                    Change::Port(_)
                    | Change::Max(_)
                    | Change::Hard(_)
                    | Change::Blacklist(_)
                    | Change::Weight(_)
                    | Change::Prio(_)
                    | Change::Acl(_) => None,
                };
                return changes.iter().rev().find_map(host);
            }
            Self::Option { value, .. } => value,
            Self::Remove(_) | Self::Listen(_) | Self::Http(_) => return None,
        };
        parse_server(text).ok().map(|server| server.host)
    }
}

impl Config {
    /// This configuration with a change, checked whole.
    ///
    /// # Errors
    /// What is meant is not there, or what comes out is no configuration.
    pub fn edited(
        &self,
        service: Option<&str>,
        edit: &Edit,
        outside: &dyn Outside,
    ) -> Result<Self, String> {
        let mut config = self.as_written();
        config.edit(service, edit, outside)?;
        let checked = config.check().map_err(|faults| faults.to_string())?;
        Ok(checked.into_parts().0)
    }

    /// Makes a change of the service of that name, which may be left out where there is one. What
    /// comes out is yet to be checked.
    ///
    /// # Errors
    /// A sentence for the asker: what is meant is not there, or can't be so.
    fn edit(
        &mut self,
        service: Option<&str>,
        edit: &Edit,
        outside: &dyn Outside,
    ) -> Result<(), String> {
        match edit {
            Edit::Add(server, changes) => {
                let mut backend = Backend::unsaid();
                parse_server(server)?.fill(&mut backend);
                resolve(&mut backend, outside)?;
                change(&mut backend, changes, outside)?;
                let pool = self.pool_meant(service, "server add")?;
                self.pools[pool].backends.push(backend);
                name_apart(&mut self.pools[pool].backends);
            }
            Edit::Remove(server) => {
                let (pool, index) = self.locate(service, server)?;
                let pool = &mut self.pools[pool];
                if pool.backends.len() == 1 {
                    return Err(format!(
                        "{:?} is the last server: drain it, or stop Pen",
                        pool.backends[index].name
                    ));
                }
                pool.backends.remove(index);
            }
            Edit::Server(server, changes) => {
                let (pool, index) = self.place_of(service, server)?;
                let backends = &mut self.pools[pool].backends;
                if index == backends.len() {
                    backends.push(Backend::unsaid());
                }
                change(&mut backends[index], changes, outside)?;
                if backends[index].host.is_empty() {
                    return Err(format!(
                        "there is no server {index} yet: give it an address: server {index} \
                         address 10.0.0.1"
                    ));
                }
                name_apart(backends);
            }
            Edit::Listen(at) => {
                let service = self.service_meant(service, "listen")?;
                listen(service, at)?;
            }
            Edit::Http(on) => {
                let service = self.service_meant(service, "http")?;
                service.mode = match (service.mode, on) {
                    (Mode::Tcp | Mode::Http, true) => Mode::Http,
                    (Mode::Tcp | Mode::Http, false) => Mode::Tcp,
                    (Mode::Udp | Mode::Dsr, _) => {
                        return Err(format!(
                            "`http` means nothing with mode = \"{}\"",
                            service.mode
                        ));
                    }
                };
            }
            Edit::Option { key, value } => {
                let service = self.service_meant(service, key)?;
                if !service.has_key(key) {
                    let mode = service.mode;
                    return Err(format!("`{key}` means nothing with mode = \"{mode}\""));
                }
                service.set(key, value)?;
                let proxy = &mut service.proxy;
                for spare in [&mut proxy.emergency, &mut proxy.abuse]
                    .into_iter()
                    .flatten()
                {
                    if spare.address.is_unspecified() {
                        resolve(spare, outside)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// As it was written: without what host names stand for besides.
    pub fn as_written(&self) -> Self {
        let mut written = self.clone();
        for backend in written.pools.iter_mut().flat_map(|pool| {
            pool.backends.retain(|backend| backend.of.is_none());
            pool.backends.iter_mut()
        }) {
            backend.gone = false;
        }
        written
    }

    fn service_meant(&mut self, name: Option<&str>, what: &str) -> Result<&mut Service, String> {
        let named = |service: &&mut Service| name.is_none_or(|name| service.name == name);
        let mut meant = self.services.iter_mut().filter(named);
        match (meant.next(), meant.next()) {
            (Some(service), None) => Ok(service),
            (Some(_), Some(_)) => Err(format!("which service's {what}? Say -s NAME first")),
            (None, _) => Err(format!(
                "there is no service {:?}",
                name.unwrap_or_default()
            )),
        }
    }

    fn pool_meant(&mut self, name: Option<&str>, what: &str) -> Result<usize, String> {
        let service = self.service_meant(name, what)?;
        let (name, pool) = (service.name.clone(), service.pool.clone());
        let found = self.pools.iter().position(|one| one.name == pool);
        found
            .ok_or_else(|| format!("service {name:?} has no servers, so none can be added to them"))
    }

    /// As [`Config::locate`], and the place behind the last one.
    fn place_of(
        &mut self,
        service: Option<&str>,
        server: &ServerRef,
    ) -> Result<(usize, usize), String> {
        if let ServerRef::Index(index) = server {
            let pool = self.pool_meant(service, "server")?;
            if *index == self.pools[pool].backends.len() {
                return Ok((pool, *index));
            }
        }
        self.locate(service, server)
    }
}

fn change(backend: &mut Backend, changes: &[Change], outside: &dyn Outside) -> Result<(), String> {
    for change in changes {
        match change {
            Change::Address(host) => {
                // One that has a name of its own keeps it, and its flows with it.
                let full = full_name(&backend.host, backend.port);
                if backend.name == backend.host || backend.name == full {
                    backend.name.clone_from(host);
                }
                backend.host.clone_from(host);
                backend.further.clear();
                resolve(backend, outside)?;
            }
            Change::Port(port) => backend.port = *port,
            Change::Max(max) => backend.max = *max,
            Change::Hard(hard) => backend.hard = *hard,
            Change::Blacklist(seconds) => backend.blacklist = *seconds,
            Change::Weight(weight) => backend.weight = *weight,
            Change::Prio(prio) => backend.prio = *prio,
            Change::Acl(acl) => backend.acl = *acl,
        }
    }
    Ok(())
}

/// One that has the name of another takes its port into it.
fn name_apart(backends: &mut [Backend]) {
    for at in 0..backends.len() {
        let (before, behind) = backends.split_at_mut(at);
        if let Some(backend) = behind.first_mut()
            && before.iter().any(|other| other.name == backend.name)
        {
            backend.name = full_name(&backend.host, backend.port);
        }
    }
}

fn listen(service: &mut Service, at: &str) -> Result<(), String> {
    match service.mode {
        Mode::Dsr => {
            let protocols = service.listeners.first();
            let protocol = protocols.map_or(Protocol::Tcp, |listener| listener.protocol);
            service.listeners = vec![parse_listener(at, protocol)?];
        }
        Mode::Tcp | Mode::Http | Mode::Udp => {
            let protocol = match service.mode {
                Mode::Udp => Protocol::Udp,
                Mode::Tcp | Mode::Http | Mode::Dsr => Protocol::Tcp,
            };
            let place = parse_place(at, protocol)?;
            service.listeners.clear();
            service.proxy.paths.clear();
            place.join(service);
        }
    }
    Ok(())
}

/// A world that was looked at before: one host, and what it stands for.
#[derive(Clone, Debug, Default)]
pub struct LookedUp(Option<(String, Result<Vec<IpAddr>, String>)>);

impl LookedUp {
    /// Looks up what `edit` needs.
    pub fn ask(edit: &Edit, outside: &dyn Outside) -> Self {
        let named = |host: &String| !host.contains('/') && host.parse::<IpAddr>().is_err();
        let host = edit.host().filter(named);
        Self(host.map(|host| {
            let found = outside.resolve(&host);
            (host, found)
        }))
    }
}

impl Outside for LookedUp {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let known = self.0.as_ref().filter(|(name, _)| name == host);
        known.map_or_else(
            || Err("it was not looked up".to_owned()),
            |(_, found)| found.clone(),
        )
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Err("no file is read here".to_owned())
    }
}
