//! Any bytes as the file of a certificate and its key, and any names in certificates, of their files
//! and of what clients ask for: no panic, no certificate with another one's key, and for a name those
//! certificates that a plain reading of the rules gives.
//!
//! What reads and looks up is taken as it stands, as in `http_head`. `certificates/pair.pem` is a
//! certificate for two names of 16 bytes, which the names of the input take the place of, and its key.
#![no_main]
#![allow(
    dead_code,
    unused_imports,
    reason = "what is not for reading and looking up is not wanted here"
)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../pen-xdp/src/proxy"]
mod proxy {
    pub(crate) mod tls {
        mod certificate;
        mod facts;
        mod held;
        mod names;
        mod ocsp;
        mod private_key;

        use std::sync::Arc;

        use certificate::{Contents, Files};
        use held::Certificate;
        use names::Names;
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer};
        use rustls::sign::CertifiedKey;

        const PAIR: &[u8] = include_bytes!("certificates/pair.pem");
        const FIRST: &[u8] = b"first-name.test.";
        const OTHER: &[u8] = b"other-name.test.";

        pub(crate) fn read(input: &[u8]) {
            whole(input);
            if let Some(([high, low, cut], bytes)) = input.split_first_chunk() {
                let at = usize::from(u16::from_be_bytes([*high, *low])) % PAIR.len();
                let end = PAIR.len().min(at + usize::from(*cut));
                whole(&[&PAIR[..at], bytes, &PAIR[end..]].concat());
            }
            let mut lines = input.split(|byte| *byte == b'\n');
            let mut line = || lines.next().unwrap_or_default();
            let all = [(); 2].map(|()| (String::from_utf8_lossy(line()), named([line(), line()])));
            let [Some(one), Some(two)] = [&all[0].1, &all[1].1] else {
                return;
            };
            let all = [(&*all[0].0, one), (&*all[1].0, two)];
            let names = Names::of(all.into_iter());
            for asked in lines {
                compare(&names, all, &String::from_utf8_lossy(asked));
            }
        }

        /// A file with all in it.
        fn whole(file: &[u8]) {
            let files = files();
            let contents = Contents {
                certificate: file,
                key: None,
                chain: None,
            };
            let Ok(pair) = contents.parse(&files) else {
                return;
            };
            let public = pair.key.public_key().unwrap();
            assert_eq!(*public, *facts::public_key(&pair.cert[0]).unwrap());
            drop(Certificate::of(pair, &files));
        }

        /// The certificate of the pair with other names.
        fn named(names: [&[u8]; 2]) -> Option<Arc<Certificate>> {
            let mut bytes = CertificateDer::from_pem_slice(PAIR).unwrap().to_vec();
            for (place, name) in [FIRST, OTHER].into_iter().zip(names) {
                let at = bytes.windows(16).position(|there| there == place)?;
                let name = &name[..name.len().min(16)];
                let wanted = &mut bytes[at..at + 16];
                wanted.fill(b'a');
                wanted[16 - name.len()..].copy_from_slice(name);
            }
            let key = PrivateKeyDer::from_pem_slice(PAIR).unwrap();
            let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
            let pair = CertifiedKey::new(vec![bytes.into()], key);
            Certificate::of(pair, &files()).ok().map(Arc::new)
        }

        fn files() -> Files {
            Files {
                certificate: "pair.pem".into(),
                key: None,
                chain: None,
                staple: None,
            }
        }

        /// RFC 9525 section 6.3, without a table.
        fn compare(names: &Names, all: [(&str, &Arc<Certificate>); 2], asked: &str) {
            let asked_lower = asked.trim_end_matches('.').to_ascii_lowercase();
            let has = |name: &str| {
                all.map(|(file, one)| {
                    let by_file = file == name
                        && DnsName::try_from(file.strip_prefix("*.").unwrap_or(file)).is_ok();
                    by_file || one.facts().names.iter().any(|other| other == name)
                })
            };
            let mut expected = has(&asked_lower);
            if let (false, Some((_, rest))) =
                (expected.contains(&true), asked_lower.split_once('.'))
            {
                expected = has(&format!("*.{rest}"));
            }
            let found = names.find(asked);
            let is_found = all.map(|(_, one)| found.iter().any(|other| Arc::ptr_eq(one, other)));
            assert_eq!(is_found, expected, "{asked:?}");
            assert_eq!(found.len(), expected.iter().filter(|one| **one).count());
        }
    }
}

fuzz_target!(|input: &[u8]| proxy::tls::read(input));
