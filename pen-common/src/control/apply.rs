//! A whole configuration that comes over the control socket: `apply FORM BYTES`, a line feed, and
//! so many bytes. `plan FORM BYTES` asks what that would change.

use serde::{Deserialize, Serialize};

use crate::config::{ConfigForm, Difference, Differs};

/// Longest configuration in bytes: a pool of 4,096 servers takes a tenth of it.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// A configuration that is to be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// How it is written.
    pub form: ConfigForm,
    /// As it came.
    pub text: String,
    /// Whether only what it would change is asked for.
    pub plan: bool,
}

/// What a line promises behind itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    form: ConfigForm,
    bytes: usize,
    plan: bool,
}

impl Promise {
    /// Reads a line; `None` if it is another command.
    ///
    /// # Errors
    /// It is this command, and not as it must be.
    pub(super) fn read(line: &str) -> Option<Result<Self, String>> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (plan, words) = match words.split_first()? {
            (&"apply", words) => (false, words),
            (&"plan", words) => (true, words),
            _ => return None,
        };
        let name = if plan { "plan" } else { "apply" };
        let [form, bytes] = words else {
            return Some(Err(format!(
                "{name} takes toml or commands, how many bytes follow, and these: let penctl do \
                 it: penctl SOCKET apply FILE"
            )));
        };
        let form = match form.parse() {
            Ok(form) => form,
            Err(why) => return Some(Err(why)),
        };
        Some(match bytes.parse() {
            Ok(bytes) if bytes <= BODY_BYTES_MAX => Ok(Self { form, bytes, plan }),
            _ => Err(format!(
                "{name} takes {BODY_BYTES_MAX} bytes at most, not {bytes:?}"
            )),
        })
    }

    pub(super) fn keep(self, body: &[u8]) -> Result<Applied, String> {
        let Some(body) = body.get(..self.bytes) else {
            return Err(format!(
                "{} bytes were to follow, and {} came",
                self.bytes,
                body.len()
            ));
        };
        match str::from_utf8(body) {
            Ok(text) => Ok(Applied {
                form: self.form,
                text: text.to_owned(),
                plan: self.plan,
            }),
            Err(error) => Err(format!(
                "no text: at byte {} is no UTF-8",
                error.valid_up_to()
            )),
        }
    }
}

/// How many bytes are to be read behind this line of a request, its line feed left out.
pub fn body_bytes(line: &[u8]) -> usize {
    let line = String::from_utf8_lossy(line.strip_prefix(b"json ").unwrap_or(line));
    match Promise::read(&line) {
        Some(Ok(promise)) => promise.bytes,
        Some(Err(_)) | None => 0,
    }
}

/// What another configuration would change, or does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Keys of the top level, services and servers, a line each.
    pub changes: Vec<String>,
    /// Places that are opened for clients.
    pub opens: Vec<String>,
    /// Places that are closed.
    pub closes: Vec<String>,
    /// The tables in DSR that are different.
    pub pools: Vec<PoolPlan>,
}

/// What becomes of one pool's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPlan {
    /// The pool.
    pub pool: String,
    /// Slots that it has.
    pub slots: u32,
    /// Those that get another back end: so many new flows of as many go elsewhere.
    pub slots_moved: u32,
    /// Flows that live.
    pub flows: u32,
    /// Those whose back end is not there any more.
    pub flows_moved: u32,
}

impl Plan {
    /// What a difference means.
    pub fn of(difference: &Difference) -> Self {
        let top = difference.top.iter().map(|key| (*key).to_owned());
        let services = difference.services.iter();
        let services = services.map(|(name, differs)| format!("service {name}: {differs}"));
        let backends = difference.backends.iter();
        let backends =
            backends.map(|((pool, name), differs)| format!("server {name} of {pool}: {differs}"));
        Self {
            changes: top.chain(services).chain(backends).collect(),
            opens: difference.opens.clone(),
            closes: difference.closes.clone(),
            pools: Vec::new(),
        }
    }

    /// For people; one line if nothing changes.
    pub fn lines(&self) -> Vec<String> {
        let opens = self.opens.iter().map(|place| format!("opens {place}"));
        let closes = self.closes.iter().map(|place| format!("closes {place}"));
        let pools = self.pools.iter().map(|pool| {
            let PoolPlan {
                pool,
                slots,
                slots_moved,
                flows,
                flows_moved,
            } = pool;
            format!(
                "pool {pool}: {slots_moved} of {slots} slots and {flows_moved} of {flows} flows move"
            )
        });
        let changes = self.changes.iter().cloned();
        let mut lines: Vec<_> = changes.chain(opens).chain(closes).chain(pools).collect();
        if lines.is_empty() {
            lines.push("nothing changes".to_owned());
        }
        lines
    }
}

impl std::fmt::Display for Differs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::Gone => f.write_str("gone"),
            Self::Keys(keys) => f.write_str(&keys.join(", ")),
        }
    }
}

/// One service, as `service` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLine {
    /// Its name.
    pub service: String,
    /// How it is served.
    pub mode: crate::config::Mode,
    /// Where clients come in.
    pub listen: Vec<String>,
    /// Who serves it; empty if nobody does.
    pub pool: String,
    /// Servers in the pool.
    pub servers: usize,
}

impl std::fmt::Display for ServiceLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            service,
            mode,
            listen,
            servers,
            ..
        } = self;
        write!(
            f,
            "{service} mode {mode} servers {servers} listen {}",
            listen.join(" ")
        )
    }
}
