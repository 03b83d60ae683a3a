//! What a header of version 2 says of a client's TLS (`proxy-protocol.txt` section 2.2.6).

use super::{Tlv, tlv};

/// Bit of the first byte: the client speaks TLS.
const CLIENT_SSL: u8 = 0x01;
/// Bit: its certificate was shown in this connection.
const CLIENT_CERT_CONN: u8 = 0x02;
/// Bit: its certificate was shown in this connection or in one that this one resumes.
const CLIENT_CERT_SESS: u8 = 0x04;

const VERSION: u8 = 0x21;
const COMMON_NAME: u8 = 0x22;
const CIPHER: u8 = 0x23;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ssl<'a> {
    /// The version, as in `TLSv1.3`.
    pub version: &'a str,
    /// The cipher by OpenSSL's name.
    pub cipher: Option<&'a str>,
    /// A certificate of the client's that was checked and found good.
    pub certificate: Option<SslCertificate<'a>>,
}

/// A client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SslCertificate<'a> {
    /// The subject's common name, UTF-8.
    pub common_name: Option<&'a str>,
    /// It was shown in an earlier connection, which this one resumes.
    pub resumed: bool,
}

impl Ssl<'_> {
    /// As a TLV of type [`tlv::SSL`]; `None` if a part is longer than 64 KiB.
    pub fn tlv(&self) -> Option<Tlv> {
        let shown = match self.certificate {
            None => 0,
            Some(SslCertificate { resumed: true, .. }) => CLIENT_CERT_SESS,
            Some(_) => CLIENT_CERT_CONN | CLIENT_CERT_SESS,
        };
        // 0 is a certificate that was checked: none at all is not that.
        let verify = u32::from(self.certificate.is_none());
        let mut value = vec![CLIENT_SSL | shown];
        value.extend(verify.to_be_bytes());
        let common_name = self.certificate.and_then(|shown| shown.common_name);
        let parts = [
            (VERSION, Some(self.version)),
            (COMMON_NAME, common_name),
            (CIPHER, self.cipher),
        ];
        for (kind, text) in parts {
            if let Some(text) = text {
                value.push(kind);
                value.extend(u16::try_from(text.len()).ok()?.to_be_bytes());
                value.extend(text.as_bytes());
            }
        }
        let kind = tlv::SSL;
        Some(Tlv { kind, value })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_laid_out_as_the_text_has_it() {
        let mut ssl = Ssl {
            version: "TLSv1.3",
            cipher: None,
            certificate: None,
        };
        let plain = ssl.tlv().unwrap();
        assert_eq!(plain.kind, 0x20);
        assert_eq!(plain.value, b"\x01\0\0\0\x01\x21\0\x07TLSv1.3");
        ssl.cipher = Some("TLS_AES_128_GCM_SHA256");
        ssl.certificate = Some(SslCertificate {
            common_name: Some("ann"),
            resumed: false,
        });
        let full = b"\x07\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x03ann\x23\0\x16TLS_AES_128_GCM_SHA256";
        assert_eq!(ssl.tlv().unwrap().value, full);
        ssl.certificate = Some(SslCertificate {
            common_name: None,
            resumed: true,
        });
        assert_eq!(ssl.tlv().unwrap().value[..5], *b"\x05\0\0\0\0");
    }
}
