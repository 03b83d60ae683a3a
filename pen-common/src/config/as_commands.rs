//! A configuration as Pen's commands, for `-F`: the way back from TOML.
//!
//! Commands have no quoting, and describe one service of one listener. What they can't say is
//! refused by name: a file that loads, and serves otherwise, would be worse than none. What was
//! written is read again for that, so nothing is missed that this file does not know of.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ::toml::Value;

use super::error::{ConfigError, ConfigErrors, Item};
use super::keys::{BACKEND, CONFIG};
use super::service_keys::SERVICE;
use super::toml::differing;
use super::{
    Backend, Config, ConfigForm, HashBy, Mode, Outside, PenLine, Pool, Protocol, SERVICE_DEFAULT,
    Service,
};

/// What messages advise where commands end.
const ONLY_TOML: &str = "only a TOML file can say so";

impl Config {
    /// Writes the configuration in a form that loads to the same one.
    ///
    /// # Errors
    /// As [`Config::to_commands`].
    pub fn written(&self, form: ConfigForm) -> Result<String, ConfigErrors> {
        match form {
            ConfigForm::Toml => Ok(self.to_toml()),
            ConfigForm::Commands => self.to_commands(),
        }
    }

    /// Writes the configuration as commands, one a line; `pen -F` of that loads the same
    /// configuration. What has its default is left out.
    ///
    /// # Errors
    /// Everything that commands can't say.
    pub fn to_commands(&self) -> Result<String, ConfigErrors> {
        let mut writer = Writer {
            config: self,
            text: String::new(),
            faults: Vec::new(),
        };
        writer.top();
        writer.acls();
        match &self.services[..] {
            [service] => writer.service(service),
            services => {
                let why = format!("there are {} services: {ONLY_TOML}", services.len());
                writer.fault(Item::Top, &why);
            }
        }
        match writer.faults.is_empty() {
            true => self.same_again(writer.text),
            false => Err(ConfigErrors(writer.faults)),
        }
    }

    /// `text`, if it loads to this configuration.
    fn same_again(&self, text: String) -> Result<String, ConfigErrors> {
        let line = PenLine {
            file: Some(PathBuf::from("commands")),
            ..PenLine::default()
        };
        let outside = Known {
            config: self,
            text: &text,
        };
        let again = line.read(Self::default(), &outside)?;
        let (again, wanted) = (again.config().to_toml(), self.to_toml());
        if again == wanted {
            return Ok(text);
        }
        let lost = wanted
            .lines()
            .filter(|line| !again.lines().any(|other| other == *line));
        let faults = lost.map(|line| ConfigError {
            place: None,
            what: format!("{}: {ONLY_TOML}", line.trim()),
        });
        Err(ConfigErrors(faults.collect()))
    }
}

struct Writer<'a> {
    config: &'a Config,
    text: String,
    faults: Vec<ConfigError>,
}

