//! Whether the tarpit takes addresses that somebody has.

use super::Check;
use crate::config::error::Item;
use crate::config::{ACLS_MAX, Config};

impl Check<'_> {
    pub(super) fn tarpit(&mut self) {
        let config = self.config;
        if let Err(why) = config.check_tarpit() {
            self.wrong(Item::Top, "tarpit_acl", why);
        }
        let Some(number) = config.tarpit_acl else {
            return;
        };
        if config.dsr_services().next().is_none() {
            let why = "tarpit_acl has no effect: there is no service in DSR, past the kernel";
            self.note(Item::Top, why);
        } else if config.tarpit().is_none_or(|acl| acl.lines.is_empty()) {
            let why = format!("tarpit_acl has no effect: list {number} is empty, and traps nobody");
            self.note(Item::Top, why);
        }
    }
}

impl Config {
    /// Whether the tarpit leaves alone whom this configuration knows, as must be so after every change
    /// of it.
    ///
    /// # Errors
    /// The first address that it would answer for in somebody's place, or a number of no list.
    pub fn check_tarpit(&self) -> Result<(), String> {
        let Some(number) = self.tarpit_acl else {
            return Ok(());
        };
        if usize::from(number) >= ACLS_MAX {
            let last = ACLS_MAX - 1;
            return Err(format!(
                "tarpit_acl = {number} is out of range (0..={last}, or -1 for none)"
            ));
        }
        let Some(acl) = self.tarpit() else {
            return Ok(());
        };
        match self.inhabited().find(|(address, _)| acl.traps(*address)) {
            None => Ok(()),
            Some((address, who)) => Err(format!(
                "the tarpit would answer for {who}: list {number} permits {address}; deny it in a \
                 line before"
            )),
        }
    }
}
