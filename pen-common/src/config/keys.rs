//! Every key of a configuration: its name, what it means, how it is read and written back.
//!
//! The TOML file and the commands share these tables, so that a key exists in both or in none.

use std::path::PathBuf;

use ::toml::Value;

use super::acl::parse_acl_lines;
use super::address::{check_host, check_path};
use super::given::Given;
use super::nearest::did_you_mean;
use super::service_keys::SERVICE;
use super::{
    ACLS_MAX, AclLine, Backend, Config, ControlAt, Mode, Pool, RING_SIZE_MAX, RING_SIZE_MIN,
    TABLE_MEMORY_MAX, TABLE_MEMORY_MIN, TABLE_SIZE_MAX, TABLE_SIZE_MIN, WORKERS_MAX, Workers,
};

/// One key of a `T`.
pub(crate) struct Key<T> {
    /// How it is written.
    pub(crate) name: &'static str,
    /// What it means, for the list of keys in the documentation.
    pub(crate) help: &'static str,
    /// Takes a value; called once for each element if the key takes a list.
    pub(crate) read: fn(&mut T, Given<'_>) -> Result<(), String>,
    /// The value as TOML; `None` if it is unset.
    pub(crate) write: fn(&T) -> Option<Value>,
    /// Whether a list of values may stand there.
    pub(crate) list: bool,
    /// The only mode of a service in which it means something; see [`Mode::knows`] for UDP and HTTP.
    pub(crate) only: Option<Mode>,
}

/// A key for one value; the closure gets the key's name for its messages.
macro_rules! key {
    ($name:literal, $help:literal, $read:expr, $write:expr) => {
        Key {
            name: $name,
            help: $help,
            read: $read,
            write: $write,
            list: false,
            only: None,
        }
    };
    ($mode:expr, $name:literal, $help:literal, $read:expr, $write:expr) => {
        Key {
            only: Some($mode),
            ..key!($name, $help, $read, $write)
        }
    };
}
pub(crate) use key;

pub(crate) fn text(text: impl ToString) -> Option<Value> {
    Some(Value::String(text.to_string()))
}

pub(crate) fn number(number: impl Into<i64>) -> Option<Value> {
    Some(Value::Integer(number.into()))
}

pub(crate) fn path(path: &std::path::Path) -> Option<Value> {
    text(path.display())
}

/// The word that takes a value away.
pub(super) const OFF: &str = "off";

/// Keys of the top level. Each is a command, too: `-O "plane xdp"`.
pub(crate) const CONFIG: &[Key<Config>] = &[
    key!(
        "interface",
        "interface that carries the VIPs (Pen's command: dsr_if)",
        |c, given| given
            .text("interface")
            .map(|name| name.clone_into(&mut c.interface)),
        |c| text(&c.interface)
    ),
    key!(
        "plane",
        "where frames are forwarded: auto, af_xdp, xdp or af_packet",
        |c, given| given.word("plane").map(|plane| c.plane = plane),
        |c| text(c.plane)
    ),
    key!(
        "xdp_mode",
        "how the XDP program is attached: auto, native or generic",
        |c, given| given.word("xdp_mode").map(|mode| c.xdp_mode = mode),
        |c| text(c.xdp_mode)
    ),
    key!(
        "busy",
        "whether workers spin: auto (while there is traffic), always or never",
        |c, given| given.word("busy").map(|busy| c.busy = busy),
        |c| text(c.busy)
    ),
    key!(
        "workers",
        "how many workers serve the queues: auto or a number",
        |c, given| read_workers(c, given),
        |c| match c.workers {
            Workers::Auto => text("auto"),
            Workers::Count(count) => number(count),
        }
    ),
    key!(
        "zero_copy",
        "whether AF_XDP sockets are bound without copying: auto or never",
        |c, given| given.word("zero_copy").map(|wanted| c.zero_copy = wanted),
        |c| text(c.zero_copy)
    ),
    key!(
        "multi_buffer",
        "whether frames larger than one buffer are taken (jumbo frames): auto or never",
        |c, given| given
            .word("multi_buffer")
            .map(|wanted| c.multi_buffer = wanted),
        |c| text(c.multi_buffer)
    ),
    key!(
        "ring_size",
        "descriptors in each ring of a queue: a power of two",
        |c, given| {
            given
                .number("ring_size", RING_SIZE_MIN..=RING_SIZE_MAX)
                .map(|size| c.ring_size = size)
        },
        |c| number(c.ring_size)
    ),
    key!(
        "seed",
        "key of the flow hash: a number or any text; machines that share it choose alike",
        |c, given| read_seed(given).map(|seed| c.seed = seed),
        |c| text(format!("{:#018x}", c.seed))
    ),
    key!(
        "finish_checksums",
        "whether checksums that the sender left to the hardware are finished: true or false",
        |c, given| given
            .flag("finish_checksums")
            .map(|flag| c.finish_checksums = flag),
        |c| Some(Value::Boolean(c.finish_checksums))
    ),
    key!(
        "table_memory",
        "bytes for the tables of all pools, fixed at start; 64MiB and the like are understood",
        |c, given| read_bytes(given).map(|bytes| c.table_memory = Some(bytes)),
        |c| c
            .table_memory
            .and_then(|bytes| i64::try_from(bytes).ok())
            .and_then(number)
    ),
    key!(
        "control",
        "where Pen is asked while it runs (-C): a socket's path, ADDRESS:PORT, or PORT on loopback",
        |c, given| read_control(given).map(|at| c.control = Some(at)),
        |c| c.control.as_ref().and_then(text)
    ),
    key!(
        "control_mode",
        "mode of the control socket's file, in octal digits; \"0600\" if left out",
        |c, given| read_control_mode(given).map(|mode| c.control_mode = mode),
        |c| text(format!("{:04o}", c.control_mode))
    ),
    key!(
        "control_owner",
        "whose the control socket's file is: USER, USER:GROUP or :GROUP",
        |c, given| {
            let owner = given.text("control_owner")?.parse();
            owner
                .map(|owner| c.control_owner = Some(owner))
                .map_err(|why: String| format!("control_owner = {given} {why}"))
        },
        |c| c.control_owner.as_ref().and_then(text)
    ),
    key!(
        "control_acl",
        "number of the access list of those who may come to a control port; 0 if left out",
        |c, given| read_acl_number("control_acl", given).map(|acl| c.control_acl = acl),
        |c| number(c.control_acl)
    ),
    key!(
        "tarpit_acl",
        "number of the access list of addresses that nobody has: Pen answers for what its lines permit, \
         and who connects there hangs; -1, if left out, is none",
        |c, given| read_tarpit_acl(given).map(|acl| c.tarpit_acl = acl),
        |c| number(c.tarpit_acl.map_or(-1, i64::from))
    ),
    key!(
        "pid_file",
        "path of the pid file (-p)",
        |c, given| given.path("pid_file").map(|path| c.pid_file = Some(path)),
        |c| c.pid_file.as_deref().and_then(path)
    ),
    key!(
        "foreground",
        "whether to stay in the foreground (-f): true or false",
        |c, given| given.flag("foreground").map(|flag| c.foreground = flag),
        |c| Some(Value::Boolean(c.foreground))
    ),
    key!(
        "debug",
        "how much is logged (-d adds one): 0 to 255",
        |c, given| given
            .number("debug", 0..=u8::MAX)
            .map(|level| c.debug = level),
        |c| number(c.debug)
    ),
    key!(
        "user",
        "who Pen goes on as when it has been started as root (-u), with this user's groups",
        |c, given| given
            .text("user")
            .map(|user| c.user = Some(user.to_owned())),
        |c| c.user.as_deref().and_then(text)
    ),
    key!(
        "allow_exit",
        "whether the command exit stops Pen (-X): true or false",
        |c, given| given.flag("allow_exit").map(|flag| c.allow_exit = flag),
        |c| Some(Value::Boolean(c.allow_exit))
    ),
    key!(
        "drain_timeout",
        "seconds that connections may take to end when Pen stops; 0, if left out, ends them at once",
        |c, given| given
            .number("drain_timeout", 0..=u32::MAX)
            .map(|seconds| c.drain_timeout = seconds),
        |c| number(c.drain_timeout)
    ),
    key!(
        "on_stop",
        "what DSR does when Pen stops: detach, or keep forwarding until the next Pen takes over",
        |c, given| given.word("on_stop").map(|on_stop| c.on_stop = on_stop),
        |c| text(c.on_stop)
    ),
    key!(
        "web_stats",
        "file that the HTML status page is written to at SIGUSR1 (-w), or off",
        |c, given| read_web_stats(given).map(|file| c.web_stats = file),
        |c| c.web_stats.as_deref().and_then(path)
    ),
    key!(
        "bpffs",
        "where the BPF file system is mounted",
        |c, given| given.path("bpffs").map(|path| c.bpffs = path),
        |c| path(&c.bpffs)
    ),
    key!(
        "run_dir",
        "where Pen keeps what the next start must know",
        |c, given| given.path("run_dir").map(|path| c.run_dir = path),
        |c| path(&c.run_dir)
    ),
];

/// An access list as its table describes it.
#[derive(Default)]
pub(crate) struct NumberedAcl {
    pub(crate) number: Option<u8>,
    pub(crate) lines: Vec<AclLine>,
}

/// Keys of an `[[acl]]`.
pub(crate) const ACL: &[Key<NumberedAcl>] = &[
    key!(
        "number",
        "0 to 9: what client_acl and acl name it by",
        |a, given| read_acl_number("number", given).map(|number| a.number = Some(number)),
        |a| a.number.and_then(number)
    ),
    Key {
        name: "lines",
        help: "a list of \"permit WHO\" and \"deny WHO\", WHO being IP, IP/LENGTH, IP MASK or all; \
               the first that matches decides, else the opposite of the last",
        read: |a, given| {
            let words: Vec<&str> = given.text("lines")?.split_ascii_whitespace().collect();
            a.lines.extend(parse_acl_lines(&words)?);
            Ok(())
        },
        write: |a| Some(Value::Array(a.lines.iter().filter_map(text).collect())),
        list: true,
        only: None,
    },
];

/// Keys of a `[[pool]]`, its back ends apart.
pub(crate) const POOL: &[Key<Pool>] = &[
    key!(
        "name",
        "unique among pools",
        |p, given| given.text("name").map(|name| name.clone_into(&mut p.name)),
        |p| text(&p.name)
    ),
    key!(
        "table_size",
        "slots of its table: a prime; 65537 if left out",
        |p, given| {
            given
                .number("table_size", TABLE_SIZE_MIN..=TABLE_SIZE_MAX)
                .map(|size| p.table_size = size)
        },
        |p| number(p.table_size)
    ),
];

/// Keys of a back end.
pub(crate) const BACKEND: &[Key<Backend>] = &[
    key!(
        "name",
        "unique in its pool, its identity over restarts; the address as written if left out",
        |b, given| given.text("name").map(|name| name.clone_into(&mut b.name)),
        |b| text(&b.name)
    ),
    key!(
        "address",
        "address or host name; in proxy mode also the path of a Unix socket",
        |b, given| read_host(given).map(|host| b.host = host),
        |b| text(&b.host)
    ),
    key!(
        "port",
        "that of the VIP if left out; in DSR another one is refused: it can't translate ports",
        |b, given| given.number("port", 0..=u16::MAX).map(|port| b.port = port),
        |b| number(b.port)
    ),
    key!(
        "weight",
        "share of new flows; 0 takes none; 1 if left out",
        |b, given| given
            .number("weight", 0..=u16::MAX)
            .map(|weight| b.weight = weight),
        |b| number(b.weight)
    ),
    key!(
        "max",
        "soft connection limit, for proxy mode",
        |b, given| given.number("max", 0..=u32::MAX).map(|max| b.max = max),
        |b| number(b.max)
    ),
    key!(
        "hard",
        "hard connection limit, for proxy mode",
        |b, given| given.number("hard", 0..=u32::MAX).map(|hard| b.hard = hard),
        |b| number(b.hard)
    ),
    key!(
        "prio",
        "priority, lower wins, for proxy mode",
        |b, given| given.number("prio", 0..=u32::MAX).map(|prio| b.prio = prio),
        |b| number(b.prio)
    ),
    key!(
        "blacklist",
        "seconds from start during which it takes no new flows",
        |b, given| given
            .number("blacklist", 0..=u32::MAX)
            .map(|time| b.blacklist = time),
        |b| number(b.blacklist)
    ),
    key!(
        "acl",
        "number of the access list of those that it serves, for proxy mode",
        |b, given| read_acl_number("acl", given).map(|acl| b.acl = acl),
        |b| number(b.acl)
    ),
];

impl Config {
    /// Sets a key of the top level to a value in words, as a command or a flag gives it.
    ///
    /// # Errors
    /// A sentence that names the key, the value and what may stand there.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match CONFIG.iter().find(|known| known.name == key) {
            Some(known) => (known.read)(self, Given::Word(value)),
            None => {
                let hint = did_you_mean(key, CONFIG.iter().map(|known| known.name));
                Err(format!("unknown key `{key}`{hint}"))
            }
        }
    }

    /// What Pen answers to the command `key` without a value; empty if the key is unset.
    pub fn shown(&self, key: &str) -> String {
        let known = CONFIG.iter().find(|known| known.name == key);
        match known.and_then(|known| (known.write)(self)) {
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
            None => String::new(),
        }
    }
}

