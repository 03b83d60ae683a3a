//! Any bytes through the decision: no panic, and the promises of [`checked`] are kept.
//!
//! The first byte says whether checksums are finished, and what the rest is: a frame, a frame
//! without its MAC addresses, or the number of a case and changes to its frame. So no corpus is
//! needed to come behind the first headers: `cargo +nightly fuzz run steer` in `pen-common`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pen_common::testing::{CASES, World, checked, net};

static WORLD: LazyLock<World> = LazyLock::new(World::example);

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else {
        return;
    };
    WORLD.set_finish(choice & 1 == 1);
    let frame = match choice & 6 {
        0 => bytes.to_vec(),
        2 => [&net::PEN.bytes()[..], &net::CLIENT.bytes(), bytes].concat(),
        _ => changed_case(bytes),
    };
    checked(&WORLD, &frame);
});

/// Number of the case in two bytes, then changes in three: where, and the new byte.
fn changed_case(bytes: &[u8]) -> Vec<u8> {
    let Some((number, changes)) = bytes.split_first_chunk() else {
        return Vec::new();
    };
    let case = &CASES[usize::from(u16::from_le_bytes(*number)) % CASES.len()];
    let mut frame = case.frame.clone();
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % frame.len();
        frame[place] = change[2];
    }
    frame
}
