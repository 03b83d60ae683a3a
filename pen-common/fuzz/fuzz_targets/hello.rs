//! Any bytes as what a client begins to speak TLS with: no panic, nothing depends on the pieces in
//! which they come, and where rustls reads a name, that name is read.
//!
//! What reads them is taken as it stands, as in `http_head`. The first byte says how: as they are, in
//! records of some size, or as a change of `hello/openssl.bin`, a ClientHello of openssl's for
//! `www.example.org`: the next three bytes say what of it is cut out, and the others take its place.
#![no_main]

#[path = "../../../pen-xdp/src/proxy/tls/hello.rs"]
mod hello;

use std::io::Cursor;

use hello::{Hello, SEEN_MAX};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

const OPENSSL: &[u8] = include_bytes!("hello/openssl.bin");
const RECORD_HEADER: usize = 5;

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else {
        return;
    };
    let stream = match how {
        0..64 => bytes.to_vec(),
        64..128 => records(bytes, usize::from(how - 63) * 16),
        128.. => match changed(bytes) {
            Some(message) => records(&message, usize::from(how - 127) * 8),
            None => return,
        },
    };
    let whole = hello::read(&stream);
    by_steps(&stream, &whole);
    if let Some(name) = rustls_reads(&stream) {
        assert_eq!(whole, Hello::Whole(Some(name)));
    }
});

/// What is too long may be malformed as well, further on.
fn agree(one: &Hello, other: &Hello) -> bool {
    one == other || matches!((one, other), (Hello::No(_), Hello::No(_)))
}

/// What openssl says, with a piece of it replaced.
fn changed(bytes: &[u8]) -> Option<Vec<u8>> {
    let ([high, low, cut], bytes) = bytes.split_first_chunk()?;
    let message = &OPENSSL[RECORD_HEADER..];
    let at = usize::from(u16::from_be_bytes([*high, *low])) % message.len();
    let end = message.len().min(at + usize::from(*cut));
    Some([&message[..at], bytes, &message[end..]].concat())
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    let records = message.chunks(size).map(|part| {
        let [high, low] = (part.len() as u16).to_be_bytes();
        [&[22, 3, 1, high, low], part].concat()
    });
    records.collect::<Vec<_>>().concat()
}

/// With the bytes one by one: more is wanted than there is until it is known what they are, and what
/// is known stays so.
fn by_steps(stream: &[u8], whole: &Hello) {
    let mut needed = 1;
    for count in 0..=stream.len() {
        match hello::read(&stream[..count]) {
            Hello::NeedMore { total } => {
                assert!(total > count && total >= needed && total <= SEEN_MAX);
                needed = total;
            }
            found => {
                assert!(count >= needed || matches!(found, Hello::No(_)));
                assert!(agree(&found, whole));
                return assert!(agree(&found, &hello::read(&[stream, b"more"].concat())));
            }
        }
    }
    assert!(matches!(whole, Hello::NeedMore { .. }));
}

fn rustls_reads(stream: &[u8]) -> Option<String> {
    let mut acceptor = Acceptor::default();
    let mut rest = Cursor::new(stream);
    while acceptor.read_tls(&mut rest).ok()? > 0 {
        if let Some(accepted) = acceptor.accept().ok()? {
            return accepted.client_hello().server_name().map(str::to_owned);
        }
    }
    None
}
