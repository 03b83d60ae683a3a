//! Pen's own form: `pen [options] [VIP:]port server ...`, `-O` commands and the `-F` file.
//!
//! With an interface (`dsr_if`) that is a DSR service, without one a proxy. The interface may be
//! named in the last line of the file, so what depends on it is kept until all has been read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::acl::AclChange;
use super::address::{HostPort, parse_listener, parse_place, parse_server};
use super::commands::{Change, Command, ServerRef};
use super::error::{ConfigError, ConfigErrors, Item, Place, Places};
use super::service_keys::NONE;
use super::service_keys::left_out::LEFT_OUT;
use super::toml::resolve;
use super::{
    Backend, Balance, Checked, Config, HashBy, Mode, Outside, Pool, Protocol, SERVICE_DEFAULT,
    Service,
};

/// How deep files may include each other; deeper is taken for a circle.
const INCLUDE_DEPTH_MAX: usize = 8;
/// The key that `-H` sets, as the command `http` does.
const MODE: &str = "mode";

/// One service as Pen's command line describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PenLine {
    /// First operand: `VIP[:port]`, or for a proxy `[address:]port` or `/path`. A `listen` command
    /// may stand for it.
    pub listen: Option<String>,
    /// The other operands: `host:port:max:hard:weight:prio` each.
    pub servers: Vec<String>,
    /// `-U`: UDP instead of TCP.
    pub udp: bool,
    /// `-r`: hash over the whole flow; in proxy mode the switch `roundrobin`.
    pub round_robin: bool,
    /// Flags that belong to proxy mode.
    pub flags: Vec<PenFlag>,
    /// `-O` and `-o`, in order.
    pub commands: Vec<String>,
    /// `-F`: one command a line, read after the `-O` commands.
    pub file: Option<PathBuf>,
}

/// A flag that sets a key of a service in proxy mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PenFlag {
    /// As it is written: `-b`.
    pub flag: &'static str,
    /// The key that it sets ([`Service::set`]).
    pub key: &'static str,
    /// The value that it sets it to.
    pub value: String,
    /// Why a DSR line may carry it all the same; `None` refuses it there.
    pub idle_in_dsr: Option<&'static str>,
}

impl PenLine {
    /// Whether all of it stands in the file that it names: what is written there is what it means.
    pub fn is_file_alone(&self) -> bool {
        let said = self.listen.is_some() || !self.servers.is_empty() || self.udp;
        let flags = self.round_robin || !self.flags.is_empty() || !self.commands.is_empty();
        self.file.is_some() && !said && !flags
    }

    /// Builds and checks the configuration: `base` (what other flags said), then operands and the
    /// flags of proxy mode, then `-O` commands, then the file; what comes later wins.
    ///
    /// # Errors
    /// All faults found in reading, or all faults of the whole.
    pub fn read(&self, base: Config, outside: &dyn Outside) -> Result<Checked, ConfigErrors> {
        let mut reader = Reader::new(base, outside);
        if self.udp {
            reader.protocol = Protocol::Udp;
        }
        reader.operands(self);
        if self.round_robin {
            let place = Place {
                source: "-r".to_owned(),
                line: None,
            };
            reader.late(&place, Late::Switch(Balance::RoundRobin, true));
        }
        for flag in &self.flags {
            let place = Place {
                source: flag.flag.to_owned(),
                line: None,
            };
            reader.late(&place, Late::Flag(flag.clone()));
        }
        for command in &self.commands {
            let place = Place {
                source: format!("-O {command:?}"),
                line: None,
            };
            reader.command(command, &place, 0);
        }
        if let Some(file) = &self.file {
            reader.file(file, None, 0);
        }
        reader.finish()
    }

