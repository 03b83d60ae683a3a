//! The generator without a system call for each batch: a program of the kernel's own test-run, whose
//! frames are live (`BPF_F_TEST_XDP_LIVE_FRAMES`) and go out of this end of the wire as if it had
//! sent them back. The program `send` keeps the window itself: it counts what it sends and reads the
//! sink's counter.
//!
//! It costs its core a fraction of what AF_XDP does, and leaves the rest for the receive work that
//! veth does there for whoever forwards. In exchange it can send but one flow, it spins while it
//! waits, and the other end takes live frames only with a native XDP program of its own (measured on
//! 6.18). Frames without a window are an open loop here, too.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, MapData};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use crate::busy::busy_seconds;
use crate::generator::{LOST_AFTER, Options, Outcome, Sink, WARM_UP};
use crate::traffic::FRAME_BYTES;

/// Runs of the program in one system call: more than fit any measurement, because a call begins and
/// ends with waiting for an RCU grace period, milliseconds long.
const REPEAT: u32 = i32::MAX as u32;
/// Frames that go out together, between two looks of the kernel's at other work.
const BATCH: u32 = 64;
/// How often somebody looks whether anything still comes back.
const LOOK: Duration = Duration::from_millis(10);
/// Elements of `LIMITS`, see the object's source.
const WINDOW: u32 = 0;
const GIVEN_UP: u32 = 1;

/// Offers `frame` for the time asked for.
///
/// # Errors
/// The kernel does not know live frames, or the other end does not take them.
pub(crate) fn run(
    options: &Options,
    frame: [u8; FRAME_BYTES],
    duration: Duration,
) -> Result<Outcome> {
    let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| frame[at * 4 + byte]));
    let macs = [word(0), word(1), word(2)];
    let mut loader = EbpfLoader::new();
    loader.override_global("MACS", &macs, true);
    let (sink, mut object) = Sink::attach(&options.interface, &options.object, &mut loader)?;
    let (sent, mut limits) = (
        counters(&mut object, "SENT")?,
        counters(&mut object, "LIMITS")?,
    );
    let window = options.window.map_or(u64::MAX, |window| window as u64);
    limits.set(WINDOW, window, 0)?;
    let context = context(&options.interface)?;
    let sender = thread::spawn(move || send(&mut object, &context, &frame));
    let mut watch = Watch {
        sink,
        sent,
        limits,
        progress: (0, Instant::now()),
    };
    let outcome = watch.measure(duration)?;
    if sender.is_finished() {
        sender
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        bail!("the sender ended before its time");
    }
    Ok(outcome)
}

fn counters(object: &mut Ebpf, name: &str) -> Result<Array<MapData, u64>> {
    let map = object.take_map(name);
    let map = map.with_context(|| format!("the object has no map {name}"))?;
    Ok(Array::try_from(map)?)
}

/// Sends until the process ends.
fn send(object: &mut Ebpf, context: &[u8], frame: &[u8]) -> Result<()> {
    let program: &mut Xdp = object
        .program_mut("send")
        .context("the object has no program send")?
        .try_into()?;
    program.load().context("loading the sender")?;
    let run = program.test_run(TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(context),
        repeat: REPEAT,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::new()
    });
    run.context("sending live frames").map(drop)
}

/// What the program is told of where the frame comes from (`struct xdp_md`): data, its end, its
/// metadata, interface, queue, and an interface that is not used.
fn context(interface: &str) -> Result<[u8; 24]> {
    let path = format!("/sys/class/net/{interface}/ifindex");
    let index = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let index: u32 = index.trim().parse().with_context(|| path)?;
    let mut context = [0; 24];
    let words = [0, FRAME_BYTES as u32, 0, index, 0, 0];
    for (to, word) in context.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Ok(context)
}

/// Watches the sender and the sink, which both run inside the kernel.
struct Watch {
    sink: Sink,
    sent: Array<MapData, u64>,
    limits: Array<MapData, u64>,
    /// What had come back when something last did, and when that was.
    progress: (u64, Instant),
}

impl Watch {
    fn measure(&mut self, duration: Duration) -> Result<Outcome> {
        self.wait_until(Instant::now() + WARM_UP)?;
        let (start, busy) = (Instant::now(), busy_seconds()?);
        let (sent, delivered) = (self.sent()?, self.sink.delivered()?);
        self.wait_until(start + duration)?;
        let (offered, delivered) = (self.sent()? - sent, self.sink.delivered()? - delivered);
        let (seconds, busy) = (start.elapsed().as_secs_f64(), busy_seconds()? - busy);
        self.drain()?;
        Outcome {
            seconds,
            offered,
            delivered,
            busy,
            sent_in_all: self.sent()?,
            lost: 0,
        }
        .settled(self.sink.delivered()?)
    }

    fn wait_until(&mut self, end: Instant) -> Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(LOOK));
            self.give_up()?;
        }
    }

    /// Makes room again if nothing has come back for too long.
    fn give_up(&mut self) -> Result<()> {
        let (delivered, now) = (self.sink.delivered()?, Instant::now());
        let (before, at) = self.progress;
        if delivered != before {
            self.progress = (delivered, now);
        } else if now - at > LOST_AFTER {
            let lost = self.sent()?.saturating_sub(delivered);
            self.limits.set(GIVEN_UP, lost, 0)?;
            self.progress = (delivered, now);
        }
        Ok(())
    }

    fn sent(&self) -> Result<u64> {
        self.sent.get(&0, 0).context("reading the sender's counter")
    }

    /// Stops the sender, and waits until it has used up what it may still send, and nothing comes
    /// back any more.
    fn drain(&mut self) -> Result<()> {
        self.limits.set(WINDOW, 0, 0)?;
        let mut before = (self.sent()?, self.sink.delivered()?);
        loop {
            thread::sleep(LOST_AFTER);
            let now = (self.sent()?, self.sink.delivered()?);
            if now == before {
                return Ok(());
            }
            before = now;
        }
    }
}
