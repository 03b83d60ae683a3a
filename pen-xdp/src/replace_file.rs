//! A file's contents replaced whole or not at all, by a process that may write more than whoever
//! named the file.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

/// What becomes of a name that is a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Links {
    /// It stays one, and what it leads to is replaced: for names that are the administrator's.
    Follow,
    /// It is left alone: whoever made it may lead us anywhere.
    Refuse,
}

/// How a file is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct How {
    /// Mode of one that is new; one that is there keeps its own, and its owner.
    pub mode: u32,
    /// For a name that is a link.
    pub links: Links,
}

/// Writes aside, makes it durable, and renames.
///
/// # Errors
/// What the kernel says, or something else than a file has that name. What was there before is
/// untouched.
pub fn replace_file(path: &Path, contents: &[u8], how: How) -> io::Result<()> {
    let path = match how.links {
        Links::Follow => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
        Links::Refuse => path.to_owned(),
    };
    let there = fs::symlink_metadata(&path);
    if there.as_ref().is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other(
            "something else has that name; remove it, or name another file",
        ));
    }
    let aside = aside(&path).ok_or_else(|| io::Error::other("it names no file"))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    let filled = file.write_all(contents).and_then(|()| {
        let mode = match &there {
            Ok(there) => {
                fchown(&file, Some(there.uid()), Some(there.gid()))?;
                there.permissions().mode() & 0o777
            }
            Err(_) => how.mode,
        };
        // Not what the mask leaves of it.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&aside, &path)
    });
    if filled.is_err() {
        // The caller hears of the first trouble.
        let _ = fs::remove_file(&aside);
    }
    filled
}

/// A name in the same folder, of this process and of this writing alone.
fn aside(path: &Path) -> Option<PathBuf> {
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    let count = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let mut name = OsString::from(".");
    name.push(path.file_name()?);
    name.push(format!(".{}.{count}", std::process::id()));
    Some(path.with_file_name(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const FOLLOW: How = How {
        mode: 0o640,
        links: Links::Follow,
    };
    const REFUSE: How = How {
        mode: 0o644,
        links: Links::Refuse,
    };

    fn scratch(test: &str) -> PathBuf {
        let name = format!("pen-replace-{test}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_owner() {
        let folder = scratch("whole");
        let (file, link) = (folder.join("file"), folder.join("link"));
        replace_file(&file, b"a longer text than the next one", FOLLOW).unwrap();
        assert_eq!(mode(&file), 0o640);
        // Whoever reads meanwhile goes on with what he has; rights of a program are not handed on.
        let mut reader = fs::File::open(&file).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o4600)).unwrap();
        symlink(&file, &link).unwrap();
        replace_file(&link, b"two", FOLLOW).unwrap();
        assert_eq!(
            (fs::read(&file).unwrap(), mode(&file)),
            (b"two".to_vec(), 0o600)
        );
        assert_eq!(io::read_to_string(&mut reader).unwrap().len(), 31);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn nothing_else_is_touched() {
        let folder = scratch("else");
        let (victim, link) = (folder.join("victim"), folder.join("link"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        let why = replace_file(&link, b"new", REFUSE).unwrap_err().to_string();
        assert!(why.contains("something else has that name"), "{why}");
        assert!(replace_file(&folder, b"new", REFUSE).is_err());
        assert!(replace_file(&folder.join("no/file"), b"new", REFUSE).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn two_at_once_do_not_meet() {
        let folder = scratch("both");
        let file = folder.join("file");
        std::thread::scope(|scope| {
            for letter in [b"a", b"b"] {
                let file = &file;
                scope.spawn(move || {
                    for _ in 0..50 {
                        replace_file(file, &letter.repeat(9999), REFUSE).unwrap();
                    }
                });
            }
        });
        let text = fs::read(&file).unwrap();
        assert!(text.len() == 9999 && text.iter().all(|byte| *byte == text[0]));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
