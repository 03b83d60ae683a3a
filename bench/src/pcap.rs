//! Frames in capture files: the classic pcap format, Ethernet, in this machine's byte order.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Head of a file with microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;
const HEAD: usize = 24;
const RECORD: usize = 16;
const LINKTYPE_ETHERNET: u32 = 1;
/// Frames are stored whole up to this size.
const SNAP: u32 = 262_144;

/// The frames of a capture file, in order.
///
/// # Errors
/// It can't be read, or is not a classic pcap file of Ethernet in this machine's byte order.
pub fn read_pcap(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    parse(&bytes).with_context(|| format!("in {}", path.display()))
}

/// Writes frames for `tcpdump -r` and `lab-peer send-frames`.
pub fn write_pcap(path: &Path, frames: &[Vec<u8>]) -> Result<()> {
    fs::write(path, build(frames)).with_context(|| format!("writing {}", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let head = bytes.get(..HEAD).context("no pcap head")?;
    ensure!(word(head, 0) == MAGIC, "not a pcap file of this byte order");
    ensure!(
        word(head, 20) == LINKTYPE_ETHERNET,
        "not a capture of Ethernet"
    );
    let mut rest = &bytes[HEAD..];
    let mut frames = Vec::new();
    // A record that is still being written ends the list.
    while let Some((record, after)) = rest.split_at_checked(RECORD) {
        let length = word(record, 8) as usize;
        let Some((frame, after)) = after.split_at_checked(length) else {
            break;
        };
        frames.push(frame.to_vec());
        rest = after;
    }
    Ok(frames)
}

fn build(frames: &[Vec<u8>]) -> Vec<u8> {
    let version = 2 | 4 << 16;
    let mut bytes = words(&[MAGIC, version, 0, 0, SNAP, LINKTYPE_ETHERNET]);
    for (number, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        // A microsecond apart: the order shows, no clock is read.
        bytes.extend(words(&[0, number as u32, length, length]));
        bytes.extend(frame);
    }
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let frames = vec![vec![1; 60], Vec::new(), vec![2; 9014]];
        assert_eq!(parse(&build(&frames)).unwrap(), frames);
    }

    #[test]
    fn a_cut_file_gives_the_whole_frames() {
        let bytes = build(&[vec![1; 60], vec![2; 60]]);
        assert_eq!(parse(&bytes[..bytes.len() - 1]).unwrap(), [vec![1; 60]]);
        assert!(parse(&bytes[..10]).is_err());
    }
}
