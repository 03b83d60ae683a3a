//! Sessions of clients with certificates, which are good no longer than these.
//!
//! rustls resumes a session whatever has become of the client's certificate, which is in it. To refuse
//! who comes so is not enough: a client that has a new certificate and an old session would be refused
//! again and again. So such a session is not found, and a whole handshake follows.
//!
//! The certificate is read from what rustls writes of a session (0.23.46, `msgs/persist.rs`), which
//! it documents nowhere: what can't be read is not resumed, and the test goes through rustls itself.

use std::sync::Arc;

use rustls::server::{ProducesTickets, StoresServerSessions};

use super::facts::Facts;
use super::store::now;

/// What stores sessions or makes tickets of them, without sessions of certificates that have expired.
#[derive(Debug)]
pub(super) struct WhileValid<T: ?Sized>(pub(super) Arc<T>);

impl ProducesTickets for WhileValid<dyn ProducesTickets> {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher).filter(|one| is_good(one, now()))
    }
}

impl StoresServerSessions for WhileValid<dyn StoresServerSessions> {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).filter(|one| is_good(one, now()))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.take(key).filter(|one| is_good(one, now()))
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
}

/// Whether the client's certificate in a session is valid, or there is none.
fn is_good(session: &[u8], now: i64) -> bool {
    match certificate(session) {
        None => false,
        Some(None) => true,
        Some(Some(leaf)) => {
            Facts::of(leaf).is_ok_and(|facts| (facts.not_before..=facts.not_after).contains(&now))
        }
    }
}

/// The client's certificate in a session; `None` if that is not written as it should be.
fn certificate(session: &[u8]) -> Option<Option<&[u8]>> {
    // The name that was asked for, the version, the cipher, the secret, whether it is an extended
    // one: what is wanted comes behind them.
    let rest = match session.split_first()? {
        (0, rest) => rest,
        (_, rest) => counted::<1>(rest)?.1,
    };
    let (_, rest) = counted::<1>(rest.get(4..)?)?;
    match rest.get(1..)?.split_first()? {
        (0, _) => Some(None),
        (_, rest) => {
            let (chain, _) = counted::<3>(rest)?;
            let (leaf, _) = counted::<3>(chain)?;
            Some(Some(leaf))
        }
    }
}

/// What has its length in so many bytes before it (big-endian), and what follows.
fn counted<const BYTES: usize>(from: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = from.split_at_checked(BYTES)?;
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    rest.split_at_checked(length)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::sync::Mutex;

    use rustls::client::WebPkiServerVerifier;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::server::WebPkiClientVerifier;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::*;
    use crate::proxy::tls::ocsp::authority::{Authority, P256};

    /// Keeps what rustls writes of sessions.
    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<Vec<u8>>>);

    impl ProducesTickets for Kept {
        fn enabled(&self) -> bool {
            true
        }

        fn lifetime(&self) -> u32 {
            3600
        }

        fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
            self.0.lock().unwrap().push(plain.to_vec());
            Some(plain.to_vec())
        }

        fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
            Some(cipher.to_vec())
        }
    }

    /// The sessions of a handshake, as rustls writes them, with or without a client's certificate.
    fn sessions(authority: &Authority, version: bool, name: &str, known: bool) -> Vec<Vec<u8>> {
        let provider = Arc::new(default_provider());
        let versions = if version { [&TLS13] } else { [&TLS12] };
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate("ca")).unwrap();
        let roots = Arc::new(roots);
        let key = |name: &str| {
            PrivateKeyDer::from_pem_file(authority.file(&format!("{name}.key"))).unwrap()
        };
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .unwrap()
            .with_client_cert_verifier(builder.allow_unauthenticated().build().unwrap())
            .with_single_cert(authority.chain("server"), key("server"))
            .unwrap();
        let kept = Arc::new(Kept::default());
        server.ticketer = Arc::clone(&kept) as _;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .unwrap()
            .with_webpki_verifier(verifier.unwrap());
        let client = match known {
            true => client
                .with_client_auth_cert(authority.chain("client"), key("client"))
                .unwrap(),
            false => client.with_no_client_auth(),
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut wire = Vec::new();
        for _ in 0..4 {
            wire.clear();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut rest = &wire[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().unwrap();
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut rest = &wire[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        assert!(!server.is_handshaking());
        std::mem::take(&mut *kept.0.lock().unwrap())
    }

    #[test]
    fn a_session_is_good_as_long_as_its_certificate() {
        let authority = Authority::new("remembered", P256);
        authority.issue("server", "ca", "full");
        authority.issue("client", "ca", "plain");
        let leaf = authority.certificate("client");
        let facts = Facts::of(&leaf).unwrap();
        for version in [false, true] {
            // One that is sent as SNI, and one that is not.
            for name in ["www.pen.example", "192.0.2.1"] {
                for known in [false, true] {
                    let sessions = sessions(&authority, version, name, known);
                    assert!(!sessions.is_empty());
                    for session in sessions {
                        let expected = known.then_some(&*leaf);
                        assert_eq!(certificate(&session), Some(expected));
                        assert!(is_good(&session, facts.not_after));
                        assert_eq!(is_good(&session, facts.not_after + 1), !known);
                    }
                }
            }
        }
    }

    #[test]
    fn what_can_not_be_read_is_not_resumed() {
        for bytes in [
            &[][..],
            &[1],
            &[0; 6],
            &[1, 200, 0],
            &[0, 3, 4, 0x13, 1, 0, 1, 1, 9, 9, 9],
        ] {
            assert!(!is_good(bytes, 0), "{bytes:?}");
        }
        let anonymous = [0, 3, 4, 0x13, 1, 0, 1, 0];
        assert!(is_good(&anonymous, 0));
    }
}
