//! TLS in front of a service, and behind it: clients speak it with us, and we with servers, each if
//! the service says so.
//!
//! rustls does the cryptography and knows nothing of sockets; [`stream`] puts it between a socket
//! and whoever reads and writes, who need not know that it is there.

mod agreed;
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
mod private_key;
mod remembered;
mod renewal;
mod report;
mod resumption;
pub(in crate::proxy) mod servers;
mod session;
mod store;
pub mod stream;
mod terms;
mod ticket_keys;
mod tickets;
mod unchecked;

pub use agreed::Agreed;
pub(in crate::proxy) use agreed::Agreement;
pub use clients::ClientsError;
pub(in crate::proxy) use clients::Standing;
pub(in crate::proxy) use in_flight::InFlight;
pub(in crate::proxy) use names::by_name;
pub(in crate::proxy) use overheard::{Overheard, overhear};
pub(in crate::proxy) use renewal::Renewal;
pub use servers::{Demands, DemandsError};
pub use terms::{Terms, TermsError};
