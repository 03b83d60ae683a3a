//! What the configuration lets the process that serves have of root: the files that it names, to
//! read, and its listeners. Everything else is had as the user that Pen goes on as.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use pen_common::config::{Config, ControlAt, Mode, Outside, Service};

use super::request::Listen;
use super::trusted::is_roots_file;
use crate::cli::{Start, System, WithoutNames};
use crate::files::in_full;

/// Links that may lead to further ones, in all.
const LED_MAX: usize = 1 << 20;

/// What configurations named. What one named once stays, as the one after it may be refused, and as
/// long as it is in force somewhere it is needed.
#[derive(Debug, Default)]
pub(super) struct Rights {
    files: HashSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
    /// Where they are found: they, and all folders on the way.
    places: HashSet<PathBuf>,
    tcp: BTreeSet<SocketAddr>,
    udp: BTreeSet<SocketAddr>,
    /// Whether servers may see clients' addresses.
    pub(super) transparent: bool,
    /// Names the interface of services in DSR. What it says of that one holds until a restart.
    pub(super) interface: Option<Config>,
}

impl Rights {
    /// Adds what the configuration names that is written now; nothing if it can't be read, which
    /// the process that serves will say.
    ///
    /// What others than root can write is not root's word: nothing that it names is had as root then.
    pub(super) fn read(&mut self, start: &Start) {
        let outside = Noted::default();
        let read = start.read(&outside);
        let files = outside.read.into_inner();
        let others = files
            .iter()
            .find(|path| !is_roots_file(path).unwrap_or_default());
        if let Some(file) = others {
            return tracing::warn!(
                "{}: others than root may write it, so that nothing it names is had as root (keys, \
                 ports below 1024): give it and its folders to root",
                file.display()
            );
        }
        for path in files {
            self.name_file(&path);
        }
        if let Ok(checked) = read {
            let (config, _) = checked.into_parts();
            self.add(&config);
        }
    }

    fn add(&mut self, config: &Config) {
        if let Some(ControlAt::Port(at)) = config.control {
            self.tcp.insert(at);
        }
        for service in config.proxy_services() {
            self.add_service(service);
        }
        if self.interface.is_none() && config.dsr_services().next().is_some() {
            self.interface = Some(config.clone());
        }
    }

    fn add_service(&mut self, service: &Service) {
        let options = &service.proxy;
        let (tls, servers) = (&options.tls, &options.server_tls);
        let files = [
            &tls.certificate,
            &tls.key,
            &tls.chain,
            &tls.staple,
            &tls.ticket_keys,
            &tls.client_ca,
            &tls.client_crl,
            &servers.authorities,
            &servers.certificate,
            &servers.key,
        ];
        for file in files.into_iter().flatten() {
            self.name_file(file);
        }
        // Servers' authorities are in a file or in a folder.
        let folders = [&tls.directory, &tls.client_ca_path, &servers.authorities];
        for folder in folders.into_iter().flatten() {
            self.know(folder);
            self.folders.insert(folder.clone());
        }
        let listeners = service.listeners.iter();
        let addresses = listeners.map(|listener| SocketAddr::new(listener.address, listener.port));
        match service.mode {
            Mode::Udp => self.udp.extend(addresses),
            Mode::Tcp | Mode::Http => self.tcp.extend(addresses),
            Mode::Dsr => {}
        }
        self.transparent |= options.transparent;
    }

    fn name_file(&mut self, file: &Path) {
        self.know(file);
        self.files.insert(file.to_owned());
    }

    fn know(&mut self, path: &Path) {
        self.places.extend(path.ancestors().map(in_full));
    }

    /// Whether it is named, or is in a folder that is.
    pub(super) fn names(&self, path: &Path) -> bool {
        if self.files.contains(path) || self.folders.contains(path) {
            return true;
        }
        self.folders.iter().any(|folder| {
            path.strip_prefix(folder).is_ok_and(|rest| {
                let mut parts = rest.components();
                parts.all(|part| matches!(part, Component::Normal(_)))
            })
        })
    }

    /// Whether it is named, or is on the way to something that is.
    pub(super) fn leads(&self, path: &Path) -> bool {
        self.names(path) || self.places.contains(&in_full(path))
    }

