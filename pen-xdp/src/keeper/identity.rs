//! Doing one thing as the user that Pen goes on as, and being root again.

use std::ffi::CString;
use std::io;
use std::process::abort;

use anyhow::{Context, Result};
use nix::unistd::{
    Gid, Uid, User, getegid, geteuid, getgrouplist, getgroups, setegid, seteuid, setgroups,
};

/// A user with its groups, and who this process is.
#[derive(Debug)]
pub(super) struct Identity {
    user: (Uid, Gid, Vec<Gid>),
    own: (Uid, Gid, Vec<Gid>),
}

impl Identity {
    /// For this user.
    ///
    /// # Errors
    /// Its groups are not known.
    pub(super) fn of(user: &User) -> Result<Self> {
        let name = CString::new(user.name.as_str())?;
        let groups = getgrouplist(&name, user.gid)
            .with_context(|| format!("groups of {} can't be had", user.name))?;
        let own = getgroups().context("own groups can't be had")?;
        Ok(Self {
            user: (user.uid, user.gid, groups),
            own: (geteuid(), getegid(), own),
        })
    }

    /// The user's number.
    pub(super) fn user(&self) -> u32 {
        self.user.0.as_raw()
    }

    /// Does it as root, or as the user.
    ///
    /// # Errors
    /// As [`Identity::as_user`].
    pub(super) fn by<R>(&self, root: bool, work: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match root {
            true => work(),
            false => self.as_user(work),
        }
    }

    /// Does it with that user's rights. This process must have one thread.
    ///
    /// # Errors
    /// The user can't be become, or what is done fails.
    pub(super) fn as_user<R>(&self, work: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        let (uid, gid, groups) = &self.user;
        let become_user = || {
            setgroups(groups)?;
            setegid(*gid)?;
            // Root's capabilities are not in force from here on (capabilities(7)).
            seteuid(*uid)
        };
        let done = become_user().map_err(io::Error::from).and_then(|()| work());
        let (uid, gid, groups) = &self.own;
        let back = seteuid(*uid)
            .and_then(|()| setegid(*gid))
            .and_then(|()| setgroups(groups));
        if let Err(error) = back {
            // Nobody knows any more what this process may do.
            tracing::error!("the keeper can't be root again: {error}");
            abort();
        }
        done
    }
}
