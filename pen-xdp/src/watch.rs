//! What happens to the network of this host, as one stream of events: neighbours, addresses, and
//! the DSR interface itself.
//!
//! It runs on a current-thread tokio runtime. The kernel's notifications are subscribed to before
//! the tables are read, and read again when some were lost, so that no change is missed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use tokio::time::{Interval, MissedTickBehavior};

use crate::neighbor::{Neighbors, Resolved};
use crate::netlink::{self, Netlink, READ_BYTES};
use crate::nic::{self, LinkState, Nic};
use crate::ownership::{Change, Owned};

/// How often vanished entries are made again, entries verified where the kernel doesn't do it by
/// itself, and the queues counted (the kernel tells nobody when their number changes).
const REFRESH: Duration = Duration::from_secs(5);
/// For the notifications of a burst, for example 4,096 back ends resolved at once.
const RECEIVE_BUFFER_BYTES: u32 = 1 << 20;

/// A change that the control has to act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetEvent {
    /// A back end's MAC appeared, changed or vanished.
    Neighbor(Resolved),
    /// The kernel owns this address now.
    AddressAdded(IpAddr),
    /// No interface of this host has this address any more.
    AddressRemoved(IpAddr),
    /// The interface has lost its carrier or was taken down.
    LinkDown,
    /// The interface is up again: the segment has to be told of the VIPs again.
    LinkUp {
        /// Its MAC.
        mac: [u8; 6],
        /// Its MTU, in bytes.
        mtu: u32,
    },
    /// MAC or MTU were changed.
    LinkChanged {
        /// Its MAC.
        mac: [u8; 6],
        /// Its MTU, in bytes.
        mtu: u32,
    },
    /// The number of queues is another one.
    Queues {
        /// Receive queues in use.
        rx: u32,
        /// Transmit queues in use.
        tx: u32,
    },
    /// The interface is gone for good; one of the same name would be another one.
    LinkGone,
}

/// The stream of events of one interface and of all addresses.
pub struct Watch {
    socket: TokioSocket,
    netlink: Netlink,
    nic: Nic,
    neighbors: Neighbors,
    /// Of VLAN devices on top of the interface.
    tagged: BTreeMap<u32, Neighbors>,
    owned: Owned,
    events: VecDeque<NetEvent>,
    refresh: Interval,
    lost: u64,
}

