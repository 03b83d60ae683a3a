//! Taking a queue: what to ask for, what to give up, when to wait, and what to say.
#![allow(
    unsafe_code,
    reason = "making a socket and its rings hands frames to the kernel"
)]

use std::{
    error::Error,
    io,
    num::NonZeroU32,
    thread,
    time::{Duration, Instant},
};

use xsk_rs::{
    Socket as XskSocket, Umem,
    config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
};

use super::{FRAME_SIZE, FRAMES_DEFAULT, Mode, Rings, Socket, XskPort, rings::Parts};

/// How long a queue or memory that somebody has just given up is waited for: the kernel releases
/// both some time after the close.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Drivers that fill their rings at the bind, before xsk-rs can post a frame, and do not look
/// again: with zero copy they would receive nothing.
const FILL_BEFORE_BIND: &[&str] = &["ice", "i40e"];

/// Which queue to take, and how.
#[derive(Debug, Clone)]
pub struct XskConfig {
    /// Name of the interface, in the network namespace of the calling thread.
    pub interface: String,
    /// Name of its driver; some can't do everything they offer.
    pub driver: String,
    /// Number of the queue.
    pub queue: u32,
    /// Frames, a power of two; see [`FRAMES_DEFAULT`].
    pub frames: u32,
    /// Whether to try zero copy.
    pub zero_copy: ZeroCopy,
    /// Whether packets longer than a frame are wanted.
    pub multi_buffer: bool,
    /// Whether the worker is to drive the device's NAPI itself.
    pub busy_poll: bool,
}

impl XskConfig {
    /// A queue with everything that its driver and the kernel have, except busy polling.
    pub fn new(interface: &str, driver: &str, queue: u32) -> Self {
        Self {
            interface: interface.into(),
            driver: driver.into(),
            queue,
            frames: FRAMES_DEFAULT,
            zero_copy: ZeroCopy::Auto,
            multi_buffer: true,
            busy_poll: false,
        }
    }
}

/// Whether the driver may use the frames itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroCopy {
    /// Where the driver has it and it is safe.
    #[default]
    Auto,
    /// The kernel copies.
    Never,
}

/// Something that was wanted and could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Degraded {
    /// `zero-copy`, `multi-buffer`, `busy-poll` or `send-budget`.
    pub what: &'static str,
    /// Why not.
    pub why: String,
}

