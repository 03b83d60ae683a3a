//! What Pen answers to a change that was made: the new value, of keys that have one in Pen. Scripts
//! read it.

use pen_common::{
    config::Edit,
    control::{Action, Request, Value},
};

use super::{Daemon, start::listen_line};

/// Those keys.
const ECHOED: &[&str] = &[
    "blacklist",
    "client_acl",
    "clients_max",
    "conn_max",
    "control_acl",
    "idle_timeout",
    "log",
    "tarpit_acl",
    "timeout",
    "tracking",
    "web_stats",
];

impl Daemon {
    /// The answer to a change that is in force.
    pub(super) fn echo(&self, request: &Request) -> Value {
        let state = &self.change.state;
        if let Action::Option { key, .. } = &request.action
            && ECHOED.contains(key)
            && let Ok(service) = state.only(request.service.as_deref(), key)
        {
            return Value::Text(service.shown(key));
        }
        if let Action::Setting { key, .. } = &request.action
            && ECHOED.contains(key)
        {
            return Value::Text(state.config().shown(key));
        }
        if let Action::Edit(Edit::Listen(_)) = &request.action {
            return Value::Text(listen_line(state.config().services.iter()));
        }
        Value::Applied
    }
}
