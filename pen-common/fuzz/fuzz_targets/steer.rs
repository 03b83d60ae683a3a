//! Any bytes through the decision: no panic, and the promises of [`checked`] are kept.
//!
//! The first byte says whether checksums are finished and whether the MAC addresses are given; the
//! rest is the frame. `cargo +nightly fuzz run steer` in `pen-common`, without a corpus: libFuzzer
//! watches comparisons, so it finds EtherTypes and addresses by itself.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pen_common::testing::{World, checked, net};

static WORLD: LazyLock<World> = LazyLock::new(World::example);

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else {
        return;
    };
    WORLD.set_finish(choice & 1 == 1);
    if choice & 2 == 0 {
        checked(&WORLD, bytes);
        return;
    }
    let ours = [&net::PEN.bytes()[..], &net::CLIENT.bytes(), bytes].concat();
    checked(&WORLD, &ours);
});
