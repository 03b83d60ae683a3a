//! The flags themselves: letters, long names, help.

use clap::{Arg, ArgAction, Command, ValueHint};

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

/// Flags of Pen's that belong to proxy mode: letter, whether a value follows, what it would do.
pub(super) const PROXY_FLAGS: &[(&str, bool, &str)] = &[
    ("-b", true, "blacklist time"),
    ("-e", true, "emergency server"),
    ("-h", false, "hash of the client's address (help is --help)"),
    ("-i", true, "Windows service"),
    ("-l", true, "request log"),
    ("-s", false, "stubborn"),
    ("-t", true, "connect timeout"),
    ("-w", true, "HTML status page"),
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

/// Flags of Pen's that would restrict what the process may do, which nobody must believe in vain:
/// letter, whether a value follows, what it would do.
pub(super) const LATER_FLAGS: &[(&str, bool, &str)] =
    &[("-j", true, "chroot"), ("-u", true, "switch user")];

/// Value of `-u` that asks for nothing: it was needed for a control port as root.
pub(super) const STAY: (&str, &str) = ("-u", "root");

/// Flags of Pen's that lines for DSR carry though nothing depended on them there, or does now:
/// flag, whether a value follows, why.
pub(super) const IDLE_FLAGS: &[(&str, bool, &str)] = &[
    ("-a", false, "there are no dumps"),
    ("-c", true, "DSR keeps no table of clients"),
    ("-m", true, "frames are taken in batches of a fixed size"),
    ("-q", true, "DSR takes no connections"),
    ("-x", true, "DSR counts no connections"),
];

/// Flags of Pen's that are accepted and do nothing: flag, whether a value follows.
pub(super) const OBSOLETE_FLAGS: &[(&str, bool)] = &[
    ("-D", false),
    ("-n", false),
    ("-P", false),
    ("-Q", false),
    ("-S", true),
];

/// The whole command line.
pub(super) fn command() -> Command {
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
        .args(what_is_served())
        .next_help_heading("How it runs")
        .args(how_it_runs())
        .next_help_heading("Instead of running")
        .args(instead_of_running())
}

/// A flag without a value.
fn switch(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id).action(ArgAction::SetTrue).help(help)
}

/// A flag with one value; the last one counts.
fn value(id: &'static str, name: &'static str, help: &'static str) -> Arg {
    Arg::new(id).value_name(name).help(help)
}

fn what_is_served() -> [Arg; 5] {
    let commands = "Run a command at start, such as \"dsr_if eth1\" (repeatable; also -o)";
    let file = "Read commands from a file, one a line, after those of -O";
    let flow = "Choose by the whole flow, not by the client's address alone";
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

fn how_it_runs() -> [Arg; 6] {
    let run_dir = "Where Pen keeps what the next start must know [default: /run/pen]";
    [
        switch("foreground", "Stay in the foreground")
            .short('f')
            .long("foreground"),
        switch("debug", "Log more (repeatable)")
            .short('d')
            .long("debug")
            .action(ArgAction::Count),
        value("control", "PATH", "Path of the control socket")
            .short('C')
            .long("control"),
        value("pid_file", "FILE", "Write a pid file")
            .short('p')
            .long("pid-file"),
        value("bpffs", "DIR", "BPF file system [default: /sys/fs/bpf]").long("bpffs"),
        value("run_dir", "DIR", run_dir).long("run-dir"),
    ]
}

fn instead_of_running() -> [Arg; 4] {
    let others = [
        "config",
        "operands",
        "command",
        "file",
        "roundrobin",
        "udp",
        "check",
    ];
    let detach = "Clean an interface of what a daemon left there, and exit";
    [
        switch("check", "Validate the configuration and exit").long("check"),
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
    let proxy = PROXY_FLAGS
        .iter()
        .chain(LATER_FLAGS)
        .chain(IDLE_FLAGS)
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
