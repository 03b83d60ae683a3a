//! The packet socket itself: options, batches in and out.
//!
//! Every SAFETY note below appeals to the same fact: the arrays that a system call is given
//! pointers to live in the calling function or are borrowed by it for as long as the call runs,
//! and the lengths given are theirs.
#![allow(
    unsafe_code,
    reason = "packet sockets and batched messages have no safe wrapper at hand"
)]

use std::{
    ffi::CString,
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use super::{OpenError, SLOT, TAG};
use crate::plane::port::BATCH;

/// What the kernel may keep for us: enough for what arrives while the worker is elsewhere.
const RECEIVE_BUFFER: libc::c_int = 32 << 20;
/// What may be on its way out: a batch of the longest packets, more than once.
const SEND_BUFFER: libc::c_int = 16 << 20;

/// struct virtio_net_hdr (linux/virtio_net.h), the form without `num_buffers`.
const HEADER: usize = 10;
const NEEDS_CHECKSUM: u8 = 1;

// linux/if_packet.h, not all of it in libc.
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const VLAN_VALID: u32 = 1 << 4;
const VLAN_TPID_VALID: u32 = 1 << 6;
const TPID_DEFAULT: u16 = 0x8100;

/// Opens, sets up, and only then binds, so that no packet of another interface gets in.
pub(super) fn open(interface: &str) -> Result<OwnedFd, OpenError> {
    let no_such = || OpenError::NoSuchInterface(interface.to_owned());
    let name = CString::new(interface).map_err(|_| no_such())?;
    // SAFETY: `name` is a C string and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(no_such());
    }
    let failed = |what| {
        move |error: io::Error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError::Permission,
            _ => OpenError::Other {
                interface: interface.to_owned(),
                what,
                error,
            },
        }
    };
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain numbers. Protocol 0 receives nothing yet.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(failed("opening it")(io::Error::last_os_error()));
    }
    // SAFETY: just opened, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1).map_err(failed("PACKET_VNET_HDR"))?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1).map_err(failed("PACKET_AUXDATA"))?;
    // Linux 4.20; where it is missing, what we send is recognised by its type.
    let _ = set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1);
    for (force, plain, bytes) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER),
    ] {
        // Without CAP_NET_ADMIN the kernel's own limit holds.
        if set(&socket, libc::SOL_SOCKET, force, bytes).is_err() {
            set(&socket, libc::SOL_SOCKET, plain, bytes).map_err(failed("its buffers"))?;
        }
    }
    bind(&socket, index).map_err(failed("binding it"))?;
    Ok(socket)
}

