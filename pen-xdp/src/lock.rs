//! One daemon an interface: the lock that it holds for as long as it has anything of it.
//!
//! Maps, pins, neighbour entries and settings of an interface have one owner. A second one would
//! adopt what the first still writes, and take back what it still needs. The kernel lets go of the
//! lock when its holder is gone, however it went; the file stays, because a file that is removed
//! may be locked by one process while another locks its successor.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::fd::OwnedFd,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long a start waits for the daemon before it to end.
const OVERLAP: Duration = Duration::from_millis(1500);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(25);

/// The interface is someone else's, or it can't be told whose.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A daemon serves it.
    #[error("{interface}: pen serves it already{}; stop that one first", process(.pid))]
    Held {
        /// The interface.
        interface: String,
        /// The daemon's process, as it wrote it down.
        pid: Option<u32>,
    },
    /// The file can't be made or locked.
    #[error("{path}: the lock on the interface can't be taken: {source}")]
    Io {
        /// The lock's file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

fn process(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

/// The right to change an interface; given back when dropped.
#[derive(Debug)]
pub struct InterfaceLock {
    file: File,
}

impl InterfaceLock {
    /// Takes the lock of an interface of this thread's network namespace; waits a moment for a
    /// daemon that is about to end.
    ///
    /// # Errors
    /// A daemon holds it, or `run_dir` can't be written.
    pub async fn take(run_dir: &Path, interface: &str) -> Result<Self, LockError> {
        let end = Instant::now() + OVERLAP;
        loop {
            match Self::try_take(run_dir, interface) {
                Err(LockError::Held { .. }) if Instant::now() < end => {
                    tokio::time::sleep(AGAIN).await;
                }
                other => return other,
            }
        }
    }

    /// As [`InterfaceLock::take`], for a program without an event loop.
    ///
    /// # Errors
    /// As there.
    pub fn take_blocking(run_dir: &Path, interface: &str) -> Result<Self, LockError> {
        let end = Instant::now() + OVERLAP;
        loop {
            match Self::try_take(run_dir, interface) {
                Err(LockError::Held { .. }) if Instant::now() < end => thread::sleep(AGAIN),
                other => return other,
            }
        }
    }

    /// The same lock for another process: it falls when both have let go.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// One that was shared.
    pub(crate) fn shared(descriptor: OwnedFd) -> Self {
        Self {
            file: descriptor.into(),
        }
    }

    fn try_take(run_dir: &Path, interface: &str) -> Result<Self, LockError> {
        let path = path(run_dir, interface);
        let failed = |source| LockError::Io {
            path: path.display().to_string(),
            source,
        };
        fs::create_dir_all(run_dir).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Without the number the refusal still says what counts.
                let _ = file.read_to_string(&mut text);
                return Err(LockError::Held {
                    interface: interface.to_owned(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { file })
    }
}

/// Interfaces of different network namespaces share names, and the directory.
fn path(run_dir: &Path, interface: &str) -> PathBuf {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_or(0, |found| found.ino());
    run_dir.join(format!("{interface}-{namespace}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pen-lock-{name}-{}", std::process::id()))
    }

    #[test]
    fn one_holder_an_interface_and_it_is_named() {
        let run_dir = directory("one");
        let first = InterfaceLock::try_take(&run_dir, "eth0").unwrap();
        let other = InterfaceLock::try_take(&run_dir, "eth1").unwrap();
        let refused = InterfaceLock::try_take(&run_dir, "eth0").unwrap_err();
        let pid = std::process::id();
        assert_eq!(
            refused.to_string(),
            format!("eth0: pen serves it already (process {pid}); stop that one first")
        );
        drop(first);
        InterfaceLock::try_take(&run_dir, "eth0").unwrap();
        drop(other);
        fs::remove_dir_all(run_dir).unwrap();
    }

    #[tokio::test]
    async fn a_start_waits_for_the_end_of_the_daemon_before() {
        let run_dir = directory("overlap");
        let first = InterfaceLock::try_take(&run_dir, "eth0").unwrap();
        let end = async {
            tokio::time::sleep(OVERLAP / 3).await;
            drop(first);
        };
        let ((), second) = tokio::join!(end, InterfaceLock::take(&run_dir, "eth0"));
        second.unwrap();
        fs::remove_dir_all(run_dir).unwrap();
    }
}
