//! Packet sockets (packet(7)) as forwarders of the last decades used them: one frame a call, a
//! batch a call, a mapped ring.
#![allow(
    unsafe_code,
    reason = "std has no packet sockets, recvmmsg, sendmmsg or mapped rings; no crate wraps them"
)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// Frames in one call.
pub(crate) const BATCH: usize = 64;
/// Room for one frame.
const BUFFER_BYTES: usize = 2048;
/// Bytes of one block of the ring. A block is handed over when it is full, so a small one: about 28
/// of the smallest frames.
const BLOCK_BYTES: usize = 4096;
const BLOCKS: usize = 512;
/// Milliseconds after which a block that is not full is handed over; the kernel counts them in
/// ticks.
const BLOCK_MS_MAX: u32 = 1;
/// Bytes asked for as receive buffer; the default, 208 KiB, is what most programs live with.
const RECEIVE_BYTES: i32 = 4 << 20;

/// A packet socket that receives the IPv4 frames of one interface and sends out of it.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    file: File,
}

impl PacketSocket {
    /// Opens a socket on `interface` of the current network namespace.
    ///
    /// # Errors
    /// There is no such interface, or CAP_NET_RAW is missing.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let socket = Self::unbound()?;
        socket.bind(interface)?;
        Ok(socket)
    }

    fn unbound() -> io::Result<Self> {
        // Protocol 0: nothing is received before bind() names one.
        // SAFETY: plain values.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self {
            file: File::from(fd),
        };
        socket.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1_i32)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BYTES)?;
        Ok(socket)
    }

    fn bind(&self, interface: &str) -> io::Result<()> {
        let name = CString::new(interface)?;
        // SAFETY: `name` is a C string that lives over the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            // One protocol, not all: else the frames that go out would be received, too.
            sll_protocol: (libc::ETH_P_IP as u16).to_be(),
            sll_ifindex: index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        let fd = self.file.as_raw_fd();
        // SAFETY: `address` is a sockaddr_ll of `length` bytes, as AF_PACKET wants, and lives over
        // the call.
        let done = unsafe { libc::bind(fd, (&raw const address).cast(), length) };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn set<T>(&self, level: i32, name: i32, value: &T) -> io::Result<()> {
        let length = size_of::<T>() as libc::socklen_t;
        let fd = self.file.as_raw_fd();
        // SAFETY: `value` is `length` readable bytes; each caller passes the type that its option
        // wants.
        let done =
            unsafe { libc::setsockopt(fd, level, name, ptr::from_ref(value).cast(), length) };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Waits for one frame and returns its length.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }

    /// Sends one frame.
    pub(crate) fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.file.write(frame).map(drop)
    }

    /// Sends the frames that `vectors` point to, in order.
    fn send_all(&self, headers: &mut [libc::mmsghdr]) -> io::Result<()> {
        let mut done = 0;
        while done < headers.len() {
            let rest = &mut headers[done..];
            let (fd, count) = (self.file.as_raw_fd(), rest.len() as u32);
            // SAFETY: `rest` is `count` headers; whoever built them keeps what they point to alive
            // and unchanged.
            let sent = unsafe { libc::sendmmsg(fd, rest.as_mut_ptr(), count, 0) };
            if sent < 0 {
                return Err(io::Error::last_os_error());
            }
            done += sent as usize;
        }
        Ok(())
    }
}

/// Buffers and headers for [`BATCH`] frames in one system call. The headers point into `vectors`,
/// these into `buffers`; neither is resized or moved after [`Batch::new`], so the pointers hold as
/// long as the batch.
pub(crate) struct Batch {
    buffers: Vec<[u8; BUFFER_BYTES]>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Batch {
    /// An empty batch.
    pub(crate) fn new() -> Self {
        let mut buffers = vec![[0; BUFFER_BYTES]; BATCH];
        let mut vectors: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: BUFFER_BYTES,
            })
            .collect();
        let headers = vectors.iter_mut().map(header).collect();
        Self {
            buffers,
            vectors,
            headers,
        }
    }

    /// Waits for at least one frame and takes what has come, up to [`BATCH`].
    pub(crate) fn receive(&mut self, socket: &PacketSocket) -> io::Result<usize> {
        for vector in &mut self.vectors {
            vector.iov_len = BUFFER_BYTES;
        }
        let (fd, headers) = (socket.file.as_raw_fd(), self.headers.as_mut_ptr());
        let flags = libc::MSG_WAITFORONE;
        // SAFETY: BATCH headers that point to BATCH vectors and buffers, all alive and ours (see
        // the type).
        let count = unsafe { libc::recvmmsg(fd, headers, BATCH as u32, flags, ptr::null_mut()) };
        if count < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(count as usize)
        }
    }

    /// Sends the first `count` frames, each with `change` applied to it.
    pub(crate) fn forward(
        &mut self,
        socket: &PacketSocket,
        count: usize,
        change: impl Fn(&mut [u8]),
    ) -> io::Result<()> {
        for index in 0..count {
            change(&mut self.buffers[index]);
            self.vectors[index].iov_len = self.headers[index].msg_len as usize;
        }
        socket.send_all(&mut self.headers[..count])
    }
}

