//! What must hold across a configuration, in one place for all forms.

mod control;
mod names;
mod proxy;
mod tarpit;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::address::check_unicast;
use super::error::{ConfigError, ConfigErrors, Item, Places};
use super::{
    ACLS_MAX, BACKENDS_MAX, BACKENDS_PER_POOL_MAX, Backend, Config, INTERFACE_NAME_MAX, Listener,
    Mode, NAME_MAX, POOLS_MAX, Pool, Protocol, RING_SIZE_MAX, RING_SIZE_MIN, Service,
    TABLE_MEMORY_MAX, TABLE_MEMORY_MIN, TABLE_SIZE_MAX, TABLE_SIZE_MIN, VIPS_MAX, WORKERS_MAX,
    Workers,
};
use crate::maglev;

/// Slots that the lightest back end should have for shares to come out within 1 %.
const SLOTS_OF_LIGHTEST: u64 = 100;

/// A configuration in which nothing is wrong, with what its owner should be told all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    config: Config,
    notes: Vec<String>,
}

impl Checked {
    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sentences for the log: obsolete words that were accepted, shares that will be uneven.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The configuration and its notes, taken apart.
    pub fn into_parts(self) -> (Config, Vec<String>) {
        (self.config, self.notes)
    }

    /// Puts notes in front that were made while reading.
    pub(crate) fn noted_before(mut self, mut notes: Vec<String>) -> Self {
        notes.append(&mut self.notes);
        self.notes = notes;
        self
    }
}

impl Config {
    /// Finds everything that is wrong across the configuration.
    ///
    /// # Errors
    /// All faults found, never none.
    pub fn check(self) -> Result<Checked, ConfigErrors> {
        self.check_at(&Places::default())
    }

    /// As [`Config::check`], naming places where they are known.
    pub(crate) fn check_at(mut self, places: &Places) -> Result<Checked, ConfigErrors> {
        self.begin_with_admitted();
        let mut check = Check {
            config: &self,
            places,
            errors: Vec::new(),
            notes: Vec::new(),
        };
        check.top();
        check.control();
        check.tarpit();
        check.totals();
        check.services();
        check.listeners();
        check.paths();
        check.acls();
        check.pools();
        check.ports();
        let Check { errors, notes, .. } = check;
        match errors.is_empty() {
            true => Ok(Checked {
                config: self,
                notes,
            }),
            false => Err(ConfigErrors(errors)),
        }
    }
}

struct Check<'a> {
    config: &'a Config,
    places: &'a Places,
    errors: Vec<ConfigError>,
    notes: Vec<String>,
}

impl<'a> Check<'a> {
    fn wrong(&mut self, item: Item, key: &'static str, what: impl AsRef<str>) {
        self.errors.push(ConfigError {
            place: self.places.find(item, key),
            what: format!("{}{}", item.title(self.config), what.as_ref()),
        });
    }

    fn note(&mut self, item: Item, what: impl AsRef<str>) {
        self.notes
            .push(format!("{}{}", item.title(self.config), what.as_ref()));
    }

    fn top(&mut self) {
        let config = self.config;
        // Without a service, too: the interface is missing as well.
        let proxies_only =
            !config.services.is_empty() && config.services.iter().all(|s| s.mode != Mode::Dsr);
        if !(proxies_only && config.interface.is_empty())
            && let Err(why) = check_interface(&config.interface)
        {
            self.wrong(Item::Top, "interface", why);
        }
        let ring = config.ring_size;
        if !ring.is_power_of_two() || !(RING_SIZE_MIN..=RING_SIZE_MAX).contains(&ring) {
            let range = format!("a power of two in {RING_SIZE_MIN}..={RING_SIZE_MAX}");
            self.wrong(
                Item::Top,
                "ring_size",
                format!("ring_size = {ring} is not {range}"),
            );
        }
        if let Workers::Count(count) = config.workers
            && !(1..=WORKERS_MAX).contains(&count)
        {
            let why = format!(
                "workers = {count} is out of range (1..={WORKERS_MAX}, or \"auto\"; to forward \
                 without workers write plane = \"xdp\")"
            );
            self.wrong(Item::Top, "workers", why);
        }
        if let Some(bytes) = config.table_memory {
            self.table_memory(bytes);
        } else if config.table_memory_needed() > TABLE_MEMORY_MAX {
            let bytes = config.table_memory_needed();
            let why = format!(
                "the tables of all pools, old and new, take {bytes} bytes, more than \
                 {TABLE_MEMORY_MAX}: choose smaller table sizes"
            );
            self.wrong(Item::Top, "table_memory", why);
        }
    }

