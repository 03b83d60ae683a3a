//! From host names to back ends: a name with several addresses is several back ends.
//!
//! A back end as it was written keeps number and name and takes the first address; each further
//! address is a back end of its own, behind all that were written. When the answer changes,
//!
//! ```text
//!   an address that stays   keeps its number and its name, wherever it stands in the answer
//!   an address that goes    leaves its back end gone: nobody new goes there, the others stay
//!   an address that comes   takes the number of one that is gone, else one at the end
//!   an answer of no use     changes nothing
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pen_common::config::{ADDRESSES_MAX, Backend, Config, Service};

/// What host names stand for, each as it was last heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers(pub BTreeMap<String, Vec<IpAddr>>);

/// Addresses that are not made use of, by name, each with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unused(pub BTreeMap<String, BTreeSet<String>>);

/// The host names that `config` was written with.
pub fn names(config: &Config) -> BTreeSet<String> {
    let pools = config.pools.iter();
    let written = pools.flat_map(|pool| pool.backends.iter().filter(|b| b.of.is_none()));
    let services = config.services.iter();
    let spares = services.flat_map(|s| [&s.proxy.emergency, &s.proxy.abuse]);
    written
        .chain(spares.flatten())
        .filter_map(|backend| backend.host_name().map(str::to_owned))
        .collect()
}

/// The addresses of all back ends, of those that are gone as well.
pub fn addresses(config: &Config) -> BTreeSet<IpAddr> {
    let backends = config.pools.iter().flat_map(|pool| &pool.backends);
    backends.map(|backend| backend.address).collect()
}

/// What the names stood for when the configuration was read.
pub fn at_load(config: &Config) -> Answers {
    let mut answers = BTreeMap::new();
    let pools = config.pools.iter();
    let spares = config.services.iter();
    let spares = spares
        .flat_map(|s| [&s.proxy.emergency, &s.proxy.abuse])
        .flatten();
    for backend in pools.flat_map(|pool| &pool.backends).chain(spares) {
        if let (Some(name), None) = (backend.host_name(), backend.of) {
            let all = [&[backend.address], backend.further.as_slice()].concat();
            answers.insert(name.to_owned(), all);
        }
    }
    Answers(answers)
}

/// Makes the back ends those that `answers` stand for. Names that are not in there keep what they
/// have.
pub fn follow(config: &mut Config, answers: &Answers) -> Unused {
    let mut unused = Unused::default();
    for pool in 0..config.pools.len() {
        let written = config.pools[pool].backends.iter();
        let written = written.filter(|backend| backend.of.is_none()).count();
        for number in 0..written {
            let name = config.pools[pool].backends[number].host_name();
            let Some((name, answer)) = name.and_then(|name| answers.0.get_key_value(name)) else {
                continue;
            };
            let why = follow_one(config, pool, number, answer);
            if !why.is_empty() {
                unused.0.entry(name.clone()).or_default().extend(why);
            }
        }
    }
    for service in 0..config.services.len() {
        follow_spares(config, service, answers);
    }
    unused
}

/// The back ends of back end `number` as written; gives the addresses that are not made use of.
fn follow_one(
    config: &mut Config,
    pool: usize,
    number: usize,
    answer: &[IpAddr],
) -> BTreeSet<String> {
    let mut unused = BTreeSet::new();
    let mut coming: BTreeSet<IpAddr> = answer.iter().copied().collect();
    let backends = &config.pools[pool].backends;
    let ours = backends.iter().enumerate();
    let ours = ours.filter(|(at, backend)| *at == number || backend.of == Some(number));
    let before: Vec<(usize, Backend)> = ours.map(|(at, b)| (at, b.clone())).collect();
    let count = backends.len();
    let mut free = Vec::new();
    for (at, was) in &before {
        // One that is gone comes back as itself, if nobody else has its address now.
        let admitted = !was.gone || config.admits(&config.pools[pool], was, Some(*at)).is_ok();
        let stays = coming.contains(&was.address) && admitted;
        match stays {
            true => drop(coming.remove(&was.address)),
            false => free.push(*at),
        }
        config.pools[pool].backends[*at].gone = !stays;
    }
    let mut present = before.len() - free.len();
    let mut free = free.into_iter().peekable();
    for address in coming {
        let settled = match present < ADDRESSES_MAX {
            true => settle(config, pool, number, (address, free.peek().copied())),
            false => Err(format!("a name has {ADDRESSES_MAX} at most")),
        };
        match settled {
            Ok(()) => {
                free.next();
                present += 1;
            }
            Err(why) => drop(unused.insert(format!("{address}: {why}"))),
        }
    }
    if present == 0 {
        let backends = &mut config.pools[pool].backends;
        backends.truncate(count);
        for (at, was) in before {
            backends[at] = was;
        }
    }
    unused
}

/// Gives an address that comes a number: that of one that is gone, else one at the end.
fn settle(
    config: &mut Config,
    pool: usize,
    number: usize,
    (address, instead): (IpAddr, Option<usize>),
) -> Result<(), String> {
    let written = &config.pools[pool].backends[number];
    let new = match instead {
        Some(at) if at == number => Backend {
            address,
            gone: false,
            ..written.clone()
        },
        _ => Backend {
            name: format!("{}/{address}", written.name),
            address,
            further: Vec::new(),
            of: Some(number),
            gone: false,
            ..written.clone()
        },
    };
    config.admits(&config.pools[pool], &new, instead)?;
    let backends = &mut config.pools[pool].backends;
    match instead {
        Some(at) => backends[at] = new,
        None => backends.push(new),
    }
    Ok(())
}

/// Servers of no number have one address: the one they have while the name stands for it, else the
/// first that will do.
fn follow_spares(config: &mut Config, service: usize, answers: &Answers) {
    let Service { pool, proxy, .. } = &config.services[service];
    let moved = |spare: &Option<Backend>| {
        let spare = spare.as_ref()?;
        let answer = answers.0.get(spare.host_name()?)?;
        let mut first: Vec<IpAddr> = answer.clone();
        first.sort_unstable();
        let stays = first.contains(&spare.address);
        let mut others = first.into_iter().filter(|_| !stays).map(|address| Backend {
            address,
            ..spare.clone()
        });
        others.find(|other| config.admits_spare(pool, other).is_ok())
    };
    let (emergency, abuse) = (moved(&proxy.emergency), moved(&proxy.abuse));
    let proxy = &mut config.services[service].proxy;
    for (spare, moved) in [(&mut proxy.emergency, emergency), (&mut proxy.abuse, abuse)] {
        if moved.is_some() {
            *spare = moved;
        }
    }
}

#[cfg(test)]
mod tests;
