//! UDP: the datagrams of one client, to one address of this host, are a flow; a flow has one server
//! and a connected socket to it, and ends when nothing came for a while.
//!
//! The kernel gives all datagrams of a flow to the same of the threads' listening sockets, so each
//! of these has a table of its own, and a datagram costs no lock: only the beginning and the end of
//! a flow do. Nothing is queued here: what finds no room in a socket is dropped and counted.
//!
//! A server that refuses (ICMP) has failed and another one gets the datagram. One that is silent is
//! not noticed: nobody can tell it from a service that has nothing to say.

mod batch;
mod flows;
pub(super) mod listen;
mod serve;
mod server;

pub(super) use serve::{Scratch, serve};
