//! The ethtool system call (`SIOCETHTOOL`, `linux/ethtool.h`): driver name, queue counts, features.
//!
//! The old call is used and not its netlink successor, because it needs no family to be looked up
//! and exists on every kernel that has AF_XDP.

#![allow(
    unsafe_code,
    reason = "no crate wraps SIOCETHTOOL's variable-length structures"
)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// A feature as `ethtool -k` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// It can be switched.
    pub changeable: bool,
    /// It was asked for; may be held back by another one or by an attached program.
    pub wanted: bool,
    /// It is in force.
    pub active: bool,
}

/// One interface, by name.
pub(super) struct Ethtool {
    /// Any socket of the namespace will do; this kind opens no port.
    socket: UnixDatagram,
    name: [u8; libc::IFNAMSIZ],
}

impl Ethtool {
    pub(super) fn open(name: &str) -> io::Result<Ethtool> {
        let mut padded = [0; libc::IFNAMSIZ];
        // The last byte stays zero: the kernel wants the end marked.
        match padded[..libc::IFNAMSIZ - 1].get_mut(..name.len()) {
            Some(place) => place.copy_from_slice(name.as_bytes()),
            None => return Err(io::Error::from_raw_os_error(libc::ENODEV)),
        }
        Ok(Ethtool {
            socket: UnixDatagram::unbound()?,
            name: padded,
        })
    }

    /// The driver's name; empty where it gives none.
    pub(super) fn driver(&self) -> io::Result<String> {
        // struct ethtool_drvinfo: cmd, driver[32], version[32], ... 196 bytes.
        let mut words = [0; 49];
        words[0] = ETHTOOL_GDRVINFO;
        self.call(&mut words)?;
        Ok(text(&bytes(&words[1..9])))
    }

    /// Receive and transmit queues in use.
    pub(super) fn queues(&self) -> io::Result<(u32, u32)> {
        // struct ethtool_channels: cmd, max rx/tx/other/combined, rx, tx, other, combined.
        let mut words = [0; 9];
        words[0] = ETHTOOL_GCHANNELS;
        self.call(&mut words)?;
        Ok((words[5] + words[8], words[6] + words[8]))
    }

    /// All features by name.
    pub(super) fn features(&self) -> io::Result<BTreeMap<String, Feature>> {
        let names = self.feature_names()?;
        let blocks = names.len().div_ceil(32);
        // struct ethtool_gfeatures: cmd, size, then available, requested, active, never_changed.
        let mut words = vec![0; 2 + 4 * blocks];
        words[0] = ETHTOOL_GFEATURES;
        words[1] = u32::try_from(blocks).unwrap_or(0);
        self.call(&mut words)?;
        let bit = |index: usize, field: usize| {
            words[2 + 4 * (index / 32) + field] & (1 << (index % 32)) != 0
        };
        let features = names.into_iter().enumerate().map(|(index, name)| {
            let changeable = bit(index, 0) && !bit(index, 3);
            (
                name,
                Feature {
                    changeable,
                    wanted: bit(index, 1),
                    active: bit(index, 2),
                },
            )
        });
        Ok(features.collect())
    }

    /// Switches one feature. That the kernel took the order doesn't mean that it could follow it:
    /// read it back.
    pub(super) fn set_feature(&self, name: &str, on: bool) -> io::Result<()> {
        let names = self.feature_names()?;
        let index = names.iter().position(|known| known == name);
        let index = index.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let blocks = names.len().div_ceil(32);
        // struct ethtool_sfeatures: cmd, size, then valid, requested.
        let mut words = vec![0; 2 + 2 * blocks];
        words[0] = ETHTOOL_SFEATURES;
        words[1] = u32::try_from(blocks).unwrap_or(0);
        words[2 + 2 * (index / 32)] = 1 << (index % 32);
        words[3 + 2 * (index / 32)] = u32::from(on) << (index % 32);
        self.call(&mut words)
    }

    fn feature_names(&self) -> io::Result<Vec<String>> {
        // struct ethtool_sset_info: cmd, reserved, sset_mask (64 bits), data.
        let mut words = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
        self.call(&mut words)?;
        let count = words[4] as usize;
        // struct ethtool_gstrings: cmd, string_set, len, data.
        let mut words = vec![0; 3 + count * ETH_GSTRING_LEN / 4];
        words[0] = ETHTOOL_GSTRINGS;
        words[1] = ETH_SS_FEATURES;
        words[2] = words.len().saturating_sub(3) as u32 / (ETH_GSTRING_LEN as u32 / 4);
        self.call(&mut words)?;
        Ok(bytes(&words[3..])
            .chunks(ETH_GSTRING_LEN)
            .map(text)
            .collect())
    }

    /// `words` is one of the structures above, whole: its length is what the command in its
    /// first word makes the kernel read and write.
    fn call(&self, words: &mut [u32]) -> io::Result<()> {
        // struct ifreq: the name, then a union that holds the pointer.
        #[repr(C)]
        struct Request {
            name: [u8; libc::IFNAMSIZ],
            data: *mut u32,
            rest: [u64; 2],
        }
        const { assert!(size_of::<Request>() >= size_of::<libc::ifreq>()) };
        let mut request = Request {
            name: self.name,
            data: words.as_mut_ptr(),
            rest: [0; 2],
        };
        // SAFETY: `request` is at least as large as an ifreq and outlives the call; `data` points
        // to a structure that the callers above size as its command demands, and is borrowed
        // mutably for the time of the call.
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
