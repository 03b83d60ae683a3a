//! The TOML form of a configuration.

use std::borrow::Cow;
use std::net::IpAddr;

use ::toml::Spanned;
use ::toml::Value;
use ::toml::de::{DeInteger, DeTable, DeValue};

use super::acl::AclChange;
use super::address::check_connectable;
use super::error::{ConfigError, ConfigErrors, Item, Place, Places};
use super::given::Given;
use super::keys::{ACL, BACKEND, CONFIG, Key, NumberedAcl, POOL};
use super::nearest::did_you_mean;
use super::service_keys::SERVICE;
use super::{ADDRESSES_MAX, Backend, Checked, Config, Outside, Pool, Service, parse_server};

impl Config {
    /// Reads and checks a configuration in TOML; `source` names the file in messages.
    ///
    /// # Errors
    /// All faults of the text, or all faults of its contents, each with file and line.
    pub fn from_toml(
        text: &str,
        source: &str,
        outside: &dyn Outside,
    ) -> Result<Checked, ConfigErrors> {
        let mut reader = Reader {
            line_ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            source,
            outside,
            config: Config::default(),
            places: Places::default(),
            faults: Vec::new(),
        };
        match DeTable::parse(text) {
            Ok(table) => reader.top(table.get_ref()),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                return Err(ConfigError {
                    place: Some(reader.place(at)),
                    what: format!("not TOML: {}", error.message().replace('\n', ", ")),
                }
                .into());
            }
        }
        let (config, places) = reader.finish()?;
        config.check_at(&places)
    }

    /// Writes the configuration as TOML; reading that gives the same configuration. Keys that
    /// have their default are left out.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let defaults = Config::default();
        for (name, value) in differing(CONFIG, self, &defaults) {
            out.push_str(&format!("{name} = {value}\n"));
        }
        let last = self.acls.len().wrapping_sub(1);
        for (number, acl) in (0u8..).zip(&self.acls) {
            // The last one is written even if it is empty: it says how many there are.
            if acl.lines.is_empty() && usize::from(number) != last {
                continue;
            }
            let acl = NumberedAcl {
                number: Some(number),
                lines: acl.lines.clone(),
            };
            out.push_str("\n[[acl]]\n");
            for (name, value) in differing(ACL, &acl, &NumberedAcl::default()) {
                out.push_str(&format!("{name} = {value}\n"));
            }
        }
        for service in &self.services {
            let mut default = Service::new("");
            if service.redirect().is_none() && !service.only_leads() {
                service.name.clone_into(&mut default.pool);
            }
            out.push_str("\n[[service]]\n");
            for (name, value) in differing(SERVICE, service, &default) {
                out.push_str(&format!("{name} = {value}\n"));
            }
        }
        for pool in &self.pools {
            out.push_str("\n[[pool]]\n");
            for (name, value) in differing(POOL, pool, &Pool::new("")) {
                out.push_str(&format!("{name} = {value}\n"));
            }
            out.push_str("backend = [\n");
            // Those that a name stands for besides are found again.
            for backend in pool.backends.iter().filter(|one| one.of.is_none()) {
                let default = Backend {
                    name: backend.host.clone(),
                    ..Backend::unsaid()
                };
                let pairs: Vec<String> = differing(BACKEND, backend, &default)
                    .map(|(name, value)| format!("{name} = {value}"))
                    .collect();
                out.push_str(&format!("    {{ {} }},\n", pairs.join(", ")));
            }
            out.push_str("]\n");
        }
        out
    }
}

/// The keys that have another value than by default, with it.
pub(super) fn differing<T>(
    keys: &'static [Key<T>],
    value: &T,
    default: &T,
) -> impl Iterator<Item = (&'static str, Value)> {
    keys.iter().filter_map(move |key| {
        (key.write)(value)
            .filter(|_| (key.write)(value) != (key.write)(default))
            .map(|written| (key.name, written))
    })
}

struct Fault {
    item: Item,
    place: Place,
    why: String,
}

struct Reader<'a> {
    /// Offsets of the line feeds, to turn offsets into lines.
    line_ends: Vec<usize>,
    source: &'a str,
    outside: &'a dyn Outside,
    config: Config,
    places: Places,
    faults: Vec<Fault>,
}

type Entry<'a, 't> = (&'a Spanned<Cow<'t, str>>, &'a Spanned<DeValue<'t>>);

