//! Every flag of one letter: a form that is accepted and what it sets, which is not so without it, and
//! one that is refused with the reason. None is left out.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;

use pen::cli::{Action, Stop, command, parse};
use pen_common::config::{ConfigForm, Outside};

use super::World;

const ROWS: &str = include_str!("every_flag.txt");
const NO_FORM: &str = "-";
const PROXY: [&str; 2] = ["8080", "127.0.0.1:9001"];

/// The words of a cell: the flag, and its value, in which there may be blanks.
fn words(cell: &'static str) -> Vec<&'static str> {
    match cell.split_once(' ') {
        None => vec![cell],
        Some((flag, "\"\"")) => vec![flag, ""],
        Some((flag, value)) => vec![flag, value],
    }
}

/// What a line says as a file, and what was noted; or why it is refused.
fn written(words: &[&str]) -> Result<(String, usize), String> {
    struct Named(World);
    impl Outside for Named {
        fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
            host.parse()
                .map(|address| vec![address])
                .map_err(|_| "no such host".to_owned())
        }
        fn read(&self, path: &Path) -> Result<String, String> {
            self.0.read(path)
        }
    }
    let line = ["pen"].iter().chain(words).chain(&PROXY);
    let start = match parse(line) {
        Ok(Action::Run(start)) => start,
        Err(Stop::Wrong(why)) => return Err(why),
        other => panic!("{words:?}: {other:?}"),
    };
    let world = Named(World(HashMap::from([("/pen.cfg", "timeout 4\n")])));
    let checked = start.read(&world).map_err(|errors| errors.to_string())?;
    let noted = start.notes().len() + checked.notes().len();
    let text = checked.into_parts().0.written(ConfigForm::Toml);
    Ok((text.unwrap(), noted))
}

#[test]
fn every_flag_has_an_accepted_and_a_refused_form() {
    let lines = ROWS.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<[&str; 6]> = lines
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            <[_; 6]>::try_from(cells).unwrap_or_else(|cells| panic!("{cells:?}"))
        })
        .collect();
    let told: BTreeSet<String> = rows.iter().map(|row| row[0].to_owned()).collect();
    let command = command();
    let known = command.get_arguments().flat_map(|flag| {
        let others = flag.get_all_short_aliases().unwrap_or_default();
        flag.get_short().into_iter().chain(others)
    });
    assert_eq!(told, known.map(|letter| format!("-{letter}")).collect());
    let (bare, _) = written(&[]).unwrap();
    for [_, accepted, company, sets, refused, why] in rows {
        let company: Vec<&str> = company.split_ascii_whitespace().collect();
        if accepted != NO_FORM {
            let (text, noted) = written(&[&words(accepted)[..], &company].concat()).unwrap();
            let new = text
                .lines()
                .filter(|line| !bare.lines().any(|known| known == *line));
            let new = new.collect::<Vec<_>>().join("; ");
            let sets = if sets == "no effect" { "" } else { sets };
            assert_eq!(new, sets, "{accepted}");
            assert_eq!(
                noted > 0,
                sets.is_empty() || accepted.starts_with("-j"),
                "{accepted}"
            );
        }
        if refused != NO_FORM {
            let said = written(&[&words(refused)[..], &company].concat());
            let said = said.expect_err(refused);
            assert!(said.contains(why), "{refused}: {said}");
        }
    }
}
