//! The daemon's command line: Pen's short flags, operands and all, with long options beside them.
//!
//! Nothing is read here but the words themselves. [`Start::read`] reads the configuration that
//! they name, as often as needed: a reload is the same call again.

use std::ffi::OsString;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint};
use pen_common::config::{
    Checked, Config, ConfigError, ConfigErrors, Outside, PenLine, check_interface,
};

/// Exit code for wrong use and bad configuration.
pub const EXIT_WRONG: u8 = 2;

const USAGE: &str = "pen [OPTIONS] VIP[:PORT] BACKEND[:PORT:MAX:HARD:WEIGHT:PRIO]...
       pen --config FILE [--check]
       pen --detach IF";

const AFTER_HELP: &str = "\
Examples:
  pen -f -O \"dsr_if eth1\" -r 192.0.2.80:80 web1 web2
  pen -df -O \"dsr_if eth1\" -r '[2001:db8::80]:80' '[2001:db8::1]' '[2001:db8::2]'
  pen --config /etc/pen/pen.toml --check

PORT 0, or none, stands for all ports. A weight of 0 in BACKEND counts as 1, as ever;
`-O \"server 0 weight 0\"` and `weight = 0` in TOML mean no new flows.";

/// What Pen is started for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Serve.
    Run(Start),
    /// Validate, warn, exit.
    Check(Start),
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
    fn resolve(&self, host: &str) -> Result<IpAddr, String> {
        let mut found = (host, 0)
            .to_socket_addrs()
            .map_err(|error| error.to_string())?;
        found
            .next()
            .map(|socket| socket.ip())
            .ok_or_else(|| "it has no address".to_owned())
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        std::fs::read_to_string(path).map_err(|error| error.to_string())
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
                let checked = Config::from_toml(&text, &name, outside)?;
                let (mut config, _) = checked.into_parts();
                self.set_flags(&mut config)?;
                config.check()
            }
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

/// Flags of Pen's that belong to proxy mode: letter, whether a value follows, what it would do.
const PROXY_FLAGS: &[(&str, bool, &str)] = &[
    ("-a", false, "debug dumps in ASCII"),
    ("-b", true, "blacklist time"),
    ("-c", true, "size of the client table"),
    ("-e", true, "emergency server"),
    ("-h", false, "hash of the client's address (help is --help)"),
    ("-i", true, "Windows service"),
    ("-j", true, "chroot"),
    ("-l", true, "request log"),
    ("-m", true, "connections per wake-up"),
    ("-q", true, "listen backlog"),
    ("-s", false, "stubborn"),
    ("-t", true, "connect timeout"),
    ("-u", true, "switch user"),
    ("-w", true, "HTML status page"),
    ("-x", true, "most connections"),
    ("-A", true, "CA directory"),
    ("-B", true, "abuse server"),
    ("-E", true, "TLS certificate"),
    ("-G", true, "CA file"),
    ("-H", false, "X-Forwarded-For"),
    ("-K", true, "TLS key"),
    ("-L", true, "TLS protocol"),
    ("-R", false, "client certificates"),
    ("-T", true, "client tracking"),
    ("-W", false, "selection by weight"),
    ("-X", false, "the exit command"),
    ("-Z", false, "OpenSSL workarounds"),
];

/// Flags of Pen's that are accepted and do nothing: flag, whether a value follows.
const OBSOLETE_FLAGS: &[(&str, bool)] = &[
    ("-D", false),
    ("-n", false),
    ("-P", false),
    ("-Q", false),
    ("-S", true),
];

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
    if let Some((flag, what)) = proxy_flag(matches) {
        return Err(format!(
            "{flag} ({what}) belongs to proxy mode, which isn't there yet"
        ));
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
            commands: texts(matches, "command"),
            file: text(matches, "file").map(PathBuf::from),
        }),
    };
    let start = Start {
        source,
        flags: flags(matches),
        notes: obsolete(matches),
    };
    // A bad -C or -d is wrong use, with or without a file.
    start
        .set_flags(&mut Config::default())
        .map_err(|errors| errors.to_string())?;
    Ok(match matches.get_flag("check") {
        true => Action::Check(start),
        false => Action::Run(start),
    })
}

fn proxy_flag(matches: &ArgMatches) -> Option<(&'static str, &'static str)> {
    let given = PROXY_FLAGS
        .iter()
        .find(|(flag, takes_value, _)| is_given(matches, flag, *takes_value));
    given.map(|(flag, _, what)| (*flag, *what))
}

