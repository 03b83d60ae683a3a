//! The control socket's language: requests, replies byte for byte, and what noise gets.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::Ipv4Addr;

use pen_common::config::*;
use pen_common::control::*;
use proptest::prelude::*;

fn action(line: &str) -> Action {
    parse_request(line.as_bytes())
        .unwrap_or_else(|bad| panic!("{line}: {bad:?}"))
        .action
}

#[test]
fn requests() {
    let server = |index, change| Action::Server(ServerRef::Index(index), vec![change]);
    let option = |key, value: Option<&str>| Action::Option {
        key,
        value: value.map(str::to_owned),
    };
    let setting = |key, value: Option<&str>| Action::Setting {
        key,
        value: value.map(str::to_owned),
    };
    for (line, expected) in [
        ("status", Action::Status),
        ("servers", Action::Servers),
        ("counters", Action::Counters),
        ("mode", Action::Mode),
        ("pid", Action::Pid),
        ("control", Action::Control),
        ("listen", Action::Listen),
        ("debug", Action::Debug(None)),
        ("resolve", Action::Resolve),
        ("debug 2", Action::Debug(Some(2))),
        ("roundrobin", Action::Switch(Balance::RoundRobin, true)),
        ("no roundrobin", Action::Switch(Balance::RoundRobin, false)),
        ("no stubborn", Action::Switch(Balance::Stubborn, false)),
        ("least", Action::Switch(Balance::Least, true)),
        ("weight", Action::Switch(Balance::Weight, true)),
        ("tcp_nodelay", Action::Nothing),
        ("timeout", option("timeout", None)),
        ("timeout 5", option("timeout", Some("5"))),
        ("idle_timeout", option("idle_timeout", None)),
        ("tcp_fastclose up", option("tcp_fastclose", Some("up"))),
        ("source 10.0.0.1", option("source", Some("10.0.0.1"))),
        ("keepalive", option("keepalive", Some("true"))),
        ("no keepalive", option("keepalive", Some("false"))),
        ("no trusted", option("trusted", Some("none"))),
        ("no acl 3", Action::Acl(3, AclChange::Clear)),
        (
            "acl 9 deny 10.1.2.3 255.0.0.0",
            Action::Acl(
                9,
                AclChange::Add(vec![AclLine {
                    permit: false,
                    network: Ipv4Addr::new(10, 0, 0, 0).into(),
                    prefix: 8,
                }]),
            ),
        ),
        ("server 1 acl 4", server(1, Change::Acl(4))),
        ("web_stats", setting("web_stats", None)),
        ("control_acl", setting("control_acl", None)),
        ("control_acl 9", setting("control_acl", Some("9"))),
        ("web_stats /a", setting("web_stats", Some("/a"))),
        ("no web_stats", setting("web_stats", Some("off"))),
        ("exit", Action::Exit),
        ("", Action::Blank),
        ("# remark", Action::Blank),
        ("server 0 blacklist 30", server(0, Change::Blacklist(30))),
        ("server 1 weight 0", server(1, Change::Weight(0))),
        (
            "server 1 address web1",
            Action::Edit(Edit::Server(
                ServerRef::Index(1),
                vec![Change::Address("web1".to_owned())],
            )),
        ),
        (
            "server 1 port 80 weight 2",
            Action::Edit(Edit::Server(
                ServerRef::Index(1),
                vec![Change::Port(80), Change::Weight(2)],
            )),
        ),
        (
            "server add web3:80",
            Action::Edit(Edit::Add("web3:80".to_owned(), Vec::new())),
        ),
        (
            "server drain web1",
            Action::Drain(ServerRef::Name("web1".to_owned()), true),
        ),
        ("no http", Action::Edit(Edit::Http(false))),
        ("config save", Action::Write(None)),
        ("config show", Action::ConfigShow(ConfigForm::Toml)),
        ("server 1 max 1", server(1, Change::Max(1))),
        ("server 1 hard 2", server(1, Change::Hard(2))),
        ("server 1 prio 3", server(1, Change::Prio(3))),
        (
            "server web1 weight 2 blacklist 0",
            Action::Server(
                ServerRef::Name("web1".to_owned()),
                vec![Change::Weight(2), Change::Blacklist(0)],
            ),
        ),
    ] {
        for ending in ["", "\n", "\r\n", "\nstatus\n"] {
            let request = parse_request(format!("{line}{ending}").as_bytes()).unwrap();
            assert_eq!(
                request,
                Request {
                    form: Form::Raw,
                    service: None,
                    action: expected.clone()
                }
            );
        }
        let request = parse_request(format!("json -s web {line}\n").as_bytes()).unwrap();
        assert_eq!(
            (request.form, request.service.as_deref()),
            (Form::Json, Some("web"))
        );
        assert_eq!(request.action, expected);
    }
    assert_eq!(action("-s  web  servers"), Action::Servers);
}

