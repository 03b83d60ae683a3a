//! Endless frames, the same ones for the same seed.

use super::{
    CASES,
    build::{v4, v6},
    bytes_at, cut,
    world::net,
};

/// Numbers from a seed: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators").
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Longest random frame, bytes.
const LONGEST: usize = 1_514;

/// A frame for this seed, 14 to 1,514 bytes long: a frame of [`CASES`] or a packet of a random
/// flow, as it is or with a few bytes changed, shortened or lengthened; one in sixteen is noise.
pub fn random_frame(seed: u64) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let mut frame = match numbers.below(16) {
        0 => return noise(numbers.next()),
        1..=5 => flow(&mut numbers),
        _ => {
            let case = &CASES[numbers.below(CASES.len())];
            let all = case.setup.len() + 1;
            let which = numbers.below(all);
            case.setup.get(which).unwrap_or(&case.frame).clone()
        }
    };
    frame = cut(frame, LONGEST);
    if frame.len() < 14 {
        frame.resize(14, 0);
    }
    match numbers.below(8) {
        0 | 1 => frame,
        2 => {
            let len = 14 + numbers.below(frame.len() - 13);
            cut(frame, len)
        }
        3 | 4 => {
            let more = numbers.below(64);
            let len = (frame.len() + more).min(LONGEST);
            frame.resize(len, numbers.next() as u8);
            mutated(frame, &mut numbers)
        }
        _ => mutated(frame, &mut numbers),
    }
}

/// Noise for this seed, 14 to 253 bytes long; mostly to Pen's MAC address and of an EtherType
/// that is looked into.
pub fn noise(seed: u64) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let len = 14 + numbers.below(240);
    let mut frame: Vec<u8> = (0..len).map(|_| numbers.next() as u8).collect();
    if numbers.below(8) > 0 {
        frame = bytes_at(frame, 0, &net::PEN.bytes());
        let known = [
            [0x08, 0x00],
            [0x86, 0xdd],
            [0x08, 0x06],
            [0x81, 0x00],
            [0x88, 0xa8],
        ];
        frame = bytes_at(frame, 12, &known[numbers.below(known.len())]);
    }
    frame
}

/// A packet of a random client to a VIP.
fn flow(numbers: &mut Numbers) -> Vec<u8> {
    let ports = [53, 80, 81, 82, 86, 87, 88, 90, 443, 4_000];
    let (from, to) = (numbers.next() as u16, ports[numbers.below(ports.len())]);
    let vip = numbers.below(7);
    let build = if numbers.below(2) == 0 {
        let vips = [
            net::VIP4,
            net::ALL4,
            net::TAGGED4,
            net::KERNEL4,
            net::KERNEL_ALL4,
            net::GUARDED4,
            net::TRAPPED4,
        ];
        v4((numbers.next() as u32).into(), vips[vip])
    } else {
        let vips = [
            net::VIP6,
            net::ALL6,
            net::TAGGED6,
            net::KERNEL6,
            net::KERNEL_ALL6,
            net::GUARDED6,
            net::TRAPPED6,
        ];
        v6(
            (u128::from(numbers.next()) << 64 | u128::from(numbers.next())).into(),
            vips[vip],
        )
    };
    let build = if numbers.below(4) == 0 {
        build.tag(10)
    } else {
        build
    };
    let payload = vec![numbers.next() as u8; numbers.below(100)];
    if numbers.below(2) == 0 {
        build.tcp(from, to, &payload).frame()
    } else {
        build.udp(from, to, &payload).frame()
    }
}

/// One to four bytes changed, mostly in the headers, and seldom so that another station is meant.
fn mutated(mut frame: Vec<u8>, numbers: &mut Numbers) -> Vec<u8> {
    for _ in 0..=numbers.below(4) {
        let (from, to) = match numbers.below(16) {
            0 => (0, 12),
            1..=4 => (12, frame.len()),
            _ => (12, frame.len().min(80)),
        };
        let at = from + numbers.below(to - from);
        let value = numbers.next();
        frame[at] = if value & 0x100 == 0 {
            value as u8
        } else {
            frame[at] ^ 1 << (value & 7)
        };
    }
    frame
}
