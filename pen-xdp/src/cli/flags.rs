//! The flags themselves: letters, long names, help.

use clap::{Arg, ArgAction, Command, ValueHint, builder::PossibleValuesParser};
use pen_common::config::ConfigForm;

const USAGE: &str = "pen [OPTIONS] [HOST:]PORT|/PATH BACKEND[:PORT:MAX:HARD:WEIGHT:PRIO]...
       pen [OPTIONS] -O \"dsr_if IF\" VIP[:PORT] BACKEND[:PORT:MAX:HARD:WEIGHT:PRIO]...
       pen --config FILE [--check]
       pen [OPTIONS] --print-config toml|commands ...
       pen --detach IF";

const AFTER_HELP: &str = "\
Examples of proxies, for TCP, UDP and HTTP:
  pen 80 web1 web2
  pen -U 53 ns1 ns2
  pen -H 80 web1 web2
  pen -H -O \"redirect https\" 80
  pen -H -E cert.pem -K key.pem 443 web1:80 web2:80
  pen -f -r -e sorry:8080 192.0.2.80:80 web1:8080 web2:8080
  pen -h -O \"acl 1 permit 10.0.0.0/8\" -O \"client_acl 1\" 5432 '[2001:db8::1]:5432' db2
  pen /run/db.sock db1:5432

Examples of DSR, which needs an interface and VIPs of its own:
  pen -f -O \"dsr_if eth1\" -r 192.0.2.80:80 web1 web2
  pen -df -O \"dsr_if eth1\" -r '[2001:db8::80]:80' '[2001:db8::1]' '[2001:db8::2]'

For many services, of both kinds:
  pen --config /etc/pen/pen.toml --check

From a line of Pen's to such a file, and back:
  pen --print-config toml -r -F pen.cfg 80 web1 web2
  pen --print-config commands --config pen.toml

A proxy at PORT alone listens on all addresses, IPv4 and IPv6; a BACKEND without PORT has that of the
proxy. In DSR, PORT 0, or none, stands for all ports. A weight of 0 in BACKEND, or none, counts as 1 (Pen's -W gave such a server no
clients); `-O \"server 0 weight 0\"` and `weight = 0` in TOML mean no new clients.";

/// A flag of Pen's that sets a key of a service in proxy mode.
pub(super) struct ProxyFlag {
    /// Its letter.
    pub(super) short: &'static str,
    /// Its long name, which is its id, too.
    pub(super) long: &'static str,
    /// What its value is called, or the value that it stands for.
    pub(super) value: Result<&'static str, &'static str>,
    /// The key that it sets.
    pub(super) key: &'static str,
    /// Why lines for DSR may carry it without effect; the others would be believed in vain.
    pub(super) idle_in_dsr: Option<&'static str>,
    help: &'static str,
}

/// Those that choose a server: all set one key.
const fn balance(
    short: &'static str,
    long: &'static str,
    word: &'static str,
    help: &'static str,
) -> ProxyFlag {
    ProxyFlag {
        short,
        long,
        value: Err(word),
        key: "balance",
        idle_in_dsr: None,
        help,
    }
}

