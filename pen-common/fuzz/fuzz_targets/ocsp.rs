//! Any bytes as a certificate and as an OCSP answer: no panic, and of a good answer nothing can be
//! changed so that it is taken all the same.
//!
//! What reads them is taken as it stands, as in `http_head`. The first three bytes say what of the
//! answer and of the certificate is cut out, and the others take its place: no fuzzer finds a
//! signature by itself.
//!
//! `ocsp/answer.der` is an answer of openssl's about `leaf.der`, signed by a delegate of `issuer.der`.
#![no_main]
#![allow(
    dead_code,
    unused_imports,
    reason = "what is not for reading is not wanted here"
)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../pen-xdp/src/proxy"]
mod proxy {
    pub(crate) mod tls {
        mod facts;
        mod ocsp;

        use facts::Facts;
        use ocsp::Staple;
        use rustls::pki_types::CertificateDer;

        const ANSWER: &[u8] = include_bytes!("ocsp/answer.der");
        const LEAF: &[u8] = include_bytes!("ocsp/leaf.der");
        const ISSUER: &[u8] = include_bytes!("ocsp/issuer.der");
        /// A second in which the answer holds, since 1970.
        const NOW: i64 = 1796002012;

        pub(crate) fn read(input: &[u8]) {
            let chain = [LEAF, ISSUER].map(CertificateDer::from);
            let taken = |answer: Vec<u8>| Staple::check(answer, &chain, NOW).is_ok();
            drop(Facts::of(input));
            assert!(input == ANSWER || !taken(input.to_vec()));
            let Some(([high, low, cut], bytes)) = input.split_first_chunk() else {
                return;
            };
            let at = usize::from(u16::from_be_bytes([*high, *low]));
            let changed = spliced(ANSWER, at, usize::from(*cut), bytes);
            assert_eq!(changed == ANSWER, taken(changed));
            drop(Facts::of(&spliced(LEAF, at, usize::from(*cut), bytes)));
        }

        fn spliced(whole: &[u8], at: usize, cut: usize, bytes: &[u8]) -> Vec<u8> {
            let at = at % whole.len();
            let end = whole.len().min(at + cut);
            [&whole[..at], bytes, &whole[end..]].concat()
        }
    }
}

fuzz_target!(|input: &[u8]| proxy::tls::read(input));
