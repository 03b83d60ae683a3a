//! What must hold for services in proxy mode, and for each key in the mode that it belongs to.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use ::toml::Value;

use super::Check;
use crate::config::address::{
    NO_UNIX_DATAGRAMS, check_bindable, check_connectable, check_path, check_protocol,
};
use crate::config::error::Item;
use crate::config::given::Given;
use crate::config::server_tls::check_named;
use crate::config::service_keys::SERVICE;
use crate::config::{ACLS_MAX, Backend, Config, Listener, Mode, Pool, Protocol, Service};

impl<'a> Check<'a> {
    /// Access lists are counted, and their lines can match somebody.
    pub(super) fn acls(&mut self) {
        let config = self.config;
        let count = config.acls.len();
        if count > ACLS_MAX {
            let why = format!("{count} access lists are more than {ACLS_MAX}");
            self.wrong(Item::Top, "", why);
        }
        for (number, acl) in config.acls.iter().enumerate() {
            for line in acl.lines.iter().filter(|line| !line.is_sound()) {
                let why = format!("`{line}` names no network: bits beyond the prefix are 0");
                self.wrong(Item::Acl(number), "lines", why);
            }
        }
        if let Err(full) = config.acl_rows(&BTreeSet::new()) {
            let item = Item::Acl(usize::from(full.longest));
            self.wrong(item, "lines", full.to_string());
        }
        for (index, service) in config.services.iter().enumerate() {
            let (acl, last) = (service.proxy.client_acl, ACLS_MAX - 1);
            if usize::from(acl) > last {
                let why = format!("client_acl = {acl} is out of range (0..={last})");
                self.wrong(Item::Service(index), "client_acl", why);
            }
            let lines = service.proxy.accept_proxy.lines.iter();
            for line in lines.filter(|line| !line.is_sound() || !line.permit) {
                let why = format!("accept_proxy: `{line}` permits no network");
                self.wrong(Item::Service(index), "accept_proxy", why);
            }
        }
    }

    /// Keys of the other mode are faults; those of this one have values that could be written.
    pub(super) fn keys_of_mode(&mut self, item: Item, service: &Service) {
        let mode = service.mode;
        let default = Service::new(&service.name);
        for key in SERVICE {
            let Some(only) = key.only else { continue };
            let value = (key.write)(service);
            if !mode.knows(key.name, Some(only)) {
                if self.places.has(item, key.name) || value != (key.write)(&default) {
                    let name = key.name;
                    let why =
                        format!("`{name}` means nothing with mode = \"{mode}\": leave it out");
                    self.wrong(item, key.name, why);
                }
                continue;
            }
            let mut scratch = Service::new("");
            scratch.mode = mode;
            for given in value.iter().flat_map(givens) {
                if let Err(why) = (key.read)(&mut scratch, given) {
                    self.wrong(item, key.name, why);
                }
            }
        }
    }

    pub(super) fn proxy_listener(&mut self, item: Item, listener: Listener, wanted: Protocol) {
        let why = check_protocol(listener.protocol, wanted).and_then(|()| match listener.port {
            0 => Err("a proxy listens at one port, and 0 is none".to_owned()),
            _ => check_bindable(listener.address),
        });
        if let Err(why) = why {
            self.wrong(item, "listen", format!("listen {listener}: {why}"));
        }
    }

    /// Unix sockets to listen at: only proxies can, and each only once.
    pub(super) fn paths(&mut self) {
        let mut seen: HashSet<&PathBuf> = HashSet::new();
        for (index, service) in self.config.services.iter().enumerate() {
            for path in &service.proxy.paths {
                let item = Item::Service(index);
                let shown = path.display();
                if service.mode == Mode::Dsr {
                    let why = format!("{shown} is a path, and a Unix socket can't be a VIP");
                    self.wrong(item, "listen", why);
                } else if service.mode == Mode::Udp {
                    self.wrong(
                        item,
                        "listen",
                        format!("listen {shown}: {NO_UNIX_DATAGRAMS}"),
                    );
                } else if !seen.insert(path) {
                    self.wrong(item, "listen", format!("listen {shown} is there twice"));
                } else if let Err(why) = check_path(&path.to_string_lossy()) {
                    self.wrong(item, "listen", why);
                }
            }
        }
    }

    /// Back ends that only proxies use: they may share an address, if not the port too.
    pub(super) fn proxied_backends(&mut self, index: usize, pool: &'a Pool) {
        let mut places: HashMap<_, &str> = HashMap::new();
        for (at, backend) in pool.backends.iter().enumerate() {
            let item = Item::Backend(index, at);
            let other = match backend.path() {
                Some(path) => {
                    if let Err(why) = check_path(&path.to_string_lossy()) {
                        self.wrong(item, "address", why);
                    }
                    places.insert((Some(path), backend.address, 0), &backend.name)
                }
                None => {
                    if let Err(why) = check_connectable(backend.address) {
                        self.wrong(item, "address", why);
                    }
                    places.insert((None, backend.address, backend.port), &backend.name)
                }
            };
            // Two of one name have been told so.
            if let Some(other) = other.filter(|other| *other != backend.name) {
                let why = format!("its address and port are those of back end {other:?} already");
                self.wrong(item, "address", why);
            }
        }
    }