    /// A link on the way leads there.
    pub(super) fn led(&mut self, link: &Path, target: &Path) {
        if self.places.len() < LED_MAX {
            // As whoever follows it writes the place.
            let folder = link.parent().map(in_full).unwrap_or_default();
            self.know(&folder.join(target));
        }
    }

    /// Whether a listener of the configuration is there.
    pub(super) fn listens(&self, at: &Listen) -> bool {
        match at {
            Listen::Tcp { address, .. } => self.tcp.contains(address),
            Listen::Udp { address, .. } => self.udp.contains(address),
            Listen::Unix { .. } => false,
        }
    }
}

/// Files alone: a keeper asks nobody on the network. Which ones were read is noted.
#[derive(Default)]
struct Noted {
    names: WithoutNames,
    read: RefCell<Vec<PathBuf>>,
}

impl Outside for Noted {
    fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        self.names.resolve(host)
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        self.read.borrow_mut().push(path.to_owned());
        System.read(path)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::{Action, parse};

    fn start(words: &[&str]) -> Start {
        match parse([&["pen"], words].concat()).unwrap() {
            Action::Run(start) => start,
            other @ (Action::Check(_) | Action::Print(..) | Action::Detach(_)) => {
                panic!("{other:?}")
            }
        }
    }

    fn tcp(address: &str) -> Listen {
        Listen::Tcp {
            address: address.parse().unwrap(),
            backlog: 1,
            alone: true,
        }
    }

    #[test]
    fn what_the_configuration_names_may_be_had_and_nothing_beside_it() {
        let folder = std::env::temp_dir().join(format!("pen-rights-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("pen.toml");
        let text = |port: u16| {
            format!(
                "control = \"127.0.0.1:8\"\n[[service]]\nname = \"a\"\nmode = \"http\"\nlisten = [\"127.0.0.1:{port}\"]\n\
                 pool = \"p\"\ncertificate = \"/k/a.pem\"\nssl_sni_path = \"/sni\"\n\
                 [[service]]\nname = \"u\"\nmode = \"udp\"\nlisten = [\"127.0.0.1:53\"]\npool = \"p\"\n\
                 [[pool]]\nname = \"p\"\nbackend = [\"www.example.com:80\"]\n"
            )
        };
        fs::write(&file, text(443)).unwrap();
        let start = start(&["--config", file.to_str().unwrap()]);
        assert_eq!(start.read(&WithoutNames::default()).map(drop), Ok(()));
        let mut rights = Rights::default();
        rights.read(&start);

        for (path, named, leads) in [
            (file.to_str().unwrap(), true, true),
            ("/k/a.pem", true, true),
            ("/sni", true, true),
            ("/sni/www.pem", true, true),
            ("/sni/www/fullchain.pem", true, true),
            ("/k", false, true),
            ("/", false, true),
            ("/k/b.pem", false, false),
            ("/sni/../etc/shadow", false, false),
            ("/snippets", false, false),
            ("/etc/shadow", false, false),
        ] {
            let path = Path::new(path);
            let found = (rights.names(path), rights.leads(path));
            assert_eq!(found, (named, leads), "{}", path.display());
        }
        rights.led(Path::new("/sni/x.pem"), Path::new("../archive/x.pem"));
        assert!(rights.leads(Path::new("/sni/../archive")));
        assert!(!rights.names(Path::new("/sni/../archive/x.pem")));

        assert!(rights.listens(&tcp("127.0.0.1:443")));
        assert!(rights.listens(&tcp("127.0.0.1:8")));
        for other in ["127.0.0.1:444", "127.0.0.2:443", "[::]:443", "127.0.0.1:53"] {
            assert!(!rights.listens(&tcp(other)), "{other}");
        }
        let udp = Listen::Udp {
            address: "127.0.0.1:53".parse().unwrap(),
            alone: true,
        };
        assert!(rights.listens(&udp));
        assert!(!rights.transparent);

        // Another configuration: what was there stays; one that is wrong adds nothing.
        fs::write(&file, text(444)).unwrap();
        rights.read(&start);
        fs::write(&file, text(445).replace("mode", "nonsense")).unwrap();
        rights.read(&start);
        for (port, listens) in [(443, true), (444, true), (445, false)] {
            let at = tcp(&format!("127.0.0.1:{port}"));
            assert_eq!(rights.listens(&at), listens, "{port}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
