//! The memory that workers decide by and count in, in pages of the test's own.

use std::net::Ipv4Addr;
use std::sync::Arc;

use pen::mapped::{Mapped, MappedMemory, Shape};
use pen_common::flow::Address;
use pen_common::tables::{Head, Mac, POOLS_MAX, Service, VIP_SLOTS, Vip, VipEntry, VipKey};
use pen_common::testing::{Words, World};

/// Rows for as many workers.
pub(crate) const WORKERS: u32 = 4;

/// Pages with the tables of `world`.
pub(crate) fn mapped(world: &World) -> Arc<Mapped> {
    let Words {
        root,
        vips,
        pools,
        slots,
        backends,
        ranges,
    } = world.words();
    let shape = Shape::new(slots.len() as u64 * 8, 0, WORKERS);
    let mapped = Mapped::of_process(shape).unwrap();
    for (bank, head) in (0..).zip(&root[1..]) {
        mapped.write_head(bank, &Head::from_words(*head), &World::key());
    }
    for (index, words) in (0..2 * VIP_SLOTS).zip(vips) {
        mapped.write_vip(index, *words);
    }
    for (index, word) in (0..2 * POOLS_MAX).zip(pools) {
        mapped.write_pool(index, *word);
    }
    for (index, word) in (0..).zip(backends) {
        mapped.write_backend(index, *word);
    }
    for (index, range) in (0..).zip(ranges) {
        mapped.write_range(index, *range);
    }
    mapped.write_slots(0, slots);
    mapped.store_root(root[0][0]);
    Arc::new(mapped)
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The only back end of [`one_vip`].
pub(crate) const BACKEND: u16 = 1;

/// All ports of one IPv4 VIP go to one back end, over TCP and UDP.
pub(crate) fn one_vip(own: Mac, vip: Ipv4Addr, backend: Mac) -> Arc<Mapped> {
    let mut world = World::new();
    let address = Address::v4(vip.to_bits());
    let service = |protocol| VipEntry {
        key: VipKey {
            address,
            port: 0,
            protocol,
        },
        vlan: 0,
        acl: 0,
        vip: Vip::Service(Service::default()),
    };
    let owner = VipEntry {
        key: VipKey::owner(address),
        vlan: 0,
        acl: 0,
        vip: Vip::Own,
    };
    for entry in [owner, service(TCP), service(UDP)] {
        world.insert_vip(entry).unwrap();
    }
    world.set_pool(0, &[BACKEND; 16]);
    world.set_backend(BACKEND, 0, backend);
    let mapped = mapped(&world);
    let [root, _, head] = world.words().root;
    assert_eq!(root[0] & 1, 1, "bank 1 is the live one");
    let head = Head::from_words(head);
    mapped.write_head(1, &Head { mac: own, ..head }, &World::key());
    mapped
}

/// The memory of one worker.
pub(crate) fn row(mapped: &Arc<Mapped>, worker: u32, finish: bool) -> MappedMemory {
    MappedMemory::new(Arc::clone(mapped), worker, finish)
}
