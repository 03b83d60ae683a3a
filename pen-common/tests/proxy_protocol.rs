//! The PROXY protocol: bytes that the specification gives, and what must hold of all others.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::SocketAddr;

use pen_common::proxy_protocol::{
    Addresses, HEADER_MAX, Header, LINE_MAX, ParseError, Parsed, Tlv, UNIQUE_ID_MAX, parse, tlv,
    write_v1, write_v2,
};
use proptest::prelude::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses::new(source.parse().unwrap(), destination.parse().unwrap()).unwrap()
}

fn between(addresses: Option<Addresses>) -> Header {
    Header {
        addresses,
        ..Header::default()
    }
}

fn whole(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Ok(Parsed::Complete { used, header }) if used == bytes.len() => header,
        other => panic!("{:?}: {other:?}", bytes.escape_ascii().to_string()),
    }
}

/// The fixed part of version 2 and what follows.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

#[test]
fn lines_that_the_specification_gives() {
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let any = "255.255.255.255";
    let (v4, v6) = (format!("{any}:65535"), format!("[{longest}]:65535"));
    for (line, expected) in [
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n".to_owned(),
            Some(addresses("192.168.0.1:56324", "192.168.0.11:443")),
        ),
        (
            format!("PROXY TCP4 {any} {any} 65535 65535\r\n"),
            Some(addresses(&v4, &v4)),
        ),
        (
            format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n"),
            Some(addresses(&v6, &v6)),
        ),
        ("PROXY UNKNOWN\r\n".to_owned(), None),
        (
            format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n"),
            None,
        ),
    ] {
        assert_eq!(whole(line.as_bytes()), between(expected), "{line}");
        if expected.is_some() {
            assert_eq!(write_v1(expected.as_ref()), line.as_bytes());
        }
    }
    assert_eq!(write_v1(None), b"PROXY UNKNOWN\r\n");
    // The longest line that there is takes all the room.
    let line = format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n");
    assert_eq!(line.len(), LINE_MAX);
}

#[test]
fn lines_that_are_wrong() {
    use ParseError::{BadAddress, BadFamily, BadLine, BadSignature, TooLong};
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(long.len(), LINE_MAX + 1);
    for (line, why) in [
        ("GET / HTTP/1.1\r\n", BadSignature),
        ("proxy TCP4 1.2.3.4 1.2.3.5 1 2\r\n", BadSignature),
        ("PROXY\r\n", BadSignature),
        ("PROXY \r\n", BadFamily),
        ("PROXY TCP 1.2.3.4 1.2.3.5 1 2\r\n", BadFamily),
        ("PROXY UNKNOWNS\r\n", BadFamily),
        ("PROXY  TCP4 1.2.3.4 1.2.3.5 1 2\r\n", BadFamily),
        ("PROXY TCP4\r\n", BadLine),
        ("PROXY TCP4 1.2.3.4 1.2.3.5 1\r\n", BadLine),
        ("PROXY TCP4 1.2.3.4 1.2.3.5 1 2 \r\n", BadLine),
        ("PROXY TCP4 1.2.3.4  1.2.3.5 1 2\r\n", BadLine),
        ("PROXY TCP4 1.2.3.4 1.2.3.5 1 2\n", BadLine),
        ("PROXY UNKNOWN\n", BadLine),
        ("PROXY TCP4 1.2.3.4 1.2.3.5 1 2\r\r\n", BadAddress),
        ("PROXY TCP4 1.2.3.4 1.2.3.5 1 65536\r\n", BadAddress),
        ("PROXY TCP4 1.2.3.4 1.2.3.5 +1 2\r\n", BadAddress),
        ("PROXY TCP4 1.2.3.4 1.2.3.5 -1 2\r\n", BadAddress),
        ("PROXY TCP4 1.2.3.4 1.2.3.5 01 2\r\n", BadAddress),
        ("PROXY TCP4 1.2.3.4 1.2.3.5 0x1 2\r\n", BadAddress),
        ("PROXY TCP4 1.2.3.4 1.2.3.5\t1 2\r\n", BadLine),
        ("PROXY TCP4 1.2.3.04 1.2.3.5 1 2\r\n", BadAddress),
        ("PROXY TCP4 1.2.3 1.2.3.5 1 2\r\n", BadAddress),
        ("PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", BadAddress),
        ("PROXY TCP6 1.2.3.4 1.2.3.5 1 2\r\n", BadAddress),
        ("PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n", BadAddress),
        (&long, TooLong),
    ] {
        assert_eq!(parse(line.as_bytes()), Err(why), "{line:?}");
    }
    let not_text = b"PROXY UNKNOWN \xff\r\n";
    assert_eq!(parse(not_text), Err(BadLine));
    // It is told as soon as no end can come in time any more.
    let endless = "PROXY UNKNOWN ".to_owned() + &"x".repeat(92);
    assert_eq!(parse(endless.as_bytes()), Err(TooLong));
}

