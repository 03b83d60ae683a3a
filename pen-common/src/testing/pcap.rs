//! A capture file for people: a failing case is looked at in a packet analyser.

/// The frames as a capture file in the classic format (draft-ietf-opsawg-pcap, link type 1,
/// Ethernet). Frame `n` has time stamp `n` seconds.
pub fn pcap(frames: &[&[u8]]) -> Vec<u8> {
    const LONGEST: u32 = 262_144;
    let mut file = Vec::new();
    for word in [
        0xa1b2_c3d4,
        0x0002_0004_u32.rotate_left(16),
        0,
        0,
        LONGEST,
        1,
    ] {
        file.extend(word.to_le_bytes());
    }
    for (second, frame) in (0_u32..).zip(frames) {
        let len = frame.len() as u32;
        for word in [second, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(*frame);
    }
    file
}

#[cfg(test)]
mod tests {
    #[test]
    fn headers_stand_where_the_format_has_them() {
        let file = super::pcap(&[&[1, 2, 3], &[4]]);
        assert_eq!(file[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(file.len(), 24 + 16 + 3 + 16 + 1);
        assert_eq!(
            file[24..43],
            [0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3]
        );
        assert_eq!(file[43], 1);
    }
}
