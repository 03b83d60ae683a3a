//! The frames that are offered: the smallest that Ethernet knows, UDP over IPv4, of one flow or of
//! many.

use std::net::Ipv4Addr;

use lab::Mac;
use pen_common::checksum::Sum;

/// Bytes of a frame without the checksum that hardware appends: the least that Ethernet allows.
pub(crate) const FRAME_BYTES: usize = 60;
/// Port of every VIP.
pub(crate) const PORT: u16 = 53;
/// Sender of every frame: neither the forwarder's nor a back end's, or the frame would be taken for
/// a loop. Like the MACs of all back ends it begins with [`BACKEND_MAC`], so that a bare exchange
/// of MACs counts as delivery.
pub(crate) const SOURCE_MAC: Mac = Mac([BACKEND_MAC[0], BACKEND_MAC[1], 0xff, 0xff, 0xff, 0xff]);
/// How every back end's MAC begins; the program `sink` counts frames to such a MAC.
pub(crate) const BACKEND_MAC: [u8; 2] = [0x02, 0xbe];
/// How many VIPs [`vip`] knows.
pub(crate) const VIPS_MAX: usize = 250 * 250;

/// How many flows, to how many VIPs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) flows: usize,
    pub(crate) vips: usize,
}

/// VIP `index`, counted from 0.
pub(crate) const fn vip(index: usize) -> Ipv4Addr {
    assert!(index < VIPS_MAX, "no such VIP");
    Ipv4Addr::new(10, 99, (index / 250) as u8, (index % 250) as u8 + 1)
}

impl Traffic {
    /// One frame of each flow, in random order of clients, ports and VIPs, the same in every run.
    pub(crate) fn frames(&self, forwarder: Mac) -> Vec<[u8; FRAME_BYTES]> {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        (0..self.flows)
            .map(|_| {
                let bits = random.next();
                let client = Ipv4Addr::new(10, 200, (bits >> 8) as u8, bits as u8);
                let port = 1024 + (bits >> 16) as u16 % 60_000;
                let to = vip((bits >> 32) as usize % self.vips);
                udp_frame(forwarder, (client, port), to)
            })
            .collect()
    }
}

/// Xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn udp_frame(forwarder: Mac, client: (Ipv4Addr, u16), to: Ipv4Addr) -> [u8; FRAME_BYTES] {
    const ETHERNET: usize = 14;
    const IP: usize = 20;
    let length = |from: usize| ((FRAME_BYTES - from) as u16).to_be_bytes();
    let mut frame = [0; FRAME_BYTES];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&forwarder.0);
    put(&SOURCE_MAC.0);
    put(&[0x08, 0x00]);
    put(&[0x45, 0]);
    put(&length(ETHERNET));
    // Identification 0, don't fragment, TTL 64, UDP, checksum to come.
    put(&[0, 0, 0x40, 0, 64, 17, 0, 0]);
    put(&client.0.octets());
    put(&to.octets());
    put(&client.1.to_be_bytes());
    put(&PORT.to_be_bytes());
    put(&length(ETHERNET + IP));

    let (ip, udp) = (ETHERNET, ETHERNET + IP);
    let sum = checksum(&[&frame[ip..udp]]);
    frame[ip + 10..ip + 12].copy_from_slice(&sum);
    let pseudo = [&[0, 17][..], &length(udp)].concat();
    let sum = checksum(&[&frame[ip + 12..udp], &pseudo, &frame[udp..]]);
    frame[udp + 6..udp + 8].copy_from_slice(&sum);
    frame
}

fn checksum(pieces: &[&[u8]]) -> [u8; 2] {
    let mut sum = Sum::default();
    pieces.iter().for_each(|piece| sum.add(piece));
    (!sum.fold()).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_sound_and_differ() {
        let traffic = Traffic {
            flows: 1000,
            vips: 10,
        };
        let frames = traffic.frames(Mac([2, 0, 0, 0, 0, 1]));
        for frame in &frames {
            let ip = &frame[14..34];
            assert_eq!(checksum(&[ip]), [0, 0]);
            let pseudo = [0, 17, 0, 26];
            assert_eq!(checksum(&[&ip[12..], &pseudo, &frame[34..]]), [0, 0]);
            assert!(vip(0).octets() <= ip[16..20].try_into().unwrap());
        }
        let mut sorted = frames.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(
            sorted.len() > 990,
            "{} of {} are different",
            sorted.len(),
            frames.len()
        );
    }
}
