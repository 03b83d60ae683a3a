//! What is different between two configurations, and what of that a running Pen can't change.

use std::collections::BTreeMap;

use super::keys::{BACKEND, CONFIG, Key};
use super::service_keys::SERVICE;
use super::{Config, Pool, Service};

/// Keys of the top level that can change while Pen runs. All others are about how it was started, or
/// about its interface.
const LIVE: &[&str] = &[
    "seed",
    "debug",
    "allow_exit",
    "control_acl",
    "tarpit_acl",
    "web_stats",
    "drain_timeout",
    "on_stop",
];
/// Those that are about an interface: they hold from the first service in DSR to the last.
const OF_INTERFACE: &[&str] = &[
    "interface",
    "plane",
    "xdp_mode",
    "busy",
    "workers",
    "zero_copy",
    "multi_buffer",
    "ring_size",
    "finish_checksums",
    "table_memory",
    "bpffs",
    "run_dir",
];

/// How one configuration comes out of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys of the top level that have another value, `acl` among them.
    pub top: Vec<&'static str>,
    /// Services, by name, that are new, gone or different.
    pub services: BTreeMap<String, Differs>,
    /// Back ends that are new, gone or different, by pool and name.
    pub backends: BTreeMap<(String, String), Differs>,
    /// Places that clients will find, and did not before.
    pub opens: Vec<String>,
    /// Places that they will find no more.
    pub closes: Vec<String>,
}

/// How one thing of two configurations differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Differs {
    /// It is new.
    New,
    /// It is gone.
    Gone,
    /// Its keys of these names have other values.
    Keys(Vec<&'static str>),
}

impl Config {
    /// Keys that `next` has other values for, and that can't change: they hold for as long as Pen runs,
    /// or for as long as services are in DSR.
    pub fn fixed_against(&self, next: &Self) -> Vec<&'static str> {
        let mut keys = unequal(CONFIG, self, next);
        let has_interface = |config: &Self| config.dsr_services().next().is_some();
        let no_interface = !(has_interface(self) && has_interface(next));
        keys.retain(|key| !(LIVE.contains(key) || no_interface && OF_INTERFACE.contains(key)));
        keys
    }

    /// How `next` comes out of this.
    pub fn difference(&self, next: &Self) -> Difference {
        let mut top = unequal(CONFIG, self, next);
        if self.acls != next.acls {
            top.push("acl");
        }
        let (was, is) = (self.places(), next.places());
        let only_in = |these: &[String], those: &[String]| {
            let only = these.iter().filter(|place| !those.contains(place));
            only.cloned().collect()
        };
        Difference {
            top,
            services: differ(
                &self.named_services(),
                &next.named_services(),
                |one, other| unequal(SERVICE, one, other),
            ),
            backends: differ(
                &self.named_backends(),
                &next.named_backends(),
                |one, other| unequal(BACKEND, one, other),
            ),
            opens: only_in(&is, &was),
            closes: only_in(&was, &is),
        }
    }

    fn places(&self) -> Vec<String> {
        let places = self.services.iter().flat_map(|service| {
            let texts = service.listen_texts().into_iter();
            texts.map(move |text| format!("{text} ({})", service.mode))
        });
        places.collect()
    }

    fn named_services(&self) -> BTreeMap<String, &Service> {
        let services = self.services.iter();
        services.map(|one| (one.name.clone(), one)).collect()
    }

    /// As they were written: what a name stands for besides is no part of the configuration.
    fn named_backends(&self) -> BTreeMap<(String, String), &super::Backend> {
        let of_pool = |pool: &'_ Pool| pool.name.clone();
        let all = self.pools.iter().flat_map(|pool| {
            let written = pool.backends.iter().filter(|one| one.of.is_none());
            written.map(move |one| ((of_pool(pool), one.name.clone()), one))
        });
        all.collect()
    }
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn unequal<T>(keys: &[Key<T>], one: &T, other: &T) -> Vec<&'static str> {
    let unequal = keys
        .iter()
        .filter(|key| (key.write)(one) != (key.write)(other));
    unequal.map(|key| key.name).collect()
}

fn differ<K: Ord + Clone, T>(
    was: &BTreeMap<K, &T>,
    is: &BTreeMap<K, &T>,
    unequal: impl Fn(&T, &T) -> Vec<&'static str>,
) -> BTreeMap<K, Differs> {
    let gone = was.keys().filter(|name| !is.contains_key(name));
    let gone = gone.map(|name| (name.clone(), Differs::Gone));
    let others = is.iter().filter_map(|(name, one)| {
        let differs = match was.get(name).map(|before| unequal(before, one)) {
            None => Differs::New,
            Some(keys) if keys.is_empty() => return None,
            Some(keys) => Differs::Keys(keys),
        };
        Some((name.clone(), differs))
    });
    gone.chain(others).collect()
}