fn obsolete(matches: &ArgMatches) -> Vec<String> {
    let given = OBSOLETE_FLAGS
        .iter()
        .filter(|(flag, takes_value)| is_given(matches, flag, *takes_value));
    given
        .map(|(flag, _)| format!("{flag} is obsolete and has no effect"))
        .collect()
}

fn is_given(matches: &ArgMatches, flag: &str, takes_value: bool) -> bool {
    match takes_value {
        true => matches.contains_id(flag),
        false => matches.get_flag(flag),
    }
}

fn flags(matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let mut flags: Vec<_> = ["control", "pid_file", "bpffs", "run_dir"]
        .into_iter()
        .filter_map(|key| text(matches, key).map(|value| (key, value)))
        .collect();
    if matches.get_flag("foreground") {
        flags.push(("foreground", true.to_string()));
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

fn command() -> Command {
    let value = |id: &'static str, name: &'static str| Arg::new(id).value_name(name);
    let switch = |id: &'static str| Arg::new(id).action(ArgAction::SetTrue);
    Command::new("pen")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Load balancer: forwards VIPs at layer 2 past the kernel (direct server return)")
        .override_usage(USAGE)
        .after_help(AFTER_HELP)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .args(hidden_flags())
        .arg(
            Arg::new("operands")
                .value_name("VIP BACKEND...")
                .num_args(0..)
                .action(ArgAction::Append)
                .help("The virtual address, then who serves it; IPv6 in brackets"),
        )
        .next_help_heading("What is served")
        .arg(
            value("command", "CMD")
                .short('O')
                .short_alias('o')
                .long("command")
                .action(ArgAction::Append)
                .help("Run a command at start, such as \"dsr_if eth1\" (repeatable; also -o)"),
        )
        .arg(
            value("file", "FILE")
                .short('F')
                .long("file")
                .value_hint(ValueHint::FilePath)
                .help("Read commands from a file, one a line, after those of -O"),
        )
        .arg(
            switch("roundrobin")
                .short('r')
                .long("roundrobin")
                .help("Choose by the whole flow, not by the client's address alone"),
        )
        .arg(
            switch("udp")
                .short('U')
                .long("udp")
                .help("UDP instead of TCP"),
        )
        .arg(
            value("config", "FILE")
                .long("config")
                .value_hint(ValueHint::FilePath)
                .conflicts_with_all(["operands", "command", "file", "roundrobin", "udp"])
                .help("Read everything from a TOML file: for many services"),
        )
        .next_help_heading("How it runs")
        .arg(
            switch("foreground")
                .short('f')
                .long("foreground")
                .help("Stay in the foreground"),
        )
        .arg(
            Arg::new("debug")
                .short('d')
                .long("debug")
                .action(ArgAction::Count)
                .help("Log more (repeatable)"),
        )
        .arg(
            value("control", "PATH")
                .short('C')
                .long("control")
                .help("Path of the control socket"),
        )
        .arg(
            value("pid_file", "FILE")
                .short('p')
                .long("pid-file")
                .help("Write a pid file"),
        )
        .arg(
            value("bpffs", "DIR")
                .long("bpffs")
                .help("BPF file system [default: /sys/fs/bpf]"),
        )
        .arg(
            value("run_dir", "DIR")
                .long("run-dir")
                .help("Where Pen keeps what the next start must know [default: /run/pen]"),
        )
        .next_help_heading("Instead of running")
        .arg(
            switch("check")
                .long("check")
                .help("Validate the configuration and exit"),
        )
        .arg(
            value("detach", "IF")
                .long("detach")
                .conflicts_with_all([
                    "config",
                    "operands",
                    "command",
                    "file",
                    "roundrobin",
                    "udp",
                    "check",
                ])
                .help("Clean an interface of what a daemon left there, and exit"),
        )
        .arg(
            Arg::new("help")
                .long("help")
                .action(ArgAction::Help)
                .help("Show this and exit"),
        )
        .arg(
            Arg::new("version")
                .long("version")
                .action(ArgAction::Version)
                .help("Show the version and exit"),
        )
}

/// Known to the parser so that `-df -S 2` splits rightly and a refusal can name what is refused.
fn hidden_flags() -> impl Iterator<Item = Arg> {
    let proxy = PROXY_FLAGS
        .iter()
        .map(|(flag, takes_value, _)| (*flag, *takes_value));
    proxy
        .chain(OBSOLETE_FLAGS.iter().copied())
        .map(|(flag, takes_value)| {
            let action = if takes_value {
                ArgAction::Set
            } else {
                ArgAction::SetTrue
            };
            Arg::new(flag)
                .short(flag.chars().nth(1))
                .action(action)
                .hide(true)
        })
}
