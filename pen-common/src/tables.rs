//! The memory that [`crate::steer::steer`] reads and remembers in: its layout, and how it is read.
//!
//! Each part is one memory-mappable eBPF array. The kernel looks elements up, workers read the
//! same pages through `mmap`; [`Memory`] is that access, one element at a time, and everything
//! above it is written once. All words are in the machine's own byte order.
//!
//! One root word selects one of two banks of the small arrays (heads, VIP index, pools, back
//! ends, access lists). A frame reads it once, in [`Tables::read`], so no frame sees half a change.

use crate::{
    flow::{Address, Flow},
    flow_table::{self, FlowFrame},
    hash::{HashKey, KEY_WORDS, KEY_WORDS_V4},
    ranges::{self, PLACES, RANGES_MAX, TARPIT},
    verdict::Reason,
};

/// Raised when the meaning of a word below changes without its place changing: a new daemon
/// adopts the memory of the one before only if both mean the same by it.
pub const LAYOUT: u32 = 3;

/// Number of a back end: 0 is nobody; stable as long as the back end keeps its name.
pub type BackendId = u16;

/// Elements of the VIP index in one bank. A power of two, and at least eight times what is
/// inserted (a listener and its address), so that runs of full elements stay short.
pub const VIP_SLOTS: u32 = 65_536;
/// How many elements a look-up tries; insertion refuses beyond.
pub const VIP_PROBES: u32 = 8;
/// Listeners that one index takes.
pub const VIPS_MAX: usize = 4_096;
/// Pools in one bank.
pub const POOLS_MAX: u32 = 256;
/// Back ends in one bank, all pools together; number 0 stays free.
pub const BACKENDS_MAX: u32 = 16_384;
/// Back ends in one pool.
pub const BACKENDS_PER_POOL_MAX: usize = 4_096;
/// Slots in one element of the slot array.
pub const SLOTS_PER_WORD: u32 = 4;
/// Queues of one interface that can be served.
pub const QUEUES_MAX: u32 = 256;
/// A worker whose heartbeat is older than this, nanoseconds, is passed over by the program.
pub const HEARTBEAT_NS_MAX: u64 = 200_000_000;
/// Words of a bank's head.
pub const HEAD_WORDS: usize = 16;
/// Where the key of the flow hash stands in it: what IPv4 needs of it is in the same cache line as
/// the words before.
pub const KEY_AT: usize = 3;
/// Where the flow clock stands behind the root word.
pub const FLOW_CLOCK_AT: usize = 4;

const _: () = assert!(KEY_AT + KEY_WORDS <= HEAD_WORDS);
const _: () = assert!(VIP_SLOTS.is_power_of_two() && VIPS_MAX * 16 <= VIP_SLOTS as usize);
const _: () = assert!(BACKENDS_MAX - 1 <= BackendId::MAX as u32);
const _: () = assert!(BACKENDS_PER_POOL_MAX < BACKENDS_MAX as usize);

/// Access to the mapped arrays, one element at a time; `None` beyond the end.
pub trait Memory {
    /// The root word: bit 0 is the bank, the rest the generation.
    fn root(&self) -> u64;
    /// A bank's head, see [`Head`].
    fn head(&self, bank: u32) -> Option<[u64; HEAD_WORDS]>;
    /// Element of the VIP index; both banks in a row.
    fn vip(&self, index: u32) -> Option<[u64; 4]>;
    /// Pool descriptor; both banks in a row.
    fn pool(&self, index: u32) -> Option<u64>;
    /// Word of [`SLOTS_PER_WORD`] slots.
    fn slots(&self, index: u32) -> Option<u64>;
    /// Back end; both banks in a row, and behind them what `steer` does not read.
    fn backend(&self, index: u32) -> Option<u64>;
    /// Element of the access lists; both banks in a row.
    fn range(&self, index: u32) -> Option<[u64; 2]>;
    /// Element of the fragment table.
    fn fragment(&self, index: u32) -> Option<u64>;
    /// Writes an element of the fragment table.
    fn set_fragment(&self, index: u32, entry: u64);
    /// The first `N` words of a bank's key of the flow hash.
    fn key<const N: usize>(&self, bank: u32) -> Option<[u64; N]>;
    /// Element of the flow table.
    fn flow(&self, index: u32) -> Option<u64>;
    /// Writes an element of the flow table.
    fn set_flow(&self, index: u32, entry: u64);
    /// Seconds, as the daemon counts them: without one it stands still, and no flow ages.
    fn flow_clock(&self) -> u64;
    /// A clock that the host shares with the others that use this memory, milliseconds.
    fn now_ms(&self) -> u64;
    /// Whether checksums left to hardware are to be finished here.
    fn finish_checksums(&self) -> bool;
    /// Counts something that happened beside a frame's fate.
    fn note(&self, reason: Reason);

