//! Whether what is said of the control socket can be meant.

use super::Check;
use crate::config::error::Item;
use crate::config::{ACLS_MAX, CONTROL_MODE_DEFAULT};

impl Check<'_> {
    pub(super) fn control(&mut self) {
        let config = self.config;
        if let Err(why) = config.check_control() {
            self.wrong(Item::Top, "control", why);
        }
        if usize::from(config.control_acl) >= ACLS_MAX {
            let (acl, last) = (config.control_acl, ACLS_MAX - 1);
            let why = format!("control_acl = {acl} is out of range (0..={last})");
            self.wrong(Item::Top, "control_acl", why);
        }
        let of_files = [
            ("control_mode", config.control_mode != CONTROL_MODE_DEFAULT),
            ("control_owner", config.control_owner.is_some()),
        ];
        for (key, _) in of_files.iter().filter(|(_, said)| *said) {
            if config.has_control_port() {
                let why = format!(
                    "{key} speaks of a socket's file, and control names a port: leave it out, or \
                     name a path"
                );
                self.wrong(Item::Top, key, why);
            } else if config.control.is_none() {
                self.note(
                    Item::Top,
                    format!("{key} has no effect: there is no control socket (control, -C)"),
                );
            }
        }
    }
}
