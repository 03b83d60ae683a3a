//! Proxies by Pen's line: what it says, what is refused, and access lists.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use pen_common::config::*;

struct World;

impl Outside for World {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        match host {
            "web1" => Ok(vec![Ipv4Addr::new(10, 0, 0, 11).into()]),
            "web2" => Ok(vec![Ipv4Addr::new(10, 0, 0, 12).into()]),
            _ => Err("no such host".to_owned()),
        }
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        match path.to_str() {
            Some("dsr") => Ok("dsr_if eth1\n".to_owned()),
            _ => Err("no such file".to_owned()),
        }
    }
}

/// A line without an interface; words that begin with `-O ` are commands.
fn line(words: &[&str]) -> PenLine {
    let (commands, operands): (Vec<&str>, Vec<&str>) =
        words.iter().partition(|word| word.starts_with("-O "));
    let mut operands = operands.into_iter().map(str::to_owned);
    PenLine {
        listen: operands.next(),
        servers: operands.collect(),
        commands: commands
            .iter()
            .map(|c| c["-O ".len()..].to_owned())
            .collect(),
        ..PenLine::default()
    }
}

fn config(words: &[&str]) -> Config {
    let read = line(words).read(Config::default(), &World);
    let checked = read.unwrap_or_else(|errors| panic!("{words:?}: {errors}"));
    assert_eq!(checked.notes(), [""; 0], "{words:?}");
    let config = checked.into_parts().0;
    // Whatever a line says can be written as TOML.
    let again = Config::from_toml(&config.to_toml(), "t", &World).unwrap();
    assert_eq!(again.config(), &config, "{}", config.to_toml());
    config
}

fn fault(words: &[&str]) -> String {
    let read = line(words).read(Config::default(), &World);
    let errors = read.expect_err(words[0]).to_string();
    assert_eq!(errors.lines().count(), 1, "{words:?}: {errors}");
    errors
}

#[test]
fn the_shortest_line() {
    let config = config(&["80", "web1", "web2"]);
    assert_eq!(config.interface, "");
    let service = &config.services[0];
    assert_eq!((service.mode, service.hash), (Mode::Tcp, HashBy::Flow));
    assert_eq!(service.proxy, ProxyOptions::default());
    assert_eq!(service.listeners[0].to_string(), "[::]:80");
    let names: Vec<&str> = config.pools[0]
        .backends
        .iter()
        .map(|b| b.name.as_str())
        .collect();
    assert_eq!(names, ["web1", "web2"]);
    assert_eq!(config.table_memory(), TABLE_MEMORY_MIN);
}

