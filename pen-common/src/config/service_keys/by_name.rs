//! Keys of a service by their names, as commands and flags set and show them.

use ::toml::Value;

use super::SERVICE;
use super::left_out::LEFT_OUT;
use crate::config::given::Given;
use crate::config::{Mode, Service, UDP_IDLE_DEFAULT};

impl Service {
    /// Sets a key of a service to a value in words, as a command or a flag gives it. A key that
    /// takes a list gets one more element; what `no` before the key says is a value as well.
    ///
    /// # Errors
    /// A sentence that names the key, the value and what may stand there.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match SERVICE.iter().find(|known| known.name == key) {
            Some(_) if value == LEFT_OUT => self.leave_out(key),
            Some(known) => (known.read)(self, Given::Word(value)),
            None => Err(format!("a service has no key `{key}`")),
        }
    }

    /// Whether a key means something in this service's mode.
    pub fn has_key(&self, key: &str) -> bool {
        let mut named = SERVICE.iter().filter(|known| known.name == key);
        named.any(|known| {
            known
                .only
                .is_none_or(|only| self.mode.knows(key, Some(only)))
        })
    }

    /// What Pen answers to the command `key` without a value; empty if the key is unset.
    pub fn shown(&self, key: &str) -> String {
        if key == "idle_timeout" {
            let seconds = match (self.mode, self.proxy.idle_timeout) {
                (Mode::Udp, 0) => UDP_IDLE_DEFAULT,
                (_, seconds) => seconds,
            };
            return format!("Idle timeout: {seconds} seconds");
        }
        let known = SERVICE.iter().find(|known| known.name == key);
        match known.and_then(|known| (known.write)(self)) {
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
            None => String::new(),
        }
    }
}
