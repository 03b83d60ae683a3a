//! The data plane's whole input, compiled from a [`State`]: immutable, with a generation.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use pen_common::{
    config::{Backend, Config, HashBy, Pool, Protocol, RangesFull, Rows},
    flow::Address,
    hash::{HashKey, NameKey},
    maglev::{self, Member},
    packet,
    ranges::TARPIT,
    tables::{
        BackendEntry, BackendId, Head, Service, VIP_PROBES, VIP_SLOTS, VIPS_MAX, Vip, VipEntry,
        VipKey,
    },
};

use super::state::{Standing, State};

/// Seeds of the VIP index that are tried before it counts as full.
const INDEX_SEEDS: u64 = 64;

/// What the data plane steers by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Counts publications; a frame, a worker and a reply all name it.
    pub generation: u64,
    /// The few values that stand alone.
    pub head: Head,
    /// Key of the flow hash.
    pub key: HashKey,
    /// Elements of the VIP index that are not empty.
    pub index: BTreeMap<u32, VipEntry>,
    /// In the order of the configuration, which is also their number.
    pub pools: Vec<PoolTable>,
    /// Whose each number is, see [`State::identities`].
    pub identities: BTreeMap<BackendId, u64>,
    /// The access lists that services go by, see [`Config::acl_rows`].
    pub acls: Rows,
    /// The back ends that may be sent frames.
    pub backends: BTreeMap<BackendId, BackendEntry>,
}

/// One pool's Maglev table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTable {
    /// The pool.
    pub name: String,
    /// What the table was built from: two equal lists give equal tables.
    pub members: Vec<(BackendId, String, u32)>,
    /// One back end a slot; shared with the snapshot before if nothing changed.
    pub slots: Arc<Vec<BackendId>>,
}

/// The VIP index can't take what is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} VIPs and listeners do not fit into the index of {VIP_SLOTS}; serve fewer")]
pub struct IndexFull(usize);

