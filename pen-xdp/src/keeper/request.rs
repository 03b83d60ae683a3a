//! What the process that serves asks its keeper for, and how both are said: a length, then JSON, with
//! descriptors beside the length where there are any (SCM_RIGHTS, unix(7)).

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::announce::Announced;
use crate::daemon::notify::Told;
use crate::ebpf::Attachment;
use crate::files::{Entry, Stat};
use crate::mapped::{Array, Shape};
use crate::neighbor::Order;
use crate::nic::{Change, Wanted};
use crate::replace_file::How;

/// Most descriptors beside a message: the program's memory.
const DESCRIPTORS_MAX: usize = Array::ALL.len();
/// Longest message, bytes: a configuration may be as long as a file of one, and JSON adds to it.
const MESSAGE_MAX: u32 = 160 << 20;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// A file to read.
    Read(PathBuf),
    /// A file to write to the end of.
    Append {
        /// Where.
        path: PathBuf,
        /// Mode of a new one.
        mode: u32,
    },
    /// What the kernel knows of a file.
    Stat(PathBuf),
    /// The names in a folder.
    List(PathBuf),
    /// Where a link leads.
    Link(PathBuf),
    /// To be told of changes in these folders.
    Watch(BTreeSet<PathBuf>),
    /// A file's contents replaced.
    Replace {
        /// Where.
        path: PathBuf,
        /// By what.
        contents: String,
        /// With what mode, and whether through a link.
        how: How,
    },
    /// A listening socket.
    Listen(Listen),
    /// The file of a listening Unix socket gone, if it is still the one of this device and inode.
    Remove(PathBuf, (u64, u64)),
    /// The control socket, under the name that it has while Pen starts.
    Control,
    /// The control socket under its own name.
    ControlAppears,
    /// A socket that may come from addresses that are clients' (IP_TRANSPARENT, ip(7)).
    Transparent {
        /// To servers of IPv6.
        v6: bool,
    },
    /// The configuration is about to be read again: the keeper reads it, too, and goes by it.
    Configuration,
    /// Something for the service manager.
    Tell(Told),
    /// It serves now, and whom.
    Serving(String),
    /// The interface of services in DSR is to be this daemon's, until its end.
    Claim,
    /// Calls of socket(2) for AF_XDP come by the descriptor beside this (seccomp_unotify(2)).
    Sockets,
    /// Something about the interface that was claimed.
    Interface(OfInterface),
}

/// What is done with the interface that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OfInterface {
    /// What a killed daemon left set on it is put right.
    RestoreLeftOver,
    /// The program that a killed daemon left is taken off.
    DetachLeftOver,
    /// The program's memory.
    Memory {
        /// Not that of the daemon before.
        fresh: bool,
        /// For slots of tables.
        slot_bytes: u64,
        /// Who count in it.
        workers: u32,
    },
    /// The program is hung on it.
    Attach,
    /// What AF_XDP needs is set on it.
    Set(Wanted),
    /// The program hands this queue's frames to the socket beside this.
    SetSocket(u32),
    /// The program forwards this queue's frames itself.
    UnsetSocket(u32),
    /// The AF_XDP socket beside this drives its device itself.
    BusyPoll,
    /// A packet socket on it.
    PacketSocket,
    /// The kernel's entry of a neighbour.
    Neighbor {
        /// On the interface, or on a VLAN device on top of it.
        ifindex: u32,
        /// Of whom.
        address: IpAddr,
        /// What becomes of it.
        order: Order,
    },
    /// It hears solicitations for these VIPs.
    Hear(BTreeSet<IpAddr>),
    /// It hears solicitations for any address, or no more.
    HearAll(bool),
    /// The segment is told where VIPs are.
    Announce {
        /// Which.
        vips: Vec<Announced>,
        /// Where.
        mac: [u8; 6],
    },
    /// Answered when every program has ended that runs now.
    WaitForReaders,
    /// The program is taken off, and what was changed is given back.
    Close,
}

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listen {
    /// For connections to an address.
    Tcp {
        /// Which.
        address: SocketAddr,
        /// Clients that may wait.
        backlog: u32,
        /// Whether nobody else may have the address.
        alone: bool,
    },
    /// For datagrams to an address.
    Udp {
        /// Which.
        address: SocketAddr,
        /// Whether nobody else may have the address.
        alone: bool,
    },
    /// At a path.
    Unix {
        /// Which.
        path: PathBuf,
        /// Clients that may wait.
        backlog: u32,
    },
}

