//! A file's contents replaced whole or not at all.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes aside, makes it durable, and renames. A link stays one: what it leads to is replaced. A
/// file that is there keeps its mode, and `mode` is that of a new one.
///
/// # Errors
/// What the kernel says. What was there before is untouched.
pub fn replace_file(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let mode = match fs::metadata(&path) {
        Ok(there) if !there.is_file() => {
            return Err(io::Error::other("something else than a file has that name"));
        }
        Ok(there) => there.permissions().mode() & 0o7777,
        Err(_) => mode,
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.new", std::process::id()));
    let aside = PathBuf::from(aside);
    let written = write(&aside, contents, mode).and_then(|()| fs::rename(&aside, &path));
    if written.is_err() {
        // The caller hears of the first trouble.
        let _ = fs::remove_file(&aside);
    }
    written
}

fn write(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    // Not what the mask leaves of it.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(contents)?;
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_through_a_link() {
        let folder = std::env::temp_dir().join(format!("pen-replace-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (file, link) = (folder.join("file"), folder.join("link"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        // There is nothing yet, and the link leads to nothing.
        replace_file(&file, b"one", 0o640).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o640);
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        replace_file(&link, b"two", 0o644).unwrap();
        assert_eq!(
            (fs::read(&file).unwrap(), mode(&file)),
            (b"two".to_vec(), 0o600)
        );
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let refused = replace_file(&folder, b"three", 0o644);
        assert!(refused.unwrap_err().to_string().contains("something else"));
        assert!(replace_file(&folder.join("no/file"), b"four", 0o644).is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
