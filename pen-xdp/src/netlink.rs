//! Questions and orders to the kernel over rtnetlink, one at a time and without a runtime.
//!
//! Everything that needs a privilege goes through here, so it must be callable from a process
//! that has no tokio in it. An answer takes microseconds: waiting for it in place is cheaper than
//! the machinery that would avoid it.

use std::io;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Bytes for one read: the kernel fills at most 32 KiB per dump message (`netlink(7)`).
pub(crate) const READ_BYTES: usize = 64 * 1024;
/// How often a dump is repeated when the kernel says that it changed underneath.
const DUMP_TRIES: u32 = 5;
/// "The dump is inconsistent because of a change", `linux/netlink.h`.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// A request socket of the network namespace in which it was opened.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens the socket; needs no privilege.
    ///
    /// # Errors
    /// What the kernel says, for example a process out of descriptors.
    pub fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Gives an order and waits until the kernel has obeyed or refused. `flags` are those beyond
    /// request and acknowledgement (`NLM_F_CREATE`, ...).
    ///
    /// # Errors
    /// The kernel's refusal, as its error number.
    pub fn order(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers(false).map(|_| ())
    }

    /// Asks for one thing and gives the first answer.
    ///
    /// # Errors
    /// The kernel's refusal, as its error number.
    pub fn ask(&mut self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        let (answers, _) = self.answers(false)?;
        let mut answers = answers.into_iter();
        answers
            .next()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Asks for a whole table; asks again when it changed while it was read.
    ///
    /// # Errors
    /// The kernel's refusal; or `EINTR` if the table never held still.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_TRIES {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let (answers, torn) = self.answers(true)?;
            if !torn {
                return Ok(answers);
            }
        }
        Err(io::Error::from_raw_os_error(libc::EINTR))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(|_| ())
    }

    /// Reads until the acknowledgement (or the end of the dump) of the last request; what still
    /// lies there of an earlier one is skipped. The flag: the dump changed while it was read.
    fn answers(&self, dump: bool) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut answers = Vec::new();
        let mut torn = false;
        loop {
            let mut bytes = Vec::with_capacity(READ_BYTES);
            self.socket.recv(&mut bytes, 0)?;
            for message in messages(&bytes) {
                let (header, payload) = message.into_parts();
                if header.sequence_number != self.sequence {
                    continue;
                }
                torn |= dump && header.flags & NLM_F_DUMP_INTR != 0;
                if let NetlinkPayload::Error(error) = &payload {
                    // Error number 0 is the acknowledgement.
                    return match error.code {
                        Some(_) => Err(error.to_io()),
                        None => Ok((answers, torn)),
                    };
                }
                if matches!(payload, NetlinkPayload::Done(_)) {
                    return Ok((answers, torn));
                }
                if let NetlinkPayload::InnerMessage(inner) = payload {
                    answers.push(inner);
                }
            }
        }
    }
}

/// The messages of one datagram. One that can't be read is left out: a newer kernel may know
/// kinds that we don't.
pub(crate) fn messages(mut bytes: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    /// A netlink header, RFC 3549 section 2.3.2.
    const HEADER: usize = 16;
    let mut found = Vec::new();
    while let Some(length) = bytes.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        if length < HEADER || length > bytes.len() {
            break;
        }
        if let Ok(message) = NetlinkMessage::deserialize(&bytes[..length]) {
            found.push(message);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

    fn link_named(name: &str) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.into()));
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(link));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn a_datagram_holds_several_messages() {
        let mut bytes = link_named("eth0");
        bytes.extend(link_named("eth1"));
        assert_eq!(messages(&bytes).len(), 2);
        // A length that lies ends the reading, it does not read past the datagram.
        bytes[0] = 0xff;
        bytes[1] = 0xff;
        assert_eq!(messages(&bytes).len(), 0);
        assert_eq!(messages(&[]).len(), 0);
        assert_eq!(messages(&[8, 0, 0, 0]).len(), 0);
    }

    #[test]
    fn the_loopback_interface_is_found_by_dump_and_by_name() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .unwrap();
        let is_lo = |message: &RouteNetlinkMessage| {
            matches!(message, RouteNetlinkMessage::NewLink(link)
                if link.attributes.contains(&LinkAttribute::IfName("lo".into())))
        };
        assert_eq!(links.iter().filter(|link| is_lo(link)).count(), 1);

        let mut lo = LinkMessage::default();
        lo.attributes.push(LinkAttribute::IfName("lo".into()));
        assert!(is_lo(
            &netlink.ask(RouteNetlinkMessage::GetLink(lo)).unwrap()
        ));

        let mut nobody = LinkMessage::default();
        nobody
            .attributes
            .push(LinkAttribute::IfName("no-such-if".into()));
        let error = netlink
            .ask(RouteNetlinkMessage::GetLink(nobody))
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }
}
