use std::ops::Range;

use super::authority::{Authority, P256, P384, RSA, now};
use super::basic::Basic;
use super::der::{self, tag};
use super::{ANSWER_MAX, BASIC, Refusal, SKEW, Staple, StapleError, UNDATED, inside, request};

const WEEK: &str = "-ndays 7";

/// An authority with a certificate `leaf` that its responder says is good.
fn authority(test: &str, key: &'static str) -> Authority {
    let authority = Authority::new(test, key);
    authority.issue("leaf", "ca", "plain");
    authority.knows(&["leaf"], &[]);
    authority
}

/// What is answered when we ask for `leaf`.
fn answer(authority: &Authority, signer: &str, more: &str) -> Vec<u8> {
    let request = request(&authority.chain("leaf")).unwrap();
    authority.answer(&request, signer, more)
}

fn check(authority: &Authority, answer: &[u8], now: i64) -> Result<Staple, StapleError> {
    Staple::check(answer.to_vec(), &authority.chain("leaf"), now)
}

#[test]
fn a_good_answer_of_the_issuer_is_taken() {
    for (name, key) in [("rsa", RSA), ("p256", P256), ("p384", P384)] {
        let authority = authority(name, key);
        for hash in ["sha256", "sha384", "sha512", "sha256 -resp_key_id"] {
            let answer = answer(&authority, "ca", &format!("{WEEK} -rmd {hash}"));
            let staple = check(&authority, &answer, now()).unwrap();
            assert_eq!(staple.answer(), answer);
            let left = staple.until() - now();
            assert!((7 * 86400 - 60..=7 * 86400).contains(&left), "{left}");
            assert!(staple.is_fresh(staple.until() - 1));
            assert!(!staple.is_fresh(staple.until()));
        }
        let sha1 = answer(&authority, "ca", &format!("{WEEK} -rmd sha1"));
        assert_eq!(check(&authority, &sha1, now()), Err(StapleError::Sha1));
    }
}

#[test]
fn a_delegate_needs_the_issuers_word() {
    for (name, key) in [("delegate-rsa", RSA), ("delegate-p256", P256)] {
        let authority = authority(name, key);
        authority.root("impostor");
        for (delegate, issuer, section) in [
            ("signer", "ca", "signer"),
            ("server", "ca", "server"),
            ("any", "ca", "any"),
            ("none", "ca", "plain"),
            ("forged", "impostor", "signer"),
            ("below", "leaf", "signer"),
        ] {
            authority.issue(delegate, issuer, section);
        }
        let checked = |signer, more: &str| {
            let answer = answer(&authority, signer, more);
            check(&authority, &answer, now()).map(drop)
        };
        assert_eq!(checked("signer", WEEK), Ok(()));
        assert_eq!(checked("signer", "-ndays 7 -resp_key_id"), Ok(()));
        for wrong in ["server", "any", "none"] {
            assert_eq!(checked(wrong, WEEK), Err(StapleError::Purpose), "{wrong}");
        }
        assert_eq!(checked("forged", WEEK), Err(StapleError::Stranger));
        assert_eq!(checked("below", WEEK), Err(StapleError::Stranger));
        // The same name as the issuer's, and another key.
        assert_eq!(checked("impostor", WEEK), Err(StapleError::Stranger));
        assert_eq!(
            checked("impostor", "-ndays 7 -resp_no_certs"),
            Err(StapleError::Signature)
        );
        assert_eq!(
            checked("signer", "-ndays 7 -resp_no_certs"),
            Err(StapleError::NoSigner)
        );
    }
}

#[test]
fn a_delegate_that_is_not_valid_any_more_is_refused() {
    let authority = authority("old-delegate", P256);
    authority.issue("signer", "ca", "signer");
    let answer = answer(&authority, "signer", "-ndays 300");
    // The answer would hold for longer.
    let staple = check(&authority, &answer, now()).unwrap();
    assert!((29 * 86400..=30 * 86400).contains(&(staple.until() - now())));
    let late = check(&authority, &answer, now() + 31 * 86400);
    assert!(
        matches!(late, Err(StapleError::Delegate { .. })),
        "{late:?}"
    );
}

