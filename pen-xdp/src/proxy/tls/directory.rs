//! Folders of certificates: which files in them belong together, and for which name.
//!
//! A name that a client sends never becomes a path: the folder is listed, and what is there is
//! looked up in what was found. Layouts, `NAME` being what clients ask for:
//!
//! - Pen's: `NAME.crt`, `NAME.key`, `NAME.ca`, `NAME.ocsp`;
//! - HAProxy's: `NAME.pem` with all in it, or beside it `.key`, `.ocsp` and `.issuer`, appended to
//!   the name or in place of `pem`; `NAME.pem.rsa` and `NAME.pem.ecdsa` for one name;
//! - certbot's and dehydrated's: `NAME/fullchain.pem`, `NAME/privkey.pem`, `NAME/ocsp.der`.
//!
//! `NAME.rsa.crt` and `NAME.ecdsa.crt` are certificates for one name as well. lego's
//! `NAME.issuer.crt` is none of its own.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::certificate::Files;
use crate::files::{self, Entry, Kind};

/// The certificate in a folder of its own.
const NESTED: &str = "fullchain.pem";
/// Its OCSP answer.
const NESTED_ANSWER: &str = "ocsp.der";

/// A certificate by its files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What its file is called, lower case; whether that is a name that clients can ask for is not
    /// known here.
    pub(super) name: String,
    pub(super) files: Files,
}

/// What is in a folder.
#[derive(Debug)]
pub(super) struct Scan {
    /// All certificates, in the order of their files' names.
    pub(super) found: Vec<Found>,
    /// The folders in it: there may be a certificate some time.
    pub(super) folders: Vec<PathBuf>,
}

/// Lists a folder.
///
/// # Errors
/// It can't be listed.
pub(super) fn scan(folder: &Path) -> io::Result<Scan> {
    let mut listed = BTreeSet::new();
    let mut folders = BTreeSet::new();
    for Entry { name, kind } in files::list(folder)? {
        if name.starts_with('.') {
            continue;
        }
        let is_folder = match kind {
            Kind::Folder => true,
            Kind::Link => files::stat(&folder.join(&name)).is_ok_and(|found| found.is_folder),
            Kind::File => false,
        };
        if is_folder {
            folders.insert(name);
        } else {
            listed.insert(name);
        }
    }
    let single = listed
        .iter()
        .filter_map(|file| single(folder, &listed, file));
    let mut found: Vec<_> = single.collect();
    let nested = folders.iter();
    found.extend(nested.filter_map(|name| nested_in(&folder.join(name), &listed, name)));
    let folders = folders.iter().map(|name| folder.join(name)).collect();
    Ok(Scan { found, folders })
}

/// Where the OCSP answer of a certificate in such a folder is to be.
pub(super) fn place_of_answer(certificate: &Path) -> PathBuf {
    let name = certificate.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    let answer = match stem(name) {
        _ if name == NESTED => NESTED_ANSWER.to_owned(),
        // For one of two that have the stem together.
        Some((_, true)) if !name.ends_with(".pem") => format!("{name}.ocsp"),
        Some((stem, _)) => format!("{stem}.ocsp"),
        None => format!("{name}.ocsp"),
    };
    certificate.with_file_name(answer)
}

/// The certificate of a file, if one is to be in it.
fn single(folder: &Path, listed: &BTreeSet<String>, file: &str) -> Option<Found> {
    let (stem, bundled) = stem(file)?;
    // The same certificate once more, as lego writes it.
    if bundled && listed.contains(&format!("{stem}.crt")) {
        return None;
    }
    let beside = |names: &[String]| {
        let there = names.iter().find(|name| listed.contains(*name));
        there.map(|name| folder.join(name))
    };
    let both = |ending: &str| [format!("{file}.{ending}"), format!("{stem}.{ending}")];
    let [own, shared] = both("issuer");
    Some(Found {
        name: without_kind(stem).to_lowercase(),
        files: Files {
            certificate: folder.join(file),
            key: beside(&both("key")),
            chain: beside(&[own, shared, format!("{stem}.ca")]),
            staple: beside(&both("ocsp")),
        },
    })
}

/// What is left of the name of a certificate's file, and whether it is one of HAProxy's, with all
/// in it.
fn stem(file: &str) -> Option<(&str, bool)> {
    if let Some(stem) = file.strip_suffix(".crt") {
        return (!stem.ends_with(".issuer")).then_some((stem, false));
    }
    let pem = ["", ".rsa", ".ecdsa"].into_iter().find_map(|kind| {
        let stem = file.strip_suffix(kind)?.strip_suffix(".pem")?;
        Some((stem, true))
    });
    pem.filter(|(stem, _)| !stem.is_empty())
}