    /// [`Search::run`]; a host may keep it in a function of its own.
    #[inline(always)]
    fn find(&self, search: Search) -> u64
    where
        Self: Sized,
    {
        search.run(self)
    }

    /// [`ranges::admits`]; likewise.
    #[inline(always)]
    fn admits(&self, address: Address, place: u32) -> bool
    where
        Self: Sized,
    {
        ranges::admits(self, address, place)
    }

    /// [`flow_table::recall`]; a host may keep it in a function of its own.
    #[inline(always)]
    fn recall(&self, hash: u64, now_s: u64, frame: FlowFrame) -> BackendId
    where
        Self: Sized,
    {
        flow_table::recall(self, hash, now_s, frame)
    }

    /// [`flow_table::record`]; likewise.
    #[inline(always)]
    fn record(&self, hash: u64, now_s: u64, seen: (BackendId, FlowFrame))
    where
        Self: Sized,
    {
        flow_table::record(self, hash, now_s, seen);
    }
}

/// A look-up in the VIP index, as numbers alone.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// First half of the address.
    pub high: u64,
    /// Second half.
    pub low: u64,
    /// Port and protocol, where the element has them.
    pub tail: u64,
    /// First element of the bank.
    pub base: u32,
    /// Seed of the index.
    pub seed: u64,
}

impl Search {
    /// What the element says: VLAN in the low 16 bits, then its kind, and from bit 32 on the
    /// service; 0 if there is no such element.
    #[inline(always)]
    pub fn run<M: Memory>(self, memory: &M) -> u64 {
        let first = index_hash(self.high, self.low, self.tail, self.seed);
        let mut probe = 0;
        while probe < VIP_PROBES {
            let index = self.base + (first.wrapping_add(probe) & (VIP_SLOTS - 1));
            let Some([high, low, word, service]) = memory.vip(index) else {
                return 0;
            };
            if (word >> 16) as u8 == KIND_EMPTY {
                return 0;
            }
            if high == self.high && low == self.low && word >> 32 == self.tail >> 32 {
                return (service << 32) | (word & 0xff_ffff);
            }
            probe += 1;
        }
        0
    }
}

/// Where the index is searched first, before the bank is added.
#[inline(always)]
const fn index_hash(high: u64, low: u64, tail: u64, seed: u64) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (high ^ seed).wrapping_mul(ODD);
    hash = (hash ^ (hash >> 32) ^ low).wrapping_mul(ODD);
    hash = (hash ^ (hash >> 32) ^ (tail >> 32)).wrapping_mul(ODD);
    (hash >> 40) as u32
}

/// The few values of a bank that stand alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// The interface's own MAC address.
    pub mac: Mac,
    /// Seed of the VIP index's hash.
    pub index_seed: u64,
    /// Longest frame that the program hands to a socket, bytes.
    pub redirect_len_max: u32,
    /// Whether there is a tarpit.
    pub tarpit: bool,
}

impl Head {
    /// As words.
    pub const fn to_words(self) -> [u64; HEAD_WORDS] {
        let Self {
            mac,
            index_seed,
            redirect_len_max,
            tarpit,
        } = self;
        let mut words = [0; HEAD_WORDS];
        let few = redirect_len_max as u64 | (tarpit as u64) << 32;
        [words[0], words[1], words[2]] = [mac.0, index_seed, few];
        words
    }

    /// From words.
    #[inline(always)]
    pub const fn from_words(words: [u64; HEAD_WORDS]) -> Self {
        let [mac, index_seed, few, ..] = words;
        Self {
            mac: Mac(mac),
            index_seed,
            redirect_len_max: few as u32,
            tarpit: few >> 32 & 1 == 1,
        }
    }
}

/// A MAC address, in the low 48 bits, first byte highest; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mac(pub u64);

impl Mac {
    /// From its six bytes.
    #[inline(always)]
    pub const fn new(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// Its six bytes.
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }
}

impl core::fmt::Display for Mac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.bytes();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A back end as the tables have it. One that may not be sent to has no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendEntry {
    /// Its MAC address.
    pub mac: Mac,
    /// The one pool that it is in.
    pub pool: u16,
}

impl BackendEntry {
    /// As one word, which is not 0.
    pub const fn to_word(self) -> u64 {
        ((self.pool as u64) << 48) | self.mac.0
    }