#[test]
fn what_is_not_good_is_told_apart() {
    let authority = authority("status", P256);
    authority.issue("another", "ca", "plain");
    authority.knows(&["another"], &["leaf"]);
    let revoked = answer(&authority, "ca", WEEK);
    let error = check(&authority, &revoked, now()).unwrap_err();
    assert_eq!(error, StapleError::Revoked(1_767_323_045));
    let said = "the certificate was revoked on Fri, 02 Jan 2026 03:04:05 +0000; get a new one";
    assert_eq!(error.to_string(), said);

    authority.knows(&["another"], &[]);
    let unknown = answer(&authority, "ca", WEEK);
    assert_eq!(
        check(&authority, &unknown, now()),
        Err(StapleError::Unknown)
    );

    let request = request(&authority.chain("another")).unwrap();
    let other = authority.answer(&request, "ca", WEEK);
    assert_eq!(check(&authority, &other, now()), Err(StapleError::Other));
    let another = authority.chain("another");
    assert!(Staple::check(other, &another, now()).is_ok());
}

#[test]
fn an_answer_holds_for_a_time() {
    let authority = authority("times", P256);
    let dated = answer(&authority, "ca", "-nmin 10");
    let (from, until) = (now(), check(&authority, &dated, now()).unwrap().until());
    assert!((590..=600).contains(&(until - from)));
    assert!(check(&authority, &dated, until - 1).is_ok());
    assert_eq!(
        check(&authority, &dated, until),
        Err(StapleError::Expired(until))
    );
    let basic = Basic::read(inside(&dated).unwrap()).unwrap();
    let begins = basic.singles[0].this_update;
    assert!(check(&authority, &dated, begins - SKEW).is_ok());
    assert_eq!(
        check(&authority, &dated, begins - SKEW - 1),
        Err(StapleError::NotYet(begins))
    );
    for never in [i64::MIN, i64::MAX] {
        assert!(check(&authority, &dated, never).is_err());
    }

    let undated = answer(&authority, "ca", "");
    let until = check(&authority, &undated, now()).unwrap().until();
    assert!((UNDATED - 60..=UNDATED).contains(&(until - now())));
    assert!(check(&authority, &undated, until).is_err());
}

#[test]
fn the_issuer_must_be_known() {
    let authority = authority("issuer", P256);
    authority.issue("between", "ca", "ca");
    let answer = answer(&authority, "ca", WEEK);
    let with = |chain: &[_]| Staple::check(answer.clone(), chain, now()).unwrap_err();
    let leaf = authority.certificate("leaf");
    assert_eq!(with(&[]), StapleError::NoIssuer);
    assert_eq!(with(std::slice::from_ref(&leaf)), StapleError::NoIssuer);
    assert!(with(&[]).to_string().ends_with("by `chain` (-G)"));
    let between = authority.certificate("between");
    assert_eq!(with(&[leaf.clone(), between]), StapleError::WrongIssuer);
    assert_eq!(with(&[leaf.clone(), vec![1, 2].into()]), StapleError::Chain);
    // Of the same name.
    authority.root("impostor");
    let impostor = authority.certificate("impostor");
    assert_eq!(with(&[leaf, impostor]), StapleError::Other);
}

#[test]
fn requests_are_taken_and_others_answers_too() {
    let authority = authority("request", RSA);
    for hash in ["sha1", "sha256"] {
        // These bring a nonce, which the answer repeats.
        let request = authority.request("leaf", hash);
        let answer = authority.answer(&request, "ca", WEEK);
        check(&authority, &answer, now()).unwrap();
    }
    let unusual = authority.request("leaf", "sha512");
    let answer = authority.answer(&unusual, "ca", WEEK);
    assert_eq!(check(&authority, &answer, now()), Err(StapleError::Other));

    assert_eq!(request(&[]), None);
    assert_eq!(request(&[authority.certificate("leaf")]), None);
    assert_eq!(request(&[vec![0].into(), vec![0].into()]), None);
}

