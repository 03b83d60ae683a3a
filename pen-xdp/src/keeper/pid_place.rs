//! The pid file of a keeper: root's to write where root alone has the folder, and the user's else.

use std::path::PathBuf;

use anyhow::Result;
use pen_common::config::Config;

use super::control::told;
use super::identity::Identity;
use super::trusted::is_roots_place;
use crate::daemon::pid_file::PidFile;

/// See the module.
pub(super) struct PidPlace<'a> {
    path: Option<PathBuf>,
    by_root: bool,
    identity: &'a Identity,
}

impl<'a> PidPlace<'a> {
    /// As it is configured.
    pub(super) fn of(config: &Config, identity: &'a Identity) -> Self {
        Self {
            path: config.pid_file.clone(),
            by_root: config.pid_file.as_deref().is_some_and(is_roots_place),
            identity,
        }
    }

    /// As [`PidFile::check`].
    ///
    /// # Errors
    /// Likewise.
    pub(super) fn check(&self) -> Result<()> {
        self.path.as_deref().map_or(Ok(()), PidFile::check)
    }

    /// As [`PidFile::write`].
    ///
    /// # Errors
    /// Likewise.
    pub(super) fn write(&self) -> Result<Option<PidFile<'_>>> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        let written = self
            .identity
            .by(self.by_root, || told(PidFile::write(path)))?;
        Ok(Some(written))
    }

    /// Removes what was written.
    pub(super) fn remove(&self, written: Option<PidFile<'_>>) {
        let removed = self.identity.by(self.by_root, || {
            drop(written);
            Ok(())
        });
        if let Err(error) = removed {
            tracing::warn!("the pid file can't be removed: {error}");
        }
    }
}
