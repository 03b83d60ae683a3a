//! RSA keys that are taken on trust, and checked soon after.
//!
//! Whether the numbers of a key belong together (RFC 8017, section 3.2) takes some divisions of long
//! numbers in constant time, 0.2 milliseconds, which is nine tenths of reading a certificate: with
//! 10,000 of them in a folder a start would take seconds. That it is the certificate's key is known
//! without: the public half stands in it as well.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::SignatureAlgorithm;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use x509_parser::asn1_rs::{Any, FromDer, Tag};
use x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
use zeroize::Zeroize;

/// Octets of a modulus that can be used: 2048 to 8192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;
/// Numbers of a key with two primes, its version among them (RFC 8017, appendix A.1.2).
const NUMBERS: usize = 9;

/// See the module. Whoever is first to sign with it checks it, if nobody did before.
pub(super) struct Unchecked {
    /// Until it is checked; wiped then.
    key: Mutex<Option<PrivateKeyDer<'static>>>,
    /// `None` if it is no key.
    checked: OnceLock<Option<Arc<dyn SigningKey>>>,
}

impl Unchecked {
    /// The key of the certificate with this SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// It has to be looked at now, by who says what is wrong with it, or it is of another kind. It is
    /// given back.
    pub(super) fn new(
        key: PrivateKeyDer<'static>,
        public: &[u8],
    ) -> Result<Self, PrivateKeyDer<'static>> {
        let belongs = public_half(&key)
            .zip(of_certificate(public))
            .is_some_and(|(own, certified)| own == certified && is_usual(own[0]));
        match belongs {
            true => Ok(Self {
                key: Mutex::new(Some(key)),
                checked: OnceLock::new(),
            }),
            false => Err(key),
        }
    }

    /// Whether it is known to be a key.
    pub(super) fn is_sound(&self) -> bool {
        matches!(self.checked.get(), Some(Some(_)))
    }

    /// Checks it, if that is not done yet; whether it is a key.
    pub(super) fn check(&self) -> bool {
        self.signing().is_some()
    }

    fn signing(&self) -> Option<&Arc<dyn SigningKey>> {
        let check = || {
            let mut key = self.take()?;
            let signing = any_supported_type(&key);
            // What signs has a copy of its own, which its library wipes.
            key.zeroize();
            signing.ok()
        };
        self.checked.get_or_init(check).as_ref()
    }

    fn take(&self) -> Option<PrivateKeyDer<'static>> {
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        key.take()
    }
}

impl Drop for Unchecked {
    fn drop(&mut self) {
        if let Some(mut key) = self.take() {
            key.zeroize();
        }
    }
}

impl SigningKey for Unchecked {
    fn choose_scheme(&self, offered: &[rustls::SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.signing()?.choose_scheme(offered)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.signing()?.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::RSA
    }
}

impl fmt::Debug for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unchecked")
            .field("is_sound", &self.is_sound())
            .finish_non_exhaustive()
    }
}

/// Modulus and exponent, as they are written.
type PublicHalf<'a> = [&'a [u8]; 2];

/// Of a private key of RSA with two primes, if it is written as it has to be.
fn public_half<'a>(key: &'a PrivateKeyDer<'_>) -> Option<PublicHalf<'a>> {
    let whole = match key {
        PrivateKeyDer::Pkcs1(key) => key.secret_pkcs1_der(),
        PrivateKeyDer::Pkcs8(key) => in_pkcs8(key.secret_pkcs8_der())?,
        PrivateKeyDer::Sec1(_) | _ => return None,
    };
    let numbers = parts(sequence(whole)?)?;
    let all = numbers.len() == NUMBERS && numbers.iter().all(|part| part.tag() == Tag::Integer);
    let first = numbers.first().filter(|_| all)?;
    (first.data == [0]).then(|| [numbers[1].data, numbers[2].data])
}

/// The key of RSA in what is written around keys of all kinds (RFC 5958, section 2).
fn in_pkcs8(whole: &[u8]) -> Option<&[u8]> {
    let whole = parts(sequence(whole)?)?;
    let [version, algorithm, key, ..] = whole.as_slice() else {
        return None;
    };
    let is_key = version.tag() == Tag::Integer && key.tag() == Tag::OctetString;
    (is_key && is_of_rsa(algorithm)).then_some(key.data)
}

