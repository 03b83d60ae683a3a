//! A certificate authority for tests, made by openssl as its users make theirs.

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs, process};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// What certificates may be of, as openssl's options for a new key.
pub(in crate::proxy) const RSA: &str = "rsa:2048";
pub(in crate::proxy) const P256: &str = "ec -pkeyopt ec_paramgen_curve:P-256";
pub(in crate::proxy) const P384: &str = "ec -pkeyopt ec_paramgen_curve:P-384";

const CONFIG: &str = "
[req]
distinguished_name = names
[names]
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign,digitalSignature
[full]
subjectAltName = DNS:Www.Pen.Example, IP:192.0.2.1, DNS:*.pen.example, DNS:www.pen.example, \
 DNS:192.0.2.2, DNS:a b, DNS:*, DNS:w*.pen.example, email:a@pen.example
authorityInfoAccess = caIssuers;URI:http://ca.example/, OCSP;URI:ldap://a.example/, \
 OCSP;URI:http://ocsp.example/a, OCSP;URI:http://b.example/
tlsfeature = status_request
[address]
subjectAltName = IP:192.0.2.1
tlsfeature = status_request_v2
[plain]
basicConstraints = CA:FALSE
[signer]
extendedKeyUsage = OCSPSigning
[server]
extendedKeyUsage = serverAuth
[any]
extendedKeyUsage = anyExtendedKeyUsage
";

/// A folder with certificates and keys by their names; `ca` is there, and it goes when this goes.
pub(in crate::proxy) struct Authority {
    folder: PathBuf,
    key: &'static str,
}

impl Drop for Authority {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

impl Authority {
    pub(in crate::proxy) fn new(test: &str, key: &'static str) -> Self {
        let folder = env::temp_dir().join(format!("pen-ocsp-{test}-{}", process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("openssl.cnf"), CONFIG).unwrap();
        let authority = Self { folder, key };
        authority.root("ca");
        authority
    }

    /// A certificate of its own issuer, which is called as `ca` is.
    pub(in crate::proxy) fn root(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -config openssl.cnf -extensions ca -newkey {} -nodes -keyout {name}.key \
             -out {name}.pem -subj /O=Pen/CN=Issuer -days 3650",
            self.key
        ));
    }

    /// A certificate of `issuer`, with the extensions of that section of [`CONFIG`] (none of "").
    pub(in crate::proxy) fn issue(&self, name: &str, issuer: &str, section: &str) {
        let extensions = match section {
            "" => String::new(),
            section => format!("-extfile openssl.cnf -extensions {section}"),
        };
        self.openssl(&format!(
            "req -new -config openssl.cnf -newkey {} -nodes -keyout {name}.key -out {name}.csr \
             -subj /O=Pen/CN={name}.example",
            self.key
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {issuer}.pem -CAkey {issuer}.key -set_serial {} -days 30 \
             -out {name}.pem {extensions}",
            serial(name)
        ));
    }

    pub(in crate::proxy) fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.folder.join(format!("{name}.pem"))).unwrap()
    }

    /// Where one of its files is.
    pub(in crate::proxy) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(in crate::proxy) fn chain(&self, name: &str) -> Vec<CertificateDer<'static>> {
        vec![self.certificate(name), self.certificate("ca")]
    }

    /// What the responder is to say: lines of openssl's database.
    pub(in crate::proxy) fn knows(&self, good: &[&str], revoked: &[&str]) {
        let good = good.iter().map(|name| ("V\t491231235959Z\t", name));
        let revoked = revoked
            .iter()
            .map(|name| ("R\t491231235959Z\t260102030405Z", name));
        let lines = good.chain(revoked).map(|(state, name)| {
            let serial = &serial(name)[2..];
            format!("{state}\t{serial}\tunknown\t/O=Pen/CN={name}.example\n")
        });
        let lines: String = lines.collect();
        fs::write(self.folder.join("index.txt"), lines).unwrap();
    }

    /// What openssl's responder answers to a request, signed by `signer`.
    pub(in crate::proxy) fn answer(&self, request: &[u8], signer: &str, more: &str) -> Vec<u8> {
        fs::write(self.folder.join("request.der"), request).unwrap();
        self.openssl(&format!(
            "ocsp -index index.txt -CA ca.pem -rsigner {signer}.pem -rkey {signer}.key \
             -reqin request.der -respout answer.der -noverify {more}"
        ));
        fs::read(self.folder.join("answer.der")).unwrap()
    }

    /// A signature of `signer`'s.
    pub(in crate::proxy) fn sign(&self, message: &[u8], signer: &str) -> Vec<u8> {
        fs::write(self.folder.join("message"), message).unwrap();
        self.openssl(&format!(
            "dgst -sha256 -sign {signer}.key -out signature message"
        ));
        fs::read(self.folder.join("signature")).unwrap()
    }

    /// A request as openssl makes it, with a nonce.
    pub(in crate::proxy) fn request(&self, name: &str, hash: &str) -> Vec<u8> {
        self.openssl(&format!(
            "ocsp -issuer ca.pem -{hash} -cert {name}.pem -reqout request.der"
        ));
        fs::read(self.folder.join("request.der")).unwrap()
    }

    fn openssl(&self, words: &str) {
        let mut openssl = Command::new("openssl");
        openssl
            .args(words.split_whitespace())
            .current_dir(&self.folder);
        let output = openssl.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {words}: {said}");
    }
}

/// Of a certificate, by its name, as openssl takes it.
fn serial(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02X}")).collect();
    format!("0x{digits}")
}

/// In seconds since 1970: openssl knows no other time.
pub(in crate::proxy) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}
