//! `docs/moving-from-pen.md` says what becomes of every flag and every command: each row of its
//! tables is tried on the program, and nothing that the program knows is missing there.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use pen::cli::{Action, Start, Stop, parse};
use pen_common::config::{Command, CommandFault, Config, ConfigForm, Outside};

const PAGE: &str = include_str!("../../docs/moving-from-pen.md");

/// A world where every file holds the same.
struct World(String);

impl Outside for World {
    fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, String> {
        Ok(vec![[192, 0, 2, 9].into()])
    }

    fn read(&self, _: &Path) -> Result<String, String> {
        Ok(self.0.clone())
    }
}

fn world() -> World {
    World("timeout 4\n".to_owned())
}

/// Cells of the table whose header begins with this word.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let begin = format!("| {head} |");
    let lines = PAGE.lines().skip_while(|line| !line.starts_with(&begin));
    let rows = lines.skip(2).take_while(|line| line.starts_with('|'));
    let rows = rows.map(|row| {
        let row = row.strip_prefix('|').unwrap().strip_suffix('|').unwrap();
        row.split('|').map(str::trim).collect()
    });
    let rows: Vec<Vec<_>> = rows.collect();
    assert!(rows.len() > 3, "there is no table of {head}");
    rows
}

/// What stands between backquotes.
fn quoted(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split('`').skip(1).step_by(2)
}

/// The words of a row's flag, as a shell would take them apart.
fn flag_words(flag: &'static str) -> Vec<&'static str> {
    match flag.split_once(' ') {
        None => vec![flag],
        Some((letter, value)) => vec![letter, value.trim_matches('"')],
    }
}

fn started(words: &[&str]) -> Result<Start, String> {
    match parse(["pen"].iter().chain(words)) {
        Ok(Action::Run(start)) => Ok(start),
        Err(Stop::Wrong(why)) => Err(why),
        other => panic!("{words:?} gave {other:?}"),
    }
}

/// What a flag needs beside it to mean anything.
fn company(flag: &str) -> &'static [&'static str] {
    match flag {
        "-j" => &["-u", "nobody"],
        "-K" | "-G" => &["-E", "cert.pem"],
        "-R" => &["-E", "cert.pem", "-A", "/etc/pen/clients"],
        "-A" => &["-E", "cert.pem", "-R"],
        _ => &[],
    }
}

#[test]
fn each_flag_does_what_its_row_says() {
    for row in table("Flag") {
        let [flag, long, verdict, remark] = row[..] else {
            panic!("{row:?}")
        };
        let flag = quoted(flag).next().unwrap();
        let (words, served) = (flag_words(flag), ["80", "10.0.0.11"]);
        let line = [&words, company(words[0]), &served].concat();
        let start = started(&line);
        match verdict {
            "same" | "better" | "other" => {
                let start = start.unwrap_or_else(|why| panic!("{flag}: {why}"));
                let checked = start.read(&world()).unwrap_or_else(|why| panic!("{why}"));
                let notes = [start.notes(), checked.notes()].concat();
                assert_eq!(notes, [""; 0], "{flag}");
                assert!(verdict == "same" || !remark.is_empty(), "{flag}");
                if !long.is_empty() {
                    let long = [quoted(long).next().unwrap()];
                    let line = [&long, &words[1..], company(words[0]), &served].concat();
                    assert_eq!(started(&line), Ok(start), "{line:?}");
                } else {
                    assert!(flag.starts_with("-o "), "{flag} has no long name");
                }
            }
            "no effect" => {
                let notes = start.unwrap().notes().to_vec();
                assert_eq!(notes.len(), 1, "{flag}: {notes:?}");
                assert!(notes[0].contains(" has no effect: ") || notes[0].contains("stays"));
                assert!(!remark.is_empty(), "{flag}");
            }
            "refused" | "not yet" => {
                let why = start.expect_err(flag);
                let named = why.starts_with(&format!("error: {} (", words[0]));
                let control = words[0] == "-C" && why.starts_with("error: control = ");
                assert!(named || control, "{flag}: {why}");
                let later = why.contains("isn't in this version yet") || control;
                assert_eq!(later, verdict == "not yet", "{flag}: {why}");
                assert!(!remark.is_empty(), "{flag}");
            }
            other => panic!("{flag}: {other} is none of the words"),
        }
    }
}

