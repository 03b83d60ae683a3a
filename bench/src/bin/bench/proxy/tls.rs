//! TLS for the loads: certificates for the proxies, and clients of our own that say whether a
//! handshake was a full one.
//!
//! Clients ask for X25519 first, and the proxies offer AES-256-GCM first, so that all do the same; an
//! exchange with ML-KEM, which Pen offers and older proxies do not, would cost Pen more. P-256 is
//! there for the keys of certificates, and for Debian's pen, which exchanges by nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use lab::Namespace;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use serde::{Deserialize, Serialize};

use super::client::{self, Wire};

/// The name that clients ask for.
pub(super) const NAME: &str = "bench.test";
const KINDS: [(&str, &[&str]); 2] = [
    ("ecdsa", &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ("rsa", &["rsa:2048"]),
];

/// How a client speaks TLS, if it does.
#[derive(Args, Debug, Clone)]
pub(crate) struct Options {
    /// Speak TLS with a server that has a certificate of this authority
    #[arg(long)]
    ca: Option<PathBuf>,
    /// No TLS 1.3
    #[arg(long)]
    tls12: bool,
    /// Each connection but the first of a thread resumes the session of the one before
    #[arg(long)]
    resume: bool,
}

/// Connections with a handshake each, and one answer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Shaken {
    pub(crate) connections: u64,
    pub(crate) seconds: f64,
}

/// Makes an authority and certificates of each kind in a folder: `ca.pem`, `ecdsa.pem` and `rsa.pem`
/// for the name that clients ask for, `ecdsa-other.pem` and `rsa-other.pem` for another one, with
/// their keys.
///
/// # Errors
/// openssl is not there, or failed.
pub(crate) fn make_certificates(machine: &Namespace, folder: &Path) -> Result<()> {
    // RSA's authority is ECDSA's, so that clients have the same to check.
    let script = format!(
        "cd \"$0\" && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
         -keyout ca.key -out ca.pem -subj /CN=bench -days 30 && \
         echo subjectAltName=DNS:{NAME} >names && echo subjectAltName=DNS:other.test >other"
    );
    machine.run_ok("sh", ["-c", &script, &folder.display().to_string()])?;
    for (kind, key) in KINDS {
        let script = format!(
            "cd \"$0\" && openssl req -newkey {} -nodes -keyout {kind}.key -out {kind}.csr \
             -subj /CN={NAME} && openssl x509 -req -in {kind}.csr -CA ca.pem -CAkey ca.key \
             -CAcreateserial -days 30 -extfile names -out {kind}.crt && \
             cat {kind}.crt {kind}.key >{kind}.pem && \
             openssl x509 -req -in {kind}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
             -extfile other -out {kind}-other.crt && \
             cat {kind}-other.crt {kind}.key >{kind}-other.pem",
            key.join(" ")
        );
        machine.run_ok("sh", ["-c", &script, &folder.display().to_string()])?;
    }
    Ok(())
}

impl Options {
    /// What speaks as it is asked for; `None` for clear TCP.
    pub(super) fn config(&self) -> Result<Option<Arc<ClientConfig>>> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
            ..default_provider()
        });
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).with_context(|| ca.display().to_string())?)?;
        let builder =
            WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let versions = if self.tls12 { [&TLS12] } else { [&TLS13] };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_webpki_verifier(builder.build()?)
            .with_no_client_auth();
        config.resumption = match self.resume {
            true => Resumption::in_memory_sessions(4),
            false => Resumption::disabled(),
        };
        Ok(Some(Arc::new(config)))
    }
}

/// A stream over TLS whose handshake is over.
pub(super) fn over(
    config: &Arc<ClientConfig>,
    mut below: TcpStream,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from(NAME)?;
    let mut tls = ClientConnection::new(Arc::clone(config), name)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut below).context("the handshake")?;
    }
    Ok(StreamOwned::new(tls, below))
}

impl Wire for StreamOwned<ClientConnection, TcpStream> {}

/// Opens connections one after the other, as many at a time as are wanted, and prints [`Shaken`].
pub(crate) fn handshakes(options: &client::Options) -> Result<()> {
    let start = Instant::now();
    let end = start + Duration::from_millis(options.milliseconds);
    let threads = (0..options.connections).map(|_| {
        let options = options.clone();
        thread::spawn(move || shake_until(&options, end))
    });
    let mut connections = 0;
    for thread in threads.collect::<Vec<_>>() {
        connections += thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    let seconds = start.elapsed().as_secs_f64();
    let shaken = Shaken {
        connections,
        seconds,
    };
    println!("{}", serde_json::to_string(&shaken)?);
    Ok(())
}

fn shake_until(options: &client::Options, end: Instant) -> Result<u64> {
    let config = options
        .tls
        .config()?
        .context("handshakes are of TLS: --ca")?;
    let expected: &[_] = match options.tls.resume {
        true => &[HandshakeKind::Resumed],
        false => &[
            HandshakeKind::Full,
            HandshakeKind::FullWithHelloRetryRequest,
        ],
    };
    let mut done = 0;
    while Instant::now() < end {
        let mut stream = over(&config, client::connect(options)?)?;
        let kind = stream.conn.handshake_kind();
        ensure!(
            kind.is_some_and(|kind| expected.contains(&kind)) || (done == 0 && options.tls.resume),
            "connection {done} of a thread had another handshake than wanted: {kind:?}"
        );
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench.test\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        // Debian's pen ends the connection before TLS is told of it.
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                return Err(error).context("waiting for an answer");
            }
            Ok(_) | Err(_) => ensure!(client::is_whole(&answer), "half an answer"),
        }
        done += 1;
    }
    Ok(done)
}
