//! What a keeper does for the process that serves.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::unistd::User;
use pen_common::config::Config;
use socket2::{Domain, Protocol, Socket, Type};

use super::claim::Claim;
use super::control::Control;
use super::identity::Identity;
use super::request::{Answer, Listen, Request};
use super::rights::Rights;
use super::trusted::is_roots_word;
use crate::cli::Start;
use crate::daemon::notify;
use crate::files::by_keeper as files;
use crate::proxy::listening;
use crate::replace_file::{How, replace_file};

/// Where the kernel shows processes.
const PROCESSES: &str = "/proc";
/// What may be said of a file that is made: no bit lends its owner's rights to others.
const PERMISSIONS: u32 = 0o777;

/// An answer, and the descriptors beside it.
pub(crate) type Given = (Answer, Vec<OwnedFd>);

/// Answers requests.
pub(super) struct Answers {
    identity: Identity,
    user: String,
    rights: Rights,
    start: Start,
    control: Control,
    claim: Claim,
}

impl Answers {
    /// For a process that goes on as this user.
    ///
    /// # Errors
    /// The user is not known in full.
    pub(super) fn new(config: &Config, start: &Start, user: &User) -> Result<Self> {
        let mut rights = Rights::default();
        rights.read(start);
        Ok(Self {
            identity: Identity::of(user)?,
            user: user.name.clone(),
            rights,
            start: start.clone(),
            control: Control::new(config),
            claim: Claim::default(),
        })
    }

    /// What comes of a request.
    pub(super) fn answer(&mut self, request: Request, beside: Option<BorrowedFd<'_>>) -> Given {
        let given = match request {
            Request::Read(path) => self
                .as_named(&path, || files::open(&path))
                .map(|file| (Answer::Done, vec![file.into()])),
            Request::Append { path, mode } => self
                .as_user(&path, || files::append(&path, mode & PERMISSIONS))
                .map(|file| (Answer::Done, vec![file.into()])),
            Request::List(path) => self
                .as_named(&path, || files::list(&path))
                .map(|found| (Answer::Listed(found), Vec::new())),
            Request::Stat(path) => self
                .on_the_way(&path, || files::stat(&path))
                .map(|found| (Answer::Stat(found), Vec::new())),
            Request::Link(path) => self.link(&path),
            Request::Watch(folders) => self.watch(&folders),
            Request::Replace {
                path,
                contents,
                how: How { mode, links },
            } => self
                .as_user(&path, || {
                    let mode = mode & PERMISSIONS;
                    replace_file(&path, contents.as_bytes(), How { mode, links })
                })
                .map(|()| (Answer::Done, Vec::new())),
            Request::Listen(at) => self.listen(&at),
            Request::Remove(path, identity) => self
                .identity
                .as_user(|| listening::remove(&path, identity))
                .map(|()| (Answer::Done, Vec::new())),
            Request::Control => self.control.open(&self.identity),
            Request::ControlAppears => self.control.appear(&self.identity),
            Request::Transparent { v6 } => self.transparent(v6),
            Request::Configuration => {
                self.rights.read(&self.start);
                Ok((Answer::Done, Vec::new()))
            }
            Request::Tell(told) => {
                notify::pass_on(&told);
                Ok((Answer::Done, Vec::new()))
            }
            Request::Serving(line) => {
                notify::ready(&line);
                Ok((Answer::Done, Vec::new()))
            }
            Request::Claim => self.claim.claim(self.rights.interface.as_ref()),
            Request::Sockets => (self.claim).hand_out(self.rights.interface.as_ref(), beside),
            Request::Interface(asked) => self.claim.answer(asked, beside),
        };
        given.unwrap_or_else(|error| (Answer::refused(&error), Vec::new()))
    }

    /// Calls for AF_XDP sockets, if there may be any.
    pub(super) fn claim(&mut self) -> &mut Claim {
        &mut self.claim
    }

    /// As the user, who has no business with what the kernel shows of this very process.
    fn as_user<R>(&self, path: &Path, work: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.identity.as_user(|| {
            let folder = path.parent().map(Path::canonicalize);
            let found = path.canonicalize().ok().or_else(|| folder?.ok());
            if path.starts_with(PROCESSES) || found.is_some_and(|it| it.starts_with(PROCESSES)) {
                return Err(io::Error::from_raw_os_error(libc::EACCES));
            }
            work()
        })
    }

    /// The contents of what is named are had as root, if root alone says what that is.
    fn as_named<R>(&self, path: &Path, work: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        let named = self.rights.names(path);
        let root = named && is_roots_word(path)?;
        let had = match root {
            true => work(),
            false => self.as_user(path, work),
        };
        match had {
            Err(error) if named && !root && error.raw_os_error() == Some(libc::EACCES) => {
                Err(io::Error::other(format!(
                    "{error}; others than root may write in a folder on the way, so that it is \
                     read as {}: give that user the file, or root the folders",
                    self.user
                )))
            }
            had => had,
        }
    }

    /// What files there are on the way is had as root.
    fn on_the_way<R>(&self, path: &Path, work: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self.rights.leads(path) {
            true => work(),
            false => self.as_user(path, work),
        }
    }

    /// The instance is the user's, as there are few for each; what is on the way to something that is
    /// named is watched as root.
    fn watch(&self, folders: &BTreeSet<PathBuf>) -> io::Result<Given> {
        let watched = self.identity.as_user(files::Watched::new)?;
        let mut all = true;
        for folder in folders {
            let add = || watched.add(folder);
            all &= match self.rights.leads(folder) {
                true => add(),
                false => self.as_user(folder, add),
            }?;
        }
        Ok((Answer::Watching(all), vec![watched.told()?]))
    }

    fn link(&mut self, path: &Path) -> io::Result<Given> {
        let target = self.on_the_way(path, || files::link(path))?;
        if self.rights.leads(path) && is_roots_word(path).unwrap_or_default() {
            self.rights.led(path, &target);
        }
        Ok((Answer::Link(target), Vec::new()))
    }

    /// Below port 1024 there are the listeners of the configuration alone.
    fn listen(&self, at: &Listen) -> io::Result<Given> {
        let named = self.rights.listens(at);
        let is_path = matches!(at, Listen::Unix { .. });
        let opened = self.identity.by(named, || listening::open(at));
        let opened = opened.map(|(answer, socket)| (answer, socket.into_iter().collect()));
        match opened {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) && !named && !is_path => {
                Err(io::Error::other(format!(
                    "{error}: as {} Pen listens below port 1024 only where the file or the line \
                     says so that it was started with; write it there, and reload",
                    self.user
                )))
            }
            opened => opened,
        }
    }

    /// What there is of it goes with the daemon.
    pub(super) fn close(self) {
        self.control.close(&self.identity);
    }

    fn transparent(&self, v6: bool) -> io::Result<Given> {
        if !self.rights.transparent {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        match v6 {
            true => socket.set_ip_transparent_v6(true),
            false => socket.set_ip_transparent_v4(true),
        }?;
        Ok((Answer::Done, vec![socket.into()]))
    }
}
