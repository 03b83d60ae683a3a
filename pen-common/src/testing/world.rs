//! A [`Memory`] on the heap with its own simple writer, and the small network that [`CASES`] play
//! in.
//!
//! [`CASES`]: super::CASES

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::{
    flow::Address,
    flow_table::FLOWS,
    fragment_table::FRAGMENTS,
    frame::SliceFrame,
    hash::{HashKey, KEY_WORDS},
    packet::{TCP, UDP},
    ranges::{self, RANGES_MAX, TARPIT},
    steer::steer,
    tables::{
        BACKENDS_MAX, BackendEntry, BackendId, HEAD_WORDS, Head, KEY_AT, Mac, Memory, POOLS_MAX,
        PoolEntry, SLOTS_PER_WORD, Service, Tables, VIP_PROBES, VIP_SLOTS, Vip, VipEntry, VipKey,
    },
    verdict::{COUNTERS, Reason, Verdict},
};

/// Stations, addresses and pools of [`World::example`].
pub mod net {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use crate::tables::{BackendId, Mac};

    const fn address6(group: u16, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, group, 0, 0, 0, 0, host)
    }

    /// Pen's interface.
    pub const PEN: Mac = Mac(0x0200_0000_0001);
    /// The client, or the router before it.
    pub const CLIENT: Mac = Mac(0x0200_0000_000c);
    /// A station that Pen has nothing to do with.
    pub const STRANGER: Mac = Mac(0x0200_0000_0099);
    /// All stations.
    pub const BROADCAST: Mac = Mac(0xffff_ffff_ffff);
    /// All IPv6 nodes of the link.
    pub const ALL_NODES: Mac = Mac(0x3333_0000_0001);

    /// MAC address of a back end.
    pub const fn backend(id: BackendId) -> Mac {
        Mac(0x0200_00be_0000 | id as u64)
    }

    /// The client.
    pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 12);
    /// The client.
    pub const CLIENT6: Ipv6Addr = address6(0, 0xc);
    /// A router that sends ICMP errors.
    pub const ROUTER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// A router that sends ICMPv6 errors.
    pub const ROUTER6: Ipv6Addr = address6(0xffff, 1);

    /// A VIP that Pen answers for. TCP 80 and UDP 53 to [`ONE`], 81 to [`WEB`], 82 to [`WEB`] by
    /// source, 83 to [`EMPTY`], 84 to [`NOBODY`], 85 to [`NO_MAC`], 86 to [`WEIGHTED`], 87 to
    /// [`LAST`], 88 to [`ONE`] by [`LIST_2`], as UDP 88, 90 to [`TWO`] in VLAN 10 only, UDP 81 to
    /// [`WEB`].
    pub const VIP4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
    /// The same for IPv6.
    pub const VIP6: Ipv6Addr = address6(0, 0x100);
    /// A VIP that Pen answers for: every TCP port to [`ONE`], but 80 to [`TWO`], and every UDP
    /// port to [`TWO`].
    pub const ALL4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 120);
    /// The same for IPv6.
    pub const ALL6: Ipv6Addr = address6(0, 0x120);
    /// A VIP in VLAN 10 that Pen answers for, TCP 80 to [`ONE`].
    pub const TAGGED4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 110);
    /// The same for IPv6.
    pub const TAGGED6: Ipv6Addr = address6(0, 0x110);
    /// A VIP that Pen answers for, whose services all go by [`LIST_1`]: TCP 80 and UDP 53 to
    /// [`ONE`].
    pub const GUARDED4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 130);
    /// The same for IPv6.
    pub const GUARDED6: Ipv6Addr = address6(0, 0x130);
    /// A VIP that the kernel owns: TCP 80 and UDP 53 to [`ONE`], TCP 88 by [`LIST_2`], TCP 443 a
    /// listener's.
    pub const KERNEL4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);
    /// The same for IPv6.
    pub const KERNEL6: Ipv6Addr = address6(0, 0x200);
    /// A VIP that the kernel owns: every TCP port to [`ONE`], but 443 a listener's.
    pub const KERNEL_ALL4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 201);
    /// The same for IPv6.
    pub const KERNEL_ALL6: Ipv6Addr = address6(0, 0x201);
    /// One of the tarpit's addresses: 10.0.0.224/29 without [`NOT_TRAPPED4`], and
    /// 2001:db8:0:e::/64.
    pub const TRAPPED4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 225);
    /// The same for IPv6.
    pub const TRAPPED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0xe, 0, 0, 0, 5);
    /// An address between the tarpit's that is left out of it.
    pub const NOT_TRAPPED4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 227);
    /// An address that is no VIP.
    pub const OTHER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);
    /// An address that is no VIP.
    pub const OTHER6: Ipv6Addr = address6(0, 0x50);

    /// The access list that lets 10.0.0.0/24 pass without 10.0.0.64/26, and 2001:db8::/48.
    pub const LIST_1: u8 = 1;
    /// The one that lets everybody pass but [`CLIENT4`] and [`CLIENT6`].
    pub const LIST_2: u8 = 2;

    /// Back end 1.
    pub const ONE: u16 = 1;
    /// Back end 2.
    pub const TWO: u16 = 2;
    /// Back ends 1, 2, 3 in three slots.
    pub const WEB: u16 = 3;
    /// A table without slots.
    pub const EMPTY: u16 = 4;
    /// Slots that hold nobody.
    pub const NOBODY: u16 = 5;
    /// Back end 9, which has no MAC address.
    pub const NO_MAC: u16 = 6;
    /// Back end 1 in three slots, back end 2 in one.
    pub const WEIGHTED: u16 = 7;
    /// The last pool, with the last back end.
    pub const LAST: u16 = 255;
    /// The last back end.
    pub const LAST_BACKEND: BackendId = 16_383;
}