fn set(socket: &OwnedFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let value = (&raw const value).cast();
    // SAFETY: `value` points to an int of this frame, `len` is its size.
    let answer = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, len) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let address = (&raw const address).cast();
    // SAFETY: `address` points to a sockaddr_ll of this frame, `len` is its size.
    let answer = unsafe { libc::bind(socket.as_raw_fd(), address, len) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A packet that came into the slot of the same number.
pub(super) struct Arrival {
    slot: usize,
    header: [u8; HEADER],
    /// Bytes, from [`TAG`] on.
    len: usize,
    /// Tag that the kernel took out: protocol and control information.
    tag: Option<[u8; 4]>,
    /// Whether all of it fitted.
    pub(super) is_whole: bool,
    /// Whether we sent it ourselves.
    pub(super) is_outgoing: bool,
}

/// A packet that is to leave its slot.
pub(super) struct Departure {
    slot: usize,
    header: [u8; HEADER],
    start: usize,
    len: usize,
}

impl Arrival {
    /// The packet as a wire would carry it: with its tag.
    pub(super) fn departure(&self, slot: &mut [u8]) -> Departure {
        let mut header = self.header;
        let (mut start, mut len) = (TAG, self.len);
        if let Some(tag) = self.tag
            && len >= 12
        {
            slot.copy_within(TAG..TAG + 12, 0);
            slot[12..16].copy_from_slice(&tag);
            (start, len) = (0, len + TAG);
            move_offsets(&mut header);
        }
        Departure {
            slot: self.slot,
            header,
            start,
            len,
        }
    }
}

/// Offsets in a virtio-net header count from the packet's first byte, in native byte order:
/// `flags`, `gso_type`, then 16 bits each of `hdr_len`, `gso_size`, `csum_start`, `csum_offset`.
fn move_offsets(header: &mut [u8; HEADER]) {
    let has_checksum = header[0] & NEEDS_CHECKSUM != 0;
    for at in [Some(2), has_checksum.then_some(6)].into_iter().flatten() {
        let value = u16::from_ne_bytes([header[at], header[at + 1]]).saturating_add(TAG as u16);
        header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
}

impl Departure {
    /// First byte in the slot.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A packet of another length is an answer of our own, in one segment. A longer one is finished; a
    /// shorter one has its checksum left to hardware if the question's was (`steer`'s tarpit).
    pub(super) fn set_len(&mut self, len: usize) {
        if len != self.len {
            let finished = len > self.len;
            let of_segments = if finished { 0..HEADER } else { 1..6 };
            self.header[of_segments].fill(0);
            self.len = len;
        }
    }
}

/// Control data of one message: the header and struct tpacket_auxdata, aligned.
type Control = [u64; 8];

/// Takes a batch, each packet into a slot; nothing if there is none.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    slots: &mut [u8],
    arrivals: &mut Vec<Arrival>,
) -> io::Result<()> {
    let mut headers = [[0u8; HEADER]; BATCH];
    let mut controls: [Control; BATCH] = [[0; 8]; BATCH];
    // SAFETY: all zeroes are a valid sockaddr_ll.
    let mut senders: [libc::sockaddr_ll; BATCH] = unsafe { mem::zeroed() };
    let empty = libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    };
    let mut parts = [[empty; 2]; BATCH];
    // SAFETY: all zeroes are a valid mmsghdr, one without any buffer.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    for (index, slot) in slots.chunks_exact_mut(SLOT).enumerate().take(BATCH) {
        let room = &mut slot[TAG..];
        parts[index] = [
            libc::iovec {
                iov_base: headers[index].as_mut_ptr().cast(),
                iov_len: HEADER,
            },
            libc::iovec {
                iov_base: room.as_mut_ptr().cast(),
                iov_len: room.len(),
            },
        ];
        let message = &mut messages[index].msg_hdr;
        message.msg_name = (&raw mut senders[index]).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = parts[index].as_mut_ptr();
        message.msg_iovlen = 2;
        message.msg_control = controls[index].as_mut_ptr().cast();
        message.msg_controllen = size_of::<Control>();
    }
    let (fd, first) = (socket.as_raw_fd(), messages.as_mut_ptr());
    // SAFETY: every message points to parts of this function's arrays and to one slot of the
    // borrowed memory, no slot to two of them.
    let count =
        unsafe { libc::recvmmsg(fd, first, BATCH as u32, libc::MSG_DONTWAIT, ptr::null_mut()) };
    if count < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(()),
            _ => Err(error),
        };
    }
    for (slot, message) in messages.iter().enumerate().take(count as usize) {
        arrivals.push(Arrival {
            slot,
            header: headers[slot],
            len: (message.msg_len as usize).saturating_sub(HEADER),
            tag: tag(&controls[slot], message.msg_hdr.msg_controllen),
            is_whole: message.msg_hdr.msg_flags & libc::MSG_TRUNC == 0,
            is_outgoing: senders[slot].sll_pkttype == libc::PACKET_OUTGOING,
        });
    }
    Ok(())
}

/// The VLAN tag in the control data: a cmsghdr of 16 bytes, then struct tpacket_auxdata
/// (status, len, snaplen: 32 bits each; mac, net, vlan_tci, vlan_tpid: 16 bits each).
fn tag(control: &Control, len: usize) -> Option<[u8; 4]> {
    let mut bytes = [0; size_of::<Control>()];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(control) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let int = |at: usize| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| bytes[at + i]);
        u32::from_ne_bytes([a, b, c, d])
    };
    let ours = [libc::SOL_PACKET as u32, libc::PACKET_AUXDATA as u32];
    let status = int(16);
    if len < 16 + 20 || [int(8), int(12)] != ours || status & VLAN_VALID == 0 {
        return None;
    }
    let tpid = if status & VLAN_TPID_VALID != 0 {
        half(34)
    } else {
        TPID_DEFAULT
    };
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), half(32).to_be_bytes());
    Some([a, b, c, d])
}

