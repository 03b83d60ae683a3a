//! The daemon's command line, flag by flag: accepted form, refused form, default.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod every_flag;
mod refused;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use pen::cli::{Action, Detach, Start, Stop, System, WithoutNames, parse};
use pen_common::config::{
    Balance, ClientCertificate, Config, ConfigForm, HashBy, Mode, Outside, Protocol, ProxyOptions,
};

#[derive(Default)]
struct World(HashMap<&'static str, &'static str>);

impl Outside for World {
    fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, String> {
        Err("no such host".to_owned())
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        let found = path.to_str().and_then(|name| self.0.get(name));
        found
            .map(|text| (*text).to_owned())
            .ok_or_else(|| "no such file".to_owned())
    }
}

const SERVED: [&str; 4] = ["-O", "dsr_if eth1", "10.0.0.100:80", "10.0.0.11"];

fn start(words: &[&str]) -> Start {
    match parse(["pen"].iter().chain(words)) {
        Ok(Action::Run(start)) => start,
        other => panic!("{words:?} gave {other:?}"),
    }
}

fn config(words: &[&str]) -> Config {
    let world = World(HashMap::from([
        ("pen.cfg", "server 0 weight 3\n"),
        ("pen.toml", TOML),
    ]));
    let checked = start(words)
        .read(&world)
        .unwrap_or_else(|errors| panic!("{words:?}: {errors}"));
    checked.into_parts().0
}

/// `words`, with something to serve behind them.
fn served(words: &[&str]) -> Config {
    config(&[words, &SERVED].concat())
}

