//! What `status` shows of TLS to the servers of a service.

use serde::{Deserialize, Serialize};

use super::CertificateStatus;

/// TLS of a service to its servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerTlsStatus {
    /// File or folder with the authorities that count; `None` if servers are not verified.
    pub authorities: Option<String>,
    /// What servers get who ask for a certificate.
    pub certificate: Option<CertificateStatus>,
    /// What is wrong with files, a sentence.
    pub trouble: Option<String>,
}

/// What the last handshake with one server came to. Of its certificate it is told what the last
/// handshake showed that did not fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandshakeStatus {
    /// Seconds since it was over.
    pub age_s: u64,
    /// What was spoken: `TLSv1.3` or `TLSv1.2`; `None` if the handshake failed.
    pub version: Option<String>,
    /// Whose the server's certificate is, as RFC 4514 writes it; `None` if it says nothing.
    pub subject: Option<String>,
    /// The first of the host names that it is for, and then of the addresses.
    pub names: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub not_after: Option<i64>,
    /// Seconds until then; negative if it has expired.
    pub left_s: Option<i64>,
    /// Why the handshake failed.
    pub trouble: Option<String>,
}
