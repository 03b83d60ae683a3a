//! Pen's pure logic: packets, balancing and the one decision, [`steer::steer`].
//!
//! The core is `no_std` and does no I/O, so that the XDP program, the AF_XDP workers and the
//! AF_PACKET plane run the very same lines. Feature `std` adds configuration and the control
//! protocol; feature `testing` adds the frame builders and the case table.
#![cfg_attr(not(feature = "std"), no_std)]
#![warn(missing_docs)]

pub mod chain;
pub mod checksum;
#[cfg(feature = "std")]
pub mod config;
#[cfg(feature = "std")]
pub mod control;
pub mod flow;
pub mod flow_table;
pub mod fragment_table;
pub mod frame;
pub mod hash;
#[cfg(feature = "std")]
pub mod maglev;
pub mod packet;
#[cfg(feature = "std")]
pub mod proxy_protocol;
pub mod ranges;
pub mod rewrite;
pub mod steer;
pub mod tables;
#[cfg(feature = "testing")]
pub mod testing;
pub mod verdict;