#[test]
fn bytes_checked_by_hand() {
    let v4 = [10, 1, 2, 3, 192, 0, 2, 80, 0xdc, 0x04, 0x01, 0xbb];
    let expected = Some(addresses("10.1.2.3:56324", "192.0.2.80:443"));
    assert_eq!(whole(&v2(0x21, 0x11, &v4)), between(expected));
    assert_eq!(write_v2(&between(expected)).unwrap(), v2(0x21, 0x11, &v4));
    // Over UDP, too: what counts is who it is.
    assert_eq!(whole(&v2(0x21, 0x12, &v4)).addresses, expected);
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v6[15] = 1;
    v6[16..20].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v6[31] = 2;
    v6[32..].copy_from_slice(&[0xdc, 0x04, 0x01, 0xbb]);
    let expected = Some(addresses("[2001:db8::1]:56324", "[2001:db8::2]:443"));
    assert_eq!(whole(&v2(0x21, 0x21, &v6)), between(expected));
    assert_eq!(write_v2(&between(expected)).unwrap(), v2(0x21, 0x21, &v6));
    let with = [&v4[..], &[tlv::UNIQUE_ID, 0, 2, b'i', b'd', 0xe0, 0, 0]].concat();
    let tlvs = whole(&v2(0x21, 0x11, &with)).tlvs;
    let of = |kind, value: &[u8]| Tlv {
        kind,
        value: value.to_vec(),
    };
    assert_eq!(tlvs, [of(tlv::UNIQUE_ID, b"id"), of(0xe0, b"")]);
    // Unix sockets and who is not known.
    for (family, rest) in [(0x31, &[7; 216][..]), (0x00, &[]), (0x10, &[4, 0, 0])] {
        let header = whole(&v2(0x21, family, rest));
        assert_eq!((header.local, header.addresses), (false, None));
    }
}

/// Its own word: everything behind the first sixteen bytes is passed over.
#[test]
fn local_headers() {
    let header = Header {
        local: true,
        ..Header::default()
    };
    assert_eq!(write_v2(&header).unwrap(), v2(0x20, 0, &[]));
    assert_eq!(write_v2(&Header::default()).unwrap(), v2(0x20, 0, &[]));
    for (family, rest) in [
        (0, &[][..]),
        (0x11, &[1; 5]),
        (0x77, &[1; 50]),
        (0, &[9, 9]),
    ] {
        assert_eq!(whole(&v2(0x20, family, rest)), header);
    }
    let wrong = v2(0x20, 0, &[tlv::CRC32C, 0, 4, 1, 2, 3, 4]);
    assert_eq!(parse(&wrong), Err(ParseError::BadChecksum));
}

#[test]
fn bytes_that_are_wrong() {
    use ParseError::{BadChecksum, BadFamily, BadLength, BadSignature, BadVersion, TooLong};
    let v4 = [1; 12];
    let with = |tlvs: &[u8]| v2(0x21, 0x11, &[&v4, tlvs].concat());
    let id = [&[tlv::UNIQUE_ID, 0, 129][..], &[0; 129]].concat();
    for (bytes, why) in [
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), BadSignature),
        (v2(0x11, 0x11, &v4), BadVersion),
        (v2(0x31, 0x11, &v4), BadVersion),
        (v2(0x22, 0x11, &v4), BadVersion),
        (v2(0x21, 0x41, &v4), BadFamily),
        (v2(0x21, 0x13, &v4), BadFamily),
        (v2(0x21, 0x11, &v4[1..]), BadLength),
        (v2(0x21, 0x21, &[0; 35]), BadLength),
        (v2(0x21, 0x31, &[0; 215]), BadLength),
        (with(&[1]), BadLength),
        (with(&[1, 0]), BadLength),
        (with(&[1, 0, 1]), BadLength),
        (with(&[1, 0xff, 0xff, 0]), BadLength),
        (with(&[tlv::CRC32C, 0, 3, 0, 0, 0]), BadLength),
        (with(&id), BadLength),
        (with(&[tlv::CRC32C, 0, 4, 0, 0, 0, 0]), BadChecksum),
        (v2(0x21, 0x11, &[0; HEADER_MAX - 15]), TooLong),
    ] {
        assert_eq!(parse(&bytes), Err(why), "{}", bytes.escape_ascii());
    }
    let header = Header {
        tlvs: vec![Tlv {
            kind: 1,
            value: vec![0; HEADER_MAX],
        }],
        ..Header::default()
    };
    assert_eq!(write_v2(&header), None);
}

#[test]
fn two_checksums_are_one_too_many() {
    let header = Header {
        checksum: true,
        ..between(Some(addresses("1.2.3.4:5", "6.7.8.9:10")))
    };
    let mut bytes = write_v2(&header).unwrap();
    assert_eq!(whole(&bytes), header);
    bytes.extend([tlv::CRC32C, 0, 4, 0, 0, 0, 0]);
    bytes[15] += 7;
    assert_eq!(parse(&bytes), Err(ParseError::BadChecksum));
}

