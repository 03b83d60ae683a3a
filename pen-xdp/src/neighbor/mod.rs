//! The back ends' MAC addresses, from the kernel's neighbour table.
//!
//! Every back end has its own entry and every entry is refreshed by itself: a dead back end costs
//! the others nothing. Where the kernel can (5.16), the entry is marked as *managed* and the
//! kernel keeps it resolved, even on an interface that has no address; on older kernels
//! [`Neighbors::refresh`] asks for each entry in turn.
//!
//! ```text
//!              none before        found unmanaged       found permanent    managed by others
//!   at start   create, managed    set managed           leave              leave
//!   at stop    delete             clear managed         leave              leave
//! ```
//!
//! Entries of ours carry a protocol number, so that the next start finds what a killed one left.

mod entry;
mod layer2;
mod segments;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;

use crate::keeper::child::keeper;
use crate::keeper::request::{OfInterface, Request};
use crate::netlink::Netlink;
pub use entry::Order;
use entry::Seen;
pub(crate) use entry::{carry_out, may};
pub use layer2::check_layer2;
pub use segments::Segments;
pub(crate) use segments::is_segment_of;

/// A back end's MAC is known, is another one, or is not known any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    /// The back end.
    pub address: IpAddr,
    /// Its MAC, or `None` while it doesn't answer.
    pub mac: Option<[u8; 6]>,
}

/// What came of asking for a set of back ends.
#[derive(Debug, Default)]
pub struct Asked {
    /// The MACs that the kernel knew already.
    pub resolved: Vec<Resolved>,
    /// Refusals, per back end: the others are not held up, and these are tried again.
    pub failed: Vec<(IpAddr, io::Error)>,
}

/// What is done with an entry at stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// We created it: delete it.
    Created,
    /// It was there: clear the managed mark.
    Borrowed,
    /// It is permanent or in another program's care: don't touch it.
    Foreign,
}

#[derive(Debug)]
struct Entry {
    hold: Hold,
    mac: Option<[u8; 6]>,
    /// It has had a MAC since it was last made.
    answered: bool,
}

/// The neighbour entries of all back ends on one interface.
pub struct Neighbors {
    netlink: Netlink,
    ifindex: u32,
    entries: BTreeMap<IpAddr, Entry>,
    /// `None` until the first entry was made.
    managed: Option<bool>,
}

impl Neighbors {
    /// Starts with no back end. Entries that a killed predecessor left on this interface are
    /// adopted by [`Neighbors::want`] or deleted there.
    ///
    /// # Errors
    /// No netlink socket could be opened.
    pub fn open(ifindex: u32) -> io::Result<Neighbors> {
        let netlink = Netlink::open()?;
        Ok(Neighbors {
            netlink,
            ifindex,
            entries: BTreeMap::new(),
            managed: None,
        })
    }

    /// The same, but as if the kernel were older than 5.16 and managed nothing: entries are only
    /// as fresh as [`Neighbors::refresh`] is often called.
    ///
    /// # Errors
    /// As [`Neighbors::open`].
    pub fn open_unmanaged(ifindex: u32) -> io::Result<Neighbors> {
        let mut neighbors = Neighbors::open(ifindex)?;
        neighbors.managed = Some(false);
        Ok(neighbors)
    }

    /// Makes `wanted` the set of back ends. MACs that are not known at once come later, by
    /// [`Neighbors::learn`].
    ///
    /// # Errors
    /// The neighbour table can't be read.
    pub fn want(&mut self, wanted: &BTreeSet<IpAddr>) -> io::Result<Asked> {
        let table = entry::table(&mut self.netlink, self.ifindex)?;
        let Asked {
            mut resolved,
            mut failed,
        } = Asked::default();
        let gone: Vec<IpAddr> = self
            .entries
            .keys()
            .filter(|address| !wanted.contains(address))
            .copied()
            .collect();
        for address in gone {
            if let Err(error) = self.release(address) {
                failed.push((address, error));
            }
        }
        for (&address, seen) in &table {
            let known = wanted.contains(&address) || self.entries.contains_key(&address);
            if seen.ours && !known {
                // Gone meanwhile is as good as deleted.
                let _ = self.order(address, Order::Delete);
            }
        }
        for &address in wanted {
            if self.entries.contains_key(&address) {
                continue;
            }
            let seen = table.get(&address);
            if let Some(mac) = seen.and_then(|seen| seen.mac) {
                resolved.push(Resolved {
                    address,
                    mac: Some(mac),
                });
            }
            if let Err(error) = self.hold(address, seen) {
                failed.push((address, error));
            }
        }
        Ok(Asked { resolved, failed })
    }

