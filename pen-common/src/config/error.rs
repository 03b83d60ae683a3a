//! What is wrong with a configuration: the named thing, the place, the mend.

use std::collections::BTreeMap;
use std::fmt;

use super::Config;

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File as it was named, or `-O`, or the command line.
    pub source: String,
    /// Line, from 1; `None` where there are no lines.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.source),
            None => f.write_str(&self.source),
        }
    }
}

/// One fault of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Where, if it is known.
    pub place: Option<Place>,
    /// Which thing, what is wrong with it, and how to mend it.
    pub what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// All faults that were found, at least one; shown one a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(f, "{line_end}{error}")?;
        }
        Ok(())
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// A thing in a [`Config`] by its index, so that two of the same name stay apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    /// The top level.
    Top,
    /// An access list, by its number.
    Acl(usize),
    /// A service.
    Service(usize),
    /// A pool.
    Pool(usize),
    /// A back end of a pool.
    Backend(usize, usize),
}

impl Item {
    /// How messages call it, with a colon and a blank behind; nothing for the top level.
    pub(crate) fn title(self, config: &Config) -> String {
        let pool = |index: usize| config.pools.get(index);
        match self {
            Self::Top => String::new(),
            Self::Acl(number) => format!("acl {number}: "),
            Self::Service(index) => {
                let name = config
                    .services
                    .get(index)
                    .map_or("", |service| &service.name);
                format!("service {name:?}: ")
            }
            Self::Pool(index) => {
                format!("pool {:?}: ", pool(index).map_or("", |pool| &pool.name))
            }
            Self::Backend(index, backend) => {
                let found = pool(index).and_then(|pool| pool.backends.get(backend));
                let name = found.map_or("", |backend| &backend.name);
                format!(
                    "pool {:?}: back end {name:?}: ",
                    pool(index).map_or("", |p| &p.name)
                )
            }
        }
    }
}

/// Where each thing and each key of a configuration was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(BTreeMap<(Item, &'static str), Place>);

impl Places {
    /// Notes where `key` of `item` stands; the empty key is the item itself.
    pub(crate) fn note(&mut self, item: Item, key: &'static str, place: Place) {
        self.0.insert((item, key), place);
    }

    /// Whether `key` of `item` stands anywhere.
    pub(crate) fn has(&self, item: Item, key: &'static str) -> bool {
        self.0.contains_key(&(item, key))
    }

    /// Where `key` of `item` stands, or else the item.
    pub(crate) fn find(&self, item: Item, key: &'static str) -> Option<Place> {
        self.0
            .get(&(item, key))
            .or_else(|| self.0.get(&(item, "")))
            .cloned()
    }
}