/// Writes what a line means in both forms, and reads both.
fn assert_same_in_both_forms(line: &[&str]) {
    let start = started(line).unwrap_or_else(|why| panic!("{line:?}: {why}"));
    let checked = start.read(&world());
    let checked = checked.unwrap_or_else(|why| panic!("{line:?}: {why}"));
    let config = checked.config();
    let toml = config.written(ConfigForm::Toml).unwrap();
    let again = Config::from_toml(&toml, "pen.toml", &world());
    let again = again.unwrap_or_else(|why| panic!("{line:?}: {why}\n{toml}"));
    assert_eq!(again.config(), config, "{line:?}\n{toml}");
    let commands = again.config().written(ConfigForm::Commands);
    let commands = commands.unwrap_or_else(|why| panic!("{line:?}: {why}\n{toml}"));
    let again = started(&["-F", "pen.cfg"]).unwrap();
    let again = again.read(&World(commands.clone()));
    let again = again.unwrap_or_else(|why| panic!("{line:?}: {why}\n{commands}"));
    assert_eq!(again.config(), config, "{line:?}\n{commands}");
}

#[test]
fn each_flag_and_command_is_the_same_in_both_forms() {
    let accepted = |verdict| ["same", "better", "other", "no effect"].contains(&verdict);
    for row in table("Flag").iter().filter(|row| accepted(row[2])) {
        let words = flag_words(quoted(row[0]).next().unwrap());
        let served = ["80", "10.0.0.11", "[2001:db8::2]:81:1:2:3:4"];
        assert_same_in_both_forms(&[&words, company(words[0]), &served].concat());
    }
    for row in table("Command").iter().filter(|row| accepted(row[1])) {
        for command in quoted(row[0]).filter(|command| !command.starts_with("listen")) {
            let mut line = vec!["-O", command, "192.0.2.1:80", "10.0.0.11"];
            if command.starts_with("ssl_") {
                line.extend(["-E", "cert.pem"]);
            }
            assert_same_in_both_forms(&line);
        }
    }
    const LINES: &[&[&str]] = &[
        &[
            "-O",
            "http",
            "-O",
            "trusted 10.0.0.0/8",
            "-O",
            "hsts 9 preload",
            "-E",
            "c",
            "443",
            "web1:80",
        ],
        &[
            "-O",
            "udp",
            "-O",
            "no udp",
            "-O",
            "backlog 9",
            "80",
            "10.0.0.11",
        ],
        &[
            "-O",
            "emergency 10.0.0.9:81",
            "-O",
            "abuse /run/no",
            "80",
            "10.0.0.11",
        ],
        &["-H", "-O", "redirect https", "80"],
        &[
            "-U",
            "-O",
            "dsr_if eth1",
            "-r",
            "192.0.2.1:53",
            "10.0.0.11",
            "10.0.0.12",
        ],
        &[
            "-O",
            "server_tls verified",
            "-O",
            "server_tls_name a.test",
            "80",
            "10.0.0.11",
            "10.0.0.11:81",
        ],
        &["/run/pen.sock", "/run/db.sock", "web1:80"],
    ];
    LINES
        .iter()
        .for_each(|line| assert_same_in_both_forms(line));
}

#[test]
fn every_flag_has_its_row() {
    let rows = table("Flag");
    let told: BTreeSet<&str> = rows
        .iter()
        .map(|row| quoted(row[0]).next().unwrap().split(' ').next().unwrap())
        .collect();
    for letter in ('a'..='z').chain('A'..='Z').chain('0'..='9') {
        let flag = format!("-{letter}");
        let known = match parse(["pen", &flag]) {
            Err(Stop::Wrong(why)) => !why.contains("unexpected argument"),
            _ => true,
        };
        assert_eq!(told.contains(flag.as_str()), known, "{flag}");
    }
    let Err(Stop::Shown(help)) = parse(["pen", "--help"]) else {
        panic!("--help")
    };
    let long = help.lines().filter(|line| line.starts_with("  "));
    let long = long.filter_map(|line| {
        let name = line.trim_start();
        let name = name
            .get(4..)
            .filter(|_| name.starts_with('-') && !name.starts_with("--"));
        name.or(Some(line.trim_start()))?.split(' ').next()
    });
    let long = long.filter(|name| name.starts_with("--"));
    let long: BTreeSet<&str> = long.map(|name| name.trim_end_matches('.')).collect();
    assert!(long.len() > 25, "{long:?}");
    for name in long {
        let told = PAGE.contains(&format!("`{name}`")) || PAGE.contains(&format!("`{name} "));
        assert!(told, "{name} is not in the page");
    }
}

