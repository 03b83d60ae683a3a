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

words! {
    /// What a service wants to know of who its clients are (`client_certificate`).
    ClientCertificate {
        /// They are not asked.
        Off = "off",
        /// Who shows a certificate must show a good one.
        Optional = "optional",
        /// Who shows none is refused as well (`-R`).
        Required = "required",
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
    /// Whether clients are asked for certificates (`client_certificate`).
    pub client_certificate: ClientCertificate,
    /// File with the authorities of clients' certificates (`client_ca`); without it and
    /// `client_ca_path`, those of `chain` that signed themselves count.
    pub client_ca: Option<PathBuf>,
    /// Folder with more of them (`-A`).
    pub client_ca_path: Option<PathBuf>,
    /// File with these authorities' lists of revoked certificates (`client_crl`).
    pub client_crl: Option<PathBuf>,
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
        self.check_clients()?;
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

    /// Nobody must believe that clients are checked who are not.
    fn check_clients(&self) -> Result<(), (&'static str, String)> {
        if !self.asks_clients() {
            return Ok(());
        }
        let key = "client_certificate";
        if !self.is_spoken() {
            let why = "`client_certificate` (-R) asks clients that speak TLS, and none do without \
                       a certificate: add `certificate` (-E), or leave it out";
            return Err((key, why.to_owned()));
        }
        let authorities = [&self.client_ca, &self.client_ca_path, &self.chain];
        if authorities.iter().all(|file| file.is_none()) {
            let why = "`client_certificate` (-R) has no authority whose certificates count: name \
                       theirs by `client_ca`, or by `client_ca_path` (-A) or `chain` (-G)";
            return Err((key, why.to_owned()));
        }
        Ok(())
    }

    /// Whether clients are asked for certificates.
    pub fn asks_clients(&self) -> bool {
        self.client_certificate != ClientCertificate::Off
    }

    /// What its owner should know all the same, a sentence each.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let of_clients = [&self.client_ca, &self.client_ca_path, &self.client_crl];
        let of_clients = !self.asks_clients() && of_clients.iter().any(|file| file.is_some());
        if !self.is_spoken() {
            if !self.options.is_empty() || self.ciphers.is_some() {
                let why = "ssl_option and ssl_ciphers have no effect without a certificate";
                notes.push(why.to_owned());
            }
            if self.ticket_keys.is_some() {
                let why = "ssl_ticket_keys has no effect without a certificate";
                notes.push(why.to_owned());
            }
            if of_clients {
                let why = "client_ca, client_ca_path (-A) and client_crl have no effect without \
                           a certificate, and client_certificate (-R)";
                notes.push(why.to_owned());
            }
            return notes;
        }
        if of_clients {
            let why = "client_ca, client_ca_path (-A) and client_crl have no effect without \
                       client_certificate (-R)";
            notes.push(why.to_owned());
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
            client_certificate: ClientCertificate::Off,
            client_ca: None,
            client_ca_path: None,
            client_crl: None,
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
    fn clients_are_asked_over_tls_and_for_certificates_of_somebody() {
        let asking = TlsOptions {
            client_certificate: ClientCertificate::Required,
            ..options(&[], None)
        };
        let (key, why) = asking.check().unwrap_err();
        assert_eq!(key, "client_certificate");
        assert!(why.contains("has no authority"), "{why}");
        let file = || Some(PathBuf::from("ca.pem"));
        for known in [
            TlsOptions {
                client_ca: file(),
                ..asking.clone()
            },
            TlsOptions {
                client_ca_path: file(),
                ..asking.clone()
            },
            TlsOptions {
                chain: file(),
                ..asking.clone()
            },
        ] {
            assert_eq!((known.check(), known.notes()), (Ok(()), Vec::new()));
            let clear = TlsOptions {
                certificate: None,
                chain: None,
                ..known.clone()
            };
            assert_eq!(clear.check().unwrap_err().0, "client_certificate");
            let off = ClientCertificate::Off;
            let idle = TlsOptions {
                client_certificate: off,
                ..known
            };
            assert_eq!(idle.check(), Ok(()));
            assert_eq!(idle.notes().len(), usize::from(idle.chain.is_none()));
            let idle = TlsOptions {
                client_certificate: off,
                ..clear
            };
            assert_eq!(idle.check(), Ok(()));
            let told = idle.client_ca.is_some() || idle.client_ca_path.is_some();
            assert_eq!(idle.notes().len(), usize::from(told));
        }
    }

    #[test]
    fn what_has_no_effect_without_a_certificate_is_told() {
        let file = || Some(PathBuf::from("file"));
        for (idle, said) in [
            (
                TlsOptions {
                    client_crl: file(),
                    ..TlsOptions::default()
                },
                "client_crl have no effect without a certificate",
            ),
            (
                TlsOptions {
                    ticket_keys: file(),
                    ..TlsOptions::default()
                },
                "ssl_ticket_keys has no effect without a certificate",
            ),
        ] {
            let notes = idle.notes();
            assert!(notes.len() == 1 && notes[0].contains(said), "{notes:?}");
        }
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
