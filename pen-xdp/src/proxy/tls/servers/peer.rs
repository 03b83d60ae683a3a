//! One server as it is known over TLS: what it is called, its sessions, and what the last handshake
//! came to.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pen_common::control::HandshakeStatus;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::spoken::Spoken;
use crate::proxy::routes::{Place, Server};
use crate::proxy::tls::clients::Identity;
use crate::proxy::tls::facts::Facts;
use crate::proxy::tls::store::now;
use crate::proxy::tls::stream::Encrypted;

/// Names of a certificate that are shown; who is not verified may show thousands.
const NAMES_MAX: usize = 4;

/// How long sessions of a server go on: one that is resumed shows no certificate, and whether a new
/// one is good is to be known before the old one has expired.
const SESSIONS_LAST: Duration = Duration::from_secs(3600);

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) struct Peer {
    /// The host name that it was written by.
    host: Option<String>,
    place: Place,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By what handshakes go, with the sessions of this server alone: another one that has the same
    /// name knows nothing of them.
    /// Since when.
    config: Option<(Arc<Spoken>, Arc<ClientConfig>, Instant)>,
    last: Option<(Seen, Instant)>,
    /// Of the last handshake that did not fail: what it shows is worth knowing after one that did.
    shown: Option<Arc<Shown>>,
}

/// What a handshake came to.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    /// It was spoken, with this certificate.
    Spoken(&'static str, Arc<Shown>),
    /// It failed.
    Trouble(String),
}

/// A server's certificate.
#[derive(Debug)]
pub(super) struct Shown {
    /// In DER.
    certificate: Vec<u8>,
    subject: Option<String>,
    names: Vec<String>,
    not_after: Option<i64>,
}

impl Peer {
    pub(in crate::proxy) fn new(server: &Server) -> Self {
        Self {
            host: server.host.clone(),
            place: server.place.clone(),
            known: Mutex::default(),
        }
    }

    /// Whether it is still the same one.
    pub(in crate::proxy) fn is_of(&self, server: &Server) -> bool {
        self.host == server.host && self.place == server.place
    }

    /// What it is asked for and must have a certificate for: an address is asked for by nobody.
    ///
    /// # Errors
    /// It is called what no host can be.
    pub(super) fn name(&self, spoken: &Spoken) -> io::Result<ServerName<'static>> {
        let name = match (spoken.name.as_ref().or(self.host.as_ref()), &self.place) {
            (Some(name), _) => ServerName::try_from(name.clone()).map_err(|_| {
                let why = format!("{name:?} is no name to ask for: give one by `server_tls_name`");
                io::Error::new(io::ErrorKind::InvalidInput, why)
            })?,
            (None, Place::Tcp(address)) => ServerName::from(address.ip()),
            // Of those whose certificates are checked each has a name.
            (None, Place::Unix(_)) => ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        };
        Ok(name)
    }

    /// By what the next handshake goes. Sessions of a certificate that has expired by now are not
    /// resumed: nobody would look at it again.
    pub(super) fn config(&self, spoken: &Arc<Spoken>) -> Arc<ClientConfig> {
        let mut known = self.known();
        let is_stale = match &known.last {
            Some((Seen::Spoken(_, shown), _)) => shown.not_after.is_some_and(|end| end < now()),
            Some((Seen::Trouble(_), _)) => true,
            None => false,
        };
        match &known.config {
            Some((of, config, since))
                if Arc::ptr_eq(of, spoken) && !is_stale && since.elapsed() < SESSIONS_LAST =>
            {
                Arc::clone(config)
            }
            Some(_) | None => {
                let config = Arc::new(spoken.config());
                known.config = Some((Arc::clone(spoken), Arc::clone(&config), Instant::now()));
                config
            }
        }
    }

    /// What the last handshake came to.
    pub(super) fn last(&self) -> Option<Seen> {
        self.known().last.as_ref().map(|(seen, _)| seen.clone())
    }

    /// A handshake is over.
    pub(super) fn saw(&self, seen: Seen) {
        let mut known = self.known();
        if let Seen::Spoken(_, shown) = &seen {
            known.shown = Some(Arc::clone(shown));
        }
        known.last = Some((seen, Instant::now()));
    }

    /// For `status`; `None` if there was no handshake.
    pub(in crate::proxy) fn status(&self) -> Option<HandshakeStatus> {
        let (last, shown) = {
            let known = self.known();
            (known.last.clone(), known.shown.clone())
        };
        let (seen, at) = last?;
        let (version, trouble) = match seen {
            Seen::Spoken(version, _) => (Some(version.to_owned()), None),
            Seen::Trouble(why) => (None, Some(why)),
        };
        let shown = shown.as_deref();
        let not_after = shown.and_then(|shown| shown.not_after);
        Some(HandshakeStatus {
            age_s: at.elapsed().as_secs(),
            version,
            subject: shown.and_then(|shown| shown.subject.clone()),
            names: shown.map(|shown| shown.names.clone()).unwrap_or_default(),
            not_after,
            left_s: not_after.map(|end| end - now()),
            trouble,
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// After a handshake; `before` is what the one before came to, mostly the same.
    pub(super) fn of(server: &Encrypted, before: Option<Self>) -> Self {
        let certificate = server.certificate().unwrap_or_default();
        let version = server.version().unwrap_or("TLS");
        match before {
            Some(Self::Spoken(_, shown)) if shown.certificate == certificate => {
                Self::Spoken(version, shown)
            }
            Some(_) | None => Self::Spoken(version, Arc::new(Shown::of(certificate))),
        }
    }
}

impl Shown {
    fn of(certificate: Vec<u8>) -> Self {
        let identity = Identity::of(&certificate, false).ok();
        let facts = Facts::of(&certificate).ok();
        let names = facts.iter().flat_map(|facts| {
            let addresses = facts.addresses.iter().map(IpAddr::to_string);
            facts.names.iter().cloned().chain(addresses)
        });
        Self {
            subject: identity.and_then(|identity| identity.subject),
            names: names.take(NAMES_MAX).collect(),
            not_after: facts.as_ref().map(|facts| facts.not_after),
            certificate,
        }
    }
}
