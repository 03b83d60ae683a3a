//! The control socket's language: what is asked and what is answered, shared by daemon and
//! `penctl`.
//!
//! Pen's protocol: connect, send one line, read until EOF. A raw client (netcat) gets Pen's
//! texts; a line that begins with `json ` gets one JSON object, [`Envelope`].

mod apply;
mod certificates;
mod connections;
mod page;
mod reply;
mod selection;
mod server_tls;
mod status;

use apply::Promise;
pub use apply::{Applied, BODY_BYTES_MAX, Plan, PoolPlan, ServiceLine, body_bytes};
pub use certificates::{CertificateStatus, CertificatesStatus, OcspQuestion};
pub use connections::{ConnectionStatus, RecentClient, Stage};
pub use page::{
    Guests, PAGE_ROWS_MAX, STATISTICS_LINES_MAX, ServerOnPage, ServicePage, StatusPage,
};
pub use reply::{Envelope, Reply, Servers, ServersOfPool, Value, mode_line};
pub use selection::{ChosenBy, Ended, Refused};
pub use server_tls::{HandshakeStatus, ServerTlsStatus};
pub use status::{
    AccessLogStatus, BackendState, BackendStatus, ConfigStatus, Counter, Degraded, DsrStatus,
    FrameAccount, InterfaceStatus, ListenerStatus, NameStatus, NicChange, Owner, PlaneStatus,
    PoolStatus, ProxyServerStatus, ProxyStatus, QueueStatus, Rung, ServedBy, ServerStatus, Status,
    VipStatus, XdpStatistics, XdpStatus,
};

use std::path::PathBuf;

use crate::config::nearest::did_you_mean;
use crate::config::{
    AclChange, Balance, Change, Command, CommandFault, Config, ConfigForm, Edit, ServerRef,
};

/// Longest request in bytes, line feed included (what Pen reads at once).
pub const REQUEST_BYTES_MAX: usize = 4095;

/// What `exit` is answered without [`Config::allow_exit`]: Pen's words.
pub const EXIT_IS_OFF: &str = "Exit is not enabled; restart with -X flag";

/// How the asker wants the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Pen's text.
    Raw,
    /// One JSON object.
    Json,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// How to answer.
    pub form: Form,
    /// Which service is meant (`-s NAME` before the command).
    pub service: Option<String>,
    /// What is wanted.
    pub action: Action,
}

/// What can be asked of a running daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Show everything: [`Status`].
    Status,
    /// Show back ends: [`Servers`].
    Servers,
    /// Show every reason with its count.
    Counters,
    /// Show Pen's switches: [`mode_line`].
    Mode,
    /// Show the process id.
    Pid,
    /// Show the path of the control socket.
    Control,
    /// Show the VIPs.
    Listen,
    /// Show the debug level, or set it.
    Debug(Option<u8>),
    /// Change a back end: all changes or none. [`Config::locate`] finds it.
    Server(ServerRef, Vec<Change>),
    /// Turn one of Pen's switches on or off. In DSR there is `roundrobin` alone: hash over the whole
    /// flow, or the source address.
    Switch(Balance, bool),
    /// Show a key of a service in proxy mode ([`Service::shown`](crate::config::Service::shown)),
    /// or set it ([`Service::set`](crate::config::Service::set)).
    Option {
        /// Name of the key.
        key: &'static str,
        /// Its value, which can stand there; `None` to show it.
        value: Option<String>,
    },
    /// Show a key of the top level ([`Config::shown`]), or set it ([`Config::set`]).
    Setting {
        /// Name of the key.
        key: &'static str,
        /// Its value, which can stand there; `None` to show it.
        value: Option<String>,
    },
    /// Change an access list.
    Acl(u8, AclChange),
    /// Show all connections: [`ConnectionStatus`] each.
    Connections,
    /// Show the connection of this number.
    Connection(u32),
    /// End the connection of this number.
    Close(u32),
    /// Show the clients of the last so many seconds: [`RecentClient`] each.
    Recent(u32),
    /// Show whose staples can be asked for: [`OcspQuestion`] each.
    Ocsp,
    /// Say whether an OCSP answer would be stapled, as a text; refused if not.
    OcspCheck {
        /// File of the certificate.
        certificate: PathBuf,
        /// File with the answer.
        answer: PathBuf,
    },
    /// Stop, and forward nothing any more.
    Stop,
    /// Show the services: [`ServiceLine`] each.
    Services,
    /// Read the configuration again, and make it so.
    Reload,
    /// Put another configuration in place of the one in force, or tell what that would change.
    Apply(Applied),
    /// Show the configuration in force.
    ConfigShow(ConfigForm),
    /// Show how the configuration as it is written differs from the one in force.
    ConfigDiff,
    /// Write the configuration in force to a file; to the one that it came from if none is named.
    Write(Option<PathBuf>),
    /// Change who serves or where clients come in.
    Edit(Edit),
    /// Send a server no new clients, or send it some again.
    Drain(ServerRef, bool),
    /// Accepted and without effect: succeed in silence.
    Nothing,
    /// Look all host names of back ends up at once.
    Resolve,
    /// Stop, as at SIGTERM; refused with [`EXIT_IS_OFF`] where that is not allowed.
    Exit,
    /// A blank line: succeed in silence.
    Blank,
}

