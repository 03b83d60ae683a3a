//! Services in proxy mode: the connection to the server is made for the client.

pub mod balance;
