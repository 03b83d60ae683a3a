//! The interface of services in DSR, for a process that serves as another user: nothing is done with
//! it before it is claimed, and none but the one that root's configuration names is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use pen_common::config::Config;

use super::answers::Given;
use super::interface::Interface;
use super::request::{Answer, OfInterface};
use super::sockets::Sockets;
use crate::confinement::Whom;
use crate::lock::InterfaceLock;

/// See the module.
#[derive(Default)]
pub(super) struct Claim {
    sockets: Option<Sockets>,
    // Given back in this order.
    interface: Option<Interface>,
    lock: Option<InterfaceLock>,
}

impl Claim {
    /// Does with the claimed interface what is asked.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn answer(
        &mut self,
        request: OfInterface,
        beside: Option<BorrowedFd<'_>>,
    ) -> io::Result<Given> {
        match &mut self.interface {
            Some(interface) => interface.answer(request, beside).map_err(as_error),
            None => Err(io::Error::from_raw_os_error(libc::EPERM)),
        }
    }

    /// Claims the interface that root's configuration names.
    ///
    /// # Errors
    /// It names none, a capability is missing, or another daemon has it.
    pub(super) fn claim(&mut self, config: Option<&Config>) -> io::Result<Given> {
        let lock = self.take(config).map_err(as_error)?;
        Ok((Answer::Done, vec![lock]))
    }

    /// The lock is held by both: it must not fall while one of them has anything of the interface.
    fn take(&mut self, config: Option<&Config>) -> Result<OwnedFd> {
        ensure!(self.lock.is_none(), "the interface is claimed already");
        let mut interface = Interface::open(named(config)?)?;
        interface.check_privileges()?;
        let lock = interface.lock_blocking()?;
        let shared = lock.share()?;
        (self.interface, self.lock) = (Some(interface), Some(lock));
        Ok(shared)
    }

    /// Hands out AF_XDP sockets by this descriptor, if the configuration's plane has any.
    ///
    /// # Errors
    /// It has none, or no calls come by that.
    pub(super) fn hand_out(
        &mut self,
        config: Option<&Config>,
        beside: Option<BorrowedFd<'_>>,
    ) -> io::Result<Given> {
        self.hear(config, beside).map_err(as_error)?;
        Ok((Answer::Done, Vec::new()))
    }

    fn hear(&mut self, config: Option<&Config>, beside: Option<BorrowedFd<'_>>) -> Result<()> {
        ensure!(
            Whom::of(named(config)?) == Whom::DataPlane { workers: true },
            "the plane has no AF_XDP sockets"
        );
        ensure!(self.sockets.is_none(), "sockets are handed out already");
        let beside = beside.context("no descriptor beside the request")?;
        self.sockets = Some(Sockets::by(beside.try_clone_to_owned()?)?);
        Ok(())
    }

    /// Where calls for sockets come by, to be waited for.
    pub(super) fn sockets(&self) -> Option<BorrowedFd<'_>> {
        self.sockets.as_ref().map(Sockets::as_fd)
    }

    /// A call for a socket has come.
    pub(super) fn hand_out_one(&mut self) {
        if let Some(sockets) = &self.sockets
            && let Err(error) = sockets.hand_out()
        {
            tracing::error!("no more AF_XDP sockets are asked for: {error}");
            self.sockets = None;
        }
    }
}

fn named(config: Option<&Config>) -> Result<&Config> {
    config.context(
        "no interface is had as root: the configuration names none, or others than root may write it; \
         give the file and its folders to root",
    )
}

/// An error of the kernel that stands alone keeps its number; all others are sentences.
fn as_error(error: anyhow::Error) -> io::Error {
    match error
        .downcast_ref::<io::Error>()
        .map(io::Error::raw_os_error)
    {
        Some(Some(code)) if error.chain().count() == 1 => io::Error::from_raw_os_error(code),
        _ => io::Error::other(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_the_kernel_s_comes_through_where_nothing_is_said_about_it() {
        let kernels = || io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(
            as_error(kernels().into()).raw_os_error(),
            Some(libc::ENOENT)
        );
        let told = as_error(anyhow::Error::from(kernels()).context("eth0"));
        assert_eq!(told.raw_os_error(), None);
        assert!(told.to_string().starts_with("eth0: No such file"));
        let own = as_error(anyhow::anyhow!("no such queue"));
        assert_eq!(own.to_string(), "no such queue");
    }
}