#[test]
fn refusals_in_both_forms() {
    for (line, raw, json) in [
        (
            "frobnicate 1",
            "do_cmd: ignoring command starting with 'frobnicate'\n",
            "there is no command `frobnicate`",
        ),
        (
            "srevers",
            "do_cmd: ignoring command starting with 'srevers'\n",
            "there is no command `srevers`; did you mean `servers`?",
        ),
        (
            "json",
            "do_cmd: ignoring command starting with 'json'\n",
            "there is no command `json`",
        ),
        (
            "server 0 weight x",
            "weight = \"x\" is not a number (0..=65535)\n",
            "weight = \"x\" is not a number (0..=65535)",
        ),
        (
            "dsr_if eth2",
            "interface can't be changed while Pen runs: write it into the configuration and restart\n",
            "interface can't be changed while Pen runs",
        ),
        (
            "plane xdp",
            "plane can't be changed while Pen runs: write it into the configuration and restart\n",
            "plane can't be changed",
        ),
        (
            "include x",
            "include can't be changed while Pen runs: write it into the configuration and restart\n",
            "include can't be",
        ),
        (
            "no udp",
            "udp can't be changed while Pen runs: write it into the configuration and restart\n",
            "udp can't be changed",
        ),
        (
            "allow_exit true",
            "allow_exit can't be changed while Pen runs: write it into the configuration and restart\n",
            "allow_exit can't be changed",
        ),
        (
            "apply",
            "apply takes toml or commands, how many bytes follow, and these: let penctl do it: penctl \
             SOCKET apply FILE\n",
            "apply takes toml or commands",
        ),
        (
            "apply toml 9999999999",
            "apply takes 8388608 bytes at most, not \"9999999999\"\n",
            "apply takes 8388608 bytes at most",
        ),
        (
            "plan toml 5\nfour",
            "5 bytes were to follow, and 4 came\n",
            "5 bytes were to follow",
        ),
        (
            "server 0 port 80 blacklist 5",
            "say blacklist in a command of its own, when the server is there\n",
            "say blacklist in a command of its own",
        ),
        (
            "close",
            "close takes one number: close 5\n",
            "close takes one number",
        ),
        (
            "connection -1",
            "connection = \"-1\" is not a number (0..=4294967295)\n",
            "connection = \"-1\"",
        ),
        (
            "timeout 0",
            "timeout = 0 is out of range (1..=3600)\n",
            "timeout = 0 is out of range (1..=3600)",
        ),
        (
            "no acl",
            "`no acl` takes the number of the list: no acl 1\n",
            "`no acl` takes",
        ),
        (
            "-s",
            "-s takes the name of a service, and a command follows: -s web servers\n",
            "-s takes the name",
        ),
        (
            "-s web",
            "-s takes the name of a service, and a command follows: -s web servers\n",
            "-s takes the name",
        ),
    ] {
        let bad = parse_request(line.as_bytes()).unwrap_err();
        assert_eq!(bad.reply(7), raw, "{line}");
        let bad = parse_request(format!("json {line}").as_bytes()).unwrap_err();
        let envelope: Envelope = serde_json::from_str(&bad.reply(7)).unwrap();
        assert_eq!(
            (envelope.ok, envelope.generation, envelope.value),
            (false, 7, None)
        );
        let refusal = envelope.refusal.unwrap();
        assert!(refusal.starts_with(json), "{line}: {refusal}");
    }
}