fn header(vector: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: a C structure of integers and pointers, for which all zeros is "nothing".
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header
}

/// A receive ring of version 3 (kernel document "packet_mmap"), mapped: blocks of frames are handed
/// back and forth. **A block is the kernel's or ours**, by its status word; we touch nothing of it
/// but that word while it is the kernel's.
pub(crate) struct Ring {
    socket: PacketSocket,
    start: NonNull<u8>,
    block: usize,
    vectors: Vec<libc::iovec>,
}

impl Ring {
    /// Opens a packet socket on `interface` and maps its ring.
    ///
    /// # Errors
    /// There is no such interface, CAP_NET_RAW is missing, or there is no memory for the ring.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let socket = PacketSocket::unbound()?;
        let version = libc::tpacket_versions::TPACKET_V3 as i32;
        socket.set(libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        let request = libc::tpacket_req3 {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: BUFFER_BYTES as u32,
            tp_frame_nr: (BLOCKS * BLOCK_BYTES / BUFFER_BYTES) as u32,
            tp_retire_blk_tov: BLOCK_MS_MAX,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        socket.set(libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, socket.file.as_raw_fd());
        let length = BLOCKS * BLOCK_BYTES;
        // SAFETY: a new mapping of a ring of just this size.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, access, libc::MAP_SHARED, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        socket.bind(interface)?;
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self {
            socket,
            start,
            block: 0,
            vectors: Vec::with_capacity(BATCH),
        })
    }

    /// Waits for the next block, sends its frames straight out of the ring with `change` applied to
    /// each, and hands it back.
    pub(crate) fn forward(&mut self, change: impl Fn(&mut [u8])) -> io::Result<()> {
        let offset = self.block * BLOCK_BYTES;
        // SAFETY: `block` is below BLOCKS, so this stays inside of the mapping.
        let block = unsafe { self.start.add(offset) }.cast::<libc::tpacket_block_desc>();
        // SAFETY: the block's header is mapped as long as `self`; taking an address reads nothing.
        let head = unsafe { &raw mut (*block.as_ptr()).hdr.bh1 };
        // SAFETY: as before.
        let status = unsafe { &raw mut (*head).block_status };
        // SAFETY: an aligned word of the mapping, which lives as long as `self`.
        let status = unsafe { AtomicU32::from_ptr(status) };
        while status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            self.wait()?;
        }
        // SAFETY: the status says that the block is ours, so the kernel does not write to it.
        let block = unsafe { head.read() };
        let (count, first) = (block.num_pkts as usize, block.offset_to_first_pkt as usize);
        self.collect(offset, count, first, change);
        for part in self.vectors.chunks_mut(BATCH) {
            let mut headers: Vec<libc::mmsghdr> = part.iter_mut().map(header).collect();
            self.socket.send_all(&mut headers)?;
        }
        // The kernel has copied what was sent.
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.block = (self.block + 1) % BLOCKS;
        Ok(())
    }

    /// Walks through the frames of a block that is ours.
    fn collect(&mut self, block: usize, count: usize, first: usize, change: impl Fn(&mut [u8])) {
        self.vectors.clear();
        let mut at = block + first;
        for _ in 0..count {
            assert!(
                at + size_of::<libc::tpacket3_hdr>() <= block + BLOCK_BYTES,
                "frame in block"
            );
            // SAFETY: inside of the mapping, by the line above.
            let header = unsafe { self.start.add(at) }.cast::<libc::tpacket3_hdr>();
            // SAFETY: the block is ours, so it is not written to; the kernel aligns the header to
            // 16 bytes.
            let header = unsafe { header.as_ref() };
            let (frame, length) = (at + usize::from(header.tp_mac), header.tp_snaplen as usize);
            at += header.tp_next_offset as usize;
            assert!(frame + length <= block + BLOCK_BYTES, "frame in block");
            // SAFETY: inside of the mapping, by the line above.
            let bytes = unsafe { self.start.add(frame) };
            // SAFETY: the block is ours and nothing else refers to this frame's bytes.
            change(unsafe { NonNull::slice_from_raw_parts(bytes, length).as_mut() });
            self.vectors.push(libc::iovec {
                iov_base: bytes.as_ptr().cast(),
                iov_len: length,
            });
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut socket = libc::pollfd {
            fd: self.socket.file.as_raw_fd(),
            events: libc::POLLIN | libc::POLLERR,
            revents: 0,
        };
        // SAFETY: one pollfd that lives over the call.
        let done = unsafe { libc::poll(&raw mut socket, 1, -1) };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping that open() made, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), BLOCKS * BLOCK_BYTES) };
    }
}
