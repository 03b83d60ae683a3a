//! The flow hash: the same on every machine and in every version.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::IpAddr;

use pen_common::flow::{Address, Flow, HashKey};
use proptest::prelude::*;

const KEYS: [HashKey; 2] = [
    HashKey { k0: 0, k1: 0 },
    HashKey {
        k0: 0x0706_0504_0302_0100,
        k1: 0x0f0e_0d0c_0b0a_0908,
    },
];

type Row = (usize, &'static str, &'static str, u16, u16, u8, u32, u32);

/// Key, flow, and the upper half of SipHash-1-3 over its words, then over those of its source
/// alone; from a separate program written after the paper. A change here moves every flow of
/// every user and splits machines of different versions.
#[rustfmt::skip]
const GOLDEN: [Row; 16] = [
    (0, "10.0.0.12", "10.0.0.100", 40000, 80, 6, 0x2469e8c1, 0xb6db3bb5),
    (0, "10.0.0.12", "10.0.0.100", 65535, 0, 17, 0xf9682e56, 0xb6db3bb5),
    (0, "255.255.255.255", "0.0.0.0", 40000, 80, 6, 0x351b2811, 0x987f1bf1),
    (0, "255.255.255.255", "0.0.0.0", 65535, 0, 17, 0x57d523e4, 0x987f1bf1),
    (0, "2001:db8::c", "2001:db8::100", 40000, 80, 6, 0xeb49f4d0, 0x2c0ec345),
    (0, "2001:db8::c", "2001:db8::100", 65535, 0, 17, 0x9dda923d, 0x2c0ec345),
    (0, "fe80::1", "::", 40000, 80, 6, 0x64be448b, 0x6648e811),
    (0, "fe80::1", "::", 65535, 0, 17, 0x867fbfc9, 0x6648e811),
    (1, "10.0.0.12", "10.0.0.100", 40000, 80, 6, 0xc4fd829a, 0x701006b3),
    (1, "10.0.0.12", "10.0.0.100", 65535, 0, 17, 0x742bf0b2, 0x701006b3),
    (1, "255.255.255.255", "0.0.0.0", 40000, 80, 6, 0xfbb17ae3, 0xe4435998),
    (1, "255.255.255.255", "0.0.0.0", 65535, 0, 17, 0x57ec2cab, 0xe4435998),
    (1, "2001:db8::c", "2001:db8::100", 40000, 80, 6, 0x0f55ae94, 0xb8d5ab75),
    (1, "2001:db8::c", "2001:db8::100", 65535, 0, 17, 0x7dc4b865, 0xb8d5ab75),
    (1, "fe80::1", "::", 40000, 80, 6, 0x86e3ed8a, 0x76e74eb7),
    (1, "fe80::1", "::", 65535, 0, 17, 0x308b909d, 0x76e74eb7),
];

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

#[test]
fn hashes_are_the_golden_ones() {
    for (key, source, destination, source_port, destination_port, protocol, hash, by_source) in
        GOLDEN
    {
        let flow = Flow {
            source: address(source),
            destination: address(destination),
            source_port,
            destination_port,
            protocol,
        };
        assert_eq!(flow.hash(KEYS[key]), hash, "{flow:?}");
        assert_eq!(flow.source_hash(KEYS[key]), by_source, "{flow:?}");
    }
}

prop_compose! {
    fn any_address()(v4: bool, bytes: [u8; 16]) -> Address {
        if v4 {
            Address::v4(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        } else {
            Address::v6(bytes)
        }
    }
}

prop_compose! {
    fn any_flow()(
        source in any_address(),
        destination in any_address(),
        source_port: u16,
        destination_port: u16,
        protocol: u8,
    ) -> Flow {
        Flow { source, destination, source_port, destination_port, protocol }
    }
}

proptest! {
    #[test]
    fn reversed_twice_is_the_same(flow in any_flow()) {
        prop_assert_eq!(flow.reversed().reversed(), flow);
        prop_assert_eq!(flow.reversed().source, flow.destination);
        prop_assert_eq!(flow.reversed().source_port, flow.destination_port);
    }

    #[test]
    fn addresses_keep_their_bytes(bytes: [u8; 16], number: u32) {
        prop_assert_eq!(Address::v6(bytes).bytes(), bytes);
        prop_assert_eq!(Address::v4(number).v4_number(), number);
        prop_assert!(Address::v4(number).is_v4());
        let mapped = std::net::Ipv4Addr::from(number).to_ipv6_mapped();
        prop_assert_eq!(Address::v4(number).bytes(), mapped.octets());
        prop_assert_eq!(Address::v6(bytes).is_v4(), bytes.starts_with(
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
        ));
    }

    /// Each field and each half of the key counts; the source hash sees the source alone.
    #[test]
    fn every_field_changes_the_hash(flow in any_flow(), bit in 0..32_u32) {
        let key = KEYS[1];
        let low = 1 << bit;
        let port = 1 << (bit % 16);
        let source = Address { low: flow.source.low ^ low, ..flow.source };
        let destination = Address { low: flow.destination.low ^ low, ..flow.destination };
        let others = [
            Flow { destination, ..flow },
            Flow { source_port: flow.source_port ^ port, ..flow },
            Flow { destination_port: flow.destination_port ^ port, ..flow },
            Flow { protocol: flow.protocol ^ (1 << (bit % 8)), ..flow },
        ];
        for other in others {
            prop_assert_ne!(other.hash(key), flow.hash(key));
            prop_assert_eq!(other.source_hash(key), flow.source_hash(key));
        }
        let other = Flow { source, ..flow };
        prop_assert_ne!(other.hash(key), flow.hash(key));
        prop_assert_ne!(other.source_hash(key), flow.source_hash(key));
        for key in [HashKey { k0: key.k0 ^ 1, ..key }, HashKey { k1: key.k1 ^ 1, ..key }] {
            prop_assert_ne!(flow.hash(key), flow.hash(KEYS[1]));
        }
    }
}