    /// From the word; `None` without a MAC address.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        match word & 0xffff_ffff_ffff {
            0 => None,
            mac => Some(Self {
                mac: Mac(mac),
                pool: (word >> 48) as u16,
            }),
        }
    }
}

/// What a look-up in the VIP index asks for. `protocol` 0 and `port` 0 ask for the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VipKey {
    /// The VIP.
    pub address: Address,
    /// Port; 0 for all.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl VipKey {
    /// The key of the address itself, which tells who owns it.
    #[inline(always)]
    pub const fn owner(address: Address) -> Self {
        Self {
            address,
            port: 0,
            protocol: 0,
        }
    }

    /// First element to try, before the bank is added.
    #[inline(always)]
    pub const fn hash(&self, seed: u64) -> u32 {
        index_hash(self.address.high, self.address.low, tail_word(self), seed)
    }
}

/// What stands behind a key of the VIP index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vip {
    /// A DSR service.
    Service(Service),
    /// A port that a listener of this host takes: the kernel's.
    KernelPort,
    /// The address itself, which no interface of this host has: Pen answers for it.
    Own,
    /// The address itself, which the kernel has.
    Kernel,
}

/// How a DSR service is steered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Service {
    /// Its pool.
    pub pool: u16,
    /// Whether the client's address alone is hashed (Pen's form without `-r`).
    pub by_source: bool,
}

/// One full element of the VIP index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VipEntry {
    /// Key.
    pub key: VipKey,
    /// VLAN that frames must be in; 0 for any.
    pub vlan: u16,
    /// Number of the access list that clients must pass, from 1; 0 for none. Where the address
    /// itself is ours, the one that all its services have.
    pub acl: u8,
    /// Meaning.
    pub vip: Vip,
}

const KIND_EMPTY: u8 = 0;
const KIND_SERVICE: u8 = 1;
const KIND_KERNEL_PORT: u8 = 2;
const KIND_OWN: u8 = 3;
const KIND_KERNEL: u8 = 4;

impl VipEntry {
    /// As words: address, address, then port, protocol, kind and VLAN, then the service and its
    /// access list.
    pub const fn to_words(&self) -> [u64; 4] {
        let (kind, service) = match self.vip {
            Vip::Service(service) => (KIND_SERVICE, service),
            Vip::KernelPort => (
                KIND_KERNEL_PORT,
                Service {
                    pool: 0,
                    by_source: false,
                },
            ),
            Vip::Own => (
                KIND_OWN,
                Service {
                    pool: 0,
                    by_source: false,
                },
            ),
            Vip::Kernel => (
                KIND_KERNEL,
                Service {
                    pool: 0,
                    by_source: false,
                },
            ),
        };
        let tail = tail_word(&self.key) | ((kind as u64) << 16) | self.vlan as u64;
        let acl = (self.acl as u64 & ACL_MASK) << ACL_AT;
        let service = service.pool as u64 | ((service.by_source as u64) << 16) | acl;
        [self.key.address.high, self.key.address.low, tail, service]
    }
}

/// Where the number of the access list stands in the word of the service.
const ACL_AT: u64 = 17;
const ACL_MASK: u64 = PLACES as u64 - 1;

#[inline(always)]
const fn tail_word(key: &VipKey) -> u64 {
    ((key.port as u64) << 32) | ((key.protocol as u64) << 48)
}

/// Where a pool's slots stand: first word, number of slots, generation of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolEntry {
    /// First word of its region in the slot array.
    pub region: u32,
    /// Slots; 0 for a pool that nobody can serve. At most 2^24 - 1.
    pub size: u32,
    /// Counts its tables, modulo 256.
    pub generation: u8,
}

impl PoolEntry {
    /// As one word, so that a reader never sees a mixture.
    pub const fn to_word(self) -> u64 {
        ((self.region as u64) << 32)
            | ((self.size as u64 & 0xff_ffff) << 8)
            | self.generation as u64
    }

    /// From the word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            region: (word >> 32) as u32,
            size: ((word >> 8) & 0xff_ffff) as u32,
            generation: word as u8,
        }
    }
}

/// One consistent view of the memory, taken at the start of a frame.
pub struct Tables<'a, M> {
    pub(crate) memory: &'a M,
    bank: u32,
    /// The bank's head.
    pub head: Head,
    /// The generation that this frame sees.
    pub generation: u64,
}

