//! What a service that speaks TLS is asked for.

use std::path::PathBuf;

use super::ciphers::CipherList;
use super::words::words;

/// Longest time that a handshake may take, in seconds.
pub const TLS_TIMEOUT_MAX: u32 = 3600;

words! {
    /// Pen's `ssl_option`. What is older than TLS 1.2 is never spoken.
    SslOption {
        /// No SSL 2, as always.
        NoSslv2 = "no_sslv2",
        /// No SSL 3, as always.
        NoSslv3 = "no_sslv3",
        /// No TLS 1.0, as always.
        NoTlsv1 = "no_tlsv1",
        /// No TLS 1.1, as always.
        NoTlsv1_1 = "no_tlsv1.1",
        /// TLS 1.3 alone.
        NoTlsv1_2 = "no_tlsv1.2",
        /// TLS 1.2 alone.
        NoTlsv1_3 = "no_tlsv1.3",
        /// Our order of ciphers counts, as always, not the client's.
        CipherServerPreference = "cipher_server_preference",
        /// A certificate that asks to be stapled (RFC 7633) is served without a staple as well.
        AllowUnstapled = "allow_unstapled",
    }
}

impl SslOption {
    /// Whether it asks for something that is not so anyway.
    pub const fn changes_something(self) -> bool {
        match self {
            Self::NoTlsv1_2 | Self::NoTlsv1_3 | Self::AllowUnstapled => true,
            Self::NoSslv2
            | Self::NoSslv3
            | Self::NoTlsv1
            | Self::NoTlsv1_1
            | Self::CipherServerPreference => false,
        }
    }
}

/// TLS in front of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// File with the certificate, its chain behind it (`-E`): what clients get that ask for no name
    /// or for one that `directory` does not have.
    pub certificate: Option<PathBuf>,
    /// File with the certificate's key (`-K`); `None` if that is in the same file.
    pub key: Option<PathBuf>,
    /// File with more of the certificate's chain (`-G`).
    pub chain: Option<PathBuf>,
    /// File with an OCSP answer for the certificate (`ssl_ocsp_response`).
    pub staple: Option<PathBuf>,
    /// Folder with certificates by name (`ssl_sni_path`).
    pub directory: Option<PathBuf>,
    /// File with keys of tickets that machines share (`ssl_ticket_keys`); without one they are
    /// random, and nobody else's.
    pub ticket_keys: Option<PathBuf>,
    /// Seconds that a handshake may take; at least 1.
    pub timeout: u32,
    /// Handshakes of one client that may be under way at the same time, others wait; 0 is no limit.
    pub handshakes_max: u32,
    /// In the order of their declaration, each once.
    pub options: Vec<SslOption>,
    /// Ciphers that are offered; `None` is all.
    pub ciphers: Option<CipherList>,
}

impl TlsOptions {
    /// Switches an option on.
    pub fn set(&mut self, option: SslOption) {
        if let Err(at) = self.options.binary_search(&option) {
            self.options.insert(at, option);
        }
    }

    /// Whether an option is on.
    pub fn has(&self, option: SslOption) -> bool {
        self.options.contains(&option)
    }

    /// Whether clients must speak TLS: there is a certificate, or a folder for some.
    pub fn is_spoken(&self) -> bool {
        self.certificate.is_some() || self.directory.is_some()
    }

    /// Whether all of it goes together.
    ///
    /// # Errors
    /// The key to be changed, and a sentence.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let belonging = [
            ("key", &self.key, "the key"),
            ("chain", &self.chain, "the chain"),
            ("ssl_ocsp_response", &self.staple, "the OCSP answer"),
        ];
        for (key, file, what) in belonging {
            if file.is_some() && self.certificate.is_none() {
                let why = format!(
                    "`{key}` is {what} of a certificate, and there is none: add `certificate`, or \
                     leave it out"
                );
                return Err((key, why));
            }
        }
        if !self.is_spoken() {
            return Ok(());
        }
        let no_tls12 = self.has(SslOption::NoTlsv1_2);
        if no_tls12 && self.has(SslOption::NoTlsv1_3) {
            let why =
                "no_tlsv1.2 and no_tlsv1.3 leave nothing that is spoken: leave out one of them";
            return Err(("ssl_option", why.to_owned()));
        }
        match &self.ciphers {
            Some(list) if list.tls12().is_empty() && !no_tls12 => {
                let why = format!(
                    "ssl_ciphers = \"{list}\" leaves no cipher for TLS 1.2: name one, or add \
                     ssl_option no_tlsv1.2"
                );
                Err(("ssl_ciphers", why))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What its owner should know all the same, a sentence each.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.is_spoken() {
            if !self.options.is_empty() || self.ciphers.is_some() {
                let why = "ssl_option and ssl_ciphers have no effect without a certificate";
                notes.push(why.to_owned());
            }
            if self.ticket_keys.is_some() {
                let why = "ssl_ticket_keys has no effect without a certificate";
                notes.push(why.to_owned());
            }
            return notes;
        }
        let idle = self.options.iter().filter(|o| !o.changes_something());
        let idle: Vec<&str> = idle.map(|option| option.word()).collect();
        if !idle.is_empty() {
            notes.push(format!("ssl_option {}: that is always so", idle.join(", ")));
        }
        if self.has(SslOption::NoTlsv1_3) {
            notes.push("no_tlsv1.3: without TLS 1.3 it can't be graded A+".to_owned());
        }
        let odd = self.ciphers.as_ref().map_or(&[][..], CipherList::odd);
        if !odd.is_empty() {
            notes.push(format!("ssl_ciphers: not spoken here: {}", odd.join(", ")));
        }
        notes
    }
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            chain: None,
            staple: None,
            directory: None,
            ticket_keys: None,
            timeout: 10,
            handshakes_max: 100,
            options: Vec::new(),
            ciphers: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    fn options(words: &[SslOption], ciphers: Option<&str>) -> TlsOptions {
        let mut tls = TlsOptions {
            certificate: Some("cert.pem".into()),
            ciphers: ciphers.map(|list| list.parse().unwrap()),
            ..TlsOptions::default()
        };
        words.iter().for_each(|word| tls.set(*word));
        tls
    }

    #[test]
    fn what_leaves_nothing_to_speak_is_refused() {
        use SslOption::*;
        let tls13 = Some("TLS_AES_128_GCM_SHA256");
        for (words, ciphers, wrong) in [
            (&[][..], None, None),
            (&[NoTlsv1_2], tls13, None),
            (&[NoTlsv1_3], Some("HIGH"), None),
            (&[NoTlsv1_2, NoTlsv1_3], None, Some("ssl_option")),
            (&[], tls13, Some("ssl_ciphers")),
        ] {
            let checked = options(words, ciphers).check();
            assert_eq!(checked.err().map(|(key, _)| key), wrong, "{words:?}");
        }
        let alone = TlsOptions {
            key: Some("key.pem".into()),
            ..TlsOptions::default()
        };
        assert_eq!(alone.check().unwrap_err().0, "key");
    }

    #[test]
    fn options_are_there_once_and_idle_ones_are_told() {
        use SslOption::*;
        let tls = options(
            &[CipherServerPreference, NoSslv3, NoSslv3],
            Some("RC4:HIGH"),
        );
        assert_eq!(tls.options, [NoSslv3, CipherServerPreference]);
        assert_eq!(
            tls.notes(),
            [
                "ssl_option no_sslv3, cipher_server_preference: that is always so",
                "ssl_ciphers: not spoken here: RC4",
            ]
        );
        assert_eq!(options(&[NoTlsv1_2], None).notes(), [""; 0]);
    }
}
