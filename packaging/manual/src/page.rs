//! A program's man page.

use anyhow::Result;
use clap::Command;
use clap_mangen::Man;
use roff::{Roff, bold, roman};

/// When work on this version began: readers of pages want a date, and a build has none of its own.
const BEGUN: &str = "2026-11-01";

/// What a page says beside what the command line knows.
pub(crate) struct Page {
    /// What the program is, in a line without a full stop.
    pub(crate) name: &'static str,
    /// The heading of what stands behind the options in the help.
    pub(crate) after: &'static str,
    /// Further sections, headings first.
    pub(crate) sections: &'static [(&'static str, &'static str)],
}

/// The page of `command`, in section 1.
///
/// # Errors
/// It can't be put together.
pub(crate) fn program(command: &Command, name: &str, page: &Page) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut head = title(name, "1");
    head.control("SH", ["NAME"]);
    head.text([roman(format!("{name} - {}", page.name))]);
    head.control("SH", ["SYNOPSIS"]);
    let usage = command.clone().render_usage().to_string();
    let forms = usage.trim_start_matches("Usage:").lines().map(str::trim);
    as_it_stands(&mut head, &forms.collect::<Vec<_>>().join("\n"));
    head.to_writer(&mut text)?;
    let man = Man::new(command.clone().about(None::<&str>));
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    // An empty line, as mandoc wants it said.
    let options = String::from_utf8(options)?;
    text.extend(options.replace("\n.br\n\n.br\n", "\n.sp\n").bytes());
    let mut rest = Roff::new();
    if let Some(after) = command.get_after_help() {
        rest.control("SH", [page.after]);
        as_it_stands(&mut rest, &after.to_string());
    }
    for (heading, words) in page.sections {
        rest.control("SH", [*heading]);
        rest.text([roman(*words)]);
    }
    rest.to_writer(&mut text)?;
    Ok(text)
}

/// The beginning of any page.
pub(crate) fn title(name: &str, section: &str) -> Roff {
    let mut roff = Roff::new();
    let version = format!("Pen {}", env!("CARGO_PKG_VERSION"));
    roff.control("TH", [&name.to_uppercase(), section, BEGUN, &version]);
    roff
}

/// Lines that are not to be filled.
pub(crate) fn as_it_stands(roff: &mut Roff, text: &str) {
    roff.control("nf", []);
    for line in text.trim().lines() {
        match line.trim().is_empty() {
            true => roff.control("sp", []),
            false => roff.text([roman(line.trim_end())]),
        };
    }
    roff.control("fi", []);
}

/// A word and what it means.
pub(crate) fn term(roff: &mut Roff, word: &str, meaning: &str) {
    roff.control("TP", []);
    roff.text([bold(word)]);
    roff.text([roman(meaning)]);
}
