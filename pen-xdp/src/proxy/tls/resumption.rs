//! How clients come back without a whole handshake, and who may not.
//!
//! Two things keep a session from being taken where it does not belong. rustls writes the name that
//! the client asked for (SNI) into it and takes it for no other (RFC 6066 section 3; for TLS 1.2 and
//! 1.3 by tickets and by session ids, as of 0.23.46 `server/hs.rs`, `can_resume`). That is not enough
//! for who asks for no name, nor where two services share keys: a resumed session shows no
//! certificate, so a client that was led to the other service would take it for the one that it
//! knows. So a session belongs to a [`Scope`] as well.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use pen_common::config::TlsOptions;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};

use super::remembered::WhileValid;
use super::terms::TermsError;
use super::tickets::{TicketFile, Tickets};

/// Sessions of TLS 1.2 that are kept for clients without tickets.
const SESSIONS_MAX: usize = 4096;

/// Where sessions are good: a digest of what a client relies on that comes back.
///
/// It is the same on every machine where a service is configured alike, whatever it is called and
/// wherever it listens: protocols spoken inside TLS, what is asked of clients' certificates, and the
/// places of our own certificates. Those are taken by their paths, not by what is in the files, as
/// a renewed certificate is no other service. Two services that get their certificates from
/// different places don't share sessions; two that are alike in all of it do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope([u8; SHA256_OUTPUT_LEN]);

impl Scope {
    /// `protocols` are those of ALPN, `clients` says what is asked of clients' certificates, in
    /// whatever form, but the same for the same.
    pub(super) fn of(
        http: bool,
        protocols: &[Vec<u8>],
        options: &TlsOptions,
        clients: &[u8],
    ) -> Self {
        let mut digest = Context::new(&SHA256);
        // With its length, so that nothing can pass for two other things.
        let mut add = |part: &[u8]| {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        };
        add(b"pen scope 1");
        add(if http { b"http" } else { b"tcp" });
        add(&(protocols.len() as u64).to_be_bytes());
        protocols.iter().for_each(|protocol| add(protocol));
        for place in [&options.certificate, &options.directory] {
            let path = place.as_deref().map(Path::as_os_str);
            add(&[u8::from(path.is_some())]);
            add(path.map_or(&[], OsStrExt::as_bytes));
        }
        add(clients);
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest.finish().as_ref());
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Resumption {
    scope: Scope,
    /// Where the keys of tickets are from; `None` if they are random.
    file: Option<Arc<TicketFile>>,
    tickets: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Resumption {
    /// What was kept `before` stays where it is safe: for the same scope. Keys of a file stay in any
    /// case, as tickets carry their scope.
    ///
    /// # Errors
    /// The file of keys can't be used, or there are no random numbers.
    pub(super) fn make(
        scope: Scope,
        keys: Option<&Path>,
        before: Option<&Self>,
    ) -> Result<Self, TermsError> {
        let alike = before.filter(|before| before.scope == scope);
        let sessions = alike.map_or_else(
            || ServerSessionMemoryCache::new(SESSIONS_MAX) as Arc<dyn StoresServerSessions>,
            |before| Arc::clone(&before.sessions),
        );
        let Some(path) = keys else {
            let random = alike.filter(|before| before.file.is_none());
            let tickets = match random {
                Some(before) => Arc::clone(&before.tickets),
                None => Ticketer::new()?,
            };
            return Ok(Self {
                scope,
                file: None,
                tickets,
                sessions,
            });
        };
        let known = before.and_then(|before| before.file.as_ref());
        let file = match known.filter(|file| file.path() == path) {
            Some(file) => Arc::clone(file),
            None => Arc::new(TicketFile::open(path)?),
        };
        let tickets = Arc::new(Tickets {
            file: Arc::clone(&file),
            scope: scope.clone(),
        });
        Ok(Self {
            scope,
            file: Some(file),
            tickets,
            sessions,
        })
    }

    /// Has a configuration go by it; `asked`: clients are asked for certificates.
    pub(super) fn enter(&self, config: &mut ServerConfig, asked: bool) {
        config.ticketer = Arc::clone(&self.tickets);
        config.session_storage = Arc::clone(&self.sessions);
        if asked {
            config.ticketer = Arc::new(WhileValid(Arc::clone(&self.tickets)));
            config.session_storage = Arc::new(WhileValid(Arc::clone(&self.sessions)));
        }
    }

    /// The file of keys, if there is one.
    pub(super) fn file(&self) -> Option<&Arc<TicketFile>> {
        self.file.as_ref()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    fn options(certificate: Option<&str>, directory: Option<&str>) -> TlsOptions {
        TlsOptions {
            certificate: certificate.map(Into::into),
            directory: directory.map(Into::into),
            ..TlsOptions::default()
        }
    }

    #[test]
    fn a_scope_is_another_where_a_client_would_meet_something_else() {
        let (a, b) = (options(Some("/a"), None), options(Some("/b"), None));
        let (folder, both) = (options(None, Some("/a")), options(Some("/a"), Some("/a")));
        let empty = options(Some("/a"), Some(""));
        let h1 = [b"http/1.1".to_vec()];
        let halves = [b"http".to_vec(), b"/1.1".to_vec()];
        let scopes = [
            Scope::of(false, &[], &a, b""),
            Scope::of(true, &[], &a, b""),
            Scope::of(true, &h1, &a, b""),
            Scope::of(true, &halves, &a, b""),
            Scope::of(false, &[], &b, b""),
            Scope::of(false, &[], &folder, b""),
            Scope::of(false, &[], &both, b""),
            Scope::of(false, &[], &empty, b""),
            Scope::of(false, &[], &a, b"required"),
            Scope::of(false, &[], &a, b"optional"),
        ];
        for (at, one) in scopes.iter().enumerate() {
            assert!(!scopes[..at].contains(one), "{at}");
        }
        // What a client that resumes does not rely on.
        let other = TlsOptions {
            timeout: 3,
            key: Some("/k".into()),
            chain: Some("/c".into()),
            ciphers: Some("HIGH".parse().unwrap()),
            ticket_keys: Some("/t".into()),
            ..a
        };
        assert_eq!(Scope::of(false, &[], &other, b""), scopes[0]);
    }

    #[test]
    fn random_keys_stay_for_the_same_scope_alone() {
        let scope = |clients: &[u8]| Scope::of(false, &[], &TlsOptions::default(), clients);
        let first = Resumption::make(scope(b""), None, None).unwrap();
        let ticket = first.tickets.encrypt(b"session").unwrap();
        first.sessions.put(b"id".to_vec(), b"session".to_vec());
        for (clients, stays) in [(&b""[..], true), (b"required", false)] {
            let next = Resumption::make(scope(clients), None, Some(&first)).unwrap();
            // rustls reads no ticket longer than any that it has issued.
            next.tickets.encrypt(b"session").unwrap();
            assert_eq!(next.tickets.decrypt(&ticket).is_some(), stays);
            assert_eq!(next.sessions.get(b"id").is_some(), stays);
        }
    }
}
