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
mod listen;
mod observer;
pub mod pipes;
mod queue;
pub mod relay;
mod report;
mod routes;
mod service;
mod session;
pub mod spares;
pub mod stream;
mod threads;
mod udp;

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;

use connections::Connections;
use descriptors::clients_max;
use gate::Gate;
pub use listen::Bound;
pub use observer::Observer;
pub use routes::{Place, Route, Routes, Server};
use service::Service;
use threads::Threads;

/// The proxy at work; dropping it takes no more clients and ends the connections of those it has.
#[derive(Debug)]
pub struct Proxy {
    routes: Routes,
    services: Vec<Arc<Service>>,
    connections: Arc<Connections>,
    threads: Threads,
    /// Removes the files of Unix sockets.
    _bound: Bound,
}

impl Bound {
    /// Takes clients from now on, on every core that is not `taken` by somebody who spins there.
    ///
    /// # Errors
    /// A listener can't be opened for a further thread, or there is no further thread to be had.
    pub fn start(self, taken: &BTreeSet<usize>) -> Result<Proxy> {
        let routes = self.routes().clone();
        let (clients_max, warning) = clients_max(&routes);
        if let Some(warning) = warning {
            tracing::warn!("{warning}");
        }
        let everyone = Arc::new(Gate::new(clients_max));
        let connections = Arc::new(Connections::default());
        let services: Vec<_> = routes
            .iter()
            .map(|route| Arc::new(Service::new(route, Arc::clone(&connections))))
            .collect();
        let threads = Threads::start(&self, &services, taken, &everyone)?;
        Ok(Proxy {
            routes,
            services,
            connections,
            threads,
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

    /// Goes by other routes from now on; connections that run are left alone. Listeners stay what
    /// they were at the start.
    pub fn update(&mut self, routes: Routes) {
        for (service, route) in self.services.iter().zip(routes.iter()) {
            service.update(route);
        }
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
