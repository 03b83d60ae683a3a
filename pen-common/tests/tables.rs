//! The tables as the decision reads them: VIP index, slots, fragments.

use std::collections::HashMap;

use pen_common::{
    flow::Address,
    fragment_table::{FRAGMENT_MS_MAX, FRAGMENTS, FragmentKey, FragmentOwner},
    tables::{BACKENDS_MAX, BackendEntry, Mac, PoolEntry, Service, Vip, VipEntry, VipKey},
    testing::{Full, World},
};
use proptest::prelude::*;

fn entry(address: Address, port: u16, protocol: u8, vip: Vip) -> VipEntry {
    VipEntry {
        key: VipKey {
            address,
            port,
            protocol,
        },
        vlan: port % 4_095,
        acl: (port % 16) as u8,
        vip,
    }
}

/// 1,200 VIPs of both families in neat rows, as people number them, each with two entries.
fn many() -> Vec<VipEntry> {
    let mut entries = Vec::new();
    for number in 0..1_200 {
        let address = if number % 2 == 0 {
            Address::v4(0x0a00_0000 + number)
        } else {
            Address::v6((0x2001_0db8 << 96 | u128::from(number)).to_be_bytes())
        };
        let by_source = number % 3 == 0;
        let pool = (number % 256) as u16;
        entries.push(entry(
            address,
            0,
            0,
            if by_source { Vip::Kernel } else { Vip::Own },
        ));
        entries.push(entry(
            address,
            443,
            6,
            Vip::Service(Service { pool, by_source }),
        ));
    }
    entries
}

#[test]
fn every_one_of_many_vips_is_found() {
    let mut world = World::new();
    for entry in many() {
        assert_eq!(world.insert_vip(entry), Ok(()), "{entry:?}");
    }
    let tables = world.tables();
    for entry in many() {
        assert_eq!(tables.vip(&entry.key), Some(entry));
        let VipKey { address, .. } = entry.key;
        for (port, protocol) in [(443, 17), (444, 6), (0, 6), (1, 0)] {
            let other = VipKey {
                address,
                port,
                protocol,
            };
            assert_eq!(tables.vip(&other), None, "{other:?}");
        }
    }
    assert_eq!(tables.vip(&VipKey::owner(Address::v4(0x0a00_0001))), None);
}

#[test]
fn replacing_an_entry_leaves_one() {
    let mut world = World::new();
    let old = entry(Address::v4(1), 80, 6, Vip::KernelPort);
    let new = VipEntry {
        vip: Vip::Service(Service {
            pool: 255,
            by_source: true,
        }),
        ..old
    };
    world.insert_vip(old).unwrap();
    world.insert_vip(new).unwrap();
    assert_eq!(world.tables().vip(&old.key), Some(new));
    assert_eq!(
        world
            .words()
            .vips
            .iter()
            .filter(|words| **words != [0; 4])
            .count(),
        1
    );
}

/// Entries that all begin at the same element: eight fit, and are found, the ninth is refused.
#[test]
fn index_refuses_beyond_its_probes() {
    let mut world = World::new();
    let [_, seed, ..] = world.words().root[2];
    let mut rows: HashMap<u32, Vec<VipKey>> = HashMap::new();
    let row = (0..).find_map(|number| {
        let key = VipKey::owner(Address::v4(number));
        let row = rows
            .entry(key.hash(seed) % pen_common::tables::VIP_SLOTS)
            .or_default();
        row.push(key);
        (row.len() == 9).then(|| row.clone())
    });
    let row = row.unwrap();
    let (last, first) = row.split_last().unwrap();
    for key in first {
        let entry = VipEntry {
            key: *key,
            vlan: 0,
            acl: 0,
            vip: Vip::Own,
        };
        assert_eq!(world.insert_vip(entry), Ok(()));
    }
    let refused = VipEntry {
        key: *last,
        vlan: 0,
        acl: 0,
        vip: Vip::Own,
    };
    assert_eq!(world.insert_vip(refused), Err(Full));
    assert!(first.iter().all(|key| world.tables().vip(key).is_some()));
    assert_eq!(world.tables().vip(last), None);
}

#[test]
fn slots_are_scaled_to_the_hash() {
    let mut world = World::new();
    world.set_pool(9, &[1, 2, 3, 4, 5]);
    let tables = world.tables();
    let fifth = u64::from(u32::MAX) / 5;
    for slot in 0..5 {
        let middle = fifth * slot + fifth / 2;
        assert_eq!(tables.slot(9, middle << 32), Some(slot as u16 + 1));
    }
    assert_eq!(tables.slot(9, 0), Some(1));
    assert_eq!(tables.slot(9, u64::MAX), Some(5));
    assert_eq!(tables.slot(8, 0), None);
    // Beyond the last pool the number wraps, and nothing is read past the end.
    assert_eq!(tables.slot(256 + 9, 0), Some(1));
}

