//! Whether root alone decides what a path stands for: who may write in a folder on the way could
//! have it stand for any file, and have root read that.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::files::in_full;

/// Links on the way, as for the kernel (path_resolution(7)).
const LINKS_MAX: u32 = 40;

/// Whether all folders on the way to a file, through all links, are such that nobody but root, or
/// whoever owns what is in them, says what is in them.
///
/// # Errors
/// The file is not there.
pub(super) fn is_roots_word(path: &Path) -> io::Result<bool> {
    is_word_of(0, &std::path::absolute(path)?)
}

/// Whether nobody but root says what is in a file.
///
/// # Errors
/// The file is not there.
pub(super) fn is_roots_file(path: &Path) -> io::Result<bool> {
    let found = fs::metadata(path)?;
    Ok(found.uid() == 0 && found.mode() & 0o022 == 0 && is_roots_word(path)?)
}

/// Whether nobody but root says what is in the folder of a file that is to be made.
pub(super) fn is_roots_place(file: &Path) -> bool {
    let folder = file.parent().map(in_full).unwrap_or_default();
    is_roots_file(&folder).unwrap_or_default()
}

fn is_word_of(owner: u32, path: &Path) -> io::Result<bool> {
    let mut rest: VecDeque<OsString> = VecDeque::new();
    put_before(&mut rest, path);
    let mut at = PathBuf::from("/");
    let mut folder = fs::symlink_metadata(&at)?;
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            folder = fs::symlink_metadata(&at)?;
            continue;
        }
        let next = at.join(&name);
        let found = fs::symlink_metadata(&next)?;
        if is_anybodys(&folder, &found, owner) {
            return Ok(false);
        }
        if found.is_symlink() {
            links += 1;
            if links > LINKS_MAX {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = fs::read_link(&next)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
                folder = fs::symlink_metadata(&at)?;
            }
            put_before(&mut rest, &target);
        } else {
            (at, folder) = (next, found);
        }
    }
    Ok(true)
}

/// Whether somebody else than `owner` can put something else in the place of what was found.
fn is_anybodys(folder: &Metadata, found: &Metadata, owner: u32) -> bool {
    if folder.uid() != owner && folder.uid() != 0 {
        return true;
    }
    // The bits of the group bound what access lists grant, too (acl(5)).
    let writable = folder.mode() & 0o022 != 0;
    // In a folder like /tmp everybody may replace what is his own.
    let sticky = folder.mode() & libc::S_ISVTX != 0;
    let own = found.uid() == owner || found.uid() == 0;
    writable && !(sticky && own)
}

fn put_before(rest: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => rest.push_front(name.to_owned()),
            Component::ParentDir => rest.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_on_the_way_that_others_write_in_makes_it_anybodys_word() {
        let top = std::env::temp_dir().join(format!("pen-trusted-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        for folder in ["safe/deep", "open/deep", "sticky"] {
            fs::create_dir_all(top.join(folder)).unwrap();
        }
        let set = |path: &str, mode| {
            fs::set_permissions(top.join(path), Permissions::from_mode(mode)).unwrap();
        };
        for folder in ["", "safe", "safe/deep", "open/deep"] {
            set(folder, 0o755);
        }
        set("open", 0o777);
        set("sticky", 0o1777);
        let files = ["safe/deep/a", "open/deep/a", "sticky/a"];
        for file in files {
            fs::write(top.join(file), "").unwrap();
        }
        symlink("../../open/deep/a", top.join("safe/deep/out")).unwrap();
        symlink("safe", top.join("in")).unwrap();
        symlink("round", top.join("round")).unwrap();
        let me = fs::metadata(&top).unwrap().uid();
        for (path, expected) in [
            ("safe/deep/a", true),
            ("safe/../safe/deep/a", true),
            ("in/deep/a", true),
            ("open/deep/a", false),
            ("safe/deep/out", false),
            ("sticky/a", true),
        ] {
            let found = is_word_of(me, &top.join(path)).unwrap();
            assert_eq!(found, expected, "{path}");
        }
        assert!(is_word_of(me, &top.join("round")).is_err());
        assert!(is_word_of(me, &top.join("none")).is_err());
        fs::remove_dir_all(top).unwrap();
    }
}
