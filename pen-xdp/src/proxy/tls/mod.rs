//! TLS in front of a service: clients speak it with us, servers get what is inside.
//!
//! rustls does the cryptography and knows nothing of sockets; [`stream`] puts it between a socket
//! and whoever reads and writes, who need not know that it is there.

pub mod certificate;
mod clients;
mod directory;
mod facts;
pub mod handshake;
mod held;
mod hello;
mod in_flight;
mod names;
mod ocsp;
mod overheard;
mod remembered;
mod renewal;
mod report;
mod resumption;
mod session;
mod store;
pub mod stream;
mod terms;
mod ticket_keys;
mod tickets;

pub use clients::ClientsError;
pub(in crate::proxy) use clients::Standing;
pub(in crate::proxy) use in_flight::InFlight;
pub(in crate::proxy) use names::by_name;
pub(in crate::proxy) use overheard::{Overheard, overhear};
pub(in crate::proxy) use renewal::Renewal;
pub use terms::{Agreed, Terms, TermsError};