/// Sends packets in order; how many of them the kernel took, at least one.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    slots: &[u8],
    departures: &[Departure],
) -> io::Result<usize> {
    let empty = libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    };
    let mut parts = [[empty; 2]; BATCH];
    // SAFETY: all zeroes are a valid mmsghdr, one without any buffer.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    let mut count = 0;
    for departure in departures.iter().take(BATCH) {
        let start = departure.slot * SLOT + departure.start;
        let Some(packet) = slots.get(start..start + departure.len) else {
            break;
        };
        parts[count] = [
            libc::iovec {
                iov_base: departure.header.as_ptr().cast_mut().cast(),
                iov_len: HEADER,
            },
            libc::iovec {
                iov_base: packet.as_ptr().cast_mut().cast(),
                iov_len: packet.len(),
            },
        ];
        messages[count].msg_hdr.msg_iov = parts[count].as_mut_ptr();
        messages[count].msg_hdr.msg_iovlen = 2;
        count += 1;
    }
    let (fd, first) = (socket.as_raw_fd(), messages.as_mut_ptr());
    // SAFETY: every message points to a header and a slot of the borrowed memory, which sending
    // only reads.
    let sent = unsafe { libc::sendmmsg(fd, first, count as u32, libc::MSG_DONTWAIT) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    if sent == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sent as usize)
}

/// Packets that found the receive buffer full, since the last call.
pub(super) fn drops(socket: BorrowedFd<'_>) -> io::Result<u64> {
    // struct tpacket_stats: packets, drops. The kernel counts anew after each reading.
    let mut counts = [0u32; 2];
    let mut len = size_of::<[u32; 2]>() as libc::socklen_t;
    // SAFETY: `counts` and `len` are of this frame, and `len` is the size of `counts`.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            counts.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(counts[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(words: [u16; 4], flags: u8) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[0] = flags;
        for (place, word) in header[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        header
    }

    #[test]
    fn a_tag_goes_back_in_and_the_offsets_follow() {
        let mut slot = vec![0u8; SLOT];
        for (value, byte) in (0..60).zip(&mut slot[TAG..]) {
            *byte = value;
        }
        let arrival = Arrival {
            slot: 0,
            header: header([54, 1448, 34, 16], NEEDS_CHECKSUM),
            len: 60,
            tag: Some([0x81, 0, 0, 7]),
            is_whole: true,
            is_outgoing: false,
        };
        let departure = arrival.departure(&mut slot);
        assert_eq!((departure.start(), departure.len()), (0, 64));
        let macs: Vec<u8> = (0..12).collect();
        assert_eq!(slot[..12], macs);
        assert_eq!(slot[12..18], [0x81, 0, 0, 7, 12, 13]);
        let moved = header([58, 1448, 38, 16], NEEDS_CHECKSUM);
        assert_eq!(departure.header, moved);
    }

    #[test]
    fn an_answer_leaves_nothing_to_hardware() {
        let arrival = Arrival {
            slot: 0,
            header: header([54, 1448, 34, 16], NEEDS_CHECKSUM),
            len: 60,
            tag: None,
            is_whole: true,
            is_outgoing: false,
        };
        let mut departure = arrival.departure(&mut vec![0; SLOT]);
        assert_eq!(departure.start(), TAG);
        departure.set_len(60);
        assert_eq!(departure.header, arrival.header);
        departure.set_len(86);
        assert_eq!((departure.len(), departure.header), (86, [0; HEADER]));
    }

    #[test]
    fn a_shorter_answer_keeps_its_checksums_place_and_no_segments() {
        let arrival = Arrival {
            slot: 0,
            header: header([54, 1448, 34, 16], NEEDS_CHECKSUM),
            len: 74,
            tag: None,
            is_whole: true,
            is_outgoing: false,
        };
        let mut departure = arrival.departure(&mut vec![0; SLOT]);
        departure.set_len(60);
        let mut kept = header([0, 0, 34, 16], NEEDS_CHECKSUM);
        kept[1] = 0;
        assert_eq!((departure.len(), departure.header), (60, kept));
    }

    #[test]
    fn control_data_without_a_tag_gives_none() {
        let word = |low: u32, high: u32| {
            let [a, b, c, d] = low.to_ne_bytes();
            let [e, f, g, h] = high.to_ne_bytes();
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        };
        let kind = word(libc::SOL_PACKET as u32, libc::PACKET_AUXDATA as u32);
        let with_status = |status| [36, kind, word(status, 60), 0, 0, 0, 0, 0];
        assert_eq!(tag(&with_status(0), 40), None);
        assert_eq!(tag(&with_status(VLAN_VALID), 20), None);
        assert_eq!(tag(&with_status(VLAN_VALID), 40), Some([0x81, 0, 0, 0]));
    }
}
