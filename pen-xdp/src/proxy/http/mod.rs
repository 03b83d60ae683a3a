//! HTTP/1: the requests of a client go to servers one by one, over connections that are kept.
//!
//! hyper reads and writes messages, [`guard`] sees the bytes of clients before it does and lets
//! nothing through that two readers could take for different messages.

mod answers;
mod body;
mod forward;
mod guard;
mod head;
mod headers;
mod io;
mod kept;
mod pool;
#[cfg(test)]
mod readers;
mod redirect;
mod serve;
mod upgrade;

pub(super) use kept::close_oldest;
pub(super) use pool::close_all;
pub(super) use serve::serve;
