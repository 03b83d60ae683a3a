//! The side of the process that serves: it has no rights of its own, and asks its keeper.

use std::env;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{dup2_stdin, getppid};

use super::answers::Given;
use super::request::{Answer, Request, receive, send};
use crate::daemon::notify::Told;

/// Names to a process the user that it is to become; its standard input leads to its keeper then.
pub(super) const KEPT_AS: &str = "PEN_KEPT_AS";

static KEEPER: OnceLock<Keeper> = OnceLock::new();

/// The way to this process's keeper.
#[derive(Debug)]
pub(crate) struct Keeper {
    stream: Mutex<UnixStream>,
    pid: u32,
}

/// The user that this process is to become, if it was started by a keeper.
///
/// # Errors
/// The way to it can't be had.
pub fn join() -> Result<Option<String>> {
    let Some(user) = env::var_os(KEPT_AS) else {
        return Ok(None);
    };
    let user = user.into_string();
    let user = user.map_err(|user| anyhow::anyhow!("{KEPT_AS}={user:?} is no user"))?;
    // The keeper has them held back, for itself.
    let signals = SigSet::all().thread_unblock();
    signals.context("signals stay held back")?;
    let way = io::stdin().as_fd().try_clone_to_owned();
    let way = way.context("no way to the keeper")?;
    let null = File::open("/dev/null").context("/dev/null")?;
    dup2_stdin(&null).context("the standard input can't be given up")?;
    let pid = getppid().as_raw().cast_unsigned();
    let stream = Mutex::new(UnixStream::from(way));
    // Only the first start of a process gets here.
    let _ = KEEPER.set(Keeper { stream, pid });
    Ok(Some(user))
}

/// Has the kernel end this process with its keeper, without whom nothing can be renewed. To be called
/// when it is who it stays: the kernel forgets it otherwise (prctl(2)).
///
/// # Errors
/// The kernel refuses, or the keeper is gone already.
pub fn die_with_keeper() -> Result<()> {
    let Some(keeper) = keeper() else {
        return Ok(());
    };
    set_pdeathsig(Signal::SIGKILL).context("no end with the keeper")?;
    if getppid().as_raw().cast_unsigned() != keeper.pid {
        anyhow::bail!("the keeper is gone");
    }
    Ok(())
}

/// Has the keeper answer calls for AF_XDP sockets, which come by this descriptor.
///
/// # Errors
/// It does not.
pub fn have_sockets(calls: OwnedFd) -> Result<()> {
    let keeper = keeper().context("there is no keeper")?;
    keeper.ask_with(&Request::Sockets, Some(calls.as_fd()))?;
    Ok(())
}

/// This process's keeper; without one it does everything itself.
pub(crate) fn keeper() -> Option<&'static Keeper> {
    KEEPER.get()
}

/// Whether this process has a keeper.
pub fn is_kept() -> bool {
    keeper().is_some()
}

/// The process that people and the service manager know as Pen.
pub(crate) fn main_pid() -> u32 {
    keeper().map_or_else(std::process::id, |keeper| keeper.pid)
}

/// Has the keeper read the configuration before this process does, if there is one: it gives what
/// that names.
pub(crate) fn read_configuration() {
    if let Some(keeper) = keeper()
        && let Err(error) = keeper.ask(&Request::Configuration)
    {
        tracing::warn!("the keeper does not read the configuration: {error}");
    }
}

/// Whether there is a keeper, which tells whoever waits for it that Pen serves.
///
/// # Errors
/// It can't: as where the pid file can't be written.
pub fn serving(line: &str) -> Result<bool> {
    match keeper() {
        Some(keeper) => keeper
            .ask(&Request::Serving(line.to_owned()))
            .map(|_| true)
            .map_err(anyhow::Error::from),
        None => Ok(false),
    }
}

impl Keeper {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the keeper, or the kernel, says against it.
    pub(crate) fn ask(&self, request: &Request) -> io::Result<Given> {
        self.ask_with(request, None)
    }

    /// The same with a descriptor beside the request.
    ///
    /// # Errors
    /// As [`Keeper::ask`].
    pub(crate) fn ask_with(
        &self,
        request: &Request,
        beside: Option<BorrowedFd<'_>>,
    ) -> io::Result<Given> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        exchange(&stream, request, beside)
    }

    /// Has the service manager told something. What it hears again soon anyway holds nobody up for a
    /// keeper that is busy, with a disk that does not answer.
    ///
    /// # Errors
    /// As [`Keeper::ask`], or the keeper is busy.
    pub(crate) fn tell(&self, told: &Told) -> io::Result<()> {
        let request = Request::Tell(told.clone());
        if !matches!(told, Told::Alive | Told::Status(_)) {
            return self.ask(&request).map(drop);
        }
        match self.stream.try_lock() {
            Ok(stream) => exchange(&stream, &request, None).map(drop),
            Err(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// The same for what is answered by a descriptor.
    ///
    /// # Errors
    /// As [`Keeper::ask`].
    pub(crate) fn descriptor(&self, request: &Request) -> io::Result<OwnedFd> {
        let (answer, mut descriptors) = self.ask(request)?;
        match descriptors.pop() {
            Some(descriptor) => Ok(descriptor),
            None => Err(unexpected((answer, descriptors))),
        }
    }
}

fn exchange(
    stream: &UnixStream,
    request: &Request,
    beside: Option<BorrowedFd<'_>>,
) -> io::Result<Given> {
    send(stream, request, beside.as_slice())?;
    let answer = receive(stream)?;
    match answer.ok_or_else(|| io::Error::other("the keeper is gone"))? {
        (Answer::Refused { code, why }, _) => Err(match code {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(why),
        }),
        answer => Ok(answer),
    }
}

/// An answer that has one descriptor beside it, or none.
pub(crate) fn with_one((answer, descriptors): Given) -> (Answer, Option<OwnedFd>) {
    (answer, descriptors.into_iter().next())
}

/// An answer to another question, which no keeper of this program gives.
pub(crate) fn unexpected<D>((answer, _): (Answer, D)) -> io::Error {
    io::Error::other(format!("the keeper answers {answer:?}"))
}
