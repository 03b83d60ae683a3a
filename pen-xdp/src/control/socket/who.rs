//! Who asks, and what the log says of it.

use std::{fmt, fs, net::SocketAddr};

use pen_common::control::{Reply, Request};
use tokio::{net::unix::UCred, sync::oneshot};

/// Letters of a request that the log repeats.
const LINE_SHOWN_MAX: usize = 200;

/// Letters of the reason for a refusal that the log repeats.
const WHY_SHOWN_MAX: usize = 300;

/// A client of the control socket.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// At the Unix socket, by the kernel's word (unix(7), SO_PEERCRED).
    Process { uid: u32, pid: Option<i32> },
    /// At the port.
    Address(SocketAddr),
    /// The kernel does not say.
    Unknown,
}

impl From<UCred> for Who {
    fn from(peer: UCred) -> Self {
        Self::Process {
            uid: peer.uid(),
            pid: peer.pid(),
        }
    }
}

/// As the log names it: `alice (pid 42, "penctl")`. The name of the program is its own word.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (uid, pid) = match self {
            Self::Process { uid, pid } => (uid, pid),
            Self::Address(address) => return address.fmt(f),
            Self::Unknown => return f.write_str("somebody"),
        };
        match user(*uid) {
            Some(name) => f.write_str(&name)?,
            None => write!(f, "user {uid}")?,
        }
        let Some(pid) = pid else { return Ok(()) };
        match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => write!(f, " (pid {pid}, {:?})", name.trim_end()),
            Err(_) => write!(f, " (pid {pid})"),
        }
    }
}

/// The user's name, if this host's own file has it: whom a server knows must not be waited for.
fn user(uid: u32) -> Option<String> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    let mut lines = text.lines().map(|line| line.split(':'));
    let found = lines.find(|fields| fields.clone().nth(2) == Some(&uid.to_string()));
    Some(found?.next()?.to_owned())
}

/// Where the answer to a request goes. A change is told to the log when it is answered, whether
/// its asker is still there or not.
#[derive(Debug)]
pub struct ReplyTo {
    pub(super) who: Who,
    pub(super) line: String,
    pub(super) answer: oneshot::Sender<String>,
}

impl ReplyTo {
    /// Answers.
    pub fn send(self, request: &Request, reply: &Reply) {
        if request.action.is_change() {
            let done = reply.outcome.as_ref();
            match done.map_err(String::as_str) {
                Ok(_) => tracing::info!(
                    "{}: {}: done, generation {}",
                    self.who,
                    Shown(&self.line),
                    reply.generation
                ),
                Err(why) => refused(&self.who, &self.line, why),
            }
        }
        if self.answer.send(reply.render(request.form)).is_err() {
            tracing::debug!("a control client left before its answer");
        }
    }
}

/// Tells the log who was refused what. The reason may repeat what was asked for.
pub(super) fn refused(who: &Who, line: &str, why: &str) {
    let why = why.chars().filter(|c| !c.is_control());
    let why: String = why.take(WHY_SHOWN_MAX).collect();
    tracing::info!("{who}: {}: refused: {why}", Shown(line));
}

/// A stranger's line: short, in quotes, without anything that a terminal would obey.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(LINE_SHOWN_MAX) {
            Some((end, _)) => write!(f, "{:?}...", self.0.get(..end).unwrap_or_default()),
            None => write!(f, "{:?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_and_programs() {
        let me = std::process::id();
        let who = |uid| Who::Process {
            uid,
            pid: i32::try_from(me).ok(),
        };
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        let comm = comm.trim_end();
        assert_eq!(who(0).to_string(), format!("root (pid {me}, {comm:?})"));
        let nobody = who(u32::MAX - 7).to_string();
        assert!(nobody.starts_with("user 4294967288 (pid "), "{nobody}");
        let gone = Who::Process {
            uid: 0,
            pid: Some(i32::MAX),
        };
        assert_eq!(gone.to_string(), "root (pid 2147483647)");
        let at: SocketAddr = "[::1]:4711".parse().unwrap();
        assert_eq!(Who::Address(at).to_string(), "[::1]:4711");
    }

    #[test]
    fn a_line_is_cut_and_escaped() {
        assert_eq!(Shown("a\u{1b}[0m\nb\"").to_string(), r#""a\u{1b}[0m\nb\"""#);
        let long = "ä".repeat(LINE_SHOWN_MAX + 1);
        let shown = Shown(&long).to_string();
        assert_eq!(shown, format!("\"{}\"...", "ä".repeat(LINE_SHOWN_MAX)));
    }
}
