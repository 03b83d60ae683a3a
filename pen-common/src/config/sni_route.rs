//! Services that are chosen by the name that a client asks for when it begins to speak TLS (SNI).

use std::fmt;
use std::str::FromStr;

use super::nearest::did_you_mean;
use super::{Config, Mode, Service};

/// Longest name in bytes, and longest part of one (RFC 1035 section 2.3.4).
const DNS_NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

/// What stands before a name in the value that takes its route away: no name begins so.
pub(super) const WITHOUT: &str = "-";

/// Who asks for a name gets a service, and not one byte of what it says is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SniRoute {
    /// In lower case; with `*.` before it, it stands for all names with one label there (RFC 9525
    /// section 6.3).
    pub name: String,
    /// Name of the service.
    pub service: String,
}

impl SniRoute {
    /// The name as it is compared with others.
    ///
    /// # Errors
    /// Nobody can ask for it; what is wrong with it, to stand behind the name.
    pub(super) fn read_name(text: &str) -> Result<String, String> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let plain = name.strip_prefix("*.").unwrap_or(&name);
        if !plain.is_ascii() {
            return Err("is not ASCII: write it as clients ask for it (xn--...)".to_owned());
        }
        if plain.contains('*') {
            return Err(
                "has a `*` elsewhere than in place of its whole first label: *.example.org"
                    .to_owned(),
            );
        }
        let number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        if plain.rsplit('.').next().is_some_and(number) {
            return Err("is no host name, and only those are asked for: leave it out".to_owned());
        }
        if plain.len() > DNS_NAME_MAX || !plain.split('.').all(is_label) {
            return Err(format!(
                "is no host name: labels of 1 to {LABEL_MAX} letters, digits, `-` and `_`, with \
                 dots between"
            ));
        }
        Ok(name)
    }
}

fn is_label(label: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LABEL_MAX).contains(&label.len())
        && label.bytes().all(known)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl FromStr for SniRoute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_ascii_whitespace();
        let (Some(name), Some(service), None) = (words.next(), words.next(), words.next()) else {
            return Err("takes a name and a service: www.example.org web".to_owned());
        };
        Ok(Self {
            name: Self::read_name(name).map_err(|why| format!("{name:?} {why}"))?,
            service: service.to_owned(),
        })
    }
}

impl fmt::Display for SniRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.service)
    }
}

impl Service {
    /// Whether its clients are led to other services by name, and it has no servers for those whom
    /// no name leads.
    pub fn only_leads(&self) -> bool {
        self.pool.is_empty() && !self.proxy.sni_routes.is_empty()
    }

    /// What to tell the owner of a service that no client gets to; see [`Config::unreached`].
    pub fn why_unreached(&self) -> String {
        format!(
            "service {:?}: no name leads to it (`sni_route`), and it listens nowhere: no client gets \
             to it, and a configuration that says so is refused; name a route to it, or give it \
             `listen`",
            self.name
        )
    }
}

impl Config {
    /// The services whose routes by name lead to this one.
    pub fn leading_to<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Service> {
        let leads = move |service: &&Service| {
            let mut routes = service.proxy.sni_routes.iter();
            routes.any(|route| route.service == name)
        };
        self.services.iter().filter(leads)
    }

    /// The services in proxy mode that no client gets to: they listen nowhere, and no name leads to
    /// them. A configuration that is read has none; commands may take the last route away.
    pub fn unreached(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(|service| {
            let listens = !service.listeners.is_empty() || !service.proxy.paths.is_empty();
            service.mode != Mode::Dsr && !listens && self.leading_to(&service.name).next().is_none()
        })
    }

    /// What became of services that names led to, or that led by name, in the configuration
    /// `before` and do no more: a sentence each.
    pub fn routes_lost_since(&self, before: &Self) -> Vec<String> {
        let mut lost = Vec::new();
        // As after nearly every change; each service is compared with all others below.
        if self.services == before.services {
            return lost;
        }
        for service in &self.services {
            let name = &service.name;
            let led = |config: &Self| config.leading_to(name).next().is_some();
            if led(before) && !led(self) {
                lost.push(match self.unreached().any(|one| one.name == *name) {
                    true => service.why_unreached(),
                    false => format!(
                        "service {name:?}: no name leads to it any more (`sni_route`): it has the \
                         clients of its own listeners alone"
                    ),
                });
            }
            let mut earlier = before.services.iter().filter(|one| one.name == *name);
            let led_by_name = earlier.any(|one| !one.proxy.sni_routes.is_empty());
            if led_by_name && service.proxy.sni_routes.is_empty() {
                lost.push(format!(
                    "service {name:?}: it has no `sni_route` any more: whatever clients ask for, its \
                     own servers get them"
                ));
            }
        }
        lost
    }

    /// Whether a service's routes by name lead to where its clients can be served.
    ///
    /// # Errors
    /// Sentences about those that don't, with what mends them.
    pub fn check_sni_routes(&self, service: &Service) -> Result<(), Vec<String>> {
        let routes = &service.proxy.sni_routes;
        let mut faults = Vec::new();
        if !routes.is_empty() && service.proxy.tls.is_spoken() {
            faults.push(
                "`sni_route` passes TLS on as it comes, and a certificate ends it here: leave out \
                 one of them, or give the certificate to the services that routes lead to"
                    .to_owned(),
            );
        }
        for route in routes {
            if let Some(why) = self.misled(service, route) {
                faults.push(format!("sni_route {route}: {why}"));
            }
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(faults),
        }
    }

