//! Neighbours, ownership, announcements and interface settings against a real kernel.
//!
//! ```text
//!   lb: eth1 ---- veth ---- be: eth0      one pair of namespaces a test
//! ```
//!
//! A test can't enter a namespace by itself without unsafe code, so it runs this very program
//! again by `ip netns exec`, for itself alone. Needs root, iproute2, ethtool, tcpdump, ping, clang.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod announcements;
mod interface;
mod neighbors;
mod pair;
