//! Pen's commands: the language of `-O`, of the `-F` file and of the control socket.

mod no;
mod server;
mod without_effect;

use std::path::PathBuf;

use super::acl::{AclChange, parse_acl_lines};
use super::address::parse_number;
use super::given::Given;
use super::keys::{CONFIG, read_acl_number};
use super::nearest::did_you_mean;
use super::{Balance, Config, ConfigForm, Service, check_interface};
use no::no;
use server::server;
pub use server::{Change, ServerRef};
use without_effect::{NO_EFFECT, NOT_YET};

/// Letters of a stranger's word that a message repeats.
const WORD_SHOWN_MAX: usize = 64;

/// Seconds that `recent` looks back if it is not told, as in Pen.
const RECENT_DEFAULT: u32 = 300;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Show everything.
    Status,
    /// Show the back ends in Pen's line format.
    Servers,
    /// Show every reason with its count.
    Counters,
    /// Show all connections.
    Connections,
    /// Show the connection of this number.
    Connection(u32),
    /// End the connection of this number.
    Close(u32),
    /// Show the clients of the last so many seconds.
    Recent(u32),
    /// Show whose staples can be asked for.
    Ocsp,
    /// Say whether an OCSP answer would be stapled.
    OcspCheck {
        /// File of the certificate.
        certificate: PathBuf,
        /// File with the answer.
        answer: PathBuf,
    },
    /// Show Pen's switches.
    Mode,
    /// Show the process id.
    Pid,
    /// Show the path of the control socket.
    Control,
    /// Look all host names of back ends up at once, whenever that was due.
    Resolve,
    /// Show the services.
    Services,
    /// Read the configuration again, and make it so.
    Reload,
    /// Show the configuration in force, in this form.
    ConfigShow(ConfigForm),
    /// Show how the configuration as it is written differs from the one in force.
    ConfigDiff,
    /// Write the configuration in force to a file; to the one that it came from if none is named.
    Write(Option<PathBuf>),
    /// Add a server: `host:port:max:hard:weight:prio`, and changes of it.
    ServerAdd(String, Vec<Change>),
    /// Take a server away.
    ServerRemove(ServerRef),
    /// Send a server no new clients, or send it some again.
    ServerDrain(ServerRef, bool),
    /// Stop, and forward nothing any more.
    Stop,
    /// Stop, as at SIGTERM; where [`Config::allow_exit`] has been set.
    Exit,
    /// Show the debug level, or set it.
    Debug(Option<u8>),
    /// Show the VIPs, or (at start) name one.
    Listen(Option<String>),
    /// Change a back end, all changes or none.
    Server(ServerRef, Vec<Change>),
    /// Turn one of Pen's switches on or off. In DSR there is `roundrobin` alone: hash over the whole
    /// flow, or the source address.
    Switch(Balance, bool),
    /// Show a key of a service in proxy mode ([`Service::shown`]), or set it ([`Service::set`]).
    Option {
        /// Name of the key.
        key: &'static str,
        /// Its value as written, which has been tried when this was parsed; `None` to show it.
        value: Option<String>,
    },
    /// Set a key of a service in proxy mode ([`Service::set`]); only at start.
    OptionAtStart {
        /// Name of the key.
        key: &'static str,
        /// Its value as written, which has been tried when this was parsed.
        value: String,
    },
    /// UDP instead of TCP, or not; only at start.
    Udp(bool),
    /// Pass on HTTP requests instead of TCP connections, or not; only at start.
    Http(bool),
    /// Change an access list.
    Acl(u8, AclChange),
    /// Set a key of the top level; only at start. The value is read already when this is applied
    /// to a configuration, and has been tried when this was parsed.
    Set {
        /// Name of the key.
        key: &'static str,
        /// Its value as written.
        value: String,
    },
    /// Show a key of the top level ([`Config::shown`]), or set it ([`Config::set`]): one that may
    /// change while Pen runs.
    Setting {
        /// Name of the key.
        key: &'static str,
        /// Its value as written, which has been tried when this was parsed; `None` to show it.
        value: Option<String>,
    },
    /// Read more commands from a file; only at start.
    Include(PathBuf),
    /// Accepted and without effect, for the reason given.
    Nothing(String),
}