#[test]
fn each_command_does_what_its_row_says() {
    for row in table("Command") {
        let [commands, verdict, remark] = row[..] else {
            panic!("{row:?}")
        };
        assert!(verdict == "same" || !remark.is_empty());
        for command in quoted(commands) {
            let parsed = Command::parse(command);
            let right = match verdict {
                "same" | "better" | "other" => {
                    matches!(&parsed, Ok(Some(command)) if !matches!(command, Command::Nothing(_)))
                }
                "no effect" => matches!(parsed, Ok(Some(Command::Nothing(_)))),
                "refused" => {
                    matches!(&parsed, Err(CommandFault::Refused(why)) if !why.contains("there yet"))
                }
                "not yet" => {
                    matches!(&parsed, Err(CommandFault::Refused(why)) if why.contains("there yet"))
                }
                other => panic!("{command}: {other} is none of the words"),
            };
            assert!(right, "{command} is not {verdict}: {parsed:?}");
        }
    }
}

#[test]
fn every_command_has_its_place() {
    let begins = |text| quoted(text).map(|command| command.split(' ').next().unwrap());
    let rows = table("Command");
    let mut told: BTreeSet<&str> = rows.iter().flat_map(|row| begins(row[0])).collect();
    let (_, new) = PAGE.split_once("\nNew ones, described in").unwrap();
    let (new, _) = new.split_once("\n\n").unwrap();
    let (_, new) = new.split_once(":\n").unwrap();
    for word in quoted(new) {
        assert!(told.insert(word), "{word} is told twice");
    }
    let known: BTreeSet<&str> = Command::words().collect();
    assert_eq!(told, known);
}

#[test]
fn pens_own_flags_and_commands_are_all_told() {
    let flags =
        "a b c d e f h i j l m o O p q r s t u w x A B C E F G H K L P R T U W X Z D n Q S N";
    for letter in flags.split(' ') {
        let told = table("Flag").iter().any(|row| {
            let flag = quoted(row[0]).next().unwrap();
            flag.split(' ').next() == Some(&format!("-{letter}"))
        });
        assert!(told, "-{letter}");
    }
    let commands = "abort_on_error acl ascii blacklist client_acl clients_max close connection \
        conn_max control control_acl debug dsr_if dsr_ip dummy epoll kqueue poll select exit hash \
        http idle_timeout idlers include keepalive listen log mode peek pending_max pid prio recent \
        roundrobin server servers socket source ssl_ciphers ssl_client_renegotiation_interval \
        ssl_ocsp_response ssl_option ssl_sni_path status stubborn tarpit_acl tcp_fastclose \
        tcp_nodelay timeout tracking transparent web_stats weight write block delayed_forward no";
    for command in commands.split_ascii_whitespace() {
        let told = table("Command").iter().any(|row| {
            let mut commands = quoted(row[0]);
            commands.any(|told| told.split(' ').next() == Some(command))
        });
        assert!(told, "{command}");
    }
    let programs = "penctl penctl.cgi penlog penlogd mergelogs pen-ocsp.sh penstats";
    let told: Vec<&str> = table("Program")
        .iter()
        .flat_map(|row| quoted(row[0]))
        .collect();
    assert_eq!(told, programs.split(' ').collect::<Vec<_>>());
    let told: Vec<&str> = table("Signal").iter().map(|row| row[0]).collect();
    assert_eq!(told, ["HUP", "TERM", "USR1", "USR2"]);
}
