//! Checksums: updates against whole sums, and finished ones against etherparse.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pen_common::{
    checksum::{Sum, finish, fold, update},
    frame::{Frame, SliceFrame},
    packet::{Link, Packet},
    testing::{net, v4, v6},
};
use proptest::prelude::*;

/// The sum by the book: word by word, the last odd byte as a high half.
fn whole(bytes: &[u8]) -> u16 {
    let sum: u64 = bytes
        .chunks(2)
        .map(|two| u64::from(two[0]) << 8 | u64::from(two.get(1).copied().unwrap_or(0)))
        .sum();
    match sum {
        0 => 0,
        _ => ((sum - 1) % 0xffff + 1) as u16,
    }
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum = Sum::default();
    sum.add(bytes);
    sum.fold()
}

/// Whether etherparse finds the transport checksum right.
fn is_right(frame: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let [source, destination] = [ip.header().source(), ip.header().destination()];
            tcp.checksum() == tcp.calc_checksum_ipv4(source, destination).unwrap()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let [source, destination] = [ip.header().source(), ip.header().destination()];
            tcp.checksum() == tcp.calc_checksum_ipv6(source, destination).unwrap()
        }
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let [source, destination] = [ip.header().source(), ip.header().destination()];
            let header = udp.to_header();
            let right = header.calc_checksum_ipv4_raw(source, destination, udp.payload());
            udp.checksum() == right.unwrap()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let [source, destination] = [ip.header().source(), ip.header().destination()];
            let header = udp.to_header();
            let right = header.calc_checksum_ipv6_raw(source, destination, udp.payload());
            udp.checksum() == right.unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn parse(frame: &SliceFrame<'_>) -> Packet {
    let link = Link::parse(frame).unwrap();
    if link.ethertype == 0x0800 {
        Packet::parse_v4(frame, link.l3).unwrap()
    } else {
        Packet::parse_v6(frame, link.l3).unwrap()
    }
}

fn four(from: u16, payload: &[u8]) -> [pen_common::testing::Build; 4] {
    [
        v4(net::CLIENT4, net::VIP4).tcp(from, 80, payload),
        v6(net::CLIENT6, net::VIP6).tcp(from, 80, payload),
        v4(net::CLIENT4, net::VIP4).udp(from, 53, payload),
        v6(net::CLIENT6, net::VIP6).udp(from, 53, payload),
    ]
}

#[test]
fn fold_brings_every_carry_round() {
    assert_eq!(fold(0), 0);
    assert_eq!(fold(0xffff), 0xffff);
    assert_eq!(fold(0x1_0000), 1);
    assert_eq!(fold(0x1_ffff), 1);
    assert_eq!(fold(0x0001_ffff_ffff), 1);
    assert_eq!(fold(u64::MAX), 0xffff);
    assert_eq!(fold(0xffff_0000_ffff_0001), 1);
}

proptest! {
    #[test]
    fn fold_is_the_residue(number: u64) {
        prop_assert_eq!(u64::from(fold(number)) % 0xffff, number % 0xffff);
        prop_assert_eq!(fold(number) == 0, number == 0);
    }

    #[test]
    fn sum_is_the_one_by_the_book(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        prop_assert_eq!(sum(&bytes), whole(&bytes));
    }

    #[test]
    fn sum_of_pieces_is_the_whole(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
    ) {
        let mut sum = Sum::default();
        pieces.iter().for_each(|piece| sum.add(piece));
        prop_assert_eq!(sum.fold(), whole(&pieces.concat()));
    }

    #[test]
    fn sum_of_a_frame_in_buffers_is_the_whole(
        mut bytes in prop::collection::vec(any::<u8>(), 1..300),
        cuts: [prop::sample::Index; 2],
        from: prop::sample::Index,
        len: prop::sample::Index,
    ) {
        let from = from.index(bytes.len());
        let len = len.index(bytes.len() - from + 1);
        let wanted = whole(&bytes[from..from + len]);
        let first = cuts[0].index(bytes.len() + 1);
        let (head, rest) = bytes.split_at_mut(first);
        let (second, third) = rest.split_at(cuts[1].index(rest.len() + 1));
        let parts = [second, third];
        let frame = SliceFrame::with_rest(head, first, &parts);
        prop_assert_eq!(frame.sum(from, len), Some(wanted));
        prop_assert_eq!(frame.sum(from, frame.len() - from + 1), None);
        prop_assert_eq!(frame.sum(usize::MAX, 2), None);
    }

    /// RFC 1624: the field after an update is the field of a new sum.
    #[test]
    fn update_is_a_new_sum(
        mut bytes in prop::collection::vec(any::<u8>(), 4..60),
        at: prop::sample::Index,
        new: [u8; 2],
    ) {
        let at = at.index(bytes.len() / 2) * 2;
        let old = [bytes[at], bytes[at + 1]];
        let field = !whole(&bytes);
        bytes[at..at + 2].copy_from_slice(&new);
        let updated = update(field, u16::from_be_bytes(old), u16::from_be_bytes(new));
        // A sum of nothing but zeros is the one case that has no other form to be updated to.
        if bytes.iter().any(|byte| *byte != 0) {
            prop_assert_eq!(updated, !whole(&bytes));
        }
    }

    #[test]
    fn finished_checksums_are_right(
        from: u16,
        payload in prop::collection::vec(any::<u8>(), 0..1_400),
    ) {
        for build in four(from, &payload) {
            let mut bytes = build.clone().unfinished().frame();
            let len = bytes.len();
            let mut frame = SliceFrame::new(&mut bytes, len);
            let packet = parse(&frame);
            // Once in 65,536 the right checksum is the pseudo-header's sum itself.
            let right_before = frame.bytes() == build.frame();
            prop_assert_eq!(finish(&mut frame, &packet), !right_before);
            prop_assert!(is_right(frame.bytes()), "{:?}", packet);
            prop_assert_eq!(frame.bytes(), build.frame());
            prop_assert!(!finish(&mut frame, &packet), "finished twice");
        }
    }

    #[test]
    fn other_checksums_stay(from: u16, field: [u8; 2], payload: [u8; 20]) {
        for build in four(from, &payload) {
            let mut bytes = build.frame();
            let len = bytes.len();
            let at = parse(&SliceFrame::new(&mut bytes, len)).checksum_at().unwrap();
            let partial = build.clone().unfinished().frame();
            prop_assume!(partial[at..at + 2] != field);
            bytes[at..at + 2].copy_from_slice(&field);
            let packet = parse(&SliceFrame::new(&mut bytes, len));
            let before = bytes.clone();
            prop_assert!(!finish(&mut SliceFrame::new(&mut bytes, len), &packet));
            prop_assert_eq!(bytes, before);
        }
    }
}

/// The builders that all other tests trust.
#[test]
fn built_frames_have_right_checksums() {
    for payload in [&b""[..], b"odd", &[0xff; 64]] {
        for build in four(40_000, payload) {
            assert!(is_right(&build.frame()));
            assert!(!is_right(&build.unfinished().frame()));
        }
    }
    let frame = v4(net::CLIENT4, net::VIP4)
        .options(&[1; 8])
        .udp(1, 2, b"")
        .frame();
    assert_eq!(whole(&frame[14..14 + 28]), 0xffff);
}