/// Why a line is no command that Pen carries out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandFault {
    /// There is no such command.
    #[error("there is no command `{word}`{hint}")]
    Unknown {
        /// Its first word.
        word: String,
        /// `; did you mean ...` or nothing.
        hint: String,
    },
    /// There is, but not so, or not here.
    #[error("{0}")]
    Refused(String),
}

type Parse = fn(&[&str]) -> Result<Command, String>;

/// Commands with a word of their own; the keys of the top level come on top of these.
const COMMANDS: &[(&str, Parse)] = &[
    ("acl", acl),
    ("close", |words| number("close", words).map(Command::Close)),
    ("connection", |words| {
        number("connection", words).map(Command::Connection)
    }),
    ("connections", |words| {
        bare("connections", words, Command::Connections)
    }),
    ("config", config),
    ("control", |words| match words {
        [] => Ok(Command::Control),
        _ => set("control", words),
    }),
    ("counters", |words| {
        bare("counters", words, Command::Counters)
    }),
    ("debug", |words| match words {
        [] => Ok(Command::Debug(None)),
        [level] => {
            parse_number("debug", level, 0..=u8::MAX).map(|level| Command::Debug(Some(level)))
        }
        _ => Err("debug takes one number".to_owned()),
    }),
    ("dsr_if", |words| set("interface", words)),
    (KEEPALIVE, |words| {
        bare(KEEPALIVE, words, flag(KEEPALIVE, true))
    }),
    (HSTS, |words| match words {
        [] => option(HSTS, &[]),
        _ => option(HSTS, &[&words.join(" ")]),
    }),
    ("exit", |words| bare("exit", words, Command::Exit)),
    ("http", |words| bare("http", words, Command::Http(true))),
    ("include", |words| match words {
        [file] => Ok(Command::Include(PathBuf::from(file))),
        _ => Err("include takes one file name, without blanks".to_owned()),
    }),
    ("listen", |words| match words {
        [] => Ok(Command::Listen(None)),
        [vip] => Ok(Command::Listen(Some((*vip).to_owned()))),
        _ => Err("listen takes one VIP: listen ADDRESS:PORT".to_owned()),
    }),
    ("mode", |words| bare("mode", words, Command::Mode)),
    ("no", no),
    ("ocsp", |words| bare("ocsp", words, Command::Ocsp)),
    ("ocsp-check", |words| match words {
        [certificate, answer] => Ok(Command::OcspCheck {
            certificate: PathBuf::from(certificate),
            answer: PathBuf::from(answer),
        }),
        _ => Err(
            "ocsp-check takes two file names, without blanks: ocsp-check CERTIFICATE ANSWER"
                .to_owned(),
        ),
    }),
    ("pid", |words| bare("pid", words, Command::Pid)),
    ("recent", |words| match words {
        [] => Ok(Command::Recent(RECENT_DEFAULT)),
        _ => number("recent", words).map(Command::Recent),
    }),
    ("reload", |words| bare("reload", words, Command::Reload)),
    ("resolve", |words| bare("resolve", words, Command::Resolve)),
    ("server", server),
    ("service", |words| bare("service", words, Command::Services)),
    ("servers", |words| bare("servers", words, Command::Servers)),
    (SNI_ROUTE, |words| match words {
        [] => option(SNI_ROUTE, &[]),
        // Of which values have a meaning of their own.
        [_] => Err(format!(
            "{SNI_ROUTE} takes a name and a service: {SNI_ROUTE} www.example.org web"
        )),
        _ => option(SNI_ROUTE, &[&words.join(" ")]),
    }),
    ("stop", |words| bare("stop", words, Command::Stop)),
    ("status", |words| bare("status", words, Command::Status)),
    (TRANSPARENT, |words| {
        bare(TRANSPARENT, words, flag(TRANSPARENT, true))
    }),
    ("udp", |words| bare("udp", words, Command::Udp(true))),
    ("write", |words| write("write", words)),
];