impl Watch {
    /// Subscribes, then reads the tables. Call it inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The kernel's refusal of a socket or of a table.
    pub fn open(nic: &Nic) -> io::Result<Watch> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let mut asynchronous = TokioSocket::new(NETLINK_ROUTE)?;
        let socket = asynchronous.socket_mut();
        socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.add_membership(group as u32)?;
        }
        let mut netlink = Netlink::open()?;
        let mut nic = nic.clone();
        nic.link = nic::link(&mut netlink, nic.index)?;
        let mut refresh = tokio::time::interval_at(tokio::time::Instant::now() + REFRESH, REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Watch {
            socket: asynchronous,
            neighbors: Neighbors::open(nic.index)?,
            tagged: BTreeMap::new(),
            owned: Owned::read(&mut netlink)?,
            netlink,
            nic,
            events: VecDeque::new(),
            refresh,
            lost: 0,
        })
    }

    /// Makes `backends` the set whose MACs are watched. Events follow for those that are known
    /// already; what failed is given per back end and is tried again by itself. Needs
    /// `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// The neighbour table can't be read.
    pub fn want(&mut self, backends: &BTreeSet<IpAddr>) -> io::Result<Vec<(IpAddr, io::Error)>> {
        self.want_on(self.nic.index, backends)
    }

    /// As [`Watch::want`], for the back ends that are asked for on interface `ifindex`: the watched
    /// one, or a VLAN device on top of it.
    ///
    /// # Errors
    /// The neighbour table can't be read.
    pub fn want_on(
        &mut self,
        ifindex: u32,
        backends: &BTreeSet<IpAddr>,
    ) -> io::Result<Vec<(IpAddr, io::Error)>> {
        let neighbors = if ifindex == self.nic.index {
            &mut self.neighbors
        } else {
            match self.tagged.entry(ifindex) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(Neighbors::open(ifindex)?),
            }
        };
        let asked = neighbors.want(backends)?;
        self.events
            .extend(asked.resolved.into_iter().map(NetEvent::Neighbor));
        Ok(asked.failed)
    }

    /// The interfaces that back ends are asked for on.
    pub fn interfaces(&self) -> Vec<u32> {
        let tagged = self.tagged.keys().copied();
        std::iter::once(self.nic.index).chain(tagged).collect()
    }

    /// The next event. Nothing is lost when the future is dropped before it is ready.
    ///
    /// # Errors
    /// The netlink socket is broken: nothing more will come.
    pub async fn next(&mut self) -> io::Result<NetEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            tokio::select! {
                received = poll_fn(|context| receive(&self.socket, context)) => {
                    self.take(received)?;
                }
                _ = self.refresh.tick() => self.look_again(),
            }
        }
    }

    /// The addresses that the kernel of this host owns at this moment.
    pub fn owned(&self) -> &Owned {
        &self.owned
    }

    /// The back ends' MACs at this moment, those on the interface itself.
    pub fn neighbors(&self) -> &Neighbors {
        &self.neighbors
    }

    /// Carrier, MAC and MTU of the interface at this moment.
    pub fn link(&self) -> LinkState {
        self.nic.link
    }

    /// How often the kernel had more to tell than the socket could hold, and the tables were read
    /// anew instead.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Takes our neighbour entries out of the kernel's table. Dropping does the same, silently.
    ///
    /// # Errors
    /// The last refusal of the kernel; all entries have been tried.
    pub fn close(mut self) -> io::Result<()> {
        let mut result = Ok(());
        for neighbors in self.all_neighbors() {
            result = neighbors.close().and(result);
        }
        result
    }

    fn all_neighbors(&mut self) -> impl Iterator<Item = &mut Neighbors> {
        std::iter::once(&mut self.neighbors).chain(self.tagged.values_mut())
    }

    fn take(&mut self, received: io::Result<Vec<u8>>) -> io::Result<()> {
        let bytes = match received {
            Ok(bytes) => bytes,
            // Notifications were lost (netlink(7)): read everything anew.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.lost += 1;
                return self.resync();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        };
        for message in netlink::messages(&bytes) {
            if let NetlinkPayload::InnerMessage(message) = message.payload {
                self.learn(&message);
            }
        }
        Ok(())
    }

    fn learn(&mut self, message: &RouteNetlinkMessage) {
        if let Some(change) = self.owned.learn(message) {
            self.events.push_back(change.into());
            // With an address to ask from, the kernel may resolve what it could not before.
            self.refresh.reset_immediately();
        }
        let mut resolved = None;
        let mut deleted = false;
        for neighbors in self.all_neighbors() {
            resolved = neighbors.learn(message).or(resolved);
            deleted |= neighbors.deleted(message);
        }
        self.events.extend(resolved.map(NetEvent::Neighbor));
        if deleted {
            self.refresh.reset_immediately();
        }
        if let RouteNetlinkMessage::NewLink(link) = message
            && link.header.index == self.nic.index
        {
            self.link_is(nic::link_state(link));
        }
        if let RouteNetlinkMessage::DelLink(link) = message
            && link.header.index == self.nic.index
            && link.header.interface_family == rtnetlink::packet_route::AddressFamily::Unspec
        {
            // A bridge tells of a port that leaves it in the same way, with its own family.
            self.events.push_back(NetEvent::LinkGone);
        }
    }

    fn link_is(&mut self, now: LinkState) {
        let before = std::mem::replace(&mut self.nic.link, now);
        let came_up = now.up && !before.up;
        self.events.extend(link_event(before, now));
        self.count_queues();
        if came_up {
            // The kernel threw the entries away when the carrier went.
            self.resync_neighbors();
        }
    }

    fn look_again(&mut self) {
        self.count_queues();
        let mut result = Ok(());
        for neighbors in self.all_neighbors() {
            result = neighbors.refresh().and(result);
        }
        if let Err(error) = result {
            tracing::warn!(
                "back ends' MACs can't be refreshed on {}: {error}",
                self.nic.name
            );
        }
    }

    fn count_queues(&mut self) {
        let Ok((rx, tx)) = self.nic.read_queues() else {
            return;
        };
        if (rx, tx) != (self.nic.rx_queues, self.nic.tx_queues) {
            (self.nic.rx_queues, self.nic.tx_queues) = (rx, tx);
            self.events.push_back(NetEvent::Queues { rx, tx });
        }
    }

    fn resync(&mut self) -> io::Result<()> {
        let owned = Owned::read(&mut self.netlink)?;
        self.events.extend(
            owned
                .changes_since(&self.owned)
                .into_iter()
                .map(NetEvent::from),
        );
        self.owned = owned;
        match nic::link(&mut self.netlink, self.nic.index) {
            Ok(now) => self.link_is(now),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                self.events.push_back(NetEvent::LinkGone);
            }
            Err(error) => return Err(error),
        }
        self.resync_neighbors();
        Ok(())
    }

    fn resync_neighbors(&mut self) {
        let mut result = Ok(());
        let mut changed = Vec::new();
        for neighbors in self.all_neighbors() {
            match neighbors.resync() {
                Ok(more) => changed.extend(more),
                Err(error) => result = Err(error),
            }
        }
        self.events
            .extend(changed.into_iter().map(NetEvent::Neighbor));
        if let Err(error) = result {
            tracing::warn!(
                "back ends' MACs can't be read on {}: {error}",
                self.nic.name
            );
        }
    }
}

