//! Keys of a service that a command can leave out again (`no server_ca`): what can be set while Pen
//! runs and has no value that stands for nothing.

use crate::config::Service;

/// The value that leaves a key out. Nobody gives it for one by accident: no argument of a program has
/// this character in it, and no file or address is called so. Who writes it in a file leaves the key
/// out, too.
pub(crate) const LEFT_OUT: &str = "\0";

type LeaveOut = fn(&mut Service);

const KEYS: &[(&str, LeaveOut)] = &[
    // What speaks of this certificate alone could neither stay nor go before it.
    ("certificate", |service| {
        let tls = &mut service.proxy.tls;
        (tls.certificate, tls.key) = (None, None);
        (tls.chain, tls.staple) = (None, None);
    }),
    ("chain", |service| service.proxy.tls.chain = None),
    ("client_ca", |service| service.proxy.tls.client_ca = None),
    ("client_ca_path", |service| {
        service.proxy.tls.client_ca_path = None;
    }),
    ("client_crl", |service| service.proxy.tls.client_crl = None),
    ("key", |service| service.proxy.tls.key = None),
    ("server_ca", |service| {
        service.proxy.server_tls.authorities = None;
    }),
    ("server_certificate", |service| {
        let tls = &mut service.proxy.server_tls;
        (tls.certificate, tls.key) = (None, None);
    }),
    ("server_key", |service| service.proxy.server_tls.key = None),
    ("server_tls_name", |service| {
        service.proxy.server_tls.name = None;
    }),
    ("source", |service| service.proxy.source = None),
    ("ssl_ciphers", |service| service.proxy.tls.ciphers = None),
    ("ssl_ocsp_response", |service| {
        service.proxy.tls.staple = None;
    }),
    ("ssl_sni_path", |service| service.proxy.tls.directory = None),
    ("ssl_ticket_keys", |service| {
        service.proxy.tls.ticket_keys = None;
    }),
];

/// Their names.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(name, _)| *name)
}

impl Service {
    /// Leaves a key out.
    ///
    /// # Errors
    /// It is none of those that can be.
    pub(super) fn leave_out(&mut self, key: &str) -> Result<(), String> {
        let known = KEYS.iter().find(|(name, _)| *name == key);
        let (_, leave_out) = known.ok_or_else(|| format!("{key} can't be left out"))?;
        leave_out(self);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;
    use crate::config::Command;
    use crate::config::service_keys::SERVICE;

    /// What `no KEY` says, done.
    fn without(service: &mut Service, key: &str) {
        let command = Command::parse(&format!("no {key}"));
        let Ok(Some(Command::Option { key, value })) = command else {
            panic!("no {key}: {command:?}");
        };
        service.set(key, &value.unwrap()).unwrap();
    }

    #[test]
    fn what_was_set_is_as_if_it_had_never_been() {
        let none = Service::new("");
        for key in names() {
            let value = match key {
                "source" => "192.0.2.1",
                "ssl_ciphers" => "HIGH",
                _ => "web.test",
            };
            let mut service = none.clone();
            service.set(key, value).unwrap();
            assert_eq!(service.shown(key), value);
            without(&mut service, key);
            assert_eq!(service, none, "{key}");
            without(&mut service, key);
        }
        // No file is called so by accident.
        let mut service = none;
        service.set("server_ca", "none").unwrap();
        assert_eq!(service.shown("server_ca"), "none");
    }

    #[test]
    fn what_is_a_certificates_goes_with_it() {
        let none = Service::new("");
        for (first, others) in [
            ("certificate", &["key", "chain", "ssl_ocsp_response"][..]),
            ("server_certificate", &["server_key"]),
        ] {
            let mut service = none.clone();
            for key in others.iter().chain([&first]) {
                service.set(key, "/file").unwrap();
            }
            without(&mut service, first);
            assert_eq!(service, none, "{first}");
        }
    }

    #[test]
    fn whatever_is_set_while_pen_runs_can_be_taken_back() {
        let unset = |key: &str| Service::new("").shown(key).is_empty();
        // Who has servers can't redirect, and who redirects has none to go back to.
        let keys = SERVICE.iter().map(|key| key.name);
        let mut looked_at = 0;
        for key in keys.filter(|key| unset(key) && *key != "redirect") {
            if let Ok(Some(Command::Option { .. })) = Command::parse(key) {
                let taken_back = Command::parse(&format!("no {key}"));
                assert!(
                    matches!(taken_back, Ok(Some(Command::Option { .. }))),
                    "no {key}: {taken_back:?}"
                );
                looked_at += 1;
            }
        }
        assert!(looked_at >= KEYS.len(), "{looked_at} keys");
    }
}