#[test]
fn both_ends_are_of_one_family() {
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(Addresses::new(at("1.2.3.4:1"), at("[::1]:2")), None);
    let mapped = Addresses::new(at("[::ffff:1.2.3.4]:1"), at("[::ffff:5.6.7.8]:2")).unwrap();
    assert_eq!(mapped, addresses("1.2.3.4:1", "5.6.7.8:2"));
    let half = Addresses::new(at("[::ffff:1.2.3.4]:1"), at("[2001:db8::1]:2")).unwrap();
    assert!(half.source().is_ipv6() && half.destination().is_ipv6());
}

fn ends() -> impl Strategy<Value = Addresses> {
    let ports = any::<(u16, u16)>();
    let v4 = (any::<([u8; 4], [u8; 4])>(), ports)
        .prop_map(|((a, b), (p, q))| Addresses::new((a, p).into(), (b, q).into()).unwrap());
    let v6 = (any::<([u8; 16], [u8; 16])>(), ports)
        .prop_map(|((a, b), (p, q))| Addresses::new((a, p).into(), (b, q).into()).unwrap());
    prop_oneof![v4, v6]
}

fn tlvs() -> impl Strategy<Value = Vec<Tlv>> {
    let kind = prop_oneof![4..=255u8, 0..=2u8];
    let value = proptest::collection::vec(any::<u8>(), 0..=UNIQUE_ID_MAX);
    let tlv = (kind, value).prop_map(|(kind, value)| Tlv { kind, value });
    proptest::collection::vec(tlv, 0..6)
}

prop_compose! {
    fn header()(
        addresses in proptest::option::of(ends()), checksum in any::<bool>(), tlvs in tlvs(),
    ) -> Header {
        Header { local: addresses.is_none(), addresses, checksum, tlvs }
    }
}

/// Bytes that begin like a header, or like nothing.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let any = || proptest::collection::vec(any::<u8>(), 0..300);
    let behind = |start: &'static [u8]| any().prop_map(move |rest| [start, &rest].concat());
    let line = "PROXY (TCP4|TCP6|UNKNOWN|) ?[0-9a-f.: ]{0,90}\r?\n?".prop_map(String::into_bytes);
    prop_oneof![any(), behind(b"PROXY "), behind(SIGNATURE), line]
}

/// What must hold of every answer about these bytes.
fn check_promises(bytes: &[u8]) {
    match parse(bytes) {
        Ok(Parsed::Complete { used, .. }) => {
            assert!(used <= bytes.len());
            // What follows has no say, and less is not a header.
            assert_eq!(parse(&bytes[..used]), parse(bytes));
            assert!(matches!(
                parse(&bytes[..used - 1]),
                Ok(Parsed::Partial { .. })
            ));
        }
        Ok(Parsed::Partial { total }) => {
            assert!(bytes.len() < total && total <= HEADER_MAX);
        }
        Err(_) => {
            let more = [bytes, b"\r\n and more"].concat();
            assert_eq!(parse(&more), parse(bytes));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_written_is_read(header in header(), behind in any::<[u8; 9]>()) {
        let bytes = write_v2(&header).unwrap();
        let expected = Parsed::Complete { used: bytes.len(), header: header.clone() };
        prop_assert_eq!(parse(&[&bytes[..], &behind].concat()), Ok(expected));
        let line = write_v1(header.addresses.as_ref());
        prop_assert!(line.len() <= LINE_MAX);
        let expected = Parsed::Complete { used: line.len(), header: between(header.addresses) };
        prop_assert_eq!(parse(&[&line[..], &behind].concat()), Ok(expected));
    }

    #[test]
    fn every_beginning_asks_for_more(header in header()) {
        for bytes in [write_v2(&header).unwrap(), write_v1(header.addresses.as_ref())] {
            for end in 0..bytes.len() {
                let parsed = parse(&bytes[..end]);
                let Ok(Parsed::Partial { total }) = parsed else { panic!("{end}: {parsed:?}") };
                prop_assert!(end < total && total <= bytes.len());
            }
        }
    }

    /// Where the checksum is still one. It is none any more when the family or the length put it
    /// elsewhere, or its own type is another.
    #[test]
    fn a_spoilt_byte_is_seen(header in header(), at in any::<u16>(), flip in 1u8..) {
        let header = Header { checksum: true, ..header };
        let mut bytes = write_v2(&header).unwrap();
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= flip;
        let kind = match header.addresses {
            None => 16,
            Some(ends) if ends.source().is_ipv4() => 28,
            Some(_) => 52,
        };
        match parse(&bytes) {
            Err(_) | Ok(Parsed::Partial { .. }) => {}
            Ok(Parsed::Complete { used, header }) => {
                prop_assert!(used <= bytes.len() && !header.checksum);
                prop_assert!([13, 14, 15, kind].contains(&at) || header.local, "{}", at);
            }
        }
    }

    #[test]
    fn any_bytes_have_an_answer(bytes in nearly()) {
        check_promises(&bytes);
    }
}
