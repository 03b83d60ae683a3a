//! `--check`: what can be said about a configuration on this host without changing anything.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use pen_common::config::{Config, Plane, Service, XdpMode};

use super::conflict;
use crate::{
    control::{names, socket::check_owner},
    keeper::{Keeper, backends},
    nic::{forwarding, resets_link, who_holds_xdp},
    privileges,
    proxy::tls::{Demands, Terms},
};

/// Warnings and remarks, a sentence each.
///
/// # Errors
/// What would keep the daemon from starting.
pub fn check(config: &Config) -> Result<Vec<String>> {
    let mut sentences = match config.dsr_services().next() {
        Some(_) => data_plane(config)?,
        None => Vec::new(),
    };
    let proxied = config.proxy_services().count();
    if proxied > 0 {
        let listeners = config.proxy_services().map(|s| s.listen_texts().len());
        sentences.push(format!(
            "{proxied} services in proxy mode, {} listeners",
            listeners.sum::<usize>()
        ));
    }
    for service in config.proxy_services() {
        let possible = Terms::check(service.mode, &service.proxy.tls);
        let troubles = possible.with_context(|| format!("service {:?}", service.name))?;
        let name = &service.name;
        let demanded = Demands::check(service.mode, &service.proxy.server_tls);
        let demanded = demanded.with_context(|| format!("service {:?}", service.name))?;
        let troubles = troubles.into_iter().chain(demanded);
        sentences.extend(troubles.map(|why| format!("warning: service {name:?}: {why}")));
    }
    if let Some(owner) = &config.control_owner {
        check_owner(owner)?;
    }
    privileges::user(config)?;
    // With all addresses that names stand for now.
    let mut whole = config.clone();
    names::follow(&mut whole, &names::at_load(config), &config.pools);
    for service in whole.proxy_services().filter(|s| s.proxy.transparent) {
        sentences.extend(transparent_routes(&whole, service));
    }
    Ok(sentences)
}

/// Routing table of the routes that `transparent` needs; any free one does.
const TABLE: u32 = 880;

/// What must be so for servers' answers, which go to the clients' addresses, to end at this host.
fn transparent_routes(config: &Config, service: &Service) -> Vec<String> {
    let mut lines = vec![format!(
        "service {:?} is transparent: its servers must send their answers to clients through this \
         host (their route to clients), and here:",
        service.name
    )];
    let backends = config.pool(&service.pool).map(|pool| &pool.backends);
    let spares = [&service.proxy.emergency, &service.proxy.abuse];
    let all = backends
        .into_iter()
        .flatten()
        .chain(spares.into_iter().flatten());
    let mut families = BTreeSet::new();
    for backend in all.filter(|backend| backend.path().is_none()) {
        let family = if backend.address.is_ipv4() { "" } else { "-6 " };
        families.insert(family);
        // Without a port of its own it is connected to at that which the client came to.
        let ports: BTreeSet<u16> = match backend.port {
            0 => [service]
                .into_iter()
                .chain(config.leading_to(&service.name))
                .flat_map(|service| &service.listeners)
                .map(|listener| listener.port)
                .collect(),
            port => BTreeSet::from([port]),
        };
        for port in ports {
            lines.push(format!(
                "  ip {family}rule add ipproto tcp from {} sport {port} lookup {TABLE}",
                backend.address
            ));
        }
    }
    for family in families {
        lines.push(format!(
            "  ip {family}route add local default dev lo table {TABLE}"
        ));
    }
    lines
}

fn data_plane(config: &Config) -> Result<Vec<String>> {
    let keeper = Keeper::open(config)?;
    let segments = keeper.segments(config)?;
    let unreachable = keeper.unreachable(&segments);
    if !unreachable.is_empty() {
        bail!("{}", unreachable.join("\n"));
    }
    conflict::refuse(config)?;
    let name = &keeper.nic.name;
    let mut sentences = Vec::new();
    if !keeper.nic.link.up {
        sentences.push(format!(
            "warning: {name} is down; mend: ip link set {name} up"
        ));
    }
    if let Err(error) = keeper.check_privileges() {
        sentences.push(format!("warning: {error}"));
    }
    let notes = segments.notes.iter();
    sentences.extend(notes.map(|note| format!("note: {note}")));
    let forwarding = forwarding(name);
    for (on, family, key) in [
        (
            forwarding.v4,
            "IPv4",
            format!("net.ipv4.conf.{name}.forwarding"),
        ),
        (
            forwarding.v6,
            "IPv6",
            format!("net.ipv6.conf.{name}.forwarding"),
        ),
    ] {
        if on {
            sentences.push(format!(
                "warning: this host forwards {family} packets on {name} by itself, so what Pen \
                 leaves to the kernel may go out a second time; mend: sysctl -w {key}=0"
            ));
        }
    }
    if config.plane != Plane::AfPacket {
        sentences.push(attach_sentence(name, &keeper.nic.driver, config.xdp_mode));
        if let Some(holder) = who_holds_xdp(keeper.nic.index)? {
            sentences.push(format!("note: the XDP hook of {name} is held by {holder}"));
        }
    }
    sentences.push(format!(
        "{} VIPs, {} pools, {} back ends; tables in {} KiB",
        config
            .dsr_services()
            .map(|service| service.listeners.len())
            .sum::<usize>(),
        config.dsr_pools().count(),
        backends(config).len(),
        config.table_memory() / 1024
    ));
    Ok(sentences)
}

/// Whether attaching takes the link down for a moment.
fn attach_sentence(name: &str, driver: &str, mode: XdpMode) -> String {
    match (mode, resets_link(driver)) {
        (XdpMode::Generic, _) => format!("attaching in generic mode does not reset {name}"),
        (_, Some(true)) => {
            format!("note: attaching resets the link of {name} (driver {driver}) for a moment")
        }
        (_, Some(false)) => format!("attaching does not reset the link of {name} ({driver})"),
        (_, None) => format!(
            "note: it is not known whether attaching resets the link of {name} (driver {driver})"
        ),
    }
}
