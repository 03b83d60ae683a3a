//! One network namespace: a machine of the lab.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{self, Output, Process, RUN_LIMIT};

/// A network namespace with a folder for the logs and files of what runs in it.
///
/// Programs run by `ip netns exec`, so `/sys` is the namespace's own, while `/sys/fs/bpf` is
/// hidden: what pins must be told [`Lab::bpffs`](crate::Lab::bpffs), which every program of the lab
/// sees.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    folder: PathBuf,
    numbers: AtomicU32,
}

impl Namespace {
    /// The namespace `name`, which the caller makes (with others, in one go) and the lab's guard
    /// deletes.
    pub(crate) fn new(name: String, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(Self {
            name,
            folder,
            numbers: AtomicU32::new(0),
        })
    }

    /// The name that `ip netns` knows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A folder of this machine's own, removed with the lab.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that stands for the namespace, for system calls that take one.
    pub fn file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// `program` with `args`, prepared to run inside; for what needs more than [`Namespace::run`]
    /// offers.
    pub fn command<P, A>(&self, program: P, args: A) -> Command
    where
        P: AsRef<OsStr>,
        A: IntoIterator,
        A::Item: AsRef<OsStr>,
    {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program)
            .args(args);
        command
    }

    /// Runs a program inside to its end, at most 20 s, whatever its exit code.
    ///
    /// # Errors
    /// It can't be started or did not end in time.
    pub fn run<P, A>(&self, program: P, args: A) -> Result<Output>
    where
        P: AsRef<OsStr>,
        A: IntoIterator,
        A::Item: AsRef<OsStr>,
    {
        process::run(self.command(program, args), RUN_LIMIT)
    }

    /// As [`Namespace::run`], with a limit of the caller's.
    pub fn run_for<P, A>(&self, limit: Duration, program: P, args: A) -> Result<Output>
    where
        P: AsRef<OsStr>,
        A: IntoIterator,
        A::Item: AsRef<OsStr>,
    {
        process::run(self.command(program, args), limit)
    }

    /// As [`Namespace::run`], but an exit code other than 0 is an error that shows what was
    /// printed.
    pub fn run_ok<P, A>(&self, program: P, args: A) -> Result<Output>
    where
        P: AsRef<OsStr>,
        A: IntoIterator,
        A::Item: AsRef<OsStr>,
    {
        process::run_ok(self.command(program, args), RUN_LIMIT)
    }

    /// Starts a program inside and leaves it running until the returned value is dropped.
    pub fn spawn<P, A>(&self, program: P, args: A) -> Result<Process>
    where
        P: AsRef<OsStr>,
        A: IntoIterator,
        A::Item: AsRef<OsStr>,
    {
        let program = program.as_ref();
        self.spawn_command(self.command(program, args), program)
    }

    /// As [`Namespace::spawn`], for a command from [`Namespace::command`] that was given an
    /// environment or a folder.
    pub fn spawn_command(&self, command: Command, program: impl AsRef<OsStr>) -> Result<Process> {
        let file = Path::new(program.as_ref())
            .file_name()
            .unwrap_or(program.as_ref());
        let file = file.to_string_lossy();
        let number = self.next_number();
        let log = self.folder.join(format!("{number}-{file}.log"));
        Process::start(&format!("{file} in {}", self.name), command, log)
    }

    /// A number for a file name in [`Namespace::folder`], never given twice.
    pub fn next_number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// `ip -n NAMESPACE WORDS`, for example `ip("addr add 10.0.0.1/32 dev lo")`.
    pub fn ip(&self, words: &str) -> Result<Output> {
        ip(["-n", self.name.as_str()]
            .into_iter()
            .chain(words.split_whitespace()))
    }

    /// Several `ip -n NAMESPACE` commands by one program: a lab needs a hundred of them.
    ///
    /// # Errors
    /// One was refused; the following were not tried.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        ip_batch(&["-n", &self.name], &self.folder, lines)
    }

    /// Writes kernel settings, each `name=value` in sysctl's dotted form.
    pub fn sysctl(&self, settings: &[&str]) -> Result<()> {
        self.run_ok("sysctl", ["-q", "-w"].iter().chain(settings))
            .map(drop)
    }

    /// As [`Namespace::sysctl`], for settings of parts that a kernel may be without.
    pub fn sysctl_if_known(&self, settings: &[&str]) -> Result<()> {
        self.run_ok("sysctl", ["-e", "-q", "-w"].iter().chain(settings))
            .map(drop)
    }

    /// `ethtool WORDS`, for example `ethtool("-K eth0 tx off")`.
    pub fn ethtool(&self, words: &str) -> Result<Output> {
        self.run_ok("ethtool", words.split_whitespace())
    }
}

/// The `ip` program outside of any namespace.
pub(crate) fn ip<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Output> {
    let mut command = Command::new("ip");
    command.args(words);
    process::run_ok(command, RUN_LIMIT)
}

/// Several `ip` commands by one program, read from a file in `folder`.
pub(crate) fn ip_batch(options: &[&str], folder: &Path, lines: &[String]) -> Result<()> {
    let file = folder.join("ip.batch");
    let text = lines.join("\n") + "\n";
    fs::write(&file, &text).with_context(|| format!("writing {}", file.display()))?;
    let path = file.to_string_lossy();
    // ip names the line that it stumbles over.
    ip(options.iter().copied().chain(["-batch", &*path]))
        .map(drop)
        .with_context(|| text)
}