    /// Takes in one notification of the kernel; gives what changed for a back end.
    pub fn learn(&mut self, message: &RouteNetlinkMessage) -> Option<Resolved> {
        let (address, seen) = entry::read(message, self.ifindex)?;
        let entry = self.entries.get_mut(&address)?;
        entry.answered |= seen.mac.is_some();
        if entry.mac == seen.mac {
            return None;
        }
        entry.mac = seen.mac;
        Some(Resolved {
            address,
            mac: seen.mac,
        })
    }

    /// True if the notification says that a back end's entry was deleted and a refresh should not
    /// wait for its turn. Once per answer, so that an entry which the kernel won't keep can't make
    /// a loop.
    pub fn deleted(&mut self, message: &RouteNetlinkMessage) -> bool {
        let RouteNetlinkMessage::DelNeighbour(_) = message else {
            return false;
        };
        let entry = entry::read(message, self.ifindex)
            .and_then(|(address, _)| self.entries.get_mut(&address));
        entry.is_some_and(|entry| std::mem::take(&mut entry.answered))
    }

    /// Reads the whole table and gives every difference; for when notifications were lost, and
    /// after the interface was down (the kernel flushes its entries then). Entries that have
    /// vanished are made again.
    ///
    /// # Errors
    /// The neighbour table can't be read.
    pub fn resync(&mut self) -> io::Result<Vec<Resolved>> {
        let table = entry::table(&mut self.netlink, self.ifindex)?;
        let mut changed = Vec::new();
        for (&address, entry) in &mut self.entries {
            let mac = table.get(&address).and_then(|seen| seen.mac);
            if entry.mac != mac {
                entry.mac = mac;
                changed.push(Resolved { address, mac });
            }
        }
        self.renew(&table);
        Ok(changed)
    }

    /// To be called every few seconds: makes vanished entries again and, where the kernel doesn't
    /// manage them, has each one verified. No answer of one holds up the others: the probes run
    /// in the kernel.
    ///
    /// # Errors
    /// The neighbour table can't be read.
    pub fn refresh(&mut self) -> io::Result<()> {
        let table = entry::table(&mut self.netlink, self.ifindex)?;
        self.renew(&table);
        Ok(())
    }

    /// True once the kernel has been seen to keep entries resolved by itself.
    pub fn managed(&self) -> bool {
        self.managed == Some(true)
    }

    /// The MAC of a back end as last heard.
    pub fn mac(&self, address: IpAddr) -> Option<[u8; 6]> {
        self.entries.get(&address).and_then(|entry| entry.mac)
    }

    /// Deletes what we created and leaves the rest as it was found.
    ///
    /// # Errors
    /// The last refusal of the kernel; all entries have been tried.
    pub fn close(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for address in self.entries.keys().copied().collect::<Vec<_>>() {
            if let Err(error) = self.release(address) {
                result = Err(error);
            }
        }
        result
    }

    /// The entry is held even if the kernel refuses it now: `refresh` tries again.
    fn hold(&mut self, address: IpAddr, seen: Option<&Seen>) -> io::Result<()> {
        let hold = hold_of(seen);
        let mac = seen.and_then(|seen| seen.mac);
        let answered = mac.is_some();
        self.entries.insert(
            address,
            Entry {
                hold,
                mac,
                answered,
            },
        );
        if hold == Hold::Foreign {
            Ok(())
        } else {
            self.manage(address)
        }
    }

    /// Kernels before 5.16 take the mark without a word and without effect, so the first entry is
    /// read back.
    fn manage(&mut self, address: IpAddr) -> io::Result<()> {
        let managed = self.managed != Some(false);
        self.order(address, Order::Make { managed })?;
        if self.managed.is_none() {
            let seen = entry::one(&mut self.netlink, self.ifindex, address)?;
            self.managed = Some(seen.managed);
        }
        if self.managed == Some(false) {
            self.order(address, Order::Probe)?;
        }
        Ok(())
    }

    /// Has it done by whoever may.
    fn order(&mut self, address: IpAddr, order: Order) -> io::Result<()> {
        let ifindex = self.ifindex;
        match keeper() {
            Some(keeper) => {
                let request = OfInterface::Neighbor {
                    ifindex,
                    address,
                    order,
                };
                keeper.ask(&Request::Interface(request)).map(drop)
            }
            None => carry_out(&mut self.netlink, (ifindex, address), order),
        }
    }

    /// A refusal here is one of the moment (the interface is down): the next call tries again,
    /// and a back end without a MAC is shown as such.
    fn renew(&mut self, table: &BTreeMap<IpAddr, Seen>) {
        let managed = self.managed == Some(true);
        let mut mends = Vec::new();
        for (&address, entry) in &mut self.entries {
            let (hold, mend) = mend(entry.hold, table.get(&address), managed);
            entry.hold = hold;
            mends.push((address, mend));
        }
        for (address, mend) in mends {
            let _ = match mend {
                Mend::Nothing => Ok(()),
                Mend::Make => self.manage(address),
                Mend::MakeAnew => {
                    let _ = self.order(address, Order::Delete);
                    self.manage(address)
                }
                Mend::Probe => self.order(address, Order::Probe),
            };
        }
    }

