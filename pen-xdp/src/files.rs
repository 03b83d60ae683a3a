//! Files as the configuration names them. A process that has a keeper has no files of its own: it
//! asks for each, and gets what its user or the configuration may.

mod here;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::keeper::child::{self, unexpected, with_one};
use crate::keeper::request::{Answer, Request};
use crate::replace_file::{self, How};

/// What tells a file from another one that has its name later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stat {
    /// Device and inode.
    identity: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds since 1970, of the contents and of the inode.
    written: (i64, i64),
    changed: (i64, i64),
    /// Whether it is a folder.
    pub(crate) is_folder: bool,
    /// Whether it is a file that has an end.
    pub(crate) is_file: bool,
}

/// What is in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name; one that is no text is left out.
    pub(crate) name: String,
    /// What it is, links not followed.
    pub(crate) kind: Kind,
}

/// What there can be in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A link to anything.
    Link,
    /// Something else.
    File,
}

/// Opens a file to read; what is none may never end, or never begin, and that is for the caller to
/// look at.
///
/// # Errors
/// What the kernel says.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    match child::keeper() {
        Some(keeper) => keeper.descriptor(&Request::Read(path.to_owned())),
        None => here::open(path).map(OwnedFd::from),
    }
    .map(File::from)
}

/// Opens a file, or a FIFO that may have no reader yet, to write to its end.
///
/// # Errors
/// What the kernel says.
pub(crate) fn append(path: &Path, mode: u32) -> io::Result<File> {
    let path = path.to_owned();
    match child::keeper() {
        Some(keeper) => keeper.descriptor(&Request::Append { path, mode }),
        None => here::append(&path, mode).map(OwnedFd::from),
    }
    .map(File::from)
}

/// What the kernel knows of a file, links followed.
///
/// # Errors
/// What the kernel says.
pub(crate) fn stat(path: &Path) -> io::Result<Stat> {
    match child::keeper() {
        Some(keeper) => match keeper.ask(&Request::Stat(path.to_owned()))? {
            (Answer::Stat(stat), _) => Ok(stat),
            other => Err(unexpected(other)),
        },
        None => here::stat(path),
    }
}

/// What is in a folder, in no order.
///
/// # Errors
/// What the kernel says.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<Entry>> {
    match child::keeper() {
        Some(keeper) => match keeper.ask(&Request::List(folder.to_owned()))? {
            (Answer::Listed(entries), _) => Ok(entries),
            other => Err(unexpected(other)),
        },
        None => here::list(folder),
    }
}

/// Where a link leads.
///
/// # Errors
/// What the kernel says: it is none, most of all.
pub(crate) fn link(path: &Path) -> io::Result<PathBuf> {
    match child::keeper() {
        Some(keeper) => match keeper.ask(&Request::Link(path.to_owned()))? {
            (Answer::Link(target), _) => Ok(target),
            other => Err(unexpected(other)),
        },
        None => here::link(path),
    }
}

/// What can be read from as soon as something has changed in one of the folders, and whether all of
/// them are watched: nobody tells when one that is not there comes.
///
/// # Errors
/// The kernel watches no more.
pub(crate) fn watch(folders: BTreeSet<PathBuf>) -> io::Result<(OwnedFd, bool)> {
    match child::keeper() {
        Some(keeper) => match with_one(keeper.ask(&Request::Watch(folders))?) {
            (Answer::Watching(all), Some(told)) => Ok((told, all)),
            other => Err(unexpected(other)),
        },
        None => here::watch(&folders),
    }
}

/// Replaces a file's contents, whole or not at all.
///
/// # Errors
/// As [`replace_file::replace_file`].
pub(crate) fn replace(path: &Path, contents: &str, how: How) -> io::Result<()> {
    match child::keeper() {
        Some(keeper) => {
            let (path, contents) = (path.to_owned(), contents.to_owned());
            let request = Request::Replace {
                path,
                contents,
                how,
            };
            keeper.ask(&request).map(drop)
        }
        None => replace_file::replace_file(path, contents.as_bytes(), how),
    }
}

/// A folder as it can be opened: the working one has no name in paths that begin there.
pub(crate) fn in_full(folder: &Path) -> PathBuf {
    match folder.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => folder.to_owned(),
    }
}

/// The keeper's own hands.
pub(crate) mod by_keeper {
    pub(crate) use super::here::{Watched, append, link, list, open, stat};
}
