//! The daemon.

pub mod announce;
pub mod neighbor;
pub mod netlink;
pub mod nic;
pub mod ownership;
pub mod watch;
