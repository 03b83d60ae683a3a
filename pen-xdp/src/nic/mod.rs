//! The network interface as AF_XDP needs it: what it is, what has to be set on it, who else is on
//! its XDP hook.

mod drivers;
mod ethtool;
mod holder;
mod settings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, Result, bail};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use crate::netlink::Netlink;
pub use drivers::{forgets_program, interrupts, resets_link};
use ethtool::Ethtool;
pub use ethtool::Feature;
pub use holder::{Holder, HookMode, who_holds_xdp};
pub use settings::{Change, Remembered, Setting, Wanted, restore_left_over};

/// What the kernel says about a link at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Administratively up and with a carrier.
    pub up: bool,
    /// The hardware address; zeros where the link has none of six bytes.
    pub mac: [u8; 6],
    /// The largest packet, in bytes, without the Ethernet header.
    pub mtu: u32,
}

/// One interface of this network namespace, as it was when it was opened.
#[derive(Debug, Clone)]
pub struct Nic {
    /// As the operator calls it.
    pub name: String,
    /// As the kernel calls it.
    pub index: u32,
    /// Carrier, MAC, MTU.
    pub link: LinkState,
    /// The driver; empty where the kernel doesn't say.
    pub driver: String,
    /// Receive queues in use; attaching a program may change it on some drivers.
    pub rx_queues: u32,
    /// Transmit queues in use.
    pub tx_queues: u32,
    /// Features by name, as `ethtool -k` shows them; empty where the driver has none.
    pub features: BTreeMap<String, Feature>,
}

impl Nic {
    /// Looks at the interface; needs no privilege.
    ///
    /// # Errors
    /// There is no such interface, or it is none that a MAC rewrite can serve.
    pub fn open(name: &str) -> Result<Nic> {
        let mut netlink = Netlink::open().context("a netlink socket can't be opened")?;
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.into()));
        let message = find(&mut netlink, question).with_context(|| {
            format!(
                "there is no interface '{name}' in this network namespace; 'ip link' lists them"
            )
        })?;
        let ethernet = message.attributes.iter().any(
            |attribute| matches!(attribute, LinkAttribute::Address(bytes) if bytes.len() == 6),
        );
        if !ethernet || message.header.flags.contains(LinkFlags::Loopback) {
            bail!("interface '{name}' is no Ethernet interface; DSR rewrites MAC addresses");
        }
        let ethtool = Ethtool::open(name)?;
        let index = message.header.index;
        let (rx_queues, tx_queues) = queues(name, index, &ethtool);
        Ok(Nic {
            name: name.into(),
            index,
            link: link_state(&message),
            driver: ethtool.driver().unwrap_or_default(),
            rx_queues,
            tx_queues,
            features: ethtool.features().unwrap_or_default(),
        })
    }

    /// Reads the queue counts again: receive, transmit. Some drivers change them when a program
    /// is attached, and the operator may at any time.
    ///
    /// # Errors
    /// The interface's name no longer fits the kernel's limits (it can't, once opened).
    pub fn read_queues(&self) -> io::Result<(u32, u32)> {
        Ok(queues(&self.name, self.index, &Ethtool::open(&self.name)?))
    }
}

/// The name of an interface of this network namespace.
pub fn name(ifindex: u32) -> Option<String> {
    let mut netlink = Netlink::open().ok()?;
    let message = find(&mut netlink, indexed(ifindex)).ok()?;
    message.attributes.into_iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute {
            Some(name)
        } else {
            None
        }
    })
}

/// Carrier, MAC and MTU of an interface.
///
/// # Errors
/// There is no such interface (any more).
pub fn link(netlink: &mut Netlink, ifindex: u32) -> io::Result<LinkState> {
    Ok(link_state(&find(netlink, indexed(ifindex))?))
}

/// Carrier, MAC and MTU out of a notification.
pub fn link_state(message: &LinkMessage) -> LinkState {
    let flags = message.header.flags;
    let up = flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp);
    let mut state = LinkState {
        up,
        mac: [0; 6],
        mtu: 0,
    };
    for attribute in &message.attributes {
        if let LinkAttribute::Address(bytes) = attribute {
            state.mac = bytes.as_slice().try_into().unwrap_or_default();
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            state.mtu = *mtu;
        }
    }
    state
}

/// Whether this host forwards packets by itself, which would send frames that Pen leaves alone a
/// second way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forwarding {
    /// IPv4, on the interface.
    pub v4: bool,
    /// IPv6, on the interface or (the switch that rules them all) everywhere.
    pub v6: bool,
}

/// Reads `net.ipv4.conf.IF.forwarding` and its IPv6 sister. For IPv4 the interface's own switch
/// decides (the one for all is only copied there); for IPv6 either does.
pub fn forwarding(name: &str) -> Forwarding {
    let on = |path: String| fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
    Forwarding {
        v4: on(format!("/proc/sys/net/ipv4/conf/{name}/forwarding")),
        v6: on(format!("/proc/sys/net/ipv6/conf/{name}/forwarding"))
            || on("/proc/sys/net/ipv6/conf/all/forwarding".into()),
    }
}

/// The interface's directory in sysfs, if the mounted sysfs shows this network namespace: a
/// process that only entered the namespace still sees the interfaces of another one there.
fn sysfs(name: &str, ifindex: u32) -> Option<PathBuf> {
    let directory = Path::new("/sys/class/net").join(name);
    let index = fs::read_to_string(directory.join("ifindex")).ok()?;
    (index.trim().parse() == Ok(ifindex)).then_some(directory)
}

/// sysfs counts the queues that are in use on every driver; the ethtool call is there for the
/// case that sysfs shows another namespace; one queue is what an interface has at least.
fn queues(name: &str, ifindex: u32, ethtool: &Ethtool) -> (u32, u32) {
    if let Some(directory) = sysfs(name, ifindex)
        && let Ok(entries) = fs::read_dir(directory.join("queues"))
    {
        let (mut rx, mut tx) = (0, 0);
        for entry in entries.flatten() {
            let name = entry.file_name();
            rx += u32::from(name.as_encoded_bytes().starts_with(b"rx-"));
            tx += u32::from(name.as_encoded_bytes().starts_with(b"tx-"));
        }
        if rx > 0 && tx > 0 {
            return (rx, tx);
        }
    }
    ethtool
        .queues()
        .map_or((1, 1), |(rx, tx)| (rx.max(1), tx.max(1)))
}

fn indexed(ifindex: u32) -> LinkMessage {
    let mut question = LinkMessage::default();
    question.header.index = ifindex;
    question
}

fn find(netlink: &mut Netlink, question: LinkMessage) -> io::Result<LinkMessage> {
    let answer = netlink.ask(RouteNetlinkMessage::GetLink(question))?;
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    };
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_unfit_interfaces_are_refused_by_name() {
        for unfit in [
            "no-such-if",
            "",
            "a-name-longer-than-any-interface-has",
            "lo",
        ] {
            let text = format!("{:#}", Nic::open(unfit).unwrap_err());
            assert!(text.contains(unfit), "{text}");
        }
        assert_eq!(name(1).as_deref(), Some("lo"));
        assert_eq!(name(u32::MAX / 2), None);
    }

    #[test]
    fn a_link_is_up_with_its_carrier_only() {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]));
        message.attributes.push(LinkAttribute::Mtu(9000));
        message.header.flags = LinkFlags::Up;
        let state = link_state(&message);
        assert_eq!(
            state,
            LinkState {
                up: false,
                mac: [2, 0, 0, 0, 0, 1],
                mtu: 9000
            }
        );
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        assert!(link_state(&message).up);
    }
}