/// The tables can't take what is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TablesFull {
    /// Too many VIPs.
    #[error(transparent)]
    Index(#[from] IndexFull),
    /// Too long access lists.
    #[error(transparent)]
    Ranges(#[from] RangesFull),
}

impl Snapshot {
    /// Compiles `state`; tables of pools that did not change are taken over from `before`.
    ///
    /// # Errors
    /// When the VIP index or the access lists' part is full.
    pub fn compile(state: &State, before: Option<&Self>) -> Result<Self, TablesFull> {
        let entries = entries(state);
        let (index_seed, index) = index(&entries)?;
        let key = NameKey::from_seed(state.config().seed);
        let pools = state.config().dsr_pools();
        let mut backends = BTreeMap::new();
        for (number, pool) in (0..).zip(pools.clone()) {
            for backend in &pool.backends {
                let mac = match state.standing(&pool.name, backend) {
                    Standing::Serving => state.mac_of(backend.address),
                    // Without weight, or without its name, it keeps the flows that it has, and
                    // any while it may only have been missed for a moment.
                    Standing::NoWeight | Standing::Gone | Standing::NoMac => {
                        let mac = state.mac_of(backend.address);
                        mac.or_else(|| state.last_mac_of(backend.address))
                    }
                    Standing::Blacklisted(_) => None,
                };
                if let Some(mac) = mac {
                    let id = state.id(&pool.name, &backend.name);
                    backends.insert(id, BackendEntry { mac, pool: number });
                }
            }
        }
        let redirect_len_max = state.redirect_len_max();
        let acls = state.config().acl_rows(&state.others())?;
        Ok(Self {
            generation: before.map_or(1, |before| before.generation + 1),
            head: Head {
                mac: state.mac(),
                index_seed,
                redirect_len_max,
                tarpit: acls.contains_key(&TARPIT),
            },
            key: HashKey::from_seed(state.config().seed),
            index,
            pools: pools.map(|pool| table(state, pool, key, before)).collect(),
            identities: state.identities().collect(),
            acls,
            backends,
        })
    }

    /// Whether the tarpit takes addresses of IPv6.
    pub fn traps_v6(&self) -> bool {
        let row = self.acls.get(&TARPIT);
        row.is_some_and(|row| row.iter().any(|end| !end.is_v4()))
    }

    /// Whether the data plane would behave differently under `other`.
    pub fn differs(&self, other: &Self) -> bool {
        let Self {
            generation: _,
            // They change with the pools.
            identities: _,
            head,
            key,
            index,
            pools,
            acls,
            backends,
        } = self;
        *head != other.head
            || *key != other.key
            || *index != other.index
            || *pools != other.pools
            || *acls != other.acls
            || *backends != other.backends
    }
}

/// One entry for every listener, and one for every address that says who owns it.
fn entries(state: &State) -> Vec<VipEntry> {
    let config = state.config();
    let mut entries = Vec::new();
    let mut owners: BTreeMap<IpAddr, Owner> = BTreeMap::new();
    for service in config.dsr_services() {
        let pool = config
            .dsr_pools()
            .position(|pool| pool.name == service.pool);
        let vlan = service.vlan.unwrap_or_default();
        let acl = config.table_acl(service.proxy.client_acl);
        for listener in &service.listeners {
            owners
                .entry(listener.address)
                .and_modify(|owner| owner.join(vlan, acl))
                .or_insert(Owner { vlan, acl });
            let key = VipKey {
                address: listener.address.into(),
                port: listener.port,
                protocol: number_of(listener.protocol),
            };
            // The configuration's check holds every service to a pool that exists.
            let pool = pool.unwrap_or_default() as u16;
            let by_source = service.hash == HashBy::Source;
            entries.push(VipEntry {
                key,
                vlan,
                acl,
                vip: Vip::Service(Service { pool, by_source }),
            });
        }
    }
    entries.extend(kernel_ports(config));
    entries.extend(owners.into_iter().map(|(address, Owner { vlan, acl })| {
        let (vip, acl) = match state.is_local(address) {
            // Not all that comes there is for services in DSR.
            true => (Vip::Kernel, 0),
            false => (Vip::Own, acl),
        };
        VipEntry {
            key: VipKey::owner(Address::from(address)),
            vlan,
            acl,
            vip,
        }
    }));
    entries
}

/// What is said of an address itself: VLAN and access list, as far as all its services have the same
/// ones; else 0.
struct Owner {
    vlan: u16,
    acl: u8,
}

impl Owner {
    fn join(&mut self, vlan: u16, acl: u8) {
        if self.vlan != vlan {
            self.vlan = 0;
        }
        if self.acl != acl {
            self.acl = 0;
        }
    }
}

/// Ports of the proxy's own on addresses whose other ports are all forwarded: the kernel takes
/// them.
fn kernel_ports(config: &Config) -> impl Iterator<Item = VipEntry> + '_ {
    let listeners = config.dsr_services().flat_map(|service| &service.listeners);
    let all_ports = listeners.filter(|listener| listener.port == 0);
    let ours = config.proxy_services().flat_map(|s| &s.listeners);
    let ports = all_ports.flat_map(move |vip| {
        let here = ours.clone().filter(move |listener| {
            // `::` takes clients of both families.
            let all = listener.address.is_unspecified()
                && (listener.address.is_ipv6() || vip.address.is_ipv4());
            listener.protocol == vip.protocol && (listener.address == vip.address || all)
        });
        here.map(move |listener| (vip.address, vip.protocol, listener.port))
    });
    let ports: BTreeSet<(IpAddr, Protocol, u16)> = ports.collect();
    ports.into_iter().map(|(address, protocol, port)| VipEntry {
        key: VipKey {
            address: address.into(),
            port,
            protocol: number_of(protocol),
        },
        vlan: 0,
        acl: 0,
        vip: Vip::KernelPort,
    })
}

const fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => packet::TCP,
        Protocol::Udp => packet::UDP,
    }
}

/// Places the entries so that each is found within [`VIP_PROBES`] look-ups.
fn index(entries: &[VipEntry]) -> Result<(u64, BTreeMap<u32, VipEntry>), IndexFull> {
    let full = IndexFull(entries.len());
    if entries.len() > 2 * VIPS_MAX {
        return Err(full);
    }
    (0..INDEX_SEEDS)
        .map(|number| NameKey::from_seed(number).hash_bytes(b"index"))
        .find_map(|seed| Some((seed, place(entries, seed)?)))
        .ok_or(full)
}

fn place(entries: &[VipEntry], seed: u64) -> Option<BTreeMap<u32, VipEntry>> {
    let mut index = BTreeMap::new();
    for entry in entries {
        let first = entry.key.hash(seed);
        let free = (0..VIP_PROBES)
            .map(|probe| first.wrapping_add(probe) & (VIP_SLOTS - 1))
            .find(|at| !index.contains_key(at))?;
        index.insert(free, *entry);
    }
    Some(index)
}

fn table(state: &State, pool: &Pool, key: NameKey, before: Option<&Snapshot>) -> PoolTable {
    let members: Vec<_> = members(state, pool)
        .into_iter()
        .map(|b| {
            (
                state.id(&pool.name, &b.name),
                b.name.clone(),
                u32::from(b.weight),
            )
        })
        .collect();
    let same = before
        .and_then(|before| before.pools.iter().find(|table| table.name == pool.name))
        .filter(|table| table.members == members && table.slots.len() == pool.table_size as usize);
    let slots = same.map_or_else(
        || {
            let members: Vec<_> = members
                .iter()
                .map(|(id, name, weight)| Member {
                    id: *id,
                    name,
                    weight: *weight,
                })
                .collect();
            Arc::new(maglev::build(&members, pool.table_size, key))
        },
        |table| Arc::clone(&table.slots),
    );
    PoolTable {
        name: pool.name.clone(),
        members,
        slots,
    }
}