impl Action {
    /// Whether it changes something: the log says who did that.
    pub const fn is_change(&self) -> bool {
        match self {
            Self::Server(..)
            | Self::Switch(..)
            | Self::Acl(..)
            | Self::Close(_)
            | Self::Drain(..)
            | Self::Edit(_)
            | Self::Exit
            | Self::Reload
            | Self::Resolve
            | Self::Stop
            | Self::Write(_) => true,
            Self::Apply(applied) => !applied.plan,
            Self::Debug(value) => value.is_some(),
            Self::Option { value, .. } | Self::Setting { value, .. } => value.is_some(),
            Self::Status
            | Self::Servers
            | Self::Counters
            | Self::Mode
            | Self::Pid
            | Self::Control
            | Self::Listen
            | Self::Connections
            | Self::Connection(_)
            | Self::Recent(_)
            | Self::Ocsp
            | Self::OcspCheck { .. }
            | Self::Services
            | Self::ConfigShow(_)
            | Self::ConfigDiff
            | Self::Nothing
            | Self::Blank => false,
        }
    }
}

/// A line that asks for nothing that can be done, and how its sender wants to hear that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// How to answer.
    pub form: Form,
    /// First word, if the command is unknown: Pen's text names it.
    pub unknown: Option<String>,
    /// What is wrong, with the mend.
    pub why: String,
}

impl BadRequest {
    /// The reply; `generation` is that of the running configuration.
    pub fn reply(&self, generation: u64) -> String {
        match (&self.unknown, self.form) {
            (Some(word), Form::Raw) => format!("do_cmd: ignoring command starting with '{word}'\n"),
            (_, form) => Reply {
                generation,
                outcome: Err(self.why.clone()),
            }
            .render(form),
        }
    }
}