#[test]
fn refusals_of_the_responder_are_told() {
    let refusals = [
        (1, Refusal::Malformed),
        (2, Refusal::Internal),
        (3, Refusal::TryLater),
        (5, Refusal::Unsigned),
        (6, Refusal::Unauthorized),
    ];
    for (status, refusal) in refusals {
        let answer = vec![tag::SEQUENCE, 3, tag::ENUMERATED, 1, status];
        let error = Staple::check(answer, &[], 0).unwrap_err();
        assert_eq!(error, StapleError::Refused(refusal));
    }
    let none = vec![tag::SEQUENCE, 3, tag::ENUMERATED, 1, 4];
    assert_eq!(Staple::check(none, &[], 0), Err(StapleError::Malformed));
}

#[test]
fn anything_else_is_refused() {
    let authority = authority("anything", P256);
    let good = answer(&authority, "ca", WEEK);
    let checked = |bytes: &[u8]| check(&authority, bytes, now()).unwrap_err();
    assert_eq!(checked(b""), StapleError::Empty);
    assert_eq!(checked(b"<html>"), StapleError::Malformed);
    let long = vec![tag::SEQUENCE; ANSWER_MAX + 1];
    assert_eq!(checked(&long), StapleError::TooLong(ANSWER_MAX + 1));
    for end in 1..good.len() {
        assert_eq!(checked(&good[..end]), StapleError::Malformed, "{end}");
    }
    let long = [&good[..], b"\n"].concat();
    assert_eq!(checked(&long), StapleError::Trailing(1));
    let at = good.windows(BASIC.len()).position(|bytes| bytes == BASIC);
    let mut other = good.clone();
    other[at.unwrap()] ^= 1;
    assert_eq!(checked(&other), StapleError::NotBasic);

    let mut seed: u32 = 1;
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    for _ in 0..1000 {
        let bytes: Vec<u8> = (0..200).map(|_| random()).collect();
        checked(&bytes);
        let mut bytes = good.clone();
        for _ in 0..4 {
            let at = usize::from(random()) << 8 | usize::from(random());
            let at = at % good.len();
            bytes[at] = random();
        }
        drop(check(&authority, &bytes, now()));
    }
}

/// Where in `all` a part of it lies.
fn place(all: &[u8], part: &[u8]) -> Range<usize> {
    let at = all.windows(part.len()).position(|bytes| bytes == part);
    at.unwrap()..at.unwrap() + part.len()
}

/// Which bits of an answer can be changed so that it is taken all the same, by their bytes.
fn changeable(authority: &Authority, answer: &[u8]) -> Vec<usize> {
    let chain = authority.chain("leaf");
    let mut changeable = Vec::new();
    let mut changed = answer.to_vec();
    for at in 0..changed.len() {
        for bit in 0..8 {
            changed[at] ^= 1 << bit;
            if Staple::check(changed.clone(), &chain, now()).is_ok() {
                changeable.push(at);
            }
            changed[at] ^= 1 << bit;
        }
    }
    changeable
}

#[test]
fn no_bit_that_matters_can_be_changed() {
    let authority = authority("bits", P256);
    authority.issue("signer", "ca", "signer");
    // A delegate's certificate matters as well as what it signed, and nothing else is there.
    let delegated = answer(&authority, "signer", WEEK);
    assert_eq!(changeable(&authority, &delegated), [0; 0]);
    let bare = answer(&authority, "ca", "-ndays 7 -resp_no_certs");
    assert_eq!(changeable(&authority, &bare), [0; 0]);
    // The issuer's certificate is known without it, so that its copy does not matter.
    let own = answer(&authority, "ca", WEEK);
    let copy = place(&own, &authority.certificate("ca"));
    for at in changeable(&authority, &own) {
        assert!(copy.contains(&at), "{at}");
    }
}

