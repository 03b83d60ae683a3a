//! CRC32C: the checksum of SCTP and iSCSI (RFC 9260, appendix A).

/// Its polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What each byte does to the remainder.
const TABLE: [u32; 256] = table();

/// The checksum of bytes that come piece by piece.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Crc32c {
    /// That of no bytes at all.
    pub const fn new() -> Self {
        Self(u32::MAX)
    }

    /// Takes in more bytes.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let add = |crc: u32, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
        Self(bytes.iter().fold(self.0, add))
    }

    /// The checksum of all so far.
    pub const fn value(self) -> u32 {
        !self.0
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let odd = crc & 1 == 1;
            crc >>= 1;
            if odd {
                crc ^= POLYNOMIAL;
            }
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that RFC 3720 (B.4) and every list of checksums give.
    #[test]
    fn known_checksums() {
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, expected) in [
            (&b""[..], 0),
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
        ] {
            assert_eq!(Crc32c::new().with(bytes).value(), expected, "{bytes:?}");
            let (one, other) = bytes.split_at(bytes.len() / 3);
            assert_eq!(Crc32c::new().with(one).with(other).value(), expected);
        }
    }
}
