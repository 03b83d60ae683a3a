//! The pid file: written by a privileged process at a path that others may be able to write to.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long a start waits for the daemon before it to end.
const OVERLAP: Duration = Duration::from_millis(1500);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(25);
/// Letters that are read of a file: more than any number of a process has.
const NUMBER_MAX: u64 = 32;

/// The pid file; removed with it.
pub struct PidFile<'a>(&'a Path);

impl<'a> PidFile<'a> {
    /// Looks whether the file may be written, before anything is started; waits a moment for a
    /// daemon that is about to end, as the lock on the interface does.
    ///
    /// # Errors
    /// It names a daemon that is alive, or is no ordinary file.
    pub fn check(path: &Path) -> Result<()> {
        check(path, OVERLAP, is_daemon).with_context(|| format!("pid file {}", path.display()))
    }

    /// Writes this process's number.
    ///
    /// # Errors
    /// As [`PidFile::check`]; or the file can't be written.
    pub fn write(path: &'a Path) -> Result<Self> {
        Self::check(path)?;
        write(path).with_context(|| format!("pid file {}: can't be written", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for PidFile<'_> {
    fn drop(&mut self) {
        // A daemon that was started meanwhile may have the file.
        let removed = match named(self.0) {
            Ok(Some(pid)) if pid == std::process::id() => fs::remove_file(self.0),
            Ok(_) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!("pid file {}: {error}", self.0.display());
        }
    }
}

fn check(path: &Path, patience: Duration, is_daemon: impl Fn(u32) -> bool) -> Result<()> {
    let end = Instant::now() + patience;
    while let Some(pid) = living(path, &is_daemon)? {
        if Instant::now() >= end {
            bail!(
                "it is that of process {pid}, which is alive; stop that one, or name another file"
            );
        }
        thread::sleep(AGAIN);
    }
    Ok(())
}

/// The daemon, other than this one, that the file is of.
fn living(path: &Path, is_daemon: impl Fn(u32) -> bool) -> Result<Option<u32>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
        // A link would have us write where it leads, whoever made it.
        Ok(found) if !found.is_file() => {
            bail!("something else has that name; remove it, or name another")
        }
        Ok(_) => {}
    }
    // A dead daemon's number may be some other program's by now.
    match named(path) {
        Ok(pid) => Ok(pid.filter(|&pid| pid != std::process::id() && is_daemon(pid))),
        // Its daemon has ended between the two looks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = open(
        path,
        OpenOptions::new().write(true).create(true).mode(0o644),
    )?;
    file.set_len(0)?;
    file.write_all(std::process::id().to_string().as_bytes())
}

/// The process that the file names; `None` if it names none.
fn named(path: &Path) -> io::Result<Option<u32>> {
    let mut text = Vec::new();
    let file = open(path, OpenOptions::new().read(true))?;
    file.take(NUMBER_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).trim().parse().ok())
}

/// Never through a link, and never waiting for the other end of a pipe.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Whether a living process of this program has the number: numbers are used again, in containers
/// soon.
fn is_daemon(pid: u32) -> bool {
    let program = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm"));
    match (program(pid), program(std::process::id())) {
        (Ok(its), Ok(ours)) => its == ours,
        (Err(error), _) => error.kind() != io::ErrorKind::NotFound,
        (Ok(_), Err(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, path::PathBuf, process::Command};

    use super::*;

    fn scratch(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("pen-pid-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = scratch("link");
        let (victim, path) = (folder.join("victim"), folder.join("pid"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &path).unwrap();
        assert!(PidFile::write(&path).is_err());
        // Nor if it is put there between the check and the writing.
        assert!(write(&path).is_err());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_living_daemons_file_is_not_overwritten() {
        let folder = scratch("living");
        let path = folder.join("pid");
        fs::write(&path, "4711\n").unwrap();
        let refused = check(&path, Duration::ZERO, |pid| pid == 4711)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("process 4711, which is alive"),
            "{refused}"
        );
        assert!(
            check(&path, Duration::ZERO, |_| false).is_ok(),
            "it is dead"
        );
        fs::write(&path, std::process::id().to_string()).unwrap();
        assert!(
            check(&path, Duration::ZERO, |_| true).is_ok(),
            "it is this one"
        );
        for nothing in ["", "x", "99999999999999999999999999999999999999"] {
            fs::write(&path, nothing).unwrap();
            assert!(
                check(&path, Duration::ZERO, |_| true).is_ok(),
                "{nothing:?}"
            );
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_daemon_that_is_about_to_end_is_waited_for() {
        let folder = scratch("ending");
        let path = folder.join("pid");
        fs::write(&path, "4711").unwrap();
        let looks = std::cell::Cell::new(0);
        let ends_soon = |_| looks.replace(looks.get() + 1) < 2;
        assert!(check(&path, Duration::from_secs(60), ends_soon).is_ok());
        assert_eq!(looks.get(), 3);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn only_a_process_of_this_program_is_a_daemon() {
        assert!(is_daemon(std::process::id()));
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        // The number is the child's at once, its name when it has become the other program.
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_daemon(other.id()) && Instant::now() < deadline {
            thread::yield_now();
        }
        assert!(!is_daemon(other.id()));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!is_daemon(u32::MAX));
    }

    #[test]
    fn only_our_own_file_is_removed() {
        let folder = scratch("own");
        let path = folder.join("pid");
        fs::write(&path, "a longer text than a number").unwrap();
        let file = PidFile::write(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, std::process::id().to_string());
        drop(file);
        assert!(!path.exists());
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1").unwrap();
        drop(file);
        assert!(path.exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
