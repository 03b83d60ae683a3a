//! Listening sockets that a service manager opened and hands over (sd_listen_fds(3)). They are its
//! own, too: who comes while Pen is restarted waits in them, and Pen needs no privilege for them.
//!
//! For that, all threads take clients from the one socket: those who wait in a socket of a thread's
//! own would be lost with it. Datagrams of one flow must come to one thread, so one thread serves
//! such a socket for UDP, unless the manager lets others have the same port (`ReusePort=`).

use std::env;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use socket2::{Domain, Socket};

use super::udp;
use crate::keeper::child::keeper;

/// What was handed over and is not taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Passed>);

#[derive(Debug)]
struct Passed {
    /// As the manager calls it: `FileDescriptorName=`, or its unit.
    name: String,
    at: At,
    socket: Socket,
}

#[derive(Debug, PartialEq, Eq)]
enum At {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Path(PathBuf),
}

impl Inherited {
    /// What this process was handed over, once. To be called while it has one thread, as the
    /// environment is changed.
    ///
    /// # Errors
    /// Names a descriptor that is nothing that clients come to.
    pub fn take() -> Result<Self> {
        // Whoever forgot to remove the variables handed nothing to this process.
        if env::var_os("LISTEN_FDS").is_some() && is_meant() {
            let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
            let mut names = names.split(':');
            let mut descriptors = ListenFd::from_env();
            let all = (0..descriptors.len()).map(|number| {
                let name = names.next().unwrap_or_default();
                Passed::find(&mut descriptors, number, name)
            });
            return all.collect::<Result<_>>().map(Self);
        }
        Ok(Self::default())
    }

    /// The socket for this address, if there is one.
    ///
    /// # Errors
    /// It can't be used as it is.
    pub(super) fn tcp(&mut self, at: SocketAddr, backlog: i32) -> Result<Option<TcpListener>> {
        let Some(passed) = self.find(&At::Tcp(at)) else {
            return Ok(None);
        };
        passed.takes_both_families(at)?;
        // Clients inherit it: a proxy that holds back small pieces adds a round trip to each.
        let ready = passed.socket.set_tcp_nodelay(true);
        let ready = ready.and_then(|()| passed.socket.listen(backlog));
        ready.with_context(|| passed.shown())?;
        Ok(Some(passed.socket.into()))
    }

    /// The socket for datagrams to this address, if there is one, and whether further ones can be
    /// opened beside it.
    ///
    /// # Errors
    /// It can't be used as it is.
    pub(super) fn udp(&mut self, at: SocketAddr) -> Result<Option<(UdpSocket, bool)>> {
        let Some(passed) = self.find(&At::Udp(at)) else {
            return Ok(None);
        };
        passed.takes_both_families(at)?;
        let ready = udp::listen::prepare(&passed.socket, Domain::for_address(at));
        let divisible = ready.and_then(|()| passed.socket.reuse_port());
        let divisible = divisible.with_context(|| passed.shown())?;
        Ok(Some((passed.socket.into(), divisible)))
    }

    /// The socket whose file has this path, if there is one.
    ///
    /// # Errors
    /// It can't be used as it is.
    pub(super) fn unix(&mut self, at: &Path, backlog: i32) -> Result<Option<UnixListener>> {
        let Some(passed) = self.find(&At::Path(at.to_owned())) else {
            return Ok(None);
        };
        let ready = passed.socket.listen(backlog);
        ready.with_context(|| passed.shown())?;
        Ok(Some(passed.socket.into()))
    }

    /// Whether all of them were taken: clients would wait for ever in one that nobody wants.
    ///
    /// # Errors
    /// Names those that are left.
    pub(crate) fn none_left(&self) -> Result<()> {
        let left: Vec<String> = self.0.iter().map(Passed::shown).collect();
        if !left.is_empty() {
            bail!(
                "no service listens there: {}; mend: give one that listener, or take it out of the \
                 socket unit",
                left.join(", ")
            );
        }
        Ok(())
    }

    fn find(&mut self, at: &At) -> Option<Passed> {
        let place = self.0.iter().position(|passed| passed.at == *at)?;
        Some(self.0.remove(place))
    }
}

/// Whether they were handed to this process. A keeper, to whom they were, hands them on without the
/// variable that would name itself.
fn is_meant() -> bool {
    match env::var("LISTEN_PID") {
        Ok(pid) => pid == std::process::id().to_string(),
        Err(_) => keeper().is_some(),
    }
}

impl Passed {
    /// Descriptor `number` of those that were handed over.
    fn find(descriptors: &mut ListenFd, number: usize, name: &str) -> Result<Self> {
        let (at, socket) = Self::open(descriptors, number).with_context(|| {
            format!("socket {number} ({name}) of the service manager is none that clients come to")
        })?;
        let name = name.to_owned();
        socket
            .set_nonblocking(true)
            .with_context(|| format!("socket {number} ({name}) of the service manager"))?;
        let passed = Self { name, at, socket };
        if !matches!(passed.at, At::Udp(_)) && !passed.socket.is_listener()? {
            bail!("{} is a connection; mend: Accept=no", passed.shown());
        }
        Ok(passed)
    }

    fn open(descriptors: &mut ListenFd, number: usize) -> Result<(At, Socket)> {
        if let Ok(Some(socket)) = descriptors.take_tcp_listener(number) {
            return Ok((At::Tcp(socket.local_addr()?), socket.into()));
        }
        if let Ok(Some(socket)) = descriptors.take_udp_socket(number) {
            return Ok((At::Udp(socket.local_addr()?), socket.into()));
        }
        let socket = descriptors.take_unix_listener(number)?;
        let socket = socket.context("it is taken already")?;
        let address = socket.local_addr()?;
        let path = address.as_pathname().context("it has no path")?.to_owned();
        Ok((At::Path(path), socket.into()))
    }

    /// As a socket at `::` does that Pen opens itself.
    fn takes_both_families(&self, at: SocketAddr) -> Result<()> {
        if at.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            && self.socket.only_v6().with_context(|| self.shown())?
        {
            bail!("{} takes IPv6 alone; mend: BindIPv6Only=both", self.shown());
        }
        Ok(())
    }

    fn shown(&self) -> String {
        let at = match &self.at {
            At::Tcp(address) => address.to_string(),
            At::Udp(address) => format!("{address}/udp"),
            At::Path(path) => path.display().to_string(),
        };
        format!("{at} (socket {} of the service manager)", self.name)
    }
}