#[test]
fn listening() {
    for (text, expected) in [
        ("80", "[::]:80"),
        ("http", "[::]:80"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("10.0.0.1:https", "10.0.0.1:443"),
        ("127.0.0.1:65535", "127.0.0.1:65535"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("[::]:80", "[::]:80"),
        (":::80", "[::]:80"),
        ("2001:db8::1:80", "[2001:db8::1]:80"),
        ("80/tcp", "[::]:80"),
    ] {
        for words in [vec![text, "web1"], vec!["web1"]] {
            let mut line = line(&words);
            if words.len() == 1 {
                (line.listen, line.servers) = (None, vec!["web1".to_owned()]);
                line.commands.push(format!("listen {text}"));
            }
            let checked = line.read(Config::default(), &World).unwrap();
            let listeners = &checked.config().services[0].listeners;
            assert_eq!(listeners[0].to_string(), expected, "{text}");
        }
    }
    let config = config(&["/run/web.sock", "web1:80", "/run/back"]);
    assert_eq!(config.services[0].listeners, []);
    assert_eq!(
        config.services[0].proxy.paths,
        [PathBuf::from("/run/web.sock")]
    );
    assert_eq!(
        config.pools[0].backends[1].path(),
        Some(Path::new("/run/back"))
    );
}

#[test]
fn where_a_proxy_cannot_listen() {
    for (text, expected) in [
        ("0", "a proxy listens at one port, and 0 is none"),
        ("10.0.0.1", "the port is missing: 10.0.0.1:80"),
        ("10.0.0.1:0", "a proxy listens at one port"),
        ("10.0.0.1:", "port = \"\" is not a number"),
        ("70000", "port = 70000 is out of range"),
        ("www:80", "\"www\" is not an address"),
        (
            "80/udp",
            "/udp takes a service of its own with mode = \"udp\"",
        ),
        ("224.0.0.1:80", "224.0.0.1 is no address of one machine"),
        ("[::ffff:10.0.0.1]:80", "is an IPv4 address: write 10.0.0.1"),
        ("2001:db8::1", "an IPv6 address is written in brackets"),
        ("./sock", "it begins with a slash"),
        ("/run/", "can't be the path of a Unix socket"),
        ("", "is not an address"),
    ] {
        let errors = fault(&[text, "web1"]);
        assert!(
            errors.starts_with(&format!("listen {text:?}: ")),
            "{errors}"
        );
        assert!(errors.contains(expected), "{text}: {errors}");
    }
}

#[test]
fn an_interface_makes_it_dsr_wherever_it_is_named() {
    let mut line = line(&["10.0.0.100:80", "web1"]);
    line.file = Some(PathBuf::from("dsr"));
    let checked = line.read(Config::default(), &World).unwrap();
    assert_eq!(checked.config().services[0].mode, Mode::Dsr);
    line.listen = Some("80".to_owned());
    let errors = line.read(Config::default(), &World).unwrap_err();
    assert!(errors.to_string().contains("DSR needs the VIP itself"));
    line.listen = Some("10.0.0.100:80".to_owned());
    line.commands.push("stubborn".to_owned());
    let errors = line.read(Config::default(), &World).unwrap_err();
    assert!(
        errors
            .to_string()
            .starts_with("-O \"stubborn\": `stubborn` belongs to proxy mode")
    );
}

#[test]
fn servers_of_one_address() {
    let config = config(&[
        "80",
        "127.0.0.1:81",
        "127.0.0.1:82:0:0:5",
        "[::1]:81",
        "[::1]:http-alt:0".replace("http-alt", "8008").as_str(),
        "web1",
        "-O server 127.0.0.1:82 weight 0 acl 4",
    ]);
    let backends = &config.pools[0].backends;
    let names: Vec<&str> = backends.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "127.0.0.1:81",
            "127.0.0.1:82",
            "[::1]:81",
            "[::1]:8008",
            "web1"
        ]
    );
    assert_eq!((backends[1].weight, backends[1].acl), (0, 4));
    let with_port_of_listener = fault(&["80", "web1", "web1:80"]);
    assert!(with_port_of_listener.contains("two back ends of this name"));
    let errors = fault(&["80", "web1:1", "web1:2", "-O server web1 weight 2"]);
    assert!(errors.contains("\"web1\" are several servers"), "{errors}");
}

#[test]
fn servers_that_are_refused() {
    for (words, expected) in [
        (
            &["80", "[::1]"][..],
            "service \"pen\" listens at [::]:80 itself",
        ),
        (&["80", "127.0.0.1:80"], "it would connect to itself"),
        (&["10.0.0.1:80", "10.0.0.1"], "it would connect to itself"),
        (&["/run/a", "/run/a"], "listens at this path itself"),
        (
            &["/run/a", "web1"],
            "it has no port, and service \"pen\" listens at a Unix socket",
        ),
        (
            &["80", "0.0.0.0:81"],
            "0.0.0.0 is no address of one machine",
        ),
        (&["80", "run/a"], "is not the path of a Unix socket"),
        (
            &["80", "web1:8080", "10.0.0.11:8080"],
            "are those of back end \"web1\" already",
        ),
        (&["80", "web9"], "host name \"web9\" does not resolve"),
        (&["80"], "it has no back end"),
    ] {
        let errors = fault(words);
        assert!(errors.contains(expected), "{words:?}: {errors}");
    }
    // What is not a loop: another port, another address, IPv4 on IPv6 only when it is on all.
    config(&["10.0.0.1:80", "10.0.0.1:81", "127.0.0.1:80"]);
    config(&["0.0.0.0:80", "[::1]:80"]);
}