/// The memory as words, for hosts that keep it elsewhere. The small arrays have both banks in a
/// row; `slots` ends with the last used word.
#[derive(Debug, Clone)]
pub struct Words {
    /// The root word in the first element, then the two banks' heads.
    pub root: [[u64; HEAD_WORDS]; 3],
    /// The VIP index.
    pub vips: Vec<[u64; 4]>,
    /// Pool descriptors.
    pub pools: Vec<u64>,
    /// Slots, [`SLOTS_PER_WORD`] in a word.
    pub slots: Vec<u64>,
    /// Back ends' MAC addresses.
    pub backends: Vec<u64>,
    /// Access lists.
    pub ranges: Vec<[u64; 2]>,
}

/// The VIP index has no place for a key within its probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Tables on the heap, a clock that stands still until it is set, and counters of notes.
///
/// Bank 1 is the live one; bank 0 holds what must never be read.
#[derive(Debug)]
pub struct World {
    words: Words,
    fragments: Vec<AtomicU64>,
    flows: Vec<AtomicU64>,
    now_ms: AtomicU64,
    finish: AtomicBool,
    notes: [AtomicU64; COUNTERS],
}

const BANK: u32 = 1;
const POISON: u64 = 0x02de_adde_adde;

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// No VIPs; Pen's MAC address, a seed and a key.
    pub fn new() -> Self {
        let head = |mac| Head {
            mac,
            index_seed: 0x5eed_5eed_5eed_5eed,
            redirect_len_max: 3_000,
            tarpit: mac == net::PEN,
        };
        let generation = 7;
        let mut root = [[0; HEAD_WORDS]; 3];
        root[0][0] = generation << 1 | u64::from(BANK);
        root[1] = head(Mac(POISON)).to_words();
        root[2] = head(net::PEN).to_words();
        root[2][KEY_AT..KEY_AT + KEY_WORDS].copy_from_slice(&Self::key().0);
        let mut backends = vec![0; 2 * BACKENDS_MAX as usize];
        backends[..BACKENDS_MAX as usize].fill(POISON);
        let mut ranges = vec![[0; 2]; 2 * RANGES_MAX as usize];
        ranges[..RANGES_MAX as usize].fill([POISON; 2]);
        Self {
            words: Words {
                root,
                vips: vec![[0; 4]; 2 * VIP_SLOTS as usize],
                pools: vec![0; 2 * POOLS_MAX as usize],
                // No region starts at 0, so that a descriptor that was not written shows.
                slots: vec![0; 3],
                backends,
                ranges,
            },
            fragments: (0..FRAGMENTS).map(|_| AtomicU64::new(0)).collect(),
            flows: (0..FLOWS).map(|_| AtomicU64::new(0)).collect(),
            now_ms: AtomicU64::new(1_000_000),
            finish: AtomicBool::new(false),
            notes: [const { AtomicU64::new(0) }; COUNTERS],
        }
    }

    /// The key of its flow hash.
    pub fn key() -> HashKey {
        // A seed under which the flows of CASES are spread over all three back ends of WEB.
        HashKey::from_seed(3_000_475)
    }

    /// The network of [`net`].
    pub fn example() -> Self {
        let mut world = Self::new();
        for id in [1, 2, 3, net::LAST_BACKEND] {
            let pool = if id == net::LAST_BACKEND {
                net::LAST
            } else {
                net::WEB
            };
            world.set_backend(id, pool, net::backend(id));
        }
        for (pool, slots) in [
            (net::ONE, &[1][..]),
            (net::TWO, &[2]),
            (net::WEB, &[1, 2, 3]),
            (net::EMPTY, &[]),
            (net::NOBODY, &[0, 0, 0]),
            (net::NO_MAC, &[9]),
            (net::WEIGHTED, &[1, 1, 1, 2]),
            (net::LAST, &[net::LAST_BACKEND; 5]),
        ] {
            world.set_pool(pool, slots);
        }
        world.set_lists(&[
            (net::LIST_1, list_1()),
            (net::LIST_2, list_2()),
            (TARPIT, tarpit()),
        ]);
        let addresses: [[Address; 6]; 2] = [
            [
                net::VIP4,
                net::ALL4,
                net::TAGGED4,
                net::KERNEL4,
                net::KERNEL_ALL4,
                net::GUARDED4,
            ]
            .map(|address| Address::v4(address.to_bits())),
            [
                net::VIP6,
                net::ALL6,
                net::TAGGED6,
                net::KERNEL6,
                net::KERNEL_ALL6,
                net::GUARDED6,
            ]
            .map(|address| Address::v6(address.octets())),
        ];
        for family in addresses {
            for entry in example_vips(family) {
                world.insert_vip(entry).expect("the example is small");
            }
        }
        world
    }

    /// Inserts an entry into the VIP index, or replaces the one with its key.
    pub fn insert_vip(&mut self, entry: VipEntry) -> Result<(), Full> {
        let [_, seed, ..] = self.words.root[1 + BANK as usize];
        let words = entry.to_words();
        for probe in 0..VIP_PROBES {
            let slot = (entry.key.hash(seed) + probe) % VIP_SLOTS;
            let place = &mut self.words.vips[(BANK * VIP_SLOTS + slot) as usize];
            let same = place[..2] == words[..2] && place[2] >> 32 == words[2] >> 32;
            if *place == [0; 4] || same {
                *place = words;
                return Ok(());
            }
        }
        Err(Full)
    }

    /// Gives a pool these slots, in a new region.
    pub fn set_pool(&mut self, pool: u16, slots: &[BackendId]) {
        let entry = PoolEntry {
            region: self.words.slots.len() as u32,
            size: slots.len() as u32,
            generation: 1,
        };
        for chunk in slots.chunks(SLOTS_PER_WORD as usize) {
            let word = chunk
                .iter()
                .rev()
                .fold(0, |word, id| word << 16 | u64::from(*id));
            self.words.slots.push(word);
        }
        self.words.pools[BANK as usize * POOLS_MAX as usize + usize::from(pool)] = entry.to_word();
    }

    /// Sets all access lists: each by its number, and where its ranges begin and end.
    pub fn set_lists(&mut self, lists: &[(u8, Vec<Address>)]) {
        let rows = lists.iter().map(|(number, row)| (*number, row.as_slice()));
        let elements = ranges::pack(rows).expect("a test's lists are small");
        let first = (BANK * RANGES_MAX) as usize;
        self.words.ranges[first..].fill([0; 2]);
        self.words.ranges[first..first + elements.len()].copy_from_slice(&elements);
    }

    /// Sets a back end's pool, whose flows it may keep, and MAC address; `Mac(0)` for none.
    pub fn set_backend(&mut self, id: BackendId, pool: u16, mac: Mac) {
        let word = BackendEntry { mac, pool }.to_word();
        self.words.backends[BANK as usize * BACKENDS_MAX as usize + usize::from(id)] = word;
    }

    /// Sets the clock, milliseconds.
    pub fn set_now_ms(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Relaxed);
    }

    /// Whether checksums left to hardware are to be finished; not at first.
    pub fn set_finish(&self, finish: bool) {
        self.finish.store(finish, Relaxed);
    }

    /// How often a note was counted.
    pub fn noted(&self, reason: Reason) -> u64 {
        self.notes[reason as usize].load(Relaxed)
    }

    /// All that a host needs to hold the same tables; the fragment table begins empty.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// The view of one frame.
    pub fn tables(&self) -> Tables<'_, Self> {
        Tables::read(self).expect("a world has both heads")
    }

    /// The slice host: steers a copy of the frame, with room for it to grow.
    pub fn steer(&self, frame: &[u8]) -> (Verdict, Vec<u8>) {
        let mut buffer = frame.to_vec();
        buffer.resize(frame.len() + 64, 0xee);
        let mut slice = SliceFrame::new(&mut buffer, frame.len());
        let verdict = steer(&mut slice, &self.tables());
        (verdict, slice.bytes().to_vec())
    }
}

