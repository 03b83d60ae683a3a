//! The daemon's command line: Pen's short flags, operands and all, with long options beside them.
//!
//! Nothing is read here but the words themselves. [`Start::read`] reads the configuration that
//! they name, as often as needed: a reload is the same call again.

mod flags;

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use pen_common::config::{
    Checked, Config, ConfigError, ConfigErrors, ConfigForm, Outside, PenFlag, PenLine,
    check_interface,
};

use crate::files;
pub use flags::command;
use flags::{CHROOT, IDLE_FLAGS, PROXY_FLAGS, REFUSED_FLAGS, STAY};

/// Exit code for wrong use and bad configuration.
pub const EXIT_WRONG: u8 = 2;

/// What Pen is started for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Serve.
    Run(Start),
    /// Validate, warn, exit.
    Check(Start),
    /// Write the configuration down in a form, exit.
    Print(Start, ConfigForm),
    /// Clean an interface of what a daemon left there.
    Detach(Detach),
}

/// Where the configuration comes from. See [`Start::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    source: Source,
    /// Keys of the top level that flags set.
    flags: Vec<(&'static str, String)>,
    notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Toml(PathBuf),
    Line(PenLine),
}

/// What `--detach` cleans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detach {
    /// The interface.
    pub interface: String,
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
    /// Where a daemon kept what the next start must know.
    pub run_dir: PathBuf,
}

/// Why the program ends before it has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help or version: to standard output, exit 0.
    Shown(String),
    /// Wrong use: to standard error, exit [`EXIT_WRONG`].
    Wrong(String),
}

/// The real name service and file system.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Outside for System {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let found = (host, 0)
            .to_socket_addrs()
            .map_err(|error| error.to_string())?;
        Ok(found.map(|socket| socket.ip()).collect())
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        read(path).map_err(|error| error.to_string())
    }
}

/// Longest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A file of a size that can be one; what is none may never end, or never begin.
fn read(path: &Path) -> io::Result<String> {
    let file = files::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other("it is too long")),
        false => Ok(text),
    }
}

/// The real name service, and no files: what strangers send is to read none of this host's.
#[derive(Clone, Copy, Debug)]
pub struct WithoutFiles;

impl Outside for WithoutFiles {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        System.resolve(host)
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Err("what is sent is whole, and no file is read for it".to_owned())
    }
}

/// The real file system, and made-up addresses for host names: what is only written down need not be
/// looked up, and may be read where those names are not known.
#[derive(Debug, Default)]
pub struct WithoutNames(RefCell<Vec<String>>);

impl Outside for WithoutNames {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let mut hosts = self.0.borrow_mut();
        let known = hosts.iter().position(|known| known == host);
        let index = known.unwrap_or_else(|| {
            hosts.push(host.to_owned());
            hosts.len() - 1
        });
        // Each name has its own, that nobody has: reserved for ever (RFC 1112), to be discarded (RFC 6666).
        let index = u32::try_from(index).map_err(|_| "there are too many names")?;
        let v4 = Ipv4Addr::from(0xf000_0000 | index & 0x07ff_ffff);
        let v6 = Ipv6Addr::from(0x0100_u128 << 112 | u128::from(index));
        Ok(vec![v4.into(), v6.into()])
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        System.read(path)
    }
}

impl Start {
    /// Reads and checks the configuration that the command line describes or names.
    ///
    /// # Errors
    /// All faults found.
    pub fn read(&self, outside: &dyn Outside) -> Result<Checked, ConfigErrors> {
        match &self.source {
            Source::Line(line) => {
                let mut base = Config::default();
                self.set_flags(&mut base)?;
                line.read(base, outside)
            }
            Source::Toml(path) => {
                let name = path.display().to_string();
                let text = outside
                    .read(path)
                    .map_err(|why| fault(format!("can't read {name}: {why}")))?;
                self.read_instead(ConfigForm::Toml, (&text, &name), outside)
            }
        }
    }

    /// Reads and checks another text in place of the file, under the same flags; a name for messages
    /// stands beside it. Operands are not heeded.
    ///
    /// # Errors
    /// All faults found.
    pub fn read_instead(
        &self,
        form: ConfigForm,
        (text, name): (&str, &str),
        outside: &dyn Outside,
    ) -> Result<Checked, ConfigErrors> {
        match form {
            ConfigForm::Toml => {
                let checked = Config::from_toml(text, name, outside)?;
                let (mut config, _) = checked.into_parts();
                self.set_flags(&mut config)?;
                config.check()
            }
            ConfigForm::Commands => {
                let mut base = Config::default();
                self.set_flags(&mut base)?;
                PenLine::of_commands(base, text, name, outside)
            }
        }
    }

    /// The file that the configuration stands in, all of it, and in which form. A line says more
    /// than its file, and that would still be said to the next start.
    pub fn file(&self) -> Option<(&Path, ConfigForm)> {
        match &self.source {
            Source::Toml(path) => Some((path, ConfigForm::Toml)),
            Source::Line(line) if line.is_file_alone() => {
                Some((line.file.as_deref()?, ConfigForm::Commands))
            }
            Source::Line(_) => None,
        }
    }

    /// Where the configuration comes from, for `status`.
    pub fn source(&self) -> String {
        match &self.source {
            Source::Toml(path) => path.display().to_string(),
            Source::Line(PenLine {
                file: Some(file), ..
            }) => {
                format!("command line and {}", file.display())
            }
            Source::Line(_) => "command line".to_owned(),
        }
    }

