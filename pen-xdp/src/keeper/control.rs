//! The control socket's file: root's to make where root alone has the folder, and the user's else.

use std::io;
use std::os::fd::OwnedFd;

use pen_common::config::{Config, ControlAt};

use super::answers::Given;
use super::identity::Identity;
use super::request::Answer;
use super::trusted::is_roots_place;
use crate::control::socket::SocketFile;

/// See the module.
pub(super) struct Control {
    config: Config,
    by_root: bool,
    file: Option<SocketFile>,
}

impl Control {
    /// As it is configured.
    pub(super) fn new(config: &Config) -> Self {
        let by_root = match &config.control {
            Some(ControlAt::Path(path)) => is_roots_place(path),
            Some(ControlAt::Port(_)) | None => false,
        };
        Self {
            config: config.clone(),
            by_root,
            file: None,
        }
    }

    /// Binds it, once.
    ///
    /// # Errors
    /// It can't be made, or is made already.
    pub(super) fn open(&mut self, identity: &Identity) -> io::Result<Given> {
        if self.file.is_some() {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        let owner = self.by_root.then(|| identity.user());
        self.file = identity.by(self.by_root, || told(SocketFile::of(&self.config, owner)))?;
        let listener = self.file.as_mut().and_then(SocketFile::take_listener);
        Ok((
            Answer::Done,
            listener.map(OwnedFd::from).into_iter().collect(),
        ))
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// Another daemon has the name.
    pub(super) fn appear(&mut self, identity: &Identity) -> io::Result<Given> {
        if let Some(file) = &mut self.file {
            identity.by(self.by_root, || told(file.appear()))?;
        }
        Ok((Answer::Done, Vec::new()))
    }

    /// Removes it.
    pub(super) fn close(self, identity: &Identity) {
        let Some(file) = self.file else { return };
        let removed = identity.by(self.by_root, || {
            drop(file);
            Ok(())
        });
        if let Err(error) = removed {
            tracing::warn!("the control socket can't be removed: {error}");
        }
    }
}

/// With all that is said of an error.
pub(super) fn told<T>(made: anyhow::Result<T>) -> io::Result<T> {
    made.map_err(|error| io::Error::other(format!("{error:#}")))
}