#[test]
fn commands_set_what_they_name() {
    type Check = fn(&ProxyOptions) -> bool;
    let rows: &[(&str, Check)] = &[
        ("blacklist 0", |p| p.blacklist == 0),
        ("client_acl 9", |p| p.client_acl == 9),
        ("backlog 7", |p| p.backlog == 7),
        ("emergency 10.0.0.9:81", |p| {
            p.emergency.as_ref().is_some_and(|b| b.port == 81)
        }),
        ("abuse 10.0.0.9:82", |p| {
            p.abuse.as_ref().is_some_and(|b| b.port == 82)
        }),
        ("clients_max 1", |p| p.clients_max == 1),
        ("conn_max 1000000", |p| p.conn_max == 1_000_000),
        ("idle_timeout 60", |p| p.idle_timeout == 60),
        ("pending_max 1", |p| p.pending_max == 1),
        ("queue_timeout 9", |p| p.queue_timeout == 9),
        ("client_conn_max 4", |p| p.client_conn_max == 4),
        ("client_conn_rate 5", |p| p.client_conn_rate == 5),
        ("timeout 3600", |p| p.timeout == 3600),
        ("tracking 5", |p| p.tracking == 5),
        ("keepalive", |p| p.keepalive),
        ("transparent", |p| p.transparent),
        ("tcp_fastclose down", |p| p.tcp_fastclose == FastClose::Down),
        ("send_proxy v1", |p| p.send_proxy == SendProxy::V1),
        ("accept_proxy 10.0.0.0/8", |p| {
            let names = |client: [u8; 4]| p.accept_proxy.names(client.into());
            names([10, 9, 8, 7]) && !names([11, 9, 8, 7])
        }),
        ("source 127.0.0.1", |p| {
            p.source == Some(Ipv4Addr::LOCALHOST.into())
        }),
        ("roundrobin", |p| p.balance.has(Balance::RoundRobin)),
        ("hash", |p| p.balance.has(Balance::Hash)),
        ("weight", |p| p.balance.has(Balance::Weight)),
        ("prio", |p| p.balance.has(Balance::Prio)),
        ("least", |p| p.balance.has(Balance::Least)),
        ("stubborn", |p| p.balance.has(Balance::Stubborn)),
    ];
    let plain = config(&["80", "web1"]);
    for (command, check) in rows {
        let command = format!("-O {command}");
        let mut with = config(&["80", "web1", &command]);
        assert!(check(&with.services[0].proxy), "{command}");
        with.services[0].proxy = ProxyOptions::default();
        assert_eq!(with, plain, "{command}");
    }
    for word in [
        "keepalive",
        "transparent",
        "hash",
        "least",
        "roundrobin",
        "stubborn",
    ] {
        let (on, off) = (format!("-O {word}"), format!("-O no {word}"));
        assert_eq!(config(&["80", "web1", &on, &off]), plain, "{word}");
    }
}

#[test]
fn commands_that_are_refused() {
    for (command, expected) in [
        ("backlog 0", "backlog = 0 is out of range"),
        ("backlog", "backlog takes one value without blanks"),
        ("emergency a b", "emergency takes one value without blanks"),
        ("abuse :80", "abuse: server"),
        ("udp now", "udp takes no argument"),
        ("no udpp", "did you mean `udp`?"),
        ("timeout 0", "timeout = 0 is out of range (1..=3600)"),
        ("timeout 3601", "timeout = 3601 is out of range"),
        ("blacklist -1", "blacklist = \"-1\" is not a number"),
        (
            "idle_timeout 31536001",
            "idle_timeout = 31536001 is out of range (0..=31536000)",
        ),
        (
            "conn_max 1000001",
            "conn_max = 1000001 is out of range (1..=1000000)",
        ),
        (
            "clients_max 0",
            "clients_max = 0 is out of range (1..=10000000)",
        ),
        ("pending_max 0", "pending_max = 0 is out of range"),
        ("client_acl 10", "client_acl = 10 is out of range (0..=9)"),
        (
            "tcp_fastclose dwon",
            "is none of off, up, down, both; did you mean `down`?",
        ),
        ("source web1", "source = \"web1\" is not an address"),
        (
            "accept_proxy web1",
            "accept_proxy = \"web1\": \"web1\" is not an address",
        ),
        (
            "accept_proxy 10.0.0.0/33",
            "accept_proxy = \"10.0.0.0/33\": the length",
        ),
        ("send_proxy 1", "send_proxy = \"1\" is none of off, v1, v2"),
        ("source 0.0.0.0", "0.0.0.0 is no address of one machine"),
        ("source a b", "source takes one value without blanks"),
        ("keepalive 1", "keepalive takes no argument"),
        ("stubborn 1", "stubborn takes no argument"),
        ("trakcing 1", "did you mean `tracking`?"),
        ("no stuborn", "did you mean `stubborn`?"),
        ("acl", "acl takes a number and a line"),
        ("acl 10 permit all", "acl = 10 is out of range (0..=9)"),
        ("acl 1", "write permit or deny"),
        ("acl 1 allow all", "write permit or deny"),
        (
            "acl 1 permit 10.0.0.0 255.0.255.0",
            "the mask 255.0.255.0 has holes",
        ),
        (
            "acl 1 permit 10.0.0.0/33",
            "the length = 33 is out of range (0..=32)",
        ),
        (
            "acl 1 permit ::/129",
            "the length = 129 is out of range (0..=128)",
        ),
        ("acl 1 permit web1", "\"web1\" is not an address"),
        ("acl 1 permit :: 255.0.0.0", "\"::\" is not an IPv4 address"),
        ("acl 1 deny country SE", "lists by country aren't there"),
        ("acl 1 permit 10.0.0.1 255.0.0.0 x", "write permit or deny"),
        ("no acl", "`no acl` takes the number of the list"),
        ("no acl x", "acl = \"x\" is not a number"),
        (
            "log loghost:514",
            "log = \"loghost:514\" is no ADDRESS:PORT",
        ),
        ("log_format xml", "log_format = "),
    ] {
        let errors = fault(&["80", "web1", &format!("-O {command}")]);
        assert!(errors.contains(expected), "{command}: {errors}");
        assert!(errors.starts_with(&format!("-O {command:?}: ")), "{errors}");
    }
}

