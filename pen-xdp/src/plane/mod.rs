//! Data planes in user space: workers, and the ports that they serve.
//!
//! Nothing here knows control: planes are given open ports and a memory to decide by, and tell
//! by counters, reports and [`Event`]s what they see.

pub mod af_packet;
pub mod af_xdp;
mod busy;
mod event;
mod hand;
mod port;
mod status;
mod wait;
mod worker;
mod workers;

pub use crate::mapped::now_ns as coarse_ns;
pub use busy::{Busy, SPIN};
pub use event::Event;
pub use port::{Accounting, BATCH, Fate, Losses, MemLine, MemPort, Polled, Port, SEGMENTS_MAX};
pub use status::{Epochs, FRAMES_MAX, QueueReport, WorkerReport};
pub use worker::{Counting, Queue};
pub use workers::{Watcher, WorkerConfig, Workers};
