//! Ciphers by the names that OpenSSL has for them, and lists of them in its language (ciphers(1)).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::words::words;

words! {
    /// A cipher suite that is spoken. All others are not: what has no forward secrecy, or no
    /// authenticated encryption.
    Cipher {
        /// TLS 1.3.
        Aes256Gcm = "TLS_AES_256_GCM_SHA384",
        /// TLS 1.3.
        Aes128Gcm = "TLS_AES_128_GCM_SHA256",
        /// TLS 1.3.
        Chacha20 = "TLS_CHACHA20_POLY1305_SHA256",
        /// TLS 1.2, for keys of ECDSA.
        EcdsaAes256Gcm = "ECDHE-ECDSA-AES256-GCM-SHA384",
        /// TLS 1.2, for keys of ECDSA.
        EcdsaAes128Gcm = "ECDHE-ECDSA-AES128-GCM-SHA256",
        /// TLS 1.2, for keys of ECDSA.
        EcdsaChacha20 = "ECDHE-ECDSA-CHACHA20-POLY1305",
        /// TLS 1.2, for keys of RSA.
        RsaAes256Gcm = "ECDHE-RSA-AES256-GCM-SHA384",
        /// TLS 1.2, for keys of RSA.
        RsaAes128Gcm = "ECDHE-RSA-AES128-GCM-SHA256",
        /// TLS 1.2, for keys of RSA.
        RsaChacha20 = "ECDHE-RSA-CHACHA20-POLY1305",
    }
}

/// What OpenSSL knows and nobody speaks here: to forbid it is to say nothing new.
const NEVER: &[&str] = &[
    "3DES",
    "ADH",
    "AECDH",
    "AESCBC",
    "AESCCM",
    "AESCCM8",
    "ARIA",
    "ARIA128",
    "ARIA256",
    "ARIAGCM",
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "COMPLEMENTOFALL",
    "COMPLEMENTOFDEFAULT",
    "DES",
    "DES-CBC3-SHA",
    "DH",
    "DHE",
    "DSS",
    "EDH",
    "EXP",
    "EXPORT",
    "EXPORT40",
    "EXPORT56",
    "IDEA",
    "KRB5",
    "LOW",
    "MD5",
    "MEDIUM",
    "NULL",
    "PSK",
    "RC2",
    "RC4",
    "RSA",
    "SEED",
    "SHA",
    "SHA1",
    "SRP",
    "SSLv2",
    "SSLv3",
    "TLSv1",
    "TLSv1.0",
    "aDH",
    "aDSS",
    "aNULL",
    "aPSK",
    "eNULL",
    "kDH",
    "kDHE",
    "kDHEPSK",
    "kEDH",
    "kECDHEPSK",
    "kPSK",
    "kRSA",
    "kRSAPSK",
    "kSRP",
];

impl Cipher {
    /// Whether it is one of TLS 1.3, where the certificate's key is another matter.
    pub const fn is_tls13(self) -> bool {
        matches!(self, Self::Aes256Gcm | Self::Aes128Gcm | Self::Chacha20)
    }

    /// The others are AES.
    const fn is_chacha(self) -> bool {
        matches!(
            self,
            Self::Chacha20 | Self::EcdsaChacha20 | Self::RsaChacha20
        )
    }

    const fn is_ecdsa(self) -> bool {
        matches!(
            self,
            Self::EcdsaAes256Gcm | Self::EcdsaAes128Gcm | Self::EcdsaChacha20
        )
    }

    const fn bits(self) -> u16 {
        match self {
            Self::Aes128Gcm | Self::EcdsaAes128Gcm | Self::RsaAes128Gcm => 128,
            Self::Aes256Gcm
            | Self::EcdsaAes256Gcm
            | Self::RsaAes256Gcm
            | Self::Chacha20
            | Self::EcdsaChacha20
            | Self::RsaChacha20 => 256,
        }
    }

    /// Whether a name stands for it, alone or among others; `None` if OpenSSL has no such name.
    /// Names of groups stand for ciphers of TLS 1.2 alone, as there.
    fn goes_by(self, name: &str) -> Option<bool> {
        let meant = match name {
            "ALL" | "DEFAULT" | "HIGH" | "ECDHE" | "EECDH" | "kEECDH" | "kECDHE" | "ECDH"
            | "TLSv1.2" | "FIPS" => true,
            "AESGCM" | "AES" => !self.is_chacha(),
            "AES128" => !self.is_chacha() && self.bits() == 128,
            "AES256" => !self.is_chacha() && self.bits() == 256,
            "CHACHA20" => self.is_chacha(),
            "ECDSA" | "aECDSA" => self.is_ecdsa(),
            "aRSA" => !self.is_ecdsa(),
            "SHA384" => !self.is_chacha() && self.bits() == 256,
            "SHA256" => !self.is_chacha() && self.bits() == 128,
            _ if NEVER.contains(&name) => false,
            _ if name.parse::<Self>().is_ok() => return Some(self.word() == name),
            _ => return None,
        };
        Some(meant && !self.is_tls13())
    }
}

/// A list of ciphers as somebody wrote it, and what it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CipherList {
    text: String,
    tls12: Vec<Cipher>,
    tls13: Vec<Cipher>,
    odd: Vec<String>,
}

impl CipherList {
    /// Those of TLS 1.2, the best first; may be none.
    pub fn tls12(&self) -> &[Cipher] {
        &self.tls12
    }

    /// Those of TLS 1.3: those that are named, or all.
    pub fn tls13(&self) -> &[Cipher] {
        &self.tls13
    }

    /// Words that ask for what is not spoken here, or mean nothing.
    pub fn odd(&self) -> &[String] {
        &self.odd
    }
}

