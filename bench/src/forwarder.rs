//! The bare forwarder: every frame that arrives on a queue goes back out of it, to one fixed MAC,
//! and nothing is decided. It has the rings that Pen's workers have, so that what Pen's decisions
//! cost shows against it.
//!
//! **A frame is in exactly one place**: posted for receive (fill ring, kernel, rx ring), in hand
//! (`batch`, between two calls of one pass), or posted for send (tx ring, kernel, completion ring).
//! Every ring has room for all frames of its UMEM, so no produce call can come short; the fill ring
//! for twice as many, because the kernel shows a received frame before it gives up its place there.
#![allow(
    unsafe_code,
    reason = "xsk-rs marks its ring operations unsafe: they trust the caller with frame ownership"
)]

use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::address::Mac;

/// Frames of one queue's UMEM, and size of each of its rings.
pub const FRAMES: u32 = 4096;
/// Bytes of a frame, the kernel's headroom included.
pub const FRAME_BYTES: u32 = 4096;
/// Frames taken in one pass.
pub const BATCH: usize = 64;
/// A just closed queue is released a moment later; until then binding it answers EBUSY or ENOBUFS.
const BIND_PATIENCE: Duration = Duration::from_secs(1);
/// Microseconds that a busy-polling system call may spin in the driver (as in the kernel's own
/// AF_XDP documents).
const BUSY_POLL_US: i32 = 20;
/// How long it goes on looking before it sleeps: as long as Pen's workers, so that neither has the
/// dearer wake-ups.
const SPIN: Duration = Duration::from_micros(50);
/// `SOL_XDP` option of kernel 6.17: frames sent by one wake-up, 32 unless set.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;

/// How the queues are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Service {
    /// Spin, and let the kernel's receive work be driven by our system calls (SO_PREFER_BUSY_POLL).
    pub busy: bool,
    /// Frames may come in several buffers; needs a program that says so (`xdp.frags`).
    pub multi_buffer: bool,
}

/// One queue of one interface with its own UMEM.
pub struct Forwarder {
    umem: Umem,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// In hand.
    batch: Vec<FrameDesc>,
    /// Posted for send and not seen complete.
    sending: usize,
    /// The last buffer was not the last of its packet: the next one has no Ethernet header.
    continues: bool,
    busy: bool,
    header: [u8; 12],
}

impl Forwarder {
    /// Binds `queue` of `interface` and posts all frames for receive. Frames will go from `own` to
    /// `to`.
    ///
    /// # Errors
    /// The queue does not exist or somebody has it for longer than a second.
    pub fn open(interface: &str, queue: u32, own: Mac, to: Mac, service: Service) -> Result<Self> {
        let deadline = Instant::now() + BIND_PATIENCE;
        loop {
            let error = match Self::bind(interface, queue, service) {
                Ok(mut forwarder) => {
                    forwarder.header[..6].copy_from_slice(&to.0);
                    forwarder.header[6..].copy_from_slice(&own.0);
                    return Ok(forwarder);
                }
                Err(error) => error,
            };
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("binding queue {queue} of {interface}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn bind(interface: &str, queue: u32, service: Service) -> Result<Self> {
        let size = QueueSize::new(FRAMES)?;
        let umem_config = UmemConfig::builder()
            .frame_size(FrameSize::new(FRAME_BYTES)?)
            .fill_queue_size(QueueSize::new(2 * FRAMES)?)
            .comp_queue_size(size)
            .build()?;
        let count = NonZeroU32::new(FRAMES).context("no frames")?;
        let (umem, frames) = Umem::new(umem_config, count, false)?;
        let mut bind = BindFlags::XDP_USE_NEED_WAKEUP;
        if service.multi_buffer {
            bind |= BindFlags::XDP_USE_SG;
        }
        let config = SocketConfig::builder()
            .rx_queue_size(size)
            .tx_queue_size(size)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(bind)
            .build();
        let name: Interface = interface.parse()?;
        // SAFETY: the UMEM is not shared: this is its first and only socket.
        let (tx, rx, rings) = unsafe { Socket::new(config, &umem, &name, queue) }?;
        let (mut fill, completion) = rings.context("the first socket of a UMEM has its rings")?;
        set_options(&rx, service.busy)?;
        // SAFETY: all frames are this UMEM's, fresh, and none is in any ring yet.
        let posted = unsafe { fill.produce(&frames) };
        ensure!(
            posted == frames.len(),
            "the fill ring took {posted} of {} frames",
            frames.len()
        );
        let batch = frames[..BATCH].to_vec();
        let (busy, header) = (service.busy, [0; 12]);
        Ok(Self {
            umem,
            rx,
            tx,
            fill,
            completion,
            batch,
            sending: 0,
            continues: false,
            busy,
            header,
        })
    }

    /// The socket, to be put into the program's map.
    pub fn socket(&self) -> impl AsRawFd + '_ {
        SocketFd(&self.rx)
    }

    /// One pass: takes back what was sent, forwards a batch. Returns how many frames were
    /// forwarded.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn pass(&mut self) -> io::Result<usize> {
        self.recycle();
        // SAFETY: `batch` is of this UMEM; its old contents were handed over in the last pass.
        let received = unsafe { self.rx.consume(&mut self.batch) };
        for frame in &mut self.batch[..received] {
            let more = frame.has_more_frames();
            if !self.continues {
                // SAFETY: the frame was just received, so it is in hand: nobody else touches it.
                let mut data = unsafe { self.umem.data_mut(frame) };
                if let Some(header) = data.contents_mut().first_chunk_mut() {
                    *header = self.header;
                }
            }
            self.continues = more;
        }
        // SAFETY: these frames are in hand and from here on posted for send; we don't touch them
        // again.
        let posted = unsafe { self.tx.produce(&self.batch[..received]) };
        assert_eq!(posted, received, "the tx ring has room for every frame");
        self.sending += posted;
        if self.sending > 0 && self.tx.needs_wakeup() {
            // A wake-up sends as many as its budget allows; what is left is asked for in the next
            // pass.
            self.tx.wakeup()?;
        }
        if self.busy && received == 0 {
            // Drives the driver's receive work on this core.
            self.rx.poll(0)?;
        }
        Ok(received)
    }

