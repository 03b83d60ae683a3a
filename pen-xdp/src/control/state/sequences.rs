//! Random commands, one after the other: whatever is said, the state stays one that could have been
//! configured, and what is saved of it loads to the same.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use pen_common::{
    config::{Config, LookedUp, Outside, PenLine},
    control::{Action, parse_request},
    tables::{BackendId, Mac},
};

use super::{Command, State};
use crate::control::{routes::routes, snapshot::Snapshot};
use crate::numbers::Numbers;

/// Commands in all.
const COMMANDS: usize = 100_000;
/// Each begins with another configuration.
const SEQUENCES: usize = 100;
/// Between two looks at what can't be looked at each time.
const LOOK: usize = 20;

/// A world where each name stands for two addresses, and no file is there.
struct World;

impl Outside for World {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let last = host.bytes().fold(7, u8::wrapping_add) | 1;
        Ok(vec![[10, 1, 0, last].into(), [10, 1, 1, last].into()])
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Err("there are no files".to_owned())
    }
}

fn below(random: &mut Numbers, end: usize) -> usize {
    random.below(end as u64) as usize
}

fn one_of<'a>(random: &mut Numbers, all: &[&'a str]) -> &'a str {
    all[below(random, all.len())]
}

fn server(random: &mut Numbers) -> String {
    match below(random, 6) {
        0 => one_of(random, &["web1", "10.0.0.2", "10.0.0.3:81", "nobody"]).to_owned(),
        _ => below(random, 6).to_string(),
    }
}

fn place(random: &mut Numbers) -> String {
    let host = one_of(
        random,
        &[
            "web1",
            "web2",
            "10.0.0.1",
            "10.0.0.2",
            "[2001:db8::5]",
            "10.0.0.300",
        ],
    );
    match below(random, 3) {
        0 => host.to_owned(),
        1 => format!("{host}:{}", 79 + below(random, 3)),
        _ => format!(
            "{host}:80:{}:{}:{}:{}",
            small(random),
            small(random),
            small(random),
            small(random)
        ),
    }
}

fn small(random: &mut Numbers) -> u32 {
    match below(random, 20) {
        0 => random.below(1 << 32) as u32,
        _ => below(random, 5) as u32,
    }
}

/// A line that somebody might say, most often one that can be so.
fn line(random: &mut Numbers) -> String {
    let n = small(random);
    let no = one_of(random, &["", "no "]);
    let said = match below(random, 17) {
        0 => format!(
            "{no}{}",
            one_of(
                random,
                &["hash", "roundrobin", "weight", "prio", "least", "stubborn"]
            )
        ),
        1 | 2 => {
            let server = server(random);
            let key = one_of(
                random,
                &["weight", "max", "hard", "prio", "acl", "blacklist", "size"],
            );
            format!("server {server} {key} {n}")
        }
        3 => format!(
            "server {} weight {n} blacklist {}",
            server(random),
            small(random)
        ),
        4 => format!("server add {} weight {n}", place(random)),
        5 | 6 => format!("server remove {}", server(random)),
        7 => format!(
            "server {} {}",
            one_of(random, &["drain", "undrain"]),
            server(random)
        ),
        8 => {
            let host = one_of(
                random,
                &["web1", "web3", "10.0.0.9", "2001:db8::7", "0.0.0.0"],
            );
            format!(
                "server {} address {host} port {}",
                server(random),
                80 + n % 3
            )
        }
        9 => {
            let key = one_of(
                random,
                &[
                    "timeout",
                    "idle_timeout",
                    "tracking",
                    "blacklist",
                    "clients_max",
                    "conn_max",
                    "pending_max",
                    "client_conn_max",
                    "queue_timeout",
                    "client_acl",
                    "head_timeout",
                    "tls_timeout",
                    "backlog",
                ],
            );
            format!("{key} {n}")
        }
        10 => {
            let who = one_of(
                random,
                &[
                    "10.0.0.0/8",
                    "192.0.2.1 255.255.255.0",
                    "2001:db8::/32",
                    "all",
                    "x",
                ],
            );
            format!(
                "acl {} {} {who}",
                n % 11,
                one_of(random, &["permit", "deny"])
            )
        }
        11 => format!("no acl {}", n % 11),
        12 => format!(
            "listen {}",
            one_of(
                random,
                &["80", "81", "192.0.2.1:82", ":::83", "/run/s", "x:y"]
            )
        ),
        13 => format!("{no}http"),
        14 => one_of(
            random,
            &[
                "tcp_fastclose both",
                "tcp_fastclose off",
                "keepalive",
                "no keepalive",
                "send_proxy v2",
                "send_proxy off",
                "accept_proxy 10.0.0.0/8",
                "no accept_proxy",
                "trusted all",
                "no trusted",
                "reason_header true",
                "hsts 60",
                "no hsts",
                "source 10.0.0.4",
                "log_format json",
                "server_tls verified",
                "server_tls off",
                "transparent",
                "no transparent",
            ],
        )
        .to_owned(),
        15 => format!(
            "{} {}",
            one_of(random, &["emergency", "abuse"]),
            place(random)
        ),
        _ => one_of(
            random,
            &[
                "mode",
                "pid",
                "nonsense",
                "",
                "server",
                "no",
                "-s nobody hash",
            ],
        )
        .to_owned(),
    };
    match below(random, 8) {
        0 => format!("-s {} {said}", one_of(random, &["pen", "two"])),
        _ => said,
    }
}