#[test]
fn back_ends_have_a_mac_address_or_none() {
    let mut world = World::new();
    let last = (BACKENDS_MAX - 1) as u16;
    let entry = BackendEntry {
        mac: Mac(0xfeff_ffff_ffff),
        pool: 255,
    };
    world.set_backend(last, entry.pool, entry.mac);
    assert_eq!(world.tables().backend(last), Some(entry));
    world.set_backend(2, 7, Mac(0));
    assert_eq!(world.tables().backend(2), None);
    assert_eq!(world.tables().backend(1), None);
    assert_eq!(world.tables().backend(u16::MAX), None);
}

proptest! {
    #[test]
    fn pool_descriptor_is_one_word(region: u32, size in 0..1_u32 << 24, generation: u8) {
        let entry = PoolEntry { region, size, generation };
        prop_assert_eq!(PoolEntry::from_word(entry.to_word()), entry);
    }

    #[test]
    fn mac_keeps_its_bytes(bytes: [u8; 6]) {
        prop_assert_eq!(Mac::new(bytes).bytes(), bytes);
    }
}

fn datagram(id: u32) -> FragmentKey {
    FragmentKey {
        source: Address::v4(0x0a00_000c),
        destination: Address::v4(0x0a00_0064),
        protocol: 17,
        id,
    }
}

#[test]
fn fragments_are_remembered_for_30_seconds() {
    // Also where the clock's 16 bits of quarter seconds turn over, and in its first tick.
    for start in [
        0,
        1,
        249,
        250,
        1_000_000,
        65_535 * 250,
        65_536 * 250,
        65_536 * 250 - 15_000,
    ] {
        let world = World::new();
        for (id, owner) in [(1, FragmentOwner::Backend(7)), (2, FragmentOwner::Kernel)] {
            world.set_now_ms(start);
            world.tables().remember(&datagram(id), owner);
            for after in [0, 1, 250, 15_000, FRAGMENT_MS_MAX - 500] {
                world.set_now_ms(start + after);
                let found = world.tables().fragment(&datagram(id));
                assert_eq!(found, Some(owner), "{start} + {after}");
            }
            world.set_now_ms(start + FRAGMENT_MS_MAX + 500);
            assert_eq!(world.tables().fragment(&datagram(id)), None, "{start}");
        }
    }
}

#[test]
fn datagrams_are_told_apart() {
    let world = World::new();
    let tables = world.tables();
    let key = datagram(1);
    tables.remember(&key, FragmentOwner::Backend(1));
    tables.remember(&datagram(2), FragmentOwner::Backend(2));
    assert_eq!(tables.fragment(&key), Some(FragmentOwner::Backend(1)));
    assert_eq!(
        tables.fragment(&datagram(2)),
        Some(FragmentOwner::Backend(2))
    );
    for other in [
        FragmentKey {
            source: Address::v4(0x0a00_000d),
            ..key
        },
        FragmentKey {
            destination: Address::v4(0x0a00_0065),
            ..key
        },
        FragmentKey { protocol: 6, ..key },
        datagram(3),
        datagram(0x1_0001),
    ] {
        assert_eq!(tables.fragment(&other), None, "{other:?}");
    }
    tables.remember(&key, FragmentOwner::Kernel);
    assert_eq!(tables.fragment(&key), Some(FragmentOwner::Kernel));
}

/// A full table forgets the oldest of a set, never the newest.
#[test]
fn oldest_fragment_gives_way() {
    let world = World::new();
    let tables = world.tables();
    let newest = |id| (FRAGMENTS * 4 - id) < FRAGMENTS / 16;
    for id in 0..FRAGMENTS * 4 {
        world.set_now_ms(1_000_000 + u64::from(id) / 4);
        tables.remember(
            &datagram(id),
            FragmentOwner::Backend(1 + (id % 1_000) as u16),
        );
    }
    let found = |id| match tables.fragment(&datagram(id)) {
        None => false,
        Some(FragmentOwner::Backend(owner)) => u32::from(owner) == 1 + id % 1_000,
        Some(FragmentOwner::Kernel) => panic!("{id} is another's"),
    };
    let kept = (0..FRAGMENTS * 4).filter(|id| found(*id)).count();
    assert!(kept > FRAGMENTS as usize * 9 / 10, "{kept} of {FRAGMENTS}");
    assert!((0..FRAGMENTS * 4).filter(|id| newest(*id)).all(found));
}

#[test]
fn expired_fragments_give_way_too() {
    let world = World::new();
    let tables = world.tables();
    for round in 0..20_u64 {
        world.set_now_ms(1_000_000 + round * 60_000);
        for id in 0..1_000 {
            tables.remember(&datagram(id), FragmentOwner::Backend(1 + round as u16));
        }
        let owner = Some(FragmentOwner::Backend(1 + round as u16));
        assert!(
            (0..1_000).all(|id| tables.fragment(&datagram(id)) == owner),
            "{round}"
        );
    }
}
