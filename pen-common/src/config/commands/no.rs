//! `no` before a command: what it turns off.

use super::super::Balance;
use super::super::acl::AclChange;
use super::super::given::Given;
use super::super::hsts::OFF;
use super::super::keys::read_acl_number;
use super::super::nearest::did_you_mean;
use super::super::service_keys::NONE;
use super::super::service_keys::left_out::{self, LEFT_OUT};
use super::super::sni_route::{SniRoute, WITHOUT};
use super::without_effect::{NO_EFFECT, NOT_YET};
use super::{
    Command, HSTS, KEEPALIVE, LISTS, LOG, SNI_ROUTE, TARPIT_ACL, TRANSPARENT, WEB_STATS, flag,
    option, setting, shown,
};

/// Parses what follows `no`.
pub(super) fn no(words: &[&str]) -> Result<Command, String> {
    match words {
        ["acl", number] => {
            let number = read_acl_number("acl", Given::Word(number))?;
            Ok(Command::Acl(number, AclChange::Clear))
        }
        ["acl", ..] => Err("`no acl` takes the number of the list: no acl 1".to_owned()),
        [KEEPALIVE] => Ok(flag(KEEPALIVE, false)),
        [TRANSPARENT] => Ok(flag(TRANSPARENT, false)),
        [HSTS] => option(HSTS, &[OFF]),
        [LOG] => option(LOG, &["off"]),
        [TARPIT_ACL] => setting(TARPIT_ACL, &["-1"]),
        [WEB_STATS] => setting(WEB_STATS, &["off"]),
        [word] if let Some(key) = LISTS.iter().find(|key| *key == word) => Ok(Command::Option {
            key,
            value: Some(NONE.to_owned()),
        }),
        [word] if let Some(key) = left_out::names().find(|key| key == word) => {
            Ok(Command::Option {
                key,
                value: Some(LEFT_OUT.to_owned()),
            })
        }
        [SNI_ROUTE, name] => {
            let read = SniRoute::read_name(name);
            let name = read.map_err(|why| format!("no {SNI_ROUTE}: {:?} {why}", shown(name)))?;
            Ok(Command::Option {
                key: SNI_ROUTE,
                value: Some(format!("{WITHOUT}{name}")),
            })
        }
        ["http"] => Ok(Command::Http(false)),
        ["udp"] => Ok(Command::Udp(false)),
        // Pen took this in silence and kept the list.
        [word @ ("client_acl" | "control_acl"), ..] => Ok(Command::Nothing(format!(
            "`no {word}` has no effect: empty the list by `no acl N`"
        ))),
        ["tcp_nodelay"] => Ok(Command::Nothing(
            "`no tcp_nodelay` has no effect: TCP_NODELAY is always set".to_owned(),
        )),
        [word] if idle().any(|known| known == *word) => {
            Ok(Command::Nothing(format!("`no {word}`: it is off anyway")))
        }
        [word, ..] => {
            if let ([_], Ok(switch)) = (words, word.parse()) {
                return Ok(Command::Switch(switch, false));
            }
            Err(no_such(word))
        }
        [] => Err("`no` what? For instance: no roundrobin".to_owned()),
    }
}

/// What `no` changes nothing of.
fn idle() -> impl Iterator<Item = &'static str> {
    let no_effect = NO_EFFECT.iter().map(|(name, _)| *name);
    no_effect.chain(NOT_YET.iter().map(|(name, _)| *name))
}

/// Why `no` before a word says nothing, with the nearest word behind which it would.
fn no_such(word: &str) -> String {
    let flags = [
        "acl",
        "http",
        HSTS,
        KEEPALIVE,
        LOG,
        TARPIT_ACL,
        TRANSPARENT,
        "udp",
        WEB_STATS,
    ];
    let switches = Balance::ALL.iter().map(|switch| switch.word());
    let keys = LISTS.iter().copied().chain(left_out::names());
    let hint = did_you_mean(word, idle().chain(switches).chain(keys).chain(flags));
    format!(
        "there is no `{}` to be turned off by `no`{hint}",
        shown(word)
    )
}