    /// Reads and checks commands, one a line, as if a file held nothing else and no line were around
    /// it but what `base` says; `source` names them in messages.
    ///
    /// # Errors
    /// As [`PenLine::read`].
    pub fn of_commands(
        base: Config,
        text: &str,
        source: &str,
        outside: &dyn Outside,
    ) -> Result<Checked, ConfigErrors> {
        let mut reader = Reader::new(base, outside);
        reader.commands(text, source, 0);
        reader.finish()
    }
}

/// A server that was spoken of, with the places of its last address and access list.
#[derive(Clone)]
struct Slot {
    backend: Backend,
    place: Option<Place>,
    acl_place: Option<Place>,
}

impl Slot {
    fn new() -> Self {
        Self {
            backend: Backend::unsaid(),
            place: None,
            acl_place: None,
        }
    }
}

/// What is understood only when it is known whether this is a proxy.
enum Late {
    Flag(PenFlag),
    Option { key: &'static str, value: String },
    Switch(Balance, bool),
    Http(bool),
    Acl(u8, AclChange),
}

struct Reader<'a> {
    outside: &'a dyn Outside,
    protocol: Protocol,
    config: Config,
    /// In order: what comes later wins.
    late: Vec<(Place, Late)>,
    listen: Option<(String, Option<Place>)>,
    /// Pen numbers servers; `server 2` may come before 0 and 1.
    slots: Vec<Option<Slot>>,
    errors: Vec<ConfigError>,
    notes: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(base: Config, outside: &'a dyn Outside) -> Self {
        Self {
            outside,
            protocol: Protocol::Tcp,
            config: base,
            late: Vec::new(),
            listen: None,
            slots: Vec::new(),
            errors: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn fault(&mut self, place: Option<&Place>, what: impl Into<String>) {
        self.errors.push(ConfigError {
            place: place.cloned(),
            what: what.into(),
        });
    }

    fn operands(&mut self, line: &PenLine) {
        if let Some(listen) = &line.listen {
            self.listen(listen, None);
        }
        for server in &line.servers {
            match parse_server(server) {
                Ok(server) => {
                    let mut slot = Slot::new();
                    server.fill(&mut slot.backend);
                    self.slots.push(Some(slot));
                }
                Err(why) => self.fault(None, why),
            }
        }
    }

    fn listen(&mut self, text: &str, place: Option<&Place>) {
        let said = (text.to_owned(), place.cloned());
        if let Some((other, _)) = self.listen.replace(said) {
            let why = format!(
                "VIP {text} is the second after {other}: Pen's form has one VIP; for more write a \
                 TOML file and start pen --config FILE"
            );
            self.fault(place, why);
        }
    }

    fn late(&mut self, place: &Place, late: Late) {
        self.late.push((place.clone(), late));
    }

    fn file(&mut self, path: &Path, place: Option<&Place>, depth: usize) {
        let name = path.display();
        if depth > INCLUDE_DEPTH_MAX {
            let why = format!("{name} is included {depth} deep: does it include itself?");
            return self.fault(place, why);
        }
        let text = match self.outside.read(path) {
            Ok(text) => text,
            Err(why) => return self.fault(place, format!("can't read {name}: {why}")),
        };
        self.commands(&text, &name.to_string(), depth);
    }

    fn commands(&mut self, text: &str, source: &str, depth: usize) {
        for (index, line) in text.lines().enumerate() {
            let place = Place {
                source: source.to_owned(),
                line: Some(index + 1),
            };
            self.command(line, &place, depth);
        }
    }

    fn command(&mut self, line: &str, place: &Place, depth: usize) {
        match Command::parse(line) {
            Ok(Some(command)) => self.apply(command, place, depth),
            Ok(None) => {}
            Err(fault) => self.fault(Some(place), fault.to_string()),
        }
    }

    fn apply(&mut self, command: Command, place: &Place, depth: usize) {
        match command {
            Command::Server(server, changes) => self.server(&server, changes, place),
            Command::Switch(switch, on) => self.late(place, Late::Switch(switch, on)),
            Command::Option {
                key,
                value: Some(value),
            }
            | Command::OptionAtStart { key, value } => {
                self.late(place, Late::Option { key, value });
            }
            Command::Udp(on) => {
                self.protocol = if on { Protocol::Udp } else { Protocol::Tcp };
            }
            Command::Http(on) => self.late(place, Late::Http(on)),
            Command::Acl(number, change) => self.late(place, Late::Acl(number, change)),
            Command::Debug(Some(level)) => self.config.debug = level,
            Command::Listen(Some(vip)) => self.listen(&vip, Some(place)),
            Command::Include(path) => self.file(&path, Some(place), depth + 1),
            Command::Nothing(note) => self.notes.push(format!("{place}: {note}")),
            Command::Set { key, value }
            | Command::Setting {
                key,
                value: Some(value),
            } => {
                if let Err(why) = self.config.set(key, &value) {
                    self.fault(Some(place), why);
                }
            }
            Command::ServerAdd(..) | Command::ServerRemove(_) | Command::ServerDrain(..) => {
                let why = "is for penctl: here servers are numbered from 0: server 0 address HOST";
                self.fault(Some(place), format!("`server` with a word {why}"));
            }
            Command::Status
            | Command::Servers
            | Command::Counters
            | Command::Connections
            | Command::Connection(_)
            | Command::Close(_)
            | Command::Recent(_)
            | Command::Ocsp
            | Command::OcspCheck { .. }
            | Command::Mode
            | Command::Pid
            | Command::Control
            | Command::Resolve
            | Command::Exit
            | Command::Stop
            | Command::Services
            | Command::Reload
            | Command::ConfigShow(_)
            | Command::ConfigDiff
            | Command::Write(_)
            | Command::Debug(None)
            | Command::Option { value: None, .. }
            | Command::Setting { value: None, .. }
            | Command::Listen(None) => {
                self.notes.push(format!(
                    "{place}: a command that shows, writes or ends something is for penctl"
                ));
            }
        }
    }

    fn server(&mut self, server: &ServerRef, changes: Vec<Change>, place: &Place) {
        let index = match server {
            ServerRef::Index(index) => *index,
            ServerRef::Name(name) => match self.named(name) {
                Ok(index) => index,
                Err(why) => return self.fault(Some(place), why),
            },
        };
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        let slot = self.slots[index].get_or_insert_with(Slot::new);
        for change in changes {
            match change {
                Change::Address(host) => {
                    slot.backend.name.clone_from(&host);
                    slot.backend.host = host;
                    slot.place = Some(place.clone());
                }
                Change::Port(port) => slot.backend.port = port,
                Change::Max(max) => slot.backend.max = max,
                Change::Hard(hard) => slot.backend.hard = hard,
                Change::Blacklist(seconds) => slot.backend.blacklist = seconds,
                Change::Weight(weight) => slot.backend.weight = weight,
                Change::Prio(prio) => slot.backend.prio = prio,
                Change::Acl(number) => {
                    slot.backend.acl = number;
                    slot.acl_place = Some(place.clone());
                }
            }
        }
    }

    /// The number of the server that goes by this name.
    fn named(&self, name: &str) -> Result<usize, String> {
        let goes_by = |b: &Backend| b.name == name || full_name(&b.host, b.port) == name;
        let mut found = (0..self.slots.len()).filter(|at| {
            self.slots[*at]
                .as_ref()
                .is_some_and(|s| goes_by(&s.backend))
        });
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(index),
            (Some(_), Some(_)) => Err(format!(
                "{name:?} are several servers: say which by number, or as HOST:PORT"
            )),
            (None, _) => Err(format!(
                "there is no server {name:?}: number new ones from 0, server 0 address {name}"
            )),
        }
    }

    fn finish(mut self) -> Result<Checked, ConfigErrors> {
        let mut places = Places::default();
        let mut service = Service::new(SERVICE_DEFAULT);
        if self.config.interface.is_empty() {
            service.mode = match self.protocol {
                Protocol::Tcp => Mode::Tcp,
                Protocol::Udp => Mode::Udp,
            };
        }
        self.finish_listen(&mut service, &mut places);
        let mut pool = self.finish_pool(&mut places);
        match service.mode {
            Mode::Dsr => self.finish_dsr(&mut service),
            Mode::Tcp | Mode::Udp | Mode::Http => {
                self.finish_proxy(&mut service);
                name_apart(
                    &mut pool.backends,
                    service.listeners.first().map(|at| at.port),
                );
            }
        }
        if !self.errors.is_empty() {
            return Err(ConfigErrors(self.errors));
        }
        // Where no server is named there is nothing wrong with that: none is asked.
        if service.redirect().is_some() && pool.backends.is_empty() {
            service.pool.clear();
        } else {
            self.config.pools = vec![pool];
        }
        self.config.services = vec![service];
        self.config
            .check_at(&places)
            .map(|checked| checked.noted_before(self.notes))
    }

    fn finish_listen(&mut self, service: &mut Service, places: &mut Places) {
        let Some((text, place)) = self.listen.take() else {
            if self.errors.is_empty() {
                let why = "no VIP: pen [options] VIP:PORT BACKEND ..., for a proxy pen [options] \
                           PORT BACKEND ..., or --config FILE";
                self.fault(None, why);
            }
            return;
        };
        let taken = match (service.mode, self.protocol) {
            (Mode::Dsr, protocol) => {
                parse_listener(&text, protocol).map(|vip| service.listeners.push(vip))
            }
            (Mode::Tcp | Mode::Udp | Mode::Http, protocol) => {
                parse_place(&text, protocol).map(|at| at.join(service))
            }
        };
        if let Err(why) = taken {
            self.fault(place.as_ref(), why);
        }
        if let Some(place) = place {
            places.note(Item::Service(0), "listen", place);
        }
    }

    fn finish_pool(&mut self, places: &mut Places) -> Pool {
        let mut pool = Pool::new(SERVICE_DEFAULT);
        for (index, slot) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            let Some(slot) = slot.filter(|slot| !slot.backend.host.is_empty()) else {
                let why = format!(
                    "server {index} has no address: number servers from 0 without gaps, each with \
                     `server {index} address ...`"
                );
                self.fault(None, why);
                continue;
            };
            let Slot {
                mut backend, place, ..
            } = slot;
            if let Err(why) = resolve(&mut backend, self.outside) {
                let why = format!("back end {:?}: {why}", backend.name);
                self.fault(place.as_ref(), why);
            }
            let item = Item::Backend(0, pool.backends.len());
            for (key, place) in [("", place), ("acl", slot.acl_place)] {
                if let Some(place) = place {
                    places.note(item, key, place);
                }
            }
            pool.backends.push(backend);
        }
        pool
    }

