//! Any bytes as the beginning of a stream: no panic, no more taken than there is, nothing depends
//! on what follows, and what was understood can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_common::proxy_protocol::{HEADER_MAX, Header, Parsed, parse, write_v1, write_v2};

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Parsed::Partial { total }) => {
            assert!(bytes.len() < total && total <= HEADER_MAX);
        }
        Ok(Parsed::Complete { used, header }) => {
            assert_eq!(parse(&bytes[..used]), parse(bytes));
            assert!(matches!(
                parse(&bytes[..used - 1]),
                Ok(Parsed::Partial { .. })
            ));
            written(&header);
        }
        Err(why) => {
            let more = [bytes, b"\r\n"].concat();
            assert_eq!(parse(&more), Err(why));
        }
    }
});

fn written(header: &Header) {
    let line = write_v1(header.addresses.as_ref());
    let Ok(Parsed::Complete { header: read, .. }) = parse(&line) else {
        panic!("{line:?}");
    };
    assert_eq!(read.addresses, header.addresses);
    let Some(bytes) = write_v2(header) else {
        return;
    };
    let Ok(Parsed::Complete { header: read, .. }) = parse(&bytes) else {
        panic!("{bytes:?}");
    };
    assert_eq!(read.addresses, header.addresses);
    assert_eq!((read.checksum, &read.tlvs), (header.checksum, &header.tlvs));
}