#[test]
fn a_redirect_needs_no_servers() {
    for (command, port) in [("-O redirect https", 443), ("-O redirect https:8443", 8443)] {
        let config = config(&["80", "-O http", command]);
        assert_eq!(config.services[0].redirect(), Some(Redirect { port }));
        assert_eq!(config.services[0].pool, "");
        assert_eq!(config.pools, []);
    }
    let denied = config(&["80", "-O http", "-O redirect https", "-O client_acl 1"]);
    assert_eq!(denied.services[0].proxy.client_acl, 1);
    for (words, expected) in [
        (
            &["80", "web1", "-O http", "-O redirect https"][..],
            "service \"pen\": `redirect` sends every request elsewhere, and no server is asked: leave \
             out its pool and servers, or `redirect`",
        ),
        (
            &["80", "-O redirect https"],
            "`redirect` means nothing with mode = \"tcp\"",
        ),
        (
            &["80", "-O http", "-O redirect http"],
            "redirect = \"http\" is neither https nor https:PORT",
        ),
        (
            &["80", "-O http", "-O redirect https:0"],
            "redirect = port = 0 is out of range (1..=65535)",
        ),
        (&["80", "-O http"], "it has no back end"),
    ] {
        let errors = fault(words);
        assert!(errors.contains(expected), "{words:?}: {errors}");
    }
}

#[test]
fn http_by_a_flag_or_a_command() {
    let flag = |words: &[&str]| {
        let mut line = line(words);
        line.flags.push(PenFlag {
            flag: "-H",
            key: "mode",
            value: "http".to_owned(),
            idle_in_dsr: None,
        });
        line.read(Config::default(), &World)
    };
    let mode = |checked: &Config| checked.services[0].mode;
    assert_eq!(mode(flag(&["80", "web1"]).unwrap().config()), Mode::Http);
    let by_command = |words: &[&str]| mode(&config(&[&["80", "web1"], words].concat()));
    assert_eq!(by_command(&["-O http"]), Mode::Http);
    assert_eq!(by_command(&["-O http", "-O no http"]), Mode::Tcp);
    // What comes later wins, and a key that HTTP has no use for may come first.
    let late = flag(&["80", "web1", "-O tcp_fastclose up", "-O no http"]).unwrap();
    assert_eq!(mode(late.config()), Mode::Tcp);
    let early = flag(&["80", "web1", "-O tcp_fastclose up"]).unwrap();
    assert_eq!(mode(early.config()), Mode::Http);
    assert!(early.notes()[0].contains("`tcp_fastclose` means nothing"));
    let mut both = line(&["53", "web1"]);
    both.udp = true;
    both.commands.push("http".to_owned());
    let both = both.read(Config::default(), &World).unwrap();
    assert_eq!(mode(both.config()), Mode::Udp);
    assert!(both.notes()[0].contains("datagrams are no HTTP"));
    let set = config(&[
        "80",
        "web1",
        "-O http",
        "-O trusted 10.1.2.3/8",
        "-O trusted ::1",
    ]);
    let lines: Vec<String> = (set.services[0].proxy.trusted.lines.iter())
        .map(ToString::to_string)
        .collect();
    assert_eq!(lines, ["permit 10.0.0.0/8", "permit ::1/128"]);
    for (words, expected) in [
        (
            &["-O trusted 10.0.0.1"][..],
            "`trusted` means nothing with mode = \"tcp\": leave it out",
        ),
        (
            &["-O http", "-O head_timeout 0"],
            "head_timeout = 0 is out of range (1..=3600)",
        ),
        (
            &["-O http", "-O trusted web"],
            "trusted = \"web\": \"web\" is not an address",
        ),
        (
            &["-O http", "-O dsr_if eth1"],
            "`http` belongs to proxy mode",
        ),
    ] {
        let errors = fault(&[&["10.0.0.100:80", "web1"], words].concat());
        assert!(errors.contains(expected), "{words:?}: {errors}");
    }
}

