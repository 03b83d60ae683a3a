//! Parsing against etherparse: where both understand a frame, they read the same.

use etherparse::{
    EtherPayloadSlice, Ipv6ExtensionSlice, NetSlice, SlicedPacket, TransportSlice, ip_number,
};
use pen_common::{
    flow::Address,
    frame::SliceFrame,
    packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Fragment, Link, Packet, Part},
    testing::{CASES, net, random_frame, v4, v6},
};
use proptest::prelude::*;

fn ours(frame: &[u8]) -> Option<(Link, Packet)> {
    let mut copy = frame.to_vec();
    let slice = SliceFrame::new(&mut copy, frame.len());
    let link = Link::parse(&slice)?;
    let packet = match link.ethertype {
        ETHERTYPE_IPV4 => Packet::parse_v4(&slice, link.l3),
        ETHERTYPE_IPV6 => Packet::parse_v6(&slice, link.l3),
        _ => return None,
    };
    Some((link, packet.ok()?))
}

/// Compares the two readings; false if one of them has none.
fn agree(frame: &[u8]) -> bool {
    let (Some((link, packet)), Ok(theirs)) = (ours(frame), SlicedPacket::from_ethernet(frame))
    else {
        return false;
    };
    let vlan = theirs.vlan_ids().last().map_or(0, |id| id.value());
    assert_eq!(link.vlan, vlan);
    let l3 = theirs.ether_payload().map(|payload| place(frame, payload));
    assert_eq!(Some(link.l3), l3);
    let net = theirs.net.as_ref().expect("ours has an IP packet");
    let payload = net.ip_payload_ref().expect("ours has an IP packet");
    let l4 = payload.payload.as_ptr() as usize - frame.as_ptr() as usize;
    let read = (packet.l4.into(), packet.l4_len.into(), packet.flow.protocol);
    match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(
                packet.flow.source,
                Address::v4(header.source_addr().to_bits())
            );
            assert_eq!(
                packet.flow.destination,
                Address::v4(header.destination_addr().to_bits())
            );
            let (id, offset) = (
                header.identification().into(),
                header.fragments_offset().value(),
            );
            assert_eq!(
                packet.fragment,
                fragment(id, offset, header.more_fragments())
            );
            // Ours follows AH in IPv6 only.
            if header.protocol() != ip_number::AUTH {
                assert_eq!(read, (l4, payload.payload.len(), payload.ip_number.0));
            }
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert_eq!(packet.flow.source, Address::v6(header.source()));
            assert_eq!(packet.flow.destination, Address::v6(header.destination()));
            assert_eq!(packet.fragment, last_fragment(ip));
            // Behind a later fragment's header stands no header; theirs reads on. And theirs
            // takes length 0 for "to the end".
            if packet.fragment.part != Part::Later && header.payload_length() > 0 {
                assert_eq!(read, (l4, payload.payload.len(), payload.ip_number.0));
            }
        }
        NetSlice::Arp(_) => panic!("ours has an IP packet"),
    }
    let ports = (packet.flow.source_port, packet.flow.destination_port);
    match theirs.transport {
        Some(TransportSlice::Tcp(tcp)) if packet.flow.protocol == 6 => {
            assert_eq!(ports, (tcp.source_port(), tcp.destination_port()));
        }
        Some(TransportSlice::Udp(udp)) if packet.flow.protocol == 17 => {
            assert_eq!(ports, (udp.source_port(), udp.destination_port()));
        }
        _ if packet.fragment.part == Part::Whole => assert_eq!(ports, (0, 0)),
        _ => {}
    }
    true
}

fn place(frame: &[u8], payload: EtherPayloadSlice<'_>) -> usize {
    payload.payload.as_ptr() as usize - frame.as_ptr() as usize
}

fn fragment(id: u32, offset: u16, more: bool) -> Fragment {
    let part = match (offset, more) {
        (0, false) => return Fragment::WHOLE,
        (0, true) => Part::First,
        _ => Part::Later,
    };
    Fragment { part, id }
}

/// What the last fragment header says that has a header behind it.
fn last_fragment(ip: &etherparse::Ipv6Slice<'_>) -> Fragment {
    let mut last = Fragment::WHOLE;
    for extension in ip.extensions().clone() {
        if let Ipv6ExtensionSlice::Fragment(header) = extension {
            last = fragment(
                header.identification(),
                header.fragment_offset().value(),
                header.more_fragments(),
            );
            if last.part == Part::Later {
                break;
            }
        }
    }
    last
}

#[test]
fn agrees_with_etherparse_on_the_case_table() {
    let compared = CASES.iter().filter(|case| agree(&case.frame)).count();
    assert!(compared * 2 > CASES.len(), "{compared} of {}", CASES.len());
}

#[test]
fn agrees_with_etherparse_on_random_frames() {
    let compared = (0..20_000)
        .filter(|seed| agree(&random_frame(*seed)))
        .count();
    assert!(compared > 8_000, "{compared}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn agrees_with_etherparse_on_any_ip4(
        header in any::<[u8; 20]>(), words in 5..16_u8, fragment: bool, transport in 0..4_usize,
        rest in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut frame = v4(net::CLIENT4, net::VIP4).frame();
        frame.truncate(14);
        frame.extend(header);
        frame.extend(rest);
        frame[14] = 0x40 | words;
        let len = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        if !fragment {
            frame[20] &= 0x40;
            frame[21] = 0;
        }
        frame[23] = [6, 17, 1, frame[23]][transport];
        agree(&frame);
    }

    #[test]
    fn agrees_with_etherparse_on_any_ip6_chain(
        kinds in prop::collection::vec(0..5_usize, 0..6),
        bytes in any::<[u8; 64]>(),
        transport in 0..4_usize,
    ) {
        let mut chain = Vec::new();
        for (kind, eight) in kinds.iter().zip(bytes.chunks(8)) {
            let mut eight = eight.to_vec();
            eight[1] = [eight[1] % 2, 1][usize::from(*kind == 3)];
            eight.resize(8 + 8 * usize::from(eight[1] == 1 && *kind < 3), 0);
            if *kind == 3 {
                eight.resize(12, 0);
            }
            chain.push(([60, 43, 0, 51, 44][*kind], eight));
        }
        let last = [6, 17, 58, 59][transport];
        let mut next = last;
        let mut body = bytes[..40].to_vec();
        for (kind, mut header) in chain.into_iter().rev() {
            header[0] = next;
            next = kind;
            body = [header, body].concat();
        }
        agree(&v6(net::CLIENT6, net::VIP6).transport(next, body, None).frame());
    }

    #[test]
    fn parsing_any_bytes_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        agree(&bytes);
        for ethertype in [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00]] {
            let frame = [&[0; 12], &ethertype[..], &bytes].concat();
            agree(&frame);
        }
    }
}
