//! What a service agrees to with clients that speak TLS: versions, ciphers, certificates, tickets.
//!
//! All threads of a service share one value, and it stays as long as nothing of it is changed: who
//! has a ticket of it resumes on any thread. See [`super::resumption`] for what outlives changes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pen_common::config::{Cipher, ClientCertificate, Mode, SslOption, TlsOptions};
use pen_common::control::CertificatesStatus;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use super::certificate::CertificateError;
use super::clients::{Clients, ClientsError, Policy};
use super::in_flight::{InFlight, Turn};
use super::renewal::Watched;
use super::resumption::{Resumption, Scope};
use super::store::{Look, Store, warn};
use super::ticket_keys::TicketKeysError;
use crate::proxy::routes::Route;

/// Clients of TLS 1.3 use a ticket once, and the next connection brings the next one.
const TICKETS: usize = 1;

/// The best first: what also holds against a quantum computer, then what is quickest.
pub(super) const GROUPS: [&dyn SupportedKxGroup; 4] = [
    kx_group::X25519MLKEM768,
    kx_group::X25519,
    kx_group::SECP256R1,
    kx_group::SECP384R1,
];

/// Why a service can't speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// Its certificate can't be had.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Its clients' certificates can't be checked.
    #[error(transparent)]
    Clients(#[from] ClientsError),
    /// Its keys of tickets can't be had.
    #[error(transparent)]
    TicketKeys(#[from] TicketKeysError),
    /// rustls does not take what was put together.
    #[error("no TLS can be spoken: {0}")]
    Unusable(#[from] rustls::Error),
}

/// See the module.
#[derive(Debug)]
pub struct Terms {
    /// What it is made of.
    http: bool,
    options: TlsOptions,
    store: Arc<Store>,
    /// What clients' certificates are checked by, if they are asked for some.
    clients: Option<Arc<Clients>>,
    spoken: RwLock<Spoken>,
    in_flight: Arc<InFlight>,
}

/// What handshakes go by. Whoever resumes a session is known from it, and by nothing else: one that
/// began under another policy must not be resumed, so that the policy is in the scope of sessions.
#[derive(Clone, Debug)]
struct Spoken {
    policy: Option<Arc<Policy>>,
    resumption: Arc<Resumption>,
    config: Arc<ServerConfig>,
}

impl Terms {
    /// Whether a service can have them, and what is wrong with certificates of it that it can do
    /// without, a sentence each; reads all of them.
    ///
    /// # Errors
    /// It can't.
    pub fn check(mode: Mode, options: &TlsOptions) -> Result<Vec<String>, TermsError> {
        let Some(store) = Store::open(options)? else {
            return Ok(Vec::new());
        };
        store.check_keys()?;
        let mut troubles = store.troubles();
        let clients = Clients::open(options)?;
        let of_clients = clients.as_ref().and_then(Clients::trouble);
        troubles.extend(of_clients.map(|(_, why)| why));
        let policy = clients.map(|clients| clients.policy());
        let made = Made {
            http: mode == Mode::Http,
            options,
            store: &Arc::new(store),
        };
        made.spoken(policy, None)?;
        Ok(troubles)
    }

    /// Reads certificates and puts all together; `None` for a service that speaks no TLS. What was
    /// agreed `before` stays as far as it was made of the same.
    pub(super) fn make(
        route: &Route,
        before: Option<&Arc<Self>>,
    ) -> Result<Option<Arc<Self>>, TermsError> {
        let options = &route.options.tls;
        let http = route.mode == Mode::Http;
        let before = before.filter(|before| options.is_spoken() && before.http == http);
        if let Some(before) = before {
            if before.options == *options {
                return Ok(Some(Arc::clone(before)));
            }
            let (timeout, handshakes_max) = (before.options.timeout, before.options.handshakes_max);
            if before.options
                == (TlsOptions {
                    timeout,
                    handshakes_max,
                    ..options.clone()
                })
            {
                return Ok(Some(Arc::new(Self {
                    http,
                    options: options.clone(),
                    store: Arc::clone(&before.store),
                    clients: before.clients.clone(),
                    spoken: RwLock::new(before.spoken()),
                    in_flight: Arc::default(),
                })));
            }
        }
        let store = match before.filter(|before| before.store.is_of(options)) {
            Some(before) => Arc::clone(&before.store),
            None => match Store::open(options)? {
                Some(store) => {
                    warn(&store.troubles());
                    Arc::new(store)
                }
                None => return Ok(None),
            },
        };
        let clients = before.and_then(|before| before.clients.as_ref());
        let others = clients.map(AsRef::as_ref);
        let clients = match clients.filter(|clients| clients.is_of(options)) {
            Some(clients) => Some(Arc::clone(clients)),
            None => {
                let clients = Clients::open_after(options, others)?.map(Arc::new);
                if let Some((_, why)) = clients.as_ref().and_then(|clients| clients.trouble()) {
                    tracing::warn!("client certificates: {why}");
                }
                clients
            }
        };
        let policy = clients.as_ref().map(|clients| clients.policy());
        let made = Made {
            http,
            options,
            store: &store,
        };
        let spoken = made.spoken(policy, before.map(|before| before.spoken().resumption))?;
        Ok(Some(Arc::new(Self {
            http,
            options: options.clone(),
            store,
            clients,
            spoken: RwLock::new(spoken),
            in_flight: Arc::default(),
        })))
    }

    /// Whether what clients' certificates are checked by is another one than before.
    fn follow(&self, policy: Arc<Policy>) -> bool {
        let before = self.spoken();
        if (before.policy).is_some_and(|before| Arc::ptr_eq(&before, &policy)) {
            return false;
        }
        let made = Made {
            http: self.http,
            options: &self.options,
            store: &self.store,
        };
        match made.spoken(Some(policy), Some(before.resumption)) {
            Ok(spoken) => {
                *self.spoken.write().unwrap_or_else(PoisonError::into_inner) = spoken;
                tracing::info!("client certificates: authorities or revocations were read anew");
                true
            }
            Err(error) => {
                tracing::warn!("client certificates: what was read is not in force: {error}");
                false
            }
        }
    }

    /// Certificates, and what is wrong with files.
    pub(in crate::proxy) fn status(&self) -> CertificatesStatus {
        let of_clients = self.clients.as_ref().and_then(|clients| clients.trouble());
        let spoken = self.spoken();
        let tickets = spoken.resumption.file();
        let of_tickets =
            tickets.and_then(|file| Some((file.path().display().to_string(), file.trouble()?)));
        self.store.status(of_clients.into_iter().chain(of_tickets))
    }

    pub(in crate::proxy) fn store(&self) -> &Store {
        &self.store
    }

    /// Waits until a handshake of a client may begin; `None` if they take no turns.
    pub(super) async fn turn(&self, client: Option<IpAddr>) -> Option<Turn> {
        self.in_flight
            .turn(client, self.options.handshakes_max)
            .await
    }

    pub(in crate::proxy) fn config(&self) -> Arc<ServerConfig> {
        self.spoken().config
    }

    /// Whether clients are asked for certificates.
    pub(in crate::proxy) fn asked(&self) -> ClientCertificate {
        self.options.client_certificate
    }

    fn spoken(&self) -> Spoken {
        let spoken = self.spoken.read();
        spoken.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long a handshake may take, and wait for its turn.
    pub(in crate::proxy) fn timeout(&self) -> Duration {
        Duration::from_secs(self.options.timeout.into())
    }
}

impl Watched for Terms {
    /// Reads again what has changed, and goes by it.
    fn refresh(&self) -> Look {
        let mut look = self.store.refresh();
        if let Some(file) = self.spoken().resumption.file() {
            look.join(file.refresh());
        }
        if let Some(clients) = &self.clients {
            look.changed |= clients.refresh();
            look.changed |= self.follow(clients.policy());
        }
        look
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        let mut folders = self.store.folders();
        folders.extend(self.clients.iter().flat_map(|clients| clients.folders()));
        let spoken = self.spoken();
        let tickets = spoken.resumption.file().into_iter();
        folders.extend(tickets.flat_map(|file| file.folders()));
        folders
    }
}

/// What handshakes' parameters are made of.
struct Made<'a> {
    http: bool,
    options: &'a TlsOptions,
    store: &'a Arc<Store>,
}

impl Made<'_> {
    /// By a policy for clients' certificates; of sessions and keys of tickets `before` stays what is
    /// safe.
    ///
    /// # Errors
    /// The file of keys can't be used, or no cipher is left for a version.
    fn spoken(
        &self,
        policy: Option<Arc<Policy>>,
        before: Option<Arc<Resumption>>,
    ) -> Result<Spoken, TermsError> {
        let described = policy.as_ref().map(|policy| policy.description());
        let protocols = protocols(self.http);
        let clients = described.unwrap_or_default();
        let scope = Scope::of(self.http, &protocols, self.options, &clients);
        let keys = self.options.ticket_keys.as_deref();
        let resumption = Arc::new(Resumption::make(scope, keys, before.as_deref())?);
        let mut config = self.config(policy.as_deref())?;
        config.alpn_protocols = protocols;
        resumption.enter(&mut config, policy.is_some());
        Ok(Spoken {
            policy,
            resumption,
            config: Arc::new(config),
        })
    }

    /// # Errors
    /// No cipher is left for a version.
    fn config(&self, policy: Option<&Policy>) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: suites(self.options),
            kx_groups: GROUPS.to_vec(),
            ..default_provider()
        });
        let clients = match policy {
            Some(policy) => policy.verifier(&provider)?,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let certificates: Arc<dyn ResolvesServerCert> = Arc::clone(self.store) as _;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(self.options))?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(certificates);
        config.ignore_client_order = true;
        config.send_tls13_tickets = TICKETS;
        // What is sent before the handshake is over could be sent again by anybody.
        config.max_early_data_size = 0;
        Ok(config)
    }
}