impl Reader<'_> {
    fn place(&self, at: usize) -> Place {
        let line = self.line_ends.partition_point(|end| *end < at) + 1;
        Place {
            source: self.source.to_owned(),
            line: Some(line),
        }
    }

    fn fault(&mut self, item: Item, at: usize, why: impl Into<String>) {
        self.faults.push(Fault {
            item,
            place: self.place(at),
            why: why.into(),
        });
    }

    /// Names faults by what they are in once everything has been read: a name may come late.
    fn finish(self) -> Result<(Config, Places), ConfigErrors> {
        if self.faults.is_empty() {
            return Ok((self.config, self.places));
        }
        let (config, mut faults) = (self.config, self.faults);
        faults.sort_by_key(|fault| fault.place.line);
        let errors = faults.into_iter().map(|fault| ConfigError {
            place: Some(fault.place),
            what: format!("{}{}", fault.item.title(&config), fault.why),
        });
        Err(ConfigErrors(errors.collect()))
    }

    fn top(&mut self, table: &DeTable<'_>) {
        let mut config = std::mem::take(&mut self.config);
        for entry in table {
            let lists = match entry.0.get_ref().as_ref() {
                "acl" | "service" | "pool" => self.tables(Item::Top, entry),
                _ => {
                    let others = &["acl", "service", "pool"];
                    self.key(Item::Top, CONFIG, others, &mut config, entry);
                    continue;
                }
            };
            for (at, table) in lists {
                match entry.0.get_ref().as_ref() {
                    "acl" => self.acl(&mut config, at, table),
                    "service" => self.service(&mut config, at, table),
                    _ => self.pool(&mut config, at, table),
                }
            }
        }
        let pools: Vec<String> = config.pools.iter().map(|pool| pool.name.clone()).collect();
        for service in config.services.iter_mut().filter(|s| s.only_leads()) {
            if pools.contains(&service.name) {
                service.name.clone_into(&mut service.pool);
            }
        }
        self.config = config;
    }

    fn acl(&mut self, config: &mut Config, at: usize, table: &DeTable<'_>) {
        let mut acl = NumberedAcl::default();
        let (first, rest): (Vec<_>, Vec<_>) = table
            .iter()
            .partition(|(name, _)| name.get_ref() == "number");
        for entry in first {
            self.key(Item::Top, ACL, &[], &mut acl, entry);
        }
        // Whoever gave a bad number has been told so already.
        let item = acl.number.map_or(Item::Top, |n| Item::Acl(n.into()));
        for entry in rest {
            self.key(item, ACL, &[], &mut acl, entry);
        }
        match acl.number {
            None if table.contains_key("number") => {}
            None => self.fault(item, at, "acl: it has no number: give number = 0 to 9"),
            Some(_) if self.places.has(item, "") => {
                self.fault(item, at, "there are two access lists of this number");
            }
            Some(number) => {
                self.places.note(item, "", self.place(at));
                config.change_acl(number, &AclChange::Add(acl.lines));
            }
        }
    }

    fn service(&mut self, config: &mut Config, at: usize, table: &DeTable<'_>) {
        let item = Item::Service(config.services.len());
        self.places.note(item, "", self.place(at));
        let mut service = Service::new("");
        // How the others are read hangs on the mode, wherever it stands.
        let (first, rest): (Vec<_>, Vec<_>) =
            table.iter().partition(|(name, _)| name.get_ref() == "mode");
        for entry in first.into_iter().chain(rest) {
            self.key(item, SERVICE, &[], &mut service, entry);
        }
        // Who leads by name may have no pool, which is known when all pools are read.
        if service.pool.is_empty() && service.redirect().is_none() && !service.only_leads() {
            service.name.clone_into(&mut service.pool);
        }
        let proxy = &mut service.proxy;
        for (key, spare) in [
            ("emergency", &mut proxy.emergency),
            ("abuse", &mut proxy.abuse),
        ] {
            let taken = spare.as_mut().map(|spare| resolve(spare, self.outside));
            if let Some(Err(why)) = taken {
                let at = table
                    .iter()
                    .find(|(name, _)| name.get_ref() == key)
                    .map_or(at, |(name, _)| name.span().start);
                self.fault(item, at, format!("{key}: {why}"));
            }
        }
        config.services.push(service);
    }

    fn pool(&mut self, config: &mut Config, at: usize, table: &DeTable<'_>) {
        let index = config.pools.len();
        let item = Item::Pool(index);
        self.places.note(item, "", self.place(at));
        let mut pool = Pool::new("");
        for entry in table {
            if entry.0.get_ref() == "backend" {
                self.backends(index, &mut pool, entry);
            } else {
                self.key(item, POOL, &["backend"], &mut pool, entry);
            }
        }
        config.pools.push(pool);
    }

    /// Back ends are tables, or texts in Pen's positional form.
    fn backends(&mut self, pool_index: usize, pool: &mut Pool, entry: Entry<'_, '_>) {
        let item = Item::Pool(pool_index);
        self.places
            .note(item, "backend", self.place(entry.0.span().start));
        let Some(array) = entry.1.get_ref().as_array() else {
            let why = "backend takes a list: backend = [\"ADDRESS\", ...] or [[pool.backend]]";
            return self.fault(item, entry.1.span().start, why);
        };
        for element in array {
            let at = element.span().start;
            let item = Item::Backend(pool_index, pool.backends.len());
            self.places.note(item, "", self.place(at));
            let mut backend = Backend::unsaid();
            match element.get_ref() {
                DeValue::Table(table) => {
                    for entry in table {
                        self.key(item, BACKEND, &[], &mut backend, entry);
                    }
                }
                DeValue::String(text) => match parse_server(text) {
                    Ok(server) => server.fill(&mut backend),
                    Err(why) => {
                        self.fault(Item::Pool(pool_index), at, why);
                        continue;
                    }
                },
                DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_) => {
                    let why = "a back end is a text or a table: \"ADDRESS\" or { address = ... }";
                    self.fault(Item::Pool(pool_index), at, why);
                    continue;
                }
            }
            self.resolve(item, at, &mut backend);
            pool.backends.push(backend);
        }
    }

    fn resolve(&mut self, item: Item, at: usize, backend: &mut Backend) {
        if backend.name.is_empty() {
            backend.host.clone_into(&mut backend.name);
        }
        // Whoever gave a bad address has been told so already.
        if backend.host.is_empty() && !self.faults.iter().any(|fault| fault.item == item) {
            return self.fault(item, at, "it has no address: give address = \"...\"");
        }
        if backend.host.is_empty() {
            return;
        }
        if let Err(why) = resolve(backend, self.outside) {
            self.fault(item, at, why);
        }
    }

    /// Takes one key of `target`; `others` are names that stand beside `keys`.
    fn key<T>(
        &mut self,
        item: Item,
        keys: &'static [Key<T>],
        others: &[&'static str],
        target: &mut T,
        (name, value): Entry<'_, '_>,
    ) {
        let at = name.span().start;
        let Some(key) = keys.iter().find(|key| key.name == name.get_ref()) else {
            let known = keys
                .iter()
                .map(|key| key.name)
                .chain(others.iter().copied());
            let word = name.get_ref();
            return self.fault(
                item,
                at,
                format!("unknown key `{word}`{}", did_you_mean(word, known)),
            );
        };
        self.places.note(item, key.name, self.place(at));
        let elements = match value.get_ref().as_array().filter(|_| key.list) {
            Some(array) => array.iter().collect(),
            None => vec![value],
        };
        for element in elements {
            let taken = given(element.get_ref()).and_then(|given| (key.read)(target, given));
            if let Err(why) = taken {
                let named = why.starts_with(key.name) || why.contains(" = ");
                let why = if named {
                    why
                } else {
                    format!("{}: {why}", key.name)
                };
                self.fault(item, element.span().start, why);
            }
        }
    }

    /// The tables of `[[name]]`, each with where it begins.
    fn tables<'v, 't>(
        &mut self,
        item: Item,
        (name, value): Entry<'v, 't>,
    ) -> Vec<(usize, &'v DeTable<'t>)> {
        let name = name.get_ref();
        let elements: Vec<_> = value.get_ref().as_array().into_iter().flatten().collect();
        let tables: Vec<_> = elements
            .iter()
            .filter_map(|element| Some((element.span().start, element.get_ref().as_table()?)))
            .collect();
        if elements.is_empty() || tables.len() < elements.len() {
            let why = format!("`{name}` is a list of tables: write [[{name}]] with two brackets");
            self.fault(item, value.span().start, why);
        }
        tables
    }
}

