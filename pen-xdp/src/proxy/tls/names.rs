//! Certificates by the names that clients ask for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::DnsName;

use super::held::Certificate;

/// Certificates of one name that handshakes choose from: there are kinds of keys, and one that has
/// expired beside its successor. Who puts thousands there must not have each handshake pay for it.
const CHOICES_MAX: usize = 8;

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
                // Under a name twice only by its file and by itself, one after the other.
                let known = place
                    .last()
                    .is_some_and(|(_, one)| Arc::ptr_eq(one, certificate));
                if !known {
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
            let place = place.into_iter().take(CHOICES_MAX);
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
        by_name(&self.certificates, name).map_or(&[], Vec::as_slice)
    }
}

/// What a table with names in lower case has for a name in any case: for this one, or else for all
/// with one label in place of its first one (`*.`).
pub(in crate::proxy) fn by_name<'a, T>(
    table: &'a HashMap<Box<str>, T>,
    name: &str,
) -> Option<&'a T> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let exact = table.get(name.as_str());
    let wide = || {
        let (_, rest) = name.split_once('.')?;
        table.get(format!("*.{rest}").as_str())
    };
    exact.or_else(wide)
}

/// Whether a client can ask for it, or for what it stands for.
fn is_name(text: &str) -> bool {
    let text = text.strip_prefix("*.").unwrap_or(text);
    DnsName::try_from(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tls::facts::KeyKind;
    use crate::proxy::tls::held::Certificate;

    fn certificate(names: &[&str], key: KeyKind, not_after: i64) -> Arc<Certificate> {
        Arc::new(Certificate::for_tests(names, key, not_after))
    }

    #[test]
    fn the_best_certificate_for_a_name_is_first() {
        let all = [
            ("a.test", certificate(&["a.test"], KeyKind::Rsa, 9)),
            ("x", certificate(&["a.test", "*.w.test"], KeyKind::Ecdsa, 5)),
            ("y", certificate(&["a.test", "x.w.test"], KeyKind::Ecdsa, 7)),
            ("a.test", certificate(&["a.test"], KeyKind::Ecdsa, 1)),
            ("not a name", certificate(&[], KeyKind::Ecdsa, 1)),
        ];
        let names = Names::of(all.iter().map(|(file, one)| (*file, one)));
        let order = |name: &str| -> Vec<usize> {
            let place = |one| all.iter().position(|(_, other)| Arc::ptr_eq(one, other));
            names.find(name).iter().filter_map(place).collect()
        };
        // By its file, then by its kind, then by its time.
        assert_eq!(order("a.test"), [3, 0, 2, 1]);
        assert_eq!(order("A.TEST."), [3, 0, 2, 1]);
        assert_eq!(order("x.w.test"), [2]);
        assert_eq!(order("y.w.test"), [1]);
        for name in [
            "z.y.w.test",
            "w.test",
            "*.test",
            "",
            ".",
            "not a name",
            "../a.test",
        ] {
            assert_eq!(order(name), [0; 0], "{name}");
        }
        assert_eq!(order("*.w.test"), [1], "which no client can ask for");
        assert_eq!(names.len(), 5);
    }

    #[test]
    fn of_many_certificates_for_a_name_a_few_are_chosen_from() {
        let one = |time| certificate(&["a.test"], KeyKind::Ecdsa, time);
        let many: Vec<_> = (0..100).map(one).collect();
        let names = Names::of(many.iter().map(|one| ("-", one)));
        let times: Vec<_> = names
            .find("a.test")
            .iter()
            .map(|one| one.facts().not_after)
            .collect();
        assert_eq!(times, [99, 98, 97, 96, 95, 94, 93, 92]);
    }
}
