//! What holds for every frame: valid, damaged, or noise.

use pen_common::{
    frame::{REACH, SliceFrame},
    steer::steer,
    testing::{
        CASES, World, bytes_at, checked, forwarded, net, noise, padded, random_frame, v4, v6,
    },
    verdict::{Reason, Verdict},
};
use proptest::prelude::*;

#[test]
fn promises_hold_for_the_case_table() {
    for finish in [false, true] {
        let world = World::example();
        world.set_finish(finish);
        for case in CASES.iter() {
            for frame in case.setup.iter().chain([&case.frame]) {
                checked(&world, frame);
            }
        }
    }
}

#[test]
fn promises_hold_for_random_frames() {
    let world = World::example();
    let mut fates = [0; 4];
    for seed in 0..20_000 {
        world.set_finish(seed % 2 == 0);
        world.set_now_ms(1_000_000 + seed * 7);
        let fate = match checked(&world, &random_frame(seed)) {
            Verdict::Forward(_) => 0,
            Verdict::Reply(_) => 1,
            Verdict::Pass(_) => 2,
            Verdict::Drop(_) => 3,
        };
        fates[fate] += 1;
    }
    // If nearly all were passed, this would prove little.
    assert!(fates.iter().all(|count| *count > 200), "{fates:?}");
}

#[test]
fn random_frames_are_the_same_for_the_same_seed() {
    assert_eq!(random_frame(7), random_frame(7));
    assert_ne!(random_frame(7), random_frame(8));
    assert_eq!(noise(7), noise(7));
    assert!((0..2_000).all(|seed| (14..=1_514).contains(&random_frame(seed).len())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The fuzz target's property without a corpus.
    #[test]
    fn promises_hold_for_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        checked(&World::new(), &bytes);
        let ours = [&net::PEN.bytes()[..], &net::CLIENT.bytes(), &bytes].concat();
        WORLD.with(|world| checked(world, &ours));
    }

    #[test]
    fn promises_hold_for_damaged_cases(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        len in any::<prop::sample::Index>(),
        finish in any::<bool>(),
    ) {
        let mut frame = CASES[which.index(CASES.len())].frame.clone();
        for (at, byte) in damage {
            let at = at.index(frame.len().min(120));
            frame[at] = byte;
        }
        if len.index(4) == 0 {
            frame.truncate(len.index(frame.len() + 1));
        }
        WORLD.with(|world| {
            world.set_finish(finish);
            checked(world, &frame);
        });
    }
}

thread_local! {
    static WORLD: World = World::example();
}

#[test]
fn answer_that_does_not_fit_is_no_answer() {
    let ask = CASES
        .iter()
        .find(|case| case.name == "duplicate-probe")
        .unwrap();
    let world = World::example();
    for room in 0..8 {
        let mut buffer = padded(ask.frame.clone(), ask.frame.len() + room);
        let before = buffer.clone();
        let mut frame = SliceFrame::new(&mut buffer, ask.frame.len());
        assert_eq!(
            steer(&mut frame, &world.tables()),
            Verdict::Drop(Reason::NoRoom)
        );
        assert_eq!(buffer, before);
    }
}

/// A frame over several buffers is steered like the same frame in one.
#[test]
fn multi_buffer_frames_are_steered_like_whole_ones() {
    let world = World::example();
    world.set_finish(true);
    for build in [
        v4(net::CLIENT4, net::VIP4).tcp(40_000, 80, &[0x5a; 8_001]),
        v6(net::CLIENT6, net::VIP6).udp(40_000, 53, &[0xa5; 5_000]),
    ] {
        let whole = build.clone().unfinished().frame();
        let wanted = forwarded(&build.frame(), net::backend(1));
        for at in [128, 129, 2_048, 3_001, whole.len() - 1] {
            let (first, rest) = whole.split_at(at);
            let (second, third) = rest.split_at(rest.len() / 3);
            let mut first = first.to_vec();
            let parts = [second, third];
            let mut frame = SliceFrame::with_rest(&mut first, at, &parts);
            assert_eq!(steer(&mut frame, &world.tables()), Verdict::Forward(1));
            assert_eq!(first, wanted[..at], "split at {at}");
        }
    }
}

/// Headers beyond [`REACH`] are not followed on any host.
#[test]
fn headers_out_of_reach_are_dropped() {
    let world = World::example();
    let far = v6(net::CLIENT6, net::VIP6)
        .tcp(40_000, 80, b"")
        .extension(60, 2_000);
    let (verdict, _) = world.steer(&far.clone().extension(60, 80).frame());
    assert_eq!(verdict, Verdict::Drop(Reason::Truncated));
    let near = far.frame();
    assert!(near.len() - 20 > REACH);
    assert_eq!(world.steer(&near).0, Verdict::Drop(Reason::Truncated));
}

/// Every kind of service gives each of its back ends something, whatever the client.
#[test]
fn flows_spread_over_the_table() {
    let world = World::example();
    let mut counts = [0; 4];
    for port in 1_000..4_000 {
        let (verdict, _) = world.steer(&v4(net::CLIENT4, net::VIP4).tcp(port, 81, b"").frame());
        let Verdict::Forward(id) = verdict else {
            panic!("{verdict:?}");
        };
        counts[usize::from(id)] += 1;
    }
    assert!(
        counts[1..].iter().all(|count| (900..1_100).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn root_word_selects_the_bank() {
    let world = World::example();
    let tables = world.tables();
    assert_eq!(tables.generation, 7);
    assert_eq!(tables.head.mac, net::PEN);
    let frame = v4(net::CLIENT4, net::VIP4).tcp(1, 80, b"").frame();
    assert_eq!(world.steer(&frame).0, Verdict::Forward(1));
    // The other bank's own MAC address, which nothing may compare with.
    let stray = bytes_at(frame, 0, &[2, 0xde, 0xad, 0xde, 0xad, 0xde]);
    assert_eq!(world.steer(&stray).0, Verdict::Pass(Reason::NotOurMac));
}
