//! The daemon in a lab: real clients and back ends in namespaces.
//!
//! ```text
//!   client ---+              +--- be0   VIP on lo, no ARP for it
//!             +--- switch ---+--- be1
//!   lb0 (Pen)-+   (bridge)   +--- be2
//! ```
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "../keeper/stolen.rs"]
mod stolen;

mod access;
mod announce;
mod background;
mod blog;
mod change;
mod drain;
mod errors;
mod first;
mod foreign;
mod fragments;
mod kept;
mod link;
mod millions;
mod names;
mod neighbors;
mod planes;
mod protocols;
mod queues;
mod refuse;
mod reload;
mod rig;
mod rush;
mod scale;
mod settings;
mod signals;
mod survive;
mod tarpit;
mod units;
mod user;
mod wire;
