//! The flow hash: the same on every machine and in every version.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::net::IpAddr;

use pen_common::{
    flow::{Address, Flow},
    hash::{HashKey, KEY_WORDS, KEY_WORDS_V4},
};
use proptest::prelude::*;

type Row = (u64, &'static str, &'static str, u16, u16, u8, u64, u64);

/// Seed, flow, and the hash of the flow, then of its source alone; from a separate program written
/// after the papers. A change here moves every flow of every user and splits machines of different
/// versions.
#[rustfmt::skip]
const GOLDEN: [Row; 16] = [
    (0x0, "10.0.0.12", "10.0.0.100", 40000, 80, 6, 0x38227cbf3ad9f2cd, 0x8ab59d333c9dcbdf),
    (0x0, "10.0.0.12", "10.0.0.100", 65535, 0, 17, 0x7de1ae7427edcd3f, 0x8ab59d333c9dcbdf),
    (0x0, "255.255.255.255", "0.0.0.0", 40000, 80, 6, 0x38f3dd9eccaa76f1, 0x691af9a95b43fe0e),
    (0x0, "255.255.255.255", "0.0.0.0", 65535, 0, 17, 0x1c4820c296731ca6, 0x691af9a95b43fe0e),
    (0x0, "2001:db8::c", "2001:db8::100", 40000, 80, 6, 0x545bdee873f31945, 0xc46a0b6f06e480cd),
    (0x0, "2001:db8::c", "2001:db8::100", 65535, 0, 17, 0x9ef67ff180dcbf3f, 0xc46a0b6f06e480cd),
    (0x0, "fe80::1", "::", 40000, 80, 6, 0x6c0eb71d013e0ebe, 0xbd0a0552fba8ff63),
    (0x0, "fe80::1", "::", 65535, 0, 17, 0xf986d45a20c6ccd0, 0xbd0a0552fba8ff63),
    (0x123456789abcdef, "10.0.0.12", "10.0.0.100", 40000, 80, 6, 0x9635ce0ff2821840, 0x2c5fda7f2175db78),
    (0x123456789abcdef, "10.0.0.12", "10.0.0.100", 65535, 0, 17, 0x45fdafb658dd5feb, 0x2c5fda7f2175db78),
    (0x123456789abcdef, "255.255.255.255", "0.0.0.0", 40000, 80, 6, 0x65281305db3b56fd, 0x6212819ef0ba123d),
    (0x123456789abcdef, "255.255.255.255", "0.0.0.0", 65535, 0, 17, 0x3790dfc159d21ccb, 0x6212819ef0ba123d),
    (0x123456789abcdef, "2001:db8::c", "2001:db8::100", 40000, 80, 6, 0xd79dc7f25befd447, 0x13ba6e56dba722ad),
    (0x123456789abcdef, "2001:db8::c", "2001:db8::100", 65535, 0, 17, 0x946ab77eea8e08e4, 0x13ba6e56dba722ad),
    (0x123456789abcdef, "fe80::1", "::", 40000, 80, 6, 0xa254e0ee50dc0cad, 0x398cbec5e4dc9c57),
    (0x123456789abcdef, "fe80::1", "::", 65535, 0, 17, 0xf615a5a9f2e83c8c, 0x398cbec5e4dc9c57),
];

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

#[test]
fn hashes_are_the_golden_ones() {
    for (seed, source, destination, source_port, destination_port, protocol, hash, by_source) in
        GOLDEN
    {
        let flow = Flow {
            source: address(source),
            destination: address(destination),
            source_port,
            destination_port,
            protocol,
        };
        let key = HashKey::from_seed(seed);
        assert_eq!(flow.hash(&key), hash, "{flow:?}");
        assert_eq!(flow.source_hash(&key), by_source, "{flow:?}");
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

    /// Each field and each word of the key counts; the source hash sees the source alone.
    #[test]
    fn every_field_changes_the_hash(flow in any_flow(), bit in 0..32_u32) {
        let key = &HashKey::from_seed(1);
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
        // Of an IPv4 flow's key only the first words are read.
        let used = if flow.destination.is_v4() { KEY_WORDS_V4 } else { KEY_WORDS };
        for at in 0..used {
            let mut other = *key;
            other.0[at] ^= 2;
            prop_assert_ne!(flow.hash(&other), flow.hash(key));
        }
    }
}

/// Ports in a row, hosts in a row and both: the rows in which people number things must not meet at
/// a few slots. Chi-squared over 64 buckets; 63 degrees of freedom pass 120 once in 60,000.
#[test]
fn rows_of_flows_are_spread_evenly() {
    for seed in 0..50 {
        let key = HashKey::from_seed(seed);
        let rows: [&dyn Fn(u32) -> Flow; 4] = [
            &|i| flow4(0x0a00_000c, 32_768 + i as u16),
            &|i| flow4(0x0a00_0000 + i, 40_000),
            &|i| flow4(0x0a00_0000 + i % 64, 1_024 + (i / 64) as u16),
            &|i| Flow {
                source: Address::v6((0x2001_0db8_u128 << 96 | u128::from(i)).to_be_bytes()),
                destination: address("2001:db8::100"),
                ..flow4(0, 40_000)
            },
        ];
        for (row, flow) in rows.iter().enumerate() {
            for part in [58, 26, 34] {
                let mut counts = [0_u32; 64];
                for i in 0..6_400 {
                    counts[(flow(i).hash(&key) >> part) as usize % 64] += 1;
                }
                let chi: f64 = counts
                    .iter()
                    .map(|count| (f64::from(*count) - 100.0).powi(2) / 100.0)
                    .sum();
                assert!(
                    chi < 130.0,
                    "seed {seed}, row {row}, bits from {part}: {chi}"
                );
            }
        }
    }
}

fn flow4(source: u32, source_port: u16) -> Flow {
    Flow {
        source: Address::v4(source),
        destination: Address::v4(0x0a00_0064),
        source_port,
        destination_port: 80,
        protocol: 6,
    }
}