    fn table_memory(&mut self, bytes: u64) {
        let needed = self.config.table_memory_needed();
        let range = TABLE_MEMORY_MIN..=TABLE_MEMORY_MAX;
        let why = if !range.contains(&bytes) {
            format!(
                "table_memory = {bytes} is out of range ({TABLE_MEMORY_MIN}..={TABLE_MEMORY_MAX})"
            )
        } else if bytes < needed {
            format!(
                "table_memory = {bytes} is too small: the pools' tables, old and new, take \
                 {needed} bytes"
            )
        } else {
            return;
        };
        self.wrong(Item::Top, "table_memory", why);
    }

    fn totals(&mut self) {
        let config = self.config;
        let listeners: usize = config.services.iter().map(|s| s.listeners.len()).sum();
        let backends: usize = config.pools.iter().map(|pool| pool.backends.len()).sum();
        for (count, max, what) in [
            (listeners, VIPS_MAX, "VIPs"),
            (config.pools.len(), POOLS_MAX, "pools"),
            (backends, BACKENDS_MAX, "back ends in all pools"),
        ] {
            if count > max {
                self.wrong(Item::Top, "", format!("{count} {what} are more than {max}"));
            }
        }
        if config.services.is_empty() {
            let why = "nothing to serve: name a VIP and its back ends, or a [[service]]";
            self.wrong(Item::Top, "", why);
        }
    }

    fn services(&mut self) {
        let config = self.config;
        let mut seen = HashSet::new();
        for (index, service) in config.services.iter().enumerate() {
            let item = Item::Service(index);
            if let Err(why) = check_name(&service.name) {
                self.wrong(item, "name", why);
            }
            if !seen.insert(&service.name) {
                self.wrong(item, "name", "there are two services of this name");
            }
            let is_led_to = || config.leading_to(&service.name).next().is_some();
            if service.listeners.is_empty() && service.proxy.paths.is_empty() && !is_led_to() {
                let why = match service.mode {
                    Mode::Dsr => "it has no VIP: give listen = \"ADDRESS:PORT\"",
                    Mode::Tcp | Mode::Udp | Mode::Http => {
                        "it listens nowhere: give listen = \"PORT\""
                    }
                };
                self.wrong(item, "listen", why);
            }
            self.keys_of_mode(item, service);
            self.tls(item, service);
            for why in config.check_sni_routes(service).err().into_iter().flatten() {
                self.wrong(item, "sni_route", why);
            }
            if service.only_leads() {
                continue;
            }
            if service.redirect().is_some() {
                self.redirect(item, service);
            } else if config.pool(&service.pool).is_none() {
                let names = config.pools.iter().map(|pool| pool.name.as_str());
                let hint = super::nearest::did_you_mean(&service.pool, names);
                self.wrong(
                    item,
                    "pool",
                    format!("there is no pool {:?}{hint}", service.pool),
                );
            }
        }
    }

    fn listeners(&mut self) {
        let mut owners: HashMap<Listener, usize> = HashMap::new();
        for (index, service) in self.config.services.iter().enumerate() {
            let item = Item::Service(index);
            for listener in &service.listeners {
                match (service.mode, check_unicast(listener.address)) {
                    (Mode::Tcp | Mode::Http, _) => {
                        self.proxy_listener(item, *listener, Protocol::Tcp)
                    }
                    (Mode::Udp, _) => self.proxy_listener(item, *listener, Protocol::Udp),
                    (Mode::Dsr, Ok(())) => {}
                    (Mode::Dsr, Err(why)) => {
                        self.wrong(item, "listen", format!("VIP {listener}: {why}"));
                    }
                }
                let Some(owner) = owners.insert(*listener, index) else {
                    continue;
                };
                let why = match owner == index {
                    true => format!("VIP {listener} stands here twice"),
                    false => {
                        let other = &self.config.services[owner].name;
                        format!("VIP {listener} is taken by service {other:?} already")
                    }
                };
                self.wrong(item, "listen", why);
            }
        }
    }