    /// What is asked of TLS goes together, and can be had.
    pub(super) fn tls(&mut self, item: Item, service: &Service) {
        let tls = &service.proxy.tls;
        if let Err((key, why)) = tls.check() {
            self.wrong(item, key, why);
        }
        for note in tls.notes() {
            self.note(item, note);
        }
        let server_tls = &service.proxy.server_tls;
        if let Err((key, why)) = server_tls.check() {
            self.wrong(item, key, why);
        }
        if let Some(note) = server_tls.note() {
            self.note(item, note);
        }
    }

    /// Nobody is asked where every request is sent elsewhere.
    pub(super) fn redirect(&mut self, item: Item, service: &Service) {
        let said = [
            ("pool", "its pool and servers", !service.pool.is_empty()),
            (
                "emergency",
                "`emergency`",
                service.proxy.emergency.is_some(),
            ),
        ];
        for (key, what, _) in said.into_iter().filter(|(.., said)| *said) {
            let why = format!(
                "`redirect` sends every request elsewhere, and no server is asked: leave out \
                 {what}, or `redirect`"
            );
            self.wrong(item, key, why);
        }
    }

    /// Where a proxy connects to: somewhere, and not to itself, by way of who leads there neither.
    pub(super) fn proxy_ports(&mut self, at: usize, service: &'a Service, pool: Option<usize>) {
        let config = self.config;
        let check_target = |backend: &Backend| config.check_target(service, backend);
        let pool = pool.map(|at| (at, &self.config.pools[at]));
        let backends = pool.iter().flat_map(|(at, pool)| {
            let backends = pool.backends.iter().enumerate();
            backends.map(move |(index, backend)| (Item::Backend(*at, index), backend))
        });
        for (item, backend) in backends {
            if let Err(why) = check_target(backend) {
                self.wrong(item, "port", why);
            }
        }
        let proxy = &service.proxy;
        for (key, spare) in [("emergency", &proxy.emergency), ("abuse", &proxy.abuse)] {
            let Some(spare) = spare else { continue };
            let reachable = match spare.path() {
                Some(_) => Ok(()),
                None => check_connectable(spare.address),
            };
            if let Err(why) = reachable.and_then(|()| check_target(spare)) {
                self.wrong(Item::Service(at), key, format!("{key}: {why}"));
            }
        }
    }
}

/// What TOML would give for a value that was written.
fn givens(value: &Value) -> Vec<Given<'_>> {
    match value {
        Value::String(text) => vec![Given::Text(text)],
        Value::Integer(number) => vec![Given::Whole(*number)],
        Value::Boolean(flag) => vec![Given::Flag(*flag)],
        Value::Array(values) => values.iter().flat_map(givens).collect(),
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => Vec::new(),
    }
}

impl Config {
    /// Whether a service in proxy mode can reach all its servers, after a change of any service.
    ///
    /// # Errors
    /// Names the server, and says why not.
    pub fn check_targets(&self, service: &Service) -> Result<(), String> {
        let pool = self.pool(&service.pool);
        let backends = pool.into_iter().flat_map(|pool| &pool.backends);
        let spares = [&service.proxy.emergency, &service.proxy.abuse];
        let all = backends.chain(spares.into_iter().flatten());
        for backend in all.filter(|backend| !backend.gone) {
            let checked = self.check_target(service, backend);
            checked.map_err(|why| format!("server {:?}: {why}", backend.name))?;
        }
        Ok(())
    }

    /// Whether a service in proxy mode can reach a server, and is not reached by it, nor are those
    /// who lead to the service by name: a client would go round until no place is left.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_target(&self, service: &Service, backend: &Backend) -> Result<(), String> {
        check_named(service, backend)?;
        let mut leading = self.leading_to(&service.name);
        check_elsewhere(service, backend)?;
        leading.try_for_each(|leading| check_elsewhere(leading, backend))
    }
}

/// # Errors
/// The server is where the service listens, or is none for it.
fn check_elsewhere(service: &Service, backend: &Backend) -> Result<(), String> {
    let name = &service.name;
    if let Some(path) = backend.path() {
        if service.mode == Mode::Udp {
            return Err(format!("service {name:?}: {NO_UNIX_DATAGRAMS}"));
        }
        return match service.proxy.paths.iter().any(|own| own == path) {
            true => Err(format!(
                "service {name:?} listens at this path itself: it would connect to itself"
            )),
            false => Ok(()),
        };
    }
    if backend.port == 0 && !service.proxy.paths.is_empty() {
        return Err(format!(
            "it has no port, and service {name:?} listens at a Unix socket, which has none either"
        ));
    }
    let own = service.listeners.iter().find(|listener| {
        let port = match backend.port {
            0 => listener.port,
            port => port,
        };
        listener.port == port && is_at(listener, backend)
    });
    match own {
        Some(listener) => Err(format!(
            "service {name:?} listens at {listener} itself: it would connect to itself"
        )),
        None => Ok(()),
    }
}

/// Whether a listener is reached at a back end's address. Every loopback address is this machine,
/// and the listener on all IPv6 addresses takes IPv4 as well.
fn is_at(listener: &Listener, backend: &Backend) -> bool {
    let on_all = listener.address.is_unspecified()
        && (listener.address.is_ipv6() || backend.address.is_ipv4());
    listener.address == backend.address || (on_all && backend.address.is_loopback())
}