/// What is spoken inside TLS (ALPN, RFC 7301).
pub(super) fn protocols(http: bool) -> Vec<Vec<u8>> {
    match http {
        true => vec![b"http/1.1".to_vec()],
        false => Vec::new(),
    }
}

fn versions(options: &TlsOptions) -> Vec<&'static SupportedProtocolVersion> {
    let both = [
        (&TLS13, SslOption::NoTlsv1_3),
        (&TLS12, SslOption::NoTlsv1_2),
    ];
    let left = both
        .into_iter()
        .filter(|(_, without)| !options.has(*without));
    left.map(|(version, _)| version).collect()
}

/// In the order of the list, or in ours; of versions that are spoken: rustls asks what a client and
/// we have together before it knows the version.
fn suites(options: &TlsOptions) -> Vec<SupportedCipherSuite> {
    let all: Vec<SupportedCipherSuite> = match &options.ciphers {
        Some(list) => {
            let both = list.tls13().iter().chain(list.tls12());
            both.map(|cipher| suite(*cipher)).collect()
        }
        None => Cipher::ALL.iter().map(|cipher| suite(*cipher)).collect(),
    };
    let versions = versions(options);
    let spoken = all
        .into_iter()
        .filter(|suite| versions.contains(&suite.version()));
    spoken.collect()
}

/// The cipher that is spoken, by OpenSSL's name.
pub(super) fn word(spoken: SupportedCipherSuite) -> Option<&'static str> {
    let mut all = Cipher::ALL.iter();
    let cipher = all.find(|cipher| suite(**cipher).suite() == spoken.suite());
    cipher.map(|cipher| cipher.word())
}

fn suite(cipher: Cipher) -> SupportedCipherSuite {
    match cipher {
        Cipher::Aes256Gcm => cipher_suite::TLS13_AES_256_GCM_SHA384,
        Cipher::Aes128Gcm => cipher_suite::TLS13_AES_128_GCM_SHA256,
        Cipher::Chacha20 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        Cipher::EcdsaAes256Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Cipher::EcdsaAes128Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Cipher::EcdsaChacha20 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        Cipher::RsaAes256Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        Cipher::RsaAes128Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        Cipher::RsaChacha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}
