//! The generator: offers frames on one end of a wire, over AF_XDP or as live frames (`live.rs`), and
//! counts what comes back for back ends.
//!
//! **Closed loop**: no more than `window` frames are ever under way, fewer than any ring or buffer
//! between here and the sink holds. So the rate that comes out is the forwarder's rate without
//! loss, found in one run and without a search, and a frame that is lost is a fault to be told, not
//! the usual way to find the limit. But the generator waits, and on veth the receive work of
//! whoever forwards is done on the sender's core: whoever is slower than the generator has it for
//! nothing.
//!
//! **Open loop**: without a window it sends as fast as it can, and what a forwarder has no room for
//! is lost, after the work of receiving it was done. What comes out is what a forwarder delivers
//! under more load than it can take, and the loss belongs to the figure.
#![allow(
    unsafe_code,
    reason = "xsk-rs marks its ring operations unsafe: they trust the caller with frame ownership"
)]

use std::io::Write;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, MapData};
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};
use clap::Args;
use lab::Mac;
use serde::{Deserialize, Serialize};
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FrameDesc, Socket, TxQueue, Umem};

use crate::busy::busy_seconds;
use crate::live;
use crate::traffic::{FRAME_BYTES, Traffic};

/// Frames of the generator's UMEM; more than any window.
const FRAMES: u32 = 1024;
/// Frames sent by one wake-up, as far as the kernel goes along: 32 before 6.17.
const BATCH: usize = 32;
/// Left out at the start of a run: caches warm up, workers wake up.
pub(crate) const WARM_UP: Duration = Duration::from_millis(100);
/// Nothing came back for so long: what is under way is lost.
pub(crate) const LOST_AFTER: Duration = Duration::from_millis(20);
/// Frames to a back end's MAC that were never offered, at most: ARP answers. More of them means
/// that somebody else sends, or that frames come back twice.
const STRAY_MAX: u64 = 16;

/// What to offer, on which interface.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long)]
    pub(crate) interface: String,
    /// The MAC that the frames are sent to
    #[arg(long)]
    to: Mac,
    #[arg(long)]
    milliseconds: u64,
    #[arg(long, default_value_t = 1)]
    flows: usize,
    #[arg(long, default_value_t = 1)]
    vips: usize,
    /// Frames under way at most; as many as can be sent if left out
    #[arg(long)]
    pub(crate) window: Option<usize>,
    /// Send inside the kernel, as live frames of a test-run; one flow only
    #[arg(long)]
    live: bool,
    #[arg(long)]
    core: usize,
    /// The eBPF object with the programs `sink` and `send`
    #[arg(long)]
    pub(crate) object: PathBuf,
}

/// What came of one run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Length of the measured part, seconds.
    pub(crate) seconds: f64,
    /// Frames that the kernel took in that time.
    pub(crate) offered: u64,
    /// Frames that came back for a back end in that time.
    pub(crate) delivered: u64,
    /// CPU-seconds that all cores together were busy in that time.
    pub(crate) busy: f64,
    /// Frames sent in the whole run, warm-up and all.
    pub(crate) sent_in_all: u64,
    /// Of those, frames that never came back.
    pub(crate) lost: u64,
}

impl Outcome {
    /// Frames offered a second.
    pub(crate) fn offered_rate(&self) -> f64 {
        self.offered as f64 / self.seconds
    }

    /// Frames delivered a second.
    pub(crate) fn rate(&self) -> f64 {
        self.delivered as f64 / self.seconds
    }

    /// Frames for each second of each busy core.
    pub(crate) fn per_cpu_second(&self) -> f64 {
        self.delivered as f64 / self.busy
    }

    /// With what was lost of the whole run, of which `delivered` frames came back.
    pub(crate) fn settled(mut self, delivered: u64) -> Result<Self> {
        let sent = self.sent_in_all;
        ensure!(
            delivered <= sent + STRAY_MAX,
            "{delivered} frames came back of {sent}"
        );
        self.lost = sent.saturating_sub(delivered);
        Ok(self)
    }

    /// Share of the frames of the whole run that never came back; those that wait in a queue at
    /// the end of the measured time are not among them.
    pub(crate) fn loss(&self) -> f64 {
        self.lost as f64 / self.sent_in_all.max(1) as f64
    }
}

