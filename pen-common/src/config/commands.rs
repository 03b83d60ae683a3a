//! Pen's commands: the language of `-O`, of the `-F` file and of the control socket.

use std::path::PathBuf;

use super::address::{parse_number, parse_port};
use super::given::Given;
use super::keys::{CONFIG, read_host};
use super::nearest::did_you_mean;
use super::{BACKENDS_PER_POOL_MAX, Config, check_interface};

/// Letters of a stranger's word that a message repeats.
const WORD_SHOWN_MAX: usize = 64;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Show everything.
    Status,
    /// Show the back ends in Pen's line format.
    Servers,
    /// Show every reason with its count.
    Counters,
    /// Show Pen's switches.
    Mode,
    /// Show the process id.
    Pid,
    /// Show the path of the control socket.
    Control,
    /// Show the debug level, or set it.
    Debug(Option<u8>),
    /// Show the VIPs, or (at start) name one.
    Listen(Option<String>),
    /// Change a back end, all changes or none.
    Server(ServerRef, Vec<Change>),
    /// Hash over the whole flow (true) or the source address alone.
    RoundRobin(bool),
    /// Set a key of the top level; only at start. The value is read already when this is applied
    /// to a configuration, and has been tried when this was parsed.
    Set {
        /// Name of the key.
        key: &'static str,
        /// Its value as written.
        value: String,
    },
    /// Read more commands from a file; only at start.
    Include(PathBuf),
    /// Accepted and without effect, for the reason given.
    Nothing(String),
}

/// How a command names a back end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerRef {
    /// By Pen's number, from 0.
    Index(usize),
    /// By name.
    Name(String),
}

/// One change of a back end: `server N KEY VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another address or host name, not yet looked up.
    Address(String),
    /// Another port.
    Port(u16),
    /// Soft connection limit.
    Max(u32),
    /// Hard connection limit.
    Hard(u32),
    /// Seconds without new flows; 0 ends them.
    Blacklist(u32),
    /// Another weight; 0 means no new flows here, unlike in the positional form.
    Weight(u16),
    /// Priority.
    Prio(u32),
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
    ("pid", |words| bare("pid", words, Command::Pid)),
    ("roundrobin", |words| {
        bare("roundrobin", words, Command::RoundRobin(true))
    }),
    ("server", server),
    ("servers", |words| bare("servers", words, Command::Servers)),
    ("status", |words| bare("status", words, Command::Status)),
];

/// Commands that DSR has no use for, because they belong to proxy mode.
const PROXY: &[&str] = &[
    "abort_on_error",
    "ascii",
    "blacklist",
    "clients_max",
    "close",
    "conn_max",
    "connection",
    "dummy",
    "hash",
    "http",
    "idle_timeout",
    "idlers",
    "keepalive",
    "log",
    "peek",
    "pending_max",
    "prio",
    "recent",
    "socket",
    "source",
    "ssl_ciphers",
    "ssl_client_renegotiation_interval",
    "ssl_ocsp_response",
    "ssl_option",
    "ssl_sni_path",
    "stubborn",
    "tcp_fastclose",
    "tcp_nodelay",
    "timeout",
    "tracking",
    "transparent",
    "web_stats",
    "weight",
];

/// Commands of Pen's that would do something in DSR, but don't yet; with what to do instead.
const NOT_YET: &[(&str, &str)] = &[
    (
        "acl",
        "access lists aren't there yet, and a list that is not obeyed would be a trap",
    ),
    (
        "client_acl",
        "access lists aren't there yet in DSR: keep clients out by a firewall before Pen",
    ),
    (
        "control_acl",
        "access lists aren't there yet: guard the control socket by its file mode",
    ),
    ("tarpit_acl", "the tarpit isn't there yet"),
    ("exit", "stop the daemon with SIGTERM"),
    ("write", "Pen does not write configuration files yet"),
];