impl From<Change> for NetEvent {
    fn from(change: Change) -> NetEvent {
        match change {
            Change::Added(address) => NetEvent::AddressAdded(address),
            Change::Removed(address) => NetEvent::AddressRemoved(address),
        }
    }
}

fn link_event(before: LinkState, now: LinkState) -> Option<NetEvent> {
    let LinkState { up, mac, mtu } = now;
    match (before.up, up) {
        (true, false) => Some(NetEvent::LinkDown),
        (false, true) => Some(NetEvent::LinkUp { mac, mtu }),
        _ if (before.mac, before.mtu) != (mac, mtu) => Some(NetEvent::LinkChanged { mac, mtu }),
        _ => None,
    }
}

/// One datagram. Any process may send to a netlink socket that it knows the address of; only the
/// kernel sends from address 0.
fn receive(socket: &TokioSocket, context: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
    let mut bytes = Vec::with_capacity(READ_BYTES);
    socket
        .poll_recv_from(context, &mut bytes)
        .map_ok(|from| match from.port_number() {
            0 => std::mem::take(&mut bytes),
            _ => Vec::new(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flap_and_a_change_are_told_apart() {
        let mac = [2, 0, 0, 0, 0, 1];
        let up = LinkState {
            up: true,
            mac,
            mtu: 1500,
        };
        let down = LinkState { up: false, ..up };
        assert_eq!(link_event(up, up), None);
        assert_eq!(link_event(up, down), Some(NetEvent::LinkDown));
        assert_eq!(
            link_event(down, up),
            Some(NetEvent::LinkUp { mac, mtu: 1500 })
        );
        let jumbo = LinkState { mtu: 9000, ..up };
        assert_eq!(
            link_event(up, jumbo),
            Some(NetEvent::LinkChanged { mac, mtu: 9000 })
        );
        // The new MAC comes with the link, not before it.
        assert_eq!(
            link_event(down, jumbo),
            Some(NetEvent::LinkUp { mac, mtu: 9000 })
        );
    }
}