    fn pools(&mut self) {
        let config = self.config;
        let mut seen = HashSet::new();
        for (index, pool) in config.pools.iter().enumerate() {
            let item = Item::Pool(index);
            if let Err(why) = check_name(&pool.name) {
                self.wrong(item, "name", why);
            }
            if !seen.insert(&pool.name) {
                self.wrong(item, "name", "there are two pools of this name");
            }
            if let Err(why) = check_table_size(pool.table_size) {
                self.wrong(item, "table_size", why);
            }
            let count = pool.backends.len();
            if count == 0 {
                self.wrong(item, "backend", "it has no back end: give at least one");
            } else if count > BACKENDS_PER_POOL_MAX {
                let why = format!("{count} back ends are more than {BACKENDS_PER_POOL_MAX}");
                self.wrong(item, "backend", why);
            }
            if !config
                .services
                .iter()
                .any(|service| service.pool == pool.name)
            {
                self.note(item, "no service uses it");
            }
            self.backend_names(index, pool);
            match config.needs_table(pool) {
                true => self.backends(index, pool),
                false => self.proxied_backends(index, pool),
            }
            self.weights(item, pool);
        }
    }

    fn backend_names(&mut self, index: usize, pool: &'a Pool) {
        let mut names: HashSet<&str> = HashSet::new();
        for (at, backend) in pool.backends.iter().enumerate() {
            let item = Item::Backend(index, at);
            if let Err(why) = check_backend_name(backend) {
                self.wrong(item, "name", why);
            }
            if !names.insert(&backend.name) {
                self.wrong(item, "name", "the pool has two back ends of this name");
            }
            if usize::from(backend.acl) >= ACLS_MAX {
                let (acl, last) = (backend.acl, ACLS_MAX - 1);
                self.wrong(
                    item,
                    "acl",
                    format!("acl = {acl} is out of range (0..={last})"),
                );
            }
        }
    }

    /// Back ends that DSR uses, if perhaps not alone.
    fn backends(&mut self, index: usize, pool: &'a Pool) {
        let mut addresses = HashMap::new();
        let dsr = self.config.services.iter().filter(|s| s.mode == Mode::Dsr);
        let listeners = dsr.flat_map(|service| &service.listeners);
        let vips: HashSet<IpAddr> = listeners.map(|listener| listener.address).collect();
        for (at, backend) in pool.backends.iter().enumerate() {
            let item = Item::Backend(index, at);
            if backend.path().is_some() {
                let why = "a Unix socket can't be a back end in DSR: write its address";
                self.wrong(item, "address", why);
                continue;
            }
            if let Err(why) = check_unicast(backend.address) {
                self.wrong(item, "address", why);
            }
            if backend.acl != 0 {
                let why = "`acl` of a back end means nothing in DSR: leave it out, or name the service's \
                     list by client_acl";
                self.wrong(item, "acl", why);
            }
            let other = addresses.insert(backend.address, &backend.name);
            let address = backend.address;
            // Two of one name have been told so.
            if let Some(other) = other.filter(|other| **other != backend.name) {
                let why = format!("its address {address} is that of back end {other:?} already");
                self.wrong(item, "address", why);
            }
            if vips.contains(&address) {
                let why = format!("its address {address} is a VIP: give the machine's own address");
                self.wrong(item, "address", why);
            }
        }
    }