/// Why a queue could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The queue does not exist.
    #[error("{interface} has no queue {queue}: `ethtool -l {interface}` shows how many it has")]
    NoSuchQueue {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
    },
    /// The interface does not exist.
    #[error("there is no interface {interface} in this network namespace")]
    NoSuchInterface {
        /// Interface.
        interface: String,
    },
    /// The interface is down.
    #[error("{interface} is down: `ip link set {interface} up`")]
    Down {
        /// Interface.
        interface: String,
    },
    /// Another socket has the queue.
    #[error(
        "queue {queue} of {interface} is taken by another AF_XDP socket; stop the program that \
         has it"
    )]
    Busy {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
    },
    /// The frames' memory can't be had.
    #[error(
        "no memory for the {mebibytes} MiB of frames of {interface} queue {queue}: give \
         CAP_IPC_LOCK, or raise the limit on locked memory (`ulimit -l`), or configure fewer frames"
    )]
    Memory {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
        /// What was wanted, MiB.
        mebibytes: u32,
    },
    /// A capability is missing.
    #[error("not allowed to open an AF_XDP socket: CAP_NET_RAW is missing")]
    Permission,
    /// The kernel or the driver has no AF_XDP.
    #[error("no AF_XDP on {interface}: neither zero copy nor copy mode can be had ({error})")]
    NotSupported {
        /// Interface.
        interface: String,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The number of frames is no power of two, or out of range.
    #[error("{frames} frames: must be a power of two from 128 to 1048576")]
    Frames {
        /// What was asked for.
        frames: u32,
    },
    /// Anything else.
    #[error("queue {queue} of {interface}: {error}")]
    Other {
        /// Interface.
        interface: String,
        /// Queue.
        queue: u32,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// One way to bind.
#[derive(Clone, Copy)]
struct Rung {
    zero_copy: bool,
    multi_buffer: bool,
}

impl Rung {
    /// From the best that is wanted to what every driver has.
    fn ladder(config: &XskConfig, zero_copy: bool) -> Vec<Self> {
        let rung = |zero_copy, multi_buffer| Self {
            zero_copy,
            multi_buffer,
        };
        [(true, true), (true, false), (false, true), (false, false)]
            .into_iter()
            .filter(|(zero, _)| zero_copy || !zero)
            .filter(|(_, multi)| config.multi_buffer || !multi)
            .map(|(zero, multi)| rung(zero, multi))
            .collect()
    }

    fn flags(self) -> BindFlags {
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        flags |= if self.zero_copy {
            BindFlags::XDP_ZEROCOPY
        } else {
            BindFlags::XDP_COPY
        };
        if self.multi_buffer {
            flags |= BindFlags::XDP_USE_SG;
        }
        flags
    }
}

pub(super) fn open(config: &XskConfig) -> Result<XskPort, OpenError> {
    if !config.frames.is_power_of_two() || !(128..=1 << 20).contains(&config.frames) {
        return Err(OpenError::Frames {
            frames: config.frames,
        });
    }
    let mut degraded = Vec::new();
    let mut zero_copy = config.zero_copy == ZeroCopy::Auto;
    if zero_copy && FILL_BEFORE_BIND.contains(&config.driver.as_str()) {
        zero_copy = false;
        degraded.push(Degraded {
            what: "zero-copy",
            why: format!(
                "driver {} takes its frames before any is posted",
                config.driver
            ),
        });
    }
    let mut ladder = Rung::ladder(config, zero_copy).into_iter().peekable();
    while let Some(rung) = ladder.next() {
        let error = match patiently(config, rung) {
            Ok(rings) => return Ok(finish(config, rung, rings, degraded)),
            Err(error) => error,
        };
        let Some(next) = ladder.peek().filter(|_| is_worth_another_rung(&error)) else {
            return Err(explain(config, error));
        };
        // Both are given up in turn on the way down; only the last word on each counts.
        let what = match (rung.zero_copy, next.zero_copy) {
            (true, false) => "zero-copy",
            _ => "multi-buffer",
        };
        degraded.retain(|given_up: &Degraded| given_up.what != what);
        let why = format!(
            "refused by the kernel or by driver {}: {error}",
            config.driver
        );
        degraded.push(Degraded { what, why });
    }
    Err(explain(
        config,
        io::Error::from_raw_os_error(libc::EOPNOTSUPP),
    ))
}

/// Whether less might be granted where this was refused.
fn is_worth_another_rung(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(
            libc::EBUSY
                | libc::ENOBUFS
                | libc::EPERM
                | libc::EACCES
                | libc::ENODEV
                | libc::ENETDOWN
                | libc::EAFNOSUPPORT
        )
    )
}

fn explain(config: &XskConfig, error: io::Error) -> OpenError {
    let (interface, queue) = (config.interface.clone(), config.queue);
    match error.raw_os_error() {
        Some(libc::EINVAL) => OpenError::NoSuchQueue { interface, queue },
        Some(libc::ENODEV) => OpenError::NoSuchInterface { interface },
        Some(libc::ENETDOWN) => OpenError::Down { interface },
        Some(libc::EBUSY) => OpenError::Busy { interface, queue },
        Some(libc::ENOBUFS | libc::ENOMEM) => OpenError::Memory {
            interface,
            queue,
            mebibytes: config.frames.div_ceil((1 << 20) / FRAME_SIZE),
        },
        Some(libc::EPERM | libc::EACCES) => OpenError::Permission,
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => OpenError::NotSupported { interface, error },
        _ => OpenError::Other {
            interface,
            queue,
            error,
        },
    }
}

/// Tries until what was just given up is free.
fn patiently(config: &XskConfig, rung: Rung) -> io::Result<Rings> {
    let end = Instant::now() + RETRY;
    loop {
        let error = match bind(config, rung) {
            Ok(rings) => return Ok(rings),
            Err(error) => error,
        };
        let passing = matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOBUFS));
        if !passing || Instant::now() >= end {
            return Err(error);
        }
        thread::sleep(RETRY_PAUSE);
    }
}

