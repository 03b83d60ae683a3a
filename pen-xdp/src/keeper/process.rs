//! The keeper as a process: it stays root, starts the one that serves, and does for it what that one
//! asks and the configuration names. It hears nobody else: no network, no control socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, User, alarm};
use pen_common::config::Config;

use super::answers::Answers;
use super::child::KEPT_AS;
use super::identity::Identity;
use super::pid_place::PidPlace;
use super::request::{Answer, Request, receive, send};
use crate::cli::Start;
use crate::confinement::Whom;

/// What people and the service manager send to the process that they know; the one that serves is to
/// hear it.
const PASSED_ON: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
];
/// How long the process that serves may take for its end when it has let go of its keeper, and how
/// often that is looked at.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(10);
/// How long a message may take, seconds: it is on its way.
const MESSAGE_SECONDS: u32 = 15;

/// Keeps a process that serves as `user`, until that ends. `ready` is called as soon as it serves.
///
/// # Errors
/// There can be none.
pub fn keep(
    config: &Config,
    start: &Start,
    user: &User,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<ExitCode> {
    let identity = Identity::of(user)?;
    let pid_file = PidPlace::of(config, &identity);
    pid_file.check()?;
    let heard = hear()?;
    if Whom::of(config) == (Whom::DataPlane { workers: true }) {
        // Frames of AF_XDP sockets stay in memory. Where it can't be raised, who needs more says so.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    }
    let (own, theirs) = UnixStream::pair().context("no way to the process that serves")?;
    let mut keeping = Keeping {
        answers: Answers::new(config, start, user)?,
        child: spawn(&user.name, theirs)?,
        way: own,
        ready: Some(ready),
    };
    let mut written = None;
    let kept = keeping.keep(&heard, || {
        written = pid_file.write()?;
        Ok(())
    });
    if kept.is_err() {
        // It must not serve without one.
        let _ = keeping.child.kill();
        let _ = keeping.child.wait();
    }
    pid_file.remove(written);
    keeping.answers.close();
    Ok(code_of(kept?))
}

struct Keeping<R> {
    answers: Answers,
    child: Child,
    way: UnixStream,
    ready: Option<R>,
}

impl<R: FnOnce() -> io::Result<()>> Keeping<R> {
    /// `serves` is called before anybody hears that Pen serves.
    fn keep(
        &mut self,
        heard: &SignalFd,
        mut serves: impl FnMut() -> Result<()>,
    ) -> Result<ExitStatus> {
        loop {
            let (signal, request, call) = self.wait(heard)?;
            if signal {
                while let Some(signal) = heard.read_signal().context("no signals are heard")? {
                    self.pass_on(signal.ssi_signo);
                }
                if let Some(status) = self.child.try_wait().context("nobody can be waited for")? {
                    return Ok(status);
                }
            }
            if request {
                match in_time(|| receive(&self.way))
                    .context("what the process that serves asks is no request")?
                {
                    Some((request, beside)) => {
                        let first = beside.first().map(AsFd::as_fd);
                        let answered = self.answer(request, first, &mut serves);
                        // The last close of what lingers waits (SO_LINGER, socket(7)).
                        in_time(|| drop(beside));
                        answered?;
                    }
                    // It ends, or has shut the door and lives on.
                    None => return self.let_end(),
                }
            }
            if call {
                in_time(|| self.answers.claim().hand_out_one());
            }
        }
    }

    /// Whether there are signals, a request, and a call for a socket.
    fn wait(&mut self, heard: &SignalFd) -> Result<(bool, bool, bool)> {
        let calls = self.answers.claim().sockets();
        let mut sources = vec![
            PollFd::new(heard.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.way.as_fd(), PollFlags::POLLIN),
        ];
        sources.extend(calls.map(|calls| PollFd::new(calls, PollFlags::POLLIN)));
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => bail!("nothing can be waited for: {error}"),
        }
        let is_any = |at: usize| sources.get(at).and_then(PollFd::any) == Some(true);
        // Whose callers are gone says so without end; its call must not be waited for.
        let revents = sources.get(2).and_then(PollFd::revents);
        let call = revents.is_some_and(|found| found.contains(PollFlags::POLLIN));
        Ok((is_any(0), is_any(1), call))
    }

    fn answer(
        &mut self,
        request: Request,
        beside: Option<BorrowedFd<'_>>,
        serves: &mut impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let is_ready = matches!(request, Request::Serving(_));
        let (answer, descriptors) = match is_ready.then(&mut *serves) {
            Some(Err(error)) => {
                let why = format!("{error:#}");
                (Answer::Refused { code: None, why }, Vec::new())
            }
            Some(Ok(())) | None => self.answers.answer(request, beside),
        };
        if is_ready
            && answer == Answer::Done
            && let Some(ready) = self.ready.take()
        {
            ready().context("whoever started this daemon did not wait for it")?;
        }
        let beside: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let sent = match in_time(|| send(&self.way, &answer, &beside)) {
            // A name that is no text, or more of them than a message holds.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                in_time(|| send(&self.way, &Answer::refused(&error), &[]))
            }
            sent => sent,
        };
        match sent {
            // Its end is heard of next.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.context("the process that serves does not take its answer"),
        }
    }

    /// The process that serves has let go of the way to its keeper.
    fn let_end(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().context("nobody can be waited for")? {
                return Ok(status);
            }
            if Instant::now() >= end {
                self.child.kill().context("it can't be ended")?;
            }
            thread::sleep(AGAIN);
        }
    }

    fn pass_on(&self, number: u32) {
        let number = i32::try_from(number).unwrap_or_default();
        let known = Signal::try_from(number).ok();
        if let Some(signal) = known.filter(|signal| PASSED_ON.contains(signal)) {
            let pid = Pid::from_raw(self.child.id().cast_signed());
            if let Err(error) = kill(pid, signal) {
                tracing::error!("{signal} can't be passed on: {error}");
            }
        }
    }
}

