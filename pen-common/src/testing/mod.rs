//! What the tests of every host share: frame builders, a [`World`] to steer in, and [`CASES`]:
//! frame in, verdict, frame out.
//!
//! Nothing here calls the code under test to say what it should do: builders sum their checksums
//! the slow way, and expected frames are built or edited byte by byte.

mod build;
mod cases;
mod check;
mod pcap;
mod random;
mod world;

pub use build::{Build, arp, bytes_at, cut, forwarded, padded, v4, v6};
pub use cases::{CASES, Case};
pub use check::checked;
pub use pcap::pcap;
pub use random::{noise, random_frame};
pub use world::{Full, Words, World, net};