    /// DSR takes `roundrobin` from all that proxies understand; what asks for nothing is noted.
    fn finish_dsr(&mut self, service: &mut Service) {
        service.hash = HashBy::Source;
        for (place, late) in std::mem::take(&mut self.late) {
            let word = match late {
                Late::Switch(Balance::RoundRobin, on) => {
                    service.hash = if on { HashBy::Flow } else { HashBy::Source };
                    continue;
                }
                Late::Flag(flag) => match flag.idle_in_dsr {
                    None => flag.flag.to_owned(),
                    Some(why) => {
                        self.notes.push(format!("{place} has no effect: {why}"));
                        continue;
                    }
                },
                Late::Switch(switch, true) => switch.to_string(),
                Late::Switch(switch, false) => {
                    self.notes
                        .push(format!("{place}: `no {switch}`: it is off in DSR anyway"));
                    continue;
                }
                Late::Option { key, value }
                    if ["false", "off", NONE, LEFT_OUT].contains(&&*value) =>
                {
                    self.notes
                        .push(format!("{place}: `no {key}`: it is off in DSR anyway"));
                    continue;
                }
                Late::Option { key, value } if service.has_key(key) => {
                    if let Err(why) = service.set(key, &value) {
                        self.fault(Some(&place), why);
                    }
                    continue;
                }
                Late::Option { key, .. } => key.to_owned(),
                Late::Http(true) => "http".to_owned(),
                Late::Http(false) => {
                    self.notes
                        .push(format!("{place}: `no http`: it is off in DSR anyway"));
                    continue;
                }
                Late::Acl(number, change) => {
                    self.config.change_acl(number, &change);
                    continue;
                }
            };
            let why = format!(
                "`{word}` belongs to proxy mode, and dsr_if makes this DSR: leave out one of the two"
            );
            self.fault(Some(&place), why);
        }
    }

