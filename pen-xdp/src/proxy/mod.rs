//! Proxy mode: services whose clients end their connections here, and whose servers are chosen
//! connection by connection.
//!
//! Each proxy thread has its own event loop and its own listening sockets (SO_REUSEPORT); a client
//! stays on the thread that took it. What all threads share of a service, its `Service`, is
//! locked for moments only: when a server is chosen, reached, missed or left.

mod accept;
pub mod balance;
pub mod buffers;
mod connect;
mod connections;
mod descriptors;
mod direction;
mod doors;
mod drain;
mod gate;
mod header;
mod http;
mod inherited;
mod listen;
mod listeners;
pub(crate) mod listening;
mod log;
mod observer;
pub mod pipes;
mod queue;
pub mod relay;
mod report;
mod routes;
mod service;
mod session;
mod signpost;
pub mod spares;
pub mod stream;
mod threads;
pub mod tls;
mod udp;

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;

use connections::Connections;
use descriptors::clients_max;
use doors::{Doors, Plan};
use drain::Gone;
use gate::Gate;
pub use inherited::Inherited;
pub(crate) use log::plain_time;
use log::{Current, Logs, Opened};
pub use observer::Observer;
pub use routes::{Place, Route, Routes, Server};
use service::Service;
use signpost::Signpost;
use threads::Threads;
use tls::{Agreed, Renewal};

/// What is to be served, with a socket for each listener. Clients wait in the kernel until somebody
/// takes them.
#[derive(Debug)]
pub struct Bound {
    routes: Routes,
    services: Vec<Arc<Service>>,
    connections: Arc<Connections>,
    agreed: Agreed,
    doors: Doors,
    logs: Logs,
}

/// The proxy at work; dropping it takes no more clients and ends the connections of those it has.
#[derive(Debug)]
pub struct Proxy {
    routes: Routes,
    services: Vec<Arc<Service>>,
    connections: Arc<Connections>,
    threads: Threads,
    renewal: Renewal,
    /// Behind the threads: their last lines are written, too.
    logs: Logs,
    doors: Doors,
    gone: Gone,
}

/// Everything that other routes need, had already; nothing goes by them yet.
#[derive(Debug)]
pub struct Prepared {
    routes: Routes,
    services: Vec<Arc<Service>>,
    agreed: Agreed,
    opened: Opened,
    plan: Plan,
}

impl Bound {
    /// Binds every listener of `routes` that is not `inherited`, takes those that are, and reads
    /// certificates.
    ///
    /// # Errors
    /// Names the first one that can't be had, and what mends it.
    pub(crate) fn open(routes: Routes, inherited: &mut Inherited) -> Result<Self> {
        let connections = Arc::new(Connections::default());
        let logs = Logs::new();
        let services = routes.iter();
        let services: Vec<_> = services.map(|r| new(r, &connections, &logs)).collect();
        Ok(Self {
            agreed: Agreed::make(&routes, &[])?,
            doors: Doors::open(&routes, &services, inherited)?,
            routes,
            services,
            connections,
            logs,
        })
    }

    /// Takes clients from now on, on every core that is not `taken` by somebody who spins there.
    ///
    /// # Errors
    /// A log can't be opened, a listener can't be opened for a further thread, or there is no
    /// further thread to be had.
    pub fn start(self, taken: &BTreeSet<usize>) -> Result<Proxy> {
        let Self {
            routes,
            services,
            connections,
            agreed,
            mut doors,
            mut logs,
        } = self;
        let (clients_max, warning) = clients_max(&routes);
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        let opened = logs.open(&routes)?;
        put_up(&services, &routes);
        log_to(&services, &routes, opened);
        agree(&services, &agreed);
        let threads = Threads::start(taken, &Arc::new(Gate::new(clients_max)))?;
        doors.shown_by(&services);
        for (entrance, sockets) in doors.entrances(threads.count())? {
            threads.open(&entrance, sockets);
        }
        let mut renewal = Renewal::default();
        renewal.follow(agreed.watched());
        Ok(Proxy {
            routes,
            services,
            connections,
            threads,
            renewal,
            logs,
            doors,
            gone: Gone::default(),
        })
    }
}