/// All of them, in the order of the help.
pub(super) const PROXY_FLAGS: &[ProxyFlag] = &[
    balance(
        "-h",
        "hash",
        "hash",
        "Choose by the client's address (this text is --help)",
    ),
    balance(
        "-W",
        "weight",
        "weight",
        "Choose the server with the fewest connections for its weight",
    ),
    balance(
        "-s",
        "stubborn",
        "stubborn",
        "Give a client no other server than the one chosen first",
    ),
    ProxyFlag {
        short: "-t",
        long: "timeout",
        value: Ok("SECONDS"),
        key: "timeout",
        idle_in_dsr: None,
        help: "How long a connection to a server may take [default: 3]",
    },
    ProxyFlag {
        short: "-b",
        long: "blacklist",
        value: Ok("SECONDS"),
        key: "blacklist",
        idle_in_dsr: None,
        help: "How long a server gets no clients after a failed connection [default: 30]",
    },
    ProxyFlag {
        short: "-T",
        long: "tracking",
        value: Ok("SECONDS"),
        key: "tracking",
        idle_in_dsr: None,
        help: "How long a client's server is remembered; 0 is for ever [default: 0]",
    },
    ProxyFlag {
        short: "-c",
        long: "clients-max",
        value: Ok("N"),
        key: "clients_max",
        idle_in_dsr: Some("DSR keeps no table of clients"),
        help: "Clients that are remembered [default: 2048]",
    },
    ProxyFlag {
        short: "-x",
        long: "conn-max",
        value: Ok("N"),
        key: "conn_max",
        idle_in_dsr: Some("DSR counts no connections"),
        help: "Connections at the same time [default: 10000]",
    },
    ProxyFlag {
        short: "-q",
        long: "backlog",
        value: Ok("N"),
        key: "backlog",
        idle_in_dsr: Some("DSR takes no connections"),
        help: "Clients that the kernel keeps waiting [default: 500]",
    },
    ProxyFlag {
        short: "-e",
        long: "emergency",
        value: Ok("SERVER"),
        key: "emergency",
        idle_in_dsr: None,
        help: "Who serves when no server can",
    },
    ProxyFlag {
        short: "-B",
        long: "abuse",
        value: Ok("SERVER"),
        key: "abuse",
        idle_in_dsr: None,
        help: "Who serves clients that client_acl denies; without one they are refused",
    },
    ProxyFlag {
        short: "-H",
        long: "http",
        value: Err("http"),
        key: "mode",
        idle_in_dsr: None,
        help: "HTTP: each request is passed on for itself, with X-Forwarded-For",
    },
    ProxyFlag {
        short: "-l",
        long: "log",
        value: Ok("FILE"),
        key: "log",
        idle_in_dsr: None,
        help: "Add a line to FILE for each connection or request; ADDRESS:PORT is penlogd's",
    },
    ProxyFlag {
        short: "-E",
        long: "certificate",
        value: Ok("FILE"),
        key: "certificate",
        idle_in_dsr: None,
        help: "Speak TLS to clients, with this certificate and its chain (PEM)",
    },
    ProxyFlag {
        short: "-K",
        long: "key",
        value: Ok("FILE"),
        key: "key",
        idle_in_dsr: None,
        help: "The certificate's key [default: it is in the certificate's file]",
    },
    ProxyFlag {
        short: "-G",
        long: "chain",
        value: Ok("FILE"),
        key: "chain",
        idle_in_dsr: None,
        help: "More of the certificate's chain (PEM), to be sent behind it",
    },
    ProxyFlag {
        short: "-R",
        long: "require-client-certificate",
        value: Err("required"),
        key: "client_certificate",
        idle_in_dsr: None,
        help: "Serve clients only that show a certificate of client_ca or -A, without both of -G",
    },
    ProxyFlag {
        short: "-A",
        long: "client-ca-path",
        value: Ok("DIR"),
        key: "client_ca_path",
        idle_in_dsr: None,
        help: "Folder with authorities of clients' certificates",
    },
];

/// Flags of Pen's for what isn't there, which nobody must believe in vain: letter, whether a value
/// follows, what it would do, why it is refused.
pub(super) const REFUSED_FLAGS: &[(&str, bool, &str, &str)] = &[
    ("-i", true, "Windows service", "is not for Linux"),
    (
        "-N",
        false,
        "in Pen's usage text",
        "isn't a flag of Pen's either, which refused it: leave it out",
    ),
    (
        "-L",
        true,
        "TLS protocol",
        "chooses nothing: TLS 1.2 and 1.3 are spoken, and by -O \"ssl_option no_tlsv1.2\" 1.3 alone",
    ),
    (
        "-Z",
        false,
        "OpenSSL workarounds",
        "isn't there: clients that need these speak nothing that is safe",
    ),
];

/// Confines nobody who stays root, so that it is refused without `-u`.
pub(super) const CHROOT: &str = "-j";

/// Value of `-u` that asks for nothing: it was needed for a control port as root.
pub(super) const STAY: (&str, &str) = ("user", "root");

/// Flags of Pen's on which nothing depends any more, in DSR or as a proxy: flag, whether a value
/// follows, why.
pub(super) const IDLE_FLAGS: &[(&str, bool, &str)] = &[
    ("-a", false, "there are no dumps"),
    (
        CHROOT,
        true,
        "the process that serves as another user opens no files itself",
    ),
    ("-m", true, "batches are of a fixed size"),
    ("-D", false, OBSOLETE),
    ("-n", false, OBSOLETE),
    ("-P", false, "how to wait for sockets is chosen by itself"),
    ("-Q", false, OBSOLETE),
    ("-S", true, OBSOLETE),
];

const OBSOLETE: &str = "it was obsolete in Pen already";

/// The whole command line, as the parser and the manual know it.
pub fn command() -> Command {
    Command::new("pen")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Load balancer: a proxy for TCP, UDP and HTTP, or direct server return at layer 2 past the kernel")
        .override_usage(USAGE)
        .after_help(AFTER_HELP)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .args(hidden_flags())
        .arg(
            Arg::new("operands")
                .value_name("LISTEN BACKEND...")
                .num_args(0..)
                .action(ArgAction::Append)
                .help("Where clients connect to, then who serves them; IPv6 in brackets"),
        )
        .next_help_heading("What is served")
        .args(what_is_served())
        .next_help_heading("Proxies")
        .args(PROXY_FLAGS.iter().filter(|flag| !of_tls(flag)).map(proxy_flag))
        .next_help_heading("TLS to clients")
        .args(PROXY_FLAGS.iter().filter(|flag| of_tls(flag)).map(proxy_flag))
        .next_help_heading("How it runs")
        .args(how_it_runs())
        .next_help_heading("Instead of running")
        .args(instead_of_running())
}

/// A flag without a value.
fn switch(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).action(ArgAction::SetTrue).help(help)
}

/// A flag with one value; the last one counts. As with getopt the next word is the value, also one
/// that begins with a hyphen.
fn value(id: &'static str, name: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(id).value_name(name).help(help);
    arg.allow_hyphen_values(true)
}