/// Who takes new flows. Where those that names stand for now are not found on the segment, or not
/// yet, those that names stood for go on; nobody else is asked in place of who was taken out.
fn members<'a>(state: &State, pool: &'a Pool) -> Vec<&'a Backend> {
    let standing = |backend: &Backend| state.standing(&pool.name, backend);
    let those = |wanted| pool.backends.iter().filter(move |b| standing(b) == wanted);
    let serving: Vec<_> = those(Standing::Serving).collect();
    if !serving.is_empty() || those(Standing::NoMac).next().is_none() {
        return serving;
    }
    let gone = those(Standing::Gone);
    gone.filter(|b| b.weight > 0 && state.mac_of(b.address).is_some())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::names::Answers;
    use crate::control::state::{
        Command,
        tests::{change, config},
    };
    use pen_common::{config::Change, tables::Mac};

    fn observed(count: u8) -> State {
        let mut state = State::new(config(count), 0);
        for i in 1..=count {
            let address = IpAddr::from([10, 0, 0, i]);
            state
                .apply(Command::Neighbor {
                    address,
                    mac: Some(Mac(u64::from(i))),
                })
                .unwrap();
        }
        state
    }

    fn holders(snapshot: &Snapshot) -> BTreeSet<BackendId> {
        snapshot.pools[0].slots.iter().copied().collect()
    }

    #[test]
    fn a_back_end_without_mac_weight_or_leave_gets_no_slot() {
        let mut state = observed(4);
        let all = Snapshot::compile(&state, None).unwrap();
        assert_eq!(holders(&all).len(), 4);
        let address = IpAddr::from([10, 0, 0, 1]);
        state
            .apply(Command::Neighbor { address, mac: None })
            .unwrap();
        state.apply(change(1, Change::Weight(0))).unwrap();
        state.apply(change(2, Change::Blacklist(9))).unwrap();
        let one = Snapshot::compile(&state, Some(&all)).unwrap();
        let id = |host: u8| state.id("web", &format!("10.0.0.{host}"));
        assert_eq!(holders(&one), BTreeSet::from([id(4)]));
        // What belongs to the flows of before still goes to the one without weight, and for a
        // moment to the one without MAC.
        let sent: Vec<_> = one.backends.keys().copied().collect();
        assert_eq!(
            BTreeSet::from_iter(sent),
            BTreeSet::from([id(1), id(2), id(4)])
        );
        assert_eq!(one.generation, 2);
    }

    #[test]
    fn an_unchanged_pool_keeps_its_table() {
        let mut state = observed(3);
        let first = Snapshot::compile(&state, None).unwrap();
        let address = IpAddr::from([10, 0, 0, 1]);
        state
            .apply(Command::Neighbor {
                address,
                mac: Some(Mac(77)),
            })
            .unwrap();
        let second = Snapshot::compile(&state, Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&first.pools[0].slots, &second.pools[0].slots));
        assert!(first.differs(&second));
        let third = Snapshot::compile(&state, Some(&second)).unwrap();
        assert!(!second.differs(&third));
    }

    /// `count` back ends, of which the first one is named `web0`, with its MAC address.
    fn named(count: u8, answer: u8) -> State {
        let mut config = config(count);
        config.pools[0].backends[0].host = "web0".to_owned();
        let mut state = State::new(config, 0);
        for i in 1..=count {
            let address = IpAddr::from([10, 0, 0, i]);
            let mac = Some(Mac(u64::from(i)));
            state.apply(Command::Neighbor { address, mac }).unwrap();
        }
        hear(&mut state, &[answer]);
        state
    }

    fn hear(state: &mut State, lasts: &[u8]) {
        let addresses = lasts.iter().map(|last| IpAddr::from([10, 0, 0, *last]));
        let answers = BTreeMap::from([("web0".to_owned(), addresses.collect())]);
        state.apply(Command::Names(Answers(answers))).unwrap();
    }

    #[test]
    fn those_that_a_name_stood_for_go_on_while_nobody_is_found_that_it_stands_for() {
        let mut state = named(1, 1);
        hear(&mut state, &[1, 2]);
        let second = IpAddr::from([10, 0, 0, 2]);
        let mac = Some(Mac(2));
        let found = |address| Command::Neighbor { address, mac };
        state.apply(found(second)).unwrap();
        // The first one is in the place of 10.0.0.1, nowhere on the segment.
        hear(&mut state, &[3]);
        let snapshot = Snapshot::compile(&state, None).unwrap();
        let gone = state.id("web", "10.0.0.1/10.0.0.2");
        assert_eq!(holders(&snapshot), BTreeSet::from([gone]));
        state.apply(found(IpAddr::from([10, 0, 0, 3]))).unwrap();
        let snapshot = Snapshot::compile(&state, None).unwrap();
        let now = state.id("web", "10.0.0.1");
        assert_eq!(holders(&snapshot), BTreeSet::from([now]));
        // Who was taken out by command is not replaced by who is gone.
        state.apply(change(0, Change::Weight(0))).unwrap();
        let snapshot = Snapshot::compile(&state, None).unwrap();
        assert!(!holders(&snapshot).contains(&gone));
    }

    #[test]
    fn a_link_that_flaps_moves_no_flow_of_who_takes_no_new_ones() {
        let mut state = named(3, 1);
        hear(&mut state, &[1, 4]);
        let fourth = IpAddr::from([10, 0, 0, 4]);
        let mac = Some(Mac(4));
        let found = Command::Neighbor {
            address: fourth,
            mac,
        };
        state.apply(found).unwrap();
        hear(&mut state, &[1]);
        state.apply(change(1, Change::Weight(0))).unwrap();
        let before = Snapshot::compile(&state, None).unwrap();
        assert_eq!(before.backends.len(), 4);
        for i in 1..=4 {
            let address = IpAddr::from([10, 0, 0, i]);
            let lost = Command::Neighbor { address, mac: None };
            state.apply(lost).unwrap();
        }
        let after = Snapshot::compile(&state, Some(&before)).unwrap();
        assert_eq!(before.backends, after.backends);
    }

    #[test]
    fn the_owner_follows_the_kernel() {
        let mut state = observed(1);
        let vip = IpAddr::from([10, 0, 0, 100]);
        let owner = |state: &State| {
            let snapshot = Snapshot::compile(state, None).unwrap();
            let key = VipKey::owner(vip.into());
            snapshot
                .index
                .values()
                .find(|entry| entry.key == key)
                .unwrap()
                .vip
        };
        assert_eq!(owner(&state), Vip::Own);
        state
            .apply(Command::LocalAddresses(BTreeSet::from([vip])))
            .unwrap();
        assert_eq!(owner(&state), Vip::Kernel);
    }

    /// The numbers of lists that the address, TCP port 80 and TCP port 81 have.
    fn lists(state: &State) -> [u8; 3] {
        let snapshot = Snapshot::compile(state, None).unwrap();
        [(0, 0), (80, 6), (81, 6)].map(|(port, protocol)| {
            let vip = |e: &&VipEntry| (e.key.port, e.key.protocol) == (port, protocol);
            snapshot.index.values().find(vip).unwrap().acl
        })
    }

    #[test]
    fn an_address_has_the_list_that_all_its_services_have() {
        let mut config = config(1);
        let mut other = config.services[0].clone();
        other.name = "other".to_owned();
        other.listeners[0].port = 81;
        config.services.push(other);
        let mut state = State::new(config, 0);
        assert_eq!(lists(&state), [0, 0, 0], "an empty list is none");
        let deny = |number, who: &str| {
            let line = format!("acl {number} deny {who}");
            let parsed = pen_common::config::Command::parse(&line).unwrap();
            let Some(pen_common::config::Command::Acl(number, change)) = parsed else {
                panic!("{line}")
            };
            Command::Acl(number, change)
        };
        assert_eq!(state.apply(deny(1, "10.0.0.9")), Ok(false), "nobody's list");
        assert_eq!(state.apply(deny(0, "10.0.0.9")), Ok(true));
        assert_eq!(lists(&state), [1, 1, 1]);
        let option = |value: &str| Command::Option {
            service: Some("other".to_owned()),
            key: "client_acl",
            value: value.to_owned(),
        };
        assert_eq!(state.apply(option("1")), Ok(true));
        assert_eq!(lists(&state), [0, 1, 2]);
        assert_eq!(state.apply(option("1")), Ok(false));
        let local = BTreeSet::from([IpAddr::from([10, 0, 0, 100])]);
        state.apply(option("0")).unwrap();
        state.apply(Command::LocalAddresses(local)).unwrap();
        assert_eq!(lists(&state), [0, 1, 1], "the kernel has its own there");
    }

    #[test]
    fn the_index_takes_as_many_listeners_as_promised() {
        let mut config = config(1);
        let listeners = &mut config.services[0].listeners;
        let first = listeners[0];
        for i in 0..VIPS_MAX as u32 - 1 {
            let address = IpAddr::from((0x0a01_0000 + i / 2).to_be_bytes());
            listeners.push(pen_common::config::Listener {
                address,
                port: 80 + (i % 2) as u16,
                ..first
            });
        }
        let snapshot = Snapshot::compile(&State::new(config, 0), None).unwrap();
        assert_eq!(snapshot.index.len(), VIPS_MAX + VIPS_MAX / 2 + 1);
    }
}