const TOML: &str = "interface = \"eth1\"\ndebug = 1\ncontrol = \"/a\"
service = [{ name = \"s\", listen = \"10.0.0.100:80\" }]
pool = [{ name = \"s\", backend = [\"10.0.0.11\"] }]\n";

fn wrong(words: &[&str]) -> String {
    match parse(["pen"].iter().chain(words)) {
        Err(Stop::Wrong(text)) => text,
        other => panic!("{words:?} gave {other:?}"),
    }
}

#[test]
fn defaults() {
    let config = served(&[]);
    assert_eq!((config.foreground, config.debug), (false, 0));
    assert_eq!((config.control, config.pid_file), (None, None));
    assert_eq!(config.services[0].hash, HashBy::Source);
    assert_eq!(config.services[0].listeners[0].protocol, Protocol::Tcp);
    assert_eq!(config.bpffs, Path::new("/sys/fs/bpf"));
    assert_eq!(config.run_dir, Path::new("/run/pen"));
}

#[test]
fn each_flag_short_and_long() {
    type Check = fn(&Config) -> bool;
    let rows: &[(&[&[&str]], Check)] = &[
        (&[&["-f"], &["--foreground"]], |c| c.foreground),
        (&[&["-d"], &["--debug"]], |c| c.debug == 1),
        (&[&["-ddd"], &["-d", "-d", "--debug"]], |c| c.debug == 3),
        (&[&["-r"], &["--roundrobin"]], |c| {
            c.services[0].hash == HashBy::Flow
        }),
        (&[&["-U"], &["--udp"]], |c| {
            c.services[0].listeners[0].protocol == Protocol::Udp
        }),
        (
            &[
                &["-O", "debug 2"],
                &["-o", "debug 2"],
                &["--command", "debug 2"],
            ],
            |c| c.debug == 2,
        ),
        (
            &[
                &["-C", "/c"],
                &["-C/c"],
                &["--control", "/c"],
                &["--control=/c"],
            ],
            |c| c.control == "/c".parse().ok(),
        ),
        (&[&["-C", "/b", "-C", "/c"]], |c| {
            c.control == "/c".parse().ok()
        }),
        (
            &[&["-X"], &["--allow-exit"], &["-O", "allow_exit true"]],
            |c| c.allow_exit,
        ),
        (
            &[
                &["-C", "8888"],
                &["-C", "localhost:8888"],
                &["-O", "control 127.0.0.1:8888"],
            ],
            |c| c.control == "127.0.0.1:8888".parse().ok(),
        ),
        (&[&["-C", "[::1]:8888"]], |c| {
            c.control == "[::1]:8888".parse().ok()
        }),
        (
            &[
                &["-w", "/w"],
                &["--web-stats", "/w"],
                &["-O", "web_stats /w"],
            ],
            |c| c.web_stats == Some(PathBuf::from("/w")),
        ),
        (&[&["-p", "/p"], &["--pid-file", "/p"]], |c| {
            c.pid_file == Some(PathBuf::from("/p"))
        }),
        (&[&["-F", "pen.cfg"], &["--file", "pen.cfg"]], |c| {
            c.pools[0].backends[0].weight == 3
        }),
        (&[&["--bpffs", "/bpf"]], |c| c.bpffs == Path::new("/bpf")),
        (&[&["--run-dir", "/run/x"]], |c| {
            c.run_dir == Path::new("/run/x")
        }),
        (&[&["-dfr"], &["-rdf"]], |c| {
            c.foreground && c.debug == 1 && c.services[0].hash == HashBy::Flow
        }),
        (&[&["-dfO", "debug 2"]], |c| c.foreground && c.debug == 2),
    ];
    for (forms, check) in rows {
        assert!(!check(&served(&[])), "{forms:?} is the default");
        for words in *forms {
            assert!(check(&served(words)), "{words:?}");
        }
    }
}

#[test]
fn flags_may_stand_between_and_behind_operands() {
    let words = [
        "10.0.0.100:80",
        "-r",
        "10.0.0.11",
        "-O",
        "dsr_if eth1",
        "10.0.0.12:80",
        "-f",
    ];
    let config = config(&words);
    assert_eq!(config.pools[0].backends.len(), 2);
    assert!(config.foreground && config.services[0].hash == HashBy::Flow);
}

#[test]
fn the_authors_line_word_for_word() {
    let words = [
        "-df",
        "-O",
        "poll",
        "-O",
        "dsr_if eth1",
        "-S",
        "2",
        "-r",
        "10.0.0.100:80",
        "10.0.0.11",
        "10.0.0.12",
    ];
    let start = start(&words);
    let note = "-S has no effect: it was obsolete in Pen already";
    assert_eq!(start.notes(), [note]);
    assert_eq!(start.source(), "command line");
    let config = config(&words);
    assert_eq!((config.interface.as_str(), config.debug), ("eth1", 1));
    assert_eq!(config.services[0].listeners[0].to_string(), "10.0.0.100:80");
    assert_eq!(config.pools[0].backends.len(), 2);
}

#[test]
fn obsolete_flags_are_noted_one_line_each() {
    for flag in ["-a", "-D", "-n", "-P", "-Q"] {
        let start = start(&[flag, "10.0.0.100"]);
        let begin = format!("{flag} has no effect: ");
        let [note] = start.notes() else {
            panic!("{flag}: {:?}", start.notes())
        };
        let why = note
            .strip_prefix(&begin)
            .unwrap_or_else(|| panic!("{note}"));
        assert!(why.len() > 10, "{note}");
        assert_eq!(config(&[&[flag], &SERVED[..]].concat()), served(&[]));
    }
    assert_eq!(start(&["-S2", "10.0.0.100"]).notes().len(), 1);
    assert_eq!(start(&["-DnQ"]).notes().len(), 3);
    assert!(wrong(&["-S"]).contains("value is required"));
}

#[test]
fn flags_of_proxy_mode_short_and_long() {
    type Check = fn(&ProxyOptions) -> bool;
    let rows: &[(&[&[&str]], Check)] = &[
        (&[&["-h"], &["--hash"]], |p| p.balance.has(Balance::Hash)),
        (&[&["-W"], &["--weight"]], |p| {
            p.balance.has(Balance::Weight)
        }),
        (&[&["-s"], &["--stubborn"]], |p| {
            p.balance.has(Balance::Stubborn)
        }),
        (&[&["-r"], &["--roundrobin"]], |p| {
            p.balance.has(Balance::RoundRobin)
        }),
        (&[&["-t", "7"], &["--timeout=7"]], |p| p.timeout == 7),
        (&[&["-b0"], &["--blacklist", "0"]], |p| p.blacklist == 0),
        (&[&["-T", "60"], &["--tracking", "60"]], |p| {
            p.tracking == 60
        }),
        (&[&["-c", "9"], &["--clients-max", "9"]], |p| {
            p.clients_max == 9
        }),
        (&[&["-x", "9"], &["--conn-max", "9"]], |p| p.conn_max == 9),
        (&[&["-q", "9"], &["--backlog", "9"]], |p| p.backlog == 9),
        (
            &[&["-e", "10.0.0.9:81"], &["--emergency", "10.0.0.9:81"]],
            |p| {
                p.emergency
                    .as_ref()
                    .is_some_and(|b| b.host == "10.0.0.9" && b.port == 81)
            },
        ),
        (
            &[&["-B", "/run/no.sock"], &["--abuse", "/run/no.sock"]],
            |p| {
                p.abuse
                    .as_ref()
                    .is_some_and(|b| b.path() == Some(Path::new("/run/no.sock")))
            },
        ),
        (
            &[
                &["-R", "-E", "/c", "-A", "/a"],
                &[
                    "--require-client-certificate",
                    "--certificate=/c",
                    "--client-ca-path=/a",
                ],
                &[
                    "-O",
                    "client_certificate required",
                    "-E/c",
                    "-O",
                    "client_ca_path /a",
                ],
            ],
            |p| {
                let folder = p.tls.client_ca_path.as_deref();
                let required = p.tls.client_certificate == ClientCertificate::Required;
                required && folder == Some(Path::new("/a"))
            },
        ),
        (&[&["-l", "/l"], &["--log=/l"]], |p| {
            p.log.as_ref().is_some_and(|log| log.to_string() == "/l")
        }),
        (&[&["-E", "/c"], &["--certificate", "/c"]], |p| {
            p.tls.certificate.as_deref() == Some(Path::new("/c"))
        }),
        (
            &[
                &["-E/c", "-K", "/k"],
                &["-E/c", "--key", "/k"],
                &["-K/k", "-E/c"],
            ],
            |p| p.tls.key.as_deref() == Some(Path::new("/k")),
        ),
        (&[&["-E/c", "-G", "/g"], &["-E/c", "--chain", "/g"]], |p| {
            p.tls.chain.as_deref() == Some(Path::new("/g"))
        }),
        (&[&["-hWt7"]], |p| {
            p.balance.has(Balance::Hash) && p.balance.has(Balance::Weight) && p.timeout == 7
        }),
        (&[&["-t", "8", "-t7"]], |p| p.timeout == 7),
        // A command comes after a flag, whatever their order.
        (&[&["-O", "timeout 8", "-t", "7"]], |p| p.timeout == 8),
    ];
    let proxy = |words: &[&str]| config(&[words, &["80", "10.0.0.11"]].concat());
    let plain = proxy(&[]);
    assert_eq!(
        (plain.services[0].mode, plain.interface.as_str()),
        (Mode::Tcp, "")
    );
    assert_eq!(proxy(&["-H"]).services[0].mode, Mode::Http);
    assert_eq!(proxy(&["--http"]).services[0].mode, Mode::Http);
    assert_eq!(plain.services[0].proxy, ProxyOptions::default());
    for (forms, check) in rows {
        assert!(!check(&ProxyOptions::default()), "{forms:?} is the default");
        for words in *forms {
            let mut config = proxy(words);
            assert!(check(&config.services[0].proxy), "{words:?}");
            config.services[0].proxy = ProxyOptions::default();
            assert_eq!(config, plain, "{words:?}");
        }
    }
}

#[test]
fn a_file_and_the_flags_that_override_it() {
    let plain = config(&["--config", "pen.toml"]);
    assert_eq!(
        (plain.debug, plain.control, plain.foreground),
        (1, "/a".parse().ok(), false)
    );
    let words = ["--config", "pen.toml", "-ddf", "-C", "/c"];
    let config = config(&words);
    assert_eq!(
        (config.debug, config.control, config.foreground),
        (2, "/c".parse().ok(), true)
    );
    assert_eq!(start(&words).source(), "pen.toml");
    let errors = start(&["--config", "none"])
        .read(&World::default())
        .unwrap_err();
    assert_eq!(errors.to_string(), "can't read none: no such file");
    let world = World(HashMap::from([("bad", "plain = 1\n")]));
    let errors = start(&["--config", "bad"]).read(&world).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "bad:1: unknown key `plain`; did you mean `plane`?"
    );
}

#[test]
fn a_file_is_saved_to_if_the_line_says_nothing_besides() {
    let file = |words: &[&str]| {
        let start = start(words);
        start.file().map(|(path, form)| (path.to_owned(), form))
    };
    let (cfg, toml) = (PathBuf::from("pen.cfg"), PathBuf::from("pen.toml"));
    let commands = Some((cfg, ConfigForm::Commands));
    assert_eq!(file(&["-F", "pen.cfg"]), commands);
    assert_eq!(file(&["-df", "-C", "/ctl", "-F", "pen.cfg"]), commands);
    let whole = Some((toml, ConfigForm::Toml));
    assert_eq!(file(&["-f", "--config", "pen.toml"]), whole);
    // What the line says would be said to the next start as well.
    let more: [&[&str]; 5] = [
        &["80", "web1"],
        &["-r"],
        &["-U"],
        &["-t", "4"],
        &["-O", "hash"],
    ];
    for more in more {
        assert_eq!(file(&[&["-F", "pen.cfg"], more].concat()), None, "{more:?}");
    }
    assert_eq!(file(&["80", "web1"]), None);
}

#[test]
fn check_and_detach() {
    let words = ["pen", "--check"].iter().chain(&SERVED);
    let Ok(Action::Check(start)) = parse(words) else {
        panic!("--check")
    };
    assert!(start.read(&World::default()).is_ok());
    let detach = |words: &[&str]| match parse(["pen"].iter().chain(words)) {
        Ok(Action::Detach(detach)) => detach,
        other => panic!("{words:?} gave {other:?}"),
    };
    let expected = Detach {
        interface: "eth1".to_owned(),
        bpffs: PathBuf::from("/sys/fs/bpf"),
        run_dir: PathBuf::from("/run/pen"),
    };
    assert_eq!(detach(&["--detach", "eth1"]), expected);
    let expected = Detach {
        bpffs: "/b".into(),
        run_dir: "/r".into(),
        ..expected
    };
    assert_eq!(
        detach(&["--detach", "eth1", "--bpffs", "/b", "--run-dir", "/r"]),
        expected
    );
}

#[test]
fn a_configuration_is_printed_without_asking_for_names() {
    let words = ["pen", "--print-config", "toml", "80", "web9", "web8"];
    let Ok(Action::Print(start, ConfigForm::Toml)) = parse(words) else {
        panic!("--print-config")
    };
    let checked = start.read(&WithoutNames::default()).unwrap();
    let (config, notes) = checked.into_parts();
    assert_eq!(notes, [""; 0]);
    let text = config.written(ConfigForm::Toml).unwrap();
    assert!(text.contains("{ address = \"web9\" },"), "{text}");
    for address in config.pools[0].backends.iter().map(|b| b.address) {
        assert!(!text.contains(&address.to_string()), "{text}");
    }
    // The same by the program: the text alone on standard output, faults on the other one.
    let pen = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_pen"))
            .args(words)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    assert_eq!(pen(&words[1..]), (Some(0), text, String::new()));
    let words = ["-a", "--print-config=commands", "80", "web9"];
    let (code, out, said) = pen(&words);
    assert_eq!(
        (code, &*out),
        (Some(0), "listen [::]:80\nserver 0 address web9\n")
    );
    assert_eq!(said, "pen: note: -a has no effect: there are no dumps\n");
    for (words, expected) in [
        (
            &["--print-config", "commands", "-C", "/a b", "80", "web9"][..],
            "control = \"/a b\" is no word of a command",
        ),
        (
            &["-O", "timeuot 3", "80", "web9"],
            "there is no command `timeuot`; did you mean `timeout`?",
        ),
        (&["--chekc", "80", "web9"], "'--check'"),
    ] {
        let (code, out, said) = pen(words);
        assert_eq!((code, &*out), (Some(2), ""), "{words:?}");
        assert!(said.contains(expected), "{words:?}: {said}");
    }
}

#[test]
fn help_and_version_are_shown() {
    let Err(Stop::Shown(help)) = parse(["pen", "--help"]) else {
        panic!("--help")
    };
    for part in [
        "Usage: pen [OPTIONS] [HOST:]PORT|/PATH BACKEND",
        "\n  pen 80 web1 web2\n",
        "What is served:",
        "Proxies:",
        "-h, --hash",
        "-W, --weight",
        "-s, --stubborn",
        "-t, --timeout <SECONDS>",
        "-b, --blacklist <SECONDS>",
        "-T, --tracking <SECONDS>",
        "-c, --clients-max <N>",
        "-x, --conn-max <N>",
        "-q, --backlog <N>",
        "-e, --emergency <SERVER>",
        "-B, --abuse <SERVER>",
        "TLS to clients:",
        "-X, --allow-exit",
        "How it runs:",
        "--print-config <FORM>",
        "Instead of running:",
        "-O, --command <CMD>",
        "-F, --file",
        "-r, --roundrobin",
        "-U, --udp",
        "-f, --foreground",
        "-d, --debug",
        "-C, --control",
        "-p, --pid-file",
        "-w, --web-stats",
        "--config",
        "--check",
        "--detach",
        "--bpffs",
        "--run-dir",
        "--version",
    ] {
        assert!(help.contains(part), "{part} is missing in\n{help}");
    }
    assert!(
        help.contains("-u, --user") && !help.contains("-S"),
        "{help}"
    );
    let Err(Stop::Shown(version)) = parse(["pen", "--version"]) else {
        panic!("--version")
    };
    assert_eq!(version, format!("pen {}\n", env!("CARGO_PKG_VERSION")));
    let errors = start(&[]).read(&World::default()).unwrap_err();
    assert!(
        errors
            .to_string()
            .starts_with("no VIP: pen [options] VIP:PORT BACKEND"),
        "{errors}"
    );
}

#[test]
fn the_real_world() {
    let system = System;
    let here = system.resolve("localhost").unwrap();
    assert!(!here.is_empty() && here.iter().all(|address| address.is_loopback()));
    assert!(system.resolve("not a\0name").is_err());
    let path = std::env::temp_dir().join(format!("pen-cli-{}", std::process::id()));
    std::fs::write(&path, "debug 1\n").unwrap();
    assert_eq!(system.read(&path), Ok("debug 1\n".to_owned()));
    std::fs::remove_file(&path).unwrap();
    assert!(system.read(&path).unwrap_err().contains("No such file"));
}