    fn finish_proxy(&mut self, service: &mut Service) {
        let late = std::mem::take(&mut self.late);
        // What a key means depends on the mode, which may be said last.
        for (place, late) in &late {
            match (late, service.mode) {
                (Late::Http(_) | Late::Flag(PenFlag { key: MODE, .. }), Mode::Udp) => {
                    let why = format!("{place} has no effect: datagrams are no HTTP");
                    self.notes.push(why);
                }
                (Late::Http(true) | Late::Flag(PenFlag { key: MODE, .. }), _) => {
                    service.mode = Mode::Http;
                }
                (Late::Http(false), _) => service.mode = Mode::Tcp,
                (Late::Flag(_) | Late::Option { .. } | Late::Switch(..) | Late::Acl(..), _) => {}
            }
        }
        for (place, late) in late {
            let taken = match late {
                Late::Http(_) | Late::Flag(PenFlag { key: MODE, .. }) => Ok(()),
                Late::Flag(PenFlag { key, .. }) | Late::Option { key, .. }
                    if !service.has_key(key) =>
                {
                    let mode = service.mode;
                    let why = format!("`{key}` means nothing with mode = \"{mode}\"");
                    let mut tcp = Service::new("");
                    tcp.mode = Mode::Tcp;
                    // Old lines carry what Pen took in every mode.
                    match tcp.has_key(key) {
                        true => {
                            self.notes.push(format!("{place} has no effect: {why}"));
                            Ok(())
                        }
                        false => Err(format!("{why}: leave it out")),
                    }
                }
                Late::Flag(PenFlag { key, value, .. }) | Late::Option { key, value } => {
                    service.set(key, &value)
                }
                Late::Switch(switch, on) => {
                    service.proxy.balance.set(switch, on);
                    Ok(())
                }
                Late::Acl(number, change) => {
                    self.config.change_acl(number, &change);
                    Ok(())
                }
            };
            if let Err(why) = taken {
                self.fault(Some(&place), why);
            }
        }
        let proxy = &mut service.proxy;
        for (key, spare) in [
            ("emergency", &mut proxy.emergency),
            ("abuse", &mut proxy.abuse),
        ] {
            if let Some(Err(why)) = spare.as_mut().map(|spare| resolve(spare, self.outside)) {
                self.fault(None, format!("{key} server: {why}"));
            }
        }
    }
}

/// `host:port`, IPv6 in brackets.
pub(super) fn full_name(host: &str, port: u16) -> String {
    let bare = Backend {
        host: host.to_owned(),
        port,
        ..Backend::unsaid()
    };
    HostPort::of(&bare).to_string()
}

/// Servers at one address differ by their ports, so these come into their names.
fn name_apart(backends: &mut [Backend], listening: Option<u16>) {
    let mut count: HashMap<String, usize> = HashMap::new();
    for backend in &*backends {
        *count.entry(backend.host.clone()).or_default() += 1;
    }
    for backend in backends {
        if count[&backend.host] > 1 && backend.path().is_none() {
            backend.name = match (backend.port, listening) {
                (0, Some(port)) => full_name(&backend.host, port),
                (port, _) => full_name(&backend.host, port),
            };
        }
    }
}