#[test]
fn the_longest_request_and_one_more() {
    let line = |length: usize| {
        let mut line = b"debug 1".to_vec();
        line.resize(length, b' ');
        line.push(b'\n');
        line
    };
    assert_eq!(
        parse_request(&line(REQUEST_BYTES_MAX - 1)).unwrap().action,
        Action::Debug(Some(1))
    );
    let bad = parse_request(&line(REQUEST_BYTES_MAX)).unwrap_err();
    assert_eq!(bad.reply(1), "the request is longer than 4095 bytes\n");
}

fn servers() -> Servers {
    let server = ServerStatus {
        path: None,
        index: 0,
        name: "web1".to_owned(),
        address: Ipv4Addr::new(10, 77, 0, 11).into(),
        port: 80,
        conn: 0,
        max: 10,
        hard: 20,
        weight: 2,
        prio: 1,
        sx: 0,
        rx: 0,
    };
    let second = ServerStatus {
        index: 1,
        address: Ipv4Addr::new(10, 77, 0, 12).into(),
        max: 0,
        hard: 0,
        weight: 0,
        prio: 0,
        sx: 504,
        rx: 948,
        ..server.clone()
    };
    Servers {
        pools: vec![ServersOfPool {
            pool: "pen".to_owned(),
            servers: vec![server, second],
        }],
    }
}

#[test]
fn replies_byte_for_byte() {
    let raw = |value| {
        Reply {
            generation: 3,
            outcome: Ok(value),
        }
        .render(Form::Raw)
    };
    let pen = "0 addr 10.77.0.11 port 80 conn 0 max 10 hard 20 weight 2 prio 1 sx 0 rx 0\n\
               1 addr 10.77.0.12 port 80 conn 0 max 0 hard 0 weight 0 prio 0 sx 504 rx 948\n";
    assert_eq!(raw(Value::Servers(servers())), pen);
    let mut two = servers();
    two.pools.push(ServersOfPool {
        pool: "dns".to_owned(),
        servers: Vec::new(),
    });
    assert_eq!(
        raw(Value::Servers(two)),
        format!("pool pen\n{pen}pool dns\n")
    );
    assert_eq!(raw(Value::Applied), "");
    assert_eq!(raw(Value::Number(42)), "42\n");
    let mode = mode_line(Switches::default());
    assert_eq!(
        raw(Value::Text(mode)),
        "no hash no roundrobin no stubborn no weight no prio\n"
    );
    let mut dsr = Service::new("s");
    let shown = "no hash roundrobin no stubborn no weight no prio";
    assert_eq!(mode_line(dsr.switches()), shown);
    dsr.hash = HashBy::Source;
    assert_eq!(
        mode_line(dsr.switches()),
        shown.replace("roundrobin", "no roundrobin")
    );
    let mut all = Service::new("s");
    all.mode = Mode::Tcp;
    assert_eq!(mode_line(all.switches()), mode_line(Switches::default()));
    for switch in Balance::ALL {
        all.proxy.balance.set(*switch, true);
    }
    assert_eq!(
        mode_line(all.switches()),
        "hash roundrobin stubborn weight prio least"
    );
    let refused = Reply {
        generation: 3,
        outcome: Err("no".to_owned()),
    };
    assert_eq!(refused.render(Form::Raw), "no\n");
    assert_eq!(
        refused.render(Form::Json),
        "{\"ok\":false,\"generation\":3,\"refusal\":\"no\"}\n"
    );
}

#[test]
fn replies_as_json() {
    let json = |value| -> Envelope {
        let line = Reply {
            generation: 3,
            outcome: Ok(value),
        }
        .render(Form::Json);
        assert_eq!(
            (line.ends_with('\n'), line.matches('\n').count()),
            (true, 1)
        );
        serde_json::from_str(&line).unwrap()
    };
    let applied = Reply {
        generation: 3,
        outcome: Ok(Value::Applied),
    }
    .render(Form::Json);
    assert_eq!(applied, "{\"ok\":true,\"generation\":3,\"value\":null}\n");
    assert_eq!(json(Value::Number(42)).value, Some(42.into()));
    assert_eq!(
        json(Value::Text("a\nb".to_owned())).value,
        Some("a\nb".into())
    );
    let value = json(Value::Servers(servers())).value.unwrap();
    assert_eq!(serde_json::from_value::<Servers>(value).unwrap(), servers());
    let counters = vec![Counter {
        reason: "loop".into(),
        text: "our own MAC".into(),
        count: 1,
    }];
    let value = json(Value::Counters(counters.clone())).value.unwrap();
    assert_eq!(
        serde_json::from_value::<Vec<Counter>>(value).unwrap(),
        counters
    );
}