/// Commands that are accepted and do nothing.
const NO_EFFECT: &[(&str, &str)] = &[
    ("block", "is obsolete"),
    ("delayed_forward", "is obsolete"),
    ("dsr_ip", "never had an effect"),
    (
        "epoll",
        "chooses nothing any more: the plane decides how to wait",
    ),
    (
        "kqueue",
        "chooses nothing any more: the plane decides how to wait",
    ),
    (
        "poll",
        "chooses nothing any more: the plane decides how to wait",
    ),
    (
        "select",
        "chooses nothing any more: the plane decides how to wait",
    ),
];

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
        } else if let Some(key) = CONFIG.iter().find(|key| key.name == *word) {
            set(key.name, rest)
        } else if let Some((_, why)) = NO_EFFECT.iter().find(|(name, _)| name == word) {
            Ok(Self::Nothing(format!("`{word}` {why}")))
        } else {
            Err(why_not(word).ok_or_else(|| unknown(word))?)
        };
        parsed.map(Some).map_err(CommandFault::Refused)
    }
}

/// Every word that may begin a command.
fn known_words() -> impl Iterator<Item = &'static str> {
    let commands = COMMANDS.iter().map(|(name, _)| *name);
    commands
        .chain(CONFIG.iter().map(|key| key.name))
        .chain(PROXY.iter().copied())
}

fn unknown(word: &str) -> CommandFault {
    CommandFault::Unknown {
        word: shown(word),
        hint: did_you_mean(word, known_words()),
    }
}

/// Why a command of Pen's is refused; `None` if Pen never had it.
fn why_not(word: &str) -> Option<String> {
    if let Some((_, why)) = NOT_YET.iter().find(|(name, _)| *name == word) {
        return Some(format!("`{word}` is refused: {why}"));
    }
    PROXY
        .contains(&word)
        .then(|| format!("`{word}` belongs to proxy mode, which isn't there yet: leave it out"))
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

fn no(words: &[&str]) -> Result<Command, String> {
    let known = || {
        NO_EFFECT
            .iter()
            .map(|(name, _)| *name)
            .chain(PROXY.iter().copied())
    };
    match words {
        ["roundrobin"] => Ok(Command::RoundRobin(false)),
        // Pen's lists take a number, its other switches nothing.
        ["acl", ..] | ["client_acl" | "control_acl" | "tarpit_acl"] => Ok(Command::Nothing(
            format!("`no {}`: there are no access lists", words[0]),
        )),
        [word] if known().any(|known| known == *word) => Ok(Command::Nothing(format!(
            "`no {word}`: it is off in DSR anyway"
        ))),
        [word, ..] => {
            let hint = did_you_mean(word, known().chain(["roundrobin"]));
            Err(format!(
                "there is no `{}` to be turned off by `no`{hint}",
                shown(word)
            ))
        }
        [] => Err("`no` what? For instance: no roundrobin".to_owned()),
    }
}

fn server(words: &[&str]) -> Result<Command, String> {
    let Some((server, words)) = words.split_first() else {
        return Err("server takes a number or name, then KEY VALUE: server 0 weight 2".to_owned());
    };
    let server = match server.bytes().all(|b| b.is_ascii_digit()) {
        true => ServerRef::Index(parse_number(
            "server",
            &shown(server),
            0..=BACKENDS_PER_POOL_MAX - 1,
        )?),
        false => ServerRef::Name((*server).to_owned()),
    };
    if words.is_empty() {
        return Err("server: nothing to change: server 0 weight 2".to_owned());
    }
    let changes = words.chunks(2).map(|pair| match pair {
        [key, value] => change(key, value),
        _ => Err(format!("server: {:?} has no value", shown(pair[0]))),
    });
    Ok(Command::Server(server, changes.collect::<Result<_, _>>()?))
}

fn change(key: &str, value: &str) -> Result<Change, String> {
    const KEYS: &[&str] = &[
        "address",
        "port",
        "max",
        "hard",
        "blacklist",
        "weight",
        "prio",
    ];
    let number = || parse_number(key, value, 0..=u32::MAX);
    match key {
        "address" => read_host(Given::Word(value)).map(Change::Address),
        "port" => parse_port(value).map(Change::Port),
        "max" => number().map(Change::Max),
        "hard" => number().map(Change::Hard),
        "blacklist" => number().map(Change::Blacklist),
        "weight" => parse_number(key, value, 0..=u16::MAX).map(Change::Weight),
        "prio" => number().map(Change::Prio),
        "acl" => Err("server: `acl` is refused: access lists aren't there yet".to_owned()),
        _ => {
            let hint = did_you_mean(key, KEYS.iter().copied());
            Err(format!("server: there is no key `{}`{hint}", shown(key)))
        }
    }
}
