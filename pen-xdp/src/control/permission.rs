//! Who may ask at a control port now: the loop that changes it and the one that takes clients share it.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use pen_common::config::Config;

/// What `control_acl` says, with the list that it names.
#[derive(Debug)]
pub struct Permission(Mutex<Config>);

impl Permission {
    /// By a configuration.
    pub fn of(config: &Config) -> Self {
        Self(Mutex::new(lists(config)))
    }

    /// Goes by this configuration from now on.
    pub fn follow(&self, config: &Config) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = lists(config);
    }

    /// Whether a client of the port may ask.
    pub fn may_ask(&self, client: IpAddr) -> bool {
        let config = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        config.may_ask(client)
    }
}

/// What counts here of a configuration, which may be large.
fn lists(config: &Config) -> Config {
    Config {
        acls: config.acls.clone(),
        control_acl: config.control_acl,
        ..Config::default()
    }
}
