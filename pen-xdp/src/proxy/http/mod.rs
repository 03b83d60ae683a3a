//! HTTP/1: the requests of a client go to servers one by one, over connections that are kept.
//!
//! A head is read once ([`head`]) and written anew ([`headers`]), a body is passed on as it comes
//! ([`transfer`]), and one task does all of it for a client's connection ([`serve`]).

mod alarm;
mod answers;
mod chunks;
mod client;
mod date;
mod exchange;
mod fields;
mod forward;
mod head;
mod headers;
mod kept;
mod pending;
mod pool;
#[cfg(test)]
mod readers;
mod redirect;
mod serve;
mod transfer;
mod upgrade;

pub(super) use kept::close_oldest;
pub(super) use pool::close_all;
pub(super) use serve::serve;
