//! The file of the status page: written by a privileged process, read by a web server, at a path
//! that others may be able to write to.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail};

/// Everybody may read it, whatever the umask of whoever started Pen.
const MODE: u32 = 0o644;

/// Puts `text` in the place of the file. Who reads it has the old text or the new one, whole.
///
/// # Errors
/// Something else than a file has that name, or its directory can't be written.
pub(super) fn write(path: &Path, text: &str) -> Result<()> {
    // A link would be replaced, and whoever made it expects the page elsewhere.
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        bail!("something else has that name; remove it, or name another file");
    }
    let beside = beside(path).context("it names no file")?;
    let written = fill(&beside, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // It may not have been made at all.
        let _ = fs::remove_file(&beside);
    }
    written.context("can't be written; is its directory there?")
}

/// A name in the same directory, of this process and of this writing alone.
fn beside(path: &Path) -> Option<PathBuf> {
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    let count = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name()?);
    name.push(format!(".{}.{count}", std::process::id()));
    Some(path.with_file_name(name))
}

/// Makes the file, which must not be there: no link is followed.
fn fill(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file: File = options.write(true).create_new(true).mode(MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn scratch(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pen-page-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn the_file_is_replaced_whole_and_readable() {
        let folder = scratch("whole");
        let path = folder.join("pen.html");
        fs::write(&path, "a longer text than the new one").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        // Whoever reads meanwhile goes on with what he has.
        let mut reader = File::open(&path).unwrap();
        write(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(io::read_to_string(&mut reader).unwrap().len(), 30);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert_eq!(names(&folder), ["pen.html"]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn nothing_else_is_touched() {
        let folder = scratch("else");
        let (victim, path) = (folder.join("victim"), folder.join("page"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &path).unwrap();
        let why = write(&path, "new").unwrap_err().to_string();
        assert!(why.contains("something else has that name"), "{why}");
        assert!(write(&folder, "new").is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(names(&folder), ["page", "victim"]);
        let why = write(&folder.join("no/page"), "new").unwrap_err();
        assert!(format!("{why:#}").contains("is its directory there"));
        fs::remove_dir_all(folder).unwrap();
    }
}