#[test]
fn frames_are_in_one_place_each() {
    let account = FrameAccount {
        posted_receive: 5,
        in_hand: 2,
        posted_send: 1,
        total: 8,
    };
    assert!(account.adds_up());
    assert!(
        !FrameAccount {
            total: 9,
            ..account
        }
        .adds_up()
    );
    assert!(
        !FrameAccount {
            posted_receive: u64::MAX,
            ..account
        }
        .adds_up()
    );
}

fn two_services() -> Config {
    let pool = |name: &str, backends: &[(&str, u8)]| Pool {
        backends: backends
            .iter()
            .map(|(name, last)| Backend {
                name: (*name).to_owned(),
                ..Backend::new(Ipv4Addr::new(10, 0, 0, *last).into())
            })
            .collect(),
        ..Pool::new(name)
    };
    Config {
        services: vec![
            Service {
                pool: "shared".to_owned(),
                ..Service::new("web")
            },
            Service::new("dns"),
        ],
        pools: vec![
            pool("dns", &[("ns1", 1), ("both", 2)]),
            pool("shared", &[("web1", 3), ("both", 2)]),
        ],
        ..Config::default()
    }
}

#[test]
fn which_back_end_is_meant() {
    let config = two_services();
    let locate = |service, server: &str| {
        let server = match server.parse() {
            Ok(index) => ServerRef::Index(index),
            Err(_) => ServerRef::Name(server.to_owned()),
        };
        config.locate(service, &server)
    };
    for (service, server, expected) in [
        (Some("web"), "0", Ok((1, 0))),
        (Some("web"), "both", Ok((1, 1))),
        (Some("dns"), "1", Ok((0, 1))),
        (None, "web1", Ok((1, 0))),
        (None, "ns1", Ok((0, 0))),
        (
            None,
            "0",
            Err("which service's server 0? Say -s NAME first: web, dns"),
        ),
        (
            None,
            "both",
            Err("which service's server \"both\"? Say -s NAME first: web, dns"),
        ),
        (Some("web"), "2", Err("there is no server 2: 0 to 1 exist")),
        (
            Some("wbe"),
            "0",
            Err("there is no service \"wbe\"; did you mean `web`?"),
        ),
        (Some("web"), "ns1", Err("there is no server \"ns1\"")),
        (
            None,
            "web2",
            Err("there is no server \"web2\"; did you mean `web1`?"),
        ),
    ] {
        assert_eq!(
            locate(service, server),
            expected.map_err(str::to_owned),
            "{service:?} {server}"
        );
    }
    let mut one = config;
    one.pools.remove(0);
    one.services.remove(1);
    assert_eq!(one.locate(None, &ServerRef::Index(1)), Ok((0, 1)));
}

proptest! {
    #[test]
    fn any_bytes_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
        if let Err(bad) = parse_request(&bytes) {
            let reply = bad.reply(1);
            prop_assert!(reply.ends_with('\n') && reply.len() < 1000, "{} bytes", reply.len());
        }
    }

    #[test]
    fn any_words_have_an_answer(
        line in "(json )?(-s [a-z]{0,3} )?(server [0-9a-z]{0,30}|no|debug|listen)?( \\PC{0,30}){0,4}",
    ) {
        if let Err(bad) = parse_request(line.as_bytes()) {
            let reply = bad.reply(1);
            prop_assert_eq!(reply.matches('\n').count(), 1, "{:?}", reply);
            prop_assert_eq!(bad.form == Form::Json, line.starts_with("json "));
        }
    }
}
