//! Every command: what it answers alone (the default, where it has a value), a form that is accepted
//! with its reply, and one that is refused with the reason. None is left out.

use std::collections::BTreeSet;

use lab::Nginx;
use pen_common::config::Command;

use crate::rig::{Pen, lab, server};

const ROWS: &str = include_str!("every_command.txt");
/// Of a key that only the start sets.
const AT_START: &str =
    "can't be changed while Pen runs: write it into the configuration and restart";
const NO_FORM: &str = "-";
const NOT_ASKED: &str = "?";
const AS_ALONE: &str = "\"";

/// The cells of each row.
fn rows() -> Vec<[&'static str; 6]> {
    let lines = ROWS.lines().filter(|line| !line.starts_with('#'));
    let rows = lines.map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        <[_; 6]>::try_from(cells).unwrap_or_else(|cells| panic!("{cells:?}"))
    });
    rows.collect()
}

#[test]
fn every_command_has_a_default_an_accepted_and_a_refused_form() {
    if !lab::ready("every_command_has_a_default_an_accepted_and_a_refused_form") {
        return;
    }
    let rows = rows();
    // Told by tests of its own: it ends Pen.
    let told: BTreeSet<&str> = rows.iter().map(|row| row[0]).chain(["stop"]).collect();
    assert_eq!(told, Command::words().collect());
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let pen = Pen::start(&lab, &["8081", &format!("{}:80", server(0))]);
    let say = |line: &str| pen.say(line).trim_end_matches('\n').to_owned();
    for [word, alone, ..] in rows.iter().filter(|row| row[1] != NOT_ASKED) {
        assert_eq!(say(word), *alone, "{word}");
    }
    for [_, _, line, reply, ..] in rows.iter().filter(|row| row[2] != NO_FORM) {
        let answer = pen.ask(line);
        assert!(answer.ok, "{line}: {:?}", answer.refusal);
        // Said twice it is the same.
        let said = say(line);
        assert!(said == *reply || *reply == NOT_ASKED, "{line}: {said}");
    }
    let before = say("config show");
    for [_, alone, _, _, line, why] in rows.iter().filter(|row| row[4] != NO_FORM) {
        let answer = pen.ask(line);
        let refusal = answer.refusal.unwrap_or_default();
        let why = match *why {
            AS_ALONE => alone,
            "start" => AT_START,
            why => why,
        };
        assert!(!answer.ok && refusal.contains(why), "{line}: {refusal}");
        // Who reads the line hears the same.
        assert!(say(line).contains(why), "{line}");
    }
    assert_eq!(say("config show"), before);
    pen.stop();
}
