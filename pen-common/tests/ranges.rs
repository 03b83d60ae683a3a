//! Access lists in the tables say what the lists say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pen_common::{
    config::{Acl, AclLine},
    testing::World,
};
use proptest::prelude::*;

/// Networks that lie in and beside each other, so that lines hide parts of others.
fn network() -> impl Strategy<Value = (IpAddr, u8)> {
    let v4 = (any::<u32>(), any::<u32>(), 0..=32_u8).prop_map(|(bits, near, prefix)| {
        let address = 0x0a00_0000 ^ (bits & near & 0x0000_0f0f);
        (IpAddr::V4(Ipv4Addr::from_bits(address)), prefix)
    });
    let v6 = (any::<u8>(), any::<u128>(), 0..=128_u8).prop_map(|(bits, far, prefix)| {
        let near = 0x2001_0db8 << 96 | u128::from(bits) << 60 | u128::from(bits & 3);
        let mapped = 0xffff_0000_0000 ^ u128::from(bits & 3) << 31;
        let address = [near, near, mapped, far][usize::from(bits % 4)];
        (IpAddr::V6(Ipv6Addr::from_bits(address)), prefix)
    });
    prop_oneof![v4, v6]
}

fn masked((address, prefix): (IpAddr, u8)) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

fn list() -> impl Strategy<Value = Acl> {
    let line = (any::<bool>(), network()).prop_map(|(permit, (address, prefix))| AclLine {
        permit,
        network: masked((address, prefix)),
        prefix,
    });
    prop::collection::vec(line, 0..14).prop_map(|lines| Acl { lines })
}

/// First and last address of each line's network, and their neighbours.
fn edges(acl: &Acl) -> Vec<IpAddr> {
    let edges = acl.lines.iter().flat_map(|line| match line.network {
        IpAddr::V4(v4) => {
            let free = u32::MAX.checked_shr(u32::from(line.prefix)).unwrap_or(0);
            let (first, last) = (v4.to_bits(), v4.to_bits() | free);
            let all = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
            all.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
        }
        IpAddr::V6(v6) => {
            let free = u128::MAX.checked_shr(u32::from(line.prefix)).unwrap_or(0);
            let (first, last) = (v6.to_bits(), v6.to_bits() | free);
            let all = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
            all.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
    });
    edges.collect()
}

const ALWAYS: [&str; 8] = [
    "0.0.0.0",
    "255.255.255.255",
    "::",
    "::fffe:ffff:ffff",
    "::1:0:0:0",
    "2001:db8::",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "10.0.0.1",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn tables_say_what_lists_say(
        acl in list(),
        other in list(),
        near in prop::collection::vec(network(), 20),
    ) {
        WORLD.with_borrow_mut(|world| {
            // The other one stands in front of it, or behind.
            let (ours, others) = if acl.lines.len() % 2 == 0 { (1, 2) } else { (2, 1) };
            world.set_lists(&[(1, if ours == 1 { acl.ranges() } else { other.ranges() }),
                (2, if ours == 2 { acl.ranges() } else { other.ranges() })]);
            let tables = world.tables();
            let always = ALWAYS.iter().map(|text| text.parse().unwrap());
            let near = near.iter().map(|(address, _)| *address);
            let addresses = edges(&acl).into_iter().chain(edges(&other)).chain(always).chain(near);
            for address in addresses.map(|address| address.to_canonical()) {
                for (number, acl) in [(ours, &acl), (others, &other)] {
                    let said = tables.admits(number, address.into());
                    prop_assert_eq!(said, acl.permits(address), "{} by {:?}", address, acl);
                }
            }
            Ok(())
        })?;
    }

    /// Rising, none twice: ranges that touch are one.
    #[test]
    fn ranges_are_sorted_and_merged(acl in list()) {
        let ends = acl.ranges();
        prop_assert!(ends.is_sorted_by(|a, b| a < b), "{ends:?}");
        prop_assert!(ends.len() <= 2 * acl.lines.len() + 3, "{ends:?}");
    }
}

thread_local! {
    static WORLD: std::cell::RefCell<World> = World::new().into();
}

#[test]
fn who_is_in_no_list_passes_and_who_is_in_an_unknown_one_does_not() {
    let world = World::new();
    let tables = world.tables();
    let client = IpAddr::from([10, 0, 0, 1]).into();
    assert!(tables.admits(0, client));
    assert!(!tables.admits(3, client));
}

/// Every length of row, so that each way through the search is gone.
#[test]
fn rows_of_every_length_are_searched_whole() {
    let mut world = World::new();
    for len in (0..70).chain([127, 128, 129, 4_095, 4_096, 4_097, 65_519]) {
        let address = |number: u32| pen_common::flow::Address::v4(number);
        let row: Vec<_> = (0..len).map(|at| address(100 + at * 2)).collect();
        world.set_lists(&[(9, row)]);
        let tables = world.tables();
        let last = 100 + len * 2;
        let tried = (98..200).chain(last.saturating_sub(9)..last + 9);
        for number in tried {
            let not_above = len.min(number.saturating_sub(98) / 2);
            let passes = not_above % 2 == 1;
            assert_eq!(
                tables.admits(9, address(number)),
                passes,
                "{number} of {len}"
            );
        }
    }
}
