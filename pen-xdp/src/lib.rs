//! The daemon: control, and the planes that it steers.

pub mod control;
pub mod plane;
