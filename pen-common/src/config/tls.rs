//! What a service that speaks TLS is asked for.

use std::path::PathBuf;

use super::ciphers::CipherList;
use super::words::words;

/// Longest time that a handshake may take, in seconds.
pub const TLS_TIMEOUT_MAX: u32 = 3600;

words! {
    /// Pen's `ssl_option`. What is older than TLS 1.2 is never spoken.
    SslOption {
        /// No SSL 2, as always.
        NoSslv2 = "no_sslv2",
        /// No SSL 3, as always.
        NoSslv3 = "no_sslv3",
        /// No TLS 1.0, as always.
        NoTlsv1 = "no_tlsv1",
        /// No TLS 1.1, as always.
        NoTlsv1_1 = "no_tlsv1.1",
        /// TLS 1.3 alone.
        NoTlsv1_2 = "no_tlsv1.2",
        /// TLS 1.2 alone.
        NoTlsv1_3 = "no_tlsv1.3",
        /// Our order of ciphers counts, as always, not the client's.
        CipherServerPreference = "cipher_server_preference",
    }
}

impl SslOption {
    /// Whether it asks for something that is not so anyway.
    pub const fn changes_something(self) -> bool {
        match self {
            Self::NoTlsv1_2 | Self::NoTlsv1_3 => true,
            Self::NoSslv2
            | Self::NoSslv3
            | Self::NoTlsv1
            | Self::NoTlsv1_1
            | Self::CipherServerPreference => false,
        }
    }
}

/// TLS in front of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// File with the certificate, its chain behind it (`-E`); with one clients must speak TLS.
    pub certificate: Option<PathBuf>,
    /// File with the certificate's key (`-K`); `None` if that is in the same file.
    pub key: Option<PathBuf>,
    /// Seconds that a handshake may take; at least 1.
    pub timeout: u32,
    /// In the order of their declaration, each once.
    pub options: Vec<SslOption>,
    /// Ciphers that are offered; `None` is all.
    pub ciphers: Option<CipherList>,
}

impl TlsOptions {
    /// Switches an option on.
    pub fn set(&mut self, option: SslOption) {
        if let Err(at) = self.options.binary_search(&option) {
            self.options.insert(at, option);
        }
    }

    /// Whether an option is on.
    pub fn has(&self, option: SslOption) -> bool {
        self.options.contains(&option)
    }
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            timeout: 10,
            options: Vec::new(),
            ciphers: None,
        }
    }
}
