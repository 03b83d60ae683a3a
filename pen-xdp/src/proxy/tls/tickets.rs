//! Session tickets by keys that machines share: who got one from one machine resumes at another.
//!
//! A ticket is `name of the key (16) | salt (32) | AES-256-GCM of { time of issue (8) | session } and
//! its tag (16)`. The AEAD's key is derived from the file's by HKDF-SHA256 with the salt, anew for
//! each ticket. Three reasons for this rather than the layout of RFC 5077 section 4 (AES-CBC with
//! HMAC): there is no order of checking and decrypting to get wrong; what is bound to a ticket and
//! not in it, its [`Scope`], goes in as additional data; and as no key is used twice there is no
//! nonce to be kept apart over machines and restarts, however long a file is left as it is. Tickets
//! need not be read by other programs, only the file is shared.
//!
//! A ticket ends with its key, and twelve hours after its issue even if nobody ever changes the file.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::HKDF_SHA256;
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::held::stamp;
use super::resumption::Scope;
use super::store::{Look, around, now, warn};
use super::ticket_keys::{Key, Keys, NAME, TicketKeysError};

/// How long a ticket is good for, in seconds; as long as rustls's own.
const LIFETIME: u32 = 12 * 60 * 60;
/// How far clocks of machines may be apart, in seconds.
const SKEW: i64 = 300;
/// Longest ticket, in bytes. It comes back in a client's first message, and must leave room there.
const TICKET_MAX: usize = 16 << 10;
/// Makes a ticket's key its own.
const SALT: usize = 32;
/// Bytes of the time of issue, seconds since 1970.
const ISSUED: usize = 8;
/// What the keys are derived for.
const PURPOSE: &[u8] = b"pen ticket 1";

/// A file of keys, read again when it changes.
#[derive(Debug)]
pub(in crate::proxy) struct TicketFile {
    path: PathBuf,
    keys: RwLock<Arc<Keys>>,
    seen: Mutex<Seen>,
}

/// The file as it was last read.
#[derive(Debug)]
struct Seen {
    /// Taken before it was read.
    stamp: u64,
    /// Why it could not be used.
    trouble: Option<String>,
}

impl TicketFile {
    /// # Errors
    /// It can't be used.
    pub(super) fn open(path: &Path) -> Result<Self, TicketKeysError> {
        let stamp = stamp([path]);
        let keys = Keys::read(path)?;
        Ok(Self {
            path: path.to_owned(),
            keys: RwLock::new(Arc::new(keys)),
            seen: Mutex::new(Seen {
                stamp,
                trouble: None,
            }),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again if it is not what it was, or could not be used. What can't be used
    /// leaves the keys that were read before.
    pub(super) fn refresh(&self) -> Look {
        let mut seen = self.seen();
        let stamp = stamp([self.path.as_path()]);
        let mut changed = false;
        if stamp != seen.stamp || seen.trouble.is_some() {
            let before = seen.trouble.take();
            let other = stamp != seen.stamp;
            seen.stamp = stamp;
            match Keys::read(&self.path) {
                Ok(keys) => {
                    *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                    tracing::info!("ticket keys {}: read", self.path.display());
                    changed = true;
                }
                Err(error) => {
                    let why = format!("{error}; the keys that were read before still count");
                    if before.as_ref() != Some(&why) {
                        warn(std::slice::from_ref(&why));
                    }
                    seen.trouble = Some(why);
                    changed = other;
                }
            }
        }
        Look {
            changed,
            again: None,
        }
    }

    /// Every folder in which something happens when the file becomes another one.
    pub(super) fn folders(&self) -> BTreeSet<PathBuf> {
        around(&self.path)
    }

    /// Why the file can't be used as it is now.
    pub(super) fn trouble(&self) -> Option<String> {
        self.seen().trouble.clone()
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Issues and reads tickets by the keys of a file, for one scope.
#[derive(Debug)]
pub(super) struct Tickets {
    pub(super) file: Arc<TicketFile>,
    pub(super) scope: Scope,
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        seal(self.file.keys().writing(), &self.scope, session, now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        open(&self.file.keys(), &self.scope, ticket, now())
    }
}

/// `None` for a session that is too long for a ticket, or without random numbers: its client gets
/// none, and comes back with a whole handshake.
fn seal(key: &Key, scope: &Scope, session: &[u8], now: i64) -> Option<Vec<u8>> {
    let mut salt = [0; SALT];
    rand::fill(&mut salt).ok()?;
    let aead = one_time(key, &salt)?;
    let tag = AES_256_GCM.tag_len();
    // As large as it gets: a buffer that grows leaves copies behind.
    let mut sealed = Zeroizing::new(Vec::with_capacity(ISSUED + session.len() + tag));
    sealed.extend_from_slice(&now.to_be_bytes());
    sealed.extend_from_slice(session);
    let bound = bound(key.name(), scope);
    aead.seal_in_place_append_tag(nonce(), bound, &mut *sealed)
        .ok()?;
    let ticket = [key.name(), &salt[..], &sealed].concat();
    (ticket.len() <= TICKET_MAX).then_some(ticket)
}

/// `None` for everything that is no ticket of these keys and this scope which is still good.
fn open(keys: &Keys, scope: &Scope, ticket: &[u8], now: i64) -> Option<Vec<u8>> {
    if ticket.len() > TICKET_MAX {
        return None;
    }
    let (name, rest) = ticket.split_first_chunk::<NAME>()?;
    let (salt, sealed) = rest.split_first_chunk::<SALT>()?;
    let key = keys.find(name)?;
    let aead = one_time(key, salt)?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let opened = aead
        .open_in_place(nonce(), bound(name, scope), &mut sealed)
        .ok()?;
    let (issued, session) = opened.split_first_chunk::<ISSUED>()?;
    let age = now.checked_sub(i64::from_be_bytes(*issued))?;
    (-SKEW..i64::from(LIFETIME))
        .contains(&age)
        .then(|| session.to_vec())
}

/// The AEAD's key for the ticket of this salt.
fn one_time(key: &Key, salt: &[u8; SALT]) -> Option<LessSafeKey> {
    let mut bytes = Zeroizing::new([0; 32]);
    // Each has one length, so that nothing else can be put together to the same.
    let info = [PURPOSE, salt];
    let derived = key.secret().expand(&info, HKDF_SHA256).ok()?;
    derived.fill(&mut bytes[..]).ok()?;
    let unbound = UnboundKey::new(&AES_256_GCM, &bytes[..]).ok()?;
    Some(LessSafeKey::new(unbound))
}

/// Its key is used once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// What is bound to a ticket; the salt is by the key.
fn bound(name: &[u8; NAME], scope: &Scope) -> Aad<Vec<u8>> {
    Aad::from([&name[..], scope.bytes()].concat())
}