/// Ends of ranges, as [`net::LIST_1`] says.
fn list_1() -> Vec<Address> {
    let v4 = [0, 64, 128, 256].map(|at| Address::v4(0x0a00_0000 + at));
    let v6 = [0, 1].map(|at| Address {
        high: 0x2001_0db8_0000_0000 + (at << 16),
        low: 0,
    });
    [&v4[..], &v6].concat()
}

/// Ends of ranges, as [`net::LIST_2`] says. The last one has none.
fn list_2() -> Vec<Address> {
    let v4 = Address::v4(net::CLIENT4.to_bits());
    let v6 = Address::v6(net::CLIENT6.octets());
    let behind = |address: Address| Address {
        low: address.low + 1,
        ..address
    };
    vec![Address::default(), v4, behind(v4), v6, behind(v6)]
}

/// Ends of ranges, as [`net::TRAPPED4`] says.
fn tarpit() -> Vec<Address> {
    let v4 = [224, 227, 228, 232].map(|at| Address::v4(0x0a00_0000 + at));
    let v6 = [0xe, 0xf].map(|at| Address {
        high: 0x2001_0db8_0000_0000 + at,
        low: 0,
    });
    [&v4[..], &v6].concat()
}

/// The entries of one address family: the six addresses in the order of [`net`].
fn example_vips(addresses: [Address; 6]) -> Vec<VipEntry> {
    let [vip, all, tagged, kernel, kernel_all, guarded] = addresses;
    let mut entries = Vec::new();
    let mut add = |address, protocol, port, vlan, vip| {
        let key = VipKey {
            address,
            port,
            protocol,
        };
        let acl = match port {
            88 => net::LIST_2,
            _ if address == guarded => net::LIST_1,
            _ => 0,
        };
        entries.push(VipEntry {
            key,
            vlan,
            acl,
            vip,
        });
    };
    let to = |pool| {
        Vip::Service(Service {
            pool,
            by_source: false,
        })
    };
    for (address, vlan, owner) in [
        (vip, 0, Vip::Own),
        (all, 0, Vip::Own),
        (tagged, 10, Vip::Own),
        (kernel, 0, Vip::Kernel),
        (kernel_all, 0, Vip::Kernel),
        (guarded, 0, Vip::Own),
    ] {
        add(address, 0, 0, vlan, owner);
    }
    for (port, pool) in [
        (80, net::ONE),
        (81, net::WEB),
        (83, net::EMPTY),
        (84, net::NOBODY),
        (85, net::NO_MAC),
        (86, net::WEIGHTED),
        (87, net::LAST),
        (88, net::ONE),
    ] {
        add(vip, TCP, port, 0, to(pool));
    }
    add(
        vip,
        TCP,
        82,
        0,
        Vip::Service(Service {
            pool: net::WEB,
            by_source: true,
        }),
    );
    add(vip, TCP, 90, 10, to(net::TWO));
    add(vip, UDP, 53, 0, to(net::ONE));
    add(vip, UDP, 81, 0, to(net::WEB));
    add(vip, UDP, 88, 0, to(net::ONE));
    add(guarded, TCP, 80, 0, to(net::ONE));
    add(guarded, UDP, 53, 0, to(net::ONE));
    add(kernel, TCP, 88, 0, to(net::ONE));
    add(all, TCP, 0, 0, to(net::ONE));
    add(all, TCP, 80, 0, to(net::TWO));
    add(all, UDP, 0, 0, to(net::TWO));
    add(tagged, TCP, 80, 10, to(net::ONE));
    add(kernel, TCP, 80, 0, to(net::ONE));
    add(kernel, UDP, 53, 0, to(net::ONE));
    add(kernel, TCP, 443, 0, Vip::KernelPort);
    add(kernel_all, TCP, 0, 0, to(net::ONE));
    add(kernel_all, TCP, 443, 0, Vip::KernelPort);
    entries
}