impl Writer<'_> {
    fn fault(&mut self, item: Item, why: &str) {
        self.faults.push(ConfigError {
            place: None,
            what: format!("{}{why}", item.title(self.config)),
        });
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A key and its value; a list's elements are a command each.
    fn key(&mut self, item: Item, key: &str, value: &Value) {
        for word in words(value) {
            let blank = |c: char| c.is_whitespace() || c.is_control();
            if word.is_empty() || word.contains(blank) {
                let why = format!("{key} = {word:?} is no word of a command: {ONLY_TOML}");
                self.fault(item, &why);
            } else {
                self.line(&format!("{key} {word}"));
            }
        }
    }

    fn top(&mut self) {
        for (name, value) in differing(CONFIG, self.config, &Config::default()) {
            let command = if name == "interface" { "dsr_if" } else { name };
            self.key(Item::Top, command, &value);
        }
    }

    fn acls(&mut self) {
        let acls = &self.config.acls;
        for (number, acl) in acls.iter().enumerate() {
            for line in &acl.lines {
                self.line(&format!("acl {number} {line}"));
            }
            // That it is there is said of the last one even if it is empty.
            if acl.lines.is_empty() && number + 1 == acls.len() {
                self.line(&format!("no acl {number}"));
            }
        }
    }

    fn service(&mut self, service: &Service) {
        let item = Item::Service(0);
        if service.name != SERVICE_DEFAULT {
            let why = format!("commands call their service {SERVICE_DEFAULT:?}: give it that name");
            self.fault(item, &why);
        }
        if service.mode != Mode::Dsr && !self.config.interface.is_empty() {
            let why = format!(
                "interface = {:?}: by commands that makes it DSR: leave it out",
                self.config.interface
            );
            self.fault(Item::Top, &why);
        }
        match &service.listen_texts()[..] {
            [listen] => self.line(&format!("listen {listen}")),
            listens => {
                let why = format!("it listens at {} places: {ONLY_TOML}", listens.len());
                self.fault(item, &why);
            }
        }
        let mut listeners = service.listeners.iter();
        if service.mode == Mode::Udp || listeners.any(|at| at.protocol == Protocol::Udp) {
            self.line("udp");
        }
        match (service.mode, service.hash) {
            (Mode::Http, _) => self.line("http"),
            (Mode::Dsr, HashBy::Flow) => self.line("roundrobin"),
            (Mode::Dsr, HashBy::Source) | (Mode::Tcp | Mode::Udp, _) => {}
        }
        self.service_keys(service);
        match self.config.pool(&service.pool) {
            Some(pool) => self.pool(pool),
            None if service.redirect().is_some() => {}
            None => self.fault(item, &format!("it has no servers of its own: {ONLY_TOML}")),
        }
    }

    fn service_keys(&mut self, service: &Service) {
        let item = Item::Service(0);
        for (name, value) in differing(SERVICE, service, &Service::new("")) {
            match name {
                // Said otherwise, in the lines around this.
                "name" | "listen" | "mode" | "pool" | "hash" => {}
                "vlan" => self.fault(item, &format!("vlan = {value}: {ONLY_TOML}")),
                "sni_route" => {
                    let why = format!("sni_route leads to other services: {ONLY_TOML}");
                    self.fault(item, &why);
                }
                "keepalive" | "transparent" => self.line(name),
                "balance" => words(&value).iter().for_each(|word| self.line(word)),
                // Words of which each is one of the command's.
                "hsts" => words(&value)
                    .iter()
                    .for_each(|word| self.line(&format!("hsts {word}"))),
                _ => self.key(item, name, &value),
            }
        }
    }

    fn pool(&mut self, pool: &Pool) {
        for (index, backend) in pool.backends.iter().enumerate() {
            let mut line = format!("server {index}");
            for (key, value) in differing(BACKEND, backend, &Backend::unsaid()) {
                // The name is the address as written, which is looked at when this is read again.
                if key != "name" {
                    line.extend(words(&value).iter().map(|word| format!(" {key} {word}")));
                }
            }
            self.line(&line);
        }
    }
}

/// A value as commands write it.
fn words(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(values) => values.iter().flat_map(words).collect(),
        Value::Integer(_)
        | Value::Float(_)
        | Value::Boolean(_)
        | Value::Datetime(_)
        | Value::Table(_) => vec![value.to_string()],
    }
}

/// A world that has the file alone, and the addresses that are known already.
struct Known<'a> {
    config: &'a Config,
    text: &'a str,
}

impl Outside for Known<'_> {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let services = self.config.services.iter();
        let spares = services.flat_map(|service| [&service.proxy.emergency, &service.proxy.abuse]);
        let pools = self.config.pools.iter();
        let mut backends = pools
            .flat_map(|pool| &pool.backends)
            .chain(spares.flatten());
        let found = backends.find(|backend| backend.host == host);
        let found = found.ok_or("it stands for nothing yet")?;
        Ok([&[found.address], found.further.as_slice()].concat())
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Ok(self.text.to_owned())
    }
}
