//! On which interface each back end is asked for.
//!
//! Back ends of a service in a VLAN answer inside that VLAN. The kernel asks there on a VLAN device
//! on top of the DSR interface; Pen makes no devices, so where there is none they are asked for
//! untagged, which is right if the DSR interface is an access port, and said because on a trunk
//! nobody answers. Frames are sent on the DSR interface in any case, with the tag they came with.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use pen_common::config::Config;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkInfo, LinkMessage, VlanProtocol,
};

use crate::netlink::Netlink;
use crate::nic::Nic;

/// Back ends by interface, and what their owner should be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// The interface of each back end, by index.
    pub interfaces: BTreeMap<IpAddr, u32>,
    /// A sentence for each VLAN that is asked untagged.
    pub notes: Vec<String>,
}

impl Segments {
    /// Looks at the VLAN devices on top of the interface, if any service is in a VLAN.
    ///
    /// # Errors
    /// The kernel does not list its interfaces.
    pub fn find(config: &Config, nic: &Nic) -> io::Result<Self> {
        let mut devices = BTreeMap::new();
        if config.dsr_services().any(|service| service.vlan.is_some()) {
            let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
            for message in Netlink::open()?.dump(links)? {
                if let RouteNetlinkMessage::NewLink(link) = message {
                    devices.extend(vlan_on(&link, nic.index));
                }
            }
        }
        Ok(Self::choose(config, nic, &devices))
    }

    /// `devices`: the VLAN devices on top of the interface, index by VLAN.
    fn choose(config: &Config, nic: &Nic, devices: &BTreeMap<u16, u32>) -> Self {
        let mut segments = Self::default();
        let mut untagged = BTreeSet::new();
        for pool in config.dsr_pools() {
            let users = config.dsr_services().filter(|s| s.pool == pool.name);
            let vlans: BTreeSet<Option<u16>> = users.map(|service| service.vlan).collect();
            // A back end has one MAC in the tables; one that serves several VLANs has it in all.
            let device = vlans
                .iter()
                .flatten()
                .find_map(|vlan| devices.get(vlan).copied());
            if let (Some(note), Some(_)) = (of_several(&pool.name, &vlans), device) {
                segments.notes.push(note);
            }
            if device.is_none() {
                untagged.extend(vlans.into_iter().flatten());
            }
            for backend in &pool.backends {
                let place = segments.interfaces.entry(backend.address);
                place.or_insert(device.unwrap_or(nic.index));
            }
        }
        let name = &nic.name;
        let notes = untagged.into_iter().map(|vlan| {
            format!(
                "back ends in VLAN {vlan} are asked for untagged on {name}; if they answer in the \
                 VLAN only, make {name}.{vlan} before the start: ip link add link {name} name \
                 {name}.{vlan} type vlan id {vlan}; ip link set {name}.{vlan} up"
            )
        });
        segments.notes.extend(notes);
        segments
    }

    /// The back ends of each interface.
    pub fn by_interface(&self) -> BTreeMap<u32, BTreeSet<IpAddr>> {
        let mut sets: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
        for (&address, &ifindex) in &self.interfaces {
            sets.entry(ifindex).or_default().insert(address);
        }
        sets
    }
}

/// What to know of a pool whose services are in several VLANs.
fn of_several(pool: &str, vlans: &BTreeSet<Option<u16>>) -> Option<String> {
    (vlans.len() > 1).then(|| {
        let name = |vlan: &Option<u16>| vlan.map_or("none".to_owned(), |vlan| vlan.to_string());
        let names: Vec<String> = vlans.iter().map(name).collect();
        format!(
            "pool {pool:?} is in several VLANs ({}): its back ends' MAC addresses are asked for in \
             one of them and used in all; if theirs differ, make a pool for each VLAN",
            names.join(", ")
        )
    })
}

/// Whether interface `ifindex` is a VLAN device on top of interface `lower`.
///
/// # Errors
/// The kernel does not show it.
pub(crate) fn is_segment_of(netlink: &mut Netlink, ifindex: u32, lower: u32) -> io::Result<bool> {
    let mut question = LinkMessage::default();
    question.header.index = ifindex;
    let answer = netlink.ask(RouteNetlinkMessage::GetLink(question))?;
    Ok(if let RouteNetlinkMessage::NewLink(link) = &answer {
        vlan_on(link, lower).is_some()
    } else {
        false
    })
}

/// VLAN and index of a VLAN device on top of interface `lower`; outer tags (802.1ad) are none that
/// a service can name.
fn vlan_on(link: &LinkMessage, lower: u32) -> Option<(u16, u32)> {
    let on_top = link.attributes.contains(&LinkAttribute::Link(lower));
    let data = link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else {
            return None;
        };
        infos.iter().find_map(|info| {
            if let LinkInfo::Data(InfoData::Vlan(data)) = info {
                Some(data)
            } else {
                None
            }
        })
    })?;
    let outer = data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
    let id = data.iter().find_map(|item| {
        if let InfoVlan::Id(id) = item {
            Some(*id)
        } else {
            None
        }
    })?;
    (on_top && !outer).then_some((id, link.header.index))
}

