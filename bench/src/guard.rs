//! Nothing of a lab outlives its process: a shell beside us waits for our end, whatever ends us.
//!
//! The shell reads a pipe that only this process holds. Drop, panic, exit, Ctrl-C and SIGKILL all
//! close the pipe; then it kills what still runs in the lab's namespaces, deletes them, unmounts
//! and removes the lab's directory. So there is one way to clean up and no way around it. Should
//! the shell itself have been killed, [`sweep`] does the same at the next start, for the labs of
//! processes that no longer exist.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Where labs keep their directories; the same for every user of the machine, so that a sweep finds
/// them all.
pub(crate) const ROOT: &str = "/run";

/// `$1` is the lab's name, the directory is `/run/NAME`, the namespaces are `NAME-*`.
const CLEAN: &str = r#"
trap '' HUP INT QUIT TERM PIPE
cat >/dev/null
spaces=$(ls /run/netns 2>/dev/null | grep "^$1-")
for space in $spaces; do
    for pid in $(ip netns pids "$space" 2>/dev/null); do kill -s KILL "$pid" 2>/dev/null; done
done
for space in $spaces; do echo "netns delete $space"; done | ip -force -batch - 2>/dev/null
umount "/run/$1/bpf" 2>/dev/null || umount -l "/run/$1/bpf" 2>/dev/null
rm -rf --one-file-system "/run/$1"
"#;

/// Cleans up after one lab when dropped, or when this process ends in any way.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
}

impl Guard {
    /// Starts the shell for the lab `name`; call it before anything else of the lab exists.
    pub(crate) fn start(name: &str) -> Result<Self> {
        Ok(Self {
            shell: spawn(name)?,
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Removes what is left of labs whose process no longer exists. Labs of living processes are not
/// touched.
pub(crate) fn sweep() -> Result<()> {
    for name in leftovers() {
        // Dropping the guard at once is the clean-up.
        drop(Guard::start(&name)?);
    }
    Ok(())
}

/// Names (`pen-PID-N`) of labs whose process is dead, from their namespaces and directories.
fn leftovers() -> BTreeSet<String> {
    [Path::new("/run/netns"), Path::new(ROOT)]
        .into_iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| lab_name(&entry.file_name().to_string_lossy()))
        .filter(|(pid, _)| !Path::new("/proc").join(pid.to_string()).exists())
        .map(|(_, name)| name)
        .collect()
}

/// Splits `pen-12-0-client` into the process id and the lab's name `pen-12-0`.
fn lab_name(text: &str) -> Option<(u32, String)> {
    let mut parts = text.strip_prefix("pen-")?.split('-');
    let pid: u32 = parts.next()?.parse().ok()?;
    let number: u32 = parts.next()?.parse().ok()?;
    Some((pid, format!("pen-{pid}-{number}")))
}

fn spawn(name: &str) -> Result<Child> {
    Command::new("sh")
        .args(["-c", CLEAN, "lab-guard", name])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A terminal's Ctrl-C goes to the whole foreground group; the shell must survive it to
        // clean up.
        .process_group(0)
        .spawn()
        .context("starting the lab's guard (sh)")
}

/// The directory of the lab `name`.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

#[cfg(test)]
mod tests {
    use super::lab_name;

    #[test]
    fn only_names_of_labs_are_swept() {
        assert_eq!(lab_name("pen-12-0-client"), Some((12, "pen-12-0".into())));
        assert_eq!(lab_name("pen-12-3"), Some((12, "pen-12-3".into())));
        for other in [
            "pen",
            "pen-web-1",
            "pen-12",
            "open-12-0",
            "pen-12-x",
            "pen.pid",
        ] {
            assert_eq!(lab_name(other), None, "{other}");
        }
    }
}