#[test]
fn what_a_service_shows() {
    let mut service = Service::new("s");
    service.mode = Mode::Tcp;
    for (key, shown) in [
        ("timeout", "3"),
        ("idle_timeout", "Idle timeout: 0 seconds"),
        ("client_acl", "0"),
        ("tcp_fastclose", "off"),
        ("keepalive", "false"),
        ("source", ""),
        ("send_proxy", "off"),
    ] {
        assert_eq!(service.shown(key), shown, "{key}");
    }
    service.set("source", "10.0.0.9").unwrap();
    service.set("conn_max", "12").unwrap();
    assert_eq!(service.shown("source"), "10.0.0.9");
    assert_eq!(service.shown("conn_max"), "12");
    let before = service.clone();
    service.set("conn_max", "0").unwrap_err();
    service.set("conn_mux", "1").unwrap_err();
    assert_eq!(service, before);
}

#[test]
fn access_lists() {
    let config = config(&[
        "80",
        "web1",
        "-O acl 1 permit 10.1.2.3 255.0.0.0",
        "-O acl 1 deny 10.9.9.9",
        "-O acl 1 permit 2001:db8:ffff::1/32",
        "-O acl 1 permit ::ffff:192.0.2.1/120",
        "-O acl 3 permit 10.0.0.1",
        "-O acl 3 deny all",
        "-O acl 4 deny all",
        "-O no acl 4",
        "-O client_acl 1",
    ]);
    let text: Vec<String> = config.acls[1]
        .lines
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        text,
        [
            "permit 10.0.0.0/8",
            "deny 10.9.9.9/32",
            "permit 2001:db8::/32",
            "permit 192.0.2.0/24"
        ]
    );
    for (list, client, expected) in [
        // The first match decides; beyond the last, its opposite.
        (1, "10.9.9.9", true),
        (1, "192.0.2.77", true),
        (1, "::ffff:10.0.0.1", true),
        (1, "2001:db8:1::1", true),
        (1, "11.0.0.1", false),
        (3, "10.0.0.1", true),
        (3, "10.0.0.2", false),
        (3, "2001:db8::1", false),
        // Emptied, and never there: everyone passes.
        (4, "11.0.0.1", true),
        (0, "11.0.0.1", true),
    ] {
        let client: IpAddr = client.parse().unwrap();
        assert_eq!(
            config.acls[list].permits(client),
            expected,
            "{list} {client}"
        );
    }
    assert_eq!(config.acls.len(), 5);
}

#[test]
fn a_log_is_named_or_turned_off_and_what_comes_last_wins() {
    let log = |commands: &[&str]| {
        let words = [&["80", "web1"], commands].concat();
        let proxy = config(&words).services.remove(0).proxy;
        (proxy.log.map(|log| log.to_string()), proxy.log_format)
    };
    let file = Some("/var/log/a:b".to_owned());
    assert_eq!(
        log(&["-O log /var/log/a:b"]),
        (file.clone(), LogFormat::Pen)
    );
    let json = log(&["-O log_format json", "-O log x", "-O log /var/log/a:b"]);
    assert_eq!(json, (file, LogFormat::Json));
    assert_eq!(log(&["-O log /x", "-O no log"]), (None, LogFormat::Pen));
    let penlogd = log(&["-O log [::1]:10000"]).0;
    assert_eq!(penlogd.as_deref(), Some("[::1]:10000"));
    // In DSR nobody sees connections.
    let dsr = ["10.0.0.100:80", "web1", "-O dsr_if eth1"];
    let why = fault(&[&dsr[..], &["-O log /x"]].concat());
    assert!(why.contains("`log` belongs to proxy mode"), "{why}");
    let read = line(&[&dsr[..], &["-O no log"]].concat()).read(Config::default(), &World);
    assert!(read.unwrap().notes()[0].contains("`no log`: it is off"));
}
