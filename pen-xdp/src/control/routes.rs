//! What the proxy goes by, compiled from the state.

use std::net::SocketAddr;
use std::path::PathBuf;

use pen_common::config::{Acl, Backend, Config, Service};

use super::state::State;
use crate::proxy::{Place, Route, Routes, Server};

/// The services of proxy mode.
pub fn routes(state: &State) -> Routes {
    let config = state.config();
    let services = config.proxy_services();
    Routes(services.map(|service| route(state, service)).collect())
}

fn route(state: &State, service: &Service) -> Route {
    let config = state.config();
    let pool = config.pool(&service.pool);
    let backends = pool.map(|pool| pool.backends.as_slice());
    let servers = backends.unwrap_or_default().iter().enumerate();
    // Who is gone has left the configuration, as far as the proxy is concerned.
    let servers = servers.filter(|(_, backend)| !backend.gone);
    let servers = servers.map(|(number, backend)| Server {
        number: Some(number),
        blacklisted_until_ms: state.blacklisted_until_ms(&service.pool, backend),
        ..server(config, backend)
    });
    let options = &service.proxy;
    Route {
        service: service.name.clone(),
        mode: service.mode,
        listeners: service.listeners.clone(),
        listen: service.listen_texts(),
        pool: service.pool.clone(),
        client_acl: acl(config, options.client_acl),
        seed: config.seed,
        servers: servers.collect(),
        emergency: options.emergency.as_ref().map(|b| server(config, b)),
        abuse: options.abuse.as_ref().map(|b| server(config, b)),
        options: options.clone(),
    }
}

fn server(config: &Config, backend: &Backend) -> Server {
    Server {
        number: None,
        name: backend.name.clone(),
        host: backend.host_name().map(str::to_owned),
        place: match backend.path() {
            Some(path) => Place::Unix(PathBuf::from(path)),
            None => Place::Tcp(SocketAddr::new(backend.address, backend.port)),
        },
        weight: backend.weight,
        prio: backend.prio,
        max: backend.max,
        hard: backend.hard,
        acl: acl(config, backend.acl),
        blacklisted_until_ms: None,
    }
}

/// A list that nobody wrote is empty.
fn acl(config: &Config, number: u8) -> Acl {
    config
        .acls
        .get(usize::from(number))
        .cloned()
        .unwrap_or_default()
}
