//! Pen's own form: `pen [options] VIP:port server ...`, `-O` commands and the `-F` file.

use std::path::{Path, PathBuf};

use super::address::{parse_listener, parse_server};
use super::commands::{Change, Command, ServerRef};
use super::error::{ConfigError, ConfigErrors, Item, Place, Places};
use super::toml::resolve;
use super::{
    Backend, Checked, Config, HashBy, Listener, Outside, Pool, Protocol, SERVICE_DEFAULT, Service,
};

/// How deep files may include each other; deeper is taken for a circle.
const INCLUDE_DEPTH_MAX: usize = 8;

/// One service as Pen's command line describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PenLine {
    /// First operand: `VIP[:port]`. A `listen` command may stand for it.
    pub listen: Option<String>,
    /// The other operands: `host:port:max:hard:weight:prio` each.
    pub servers: Vec<String>,
    /// `-U`: UDP instead of TCP.
    pub udp: bool,
    /// `-r`: hash over the whole flow.
    pub round_robin: bool,
    /// `-O` and `-o`, in order.
    pub commands: Vec<String>,
    /// `-F`: one command a line, read after the `-O` commands.
    pub file: Option<PathBuf>,
}

impl PenLine {
    /// Builds and checks the configuration: `base` (what other flags said), then operands, then
    /// `-O` commands, then the file; what comes later wins.
    ///
    /// # Errors
    /// All faults found in reading, or all faults of the whole.
    pub fn read(&self, base: Config, outside: &dyn Outside) -> Result<Checked, ConfigErrors> {
        let mut reader = Reader {
            outside,
            protocol: if self.udp {
                Protocol::Udp
            } else {
                Protocol::Tcp
            },
            config: base,
            round_robin: self.round_robin,
            listener: None,
            slots: Vec::new(),
            errors: Vec::new(),
            notes: Vec::new(),
        };
        reader.operands(self);
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
}

/// A server that was spoken of; the place is that of its last address.
#[derive(Clone)]
struct Slot {
    backend: Backend,
    place: Option<Place>,
}

struct Reader<'a> {
    outside: &'a dyn Outside,
    protocol: Protocol,
    config: Config,
    round_robin: bool,
    listener: Option<Listener>,
    /// Pen numbers servers; `server 2` may come before 0 and 1.
    slots: Vec<Option<Slot>>,
    errors: Vec<ConfigError>,
    notes: Vec<String>,
}

impl Reader<'_> {
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
                    let mut slot = Slot {
                        backend: Backend::unsaid(),
                        place: None,
                    };
                    server.fill(&mut slot.backend);
                    self.slots.push(Some(slot));
                }
                Err(why) => self.fault(None, why),
            }
        }
    }

    fn listen(&mut self, text: &str, place: Option<&Place>) {
        match parse_listener(text, self.protocol) {
            Err(why) => self.fault(place, why),
            Ok(listener) => {
                if let Some(other) = self.listener.replace(listener) {
                    let why = format!(
                        "VIP {listener} is the second after {other}: Pen's form has one VIP; for \
                         more write a TOML file and start pen --config FILE"
                    );
                    self.fault(place, why);
                }
            }
        }
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
        for (index, line) in text.lines().enumerate() {
            let place = Place {
                source: name.to_string(),
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
            Command::RoundRobin(on) => self.round_robin = on,
            Command::Debug(Some(level)) => self.config.debug = level,
            Command::Listen(Some(vip)) => self.listen(&vip, Some(place)),
            Command::Include(path) => self.file(&path, Some(place), depth + 1),
            Command::Nothing(note) => self.notes.push(format!("{place}: {note}")),
            Command::Set { key, value } => {
                if let Err(why) = self.config.set(key, &value) {
                    self.fault(Some(place), why);
                }
            }
            Command::Status
            | Command::Servers
            | Command::Counters
            | Command::Mode
            | Command::Pid
            | Command::Control
            | Command::Debug(None)
            | Command::Listen(None) => {
                self.notes
                    .push(format!("{place}: a command that only shows is for penctl"));
            }
        }
    }

    fn server(&mut self, server: &ServerRef, changes: Vec<Change>, place: &Place) {
        let index = match server {
            ServerRef::Index(index) => *index,
            ServerRef::Name(name) => {
                let found = self
                    .slots
                    .iter()
                    .flatten()
                    .position(|slot| slot.backend.name == *name);
                let Some(index) = found else {
                    let why = format!(
                        "there is no server {name:?}: number new ones from 0, server 0 address {name}"
                    );
                    return self.fault(Some(place), why);
                };
                index
            }
        };
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        let unsaid = || Slot {
            backend: Backend::unsaid(),
            place: None,
        };
        let slot = self.slots[index].get_or_insert_with(unsaid);
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
            }
        }
    }

    fn finish(mut self) -> Result<Checked, ConfigErrors> {
        let mut places = Places::default();
        let mut pool = Pool::new(SERVICE_DEFAULT);
        for (index, slot) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            let Some(Slot { mut backend, place }) = slot.filter(|s| !s.backend.host.is_empty())
            else {
                let why = format!(
                    "server {index} has no address: number servers from 0 without gaps, each with \
                     `server {index} address ...`"
                );
                self.fault(None, why);
                continue;
            };
            match resolve(&backend.host, self.outside) {
                Ok(address) => backend.address = address,
                Err(why) => {
                    self.fault(
                        place.as_ref(),
                        format!("back end {:?}: {why}", backend.name),
                    );
                }
            }
            if let Some(place) = place {
                places.note(Item::Backend(0, pool.backends.len()), "", place);
            }
            pool.backends.push(backend);
        }
        let Some(listener) = self.listener else {
            if self.errors.is_empty() {
                self.fault(
                    None,
                    "no VIP: pen [options] VIP:PORT BACKEND ..., or --config FILE",
                );
            }
            return Err(ConfigErrors(self.errors));
        };
        if !self.errors.is_empty() {
            return Err(ConfigErrors(self.errors));
        }
        let mut service = Service::new(SERVICE_DEFAULT);
        service.listeners.push(listener);
        service.hash = if self.round_robin {
            HashBy::Flow
        } else {
            HashBy::Source
        };
        self.config.services = vec![service];
        self.config.pools = vec![pool];
        self.config
            .check_at(&places)
            .map(|checked| checked.noted_before(self.notes))
    }
}
