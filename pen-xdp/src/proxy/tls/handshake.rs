//! The handshake: what a client over TLS begins with, before anything is done for it.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::IpAddr;

use tokio::time::timeout;

use super::stream::Encrypted;
use super::terms::Terms;

/// Why there is no connection over TLS.
#[derive(Debug)]
pub(in crate::proxy) enum Failed {
    /// The client speaks no TLS, or none that we do; it was told by an alert.
    Refused(String),
    /// It was not over in time.
    Late,
    /// The client left in the middle of it.
    Left,
    /// The client left without a byte, as somebody does who only looks whether we are there.
    Nothing,
    /// The connection broke.
    Broken(io::Error),
}

/// Waits for the client's turn and until the handshake is over, as long as the terms have it.
/// `address` is the client's; without one there is nobody to take turns with.
///
/// # Errors
/// It is not over.
pub(in crate::proxy) async fn shake_hands(
    client: &Encrypted,
    address: Option<IpAddr>,
    terms: &Terms,
) -> Result<(), Failed> {
    let over = timeout(terms.timeout(), async {
        let _turn = terms.turn(address).await;
        loop {
            poll_fn(|context| client.poll_readable(context)).await?;
            match client.shake_hands() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(Failed::of(error, client.has_heard())),
            }
        }
    });
    over.await.unwrap_or(Err(Failed::Late))
}

impl Failed {
    /// `heard`: something had come before.
    pub(super) fn of(error: io::Error, heard: bool) -> Self {
        let left = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
        if error.kind() == ErrorKind::InvalidData {
            Self::Refused(error.to_string())
        } else if !left.contains(&error.kind()) {
            Self::Broken(error)
        } else if heard {
            Self::Left
        } else {
            Self::Nothing
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Of our own configuration, which nobody but us can mend.
impl From<rustls::Error> for Failed {
    fn from(error: rustls::Error) -> Self {
        Self::Broken(io::Error::other(error))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Late => f.write_str("it was not over in time"),
            Self::Left => f.write_str("the client left in the middle of it"),
            Self::Nothing => f.write_str("the client left without a byte"),
            Self::Broken(error) => error.fmt(f),
        }
    }
}
