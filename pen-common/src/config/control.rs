//! Where the daemon is asked, and who may ask there.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use super::{Acl, Config};

/// Mode of the control socket's file if none is said: its owner alone.
pub const CONTROL_MODE_DEFAULT: u32 = 0o600;

/// Where the daemon is asked (`-C`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlAt {
    /// At a Unix socket.
    Path(PathBuf),
    /// At a port of TCP.
    Port(SocketAddr),
}

impl ControlAt {
    /// Whether it can be reached from other machines.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Path(_) => false,
            Self::Port(at) => !at.ip().to_canonical().is_loopback(),
        }
    }
}

impl FromStr for ControlAt {
    type Err = String;

    /// `/PATH`, `ADDRESS:PORT` with IPv6 in brackets, or `PORT`, which is one on loopback (Pen's
    /// was on all addresses). Names are not looked up here, but for `localhost`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') && !text.contains('\0') {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        let port = text.strip_prefix("localhost:").unwrap_or(text);
        let at = match port.parse() {
            Ok(port) => Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
            Err(_) => text.parse().ok(),
        };
        let at = at.filter(|at| at.port() > 0);
        at.map(Self::Port).ok_or_else(|| {
            "is neither a path nor a port: write /run/pen.ctl, 127.0.0.1:8888 or [::1]:8888"
                .to_owned()
        })
    }
}

impl fmt::Display for ControlAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Port(at) => at.fmt(f),
        }
    }
}

/// Whose the control socket's file is to be; what is not said is as whoever runs the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlOwner {
    /// Name of the user.
    pub user: Option<String>,
    /// Name of the group.
    pub group: Option<String>,
}

impl FromStr for ControlOwner {
    type Err = String;

    /// `USER`, `USER:GROUP` or `:GROUP`, as chown(1) has it.
    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let strange = |c: char| c == ':' || c.is_whitespace() || c.is_control();
        let wrong = user.contains(strange) || group.contains(strange);
        if wrong || user.is_empty() && group.is_empty() {
            return Err("is not USER, USER:GROUP or :GROUP".to_owned());
        }
        let name = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Ok(Self {
            user: name(user),
            group: name(group),
        })
    }
}

impl fmt::Display for ControlOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or_default())?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl Config {
    /// Whether it is asked at a port, where an access list counts.
    pub fn has_control_port(&self) -> bool {
        matches!(self.control, Some(ControlAt::Port(_)))
    }

    /// The access list of the control port. List 0 is none: services that name no list have that
    /// one, and what it says of clients says nothing of who may control Pen.
    fn control_list(&self) -> Option<&Acl> {
        let number = Some(usize::from(self.control_acl)).filter(|number| *number > 0);
        self.acls.get(number?)
    }

    /// Whether a client of the control port may ask: who is on its list, or on this host where that
    /// has no lines.
    pub fn may_ask(&self, client: IpAddr) -> bool {
        let list = self.control_list().filter(|list| !list.lines.is_empty());
        match list {
            Some(list) => list.permits(client),
            None => client.to_canonical().is_loopback(),
        }
    }

    /// Whether strangers are kept from the control port.
    ///
    /// # Errors
    /// Why not, and the mend.
    pub fn check_control(&self) -> Result<(), String> {
        let list = self.control_list();
        let Some(at) = self.control.as_ref().filter(|at| at.is_open()) else {
            return Ok(());
        };
        // Whom no line names gets the opposite of the last one.
        let narrow = |list: &Acl| {
            let all = list
                .lines
                .iter()
                .any(|line| line.permit && line.prefix == 0);
            !all && list.lines.last().is_some_and(|last| last.permit)
        };
        if list.is_some_and(narrow) {
            return Ok(());
        }
        let number = self.control_acl;
        Err(format!(
            "control = \"{at}\" can be reached from other machines, and access list {number} does \
             not say which of them may: give acl 1 permit 192.0.2.0/24 and control_acl 1, or a port \
             of 127.0.0.1"
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]
mod tests {
    use super::*;
    use crate::config::{AclChange, AclLine};

    #[test]
    fn places_to_ask_at() {
        for (text, shown, open) in [
            ("/run/pen.ctl", "/run/pen.ctl", false),
            ("./a:80", "./a:80", false),
            ("8888", "127.0.0.1:8888", false),
            ("localhost:8888", "127.0.0.1:8888", false),
            ("127.0.0.1:8888", "127.0.0.1:8888", false),
            ("[::1]:8888", "[::1]:8888", false),
            ("[::ffff:127.0.0.1]:8", "[::ffff:127.0.0.1]:8", false),
            ("0.0.0.0:8888", "0.0.0.0:8888", true),
            ("[::]:8888", "[::]:8888", true),
            ("192.0.2.1:1", "192.0.2.1:1", true),
        ] {
            let at: ControlAt = text.parse().unwrap();
            assert_eq!((at.to_string().as_str(), at.is_open()), (shown, open));
            assert_eq!(shown.parse(), Ok(at), "{text}");
        }
        for wrong in [
            "",
            "ctl",
            "0",
            "65536",
            "host:80",
            "::1:80",
            "127.0.0.1:0",
            "/a\0",
            "127.0.0.1",
        ] {
            let why = wrong.parse::<ControlAt>().unwrap_err();
            assert!(why.contains("[::1]:8888"), "{wrong}: {why}");
        }
    }

    #[test]
    fn owners() {
        for text in ["root", "root:adm", ":adm"] {
            assert_eq!(text.parse::<ControlOwner>().unwrap().to_string(), text);
        }
        for wrong in ["", ":", "a:b:c", "a b", "a:b c"] {
            assert!(wrong.parse::<ControlOwner>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_list_this_host_alone_may_ask() {
        let [here, mapped, there] =
            ["127.0.0.2", "::ffff:127.0.0.1", "192.0.2.1"].map(|text| text.parse().unwrap());
        let mut config = Config {
            control: Some("0.0.0.0:8888".parse().unwrap()),
            control_acl: 1,
            ..Config::default()
        };
        assert!(config.may_ask(here) && config.may_ask(mapped) && !config.may_ask(there));
        let why = config.check_control().unwrap_err();
        assert!(why.contains("access list 1 does not say"), "{why}");
        let line = AclLine::new(true, there, 32);
        config.change_acl(1, &AclChange::Add(vec![line]));
        assert!(!config.may_ask(here) && config.may_ask(there));
        assert_eq!(config.check_control(), Ok(()));
        // Emptied while it runs, it lets nobody in from elsewhere.
        config.change_acl(1, &AclChange::Clear);
        assert!(config.may_ask(here) && !config.may_ask(there));
        config.control = Some("8888".parse().unwrap());
        assert_eq!(config.check_control(), Ok(()));
    }
}
