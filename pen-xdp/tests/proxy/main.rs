//! The proxy in a lab: real clients and servers in namespaces, and Pen between them as its users
//! start it.
//!
//! ```text
//!   client --- switch --- be0, be1, be2
//!                |
//!               lb0 (Pen listens on its own addresses)
//! ```
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

#[path = "../keeper/stolen.rs"]
mod stolen;

mod access;
mod activation;
mod authority;
mod balance;
mod beside_pen;
mod blog;
mod both;
mod certificates;
mod connections;
mod control_access;
mod control_clients;
mod crowd;
mod every_command;
mod failover;
mod http;
mod http_ends;
mod kept;
mod live;
mod log;
mod log_trouble;
mod names;
mod packets;
mod page;
mod proxy_protocol;
mod python;
mod redirect;
mod refuse;
mod reload;
mod replies;
mod rig;
mod service_manager;
mod smuggling;
mod sni_hellos;
mod sni_routes;
mod stream;
mod tls;
mod tls_clients;
mod tls_expiry;
mod tls_folders;
mod tls_grade;
mod tls_http;
mod tls_many_names;
mod tls_names;
mod tls_peers;
mod tls_renewal;
mod tls_servers;
mod tls_servers_files;
mod tls_servers_streams;
mod tls_stacks;
mod tls_staples;
mod tls_tickets;
mod tls_trouble;
mod udp;
mod user;