/// Says or hears something. Who is kept waiting by a process that serves, and is none of its own mind
/// any more, is ended by the kernel (SIGALRM), and that one with it.
fn in_time<T>(work: impl FnOnce() -> T) -> T {
    alarm::set(MESSAGE_SECONDS);
    let done = work();
    alarm::cancel();
    done
}

/// Signals as something to wait for. Who is started inherits that they are held back.
fn hear() -> Result<SignalFd> {
    let mut signals = SigSet::from_iter(PASSED_ON);
    signals.add(Signal::SIGCHLD);
    signals
        .thread_block()
        .context("signals can't be held back")?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("signals can't be heard")
}

/// Starts this program once more, to become the user and to serve.
fn spawn(user: &str, way: UnixStream) -> Result<Child> {
    let program = std::env::current_exe().context("this program can't be found")?;
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        .env(KEPT_AS, user)
        .stdin(Stdio::from(OwnedFd::from(way)))
        // What a terminal sends to all is passed on to it, and would come twice.
        .process_group(0);
    hand_on(&mut command);
    command
        .spawn()
        .context("the process that serves can't be started")
}

/// What the service manager means for this process is for that one, which has another number.
fn hand_on(command: &mut Command) {
    let own = std::process::id().to_string();
    for (variable, about, unnamed) in [
        ("LISTEN_PID", "LISTEN_FDS", false),
        ("WATCHDOG_PID", "WATCHDOG_USEC", true),
    ] {
        if std::env::var(variable).map_or(unnamed, |pid| pid == own) {
            command.env_remove(variable);
        } else {
            command.env_remove(about);
        }
    }
}

fn code_of(status: ExitStatus) -> ExitCode {
    match (status.code().map(u8::try_from), status.signal()) {
        (Some(Ok(code)), _) => ExitCode::from(code),
        (_, signal) => {
            let signal = signal.and_then(|number| Signal::try_from(number).ok());
            // Before it had begun to hear them: nothing was begun yet.
            if matches!(signal, Some(Signal::SIGTERM | Signal::SIGINT)) {
                return ExitCode::SUCCESS;
            }
            let by = signal.map_or("itself", Signal::as_str);
            tracing::error!("the process that serves was ended by {by}");
            ExitCode::FAILURE
        }
    }
}
