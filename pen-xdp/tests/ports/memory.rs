//! Tables with one VIP, and counters, on the heap.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use pen::plane::Counting;
use pen_common::flow::{Address, HashKey};
use pen_common::tables::{
    BACKENDS_MAX, BackendId, HEAD_WORDS, Head, Mac, Memory, PoolEntry, Service, VIP_SLOTS, Vip,
    VipEntry, VipKey,
};
use pen_common::verdict::{COUNTERS, Reason};

/// All protocols and ports of one IPv4 VIP go to one back end.
#[derive(Clone)]
pub(crate) struct OneVip(Arc<Words>);

struct Words {
    head: Head,
    vips: Vec<[u64; 4]>,
    backend: Mac,
    finish: AtomicBool,
    counts: [AtomicU64; COUNTERS],
    bytes: AtomicU64,
    beats: AtomicU64,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

impl OneVip {
    pub(crate) fn new(own: Mac, vip: Ipv4Addr, backend: Mac, finish: bool) -> Self {
        let head = Head {
            mac: own,
            index_seed: 7,
            key: HashKey { k0: 1, k1: 2 },
            redirect_len_max: u32::MAX,
        };
        let address = Address::v4(vip.to_bits());
        let service = Vip::Service(Service::default());
        let key = |protocol| VipKey {
            address,
            port: 0,
            protocol,
        };
        let mut vips = vec![[0; 4]; VIP_SLOTS as usize];
        for (key, vip) in [
            (VipKey::owner(address), Vip::Own),
            (key(TCP), service),
            (key(UDP), service),
        ] {
            let mut slot = key.hash(head.index_seed) as usize % vips.len();
            while vips[slot] != [0; 4] {
                slot = (slot + 1) % vips.len();
            }
            vips[slot] = VipEntry { key, vlan: 0, vip }.to_words();
        }
        Self(Arc::new(Words {
            head,
            vips,
            backend,
            finish: AtomicBool::new(finish),
            counts: [const { AtomicU64::new(0) }; COUNTERS],
            bytes: AtomicU64::new(0),
            beats: AtomicU64::new(0),
        }))
    }

    pub(crate) fn count_of(&self, reason: Reason) -> u64 {
        self.0.counts[reason as usize].load(Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    pub(crate) fn beats(&self) -> u64 {
        self.0.beats.load(Relaxed)
    }
}

impl Counting for OneVip {
    fn count(&self, reason: Reason) {
        self.0.counts[reason as usize].fetch_add(1, Relaxed);
    }

    fn traffic(&self, backend: BackendId, bytes: u64) {
        assert_eq!(backend, 1);
        self.0.bytes.fetch_add(bytes, Relaxed);
    }

    fn heartbeat(&self, _queue: u32, _now_ns: u64) {
        self.0.beats.fetch_add(1, Relaxed);
    }
}

impl Memory for OneVip {
    fn root(&self) -> u64 {
        2
    }

    fn head(&self, _bank: u32) -> Option<[u64; HEAD_WORDS]> {
        Some(self.0.head.to_words())
    }

    fn vip(&self, index: u32) -> Option<[u64; 4]> {
        self.0.vips.get(index as usize).copied()
    }

    fn pool(&self, _index: u32) -> Option<u64> {
        let entry = PoolEntry {
            region: 0,
            size: 4,
            generation: 1,
        };
        Some(entry.to_word())
    }

    fn slots(&self, _index: u32) -> Option<u64> {
        Some(0x0001_0001_0001_0001)
    }

    fn backend(&self, index: u32) -> Option<u64> {
        (index % BACKENDS_MAX == 1).then_some(self.0.backend.0)
    }

    fn fragment(&self, _index: u32) -> Option<u64> {
        Some(0)
    }

    fn set_fragment(&self, _index: u32, _entry: u64) {}

    fn now_ms(&self) -> u64 {
        1_000
    }

    fn finish_checksums(&self) -> bool {
        self.0.finish.load(Relaxed)
    }

    fn note(&self, reason: Reason) {
        self.count(reason);
    }
}