impl<'a, M: Memory> Tables<'a, M> {
    /// Reads the root word; `None` if the memory is not what it should be.
    #[inline(always)]
    pub fn read(memory: &'a M) -> Option<Self> {
        let root = memory.root();
        let bank = (root & 1) as u32;
        let head = Head::from_words(memory.head(bank)?);
        Some(Self {
            memory,
            bank,
            head,
            generation: root >> 1,
        })
    }

    /// The entry behind a key.
    #[inline(always)]
    pub fn vip(&self, key: &VipKey) -> Option<VipEntry> {
        let found = self.memory.find(Search {
            high: key.address.high,
            low: key.address.low,
            tail: tail_word(key),
            base: self.bank * VIP_SLOTS,
            seed: self.head.index_seed,
        });
        let service = Service {
            pool: (found >> 32) as u16,
            by_source: found >> 48 & 1 == 1,
        };
        let vip = match (found >> 16) as u8 {
            KIND_EMPTY => return None,
            KIND_SERVICE => Vip::Service(service),
            KIND_KERNEL_PORT => Vip::KernelPort,
            KIND_OWN => Vip::Own,
            _ => Vip::Kernel,
        };
        Some(VipEntry {
            key: *key,
            vlan: found as u16,
            acl: (found >> (32 + ACL_AT) & ACL_MASK) as u8,
            vip,
        })
    }

    /// Whether access list `acl` lets a client pass; 0 lets everyone.
    #[inline(always)]
    pub fn admits(&self, acl: u8, client: Address) -> bool {
        acl == 0
            || self
                .memory
                .admits(client, self.bank * RANGES_MAX + u32::from(acl))
    }

    /// Whether an address is one of the tarpit's.
    #[inline(always)]
    pub fn is_trapped(&self, address: Address) -> bool {
        self.head.tarpit && self.admits(TARPIT, address)
    }

    /// [`Flow::hash`] with the bank's key, of which no more is read than needed.
    #[inline(always)]
    pub fn hash(&self, flow: &Flow) -> Option<u64> {
        Some(if flow.destination.is_v4() {
            flow.hash_v4(self.memory.key::<KEY_WORDS_V4>(self.bank)?)
        } else {
            flow.hash_v6(self.memory.key::<KEY_WORDS>(self.bank)?)
        })
    }

    /// [`Flow::source_hash`] with the bank's key.
    #[inline(always)]
    pub fn source_hash(&self, flow: &Flow) -> Option<u64> {
        Some(flow.source_hash(&HashKey(self.memory.key(self.bank)?)))
    }

    /// The back end of a pool for this hash; `None` if the pool has none.
    #[inline(always)]
    pub fn slot(&self, pool: u16, hash: u64) -> Option<BackendId> {
        let pool = u32::from(pool) & (POOLS_MAX - 1);
        let entry = PoolEntry::from_word(self.memory.pool(self.bank * POOLS_MAX + pool)?);
        // Multiplying scales the upper 32 hash bits to the table without a division (Lemire, "Fast
        // random integer generation in an interval"); an empty pool has size 0.
        let slot = (((hash >> 32) * u64::from(entry.size)) >> 32) as u32;
        if entry.size == 0 {
            return None;
        }
        let word = self.memory.slots(entry.region + slot / SLOTS_PER_WORD)?;
        match (word >> (16 * (slot % SLOTS_PER_WORD))) as BackendId {
            0 => None,
            id => Some(id),
        }
    }

    /// The back end; `None` while it may not be sent to.
    #[inline(always)]
    pub fn backend(&self, id: BackendId) -> Option<BackendEntry> {
        let at = self.bank * BACKENDS_MAX + u32::from(id);
        BackendEntry::from_word(self.memory.backend(at)?)
    }

    /// The back end that the flow with this hash went to, if `frame` goes on with that flow.
    #[inline(always)]
    pub fn recall(&self, hash: u64, frame: FlowFrame) -> Option<BackendId> {
        match self.memory.recall(hash, self.memory.flow_clock(), frame) {
            0 => None,
            id => Some(id),
        }
    }

    /// Remembers where the flow with this hash goes, of which `frame` was seen.
    #[inline(always)]
    pub fn record(&self, hash: u64, backend: BackendId, frame: FlowFrame) {
        let now_s = self.memory.flow_clock();
        self.memory.record(hash, now_s, (backend, frame));
    }

    /// Whether checksums left to hardware are to be finished here.
    #[inline(always)]
    pub fn finish_checksums(&self) -> bool {
        self.memory.finish_checksums()
    }

    /// Counts something that happened beside the frame's fate.
    #[inline(always)]
    pub fn note(&self, reason: Reason) {
        self.memory.note(reason);
    }
}