/// What happens besides.
fn weather(random: &mut Numbers, state: &State) -> Command {
    let addresses = crate::control::names::addresses(state.config());
    let nth = below(random, addresses.len().max(1));
    match (below(random, 3), addresses.iter().nth(nth)) {
        (0, Some(address)) => Command::Neighbor {
            address: *address,
            mac: (below(random, 2) == 0).then(|| Mac(1 + below(random, 98) as u64)),
        },
        (1, _) => {
            let mut answers = state.answers().clone();
            // Never fewer than at the start: two servers of one name could not be loaded again.
            for (name, answer) in &mut answers.0 {
                answer.clone_from(&World.resolve(name).unwrap());
                answer.insert(0, [10, 2, 0, 1 + below(random, 8) as u8].into());
            }
            Command::Names(answers)
        }
        _ => Command::Clock(state.now_ms + below(random, 3000) as u64),
    }
}

fn begin(random: &mut Numbers) -> Config {
    let dsr = below(random, 3) == 0;
    let mode = one_of(random, &["tcp", "http", "udp"]);
    let mode = if dsr { "dsr" } else { mode };
    let interface = if dsr { "interface = \"eth1\"\n" } else { "" };
    let listen = if dsr { "192.0.2.1:80" } else { "80" };
    let port = if dsr { "" } else { ":80" };
    let mut text = format!(
        "{interface}[[service]]\nname = \"pen\"\nmode = {mode:?}\nlisten = {listen:?}\n\
         [[pool]]\nname = \"pen\"\ntable_size = 4099\nbackend = [\"web1{port}\", \"10.0.0.2{port}\"]\n"
    );
    if below(random, 2) == 0 {
        text += "[[service]]\nname = \"two\"\nmode = \"tcp\"\nlisten = \"8080\"\n\
                 [[pool]]\nname = \"two\"\ntable_size = 4099\nbackend = [\"10.0.0.7:80\"]\n";
    }
    let read = Config::from_toml(&text, "t", &World);
    read.unwrap().into_parts().0
}

/// Says a line; whether anything came of it.
fn say(state: &mut State, line: &str) -> bool {
    let Ok(request) = parse_request(line.as_bytes()) else {
        return false;
    };
    let before = state.clone();
    let applied = match (&request.action, Command::asked(&request)) {
        (Action::Edit(edit), _) => {
            let found = LookedUp::ask(edit, &World);
            let config = before.config();
            match config.edited(request.service.as_deref(), edit, &found) {
                Ok(config) => state.apply(Command::Edit(Box::new(config))),
                Err(_) => return false,
            }
        }
        (_, Some(command)) => state.apply(command),
        (_, None) => return false,
    };
    if let Err(refusal) = &applied {
        assert_eq!(*state, before, "{line}: {refusal}");
    }
    applied.is_ok()
}

/// What must hold whatever was said.
fn holds(state: &State, line: &str) {
    let config = state.config();
    let mut ids = BTreeSet::new();
    for pool in &config.pools {
        for backend in &pool.backends {
            let id = state.id(&pool.name, &backend.name);
            assert!(
                id > 0 && ids.insert(id),
                "{line}: {} of {}",
                backend.name,
                pool.name
            );
        }
    }
    let known = |id: &BackendId| ids.contains(id);
    assert!(state.blacklisted_until_ms.keys().all(known), "{line}");
    for service in &config.services {
        assert!(config.pool(&service.pool).is_some(), "{line}");
    }
}

/// What must hold, and costs something to look at.
fn holds_whole(state: &State, line: &str) {
    let config = state.config().as_written();
    let checked = config.clone().check();
    assert!(checked.is_ok(), "{line}: {}", checked.unwrap_err());
    let known = Known(state);
    let toml = config.to_toml();
    let again =
        Config::from_toml(&toml, "t", &known).unwrap_or_else(|why| panic!("{line}: {why}\n{toml}"));
    assert_eq!(again.config().to_toml(), toml, "{line}");
    if let Ok(commands) = config.to_commands() {
        let again = PenLine::of_commands(Config::default(), &commands, "t", &known);
        let again = again.unwrap_or_else(|why| panic!("{line}: {why}\n{commands}"));
        assert_eq!(again.config().to_toml(), toml, "{line}\n{commands}");
    }
    let snapshot = Snapshot::compile(state, None).unwrap();
    let ids: BTreeSet<BackendId> = state.identities().map(|(id, _)| id).collect();
    for pool in &snapshot.pools {
        assert!(
            pool.slots.iter().all(|id| *id == 0 || ids.contains(id)),
            "{line}"
        );
    }
    for route in routes(state).iter() {
        assert!(
            route.servers.iter().all(|server| server.number.is_some()),
            "{line}"
        );
    }
}

/// Names stand for what they stood for last.
struct Known<'a>(&'a State);

impl Outside for Known<'_> {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let known = self.0.answers().0.get(host).cloned();
        known.ok_or_else(|| "nobody has it".to_owned())
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Err("there are no files".to_owned())
    }
}

#[test]
fn whatever_is_said_the_state_is_one_that_could_be_configured() {
    let (mut applied, mut refused) = (0, 0);
    for sequence in 0..SEQUENCES {
        let mut random = Numbers::from_seed(sequence as u64);
        let mut state = State::new(begin(&mut random), 1);
        for nth in 0..COMMANDS / SEQUENCES {
            if below(&mut random, 10) == 0 {
                let weather = weather(&mut random, &state);
                state.apply(weather).unwrap();
            }
            let line = line(&mut random);
            match say(&mut state, &line) {
                true => applied += 1,
                false => refused += 1,
            }
            holds(&state, &line);
            if nth % LOOK == 0 {
                holds_whole(&state, &format!("sequence {sequence}, {nth}: {line}"));
            }
        }
    }
    assert!(
        applied > COMMANDS / 4 && refused > COMMANDS / 10,
        "{applied} {refused}"
    );
}