/// UMEM, socket, rings; everything is undone if a part of it fails.
fn bind(config: &XskConfig, rung: Rung) -> io::Result<Rings> {
    let ring = QueueSize::new(config.frames).map_err(io::Error::other)?;
    // Smaller than the fill ring: while the worker is away, that one still has frames.
    let rx_ring = QueueSize::new(config.frames / 2).map_err(io::Error::other)?;
    // The kernel shows a received frame before it gives up the frame's place in the fill ring, so
    // one that has already been sent and completed may come back to a ring that looks full. In
    // copy mode kernels before 6.17 are as late in the tx ring: they complete a frame before they
    // give up its place.
    let roomy = QueueSize::new(config.frames * 2).map_err(io::Error::other)?;
    let frames = NonZeroU32::new(config.frames).ok_or(io::ErrorKind::InvalidInput)?;
    let umem_config = UmemConfig::builder()
        .frame_size(FrameSize::new(FRAME_SIZE).map_err(io::Error::other)?)
        .fill_queue_size(roomy)
        .comp_queue_size(ring)
        .build()
        .map_err(io::Error::other)?;
    let (umem, descriptors) = Umem::new(umem_config, frames, false).map_err(|e| cause(&e))?;
    let socket_config = SocketConfig::builder()
        .rx_queue_size(rx_ring)
        .tx_queue_size(roomy)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(rung.flags())
        .build();
    let interface = Interface::new(
        std::ffi::CString::new(config.interface.as_str()).map_err(io::Error::other)?,
    );
    // SAFETY: the UMEM is new and shared with no other socket, and libxdp loads no program.
    let made = unsafe { XskSocket::new(socket_config, &umem, &interface, config.queue) };
    let (tx, rx, fill_and_completion) = made.map_err(|e| cause(&e))?;
    let (fill, completion) = fill_and_completion
        .ok_or_else(|| io::Error::other("a new UMEM came without fill and completion ring"))?;
    let parts = Parts {
        umem,
        fill,
        completion,
        rx,
        tx,
    };
    // SAFETY: rings and UMEM were made together just now and are given away whole; `descriptors`
    // are all frames of that UMEM, and none of them was used.
    unsafe { Rings::new(parts, &descriptors) }
}

/// The kernel's answer inside an error of xsk-rs.
fn cause(error: &dyn Error) -> io::Error {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or_else(
            || io::Error::other(error.to_string()),
            io::Error::from_raw_os_error,
        )
}

/// Options that may be refused without harm.
fn finish(config: &XskConfig, rung: Rung, rings: Rings, degraded: Vec<Degraded>) -> XskPort {
    // SAFETY: both go into one port, which never parts with its rings.
    let socket = unsafe { Socket::of(rings.tx()) };
    let mut mode = Mode {
        zero_copy: socket.is_zero_copy().unwrap_or(rung.zero_copy),
        multi_buffer: rung.multi_buffer,
        busy_poll: false,
        send_budget: None,
        degraded,
    };
    let mut refused = |what, error: io::Error| {
        let why = match error.raw_os_error() {
            Some(libc::EPERM) => "CAP_NET_ADMIN is missing".to_owned(),
            Some(libc::ENOPROTOOPT) => "this kernel does not have it".to_owned(),
            _ => error.to_string(),
        };
        mode.degraded.push(Degraded { what, why });
    };
    if config.busy_poll {
        match socket.prefer_busy_poll() {
            Ok(()) => mode.busy_poll = true,
            Err(error) => refused("busy-poll", error),
        }
    }
    if !mode.zero_copy {
        match socket.raise_send_budget(config.frames) {
            Ok(budget) => mode.send_budget = Some(budget),
            Err(error) => refused("send-budget", error),
        }
    }
    XskPort {
        rings,
        socket,
        mode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> XskConfig {
        XskConfig::new("lo", "", 0)
    }

    #[test]
    fn the_ladder_goes_from_best_to_plain() {
        let rungs = |config: &XskConfig, zero| {
            let ladder = Rung::ladder(config, zero).into_iter();
            ladder
                .map(|r| (r.zero_copy, r.multi_buffer))
                .collect::<Vec<_>>()
        };
        let all = [(true, true), (true, false), (false, true), (false, false)];
        assert_eq!(rungs(&config(), true), all);
        assert_eq!(rungs(&config(), false), all[2..]);
        let plain = XskConfig {
            multi_buffer: false,
            ..config()
        };
        assert_eq!(rungs(&plain, true), [(true, false), (false, false)]);
    }

    #[test]
    fn answers_of_the_kernel_become_advice() {
        let text = |errno| explain(&config(), io::Error::from_raw_os_error(errno)).to_string();
        assert!(text(libc::EINVAL).contains("ethtool -l lo"));
        assert!(text(libc::ENOBUFS).contains("16 MiB") && text(libc::ENOBUFS).contains("ulimit"));
        assert!(text(libc::EPERM).contains("CAP_NET_RAW"));
        assert!(text(libc::EBUSY).contains("another AF_XDP socket"));
        assert!(text(libc::ENETDOWN).contains("ip link set lo up"));
    }

    #[test]
    fn frames_must_be_a_power_of_two() {
        let odd = XskConfig {
            frames: 1000,
            ..config()
        };
        assert!(matches!(
            open(&odd),
            Err(OpenError::Frames { frames: 1000 })
        ));
    }
}