#[cfg(test)]
mod tests {
    use pen_common::config::{Backend, Pool, Service};
    use rtnetlink::packet_route::link::InfoKind;

    use super::*;
    use crate::nic::LinkState;

    const TRUNK: u32 = 3;

    fn device(index: u32, lower: u32, id: u16, protocol: VlanProtocol) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::Link(lower));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![
                InfoVlan::Protocol(protocol),
                InfoVlan::Id(id),
            ])),
        ]));
        link
    }

    #[test]
    fn only_a_vlan_device_on_top_of_the_interface_is_one() {
        let tag = VlanProtocol::Ieee8021Q;
        assert_eq!(vlan_on(&device(9, TRUNK, 7, tag), TRUNK), Some((7, 9)));
        assert_eq!(vlan_on(&device(9, TRUNK + 1, 7, tag), TRUNK), None);
        let outer = device(9, TRUNK, 7, VlanProtocol::Ieee8021Ad);
        assert_eq!(vlan_on(&outer, TRUNK), None);
        let mut other = LinkMessage::default();
        other.attributes.push(LinkAttribute::Link(TRUNK));
        assert_eq!(vlan_on(&other, TRUNK), None);
    }

    fn nic() -> Nic {
        Nic {
            name: "eth1".into(),
            index: TRUNK,
            link: LinkState {
                up: true,
                mac: [2; 6],
                mtu: 1500,
            },
            driver: String::new(),
            rx_queues: 1,
            tx_queues: 1,
            features: BTreeMap::new(),
        }
    }

    /// Pools by name with their back ends; each service is of the pool of its name.
    fn config(services: &[(&str, Option<u16>)], pools: &[(&str, &str)]) -> Config {
        let service = |&(name, vlan): &(&str, Option<u16>)| Service {
            vlan,
            ..Service::new(name)
        };
        let pool = |&(name, backend): &(&str, &str)| Pool {
            backends: vec![Backend::new(backend.parse().unwrap())],
            ..Pool::new(name)
        };
        Config {
            services: services.iter().map(service).collect(),
            pools: pools.iter().map(pool).collect(),
            ..Config::default()
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn back_ends_of_a_vlan_are_asked_for_on_its_device() {
        let config = config(
            &[("plain", None), ("seven", Some(7)), ("eight", Some(8))],
            &[
                ("plain", "192.0.2.1"),
                ("seven", "192.0.2.7"),
                ("eight", "192.0.2.8"),
            ],
        );
        let found = Segments::choose(&config, &nic(), &BTreeMap::from([(7, 9)]));
        let expected = [
            (
                TRUNK,
                BTreeSet::from([address("192.0.2.1"), address("192.0.2.8")]),
            ),
            (9, BTreeSet::from([address("192.0.2.7")])),
        ];
        assert_eq!(found.by_interface(), BTreeMap::from(expected));
        assert_eq!(found.notes.len(), 1);
        let note = &found.notes[0];
        assert!(
            note.starts_with("back ends in VLAN 8 are asked for untagged on eth1;"),
            "{note}"
        );
        assert!(
            note.contains("ip link add link eth1 name eth1.8 type vlan id 8"),
            "{note}"
        );
    }

    #[test]
    fn a_pool_of_several_vlans_is_told() {
        let mut config = config(
            &[("seven", Some(7)), ("plain", None)],
            &[("seven", "192.0.2.7")],
        );
        config.services[1].pool = "seven".into();
        let found = Segments::choose(&config, &nic(), &BTreeMap::from([(7, 9)]));
        assert_eq!(
            found.interfaces,
            BTreeMap::from([(address("192.0.2.7"), 9)])
        );
        let told = "pool \"seven\" is in several VLANs (none, 7):";
        assert!(found.notes[0].starts_with(told), "{:?}", found.notes);
        // Asked for in no VLAN, which is said of each, no one's is taken for another's.
        let untagged = Segments::choose(&config, &nic(), &BTreeMap::new());
        assert!(untagged.notes[0].starts_with("back ends in VLAN 7 are asked for untagged"));
        assert_eq!(untagged.notes.len(), 1);
    }

    #[test]
    fn without_vlans_all_is_as_ever() {
        let config = config(&[("plain", None)], &[("plain", "192.0.2.1")]);
        let found = Segments::find(&config, &nic()).unwrap();
        assert_eq!(
            found.interfaces,
            BTreeMap::from([(address("192.0.2.1"), TRUNK)])
        );
        assert!(found.notes.is_empty());
    }
}
