//! The daemon.

pub mod plane;
