//! Values of a service's keys that take more than a line to read or to write.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ::toml::Value;

use super::NONE;
use crate::config::acl::parse_networks;
use crate::config::address::{check_connectable, parse_listener, parse_place, parse_server};
use crate::config::given::Given;
use crate::config::keys::{path, text};
use crate::config::sni_route::WITHOUT;
use crate::config::{
    Acl, Backend, Balance, HostPort, Hsts, LogTarget, Mode, Protocol, Service, SniRoute,
};

pub(super) fn within(
    key: &str,
    given: Given<'_>,
    range: RangeInclusive<u32>,
    target: &mut u32,
) -> Result<(), String> {
    *target = given.number(key, range)?;
    Ok(())
}

/// The mode has been read before, wherever it stands: where clients connect is another matter in
/// proxy mode.
pub(super) fn read_listen(service: &mut Service, given: Given<'_>) -> Result<(), String> {
    let text = given.text("listen")?;
    match service.mode {
        Mode::Dsr => service.listeners.push(parse_listener(text, Protocol::Tcp)?),
        Mode::Tcp | Mode::Http => parse_place(text, Protocol::Tcp)?.join(service),
        Mode::Udp => parse_place(text, Protocol::Udp)?.join(service),
    }
    Ok(())
}

pub(super) fn write_listen(service: &Service) -> Option<Value> {
    let listeners = service.listeners.iter().filter_map(text);
    let paths = service.proxy.paths.iter().filter_map(|at| path(at));
    Some(Value::Array(listeners.chain(paths).collect()))
}

pub(super) fn write_balance(service: &Service) -> Option<Value> {
    let on = Balance::ALL
        .iter()
        .filter(|switch| service.proxy.balance.has(**switch));
    Some(Value::Array(on.filter_map(text).collect()))
}

pub(super) fn read_source(given: Given<'_>) -> Result<IpAddr, String> {
    let text = given.text("source")?;
    let address = text
        .parse()
        .map_err(|_| format!("source = {given} is not an address"))?;
    check_connectable(address).map_err(|why| format!("source = {given}: {why}"))?;
    Ok(address)
}

/// A server beside the pool's, as written; it is looked up when all has been read.
pub(super) fn read_spare(key: &str, given: Given<'_>) -> Result<Backend, String> {
    let server = parse_server(given.text(key)?).map_err(|why| format!("{key}: {why}"))?;
    let mut backend = Backend::unsaid();
    server.fill(&mut backend);
    Ok(backend)
}

pub(super) fn read_log(given: Given<'_>) -> Result<Option<LogTarget>, String> {
    LogTarget::read(given.text("log")?).map_err(|why| format!("log = {given} {why}"))
}

pub(super) fn read_hsts(given: Given<'_>) -> Result<Option<Hsts>, String> {
    Hsts::read(given.text("hsts")?).map_err(|why| format!("hsts = {given}: {why}"))
}

/// One network more, or all; by a command also none at all.
pub(super) fn read_networks(key: &str, given: Given<'_>, list: &mut Acl) -> Result<(), String> {
    if matches!(given, Given::Word(NONE)) {
        list.lines.clear();
        return Ok(());
    }
    let networks = parse_networks(given.text(key)?);
    list.lines
        .extend(networks.map_err(|why| format!("{key} = {given}: {why}"))?);
    Ok(())
}

pub(super) fn write_networks(list: &Acl) -> Option<Value> {
    let lines = list.lines.iter();
    let networks = lines.filter_map(|line| text(format!("{}/{}", line.network, line.prefix)));
    Some(Value::Array(networks.collect()))
}

/// One option more; by a command also none at all.
pub(super) fn read_ssl_option(service: &mut Service, given: Given<'_>) -> Result<(), String> {
    let tls = &mut service.proxy.tls;
    if matches!(given, Given::Word(NONE)) {
        tls.options.clear();
    } else {
        tls.set(given.word("ssl_option")?);
    }
    Ok(())
}

/// One route more; by a command also one that takes the place of that for the same name, one less,
/// or none at all.
pub(super) fn read_sni_route(service: &mut Service, given: Given<'_>) -> Result<(), String> {
    let routes = &mut service.proxy.sni_routes;
    if matches!(given, Given::Word(NONE)) {
        routes.clear();
        return Ok(());
    }
    let text = given.text("sni_route")?;
    if let (Given::Word(_), Some(name)) = (given, text.strip_prefix(WITHOUT)) {
        let at = routes.iter().position(|route| route.name == name);
        let at = at.ok_or_else(|| format!("sni_route: there is none for {name}"))?;
        routes.remove(at);
        return Ok(());
    }
    let new: SniRoute = text
        .parse()
        .map_err(|why| format!("sni_route = {given}: {why}"))?;
    match (
        given,
        routes.iter_mut().find(|route| route.name == new.name),
    ) {
        (_, None) => routes.push(new),
        (Given::Word(_), Some(known)) => *known = new,
        (_, Some(_)) => {
            let name = &new.name;
            return Err(format!(
                "sni_route = {given}: there are two for {name}: leave out one"
            ));
        }
    }
    Ok(())
}

pub(super) fn write_spare(backend: &Backend) -> Option<Value> {
    text(HostPort::of(backend))
}
