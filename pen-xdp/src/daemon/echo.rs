//! What Pen answers to a change that was made: the new value, of keys that have one in Pen, which
//! scripts read; and whom a change left without clients.

use pen_common::{
    config::{Edit, Service},
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
        if let Action::Option {
            key: "sni_route", ..
        } = &request.action
        {
            let unreached = state.config().unreached().map(Service::why_unreached);
            let lines: Vec<_> = unreached.map(|why| format!("warning: {why}")).collect();
            if !lines.is_empty() {
                return Value::Text(lines.join("\n"));
            }
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
