//! What is asked for over the control socket, as a command to the state.

use pen_common::control::{Action, Request};

use super::Command;

impl Command {
    /// The change that a request asks for; `None` if it asks for something else, or for another
    /// configuration, which is made first.
    pub fn asked(request: &Request) -> Option<Self> {
        let service = request.service.clone();
        match &request.action {
            Action::Server(server, changes) => Some(Self::Server {
                service,
                server: server.clone(),
                changes: changes.clone(),
            }),
            Action::Drain(server, on) => Some(Self::Drain {
                service,
                server: server.clone(),
                on: *on,
            }),
            Action::Switch(switch, on) => Some(Self::Switch {
                service,
                switch: *switch,
                on: *on,
            }),
            Action::Option {
                key,
                value: Some(value),
            } => Some(Self::Option {
                service,
                key,
                value: value.clone(),
            }),
            Action::Setting {
                key,
                value: Some(value),
            } => Some(Self::Setting {
                key,
                value: value.clone(),
            }),
            Action::Acl(number, change) => Some(Self::Acl(*number, change.clone())),
            Action::Option { value: None, .. }
            | Action::Apply(_)
            | Action::Blank
            | Action::Close(_)
            | Action::ConfigDiff
            | Action::ConfigShow(_)
            | Action::Connection(_)
            | Action::Connections
            | Action::Control
            | Action::Counters
            | Action::Debug(_)
            | Action::Edit(_)
            | Action::Exit
            | Action::Listen
            | Action::Mode
            | Action::Nothing
            | Action::Ocsp
            | Action::OcspCheck { .. }
            | Action::Pid
            | Action::Recent(_)
            | Action::Reload
            | Action::Resolve
            | Action::Servers
            | Action::Setting { value: None, .. }
            | Action::Services
            | Action::Status
            | Action::Stop
            | Action::Write(_) => None,
        }
    }
}
