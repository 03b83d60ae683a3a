//! Steers one IPv4 TCP frame on a slice again and again, to count instructions.
//!
//! `valgrind --tool=callgrind target/release/examples/steer_count N` for N and for 2 N: the
//! difference of the two totals over N is the cost of one frame, with the 12 bytes of its MAC
//! addresses restored and nothing else around it. `--by-source` steers to a service that hashes
//! the client's address alone.

use std::{hint::black_box, process::ExitCode};

use pen_common::{
    frame::{Frame, SliceFrame},
    steer::steer,
    tables::Tables,
    testing::{World, net, v4},
    verdict::Verdict,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(rounds) = arguments.first().and_then(|text| text.parse::<u64>().ok()) else {
        eprintln!("steer_count: how many rounds? Give a number first");
        return ExitCode::from(2);
    };
    let by_source = arguments.iter().any(|argument| argument == "--by-source");
    let port = if by_source { 82 } else { 81 };
    let mut bytes = v4(net::CLIENT4, net::VIP4).tcp(40_000, port, b"").frame();
    let len = bytes.len();
    let world = World::example();
    let mut frame = SliceFrame::new(&mut bytes, len);
    let macs = frame.get::<12>(0);
    let mut forwarded = 0;
    for _ in 0..rounds {
        if let Some(macs) = macs {
            frame.set(0, macs);
        }
        forwarded += u64::from(one(black_box(&mut frame), black_box(&world)));
    }
    if forwarded == rounds {
        return ExitCode::SUCCESS;
    }
    eprintln!("steer_count: {forwarded} of {rounds} frames forwarded");
    ExitCode::FAILURE
}

/// What a worker does for each frame.
#[inline(never)]
fn one(frame: &mut SliceFrame<'_>, world: &World) -> bool {
    let Some(tables) = Tables::read(world) else {
        return false;
    };
    matches!(steer(frame, &tables), Verdict::Forward(_))
}
