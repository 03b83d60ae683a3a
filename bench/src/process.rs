//! Programs that run inside a namespace: started, watched, signalled by their own id, and never
//! left behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How often a wait looks again.
const TICK: Duration = Duration::from_millis(5);
/// How long a program may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How long [`run`] waits when the caller names no limit.
pub(crate) const RUN_LIMIT: Duration = Duration::from_secs(20);

/// What a finished program said.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Whether the exit code was 0.
    pub fn ok(&self) -> bool {
        self.status.success()
    }

    /// Both streams, for error messages.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A signal by name; the lab needs no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Hup,
    Int,
    Kill,
    Term,
    Stop,
    Cont,
    Usr1,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Hup => "HUP",
            Signal::Int => "INT",
            Signal::Kill => "KILL",
            Signal::Term => "TERM",
            Signal::Stop => "STOP",
            Signal::Cont => "CONT",
            Signal::Usr1 => "USR1",
        }
    }
}

/// A program that runs in the background; its process group is killed when this value is dropped.
///
/// Standard output and error go to one file, in the order written, which can be read at any time.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Its end was waited for: from then on the process id may be somebody else's.
    reaped: bool,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a process group of its own with both streams going to `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: PathBuf) -> Result<Self> {
        let out = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let err = out.try_clone().context("duplicating a log descriptor")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            reaped: false,
            log,
        })
    }

    /// The process id; the program itself, as `ip netns exec` becomes what it runs.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything written to standard output and error so far.
    pub fn output(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The file that [`Process::output`] reads.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether the program has not ended yet.
    pub fn is_running(&self) -> bool {
        !self.reaped && !is_zombie(self.child.id())
    }

    /// Waits until a whole line contains `pattern` and returns that line.
    ///
    /// # Errors
    /// The program ended or `limit` passed before such a line came; the text says what it printed.
    pub fn wait_for_line(&self, pattern: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            // Asked before reading: what an ending program writes last must still be seen.
            let running = self.is_running();
            let output = self.output();
            let whole = output.rfind('\n').map_or("", |end| &output[..end]);
            if let Some(line) = whole.lines().find(|line| line.contains(pattern)) {
                return Ok(line.to_owned());
            }
            let name = &self.name;
            ensure!(
                running,
                "{name} ended before it printed {pattern:?}; it printed:\n{output}"
            );
            if Instant::now() > deadline {
                bail!("{name} did not print {pattern:?} in {limit:?}; it printed:\n{output}");
            }
            thread::sleep(TICK);
        }
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        match wait_child(&mut self.child, limit)? {
            Some(status) => {
                self.reaped = true;
                Ok(status)
            }
            None => bail!(
                "{} still runs after {limit:?}; it printed:\n{}",
                self.name,
                self.output()
            ),
        }
    }

    /// Sends a signal to the program (not to its children).
    pub fn signal(&self, signal: Signal) -> Result<()> {
        ensure!(self.is_running(), "{} has ended, no signal sent", self.name);
        send(signal, &self.child.id().to_string())
            .with_context(|| format!("signalling {}", self.name))
    }

    /// Asks the program to end with `signal` and waits for it.
    ///
    /// # Errors
    /// It still runs after `limit` (it is then killed when dropped).
    pub fn stop(&mut self, signal: Signal, limit: Duration) -> Result<ExitStatus> {
        if self.is_running() {
            self.signal(signal)?;
        }
        self.wait(limit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        let group = format!("-{}", self.child.id());
        // A stopped program would not see SIGTERM before SIGCONT.
        let asked = send(Signal::Term, &group).and_then(|()| send(Signal::Cont, &group));
        let deadline = Instant::now() + GRACE;
        while asked.is_ok() && self.is_running() && Instant::now() < deadline {
            thread::sleep(TICK);
        }
        // Its children may outlive it. Not reaped yet, so the group id is still ours.
        let _ = send(Signal::Kill, &group);
        let _ = self.child.wait();
    }
}

/// Whether the process has ended and only waits to be reaped; the state follows the name, which may
/// hold anything.
fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Runs a program to its end.
///
/// # Errors
/// It can't be started, or it still ran after `limit` (it is then killed).
pub(crate) fn run(mut command: Command, limit: Duration) -> Result<Output> {
    let text = describe(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {text}"))?;
    // Read beside the wait: a full pipe would stop the program for ever.
    let stdout = child.stdout.take().map(reader);
    let stderr = child.stderr.take().map(reader);
    let deadline = Instant::now() + limit;
    let status = wait_child(&mut child, limit)?;
    let open = [&stdout, &stderr];
    let open = || {
        open.into_iter()
            .flatten()
            .any(|thread| !thread.is_finished())
    };
    // What it left running may hold its streams; waiting for their end would have none.
    while status.is_some() && open() {
        ensure!(
            Instant::now() < deadline,
            "{text} has ended, but something that it started keeps its output open"
        );
        thread::sleep(TICK);
    }
    if status.is_none() {
        let _ = send(Signal::Kill, &format!("-{}", child.id()));
        let _ = child.wait();
    }
    let collect = |thread: Option<thread::JoinHandle<String>>| {
        thread
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    };
    let (stdout, stderr) = (collect(stdout), collect(stderr));
    match status {
        Some(status) => Ok(Output {
            status,
            stdout,
            stderr,
        }),
        None => {
            bail!("{text} still ran after {limit:?} and was killed; it printed:\n{stdout}{stderr}")
        }
    }
}

/// Runs a program and demands success.
///
/// # Errors
/// As [`run`], and an exit code that is not 0.
pub(crate) fn run_ok(command: Command, limit: Duration) -> Result<Output> {
    let text = describe(&command);
    let output = run(command, limit)?;
    ensure!(
        output.ok(),
        "{text} failed ({}):\n{}",
        output.status,
        output.text()
    );
    Ok(output)
}

fn reader(mut stream: impl std::io::Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read before an error is still worth showing.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait_child(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a program")? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        thread::sleep(TICK);
    }
}

/// The shell's own `kill`: no crate is needed for it, and no package.
fn send(signal: Signal, target: &str) -> Result<()> {
    let status = Command::new("sh")
        .args([
            "-c",
            "kill -s \"$1\" -- \"$2\"",
            "kill",
            signal.name(),
            target,
        ])
        .stderr(Stdio::null())
        .status()
        .context("starting sh")?;
    ensure!(status.success(), "kill -{} {target} failed", signal.name());
    Ok(())
}

fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