/// What one word of a list does with the ciphers that it names.
enum Step {
    Add,
    /// They may come again.
    Remove,
    /// They may not.
    Forbid,
    ToEnd,
}

impl FromStr for CipherList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut chosen: Vec<Cipher> = Vec::new();
        let mut forbidden = BTreeSet::new();
        let mut odd = Vec::new();
        for word in text
            .split([':', ',', ';', ' '])
            .filter(|word| !word.is_empty())
        {
            if let Some(rule) = word.strip_prefix('@') {
                match rule {
                    "STRENGTH" => chosen.sort_by_key(|cipher| std::cmp::Reverse(cipher.bits())),
                    // What is offered is above all levels that mean anything.
                    _ if rule.starts_with("SECLEVEL=") => {}
                    _ => odd.push(word.to_owned()),
                }
                continue;
            }
            let (step, names) = step(word);
            let Some(meant) = meant(names) else {
                odd.push(word.to_owned());
                continue;
            };
            match step {
                Step::Add if meant.is_empty() => odd.push(word.to_owned()),
                Step::Add => {
                    let new =
                        |cipher: &Cipher| !forbidden.contains(cipher) && !chosen.contains(cipher);
                    let more: Vec<_> = meant.into_iter().filter(new).collect();
                    chosen.extend(more);
                }
                Step::Remove => chosen.retain(|cipher| !meant.contains(cipher)),
                Step::Forbid => {
                    chosen.retain(|cipher| !meant.contains(cipher));
                    forbidden.extend(meant);
                }
                Step::ToEnd => chosen.sort_by_key(|cipher| meant.contains(cipher)),
            }
        }
        if chosen.is_empty() {
            let all: Vec<_> = Cipher::ALL.iter().map(|cipher| cipher.word()).collect();
            return Err(format!(
                "{text:?} leaves no cipher; there are: {}",
                all.join(", ")
            ));
        }
        let (mut tls13, tls12): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|cipher| cipher.is_tls13());
        if tls13.is_empty() {
            tls13 = all_of_tls13();
        }
        Ok(Self {
            text: text.to_owned(),
            tls12,
            tls13,
            odd,
        })
    }
}

impl fmt::Display for CipherList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn step(word: &str) -> (Step, &str) {
    let mut names = word.chars();
    let step = match names.next() {
        Some('!') => Step::Forbid,
        Some('-') => Step::Remove,
        Some('+') => Step::ToEnd,
        _ => return (Step::Add, word),
    };
    (step, names.as_str())
}

fn all_of_tls13() -> Vec<Cipher> {
    let all = Cipher::ALL.iter().copied();
    all.filter(|cipher| cipher.is_tls13()).collect()
}

/// The ciphers that go by all of these names, `+` between them; `None` if one is unknown.
fn meant(names: &str) -> Option<Vec<Cipher>> {
    let mut meant = Cipher::ALL.to_vec();
    for name in names.split('+') {
        // The same for all ciphers: the name is known or it is not.
        Cipher::ALL[0].goes_by(name)?;
        meant.retain(|cipher| cipher.goes_by(name) == Some(true));
    }
    Some(meant)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::Cipher::*;
    use super::*;

    fn tls12(text: &str) -> Vec<Cipher> {
        text.parse::<CipherList>().unwrap().tls12
    }

    #[test]
    fn groups_orders_and_what_is_forbidden() {
        let all = [
            EcdsaAes256Gcm,
            EcdsaAes128Gcm,
            EcdsaChacha20,
            RsaAes256Gcm,
            RsaAes128Gcm,
            RsaChacha20,
        ];
        for text in ["HIGH", "ALL:!aNULL:!MD5", "DEFAULT@SECLEVEL=2", "EECDH"] {
            let text = text.replace("DEFAULT@", "DEFAULT:@");
            assert_eq!(tls12(&text), all, "{text}");
        }
        assert_eq!(tls12("ECDHE+AESGCM:!ECDSA"), [RsaAes256Gcm, RsaAes128Gcm]);
        assert_eq!(
            tls12("aRSA:+AES256"),
            [RsaAes128Gcm, RsaChacha20, RsaAes256Gcm]
        );
        assert_eq!(
            tls12("ECDHE-RSA-AES128-GCM-SHA256,ECDHE-RSA-AES256-GCM-SHA384:@STRENGTH"),
            [RsaAes256Gcm, RsaAes128Gcm]
        );
        assert_eq!(
            tls12("AES128:-aRSA:aRSA+AES128"),
            [EcdsaAes128Gcm, RsaAes128Gcm]
        );
        assert_eq!(tls12("!AES128:AES:!ECDSA"), [RsaAes256Gcm]);
    }

    #[test]
    fn names_of_tls13_choose_there_and_nothing_else_does() {
        let list: CipherList = "HIGH:!AES128".parse().unwrap();
        assert_eq!(list.tls13(), [Aes256Gcm, Aes128Gcm, Chacha20]);
        let list: CipherList = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
            .parse()
            .unwrap();
        assert_eq!(list.tls13(), [Chacha20, Aes256Gcm]);
        assert!(list.tls12().is_empty());
    }

    #[test]
    fn what_is_not_spoken_is_told_and_what_is_forbidden_needs_no_word() {
        let list: CipherList = "HIGH:RC4-SHA:AES256-SHA:kRSA:!3DES:!NONSENSE:@X"
            .parse()
            .unwrap();
        assert_eq!(
            list.odd(),
            ["RC4-SHA", "AES256-SHA", "kRSA", "!NONSENSE", "@X"]
        );
        for text in ["", "RC4", "HIGH:!ECDHE", "::", "!HIGH", "-", "+", "é"] {
            let why = text.parse::<CipherList>().unwrap_err();
            assert!(why.contains("leaves no cipher"), "{text}: {why}");
        }
    }
}