    fn weights(&mut self, item: Item, pool: &Pool) {
        let weights = || {
            pool.backends
                .iter()
                .map(|b| u64::from(b.weight))
                .filter(|w| *w > 0)
        };
        let Some(lightest) = weights().min() else {
            if !pool.backends.is_empty() {
                self.note(item, "every back end has weight 0: it takes no new flows");
            }
            return;
        };
        if !self.config.needs_table(pool) {
            return;
        }
        let sum: u64 = weights().sum();
        let wanted = (SLOTS_OF_LIGHTEST * sum).div_ceil(lightest);
        if u64::from(pool.table_size) < wanted {
            let size = pool.table_size;
            let what = format!(
                "shares will be off by more than 1 %: {size} slots are fewer than {wanted}, 100 \
                 for the lightest of its weights; choose a greater table_size"
            );
            self.note(item, what);
        }
    }

    /// Layer 2 forwarding can't translate ports; a proxy can, but not connect to itself.
    fn ports(&mut self) {
        let config = self.config;
        for (index, service) in config.services.iter().enumerate() {
            let pool = config.pools.iter().position(|p| p.name == service.pool);
            if service.mode != Mode::Dsr {
                self.proxy_ports(index, service, pool);
                continue;
            }
            let Some(pool) = pool else {
                continue;
            };
            for (at, backend) in config.pools[pool].backends.iter().enumerate() {
                self.port(service, Item::Backend(pool, at), backend.port);
            }
        }
    }

    fn port(&mut self, service: &Service, item: Item, port: u16) {
        if port == 0 {
            return;
        }
        if let Some(vip) = service
            .listeners
            .iter()
            .find(|vip| vip.port != 0 && vip.port != port)
        {
            let why = format!(
                "port {port} is not that of VIP {vip} (service {:?}): DSR forwards at layer 2 and \
                 can't translate ports; leave the port out or let the back end listen on {}",
                service.name, vip.port
            );
            self.wrong(item, "port", why);
        } else if let Some(vip) = service.listeners.iter().find(|vip| vip.port == 0) {
            let what =
                format!("its port {port} means nothing behind VIP {vip}: all ports go there");
            self.note(item, what);
        }
    }
}

/// Whether an interface can have this name.
pub fn check_interface(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err(
            "no interface: give -O \"dsr_if eth1\" or interface = \"eth1\"; proxies, services of \
             mode = \"tcp\", \"udp\" or \"http\", need none"
                .to_owned(),
        );
    }
    let strange = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.len() > INTERFACE_NAME_MAX || matches!(name, "." | "..") || name.contains(strange) {
        return Err(format!(
            "{name:?} can't be the name of an interface (up to {INTERFACE_NAME_MAX} letters)"
        ));
    }
    Ok(())
}

/// Names stand in commands, where blanks separate words.
fn check_name(name: &str) -> Result<(), String> {
    let strange = |c: char| c.is_whitespace() || c.is_control() || c == '"';
    if name.is_empty() || name.len() > NAME_MAX || name.contains(strange) {
        return Err(format!("a name has 1 to {NAME_MAX} letters and no blanks"));
    }
    Ok(())
}

fn check_backend_name(backend: &Backend) -> Result<(), String> {
    check_name(&backend.name)?;
    if backend.name.bytes().all(|b| b.is_ascii_digit()) {
        return Err("its name is a number, and `server N` counts back ends by number".to_owned());
    }
    Ok(())
}

/// Whether a Maglev table can have so many slots.
fn check_table_size(size: u32) -> Result<(), String> {
    if !(TABLE_SIZE_MIN..=TABLE_SIZE_MAX).contains(&size) {
        return Err(format!(
            "table_size = {size} is out of range ({TABLE_SIZE_MIN}..={TABLE_SIZE_MAX})"
        ));
    }
    if maglev::is_prime(size) {
        return Ok(());
    }
    let next = (size..=TABLE_SIZE_MAX)
        .find(|size| maglev::is_prime(*size))
        .unwrap_or(TABLE_SIZE_MAX);
    Err(format!(
        "table_size = {size} is not a prime: the next one is {next}"
    ))
}

impl std::fmt::Display for Listener {
    /// As it is written: `10.0.0.1:80`, `[2001:db8::1]:53/udp`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", std::net::SocketAddr::new(self.address, self.port))?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => write!(f, "/{}", self.protocol),
        }
    }
}