/// Finds the addresses that a back end's host stands for, the lowest first; a path stands for none.
pub(crate) fn resolve(backend: &mut Backend, outside: &dyn Outside) -> Result<(), String> {
    if backend.path().is_some() {
        return Ok(());
    }
    let host = &backend.host;
    if let Ok(address) = host.parse() {
        backend.address = address;
        return Ok(());
    }
    let found = outside.resolve(host).and_then(|found| {
        let mut found = usable(found).into_iter();
        let first = found.next().ok_or("it has no address")?;
        Ok((first, found.take(ADDRESSES_MAX - 1).collect()))
    });
    (backend.address, backend.further) = found.map_err(|why| {
        format!("host name {host:?} does not resolve: {why}; check it, or write the address")
    })?;
    Ok(())
}

/// Each address once, in an order that hangs on nobody's whim. Those that no machine can have are
/// left out unless there is no other: then the check says what is wrong with them.
fn usable(mut found: Vec<IpAddr>) -> Vec<IpAddr> {
    found.sort_unstable();
    found.dedup();
    if found
        .iter()
        .any(|address| check_connectable(*address).is_ok())
    {
        found.retain(|address| check_connectable(*address).is_ok());
    }
    found
}

fn given<'v>(value: &'v DeValue<'_>) -> Result<Given<'v>, String> {
    match value {
        DeValue::String(text) => Ok(Given::Text(text)),
        DeValue::Integer(number) => whole(number).map(Given::Whole),
        DeValue::Boolean(flag) => Ok(Given::Flag(*flag)),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            Err(format!("no {} can stand here", value.type_str()))
        }
    }
}

fn whole(number: &DeInteger<'_>) -> Result<i64, String> {
    i64::from_str_radix(number.as_str(), number.radix())
        .map_err(|_| format!("{number} does not fit 64 bits"))
}
