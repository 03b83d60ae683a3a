//! The daemon: control, and the planes that it steers.

pub mod announce;
pub mod cli;
pub mod confinement;
pub mod control;
pub mod daemon;
pub mod ebpf;
pub mod files;
pub mod gateways;
pub mod keeper;
pub mod lock;
pub mod mapped;
pub mod names;
pub mod neighbor;
pub mod netlink;
pub mod nic;
#[cfg(test)]
mod numbers;
pub mod ownership;
pub mod plane;
pub mod privileges;
pub mod proxy;
pub mod replace_file;
pub mod watch;