fn without_kind(stem: &str) -> &str {
    let shorter = stem.strip_suffix(".rsa").or(stem.strip_suffix(".ecdsa"));
    shorter.unwrap_or(stem)
}

/// The certificate in a folder of its own, if there is one.
fn nested_in(folder: &Path, listed: &BTreeSet<String>, name: &str) -> Option<Found> {
    let there = |file: &str| Some(folder.join(file)).filter(|path| files::stat(path).is_ok());
    let beside = format!("{name}.ocsp");
    let outer = folder.parent().filter(|_| listed.contains(&beside));
    Some(Found {
        name: name.to_lowercase(),
        files: Files {
            certificate: there(NESTED)?,
            key: there("privkey.pem"),
            chain: None,
            staple: there(NESTED_ANSWER).or(outer.map(|outer| outer.join(&beside))),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The name and the files of every certificate in a folder that holds `files`.
    fn found(test: &str, files: &[&str]) -> Vec<String> {
        let folder = std::env::temp_dir().join(format!("pen-names-{test}-{}", std::process::id()));
        for file in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let Scan { found, .. } = scan(&folder).unwrap();
        let line = |Found { name, files }| {
            let short = |path: &Path| path.strip_prefix(&folder).unwrap().display().to_string();
            let files: Vec<String> = files.iter().map(short).collect();
            format!("{name}: {}", files.join(" "))
        };
        let lines = found.into_iter().map(line).collect();
        fs::remove_dir_all(&folder).unwrap();
        lines
    }

    #[test]
    fn files_that_belong_together_are_found_in_every_layout() {
        let files = [
            "Pen.test.crt",
            "Pen.test.key",
            "Pen.test.ca",
            "Pen.test.ocsp",
            "pen.test.txt",
            "alone.test.crt",
            "ha.test.pem",
            "ha.test.pem.ocsp",
            "ha.test.pem.issuer",
            "ha.test.key",
            "two.test.pem.rsa",
            "two.test.pem.rsa.ocsp",
            "two.test.pem.ecdsa",
            "sides.test.rsa.crt",
            "sides.test.rsa.key",
            "sides.test.ecdsa.crt",
            "sides.test.ecdsa.key",
            "lego.test.crt",
            "lego.test.key",
            "lego.test.issuer.crt",
            "lego.test.pem",
            "bot.test/fullchain.pem",
            "bot.test/privkey.pem",
            "bot.test/cert.pem",
            "bot.test.ocsp",
            "dehydrated.test/fullchain.pem",
            "dehydrated.test/privkey.pem",
            "dehydrated.test/ocsp.der",
            "empty.test/cert.pem",
            ".hidden.test.pem",
            ".pem",
            "README",
            "*.wide.test.pem",
            "new.test.pem.new",
        ];
        let expected = [
            "*.wide.test: *.wide.test.pem",
            "pen.test: Pen.test.crt Pen.test.key Pen.test.ca Pen.test.ocsp",
            "alone.test: alone.test.crt",
            "ha.test: ha.test.pem ha.test.key ha.test.pem.issuer ha.test.pem.ocsp",
            "lego.test: lego.test.crt lego.test.key",
            "sides.test: sides.test.ecdsa.crt sides.test.ecdsa.key",
            "sides.test: sides.test.rsa.crt sides.test.rsa.key",
            "two.test: two.test.pem.ecdsa",
            "two.test: two.test.pem.rsa two.test.pem.rsa.ocsp",
            "bot.test: bot.test/fullchain.pem bot.test/privkey.pem bot.test.ocsp",
            "dehydrated.test: dehydrated.test/fullchain.pem dehydrated.test/privkey.pem \
             dehydrated.test/ocsp.der",
        ];
        assert_eq!(found("layouts", &files), expected);
    }

    #[test]
    fn answers_are_put_where_they_are_found() {
        for (certificate, answer) in [
            ("a.test.crt", "a.test.ocsp"),
            ("a.test.pem", "a.test.ocsp"),
            ("a.test.pem.rsa", "a.test.pem.rsa.ocsp"),
            ("a.test.ecdsa.crt", "a.test.ecdsa.ocsp"),
            ("a.test/fullchain.pem", "a.test/ocsp.der"),
        ] {
            assert_eq!(place_of_answer(Path::new(certificate)), Path::new(answer));
            let both = found("answers", &[certificate, answer]);
            assert!(
                both[0].ends_with(&format!("{certificate} {answer}")),
                "{both:?}"
            );
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_and_an_empty_one_is_empty() {
        assert!(scan(Path::new("/nowhere/at/all")).is_err());
        assert_eq!(found("empty", &["README"]), [""; 0]);
    }
}
