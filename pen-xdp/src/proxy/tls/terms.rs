//! What a service agrees to with clients that speak TLS: versions, ciphers, certificates, tickets.
//!
//! All threads of a service share one value, and it stays as long as nothing of it is changed: who
//! has a ticket of it resumes on any thread. See [`super::resumption`] for what outlives changes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pen_common::config::{Cipher, Mode, SslOption, TlsOptions};
use pen_common::control::CertificatesStatus;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::ResolvesServerCert;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use super::certificate::CertificateError;
use super::in_flight::{InFlight, Turn};
use super::renewal::Watched;
use super::resumption::{Resumption, Scope};
use super::store::{Store, warn};
use super::ticket_keys::TicketKeysError;
use crate::proxy::routes::{Route, Routes};

/// Clients of TLS 1.3 use a ticket once, and the next connection brings the next one.
const TICKETS: usize = 1;
/// What is asked of clients' certificates, for the scope of sessions.
const NO_CLIENT_CERTIFICATES: &[u8] = b"";

/// The best first: what also holds against a quantum computer, then what is quickest.
const GROUPS: [&dyn SupportedKxGroup; 4] = [
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
    /// The keys of its tickets can't be had.
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
    resumption: Arc<Resumption>,
    config: Arc<ServerConfig>,
    in_flight: Arc<InFlight>,
}

/// The terms of all services, in the order of the routes that they were made for.
#[derive(Debug)]
pub struct Agreed(pub(in crate::proxy) Vec<Option<Arc<Terms>>>);

impl Agreed {
    /// Makes terms for all routes that want some; those `before` that were made of the same stay.
    ///
    /// # Errors
    /// Names the first service that can't have some, and what mends it.
    pub(in crate::proxy) fn make(
        routes: &Routes,
        before: &[Option<Arc<Terms>>],
    ) -> anyhow::Result<Self> {
        let mut terms = Vec::new();
        for (at, route) in routes.iter().enumerate() {
            let before = before.get(at).and_then(Option::as_ref);
            let made = Terms::make(route, before);
            let named =
                |error| anyhow::Error::new(error).context(format!("service {:?}", route.service));
            terms.push(made.map_err(named)?);
        }
        Ok(Self(terms))
    }

    /// The files of all of them.
    pub(in crate::proxy) fn watched(&self) -> Vec<Watched> {
        let each = self.0.iter().flatten().flat_map(|terms| {
            let tickets = terms.resumption.file().cloned();
            let certificates = Watched::Certificates(Arc::clone(&terms.store));
            std::iter::once(certificates).chain(tickets.map(Watched::Tickets))
        });
        each.collect()
    }
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
        let troubles = store.troubles();
        let http = mode == Mode::Http;
        let resumption = resumption(http, options, None)?;
        config(http, options, Arc::new(store), &resumption)?;
        Ok(troubles)
    }

    /// Reads certificates and puts all together; `None` for a service that speaks no TLS. What was
    /// agreed `before` stays as far as it was made of the same.
    fn make(route: &Route, before: Option<&Arc<Self>>) -> Result<Option<Arc<Self>>, TermsError> {
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
                    resumption: Arc::clone(&before.resumption),
                    config: Arc::clone(&before.config),
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
        let resumption = resumption(http, options, before.map(|before| &*before.resumption))?;
        let certificates: Arc<Store> = Arc::clone(&store);
        let config = config(http, options, certificates, &resumption)?;
        Ok(Some(Arc::new(Self {
            http,
            options: options.clone(),
            store,
            resumption: Arc::new(resumption),
            config: Arc::new(config),
            in_flight: Arc::default(),
        })))
    }

    pub(in crate::proxy) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    pub(in crate::proxy) fn store(&self) -> &Store {
        &self.store
    }

    /// What is to be known of its files.
    pub(in crate::proxy) fn status(&self) -> CertificatesStatus {
        let tickets = self.resumption.file();
        let beside =
            tickets.and_then(|file| Some((file.path().display().to_string(), file.trouble()?)));
        self.store.status(beside)
    }

    /// Waits until a handshake of a client may begin; `None` if they take no turns.
    pub(super) async fn turn(&self, client: IpAddr) -> Option<Turn> {
        match self.options.handshakes_max {
            0 => None,
            max => Some(self.in_flight.enter(client, max).await),
        }
    }

    /// How long a handshake may take, and wait for its turn.
    pub(in crate::proxy) fn timeout(&self) -> Duration {
        Duration::from_secs(self.options.timeout.into())
    }
}

/// # Errors
/// The file of keys can't be used.
fn resumption(
    http: bool,
    options: &TlsOptions,
    before: Option<&Resumption>,
) -> Result<Resumption, TermsError> {
    let scope = Scope::of(http, &protocols(http), options, NO_CLIENT_CERTIFICATES);
    Resumption::make(scope, options.ticket_keys.as_deref(), before)
}

/// What is spoken inside TLS (ALPN, RFC 7301).
fn protocols(http: bool) -> Vec<Vec<u8>> {
    match http {
        true => vec![b"http/1.1".to_vec()],
        false => Vec::new(),
    }
}

/// # Errors
/// No cipher is left for a version.
fn config(
    http: bool,
    options: &TlsOptions,
    certificates: Arc<dyn ResolvesServerCert>,
    resumption: &Resumption,
) -> Result<ServerConfig, rustls::Error> {
    let provider = CryptoProvider {
        cipher_suites: suites(options),
        kx_groups: GROUPS.to_vec(),
        ..default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions(options))?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.ignore_client_order = true;
    resumption.enter(&mut config);
    config.send_tls13_tickets = TICKETS;
    // What is sent before the handshake is over could be sent again by anybody.
    config.max_early_data_size = 0;
    config.alpn_protocols = protocols(http);
    Ok(config)
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

/// In the order of the list, or in ours.
fn suites(options: &TlsOptions) -> Vec<SupportedCipherSuite> {
    match &options.ciphers {
        Some(list) => {
            let both = list.tls13().iter().chain(list.tls12());
            both.map(|cipher| suite(*cipher)).collect()
        }
        None => Cipher::ALL.iter().map(|cipher| suite(*cipher)).collect(),
    }
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
