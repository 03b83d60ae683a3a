//! Certificates by the names that clients ask for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::DnsName;

use super::held::Certificate;

/// Which certificates there are for which name; made once, then only read.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Lower case; a name with `*.` before it stands for all with one label there (RFC 9525 section
    /// 6.3). The best first.
    certificates: HashMap<Box<str>, Vec<Arc<Certificate>>>,
}

impl Names {
    /// A table of certificates, each with what its file is called.
    pub(super) fn of<'a>(all: impl Iterator<Item = (&'a str, &'a Arc<Certificate>)>) -> Self {
        let mut places: HashMap<Box<str>, Vec<(bool, &Arc<Certificate>)>> = HashMap::new();
        for (file, certificate) in all {
            let mut add = |name: &str, by_file: bool| {
                let place = places.entry(name.into()).or_default();
                if !place.iter().any(|(_, one)| Arc::ptr_eq(one, certificate)) {
                    place.push((by_file, certificate));
                }
            };
            // First, as what a file is called is its owner's word.
            if is_name(file) {
                add(file, true);
            }
            for name in &certificate.facts().names {
                add(name, false);
            }
        }
        let sorted = places.into_iter().map(|(name, mut place)| {
            place.sort_by_key(|(by_file, certificate)| {
                let facts = certificate.facts();
                (!by_file, facts.key, -facts.not_after)
            });
            let place = place.into_iter();
            (name, place.map(|(_, one)| Arc::clone(one)).collect())
        });
        Self {
            certificates: sorted.collect(),
        }
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.certificates.len()
    }

    /// The certificates for a name, in any case; none if it is not known.
    pub(super) fn find(&self, name: &str) -> &[Arc<Certificate>] {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let exact = self.certificates.get(name.as_str());
        let wide = || {
            let (_, rest) = name.split_once('.')?;
            self.certificates.get(format!("*.{rest}").as_str())
        };
        exact.or_else(wide).map_or(&[], Vec::as_slice)
    }
}

/// Whether a client can ask for it, or for what it stands for.
fn is_name(text: &str) -> bool {
    let text = text.strip_prefix("*.").unwrap_or(text);
    DnsName::try_from(text).is_ok()
}