    /// Why nobody can be served by way of a route.
    fn misled(&self, service: &Service, route: &SniRoute) -> Option<String> {
        if route.service == service.name {
            let why = "it leads to the service that it is of, which serves in any case whom no \
                       route leads: leave it out";
            return Some(why.to_owned());
        }
        let name = &route.service;
        let Some(target) = self.services.iter().find(|service| service.name == *name) else {
            let names = self.services.iter().map(|service| service.name.as_str());
            let hint = did_you_mean(name, names);
            return Some(format!("there is no service {name:?}{hint}"));
        };
        let why = if !target.proxy.sni_routes.is_empty() {
            "leads by name itself: name the service that is to serve"
        } else if target.redirect().is_some() {
            "sends every request elsewhere (`redirect`): name the service that is to serve"
        } else {
            match target.mode {
                Mode::Tcp => return None,
                Mode::Http if target.proxy.tls.is_spoken() => return None,
                Mode::Http => {
                    "reads requests, and TLS is what comes by name: give it a `certificate`, or \
                     mode = \"tcp\""
                }
                Mode::Udp => "takes datagrams, and names come by TCP: give it mode = \"tcp\"",
                Mode::Dsr => {
                    "is forwarded past Pen, and takes no connection of another service's: give it \
                     mode = \"tcp\" or \"http\""
                }
            }
        };
        Some(format!("service {name:?} {why}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;
    use crate::config::{Listener, Protocol};

    #[test]
    fn what_is_written_is_read() {
        let long = format!("{}.org", "a".repeat(63));
        for (text, written) in [
            ("www.Example.ORG web", "www.example.org web"),
            ("  *.apps.example.org.   Apps", "*.apps.example.org Apps"),
            ("localhost -", "localhost -"),
            ("_a.b-c.1a x", "_a.b-c.1a x"),
            (&format!("{long} x"), &format!("{long} x")),
        ] {
            let route: SniRoute = text.parse().unwrap();
            assert_eq!(route.to_string(), written);
            assert_eq!(written.parse(), Ok(route));
        }
    }

    #[test]
    fn who_loses_the_last_route_is_named() {
        let service = |name: &str, port: Option<u16>, routes: &[&str]| {
            let mut service = Service::new(name);
            service.mode = Mode::Tcp;
            let listener = port.map(|port| Listener {
                address: [0, 0, 0, 0].into(),
                port,
                protocol: Protocol::Tcp,
            });
            service.listeners.extend(listener);
            let routes = routes.iter().map(|route| route.parse().unwrap());
            service.proxy.sni_routes.extend(routes);
            service
        };
        let config = |routes: &[&str]| Config {
            services: vec![
                service("edge", Some(443), routes),
                service("hidden", None, &[]),
                service("open", Some(80), &[]),
            ],
            ..Config::default()
        };
        let all = config(&["a.test hidden", "b.test hidden", "c.test open"]);
        let lost = |routes: &[&str]| {
            let config = config(routes);
            let unreached: Vec<_> = config.unreached().map(|one| one.name.clone()).collect();
            (config.routes_lost_since(&all), unreached)
        };
        assert_eq!(lost(&["c.test open", "b.test hidden"]), (vec![], vec![]));
        let (why, unreached) = lost(&["c.test open"]);
        assert_eq!(unreached, ["hidden"]);
        assert_eq!(why.len(), 1, "{why:?}");
        assert!(why[0].starts_with("service \"hidden\": no name leads to it"));
        assert!(why[0].contains("no client gets to it"), "{why:?}");
        let (why, _) = lost(&["a.test hidden"]);
        assert_eq!(why.len(), 1, "{why:?}");
        assert!(why[0].contains("\"open\"") && why[0].contains("listeners alone"));
        let (why, _) = lost(&[]);
        assert_eq!(why.len(), 3, "{why:?}");
        assert!(why[0].contains("\"edge\": it has no `sni_route` any more"));
        // Who had none loses none, nor does who is gone.
        assert_eq!(all.routes_lost_since(&config(&[])), [""; 0]);
        assert_eq!(Config::default().routes_lost_since(&all), [""; 0]);
    }

    #[test]
    fn what_nobody_can_ask_for_is_no_name() {
        let long = "a.".repeat(130) + "org";
        let label = "a".repeat(64);
        for name in [
            "",
            ".",
            "*",
            "*.",
            "a..b",
            ".a",
            "a.*.b",
            "**.a",
            "w*.a",
            "-a.b",
            "a-.b",
            "a/b",
            "a:1",
            "münchen.de",
            "192.0.2.1",
            "[::1]",
            "a..",
            &long,
            &label,
        ] {
            SniRoute::read_name(name).unwrap_err();
        }
        for text in ["", "a.org", "a.org b c", "- b"] {
            text.parse::<SniRoute>().unwrap_err();
        }
    }
}
