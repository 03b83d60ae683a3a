//! `penctl`: shows and changes a running pen.
//!
//! `penctl SOCKET COMMAND...` sends one of Pen's commands. Exit status: 0 done, 2 refused or
//! wrong use, 3 no such daemon.

mod apply;
mod certificates;
mod client;
mod ocsp_fetch;
mod output;
mod server_tls;
mod table;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use client::Whose;
use pen_common::control::{Envelope, REQUEST_BYTES_MAX};
use pen_ctl::Arguments;

const EXIT_REFUSED: u8 = 2;
const EXIT_NO_DAEMON: u8 = 3;

/// Commands that ask and change nothing.
const QUESTIONS: &[&str] = &[
    "connection",
    "connections",
    "control",
    "counters",
    "mode",
    "ocsp",
    "ocsp-check",
    "pid",
    "recent",
    "service",
    "servers",
    "status",
];
/// How long a daemon may take for others, which may have it look names up, or wait for a disk.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to answer a question.
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("penctl: {}", failure.why);
            ExitCode::from(failure.code)
        }
    }
}

struct Failure {
    code: u8,
    why: String,
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let refused = |why: String| Failure {
        code: EXIT_REFUSED,
        why,
    };
    let no_daemon = |why: String| Failure {
        code: EXIT_NO_DAEMON,
        why,
    };
    if arguments.command == ["ocsp-fetch"] {
        return fetch_answers(arguments);
    }
    let word = arguments
        .command
        .first()
        .and_then(|first| first.split_whitespace().next())
        .unwrap_or_default();
    let line = match arguments.command.split_first() {
        Some((first, _)) if first == "apply" && arguments.service.is_some() => {
            Err("apply is about the whole configuration: leave out -s".to_owned())
        }
        Some((first, words)) if first == "apply" => apply::request(words, arguments.plan),
        _ if arguments.plan => Err("--plan goes with apply: apply FILE --plan".to_owned()),
        _ => request(arguments),
    };
    let line = line.map_err(refused)?;
    let timeout = if QUESTIONS.contains(&word) {
        TIMEOUT
    } else {
        PATIENCE
    };
    let answer =
        client::ask(&arguments.socket, &line, timeout, Whose::Anybodys).map_err(no_daemon)?;
    if arguments.json {
        show(&format!("{}\n", answer.text)).map_err(refused)?;
    }
    if !answer.envelope.ok {
        let why = answer.envelope.refusal;
        return Err(refused(
            why.unwrap_or_else(|| "refused without a reason".to_owned()),
        ));
    }
    if arguments.json {
        return Ok(());
    }
    let text = output::human(word, answer.envelope).map_err(no_daemon)?;
    show(&text).map_err(refused)
}

/// What the daemon names is fetched; a line for each certificate.
fn fetch_answers(arguments: &Arguments) -> Result<(), Failure> {
    let failure = |code, why| Failure { code, why };
    let line = |words: &[&str]| {
        let command = words.iter().map(|word| (*word).to_owned()).collect();
        request(&Arguments {
            command,
            ..arguments.clone()
        })
    };
    let ask = |words: &[&str]| -> Result<Envelope, Failure> {
        let line = line(words).map_err(|why| failure(EXIT_REFUSED, why))?;
        let answer = client::ask(&arguments.socket, &line, TIMEOUT, Whose::OursOrRoots);
        Ok(answer.map_err(|why| failure(EXIT_NO_DAEMON, why))?.envelope)
    };
    let asked = ask(&["ocsp"])?;
    if let Some(why) = asked.refusal {
        return Err(failure(EXIT_REFUSED, why));
    }
    let questions = serde_json::from_value(asked.value.unwrap_or_default());
    let questions = questions.map_err(|why| failure(EXIT_NO_DAEMON, why.to_string()))?;
    let check = |certificate: &str, answer: &Path| {
        let envelope = ask(&["ocsp-check", certificate, &answer.display().to_string()]);
        let envelope = envelope.map_err(|failure| anyhow::anyhow!(failure.why))?;
        match (envelope.refusal, envelope.value) {
            (None, Some(serde_json::Value::String(good))) => Ok(good),
            (why, _) => Err(anyhow::anyhow!(why.unwrap_or_default())),
        }
    };
    let fetched = ocsp_fetch::fetch(questions, check);
    let (good, bad): (Vec<_>, Vec<_>) = fetched.iter().partition(|one| one.outcome.is_ok());
    for one in good {
        let said = one.outcome.as_deref().unwrap_or_default();
        show(&format!("{}: {said}\n", one.certificate))
            .map_err(|why| failure(EXIT_REFUSED, why))?;
    }
    let lines = bad.iter().filter_map(|one| {
        let why = one.outcome.as_ref().err()?;
        Some(format!("{}: {why:#}", one.certificate))
    });
    match bad.is_empty() {
        true => Ok(()),
        false => Err(failure(
            EXIT_REFUSED,
            lines.collect::<Vec<_>>().join("\npenctl: "),
        )),
    }
}

/// The command's words. A file that the daemon is to write is the asker's: it is somewhere else.
fn command(arguments: &Arguments) -> Vec<String> {
    let mut words = arguments.command.clone();
    if let [verb] = &words[..]
        && verb.starts_with("write ")
    {
        words = verb.split_whitespace().map(ToOwned::to_owned).collect();
    }
    let file = match &mut words[..] {
        [verb, file] if verb == "write" => file,
        [config, verb, file] if config == "config" && verb == "save" => file,
        _ => return words,
    };
    if let Ok(path) = std::path::absolute(&*file) {
        *file = path.display().to_string();
    }
    words
}

/// The line to send: the words joined by blanks, as Pen's own tool did.
fn request(arguments: &Arguments) -> Result<String, String> {
    let service = arguments.service.iter().flat_map(|name| ["-s", name]);
    let service = service.map(ToOwned::to_owned);
    let words: Vec<String> = service.chain(command(arguments)).collect();
    let line = words.join(" ");
    if line.contains(['\n', '\r']) {
        return Err("a command is one line: send them one by one".to_owned());
    }
    if line.len() + "json \n".len() > REQUEST_BYTES_MAX {
        return Err(format!(
            "the command is longer than {REQUEST_BYTES_MAX} bytes"
        ));
    }
    Ok(line)
}

fn show(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever pipes into `head` has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("can't write the answer: {error}"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