/// Keys of a service in proxy mode that are commands, too: shown without a value, set with one.
const OPTIONS: &[&str] = &[
    "accept_proxy",
    "blacklist",
    "certificate",
    "chain",
    "client_acl",
    "client_ca",
    "client_ca_path",
    "client_certificate",
    "client_conn_max",
    "client_conn_rate",
    "client_crl",
    "client_handshakes_max",
    "clients_max",
    "conn_max",
    "head_timeout",
    "idle_timeout",
    "key",
    LOG,
    "log_format",
    "pending_max",
    "queue_timeout",
    "redirect",
    "send_proxy",
    "reason_header",
    "server_ca",
    "server_certificate",
    "server_key",
    "server_tls",
    "server_tls_name",
    "source",
    "ssl_ciphers",
    "ssl_ocsp_response",
    "ssl_option",
    "ssl_sni_path",
    "ssl_ticket_keys",
    "tcp_fastclose",
    "timeout",
    "tls_timeout",
    "tracking",
    "trusted",
];

/// Keys of the top level that may change while Pen runs, and are shown without a value.
const SETTINGS: &[&str] = &["control_acl", TARPIT_ACL, WEB_STATS];

/// Keys of a service in proxy mode that only the start can set: Pen has flags for them.
const AT_START: &[&str] = &["abuse", "backlog", "emergency"];

/// The keys of that kind that Pen turns on by their names and off by `no`.
const KEEPALIVE: &str = "keepalive";
const TRANSPARENT: &str = "transparent";
/// The keys that `no` turns off as well.
const HSTS: &str = "hsts";
const LOG: &str = "log";

/// Of the top level, those that `no` turns off.
const TARPIT_ACL: &str = "tarpit_acl";
const WEB_STATS: &str = "web_stats";

/// Those that are lists: the command adds to them, and `no` empties them.
const LISTS: &[&str] = &["accept_proxy", SNI_ROUTE, "ssl_option", "trusted"];
/// Of these, the one whose elements have names, by which `no` takes one away.
const SNI_ROUTE: &str = "sni_route";

impl Command {
    /// Parses one line; `None` if it is blank or a comment. Total: any text has an answer.
    ///
    /// # Errors
    /// [`CommandFault`], with the nearest right spelling or what to do instead.
    pub fn parse(line: &str) -> Result<Option<Self>, CommandFault> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some((word, rest)) = words
            .split_first()
            .filter(|(word, _)| !word.starts_with('#'))
        else {
            return Ok(None);
        };
        let known = COMMANDS
            .iter()
            .find(|(name, _)| name == word)
            .map(|(_, parse)| parse);
        let parsed = if let Some(parse) = known {
            parse(rest)
        } else if let Some(key) = SETTINGS.iter().find(|key| *key == word) {
            setting(key, rest)
        } else if let Some(key) = CONFIG.iter().find(|key| key.name == *word) {
            set(key.name, rest)
        } else if let Some(key) = OPTIONS.iter().find(|key| *key == word) {
            option(key, rest)
        } else if let Some(key) = AT_START.iter().find(|key| *key == word) {
            option_at_start(key, rest)
        } else if let Ok(switch) = word.parse::<Balance>() {
            bare(switch.word(), rest, Self::Switch(switch, true))
        } else if let Some((_, why)) = NO_EFFECT.iter().find(|(name, _)| name == word) {
            Ok(Self::Nothing(format!("`{word}` {why}")))
        } else {
            Err(why_not(word).ok_or_else(|| unknown(word))?)
        };
        parsed.map(Some).map_err(CommandFault::Refused)
    }

    /// Every word that a command may begin with, those that are refused or have no effect too.
    pub fn words() -> impl Iterator<Item = &'static str> {
        known_words().chain(NO_EFFECT.iter().map(|(name, _)| *name))
    }
}