fn of_tls(flag: &ProxyFlag) -> bool {
    ["-E", "-K", "-G", "-R", "-A"].contains(&flag.short)
}

fn proxy_flag(flag: &ProxyFlag) -> Arg {
    let arg = match flag.value {
        Ok(name) => value(flag.long, name, flag.help),
        Err(_) => switch(flag.long, flag.help),
    };
    // Lines that were accepted with a file stay accepted.
    let arg = match flag.idle_in_dsr {
        None => arg.conflicts_with_all(["config", "detach"]),
        Some(_) => arg,
    };
    arg.short(flag.short.chars().nth(1)).long(flag.long)
}

fn what_is_served() -> [Arg; 5] {
    let commands = "Run a command at start, such as \"dsr_if eth1\" (repeatable; also -o)";
    let file = "Read commands from a file, one a line, after those of -O";
    let flow = "Take turns and remember no client; in DSR choose by the whole flow, not by the \
                client's address alone";
    let toml = "Read everything from a TOML file: for many services";
    [
        value("command", "CMD", commands)
            .short('O')
            .short_alias('o')
            .long("command")
            .action(ArgAction::Append),
        value("file", "FILE", file)
            .short('F')
            .long("file")
            .value_hint(ValueHint::FilePath),
        switch("roundrobin", flow).short('r').long("roundrobin"),
        switch("udp", "UDP instead of TCP").short('U').long("udp"),
        value("config", "FILE", toml)
            .long("config")
            .value_hint(ValueHint::FilePath)
            .conflicts_with_all(["operands", "command", "file", "roundrobin", "udp"]),
    ]
}

fn how_it_runs() -> [Arg; 11] {
    let drain = "How long connections may take to end when Pen stops [default: 0]";
    let run_dir = "Where Pen keeps what the next start must know [default: /run/pen]";
    let control = "Where Pen is asked while it runs: a socket's path (control_mode and control_owner say \
                   who may), or a port, on loopback without an ADDRESS (control_acl)";
    [
        switch("foreground", "Stay in the foreground")
            .short('f')
            .long("foreground"),
        switch("debug", "Log more (repeatable)")
            .short('d')
            .long("debug")
            .action(ArgAction::Count),
        value("control", "PATH|[ADDRESS:]PORT", control)
            .short('C')
            .long("control"),
        value("pid_file", "FILE", "Write a pid file")
            .short('p')
            .long("pid-file"),
        value(
            "web_stats",
            "FILE",
            "Write an HTML status page there at SIGUSR1, and when asked for `status`",
        )
        .short('w')
        .long("web-stats")
        .value_hint(ValueHint::FilePath),
        value("user", "USER", "Go on as this user, with its groups")
            .short('u')
            .long("user"),
        switch(
            "allow_exit",
            "Let the command exit stop Pen, as SIGTERM does",
        )
        .short('X')
        .long("allow-exit"),
        value("drain_timeout", "SECONDS", drain).long("drain-timeout"),
        value(
            "on_stop",
            "detach|keep",
            "What DSR does when Pen stops [default: detach]",
        )
        .long("on-stop"),
        value("bpffs", "DIR", "BPF file system [default: /sys/fs/bpf]").long("bpffs"),
        value("run_dir", "DIR", run_dir).long("run-dir"),
    ]
}

fn instead_of_running() -> [Arg; 5] {
    let others = [
        "config",
        "operands",
        "command",
        "file",
        "roundrobin",
        "udp",
        "check",
        "print_config",
    ];
    let print = "Write the configuration, without its defaults, as a TOML file or as commands for \
                 -F, and exit";
    let detach = "Clean an interface of what a daemon left there, and exit";
    [
        switch("check", "Validate the configuration and exit").long("check"),
        value("print_config", "FORM", print)
            .long("print-config")
            .value_parser(PossibleValuesParser::new(
                ConfigForm::ALL.iter().map(|form| form.word()),
            ))
            .conflicts_with("check"),
        value("detach", "IF", detach)
            .long("detach")
            .conflicts_with_all(others),
        switch("help", "Show this and exit")
            .long("help")
            .action(ArgAction::Help),
        switch("version", "Show the version and exit")
            .long("version")
            .action(ArgAction::Version),
    ]
}

/// Known to the parser so that `-df -S 2` splits rightly and a refusal can name what is refused.
fn hidden_flags() -> impl Iterator<Item = Arg> {
    let refused = REFUSED_FLAGS
        .iter()
        .map(|(flag, takes_value, ..)| (*flag, *takes_value));
    let idle = IDLE_FLAGS
        .iter()
        .map(|(flag, takes_value, _)| (*flag, *takes_value));
    refused.chain(idle).map(|(flag, takes_value)| {
        let action = if takes_value {
            ArgAction::Set
        } else {
            ArgAction::SetTrue
        };
        Arg::new(flag)
            .short(flag.chars().nth(1))
            .action(action)
            .allow_hyphen_values(takes_value)
            .hide(true)
    })
}