/// Names and meanings of all keys: top level, `[[acl]]`, `[[service]]`, `[[pool]]`, back end.
pub fn documented() -> [(&'static str, Vec<(&'static str, &'static str)>); 5] {
    fn pairs<T>(keys: &[Key<T>]) -> Vec<(&'static str, &'static str)> {
        keys.iter().map(|key| (key.name, key.help)).collect()
    }
    [
        ("", pairs(CONFIG)),
        ("acl", pairs(ACL)),
        ("service", pairs(SERVICE)),
        ("pool", pairs(POOL)),
        ("pool.backend", pairs(BACKEND)),
    ]
}

fn read_workers(config: &mut Config, given: Given<'_>) -> Result<(), String> {
    config.workers = match given {
        Given::Word("auto") | Given::Text("auto") => Workers::Auto,
        Given::Text(_) => return Err(format!("workers = {given} is neither auto nor a number")),
        Given::Word(_) | Given::Whole(_) | Given::Flag(_) => {
            Workers::Count(given.number("workers", 1..=WORKERS_MAX)?)
        }
    };
    Ok(())
}

/// A number, in decimal or as `0x...`, or any text, which is hashed (FNV-1a, 64 bits): the seed
/// is no secret, it only has to be the same where the text is.
fn read_seed(given: Given<'_>) -> Result<u64, String> {
    let text = match given {
        Given::Word(text) | Given::Text(text) => text,
        Given::Whole(_) | Given::Flag(_) => return given.number("seed", 0..=u64::MAX),
    };
    if text.is_empty() {
        return Err("seed = \"\" is empty: leave it out, or give a number or a text".to_owned());
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16)
            .map_err(|_| format!("seed = {text:?} is not a hexadecimal number of 64 bits"));
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Given::Word(text).number("seed", 0..=u64::MAX);
    }
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    Ok(text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// A number of bytes, or text such as `64MiB`.
fn read_bytes(given: Given<'_>) -> Result<u64, String> {
    let range = TABLE_MEMORY_MIN..=TABLE_MEMORY_MAX;
    let (Given::Word(text) | Given::Text(text)) = given else {
        return given.number("table_memory", range);
    };
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
    let bytes = units.iter().find_map(|(unit, shift)| {
        let count = text.strip_suffix(unit)?.trim_end();
        count.parse::<u64>().ok()?.checked_mul(1 << shift)
    });
    match bytes {
        Some(bytes) if range.contains(&bytes) => Ok(bytes),
        Some(_) => Err(format!(
            "table_memory = {text:?} is out of range ({TABLE_MEMORY_MIN}..={TABLE_MEMORY_MAX})"
        )),
        None => Err(format!(
            "table_memory = {text:?} is not a size: write bytes, or 64MiB"
        )),
    }
}

/// With a slash it is a path, as in Pen.
fn read_control(given: Given<'_>) -> Result<ControlAt, String> {
    let at = match given {
        Given::Whole(port) => port.to_string().parse(),
        Given::Word(_) | Given::Text(_) | Given::Flag(_) => given.text("control")?.parse(),
    };
    at.map_err(|why| format!("control = {given} {why}"))
}

/// Octal digits, in quotes: 660 without would be another number in TOML.
fn read_control_mode(given: Given<'_>) -> Result<u32, String> {
    let (Given::Word(digits) | Given::Text(digits)) = given else {
        return Err(format!(
            "control_mode = {given}: octal digits in quotes are wanted: \"0660\""
        ));
    };
    let octal = digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(digits, 8).ok();
    let mode = mode.filter(|mode| octal && (3..=4).contains(&digits.len()) && *mode <= 0o777);
    mode.ok_or_else(|| format!("control_mode = {given} is no mode of a file: write 0600 to 0777"))
}

/// A file; `off` is none.
fn read_web_stats(given: Given<'_>) -> Result<Option<PathBuf>, String> {
    match given {
        Given::Word(OFF) | Given::Text(OFF) => Ok(None),
        Given::Word(_) | Given::Text(_) | Given::Whole(_) | Given::Flag(_) => {
            given.path("web_stats").map(Some)
        }
    }
}

/// The number of an access list.
pub(crate) fn read_acl_number(key: &str, given: Given<'_>) -> Result<u8, String> {
    let number = given.number(key, 0..=ACLS_MAX - 1)?;
    Ok(u8::try_from(number).expect("ACLS_MAX fits one byte"))
}

/// The number of an access list, or Pen's word for none.
fn read_tarpit_acl(given: Given<'_>) -> Result<Option<u8>, String> {
    match given {
        Given::Whole(-1) | Given::Word("-1") => Ok(None),
        Given::Whole(_) | Given::Word(_) | Given::Text(_) | Given::Flag(_) => {
            read_acl_number("tarpit_acl", given).map(Some)
        }
    }
}

/// An address, with or without brackets, a host name, or the path of a Unix socket; the port has a
/// key of its own.
pub(crate) fn read_host(given: Given<'_>) -> Result<String, String> {
    let text = given.text("address")?;
    if text.contains('/') {
        return check_path(text)
            .map(|()| text.to_owned())
            .map_err(|why| format!("address: {why}"));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    match check_host(bare) {
        Ok(()) => Ok(bare.to_owned()),
        Err(_) if bare.contains(':') => Err(format!(
            "address = {text:?} is not an address; if a port is meant, write port = ... beside it"
        )),
        Err(why) => Err(format!("address: {why}")),
    }
}