/// Of what a certificate says of its key (RFC 3279, section 2.3.1).
fn of_certificate(public: &[u8]) -> Option<PublicHalf<'_>> {
    let whole = parts(sequence(public)?)?;
    let [algorithm, bits] = whole.as_slice() else {
        return None;
    };
    // As many bits as there are in its octets.
    let key = bits.data.strip_prefix(&[0])?;
    let numbers = parts(sequence(key)?)?;
    let [modulus, exponent] = numbers.as_slice() else {
        return None;
    };
    let is_key = bits.tag() == Tag::BitString && is_of_rsa(algorithm);
    is_key.then_some([modulus.data, exponent.data])
}

/// Whether an AlgorithmIdentifier is that of RSA, whose parameters are NULL.
fn is_of_rsa(algorithm: &Any<'_>) -> bool {
    let said = match algorithm.tag() {
        Tag::Sequence => parts(algorithm.data),
        _ => None,
    };
    matches!(said.as_deref(), Some([kind, parameters])
        if (kind.tag(), parameters.tag()) == (Tag::Oid, Tag::Null)
            && kind.data == OID_PKCS1_RSAENCRYPTION.as_bytes()
            && parameters.data.is_empty())
}

/// What is in a sequence, which must be all there is.
fn sequence(whole: &[u8]) -> Option<&[u8]> {
    let (rest, sequence) = Any::from_der(whole).ok()?;
    (rest.is_empty() && sequence.tag() == Tag::Sequence).then_some(sequence.data)
}

/// One after the other, to the end. No key has more of them.
fn parts(mut left: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut parts = Vec::with_capacity(NUMBERS);
    while !left.is_empty() {
        if parts.len() == NUMBERS {
            return None;
        }
        let (rest, part) = Any::from_der(left).ok()?;
        parts.push(part);
        left = rest;
    }
    Some(parts)
}