/// An answer of which `change` may change what is signed; it is signed anew.
fn forged(authority: &Authority, change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let answer = answer(authority, "ca", WEEK);
    let basic = Basic::read(inside(&answer).unwrap()).unwrap();
    let inner = der::only(basic.signed.message, tag::SEQUENCE).unwrap();
    let write = |tag, parts: &[&[u8]]| der::write(tag, parts).unwrap();
    let message = write(tag::SEQUENCE, &[&change(inner)]);
    let signature = authority.sign(&message, "ca");
    let signed = [
        message,
        write(tag::SEQUENCE, &[basic.signed.algorithm]),
        write(tag::BIT_STRING, &[&[0], &signature]),
    ];
    let basic = write(tag::SEQUENCE, &[&signed.concat()]);
    let typed = [
        write(tag::OID, &[BASIC]),
        write(tag::OCTET_STRING, &[&basic]),
    ];
    let typed = write(tag::SEQUENCE, &[&typed.concat()]);
    let status = write(tag::ENUMERATED, &[&[0]]);
    write(tag::SEQUENCE, &[&status, &write(tag::EXPLICIT, &[&typed])])
}

/// `inner` with its list of answers replaced, and more behind it.
fn replaced(inner: &[u8], list: impl Fn(&[u8]) -> Vec<u8>, more: &[u8]) -> Vec<u8> {
    let mut data = der::Reader::new(inner);
    let head = [data.value().unwrap().whole, data.value().unwrap().whole];
    let answers = list(data.take(tag::SEQUENCE).unwrap());
    let list = der::write(tag::SEQUENCE, &[&answers]).unwrap();
    [&head.concat(), &list, more].concat()
}

#[test]
fn a_rightly_signed_answer_may_be_wrong_all_the_same() {
    let authority = authority("forged", P256);
    let checked = |answer: Vec<u8>| check(&authority, &answer, now()).map(drop);
    let same = forged(&authority, |inner| inner.to_vec());
    assert_eq!(checked(same), Ok(()));
    // Version 1, said although it need not be.
    let version = [tag::EXPLICIT, 3, tag::INTEGER, 1, 0];
    let said = forged(&authority, |inner| [&version, inner].concat());
    assert_eq!(checked(said), Ok(()));

    let twice = forged(&authority, |inner| {
        replaced(inner, |list| list.repeat(2), &[])
    });
    assert_eq!(checked(twice), Err(StapleError::Ambiguous(2)));
    let none = forged(&authority, |inner| replaced(inner, |_| Vec::new(), &[]));
    assert_eq!(checked(none), Err(StapleError::Other));

    // One extension of the type 1.2, once with the flag and once without it.
    let critical = [
        0xa1,
        12,
        0x30,
        10,
        0x30,
        8,
        tag::OID,
        1,
        42,
        tag::BOOLEAN,
        1,
        0xff,
        tag::OCTET_STRING,
        0,
    ];
    let harmless = [
        0xa1,
        9,
        0x30,
        7,
        0x30,
        5,
        tag::OID,
        1,
        42,
        tag::OCTET_STRING,
        0,
    ];
    let with = |extension: &[u8]| {
        forged(&authority, |inner| {
            replaced(inner, <[u8]>::to_vec, extension)
        })
    };
    assert_eq!(checked(with(&harmless)), Ok(()));
    assert_eq!(checked(with(&critical)), Err(StapleError::Critical));
    assert_eq!(checked(with(&[tag::NULL, 0])), Err(StapleError::Malformed));
    let inside = forged(&authority, |inner| {
        let with = |list: &[u8]| {
            let single = der::only(list, tag::SEQUENCE).unwrap();
            der::write(tag::SEQUENCE, &[single, &critical]).unwrap()
        };
        replaced(inner, with, &[])
    });
    assert_eq!(checked(inside), Err(StapleError::Critical));
}
