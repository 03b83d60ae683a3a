//! What is in force: by it certificates are checked and sessions are kept apart.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use pen_common::config::ClientCertificate;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::authorities;
use super::folder::Folder;
use super::{ClientsError, Sources};
use crate::proxy::tls::certificate::{CertificateError, read_within};

/// Longest file of lists that is read, in bytes: each revoked certificate takes some forty of them,
/// and large authorities revoke some hundred thousand.
pub(super) const LISTS_MAX: u64 = 32 << 20;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::proxy::tls) struct Policy {
    asked: ClientCertificate,
    /// In DER.
    authorities: BTreeSet<Vec<u8>>,
    /// Lists in DER.
    revoked: BTreeSet<Vec<u8>>,
}

impl Policy {
    /// With the folder of authorities as it is now; `before` is as it was.
    ///
    /// # Errors
    /// A file can't be used, or there is no authority in any.
    pub(super) fn read(sources: &Sources, before: &Folder) -> Result<(Self, Folder), ClientsError> {
        let (authorities, folder) = authorities::read(sources, before)?;
        let policy = Self {
            asked: sources.asked,
            authorities,
            revoked: match &sources.revoked {
                Some(path) => revocations(path)?,
                None => BTreeSet::new(),
            },
        };
        // What rustls does not take is told with its file, and not when a client comes.
        if let Some(path) = &sources.revoked {
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            let tried = policy.verifier(&Arc::new(provider));
            tried.map_err(|error| ClientsError::Revocations {
                path: path.clone(),
                why: error.to_string(),
            })?;
        }
        Ok((policy, folder))
    }

    /// What checks certificates. Whose status no list tells is refused where there are lists, all
    /// the way up to the authority (rustls's defaults); a list that is out of date still counts.
    ///
    /// # Errors
    /// rustls can't go by a list.
    pub(in crate::proxy::tls) fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots.add(CertificateDer::from_slice(authority))?;
        }
        let lists = self.revoked.iter().cloned();
        let mut builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .with_crls(lists.map(CertificateRevocationListDer::from));
        if self.asked == ClientCertificate::Optional {
            builder = builder.allow_unauthenticated();
        }
        let built = builder.build();
        built.map_err(|error| rustls::Error::General(error.to_string()))
    }

    /// All of it as bytes, the same on every machine that has the same, to be a part of what a
    /// ticket's key is bound to: a session that began under one policy is none under another. Each
    /// part has its length (eight bytes, big-endian) before it, so that no two policies are alike.
    pub(in crate::proxy::tls) fn description(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |part: &[u8]| {
            out.extend((part.len() as u64).to_be_bytes());
            out.extend(part);
        };
        put(self.asked.word().as_bytes());
        put(&(self.authorities.len() as u64).to_be_bytes());
        self.authorities.iter().for_each(|one| put(one));
        self.revoked.iter().for_each(|one| put(one));
        out
    }
}

fn revocations(path: &Path) -> Result<BTreeSet<Vec<u8>>, ClientsError> {
    let bytes = read_within(path, LISTS_MAX);
    if let Err(CertificateError::TooLong(path)) = bytes {
        return Err(ClientsError::TooLong(path));
    }
    let bytes = bytes?;
    let lists: Result<BTreeSet<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .map(|list| list.map(|list| list.to_vec()))
        .collect();
    let lists = lists.map_err(|error| CertificateError::Unusable {
        path: path.to_owned(),
        why: error.to_string(),
    })?;
    match lists.is_empty() {
        true => Err(ClientsError::NoRevocations(path.to_owned())),
        false => Ok(lists),
    }
}
