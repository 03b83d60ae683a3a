//! Any bytes as what a client sends over HTTP: no panic, nothing depends on the pieces in which they
//! come, and a server that takes almost anything reads of what is taken the same messages, one after
//! the other.
//!
//! The first two bytes are sizes of pieces. What reads heads and chunks is taken as it stands: it is
//! nobody's business but the proxy's, and the proxy with all that it needs does not belong into a
//! fuzz target.
#![no_main]
#![allow(dead_code, reason = "what is not for reading requests is not wanted here")]

#[path = "../../../pen-xdp/src/proxy/http/chunks.rs"]
mod chunks;
#[path = "../../../pen-xdp/src/proxy/http/fields.rs"]
mod fields;
#[path = "../../../pen-xdp/src/proxy/http/head.rs"]
mod head;
#[path = "../../../pen-xdp/src/proxy/http/readers.rs"]
mod readers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(([first, second], bytes)) = input.split_first_chunk() {
        readers::agree(bytes, &[usize::from(*first), usize::from(*second)]);
    }
});