    /// Sentences about flags that were accepted without effect.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn set_flags(&self, config: &mut Config) -> Result<(), ConfigErrors> {
        self.flags
            .iter()
            .try_for_each(|(key, value)| config.set(key, value).map_err(fault))
    }
}

fn fault(what: String) -> ConfigErrors {
    ConfigError { place: None, what }.into()
}

/// Parses the words of the command line, the program's name first.
///
/// # Errors
/// [`Stop`]: help, version or wrong use.
pub fn parse<I>(words: I) -> Result<Action, Stop>
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let matches = command().try_get_matches_from(words).map_err(|error| {
        let text = error.render().to_string();
        if error.use_stderr() {
            Stop::Wrong(text)
        } else {
            Stop::Shown(text)
        }
    })?;
    action(&matches).map_err(|why| Stop::Wrong(format!("error: {why}\n")))
}

fn action(matches: &ArgMatches) -> Result<Action, String> {
    if let Some(why) = refused_flag(matches) {
        return Err(why);
    }
    if let Some(interface) = text(matches, "detach") {
        check_interface(&interface)?;
        let Config { bpffs, run_dir, .. } = Config::default();
        return Ok(Action::Detach(Detach {
            interface,
            bpffs: text(matches, "bpffs").map_or(bpffs, PathBuf::from),
            run_dir: text(matches, "run_dir").map_or(run_dir, PathBuf::from),
        }));
    }
    let mut operands = texts(matches, "operands").into_iter();
    let source = match text(matches, "config") {
        Some(path) => Source::Toml(PathBuf::from(path)),
        None => Source::Line(PenLine {
            listen: operands.next(),
            servers: operands.collect(),
            udp: matches.get_flag("udp"),
            round_robin: matches.get_flag("roundrobin"),
            flags: proxy_flags(matches),
            commands: texts(matches, "command"),
            file: text(matches, "file").map(PathBuf::from),
        }),
    };
    let start = Start {
        source,
        flags: settings(matches),
        notes: without_effect(matches),
    };
    // A bad -C or -d is wrong use, with or without a file.
    start
        .set_flags(&mut Config::default())
        .map_err(|errors| errors.to_string())?;
    Ok(match text(matches, "print_config") {
        Some(form) => Action::Print(start, form.parse()?),
        None if matches.get_flag("check") => Action::Check(start),
        None => Action::Run(start),
    })
}

fn refused_flag(matches: &ArgMatches) -> Option<String> {
    let stays_root = text(matches, STAY.0).is_none_or(|user| user == STAY.1);
    if is_given(matches, CHROOT, true) && stays_root {
        return Some(format!(
            "{CHROOT} (chroot) confines nobody who is root: name a user to go on as (-u)"
        ));
    }
    let given = REFUSED_FLAGS
        .iter()
        .find(|(flag, takes_value, ..)| is_given(matches, flag, *takes_value));
    given.map(|(flag, _, what, why)| format!("{flag} ({what}) {why}"))
}

fn proxy_flags(matches: &ArgMatches) -> Vec<PenFlag> {
    let given = PROXY_FLAGS.iter().filter_map(|flag| {
        let value = match flag.value {
            Ok(_) => text(matches, flag.long)?,
            Err(word) => matches.get_flag(flag.long).then(|| word.to_owned())?,
        };
        Some(PenFlag {
            flag: flag.short,
            key: flag.key,
            value,
            idle_in_dsr: flag.idle_in_dsr,
        })
    });
    given.collect()
}

fn without_effect(matches: &ArgMatches) -> Vec<String> {
    let idle = IDLE_FLAGS
        .iter()
        .filter(|(flag, takes_value, _)| is_given(matches, flag, *takes_value));
    // In a line it depends on the mode whether these mean anything: see `PenLine::read`.
    let in_file = proxy_flags(matches)
        .into_iter()
        .filter(|_| matches.contains_id("config"))
        .map(|PenFlag { flag, key, .. }| format!("{flag} has no effect: the file says {key}"));
    let stay = text(matches, STAY.0).filter(|user| user == STAY.1);
    let stay = stay.map(|user| format!("-u {user} has no effect: pen stays who it is"));
    idle.map(|(flag, _, why)| format!("{flag} has no effect: {why}"))
        .chain(in_file)
        .chain(stay)
        .collect()
}

fn is_given(matches: &ArgMatches, flag: &str, takes_value: bool) -> bool {
    match takes_value {
        true => matches.contains_id(flag),
        false => matches.get_flag(flag),
    }
}

fn settings(matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let mut flags: Vec<_> = [
        "control",
        "pid_file",
        "web_stats",
        "drain_timeout",
        "on_stop",
        "bpffs",
        "run_dir",
    ]
    .into_iter()
    .filter_map(|key| text(matches, key).map(|value| (key, value)))
    .collect();
    flags.extend(text(matches, STAY.0).map(|user| (STAY.0, user)));
    for key in ["foreground", "allow_exit"] {
        if matches.get_flag(key) {
            flags.push((key, true.to_string()));
        }
    }
    if matches.get_count("debug") > 0 {
        flags.push(("debug", matches.get_count("debug").to_string()));
    }
    flags
}

fn text(matches: &ArgMatches, id: &str) -> Option<String> {
    matches.get_one::<String>(id).cloned()
}

fn texts(matches: &ArgMatches, id: &str) -> Vec<String> {
    matches
        .get_many::<String>(id)
        .into_iter()
        .flatten()
        .cloned()
        .collect()
}
