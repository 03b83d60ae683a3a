//! Pen's own form: operands, `-O` commands, `-F` files.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use pen_common::config::*;
use proptest::prelude::*;

/// A world of one host name and a few files.
#[derive(Default)]
struct World(HashMap<&'static str, String>);

impl World {
    fn with(files: &[(&'static str, &str)]) -> Self {
        Self(
            files
                .iter()
                .map(|(name, text)| (*name, (*text).to_owned()))
                .collect(),
        )
    }
}

impl Outside for World {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        match host {
            "web1" => Ok(vec![Ipv4Addr::new(10, 0, 0, 11).into()]),
            _ => Err("no such host".to_owned()),
        }
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        let found = path.to_str().and_then(|name| self.0.get(name));
        found.cloned().ok_or_else(|| "no such file".to_owned())
    }
}

/// A line with the interface given; `words` are operands, those that begin with `-O ` commands.
fn line(words: &[&str]) -> PenLine {
    let (commands, operands): (Vec<&str>, Vec<&str>) =
        words.iter().partition(|word| word.starts_with("-O "));
    let mut operands = operands.into_iter().map(str::to_owned);
    let commands = commands
        .into_iter()
        .map(|command| command["-O ".len()..].to_owned());
    PenLine {
        listen: operands.next(),
        servers: operands.collect(),
        commands: ["dsr_if eth1".to_owned()]
            .into_iter()
            .chain(commands)
            .collect(),
        ..PenLine::default()
    }
}

fn read(line: &PenLine) -> Result<Checked, ConfigErrors> {
    line.read(Config::default(), &World::default())
}

fn backends(checked: &Checked) -> &[Backend] {
    &checked.config().pools[0].backends
}

#[test]
fn the_authors_own_line() {
    // pen -df -O poll -O "dsr_if eth1" -S 2 -r 10.0.0.100:80 web1 10.0.0.12
    let mut line = line(&["10.0.0.100:80", "web1", "10.0.0.12", "-O poll"]);
    line.round_robin = true;
    let checked = read(&line).unwrap();
    let config = checked.config();
    assert_eq!(config.interface, "eth1");
    let service = &config.services[0];
    assert_eq!(
        (service.name.as_str(), service.pool.as_str()),
        (SERVICE_DEFAULT, SERVICE_DEFAULT)
    );
    assert_eq!(service.listeners[0].to_string(), "10.0.0.100:80");
    assert_eq!(
        (service.hash, service.mode, service.vlan),
        (HashBy::Flow, Mode::Dsr, None)
    );
    let names: Vec<&str> = backends(&checked).iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["web1", "10.0.0.12"]);
    assert_eq!(
        backends(&checked)[0].address,
        IpAddr::from(Ipv4Addr::new(10, 0, 0, 11))
    );
    let note = "-O \"poll\": `poll` chooses nothing any more: the plane decides how to wait";
    assert_eq!(checked.notes(), [note]);
}

#[test]
fn hash_and_protocol() {
    let mut line = line(&["10.0.0.100", "web1"]);
    let service = |line: &PenLine| read(line).unwrap().config().services[0].clone();
    assert_eq!(service(&line).hash, HashBy::Source);
    assert_eq!(service(&line).listeners[0].to_string(), "10.0.0.100:0");
    line.udp = true;
    assert_eq!(service(&line).listeners[0].to_string(), "10.0.0.100:0/udp");
    line.commands.push("roundrobin".to_owned());
    assert_eq!(service(&line).hash, HashBy::Flow);
    line.commands.push("no roundrobin".to_owned());
    assert_eq!(service(&line).hash, HashBy::Source);
}

#[test]
fn servers_by_position() {
    for (text, host, port, max, hard, weight, prio) in [
        ("web1", "web1", 0, 0, 0, 1, 0),
        ("10.0.0.11:80", "10.0.0.11", 80, 0, 0, 1, 0),
        ("10.0.0.11:80:5", "10.0.0.11", 80, 5, 0, 1, 0),
        ("10.0.0.11:80:5:6", "10.0.0.11", 80, 5, 6, 1, 0),
        ("10.0.0.11:80:0:0:3", "10.0.0.11", 80, 0, 0, 3, 0),
        ("10.0.0.11:0:10:20:2:1", "10.0.0.11", 0, 10, 20, 2, 1),
        ("10.0.0.11:0:0:0:0:7", "10.0.0.11", 0, 0, 0, 1, 7),
        ("[2001:db8::11]", "2001:db8::11", 0, 0, 0, 1, 0),
        ("[2001:db8::11]:80:0:0:4", "2001:db8::11", 80, 0, 0, 4, 0),
    ] {
        let checked = read(&line(&["10.0.0.100:80", text])).unwrap();
        let b = &backends(&checked)[0];
        assert_eq!(
            (b.host.as_str(), b.port, b.max, b.hard, b.weight, b.prio),
            (host, port, max, hard, weight, prio),
            "{text}"
        );
        assert_eq!(b.name, host, "{text}");
    }
}

#[test]
fn operands_that_are_refused() {
    for (words, expected) in [
        (
            &["80", "web1"][..],
            "\"80\" is a port without an address: DSR needs the VIP itself, ADDRESS:80",
        ),
        (&["/run/socket", "web1"], "\"/run/socket\" is a path"),
        (&[":::80", "web1"], "an IPv6 address is written in brackets"),
        (&["[2001:db8::1", "web1"], "the closing bracket is missing"),
        (
            &["[10.0.0.1]:80", "web1"],
            "\"10.0.0.1\" is not an IPv6 address",
        ),
        (&["[2001:db8::1]80", "web1"], "\"80\" follows the bracket"),
        (
            &["10.0.0.100:80:90", "web1"],
            "port = \"80:90\" is not a number",
        ),
        (&["10.0.0.100:", "web1"], "port = \"\" is not a number"),
        (&["0.0.0.0:80", "web1"], "0.0.0.0 can't be reached"),
        (&["127.0.0.1:80", "web1"], "127.0.0.1 can't be reached"),
        (&["[::ffff:10.0.0.1]:80", "web1"], "can't be reached"),
        (&["10.0.0.100:80"], "it has no back end: give at least one"),
        (
            &["10.0.0.100:80", "web9"],
            "back end \"web9\": host name \"web9\" does not resolve: no such host",
        ),
        (
            &["10.0.0.100:80", "web1:"],
            "server \"web1:\": port = \"\" is not a number",
        ),
        (
            &["10.0.0.100:80", "web1:80::3"],
            "server \"web1:80::3\": max = \"\" is not a number",
        ),
        (
            &["10.0.0.100:80", "web1::80"],
            "server \"web1::80\": port = \"\" is not a number",
        ),
        (
            &["10.0.0.100:80", "2001:db8::1"],
            "an IPv6 address is written in brackets",
        ),
        (
            &["10.0.0.100:80", "web1:80:0:0:65536"],
            "weight = 65536 is out of range (0..=65535)",
        ),
        (
            &["10.0.0.100:80", "web1:80:0:0:1:2:3"],
            "there is nothing after prio, but \"3\" follows",
        ),
        (
            &["10.0.0.100:80", "/run/web"],
            "a Unix socket can't be a back end in DSR",
        ),
        (
            &["10.0.0.100:80", "we b"],
            "\"we b\" is neither an address nor a host name",
        ),
        (&["10.0.0.100:80", ":80"], "the host is missing"),
        (
            &["10.0.0.100:80", "web1:8080"],
            "DSR forwards at layer 2 and can't translate ports",
        ),
        (
            &["10.0.0.100:80", "web1", "web1"],
            "two back ends of this name",
        ),
    ] {
        let errors = read(&line(words)).expect_err(words[0]).to_string();
        assert!(
            errors.contains(expected),
            "{words:?}\ngave: {errors}\nnot:  {expected}"
        );
    }
    let nothing = PenLine::default()
        .read(Config::default(), &World::default())
        .unwrap_err();
    assert!(
        nothing
            .to_string()
            .starts_with("no VIP: pen [options] VIP:PORT BACKEND"),
        "{nothing}"
    );
}

#[test]
fn server_commands_change_and_add() {
    let checked = read(&line(&[
        "10.0.0.100:80",
        "web1:80:0:0:5",
        "-O server 0 weight 0 max 3 hard 4 prio 6 blacklist 30",
        "-O server 1 address [2001:db8::2] port 80",
        "-O server web1 port 0",
    ]))
    .unwrap();
    let [first, second] = backends(&checked) else {
        panic!("two back ends")
    };
    assert_eq!(
        (first.weight, first.max, first.hard, first.prio),
        (0, 3, 4, 6)
    );
    assert_eq!((first.blacklist, first.port), (30, 0));
    assert_eq!(
        (second.name.as_str(), second.port, second.weight),
        ("2001:db8::2", 80, 1)
    );
}

#[test]
fn every_key_is_a_command() {
    let values = [
        ("interface", "eth9"),
        ("plane", "xdp"),
        ("xdp_mode", "generic"),
        ("busy", "never"),
        ("workers", "3"),
        ("zero_copy", "never"),
        ("multi_buffer", "never"),
        ("ring_size", "128"),
        ("seed", "site-a"),
        ("finish_checksums", "off"),
        ("table_memory", "32MiB"),
        ("control", "/run/ctl"),
        ("control_mode", "0660"),
        ("control_owner", "root:adm"),
        ("control_acl", "9"),
        ("tarpit_acl", "8"),
        ("pid_file", "/run/pid"),
        ("foreground", "on"),
        ("debug", "3"),
        ("user", "nobody"),
        ("allow_exit", "on"),
        ("drain_timeout", "30"),
        ("on_stop", "keep"),
        ("web_stats", "/pen.html"),
        ("bpffs", "/bpf"),
        ("run_dir", "/run/x"),
    ];
    let (_, keys) = &documented()[0];
    assert_eq!(
        keys.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
        values.map(|(key, _)| key)
    );
    let mut all = line(&["10.0.0.100:80", "web1"]);
    for (key, value) in values {
        all.commands.push(format!("{key} {value}"));
        let mut alone = line(&["10.0.0.100:80", "web1"]);
        let before = read(&alone).unwrap();
        alone.commands.push(format!("{key} {value}"));
        assert_ne!(
            read(&alone).unwrap().config(),
            before.config(),
            "{key} changed nothing"
        );
    }
    let config = read(&all).unwrap().config().clone();
    assert_eq!(
        (config.plane, config.workers),
        (Plane::Xdp, Workers::Count(3))
    );
    assert_eq!(
        (config.debug, config.foreground, config.finish_checksums),
        (3, true, false)
    );
    assert_eq!(config.control, "/run/ctl".parse().ok());
    // The same in TOML is the same.
    let again = Config::from_toml(&config.to_toml(), "t", &World::default()).unwrap();
    assert_eq!(again.config(), &config);
}

#[test]
fn commands_that_are_refused() {
    for (command, expected) in [
        (
            "srever 0 weight 1",
            "there is no command `srever`; did you mean `server`?",
        ),
        (
            "dsrif eth1",
            "there is no command `dsrif`; did you mean `dsr_if`?",
        ),
        (
            "plain xdp",
            "there is no command `plain`; did you mean `plane`?",
        ),
        ("xyzzy", "there is no command `xyzzy`"),
        ("dsr_if", "interface takes one value without blanks"),
        (
            "dsr_if eth1 eth2",
            "interface takes one value without blanks",
        ),
        ("dsr_if a/b", "\"a/b\" can't be the name of an interface"),
        (
            "plane xpd",
            "plane = \"xpd\" is none of auto, af_xdp, xdp, af_packet; did you mean `xdp`?",
        ),
        ("debug much", "debug = \"much\" is not a number (0..=255)"),
        ("debug 1 2", "debug takes one number"),
        ("include", "include takes one file name"),
        ("include /no/such", "can't read /no/such: no such file"),
        ("listen a b", "listen takes one VIP"),
        (
            "listen 10.0.0.101:80",
            "VIP 10.0.0.101:80 is the second after 10.0.0.100:80",
        ),
        ("server", "server takes a number or name"),
        ("server 0", "server: nothing to change"),
        ("server 0 weight", "server: \"weight\" has no value"),
        (
            "server 0 wieght 1",
            "server: there is no key `wieght`; did you mean `weight`?",
        ),
        (
            "server 0 weight 65536",
            "weight = 65536 is out of range (0..=65535)",
        ),
        ("server 0 weight -1", "weight = \"-1\" is not a number"),
        ("server 0 max x", "max = \"x\" is not a number"),
        ("server 0 acl 1", "`acl` of a back end means nothing in DSR"),
        ("server 0 acl 10", "acl = 10 is out of range (0..=9)"),
        (
            "server 0 address 10.0.0.1:80",
            "is not an address; if a port is meant, write port = ...",
        ),
        (
            "server 4096 weight 1",
            "server = 4096 is out of range (0..=4095)",
        ),
        ("server 99999999999999999999 weight 1", "out of range"),
        ("server web2 weight 1", "there is no server \"web2\""),
        (
            "server 2 address 10.0.0.12",
            "server 1 has no address: number servers from 0 without gaps",
        ),
        (
            "acl 1 permit 10.0.0.0/33",
            "the length = 33 is out of range",
        ),
        ("client_acl 10", "client_acl = 10 is out of range (0..=9)"),
        ("keepalive", "`keepalive` belongs to proxy mode"),
        ("timeout 3", "`timeout` belongs to proxy mode"),
        ("least", "`least` belongs to proxy mode"),
        ("tarpit_acl 10", "tarpit_acl = "),
        ("tarpit_acl off", "tarpit_acl = "),
        ("control_acl 10", "control_acl = "),
        (
            "control_mode 660x",
            "control_mode = \"660x\" is no mode of a file",
        ),
        (
            "control_mode 1777",
            "control_mode = \"1777\" is no mode of a file",
        ),
        (
            "control_owner :",
            "control_owner = \":\" is not USER, USER:GROUP or :GROUP",
        ),
        (
            "control host:80",
            "control = \"host:80\" is neither a path nor a port",
        ),
        ("exit now", "exit takes no argument, but \"now\" follows"),
        ("backlog 9", "`backlog` belongs to proxy mode"),
        ("emergency web1:80", "`emergency` belongs to proxy mode"),
        ("server add web2", "`server` with a word is for penctl"),
        (
            "config",
            "config takes show [toml|commands], diff, or save [FILE]",
        ),
        (
            "stubborn",
            "`stubborn` belongs to proxy mode, and dsr_if makes this DSR: leave out one of the two",
        ),
        ("weight", "`weight` belongs to proxy mode"),
        ("no", "`no` what?"),
        (
            "no roundrobn",
            "there is no `roundrobn` to be turned off by `no`; did you mean `roundrobin`?",
        ),
        (
            "roundrobin 1",
            "roundrobin takes no argument, but \"1\" follows",
        ),
    ] {
        let mut line = line(&["10.0.0.100:80", "web1"]);
        line.commands.push(command.to_owned());
        let errors = read(&line).expect_err(command).to_string();
        assert!(
            errors.contains(expected),
            "{command}\ngave: {errors}\nnot:  {expected}"
        );
        let places = [
            format!("-O {command:?}: "),
            "server 1 has no address".to_owned(),
        ];
        assert!(
            places.iter().any(|place| errors.starts_with(place)),
            "{errors}"
        );
    }
}

#[test]
fn commands_without_effect_are_noted() {
    for command in [
        "poll",
        "epoll",
        "select",
        "kqueue",
        "dsr_ip 10.0.0.1",
        "block",
        "no block",
        "delayed_forward",
        "no hash",
        "no stubborn",
        "no weight",
        "no prio",
        "no http",
        "no log",
        "no client_acl",
        "no keepalive",
        "no least",
        "no tcp_nodelay",
        "tcp_nodelay",
        "timeout",
        "client_acl",
        "tarpit_acl",
        "status",
        "servers",
        "counters",
        "mode",
        "pid",
        "control",
        "debug",
        "listen",
        "exit",
    ] {
        let mut line = line(&["10.0.0.100:80", "web1"]);
        let plain = read(&line).unwrap();
        line.commands.push(command.to_owned());
        let checked = read(&line).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(checked.config(), plain.config(), "{command}");
        assert_eq!(checked.notes().len(), 1, "{command}");
        assert!(
            checked.notes()[0].starts_with(&format!("-O {command:?}: ")),
            "{command}"
        );
    }
    assert_eq!(Command::parse("  "), Ok(None));
    assert_eq!(Command::parse("#server 0"), Ok(None));
    assert_eq!(Command::parse(" # server 0"), Ok(None));
}

#[test]
fn files_are_read_after_the_commands_and_name_their_lines() {
    let world = World::with(&[
        (
            "pen.cfg",
            "# a comment\n\nlisten 10.0.0.100:80\nserver 0 address web1\ninclude more\n",
        ),
        ("more", "debug 5\r\nserver 1 address 10.0.0.12\n"),
        ("circle", "include circle\n"),
        ("bad", "debug 1\nserver 0 wieght 2\nstubborn\n"),
        ("dead", "server 1 address web9\n"),
    ]);
    let mut line = PenLine {
        commands: vec!["dsr_if eth1".to_owned(), "debug 2".to_owned()],
        file: Some(PathBuf::from("pen.cfg")),
        ..PenLine::default()
    };
    let checked = line.read(Config::default(), &world).unwrap();
    assert_eq!(checked.config().debug, 5);
    assert_eq!(backends(&checked).len(), 2);
    line.listen = Some("10.0.0.100:80".to_owned());
    line.servers = vec!["web1".to_owned()];
    for (file, expected) in [
        (
            "circle",
            "circle:1: circle is included 9 deep: does it include itself?",
        ),
        ("none", "can't read none: no such file"),
        (
            "bad",
            "bad:2: server: there is no key `wieght`; did you mean `weight`?\n\
             bad:3: `stubborn` belongs to proxy mode, and dsr_if makes this DSR: leave out one of the two",
        ),
        (
            "pen.cfg",
            "pen.cfg:3: VIP 10.0.0.100:80 is the second after 10.0.0.100:80",
        ),
        (
            "dead",
            "dead:1: back end \"web9\": host name \"web9\" does not resolve: no such host",
        ),
    ] {
        line.file = Some(PathBuf::from(file));
        let errors = line
            .read(Config::default(), &world)
            .unwrap_err()
            .to_string();
        assert!(errors.starts_with(expected), "{errors}");
    }
}

proptest! {
    #[test]
    fn any_words_have_an_answer(
        listen in "\\PC{0,20}",
        servers in proptest::collection::vec("[a-z0-9:.\\[\\]/]{0,20}", 0..4),
        commands in proptest::collection::vec(
            "(server [0-9a-z]{0,3} |no |listen |dsr_if |seed |debug |acl [0-9] (permit|deny) )?\\PC{0,20}", 0..4),
        file in "\\PC{0,40}",
    ) {
        let world = World(HashMap::from([("f", file)]));
        let line = PenLine {
            listen: Some(listen),
            servers,
            commands,
            file: Some(PathBuf::from("f")),
            ..PenLine::default()
        };
        // Neither answer may be a panic, and a refusal always says something.
        if let Err(errors) = line.read(Config::default(), &world) {
            prop_assert!(!errors.0.is_empty());
            prop_assert!(errors.0.iter().all(|error| !error.what.is_empty()));
        }
    }

    #[test]
    fn a_server_is_what_was_written(
        octets in any::<[u8; 4]>(),
        port in any::<u16>(),
        max in any::<u32>(),
        hard in any::<u32>(),
        weight in 1..=u16::MAX,
        prio in any::<u32>(),
    ) {
        let host = Ipv4Addr::from(octets).to_string();
        let server = parse_server(&format!("{host}:{port}:{max}:{hard}:{weight}:{prio}")).unwrap();
        let expected = HostPort { host, port, max, hard, weight: Some(weight), prio };
        prop_assert_eq!(server, expected);
    }
}
