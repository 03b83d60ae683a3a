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

use pen_common::config::{ADDRESSES_MAX, Backend, Config, Pool, Service};

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
/// have. Who comes begins as `written` says, the pools of `config` before any change by command.
pub fn follow(config: &mut Config, answers: &Answers, written: &[Pool]) -> Unused {
    let mut unused = Unused::default();
    for (pool, written) in written.iter().enumerate() {
        for (name, why) in follow_pool(config, pool, &written.backends, answers) {
            unused.0.entry(name).or_default().extend(why);
        }
    }
    for service in 0..config.services.len() {
        follow_spares(config, service, answers);
    }
    unused
}

/// All names of a pool let go of what they have no more before one of them takes anything: they may
/// hand addresses to each other, or exchange them. One that would be left with nothing keeps what
/// it has, which the others can't take then: they are settled again. Gives the addresses that are
/// not made use of, by name.
fn follow_pool(
    config: &mut Config,
    pool: usize,
    written: &[Backend],
    answers: &Answers,
) -> Vec<(String, BTreeSet<String>)> {
    let before = config.pools[pool].backends.clone();
    let named = before.iter().enumerate().filter(|(_, b)| b.of.is_none());
    let heard = named.filter_map(|(number, backend)| {
        let (name, answer) = answers.0.get_key_value(backend.host_name()?)?;
        Some((number, (name, answer.as_slice())))
    });
    let heard: BTreeMap<usize, (&String, &[IpAddr])> = heard.collect();
    let mut keep = BTreeSet::new();
    let reasons = loop {
        let backends = &mut config.pools[pool].backends;
        backends.clone_from(&before);
        for (at, backend) in backends.iter_mut().enumerate() {
            let number = backend.of.unwrap_or(at);
            let answer = heard.get(&number).filter(|_| !keep.contains(&number));
            backend.gone |= answer.is_some_and(|(_, answer)| !answer.contains(&backend.address));
        }
        let moving = heard.iter().filter(|(number, _)| !keep.contains(*number));
        let settled: Vec<_> = moving
            .map(|(number, (_, answer))| {
                let settled = follow_one(config, (pool, *number), &written[*number], answer);
                (*number, settled)
            })
            .collect();
        let empty = settled.iter().filter(|(_, settled)| settled.present == 0);
        let empty: Vec<usize> = empty.map(|(number, _)| *number).collect();
        if empty.is_empty() {
            break settled.into_iter().map(|(number, s)| (number, s.unused));
        }
        keep.extend(empty);
    };
    let kept = keep.iter().map(|number| {
        let (_, answer) = heard[number];
        (*number, refused(config, pool, *number, answer))
    });
    let reasons = reasons.chain(kept).filter(|(_, why)| !why.is_empty());
    let reasons = reasons.map(|(number, why)| (heard[&number].0.clone(), why));
    reasons.collect()
}

/// What became of one name.
struct Settled {
    /// Its back ends that are there.
    present: usize,
    /// Addresses that are not made use of, and why.
    unused: BTreeSet<String>,
}

/// The back ends of back end `number`, which is `written` so.
fn follow_one(
    config: &mut Config,
    (pool, number): (usize, usize),
    written: &Backend,
    answer: &[IpAddr],
) -> Settled {
    let mut unused = BTreeSet::new();
    let mut coming: BTreeSet<IpAddr> = answer.iter().copied().collect();
    let ours: Vec<usize> = ours(&config.pools[pool].backends, number).collect();
    let mut free = Vec::new();
    for at in &ours {
        let was = &config.pools[pool].backends[*at];
        // One that is gone comes back as itself, if nobody else has its address now.
        let admitted = !was.gone || config.admits(&config.pools[pool], was, Some(*at)).is_ok();
        let stays = coming.contains(&was.address) && admitted;
        match stays {
            true => drop(coming.remove(&was.address)),
            false => free.push(*at),
        }
        config.pools[pool].backends[*at].gone = !stays;
    }
    let mut present = ours.len() - free.len();
    let mut free = free.into_iter().peekable();
    for address in coming {
        let settled = match present < ADDRESSES_MAX {
            true => settle(
                config,
                (pool, number),
                written,
                (address, free.peek().copied()),
            ),
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
    Settled { present, unused }
}

/// The numbers of the back ends that are of back end `number` as written.
fn ours(backends: &[Backend], number: usize) -> impl Iterator<Item = usize> + '_ {
    let all = backends.iter().enumerate();
    let ours = all.filter(move |(at, backend)| *at == number || backend.of == Some(number));
    ours.map(|(at, _)| at)
}

/// Why a name that keeps what it had can't have what it stands for.
fn refused(config: &Config, pool: usize, number: usize, answer: &[IpAddr]) -> BTreeSet<String> {
    let pool = &config.pools[pool];
    let has = |address: &IpAddr| {
        let mut ours = ours(&pool.backends, number).map(|at| &pool.backends[at]);
        ours.any(|backend| !backend.gone && backend.address == *address)
    };
    let refused = answer.iter().filter(|address| !has(address));
    let refused = refused.filter_map(|address| {
        let new = Backend {
            address: *address,
            ..pool.backends[number].clone()
        };
        let why = config.admits(pool, &new, Some(number)).err()?;
        Some(format!("{address}: {why}"))
    });
    refused.collect()
}

/// Gives an address that comes a number: that of one that is gone, else one at the end.
fn settle(
    config: &mut Config,
    (pool, number): (usize, usize),
    written: &Backend,
    (address, instead): (IpAddr, Option<usize>),
) -> Result<(), String> {
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
