//! `server N KEY VALUE ...`: changes of a back end.

use super::super::BACKENDS_PER_POOL_MAX;
use super::super::address::{parse_named_port, parse_number, parse_server};
use super::super::given::Given;
use super::super::keys::{read_acl_number, read_host};
use super::super::nearest::did_you_mean;
use super::{Command, shown};

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
    /// Number of the access list of those that it serves.
    Acl(u8),
}

/// Parses what follows `server`.
pub(super) fn server(words: &[&str]) -> Result<Command, String> {
    let Some((server, words)) = words.split_first() else {
        return Err("server takes a number or name, then KEY VALUE: server 0 weight 2".to_owned());
    };
    match *server {
        "add" => return add(words),
        "remove" => return one("remove", words).map(Command::ServerRemove),
        "drain" => return one("drain", words).map(|server| Command::ServerDrain(server, true)),
        "undrain" => {
            return one("undrain", words).map(|server| Command::ServerDrain(server, false));
        }
        _ => {}
    }
    let server = reference(server)?;
    if words.is_empty() {
        return Err("server: nothing to change: server 0 weight 2".to_owned());
    }
    Ok(Command::Server(server, changes(words)?))
}

fn reference(word: &str) -> Result<ServerRef, String> {
    Ok(match word.bytes().all(|b| b.is_ascii_digit()) {
        true => ServerRef::Index(parse_number(
            "server",
            &shown(word),
            0..=BACKENDS_PER_POOL_MAX - 1,
        )?),
        false => ServerRef::Name(word.to_owned()),
    })
}

fn add(words: &[&str]) -> Result<Command, String> {
    let Some((server, words)) = words.split_first() else {
        return Err("server add takes HOST:PORT, then KEY VALUE: server add web3:80".to_owned());
    };
    parse_server(server)?;
    Ok(Command::ServerAdd((*server).to_owned(), changes(words)?))
}

fn one(what: &str, words: &[&str]) -> Result<ServerRef, String> {
    match words {
        [server] => reference(server),
        _ => Err(format!(
            "server {what} takes one number or name: server {what} 1"
        )),
    }
}

fn changes(words: &[&str]) -> Result<Vec<Change>, String> {
    let changes = words.chunks(2).map(|pair| match pair {
        [key, value] => change(key, value),
        _ => Err(format!("server: {:?} has no value", shown(pair[0]))),
    });
    changes.collect()
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
        "acl",
    ];
    let number = || parse_number(key, value, 0..=u32::MAX);
    match key {
        "address" => read_host(Given::Word(value)).map(Change::Address),
        "port" => parse_named_port(value).map(Change::Port),
        "max" => number().map(Change::Max),
        "hard" => number().map(Change::Hard),
        "blacklist" => number().map(Change::Blacklist),
        "weight" => parse_number(key, value, 0..=u16::MAX).map(Change::Weight),
        "prio" => number().map(Change::Prio),
        "acl" => read_acl_number(key, Given::Word(value)).map(Change::Acl),
        _ => {
            let hint = did_you_mean(key, KEYS.iter().copied());
            Err(format!("server: there is no key `{}`{hint}", shown(key)))
        }
    }
}