    fn release(&mut self, address: IpAddr) -> io::Result<()> {
        let Some(entry) = self.entries.remove(&address) else {
            return Ok(());
        };
        let done = match entry.hold {
            Hold::Created => self.order(address, Order::Delete),
            Hold::Borrowed => self.order(address, Order::Unmanage),
            Hold::Foreign => Ok(()),
        };
        // The entry may have gone with the interface, or been deleted by hand.
        done.or_else(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Ok(()),
            _ => Err(error),
        })
    }
}

impl Drop for Neighbors {
    fn drop(&mut self) {
        // A drop has nobody to tell; `close` does.
        let _ = self.close();
    }
}

/// `NTF_USE` on a permanent entry would make it an ordinary one, and an entry in another
/// program's care has its refresher already.
fn hold_of(seen: Option<&Seen>) -> Hold {
    match seen {
        None => Hold::Created,
        Some(seen) if seen.ours => Hold::Created,
        Some(seen) if seen.permanent || seen.managed || seen.learned => Hold::Foreign,
        Some(_) => Hold::Borrowed,
    }
}

/// What an entry needs at a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mend {
    Nothing,
    Make,
    /// Only a new entry is judged anew.
    MakeAnew,
    Probe,
}

/// The world has gone on since the entry was taken: whose is it now, and what does it need?
fn mend(hold: Hold, seen: Option<&Seen>, managed: bool) -> (Hold, Mend) {
    match (hold, seen) {
        // Whoever had it before has deleted it.
        (_, None) => (Hold::Created, Mend::Make),
        (Hold::Foreign, Some(_)) => (Hold::Foreign, Mend::Nothing),
        // Someone has set it by hand: it is theirs from now on.
        (_, Some(seen)) if seen.permanent => (Hold::Foreign, Mend::Nothing),
        (_, Some(seen)) if seen.misjudged => (hold, Mend::MakeAnew),
        (_, Some(seen)) if managed && !seen.managed => (hold, Mend::Make),
        (_, Some(_)) => (hold, if managed { Mend::Nothing } else { Mend::Probe }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DYNAMIC: Seen = Seen {
        mac: Some([2; 6]),
        ours: false,
        managed: false,
        learned: false,
        permanent: false,
        misjudged: false,
    };
    const MANAGED: Seen = Seen {
        managed: true,
        ..DYNAMIC
    };
    const PERMANENT: Seen = Seen {
        permanent: true,
        ..DYNAMIC
    };
    const MISJUDGED: Seen = Seen {
        misjudged: true,
        ..MANAGED
    };

    #[test]
    fn what_was_there_before_is_left_as_found() {
        assert_eq!(hold_of(None), Hold::Created);
        assert_eq!(hold_of(Some(&DYNAMIC)), Hold::Borrowed);
        assert_eq!(hold_of(Some(&PERMANENT)), Hold::Foreign);
        assert_eq!(hold_of(Some(&MANAGED)), Hold::Foreign);
        let of_a_routing_daemon = Seen {
            learned: true,
            ..DYNAMIC
        };
        assert_eq!(hold_of(Some(&of_a_routing_daemon)), Hold::Foreign);
        let left_by_a_killed_one = Seen {
            ours: true,
            ..MANAGED
        };
        assert_eq!(hold_of(Some(&left_by_a_killed_one)), Hold::Created);
    }

    #[test]
    fn what_a_refresh_does() {
        use Hold::*;
        let table = [
            // As it should be; on an old kernel each is asked for.
            (Created, Some(MANAGED), true, (Created, Mend::Nothing)),
            (Created, Some(DYNAMIC), false, (Created, Mend::Probe)),
            // Flushed, deleted, its mark taken off, misjudged.
            (Created, None, true, (Created, Mend::Make)),
            (Borrowed, None, true, (Created, Mend::Make)),
            (Foreign, None, true, (Created, Mend::Make)),
            (Borrowed, Some(DYNAMIC), true, (Borrowed, Mend::Make)),
            (Created, Some(MISJUDGED), true, (Created, Mend::MakeAnew)),
            // Not ours, or not any more.
            (Created, Some(PERMANENT), true, (Foreign, Mend::Nothing)),
            (Foreign, Some(PERMANENT), true, (Foreign, Mend::Nothing)),
            (Foreign, Some(DYNAMIC), false, (Foreign, Mend::Nothing)),
        ];
        for (hold, seen, managed, expected) in table {
            let done = mend(hold, seen.as_ref(), managed);
            assert_eq!(done, expected, "{hold:?} {seen:?} {managed}");
        }
    }
}
