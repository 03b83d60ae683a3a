//! The pid file of a keeper: root's to write where root alone has the folder, and the user's else.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use pen_common::config::Config;

use super::identity::Identity;
use super::trusted::is_roots_folder;
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
        let folder = config.pid_file.as_deref().and_then(Path::parent);
        let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
        Self {
            path: config.pid_file.clone(),
            by_root: is_roots_folder(folder.unwrap_or(Path::new("."))).unwrap_or_default(),
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
        let written = match self.by_root {
            true => PidFile::write(path),
            false => self
                .identity
                .as_user(|| {
                    let written = PidFile::write(path);
                    written.map_err(|error| io::Error::other(format!("{error:#}")))
                })
                .map_err(anyhow::Error::from),
        };
        written.map(Some)
    }

    /// Removes what was written.
    ///
    /// # Errors
    /// The user can't be become.
    pub(super) fn remove(&self, written: Option<PidFile<'_>>) -> io::Result<()> {
        match self.by_root {
            true => {
                drop(written);
                Ok(())
            }
            false => self.identity.as_user(|| {
                drop(written);
                Ok(())
            }),
        }
    }
}
