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
mod gate;
mod header;
mod http;
mod inherited;
mod listen;
mod listeners;
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
use gate::Gate;
pub use inherited::Inherited;
pub use listen::Bound;
use listeners::Listeners;
pub use log::Opened;
use log::{Current, Logs};
pub use observer::Observer;
pub use routes::{Place, Route, Routes, Server};
use service::Service;
use signpost::Signpost;
use threads::Threads;
pub use tls::Agreed;
use tls::Renewal;

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
    /// Removes the files of Unix sockets.
    _bound: Bound,
}

impl Bound {
    /// Takes clients from now on, on every core that is not `taken` by somebody who spins there.
    ///
    /// # Errors
    /// A log can't be opened, a listener can't be opened for a further thread, or there is no
    /// further thread to be had.
    pub fn start(mut self, taken: &BTreeSet<usize>) -> Result<Proxy> {
        let routes = self.routes().clone();
        let (clients_max, warning) = clients_max(&routes);
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        let everyone = Arc::new(Gate::new(clients_max));
        let mut logs = Logs::new();
        let opened = logs.open(&routes)?;
        let connections = Arc::new(Connections::default());
        let service = |(route, listeners): (&Route, Listeners)| {
            let log = Current::none(&route.service, logs.ring());
            let connections = Arc::clone(&connections);
            Arc::new(Service::new(route, listeners, connections, log))
        };
        let services = routes.iter().zip(Listeners::of(routes.iter()));
        let services: Vec<_> = services.map(service).collect();
        put_up(&services, &routes);
        log_to(&services, &routes, opened);
        let agreed = self.take_agreed();
        agree(&services, &agreed);
        let threads = Threads::start(&self, &services, taken, &everyone)?;
        let mut renewal = Renewal::default();
        renewal.follow(agreed.watched());
        Ok(Proxy {
            routes,
            services,
            connections,
            threads,
            renewal,
            logs,
            _bound: self,
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

    /// Opens the logs that `routes` ask for; those that are open stay what they are.
    ///
    /// # Errors
    /// One can't be had; what mends it.
    pub fn open_logs(&mut self, routes: &Routes) -> Result<Opened> {
        self.logs.open(routes)
    }

    /// Makes what services offer to clients that speak TLS, and demand of servers that do, as
    /// `routes` want it, certificates read anew; what is not changed stays as it is.
    ///
    /// # Errors
    /// A certificate can't be had; what mends it.
    pub fn agree(&self, routes: &Routes) -> Result<Agreed> {
        let before: Vec<_> = self
            .services
            .iter()
            .map(|service| service.agreement())
            .collect();
        Agreed::make(routes, &before)
    }

    /// Has all logs opened again, as files may have other names by now; how many there are.
    pub fn reopen_logs(&self) -> usize {
        self.logs.reopen()
    }

    /// Goes by other routes from now on, by the logs that were opened for them and by what was
    /// agreed for them; connections that run are left alone. Listeners stay what they were at the
    /// start.
    pub fn update(&mut self, routes: Routes, opened: Opened, agreed: &Agreed) {
        log_to(&self.services, &routes, opened);
        agree(&self.services, agreed);
        self.renewal.follow(agreed.watched());
        for (service, route) in self.services.iter().zip(routes.iter()) {
            service.update(route);
        }
        put_up(&self.services, &routes);
        self.routes = routes;
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
