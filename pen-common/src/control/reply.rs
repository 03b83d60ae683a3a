//! Answers, as Pen's text and as JSON.

use std::fmt::{Display, Write as _};

use serde::{Deserialize, Serialize};

use super::{
    ConnectionStatus, Counter, Form, OcspQuestion, Plan, RecentClient, ServerStatus, ServiceLine,
    Status,
};
use crate::config::{Balance, Switches};

/// An answer to a request that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Generation of the configuration that the answer speaks of; after a change, the new one.
    pub generation: u64,
    /// What was asked for, or why it was refused (then nothing has changed).
    pub outcome: Result<Value, String>,
}

/// What a request brings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A change was applied: silence, in Pen's protocol.
    Applied,
    /// To `status`.
    Status(Box<Status>),
    /// To `status` in Pen's form: HTML.
    Page(String),
    /// To `servers`.
    Servers(Servers),
    /// To `counters`.
    Counters(Vec<Counter>),
    /// To `connections`.
    Connections(Vec<ConnectionStatus>),
    /// To `connection`.
    Connection(Box<ConnectionStatus>),
    /// To `recent`.
    Recent(Vec<RecentClient>),
    /// To `ocsp`.
    Ocsp(Vec<OcspQuestion>),
    /// To `mode`, `control`, `listen`, `close`, `ocsp-check`.
    Text(String),
    /// To `service`.
    Services(Vec<ServiceLine>),
    /// To `plan`.
    Plan(Box<Plan>),
    /// To `config show`, as it stands.
    Whole(String),
    /// To `pid`, `debug`.
    Number(u64),
}

/// Back ends by pool, in Pen's terms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Servers {
    /// The pools asked for.
    pub pools: Vec<ServersOfPool>,
}

/// The back ends of one pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServersOfPool {
    /// Name of the pool.
    pub pool: String,
    /// In the order of Pen's numbers.
    pub servers: Vec<ServerStatus>,
}

/// The JSON object that answers a line which began with `json `.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Whether it was done.
    pub ok: bool,
    /// Generation of the configuration that the answer speaks of.
    pub generation: u64,
    /// The [`Value`], if it was done; its shape follows from the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    /// Why not, if it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

impl Reply {
    /// The bytes to send: Pen's text (a refusal is its reason in one line), or JSON in one line.
    pub fn render(&self, form: Form) -> String {
        match (form, &self.outcome) {
            (Form::Raw, Ok(value)) => value.raw(),
            (Form::Raw, Err(why)) => format!("{why}\n"),
            (Form::Json, _) => {
                let mut line = serde_json::to_string(&self.envelope())
                    .expect("an envelope has text keys and no failing parts");
                line.push('\n');
                line
            }
        }
    }

    fn envelope(&self) -> Envelope {
        let (value, refusal) = match &self.outcome {
            Err(why) => (None, Some(why.clone())),
            Ok(value) => match serde_json::to_value(value) {
                Ok(value) => (Some(value), None),
                Err(why) => (
                    None,
                    Some(format!("the answer can't be written as JSON: {why}")),
                ),
            },
        };
        Envelope {
            ok: refusal.is_none(),
            generation: self.generation,
            value,
            refusal,
        }
    }
}

impl Value {
    /// Pen's text; what Pen has no text for is indented JSON.
    fn raw(&self) -> String {
        match self {
            Self::Applied => String::new(),
            Self::Servers(servers) => servers.raw(),
            Self::Connections(connections) => lines(connections),
            Self::Connection(connection) => connection.lines(),
            Self::Recent(clients) => lines(clients),
            Self::Ocsp(questions) => lines(questions),
            Self::Services(services) => lines(services),
            Self::Plan(plan) => lines(&plan.lines()),
            Self::Whole(text) => text.clone(),
            Self::Page(html) => html.clone(),
            // What is not set has no line, as in Pen.
            Self::Text(text) if text.is_empty() => String::new(),
            Self::Text(text) => format!("{text}\n"),
            Self::Number(number) => format!("{number}\n"),
            Self::Status(_) | Self::Counters(_) => {
                let text = serde_json::to_string_pretty(self);
                text.unwrap_or_else(|why| format!("can't be written as JSON: {why}")) + "\n"
            }
        }
    }
}

fn lines(rows: &[impl Display]) -> String {
    let mut out = String::new();
    for row in rows {
        let _infallible = writeln!(out, "{row}");
    }
    out
}

impl Servers {
    /// Pen's lines; several pools, which Pen has not, are each headed by `pool NAME`.
    fn raw(&self) -> String {
        let mut out = String::new();
        for pool in &self.pools {
            if self.pools.len() > 1 {
                let _infallible = writeln!(out, "pool {}", pool.pool);
            }
            for server in &pool.servers {
                let _infallible = writeln!(out, "{server}");
            }
        }
        out
    }
}

/// Pen's `mode` line: its switches in its order, each with `no` before it if it is off. `least`,
/// which Pen has not, is told only if it is on.
pub fn mode_line(switches: Switches) -> String {
    const PENS: [Balance; 5] = [
        Balance::Hash,
        Balance::RoundRobin,
        Balance::Stubborn,
        Balance::Weight,
        Balance::Prio,
    ];
    let mut words: Vec<String> = PENS
        .iter()
        .map(|switch| match switches.has(*switch) {
            true => switch.to_string(),
            false => format!("no {switch}"),
        })
        .collect();
    words.extend(
        switches
            .has(Balance::Least)
            .then(|| Balance::Least.to_string()),
    );
    words.join(" ")
}
