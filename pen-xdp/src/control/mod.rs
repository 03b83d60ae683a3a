//! What changes Pen while it runs: every change is a [`state::Command`], applied whole or refused
//! whole, compiled into a [`snapshot::Snapshot`] and published to the data plane.

pub mod grace;
pub mod names;
pub mod permission;
pub mod publish;
pub mod report;
pub mod routes;
pub mod snapshot;
pub mod socket;
pub mod state;
