//! TLS in front of a service: clients speak it with us, servers get what is inside.
//!
//! rustls does the cryptography and knows nothing of sockets; [`stream`] puts it between a socket
//! and whoever reads and writes, who need not know that it is there.

pub mod certificate;
mod facts;
pub mod handshake;
mod ocsp;
mod session;
pub mod stream;
mod terms;

pub use terms::{Agreed, Terms, TermsError};