/// Runs the generator and prints an [`Outcome`] as JSON.
pub(crate) fn main(options: &Options) -> Result<()> {
    let id = options.core;
    ensure!(
        core_affinity::set_for_current(core_affinity::CoreId { id }),
        "there is no core {id}"
    );
    let traffic = Traffic {
        flows: options.flows,
        vips: options.vips,
    };
    let frames = traffic.frames(options.to);
    let duration = Duration::from_millis(options.milliseconds);
    let outcome = if options.live {
        let [frame] = frames[..] else {
            bail!("live frames are all of one flow")
        };
        live::run(options, frame, duration)?
    } else {
        let (sink, _object) =
            Sink::attach(&options.interface, &options.object, &mut EbpfLoader::new())?;
        let sender = Sender::open(&options.interface, frames)?;
        Loop::new(sender, sink, options.window).run(duration)?
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// The counter of the program at this end, which counts and drops frames to back ends.
pub(crate) struct Sink(Array<MapData, u64>);

impl Sink {
    /// Loads the object and attaches the program natively; it is detached when the object is
    /// dropped.
    pub(crate) fn attach(
        interface: &str,
        object: &Path,
        loader: &mut EbpfLoader<'_>,
    ) -> Result<(Self, Ebpf)> {
        let loaded = loader.load_file(object);
        let mut ebpf = loaded.with_context(|| format!("loading {}", object.display()))?;
        let map = ebpf
            .take_map("DELIVERED")
            .context("the object has no map DELIVERED")?;
        let program: &mut Xdp = ebpf
            .program_mut("sink")
            .context("the object has no program sink")?
            .try_into()?;
        program.load().context("loading the sink")?;
        program
            .attach(interface, XdpMode::Driver)
            .with_context(|| format!("attaching the sink to {interface}"))?;
        Ok((Self(Array::try_from(map)?), ebpf))
    }

    /// Frames that came back for a back end until now.
    pub(crate) fn delivered(&self) -> Result<u64> {
        self.0.get(&0, 0).context("reading the sink's counter")
    }
}

/// An AF_XDP socket that only sends. A frame is in `free` or posted for send (tx ring, kernel,
/// completion ring).
struct Sender {
    umem: Umem,
    tx: TxQueue,
    completion: CompQueue,
    free: Vec<FrameDesc>,
    /// Where completed frames are read into; what is in there is not ours but by its count.
    scratch: Vec<FrameDesc>,
    frames: Vec<[u8; FRAME_BYTES]>,
    next: usize,
}

impl Sender {
    fn open(interface: &str, frames: Vec<[u8; FRAME_BYTES]>) -> Result<Self> {
        let size = QueueSize::new(FRAMES)?;
        let count = NonZeroU32::new(FRAMES).context("no frames")?;
        let umem_config = UmemConfig::builder().comp_queue_size(size).build()?;
        let (umem, free) = Umem::new(umem_config, count, false).context("making a UMEM")?;
        let config = SocketConfig::builder()
            .tx_queue_size(size)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let name: Interface = interface.parse()?;
        // SAFETY: the UMEM is not shared: this is its first and only socket.
        let made = unsafe { Socket::new(config, &umem, &name, 0) };
        let (tx, _, rings) = made.with_context(|| format!("binding queue 0 of {interface}"))?;
        let (_, completion) = rings.context("the first socket of a UMEM has its rings")?;
        let scratch = free[..BATCH].to_vec();
        Ok(Self {
            umem,
            tx,
            completion,
            free,
            scratch,
            frames,
            next: 0,
        })
    }

    /// Frames that the kernel has yet to send, or has sent without our having seen it.
    fn posted(&self) -> u64 {
        u64::from(FRAMES) - self.free.len() as u64
    }

    /// Sends up to [`BATCH`] frames and says how many.
    fn send(&mut self, count: usize) -> Result<usize> {
        let first = self.free.len() - count.min(BATCH).min(self.free.len());
        for descriptor in &mut self.free[first..] {
            // SAFETY: the descriptor is in `free`: nobody else touches its frame.
            let mut data = unsafe { self.umem.data_mut(descriptor) };
            let mut cursor = data.cursor();
            cursor.set_pos(0);
            cursor
                .write_all(&self.frames[self.next])
                .context("a frame fits its buffer")?;
            self.next += 1;
            if self.next == self.frames.len() {
                self.next = 0;
            }
        }
        // SAFETY: these were in `free` and leave it in the next line.
        let posted = unsafe { self.tx.produce(&self.free[first..]) };
        ensure!(
            first + posted == self.free.len(),
            "the tx ring has room for every frame"
        );
        self.free.truncate(first);
        self.push()?;
        Ok(posted)
    }

    /// Lets the kernel send what is posted.
    fn push(&self) -> Result<()> {
        if self.tx.needs_wakeup() {
            self.tx.wakeup().context("sending")?;
        }
        Ok(())
    }

    fn reclaim(&mut self) {
        loop {
            // SAFETY: `scratch` is of this UMEM, and its contents were copied out.
            let completed = unsafe { self.completion.consume(&mut self.scratch) };
            self.free.extend_from_slice(&self.scratch[..completed]);
            if completed < self.scratch.len() {
                return;
            }
        }
    }
}

struct Loop {
    sender: Sender,
    sink: Sink,
    /// Frames under way at most; nothing means an open loop.
    window: Option<usize>,
    sent: u64,
    /// Delivered, or given up as lost.
    settled: u64,
    delivered: u64,
    progress: Instant,
}

impl Loop {
    fn new(sender: Sender, sink: Sink, window: Option<usize>) -> Self {
        let progress = Instant::now();
        Self {
            sender,
            sink,
            window,
            sent: 0,
            settled: 0,
            delivered: 0,
            progress,
        }
    }

    fn run(&mut self, duration: Duration) -> Result<Outcome> {
        self.run_until(Instant::now() + WARM_UP)?;
        let (start, busy) = (Instant::now(), busy_seconds()?);
        let (taken, delivered) = (self.taken(), self.delivered);
        self.run_until(start + duration)?;
        let (seconds, offered) = (start.elapsed().as_secs_f64(), self.taken() - taken);
        let delivered = self.delivered - delivered;
        let busy = busy_seconds()? - busy;
        self.drain()?;
        Outcome {
            seconds,
            offered,
            delivered,
            busy,
            sent_in_all: self.sent,
            lost: 0,
        }
        .settled(self.delivered)
    }

    fn run_until(&mut self, end: Instant) -> Result<()> {
        match self.window {
            Some(window) => self.keep_under_way(window, end),
            None => self.send_all(end),
        }
    }

    /// The open loop: does nothing but send until the end.
    fn send_all(&mut self, end: Instant) -> Result<()> {
        while Instant::now() < end {
            self.sender.reclaim();
            self.sent += self.sender.send(BATCH)? as u64;
        }
        self.sender.reclaim();
        self.look().map(drop)
    }

    /// The closed loop.
    fn keep_under_way(&mut self, window: usize, end: Instant) -> Result<()> {
        loop {
            let now = self.look()?;
            if now > end {
                return Ok(());
            }
            let under_way = (self.sent - self.settled) as usize;
            let room = window.saturating_sub(under_way);
            self.sender.reclaim();
            if room >= BATCH {
                self.sent += self.sender.send(room)? as u64;
            } else if self.sender.free.len() < FRAMES as usize {
                // A wake-up may have left some of a batch unsent.
                self.sender.push()?;
            }
        }
    }

    /// Frames that the kernel took.
    fn taken(&self) -> u64 {
        self.sent - self.sender.posted()
    }

    /// Waits until everything is back or nothing comes any more, so that the next forwarder has the
    /// machine to itself.
    fn drain(&mut self) -> Result<()> {
        let mut end = Instant::now() + LOST_AFTER;
        while self.delivered < self.sent && Instant::now() < end {
            self.sender.push()?;
            let before = self.delivered;
            let now = self.look()?;
            if self.delivered > before {
                end = now + LOST_AFTER;
            }
        }
        Ok(())
    }

    /// Reads the counter, and gives up what is under way when it stands still.
    fn look(&mut self) -> Result<Instant> {
        let (now, delivered) = (Instant::now(), self.sink.delivered()?);
        if delivered != self.delivered {
            self.settled = (self.settled + delivered - self.delivered).min(self.sent);
            self.delivered = delivered;
            self.progress = now;
        } else if now - self.progress > LOST_AFTER {
            self.settled = self.sent;
            self.progress = now;
        }
        Ok(now)
    }
}