/// Parses the bytes of one request; what follows the first line feed is ignored, but for what
/// [`body_bytes`] counts. Total: any bytes of any length have an answer.
///
/// # Errors
/// [`BadRequest`], ready to be sent back.
pub fn parse_request(bytes: &[u8]) -> Result<Request, BadRequest> {
    let line = bytes
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .next()
        .unwrap_or_default();
    let (form, line) = match line.strip_prefix(b"json ") {
        Some(rest) => (Form::Json, rest),
        None => (Form::Raw, line),
    };
    let refused = |why: String| BadRequest {
        form,
        unknown: None,
        why,
    };
    if line.len() >= REQUEST_BYTES_MAX {
        return Err(refused(format!(
            "the request is longer than {REQUEST_BYTES_MAX} bytes"
        )));
    }
    let line = String::from_utf8_lossy(line);
    let (service, command) = split_service(&line).map_err(refused)?;
    if let Some(promise) = Promise::read(command) {
        let body = bytes.iter().position(|byte| *byte == b'\n');
        let body = body
            .and_then(|end| bytes.get(end + 1..))
            .unwrap_or_default();
        if service.is_some() {
            let why = "apply and plan are about the whole configuration: leave out -s";
            return Err(refused(why.to_owned()));
        }
        let applied = promise.and_then(|promise| promise.keep(body));
        return Ok(Request {
            form,
            service,
            action: Action::Apply(applied.map_err(refused)?),
        });
    }
    let action = match Command::parse(command) {
        Ok(Some(command)) => live(command).map_err(refused)?,
        Ok(None) => Action::Blank,
        Err(CommandFault::Refused(why)) => return Err(refused(why)),
        Err(CommandFault::Unknown { word, hint }) => {
            let why = CommandFault::Unknown {
                word: word.clone(),
                hint,
            }
            .to_string();
            return Err(BadRequest {
                form,
                unknown: Some(word),
                why,
            });
        }
    };
    Ok(Request {
        form,
        service,
        action,
    })
}

/// Takes `-s SERVICE` off the front.
fn split_service(line: &str) -> Result<(Option<String>, &str), String> {
    let line = line.trim_start();
    let Some(rest) = line
        .strip_prefix("-s")
        .filter(|rest| !rest.starts_with(char::is_alphanumeric))
    else {
        return Ok((None, line));
    };
    let (service, command) = rest.trim_start().split_once(' ').unwrap_or_default();
    match service.is_empty() {
        true => Err("-s takes the name of a service, and a command follows: -s web servers".into()),
        false => Ok((Some(service.to_owned()), command)),
    }
}

/// What a command asks of a running daemon; an error if it is one for the start.
fn live(command: Command) -> Result<Action, String> {
    Ok(match command {
        Command::Status => Action::Status,
        Command::Servers => Action::Servers,
        Command::Counters => Action::Counters,
        Command::Connections => Action::Connections,
        Command::Connection(number) => Action::Connection(number),
        Command::Close(number) => Action::Close(number),
        Command::Recent(seconds) => Action::Recent(seconds),
        Command::Ocsp => Action::Ocsp,
        Command::OcspCheck {
            certificate,
            answer,
        } => Action::OcspCheck {
            certificate,
            answer,
        },
        Command::Mode => Action::Mode,
        Command::Pid => Action::Pid,
        Command::Control => Action::Control,
        Command::Resolve => Action::Resolve,
        Command::Exit => Action::Exit,
        Command::Debug(level) => Action::Debug(level),
        Command::Listen(None) => Action::Listen,
        Command::Server(server, changes) => changed(server, changes)?,
        Command::Stop => Action::Stop,
        Command::Services => Action::Services,
        Command::Reload => Action::Reload,
        Command::ConfigShow(form) => Action::ConfigShow(form),
        Command::ConfigDiff => Action::ConfigDiff,
        Command::Write(file) => Action::Write(file),
        Command::ServerAdd(server, changes) => Action::Edit(Edit::Add(server, changes)),
        Command::ServerRemove(server) => Action::Edit(Edit::Remove(server)),
        Command::ServerDrain(server, on) => Action::Drain(server, on),
        Command::Listen(Some(at)) => Action::Edit(Edit::Listen(at)),
        Command::Http(on) => Action::Edit(Edit::Http(on)),
        Command::OptionAtStart { key, value } => Action::Edit(Edit::Option { key, value }),
        Command::Switch(switch, on) => Action::Switch(switch, on),
        Command::Option { key, value } => Action::Option { key, value },
        Command::Setting { key, value } => Action::Setting { key, value },
        Command::Acl(number, change) => Action::Acl(number, change),
        Command::Nothing(_) => Action::Nothing,
        Command::Set { key, .. } => return Err(only_at_start(key)),
        Command::Udp(_) => return Err(only_at_start("udp")),
        Command::Include(_) => return Err(only_at_start("include")),
    })
}