/// What comes of it; descriptors come beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done, or the descriptor is what was asked for.
    Done,
    /// Of a file.
    Stat(Stat),
    /// Of a folder.
    Listed(Vec<Entry>),
    /// Of a link.
    Link(PathBuf),
    /// Whether all the folders are watched.
    Watching(bool),
    /// The address that a socket was bound to in the end.
    Bound(SocketAddr),
    /// Device and inode of a Unix socket's file.
    Made(u64, u64),
    /// Sentences for the operator.
    Said(Vec<String>),
    /// How large the arrays of the program's memory are, and whether the daemon before had it.
    Memory {
        /// Their sizes.
        shape: Shape,
        /// See above.
        adopted: bool,
    },
    /// How the program hangs on the interface.
    Attached(Attachment),
    /// Of the interface.
    Set {
        /// Ours.
        changes: Vec<Change>,
        /// What could not be set.
        refused: Vec<String>,
    },
    /// It is not done.
    Refused {
        /// What the kernel calls it.
        code: Option<i32>,
        /// Why.
        why: String,
    },
}

impl Answer {
    /// Why it can't be had.
    pub(super) fn refused(error: &io::Error) -> Self {
        Self::Refused {
            code: error.raw_os_error(),
            why: error.to_string(),
        }
    }
}

/// Says a message to the other side.
///
/// # Errors
/// It is gone, or does not listen.
pub fn send<T: Serialize>(
    mut stream: &UnixStream,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let unsaid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let body = serde_json::to_vec(message).map_err(|error| unsaid(error.to_string()))?;
    let length = u32::try_from(body.len()).ok();
    let length = length.filter(|length| *length <= MESSAGE_MAX);
    let length = length.ok_or_else(|| unsaid("it is too long to be said".to_owned()))?;
    let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = SendAncillaryBuffer::new(&mut room);
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(unsaid("too many descriptors beside it".to_owned()));
    }
    if !descriptors.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let length = length.to_le_bytes();
    let sent = sendmsg(
        stream,
        &[IoSlice::new(&length)],
        &mut beside,
        SendFlags::NOSIGNAL,
    )?;
    stream.write_all(&length[sent..])?;
    stream.write_all(&body)
}

/// Hears a message; `None` if the other side is gone.
///
/// # Errors
/// It is none, or does not come to its end.
pub fn receive<T: DeserializeOwned>(
    mut stream: &UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0; 4];
    let mut room = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut room);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut length)];
        match recvmsg(stream, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    if received == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            descriptors.extend(more);
        }
    }
    stream.read_exact(&mut length[received..])?;
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_MAX {
        return Err(io::Error::other("a message that is too long"));
    }
    // Room is made for what comes, not for what is said to come.
    let mut body = Vec::new();
    let read = stream.take(u64::from(length)).read_to_end(&mut body)?;
    if read != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((serde_json::from_slice(&body)?, descriptors)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_message_comes_with_its_descriptor_and_what_is_none_is_said_so() {
        let (one, other) = UnixStream::pair().unwrap();
        let request = Request::Read(PathBuf::from("/etc/hosts"));
        let file = File::open("/etc/passwd").unwrap();
        let most = [file.as_fd(); DESCRIPTORS_MAX];
        send(&one, &request, &most).unwrap();
        send(&one, &Request::Configuration, &[]).unwrap();
        let (heard, descriptors) = receive::<Request>(&other).unwrap().unwrap();
        assert_eq!((heard, descriptors.len()), (request.clone(), most.len()));
        let mut text = String::new();
        File::from(descriptors.into_iter().next_back().unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert!(text.contains("root"));
        let (heard, descriptors) = receive::<Request>(&other).unwrap().unwrap();
        assert_eq!(heard, Request::Configuration);
        assert!(descriptors.is_empty());
        let too_many = [file.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(send(&one, &request, &too_many).is_err());

        for garbage in [
            &b"\xff\xff\xff\xff"[..],
            b"\x04\0\0\0nope",
            b"\x04\0\0\0n",
            b"\x04\0",
        ] {
            let (one, other) = UnixStream::pair().unwrap();
            (&one).write_all(garbage).unwrap();
            drop(one);
            assert!(receive::<Request>(&other).is_err(), "{garbage:?}");
        }
        drop(one);
        assert!(receive::<Request>(&other).unwrap().is_none());
    }
}
