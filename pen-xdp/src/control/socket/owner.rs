//! Whose a control socket's file is to be, in the numbers that the kernel knows.

use anyhow::{Context, Result, anyhow};
use nix::unistd::{Group, User};
use pen_common::config::ControlOwner;

/// Numbers of a user and a group; `None` is as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) user: Option<u32>,
    pub(super) group: Option<u32>,
}

impl Owner {
    /// Looks the names up.
    ///
    /// # Errors
    /// There is no such user or group here.
    pub(super) fn find(owner: &ControlOwner) -> Result<Self> {
        let user = owner.user.as_ref().map(|name| {
            let found = User::from_name(name).context("users can't be looked up")?;
            let found = found.ok_or_else(|| anyhow!("there is no user {name:?} on this host"))?;
            anyhow::Ok(found.uid.as_raw())
        });
        let group = owner.group.as_ref().map(|name| {
            let found = Group::from_name(name).context("groups can't be looked up")?;
            let found = found.ok_or_else(|| anyhow!("there is no group {name:?} on this host"))?;
            anyhow::Ok(found.gid.as_raw())
        });
        Ok(Self {
            user: user.transpose()?,
            group: group.transpose()?,
        })
    }
}
