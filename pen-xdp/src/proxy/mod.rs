//! Services in proxy mode: two connections, one from the client and one to the server, and the
//! bytes passed between them.

pub mod buffers;
mod direction;
pub mod pipes;
pub mod relay;
pub mod spares;
pub mod stream;
