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
use std::path::Path;

use super::certificate::Files;

/// A certificate by its files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// What its file is called, lower case; whether that is a name that clients can ask for is not
    /// known here.
    pub(super) name: String,
    pub(super) files: Files,
}

/// All certificates of a folder, in the order of their files' names.
///
/// # Errors
/// The folder can't be listed.
pub(super) fn scan(folder: &Path) -> io::Result<Vec<Found>> {
    let mut listed = BTreeSet::new();
    let mut folders = BTreeSet::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        // Names that are no text are nobody's name.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        // Its own kind only, without a call of the kernel for each; a link may be to either.
        let kind = entry.file_type()?;
        if kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()) {
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
    Ok(found)
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
    let there = |file: &str| Some(folder.join(file)).filter(|path| path.exists());
    let beside = format!("{name}.ocsp");
    let outer = folder.parent().filter(|_| listed.contains(&beside));
    Some(Found {
        name: name.to_lowercase(),
        files: Files {
            certificate: there("fullchain.pem")?,
            key: there("privkey.pem"),
            chain: None,
            staple: there("ocsp.der").or(outer.map(|outer| outer.join(&beside))),
        },
    })
}
