//! The daemon: control, and the planes that it steers.

pub mod cli;
pub mod control;
