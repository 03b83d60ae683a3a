//! The flow table: flows stay where they are when the slots change, and new ones do not.

use pen_common::{
    flow_table::{FLOW_IDLE_S, FLOW_WAYS, FLOWS, FlowEntry, FlowFrame, recall, record},
    tables::Mac,
    tables::Memory,
    testing::{
        World, bytes_at,
        net::{CLIENT4, CLIENT6, ONE, ROUTER4, VIP4, VIP6, WEB, backend},
        v4, v6,
    },
    verdict::{Reason, Verdict},
};

/// The offset of TCP's flags in a frame without options.
const FLAGS4: usize = 14 + 20 + 13;
const FLAGS6: usize = 14 + 40 + 13;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

fn to(world: &World, frame: &[u8]) -> u16 {
    let verdict = world.steer(frame).0;
    let Verdict::Forward(id) = verdict else {
        panic!("{verdict:?}");
    };
    id
}

/// Ten flows of each kind: the frame that goes on, and the one that opens (TCP only).
fn flows() -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut flows = Vec::new();
    for port in 50_000..50_010 {
        let tcp4 = v4(CLIENT4, VIP4).tcp(port, 81, b"x").frame();
        let tcp6 = v6(CLIENT6, VIP6).tcp(port, 81, b"x").frame();
        let syn4 = bytes_at(tcp4.clone(), FLAGS4, &[SYN]);
        let syn6 = bytes_at(tcp6.clone(), FLAGS6, &[SYN]);
        flows.push((tcp4, Some(syn4)));
        flows.push((tcp6, Some(syn6)));
        flows.push((v4(CLIENT4, VIP4).udp(port, 81, b"x").frame(), None));
        flows.push((v6(CLIENT6, VIP6).udp(port, 81, b"x").frame(), None));
    }
    flows
}

#[test]
fn a_flow_stays_when_the_slots_change_and_a_new_one_does_not() {
    let mut world = World::example();
    let flows = flows();
    let before: Vec<u16> = flows.iter().map(|(frame, _)| to(&world, frame)).collect();
    assert!((1..=3).all(|id| before.contains(&id)), "{before:?}");
    // Back end 1 has no weight any more.
    world.set_pool(WEB, &[2, 3]);
    for ((frame, _), id) in flows.iter().zip(&before) {
        assert_eq!(to(&world, frame), *id);
    }
    // The same client opens a connection from the same port: a new flow.
    for (frame, syn) in &flows {
        let Some(syn) = syn else { continue };
        let id = to(&world, syn);
        assert_ne!(id, 1);
        assert_eq!(to(&world, frame), id);
        // What answers a back end's own SYN opens nothing.
        world.set_pool(WEB, &[1]);
        let at = if frame[12] == 8 { FLAGS4 } else { FLAGS6 };
        assert_eq!(to(&world, &bytes_at(frame.clone(), at, &[SYN_ACK])), id);
        world.set_pool(WEB, &[2, 3]);
    }
}

#[test]
fn a_flow_leaves_a_back_end_that_can_not_be_sent_to_and_stays_away() {
    let mut world = World::example();
    let frame = v4(CLIENT4, VIP4).udp(50_000, 81, b"x").frame();
    world.set_pool(WEB, &[1]);
    assert_eq!(to(&world, &frame), 1);
    world.set_backend(1, WEB, Mac(0));
    assert_eq!(world.steer(&frame).0, Verdict::Drop(Reason::NoMac));
    world.set_pool(WEB, &[2]);
    assert_eq!(to(&world, &frame), 2);
    world.set_backend(1, WEB, backend(1));
    world.set_pool(WEB, &[1]);
    assert_eq!(to(&world, &frame), 2);
}

#[test]
fn udp_is_a_new_flow_after_a_silence_and_tcp_is_not() {
    let mut world = World::example();
    let udp = v4(CLIENT4, VIP4).udp(50_000, 81, b"x").frame();
    let tcp = v4(CLIENT4, VIP4).tcp(50_000, 81, b"x").frame();
    let idle_ms = (u64::from(FLOW_IDLE_S) + 1) * 1_000;
    // Also over the wrap of the clock's 16 bits.
    for start_s in [1_000, 65_400_u64] {
        world.set_pool(WEB, &[1]);
        let mut now = start_s * 1_000;
        world.set_now_ms(now);
        for frame in [&udp, &bytes_at(tcp.clone(), FLAGS4, &[SYN])] {
            assert_eq!(to(&world, frame), 1);
        }
        world.set_pool(WEB, &[2]);
        // Each frame keeps it alive.
        for _ in 0..4 {
            now += idle_ms - 6_000;
            world.set_now_ms(now);
            assert_eq!(to(&world, &udp), 1);
        }
        now += idle_ms;
        world.set_now_ms(now);
        assert_eq!(to(&world, &udp), 2);
        assert_eq!(to(&world, &tcp), 1);
    }
}

