//! What a proxy uses: the time of its threads and the memory of its processes, by the kernel's
//! account. Everybody's processes share a process group, so a master and its worker count as one.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// CPU-seconds of all threads of a process group that are there, since they started (proc(5):
/// `schedstat`, in nanoseconds). The kernel's part of a system call is in it, and with it the
/// receive work that loopback does on the sender's time.
///
/// # Errors
/// Nobody is in the group, or the kernel does not tell.
pub(crate) fn cpu_seconds(group: u32) -> Result<f64> {
    Ok(thread_seconds(group)?.iter().sum())
}

/// The same of each thread, in the order in which they are listed.
///
/// # Errors
/// As there.
pub(crate) fn thread_seconds(group: u32) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for process in processes(group)? {
        let Ok(tasks) = fs::read_dir(process.join("task")) else {
            continue; // It has just ended.
        };
        for task in tasks.flatten() {
            let file = task.path().join("schedstat");
            let Some(text) = read(&file)? else { continue };
            let nanoseconds = running(&text);
            let nanoseconds =
                nanoseconds.with_context(|| format!("{} says {text:?}", file.display()))?;
            seconds.push(nanoseconds as f64 / 1e9);
        }
    }
    Ok(seconds)
}

/// Memory of a process group that is really there, KiB; what processes share counts once for each.
///
/// # Errors
/// Nobody is in the group.
pub(crate) fn resident_kib(group: u32) -> Result<u64> {
    let mut sum = 0;
    for process in processes(group)? {
        // A process that has just ended has no memory any more.
        let text = read(&process.join("status"))?;
        sum += text.as_deref().and_then(resident).unwrap_or_default();
    }
    Ok(sum)
}

/// A file of proc; nothing if its process or thread has ended since it was listed.
fn read(file: &Path) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

fn processes(group: u32) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir("/proc").context("reading /proc")?;
    let found = entries.flatten().map(|entry| entry.path());
    let found: Vec<_> = found.filter(|path| group_of(path) == Some(group)).collect();
    ensure!(!found.is_empty(), "nobody is in process group {group}");
    Ok(found)
}

fn group_of(process: &Path) -> Option<u32> {
    group_in(&fs::read_to_string(process.join("stat")).ok()?)
}

/// `ID (NAME) STATE PARENT GROUP ...`; a name may hold anything.
fn group_in(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(2)?.parse().ok()
}

fn running(schedstat: &str) -> Option<u64> {
    schedstat.split(' ').next()?.parse().ok()
}

fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_understood() {
        assert_eq!(group_in("17 (a) b) c) S 1 42 42 0 -1"), Some(42));
        assert_eq!(running("1500 20 3\n"), Some(1500));
        assert_eq!(
            resident("Name:\tx\nVmRSS:\t    5120 kB\nThreads:\t1\n"),
            Some(5120)
        );
    }

    #[test]
    fn our_own_group_has_time_and_memory() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let group = group_in(&stat).unwrap();
        assert!(cpu_seconds(group).unwrap() > 0.0);
        assert!(resident_kib(group).unwrap() > 100);
        assert!(cpu_seconds(u32::MAX).is_err());
    }
}