/// Whether a modulus has a length that can be used.
fn is_usual(modulus: &[u8]) -> bool {
    let number = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    MODULUS.contains(&number.len()) && number.first().is_some_and(|first| *first >= 0x80)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use data_encoding::BASE64;
    use pen_common::config::TlsOptions;
    use rustls::SignatureScheme;
    use rustls::pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer};

    use super::*;
    use crate::proxy::tls::facts::public_key;
    use crate::proxy::tls::ocsp::authority::{Authority, P256, RSA};
    use crate::proxy::tls::private_key::read;
    use crate::proxy::tls::store::{Store, now};
    use crate::proxy::tls::terms::Terms;

    /// A key and its certificate's SubjectPublicKeyInfo.
    fn issued(authority: &Authority, name: &str) -> (PrivateKeyDer<'static>, Vec<u8>) {
        authority.issue(name, "ca", "server");
        let key = read(&fs::read(authority.file(&format!("{name}.key"))).unwrap()).unwrap();
        let certificate = authority.certificate(name);
        (key, public_key(&certificate).unwrap().to_vec())
    }

    fn pkcs8(der: &[u8]) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(der.to_vec()).into()
    }

    /// The same with another private exponent, which is the fourth number.
    fn spoilt(der: &[u8]) -> Vec<u8> {
        let inner = in_pkcs8(der).unwrap();
        let exponent = parts(sequence(inner).unwrap()).unwrap()[3].data;
        let at = exponent.as_ptr().addr() - der.as_ptr().addr() + exponent.len() - 1;
        let mut other = der.to_vec();
        other[at] ^= 2;
        other
    }

    #[test]
    fn a_key_is_taken_by_its_public_half_and_its_numbers_are_checked_later() {
        let authority = Authority::new("unchecked", RSA);
        let (key, public) = issued(&authority, "www");
        let whole = key.secret_der().to_vec();
        let bare: PrivateKeyDer<'static> =
            PrivatePkcs1KeyDer::from(in_pkcs8(&whole).unwrap().to_vec()).into();
        let schemes = [SignatureScheme::RSA_PSS_SHA256];
        for key in [key, bare] {
            let key = Unchecked::new(key, &public).unwrap();
            assert!(!key.is_sound());
            assert_eq!(*key.public_key().unwrap(), *public);
            let signer = key.choose_scheme(&schemes).unwrap();
            assert_eq!(signer.sign(b"words").unwrap().len(), 256);
            assert!(key.is_sound() && key.check() && key.take().is_none());
        }
        let key = Unchecked::new(pkcs8(&spoilt(&whole)), &public).unwrap();
        assert!(!key.check() && !key.is_sound());
        assert!(key.choose_scheme(&schemes).is_none());
    }

    #[test]
    fn what_has_to_be_looked_at_now_is_given_back() {
        let authority = Authority::new("unchecked-not", RSA);
        let (key, public) = issued(&authority, "www");
        let (_, others) = issued(&authority, "other");
        let whole = key.secret_der();
        let inner = in_pkcs8(whole).unwrap();
        let curve = Authority::new("unchecked-curve", P256);
        let (on_curve, of_curve) = issued(&curve, "www");
        // In the length of the outer sequence, the kind, and the version of the inner one.
        let changed = |at: usize| {
            let mut other = whole.to_vec();
            other[at] ^= 1;
            other
        };
        let inside = inner.as_ptr().addr() - whole.as_ptr().addr();
        for (key, public, what) in [
            (pkcs8(whole), &others, "another's"),
            (pkcs8(whole), &of_curve, "for a curve"),
            (on_curve, &of_curve, "on a curve"),
            (pkcs8(&whole[..whole.len() - 1]), &public, "cut off"),
            (pkcs8(&[whole, &[0]].concat()), &public, "too long"),
            (pkcs8(inner), &public, "in another form"),
            (pkcs8(&changed(3)), &public, "another length"),
            (pkcs8(&changed(17)), &public, "another kind"),
            (pkcs8(&changed(inside + 6)), &public, "another version"),
            (pkcs8(&[]), &public, "nothing"),
        ] {
            let length = key.secret_der().len();
            let back = Unchecked::new(key, public).unwrap_err();
            assert_eq!(back.secret_der().len(), length, "{what}");
        }
        for (length, first, usual) in [(256, 0x80, true), (256, 0x7f, false), (128, 0xff, false)] {
            let mut modulus = vec![1; length];
            modulus[0] = first;
            assert_eq!(is_usual(&modulus), usual, "{length} {first}");
        }
    }

    #[test]
    fn in_a_large_folder_a_bad_key_is_found_after_the_start_and_by_a_check() {
        let authority = Authority::new("unchecked-folder", RSA);
        let (key, _) = issued(&authority, "www");
        let certificate = fs::read_to_string(authority.file("www.pem")).unwrap();
        let with = |der: &[u8]| {
            let key = BASE64.encode(der);
            format!("{certificate}-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n")
        };
        let folder = authority.file("folder");
        fs::create_dir(&folder).unwrap();
        let bad = spoilt(key.secret_der());
        for number in 0..1001 {
            let der = match number {
                500 => bad.as_slice(),
                _ => key.secret_der(),
            };
            fs::write(folder.join(format!("n{number}.test.pem")), with(der)).unwrap();
        }
        let options = TlsOptions {
            directory: Some(folder.clone()),
            ..TlsOptions::default()
        };
        let store = Store::open(&options).unwrap().unwrap();
        let troubles = || {
            let all = store.troubles();
            let named = all.iter().filter(|why| why.contains("n500.test.pem"));
            (all.len(), named.count())
        };
        assert_eq!(troubles(), (0, 0));
        let names = store.names();
        // A client comes before anybody looked.
        let place = folder.join("n500.test.pem");
        let certificate = Arc::clone(store.read().named[&place].certificate().unwrap());
        let signs = certificate
            .key(now())
            .key
            .choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]);
        assert!(signs.is_none());
        let mut looks = 1;
        while store.refresh().again.is_some() {
            looks += 1;
        }
        assert_eq!((looks, troubles()), (3, (1, 1)));
        assert_eq!(store.names(), names - 1);
        assert!(!store.refresh().changed);
        let said = Terms::check(pen_common::config::Mode::Tcp, &options).unwrap();
        assert_eq!(said.len(), 1, "{said:?}");
        // The whole one is served again.
        fs::write(place, with(key.secret_der())).unwrap();
        assert!(store.refresh().changed);
        assert_eq!((troubles(), store.names()), ((0, 0), names));
    }
}