    /// Whether frames are still on their way out, so that waiting for new ones alone would strand
    /// them.
    pub fn is_sending(&self) -> bool {
        self.sending > 0
    }

    fn recycle(&mut self) {
        // SAFETY: `batch` is of this UMEM and its old contents were handed over.
        let completed = unsafe { self.completion.consume(&mut self.batch) };
        self.sending -= completed;
        // SAFETY: these frames are in hand, the kernel has sent them; from here on they are posted
        // for receive.
        let posted = unsafe { self.fill.produce(&self.batch[..completed]) };
        assert_eq!(posted, completed, "the fill ring has room for every frame");
    }
}

struct SocketFd<'a>(&'a RxQueue);

impl AsRawFd for SocketFd<'_> {
    fn as_raw_fd(&self) -> i32 {
        self.0.fd().as_raw_fd()
    }
}

/// Serves all queues from this thread, for ever.
///
/// # Errors
/// The interface is gone.
pub fn serve(queues: &mut [Forwarder]) -> io::Result<()> {
    let mut sockets: Vec<libc::pollfd> = queues
        .iter()
        .map(|queue| libc::pollfd {
            fd: queue.socket().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let mut last_work = Instant::now();
    loop {
        let mut forwarded = 0;
        for queue in &mut *queues {
            forwarded += queue.pass()?;
        }
        if forwarded > 0 {
            last_work = Instant::now();
            continue;
        }
        let (busy, sending) = (queues[0].busy, queues.iter().any(Forwarder::is_sending));
        if !busy && !sending && last_work.elapsed() >= SPIN {
            // SAFETY: the array and its length belong together and live over the call.
            unsafe { libc::poll(sockets.as_mut_ptr(), sockets.len() as libc::nfds_t, 1000) };
        }
    }
}

/// The options of Pen's sockets: a send budget of a whole batch, and with `busy` preferred busy
/// polling.
fn set_options(rx: &RxQueue, busy: bool) -> Result<()> {
    let fd = rx.fd().as_raw_fd();
    // Kernels before 6.17 don't know it and send 32 frames a wake-up.
    let _ = set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, BATCH as i32);
    if busy {
        set_option(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, 1)
            .and_then(|()| set_option(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, BUSY_POLL_US))
            .and_then(|()| {
                set_option(
                    fd,
                    libc::SOL_SOCKET,
                    libc::SO_BUSY_POLL_BUDGET,
                    BATCH as i32,
                )
            })
            .context("asking for busy polling (needs CAP_NET_ADMIN)")?;
    }
    Ok(())
}

fn set_option(fd: i32, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is an int of `length` bytes, as these options want, and lives over the call.
    let done = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
