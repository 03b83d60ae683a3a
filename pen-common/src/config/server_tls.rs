//! TLS between a service and its servers, as it is asked for.

use std::net::IpAddr;
use std::path::PathBuf;

use super::address::check_host;
use super::words::words;
use super::{Backend, Service, SniRoute};

words! {
    /// How a service speaks to its servers (`server_tls`).
    #[derive(Default)]
    ServerTls {
        /// In clear.
        #[default]
        Off = "off",
        /// Over TLS, with servers that show a good certificate for their name.
        Verified = "verified",
        /// Over TLS, whoever answers: nobody listens in, but anybody may be in between.
        Unverified = "unverified",
    }
}

/// TLS to the servers of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTlsOptions {
    /// Whether it is spoken, and with whom (`server_tls`).
    pub wanted: ServerTls,
    /// File or folder with the authorities of servers' certificates (`server_ca`); `None` is the
    /// system's.
    pub authorities: Option<PathBuf>,
    /// The name that servers are asked for and must have a certificate for (`server_tls_name`);
    /// `None` is each one's host as written.
    pub name: Option<String>,
    /// File with the certificate that servers get who ask for one, its chain behind it
    /// (`server_certificate`).
    pub certificate: Option<PathBuf>,
    /// File with that certificate's key (`server_key`); `None` if it is in the same file.
    pub key: Option<PathBuf>,
}

impl ServerTlsOptions {
    /// Whether servers are spoken to over TLS.
    pub fn is_spoken(&self) -> bool {
        self.wanted != ServerTls::Off
    }

    /// Whether all of it goes together.
    ///
    /// # Errors
    /// The key to be changed, and a sentence.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let said = [
            ("server_ca", self.authorities.is_some()),
            ("server_tls_name", self.name.is_some()),
            ("server_certificate", self.certificate.is_some()),
            ("server_key", self.key.is_some()),
        ];
        if let Some((key, _)) = said.iter().find(|(_, said)| *said && !self.is_spoken()) {
            let why = format!(
                "`{key}` speaks of TLS to the servers, which is off: add server_tls = \"verified\", \
                 or leave it out"
            );
            return Err((key, why));
        }
        if self.wanted == ServerTls::Unverified && self.authorities.is_some() {
            let why = "`server_ca` names whose certificates count, and server_tls = \"unverified\" \
                       takes all: write \"verified\", or leave `server_ca` out";
            return Err(("server_ca", why.to_owned()));
        }
        if self.key.is_some() && self.certificate.is_none() {
            let why = "`server_key` is the key of a certificate, and there is none: add \
                       `server_certificate`, or leave it out";
            return Err(("server_key", why.to_owned()));
        }
        if let Some(name) = &self.name {
            let named = check_host(name).and_then(|()| match name.parse::<IpAddr>() {
                Ok(_) => Ok(()),
                // Nor can a certificate be for what no client can ask for.
                Err(_) => SniRoute::read_name(name)
                    .map(drop)
                    .map_err(|why| format!("{name:?} {why}")),
            });
            named.map_err(|why| ("server_tls_name", format!("server_tls_name: {why}")))?;
        }
        Ok(())
    }

    /// What its owner should know all the same.
    pub(crate) fn note(&self) -> Option<&'static str> {
        (self.wanted == ServerTls::Unverified).then_some(
            "server_tls = \"unverified\": servers' certificates are not checked, and whoever is in \
             between can pass for a server",
        )
    }
}

/// Whether a certificate can be asked of this server.
///
/// # Errors
/// There is nothing that it could be for.
pub(crate) fn check_named(service: &Service, backend: &Backend) -> Result<(), String> {
    let tls = &service.proxy.server_tls;
    if tls.wanted != ServerTls::Verified || tls.name.is_some() || backend.path().is_none() {
        return Ok(());
    }
    Err(format!(
        "service {:?} checks its servers' certificates, and a Unix socket has no name that one \
         could be for: add `server_tls_name`",
        service.name
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;

    fn file() -> Option<PathBuf> {
        Some("file.pem".into())
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        use ServerTls::*;
        let none = ServerTlsOptions::default;
        let named = |name: &str| ServerTlsOptions {
            name: Some(name.to_owned()),
            ..none()
        };
        let shown = |certificate, key| ServerTlsOptions {
            certificate,
            key,
            ..none()
        };
        let believed = ServerTlsOptions {
            authorities: file(),
            ..none()
        };
        for (wanted, options, wrong) in [
            (Off, none(), None),
            (Off, believed.clone(), Some("server_ca")),
            (Off, named("web.test"), Some("server_tls_name")),
            (Off, shown(file(), None), Some("server_certificate")),
            (Off, shown(None, file()), Some("server_key")),
            (Verified, believed.clone(), None),
            (Unverified, believed, Some("server_ca")),
            (Verified, named("web.test"), None),
            (Unverified, named("2001:db8::1"), None),
            (Verified, named("web test"), Some("server_tls_name")),
            (Verified, named("web..test"), Some("server_tls_name")),
            (Verified, named("-web.test"), Some("server_tls_name")),
            (Verified, shown(file(), None), None),
            (Verified, shown(file(), file()), None),
            (Verified, shown(None, file()), Some("server_key")),
        ] {
            let options = ServerTlsOptions { wanted, ..options };
            let found = options.check().err().map(|(key, _)| key);
            assert_eq!(found, wrong, "{options:?}");
            assert_eq!(options.note().is_some(), wanted == Unverified);
        }
    }

    #[test]
    fn a_path_is_no_name_that_a_certificate_could_be_for() {
        let mut service = Service::new("web");
        service.proxy.server_tls.wanted = ServerTls::Verified;
        let backend = Backend {
            host: "/run/web".to_owned(),
            ..Backend::unsaid()
        };
        let why = check_named(&service, &backend).unwrap_err();
        assert!(why.contains("add `server_tls_name`"), "{why}");
        service.proxy.server_tls.wanted = ServerTls::Unverified;
        assert_eq!(check_named(&service, &backend), Ok(()));
        service.proxy.server_tls.wanted = ServerTls::Verified;
        service.proxy.server_tls.name = Some("web.test".to_owned());
        assert_eq!(check_named(&service, &backend), Ok(()));
    }
}