/// Every word that may begin a command.
fn known_words() -> impl Iterator<Item = &'static str> {
    let commands = COMMANDS.iter().map(|(name, _)| *name);
    commands
        .chain(CONFIG.iter().map(|key| key.name))
        .chain(OPTIONS.iter().copied())
        .chain(AT_START.iter().copied())
        .chain(Balance::ALL.iter().map(|switch| switch.word()))
        .chain(NOT_YET.iter().map(|(name, _)| *name))
}

fn unknown(word: &str) -> CommandFault {
    CommandFault::Unknown {
        word: shown(word),
        hint: did_you_mean(word, known_words()),
    }
}

/// Why a command of Pen's is refused; `None` if Pen never had it.
fn why_not(word: &str) -> Option<String> {
    let found = NOT_YET.iter().find(|(name, _)| *name == word);
    found.map(|(_, why)| format!("`{word}` is refused: {why}"))
}

/// A word of a stranger's, short and free of control characters.
pub(crate) fn shown(word: &str) -> String {
    word.chars()
        .take(WORD_SHOWN_MAX)
        .filter(|c| !c.is_control())
        .collect()
}

fn bare(name: &str, words: &[&str], command: Command) -> Result<Command, String> {
    match words {
        [] => Ok(command),
        [word, ..] => Err(format!(
            "{name} takes no argument, but {:?} follows",
            shown(word)
        )),
    }
}

fn config(words: &[&str]) -> Result<Command, String> {
    match words {
        ["show"] => Ok(Command::ConfigShow(ConfigForm::Toml)),
        ["show", form] => form.parse().map(Command::ConfigShow),
        ["diff"] => Ok(Command::ConfigDiff),
        ["save", file @ ..] => write("config save", file),
        _ => Err("config takes show [toml|commands], diff, or save [FILE]".to_owned()),
    }
}

fn write(name: &str, words: &[&str]) -> Result<Command, String> {
    match words {
        [] => Ok(Command::Write(None)),
        [file] => Ok(Command::Write(Some(PathBuf::from(file)))),
        _ => Err(format!("{name} takes one file name, without blanks")),
    }
}

/// The one number that a command takes.
fn number(name: &str, words: &[&str]) -> Result<u32, String> {
    match words {
        [word] => parse_number(name, word, 0..=u32::MAX),
        _ => Err(format!("{name} takes one number: {name} 5")),
    }
}

fn set(key: &'static str, words: &[&str]) -> Result<Command, String> {
    let [value] = words else {
        return Err(format!("{key} takes one value without blanks"));
    };
    if key == "interface" {
        check_interface(value)?;
    }
    Config::default().set(key, value)?;
    Ok(Command::Set {
        key,
        value: (*value).to_owned(),
    })
}

fn setting(key: &'static str, words: &[&str]) -> Result<Command, String> {
    let value = match words {
        [] => None,
        [value] => {
            Config::default().set(key, value)?;
            Some((*value).to_owned())
        }
        _ => return Err(format!("{key} takes one value without blanks")),
    };
    Ok(Command::Setting { key, value })
}

fn option(key: &'static str, words: &[&str]) -> Result<Command, String> {
    let value = match words {
        [] => None,
        [value] => {
            Service::new("").set(key, value)?;
            Some((*value).to_owned())
        }
        _ => return Err(format!("{key} takes one value without blanks")),
    };
    Ok(Command::Option { key, value })
}

fn option_at_start(key: &'static str, words: &[&str]) -> Result<Command, String> {
    let [value] = words else {
        return Err(format!("{key} takes one value without blanks"));
    };
    Service::new("").set(key, value)?;
    Ok(Command::OptionAtStart {
        key,
        value: (*value).to_owned(),
    })
}

fn flag(key: &'static str, on: bool) -> Command {
    Command::Option {
        key,
        value: Some(on.to_string()),
    }
}

fn acl(words: &[&str]) -> Result<Command, String> {
    let Some((number, line)) = words.split_first() else {
        return Err("acl takes a number and a line: acl 1 permit 10.0.0.0/8".to_owned());
    };
    let number = read_acl_number("acl", Given::Word(number))?;
    Ok(Command::Acl(number, AclChange::Add(parse_acl_lines(line)?)))
}
