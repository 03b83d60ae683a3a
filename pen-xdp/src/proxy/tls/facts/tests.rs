use std::net::IpAddr;

use super::{Facts, KeyKind};
use crate::proxy::tls::ocsp::authority::{Authority, P256, P384, RSA, now};

#[test]
fn names_times_and_the_responder_are_read() {
    let authority = Authority::new("facts", P256);
    authority.issue("leaf", "ca", "full");
    let facts = Facts::of(&authority.certificate("leaf")).unwrap();
    assert_eq!(facts.names, ["www.pen.example", "*.pen.example"]);
    assert_eq!(facts.responder.as_deref(), Some("http://ocsp.example/a"));
    assert!(facts.must_staple);
    assert_eq!(facts.key, KeyKind::Ecdsa);
    assert!((now() - 60..=now()).contains(&facts.not_before));
    let left = facts.not_after - now();
    assert!((30 * 86400 - 60..=30 * 86400).contains(&left), "{left}");
}

#[test]
fn the_common_name_counts_where_no_other_is() {
    let authority = Authority::new("common", P384);
    authority.issue("Leaf", "ca", "");
    let facts = Facts::of(&authority.certificate("Leaf")).unwrap();
    assert_eq!(facts.names, ["leaf.example"]);
    assert_eq!((facts.responder, facts.must_staple), (None, false));
    authority.issue("leaf", "ca", "address");
    let facts = Facts::of(&authority.certificate("leaf")).unwrap();
    assert_eq!(facts.names, [""; 0]);
    assert_eq!(facts.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    // It wants another feature.
    assert!(!facts.must_staple);
}

#[test]
fn kinds_of_keys_are_told_apart() {
    for (key, kind) in [(RSA, KeyKind::Rsa), ("ed25519", KeyKind::Other)] {
        let authority = Authority::new(&format!("kind-{kind:?}"), key);
        let facts = Facts::of(&authority.certificate("ca")).unwrap();
        assert_eq!(facts.key, kind);
    }
}

#[test]
fn what_is_no_certificate_is_refused() {
    let authority = Authority::new("no-facts", P256);
    authority.issue("leaf", "ca", "full");
    let whole = authority.certificate("leaf").to_vec();
    for end in 0..whole.len() {
        assert!(Facts::of(&whole[..end]).is_err(), "{end}");
    }
    let long = [&whole[..], &[0]].concat();
    assert_eq!(
        Facts::of(&long).unwrap_err(),
        "1 bytes follow the certificate"
    );
    // Nothing guards these bytes: they may say anything, and must be survived.
    let mut changed = whole;
    for at in 0..changed.len() {
        for bit in 0..8 {
            changed[at] ^= 1 << bit;
            drop(Facts::of(&changed));
            changed[at] ^= 1 << bit;
        }
    }
}