impl Memory for World {
    #[inline(always)]
    fn root(&self) -> u64 {
        self.words.root[0][0]
    }

    #[inline(always)]
    fn head(&self, bank: u32) -> Option<[u64; HEAD_WORDS]> {
        self.words.root.get(1 + bank as usize).copied()
    }

    #[inline(always)]
    fn vip(&self, index: u32) -> Option<[u64; 4]> {
        self.words.vips.get(index as usize).copied()
    }

    #[inline(always)]
    fn pool(&self, index: u32) -> Option<u64> {
        self.words.pools.get(index as usize).copied()
    }

    #[inline(always)]
    fn slots(&self, index: u32) -> Option<u64> {
        self.words.slots.get(index as usize).copied()
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<u64> {
        self.words.backends.get(index as usize).copied()
    }

    #[inline(always)]
    fn range(&self, index: u32) -> Option<[u64; 2]> {
        self.words.ranges.get(index as usize).copied()
    }

    #[inline(always)]
    fn fragment(&self, index: u32) -> Option<u64> {
        Some(self.fragments.get(index as usize)?.load(Relaxed))
    }

    #[inline(always)]
    fn set_fragment(&self, index: u32, entry: u64) {
        if let Some(place) = self.fragments.get(index as usize) {
            place.store(entry, Relaxed);
        }
    }

    #[inline(always)]
    fn key<const N: usize>(&self, bank: u32) -> Option<[u64; N]> {
        let head = self.words.root.get(1 + bank as usize)?;
        head.get(KEY_AT..KEY_AT + N)?.try_into().ok()
    }

    #[inline(always)]
    fn flow(&self, index: u32) -> Option<u64> {
        Some(self.flows.get(index as usize)?.load(Relaxed))
    }

    #[inline(always)]
    fn set_flow(&self, index: u32, entry: u64) {
        if let Some(place) = self.flows.get(index as usize) {
            place.store(entry, Relaxed);
        }
    }

    #[inline(always)]
    fn flow_clock(&self) -> u64 {
        self.now_ms.load(Relaxed) / 1_000
    }

    #[inline(always)]
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Relaxed)
    }

    #[inline(always)]
    fn finish_checksums(&self) -> bool {
        self.finish.load(Relaxed)
    }

    #[inline(always)]
    fn note(&self, reason: Reason) {
        if let Some(count) = self.notes.get(reason as usize) {
            count.fetch_add(1, Relaxed);
        }
    }
}
