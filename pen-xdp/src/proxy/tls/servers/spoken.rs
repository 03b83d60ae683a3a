//! What connections to servers go by, and how one begins.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pen_common::config::ServerTlsOptions;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use tokio::time::timeout;

use super::Read;
use super::authorities::Source;
use super::peer::{Peer, Seen};
use super::trouble::words;
use super::verifier::Verifier;
use crate::proxy::connect::is_ours;
use crate::proxy::stream::Stream;
use crate::proxy::tls::stream::Encrypted;
use crate::proxy::tls::terms::{GROUPS, protocols};

/// Sessions that are kept for each server: TLS 1.3 uses each once.
const SESSIONS: usize = 8;

/// One state of a service's [`super::Demands`]: another one when a file has changed. Connections that wait
/// are of one, and so are sessions.
#[derive(Debug)]
pub(in crate::proxy) struct Spoken {
    config: ClientConfig,
    /// The name that all servers have, if they have one.
    pub(super) name: Option<String>,
    /// Where authorities come from, for people.
    authorities: String,
}

impl Spoken {
    /// # Errors
    /// rustls does not take what was read.
    pub(super) fn new(
        http: bool,
        options: &ServerTlsOptions,
        read: &Read,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(CryptoProvider {
            kx_groups: GROUPS.to_vec(),
            ..default_provider()
        });
        let verifier = Verifier::new(read.authorities.as_ref(), &provider)?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &read.shown {
            Some((key, _)) => {
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())))
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = protocols(http);
        let source = Source::of(options.authorities.as_deref());
        Ok(Self {
            config,
            name: options.name.clone(),
            authorities: source.path().display().to_string(),
        })
    }

    /// For one server, none of whose sessions are known.
    pub(super) fn config(&self) -> ClientConfig {
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config
    }

    /// Begins to speak TLS with a server, which is to be done within `limit`.
    ///
    /// # Errors
    /// Why it can't be spoken to, in words; the server shows it, too. What this host lacks is told
    /// as the kernel says it.
    pub(in crate::proxy) async fn secure(
        self: &Arc<Self>,
        below: Stream,
        peer: &Peer,
        limit: Duration,
    ) -> io::Result<Stream> {
        let begun = peer.name(self).and_then(|name| {
            let stream = Encrypted::to_server(below, peer.config(self), name);
            stream.map_err(io::Error::other)
        });
        let shaken = match begun {
            Ok(stream) => {
                let over = timeout(limit, shake_hands(&stream)).await;
                let over = over.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                over.map(|()| stream)
            }
            Err(error) => Err(error),
        };
        match shaken {
            Ok(stream) => {
                peer.saw(Seen::of(&stream, peer.last()));
                Ok(Stream::Tls(Box::new(stream)))
            }
            Err(error) if is_ours(&error) => Err(error),
            Err(error) => {
                let why = words(&error, &self.authorities);
                let told = format!("no TLS with it: {why}");
                peer.saw(Seen::Trouble(why));
                Err(io::Error::new(error.kind(), told))
            }
        }
    }
}

/// What we have to say goes out whenever it is waited.
async fn shake_hands(server: &Encrypted) -> io::Result<()> {
    loop {
        poll_fn(|context| server.poll_readable(context)).await?;
        if server.shake_hands()? {
            return Ok(());
        }
    }
}