impl Proxy {
    /// What is served, and by whom.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// How many threads take clients.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// Has everything that `routes` need: logs and listeners that are not open yet, what services
    /// offer to clients that speak TLS and demand of servers that do, with certificates read anew.
    ///
    /// # Errors
    /// What can't be had, and what mends it. Nothing has changed then.
    pub(crate) fn prepare(&mut self, routes: Routes) -> Result<Prepared> {
        let opened = self.logs.open(&routes)?;
        let services = routes.iter().map(|route| self.service(route));
        let services: Vec<_> = services.collect();
        let before: Vec<_> = services.iter().map(|one| one.agreement()).collect();
        Ok(Prepared {
            opened,
            agreed: Agreed::make(&routes, &before)?,
            plan: self.doors.plan(&routes, &services, self.threads())?,
            routes,
            services,
        })
    }

    /// The one that there is: settings change, and how it serves does not. One that serves otherwise
    /// is another one, though it has the same name.
    fn service(&self, route: &Route) -> Arc<Service> {
        let mut known = self.services.iter();
        let known = known.find(|one| one.name == route.service && one.mode == route.mode);
        let known = known.map(Arc::clone);
        known.unwrap_or_else(|| new(route, &self.connections, &self.logs))
    }

    /// Has all logs opened again, as files may have other names by now; how many there are.
    pub fn reopen_logs(&self) -> usize {
        self.logs.reopen()
    }

    /// Goes by other routes from now on. Connections that run are left alone, those of services
    /// that are gone too; UDP flows end with their listener.
    pub fn update(&mut self, prepared: Prepared) {
        let Prepared {
            routes,
            services,
            agreed,
            opened,
            plan,
        } = prepared;
        log_to(&services, &routes, opened);
        agree(&services, &agreed);
        self.renewal.follow(agreed.watched());
        for (service, route) in services.iter().zip(routes.iter()) {
            service.update(route);
        }
        put_up(&services, &routes);
        for (entrance, sockets) in self.doors.turn(plan, &services) {
            self.threads.open(&entrance, sockets);
        }
        let stays = |one: &&Arc<Service>| services.iter().any(|other| Arc::ptr_eq(one, other));
        self.gone
            .add(self.services.iter().filter(|one| !stays(one)));
        (self.services, self.routes) = (services, routes);
    }

    /// Lets every service of `pool` try `server` again, whatever happened to it before.
    pub fn readmit(&self, pool: &str, server: &str) {
        let routes = self.services.iter().zip(self.routes.iter());
        for (service, _) in routes.filter(|(_, route)| route.pool == pool) {
            service.readmit(server);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.logs.close();
    }
}

fn new(route: &Route, connections: &Arc<Connections>, logs: &Logs) -> Arc<Service> {
    let log = Current::none(&route.service, logs.ring());
    Arc::new(Service::new(route, Arc::clone(connections), log))
}

/// Has services lead to each other as their routes say.
fn put_up(services: &[Arc<Service>], routes: &Routes) {
    for (service, route) in services.iter().zip(routes.iter()) {
        let before = service.signpost();
        service.put_up(Signpost::of(route, services, before.as_deref()));
    }
}

fn agree(services: &[Arc<Service>], Agreed(all): &Agreed) {
    for (service, agreement) in services.iter().zip(all) {
        service.agree(agreement.clone());
    }
}

fn log_to(services: &[Arc<Service>], routes: &Routes, Opened(sinks): Opened) {
    for ((service, route), sink) in services.iter().zip(routes.iter()).zip(sinks) {
        service.log.set(sink, route.options.log_format);
    }
}