/// Where a server is can't be told to those who have it by a number alone: that is another
/// configuration.
fn changed(server: ServerRef, changes: Vec<Change>) -> Result<Action, String> {
    let moves = |change: &Change| matches!(change, Change::Address(_) | Change::Port(_));
    if !changes.iter().any(moves) {
        return Ok(Action::Server(server, changes));
    }
    let blacklists = |change: &Change| matches!(change, Change::Blacklist(_));
    match changes.iter().any(blacklists) {
        true => Err("say blacklist in a command of its own, when the server is there".to_owned()),
        false => Ok(Action::Edit(Edit::Server(server, changes))),
    }
}

fn only_at_start(what: &str) -> String {
    format!("{what} can't be changed while Pen runs: write it into the configuration and restart")
}

impl Config {
    /// Indices of the pool and the back end that a request means.
    ///
    /// # Errors
    /// A sentence for the asker: no such service or back end, or several that could be meant.
    pub fn locate(
        &self,
        service: Option<&str>,
        server: &ServerRef,
    ) -> Result<(usize, usize), String> {
        let candidates: Vec<usize> = match service {
            Some(name) => vec![self.pool_of_service(name)?],
            None => (0..self.pools.len()).collect(),
        };
        let name = match server {
            ServerRef::Name(name) => name,
            ServerRef::Index(index) => {
                if candidates.is_empty() {
                    return Err("there are no servers: every request is redirected".to_owned());
                }
                let [pool] = candidates[..] else {
                    return Err(self.which_service(&format!("server {index}")));
                };
                let count = self.pools[pool].backends.len();
                return match *index < count {
                    true => Ok((pool, *index)),
                    false => Err(format!(
                        "there is no server {index}: 0 to {} exist",
                        count - 1
                    )),
                };
            }
        };
        let mut found = candidates.iter().flat_map(|&pool| {
            let backends = self.pools[pool].backends.iter().enumerate();
            backends
                .filter(|(_, b)| b.name == *name)
                .map(move |(at, _)| (pool, at))
        });
        match (found.next(), found.next()) {
            (Some(place), None) => Ok(place),
            (Some(_), Some(_)) => Err(self.which_service(&format!("server {name:?}"))),
            (None, _) => {
                let all = candidates
                    .iter()
                    .flat_map(|&pool| &self.pools[pool].backends);
                let hint = did_you_mean(name, all.map(|backend| backend.name.as_str()));
                Err(format!("there is no server {name:?}{hint}"))
            }
        }
    }

    fn pool_of_service(&self, name: &str) -> Result<usize, String> {
        let service = self.services.iter().find(|service| service.name == name);
        if service.is_some_and(|service| service.redirect().is_some()) {
            return Err(format!("service {name:?} has no servers: it redirects"));
        }
        if service.is_some_and(|service| service.only_leads()) {
            return Err(format!(
                "service {name:?} has no servers: it leads to services by name"
            ));
        }
        let pool =
            service.and_then(|service| self.pools.iter().position(|p| p.name == service.pool));
        pool.ok_or_else(|| {
            let names = self.services.iter().map(|service| service.name.as_str());
            format!("there is no service {name:?}{}", did_you_mean(name, names))
        })
    }

    fn which_service(&self, what: &str) -> String {
        let names: Vec<&str> = self
            .services
            .iter()
            .take(8)
            .map(|s| s.name.as_str())
            .collect();
        let more = if self.services.len() > names.len() {
            ", ..."
        } else {
            ""
        };
        format!(
            "which service's {what}? Say -s NAME first: {}{more}",
            names.join(", ")
        )
    }
}