/// Its answer may be slow: the back end that got the first SYN gets the next as well, until the
/// connection stands. A SYN that is sent after that, or much later, is a new connection's.
#[test]
fn a_syn_that_is_sent_again_goes_where_it_went() {
    let mut world = World::example();
    let tcp = v4(CLIENT4, VIP4).tcp(50_000, 81, b"").frame();
    let syn = bytes_at(tcp.clone(), FLAGS4, &[SYN]);
    world.set_pool(WEB, &[1]);
    assert_eq!(to(&world, &syn), 1);
    world.set_pool(WEB, &[2]);
    world.set_now_ms(1_000_000 + 60_000);
    assert_eq!(to(&world, &syn), 1);
    assert_eq!(to(&world, &tcp), 1);
    // Nonsense opens nothing.
    for flags in [0x03, 0x06] {
        assert_eq!(to(&world, &bytes_at(tcp.clone(), FLAGS4, &[flags])), 1);
    }
    assert_eq!(to(&world, &syn), 2);
    world.set_pool(WEB, &[3]);
    world.set_now_ms(1_000_000 + 200_000);
    assert_eq!(to(&world, &syn), 3);
}

/// A number that is another pool's by now, or a tag that is another flow's by chance.
#[test]
fn a_back_end_of_another_pool_is_not_followed() {
    let mut world = World::example();
    let udp = v4(CLIENT4, VIP4).udp(50_000, 81, b"x").frame();
    world.set_pool(WEB, &[1]);
    assert_eq!(to(&world, &udp), 1);
    world.set_backend(1, ONE, backend(1));
    world.set_pool(WEB, &[2]);
    assert_eq!(to(&world, &udp), 2);
}

/// A worker that was held up reads a clock of before.
#[test]
fn an_entry_from_the_future_is_a_fresh_one() {
    let world = World::new();
    record(&world, 7, 1_001, (5, FlowFrame::Other));
    assert_eq!(recall(&world, 7, 1_000, FlowFrame::Other), 5);
    assert_eq!(
        FlowEntry::from_word(world.flow(0).unwrap(), 1_000).map(|flow| flow.age_s),
        Some(0)
    );
}

#[test]
fn an_error_follows_its_flow_and_makes_none() {
    let mut world = World::example();
    let quoted = v4(VIP4, CLIENT4).tcp(81, 50_000, b"").packet();
    let error = v4(ROUTER4, VIP4).icmp(3, 4, 0, &quoted).frame();
    world.set_pool(WEB, &[1]);
    assert_eq!(to(&world, &error), 1);
    world.set_pool(WEB, &[2]);
    assert_eq!(to(&world, &error), 2);
    assert_eq!(
        to(&world, &v4(CLIENT4, VIP4).tcp(50_000, 81, b"").frame()),
        2
    );
    world.set_pool(WEB, &[3]);
    assert_eq!(to(&world, &error), 2);
}

/// Pen's form without `-r`: a client goes where it belongs, each connection stays where it is.
#[test]
fn by_source_a_flow_stays_as_well() {
    let mut world = World::example();
    let old = v4(CLIENT4, VIP4).tcp(50_000, 82, b"").frame();
    world.set_pool(WEB, &[1]);
    assert_eq!(to(&world, &old), 1);
    world.set_pool(WEB, &[2]);
    assert_eq!(
        to(&world, &v4(CLIENT4, VIP4).tcp(50_001, 82, b"").frame()),
        2
    );
    assert_eq!(to(&world, &old), 1);
}

#[test]
fn the_entry_that_is_longest_unseen_gives_way() {
    let world = World::new();
    let hash = |tag: u64| 77 << 32 | tag;
    let ways = u64::from(FLOW_WAYS);
    for tag in 1..=ways {
        record(&world, hash(tag), tag * 10, (tag as u16, FlowFrame::Tcp));
    }
    assert_eq!(recall(&world, hash(1), 200, FlowFrame::Tcp), 1);
    record(&world, hash(100), 201, (100, FlowFrame::Tcp));
    for tag in (1..=ways).chain([100]) {
        let wanted = if tag == 2 { 0 } else { tag as u16 };
        assert_eq!(recall(&world, hash(tag), 201, FlowFrame::Tcp), wanted);
    }
    // Another set was not touched, and the table is as full as that.
    let full = (0..FLOWS).filter_map(|at| FlowEntry::from_word(world.flow(at)?, 201));
    assert_eq!(full.count(), ways as usize);
}
