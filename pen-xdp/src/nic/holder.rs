//! Who is on an interface's XDP hook: only one can be.

use std::{fmt, fs, io};

use aya::programs::links::LinkType;
use aya::programs::{loaded_links, loaded_programs};
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp, XdpAttached};
use serde::{Deserialize, Serialize};

use crate::netlink::Netlink;

/// Where on the receive path the program stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookMode {
    /// In the driver.
    Native,
    /// In the stack, for every driver.
    Generic,
    /// In the card.
    Hardware,
    /// Several programs at several of these places.
    Several,
}

/// The program that holds the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Where it stands.
    pub mode: HookMode,
    /// The kernel's number for it; 0 where several programs are attached.
    pub program_id: u32,
    /// Its name; `None` without the privilege to look (`CAP_SYS_ADMIN`).
    pub program_name: Option<String>,
    /// The link that holds it there and refuses to be replaced; `None` if it was attached without
    /// one, or more than one link holds this program and none can be told to be this interface's.
    pub link_id: Option<u32>,
    /// A process that keeps that link open, and its name; `None` if a pin keeps it, or it lives
    /// where `/proc` doesn't show it.
    pub process: Option<(u32, String)>,
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            HookMode::Native => "native",
            HookMode::Generic => "generic",
            HookMode::Hardware => "hardware",
            HookMode::Several => "several modes",
        };
        match &self.program_name {
            Some(name) => write!(out, "program '{name}' (id {})", self.program_id)?,
            None => write!(out, "program id {}", self.program_id)?,
        }
        write!(out, ", {mode}")?;
        if let Some(link) = self.link_id {
            write!(out, ", held by link {link}")?;
        }
        if let Some((pid, name)) = &self.process {
            write!(out, " of process {pid} ({name})")?;
        }
        Ok(())
    }
}

/// Who holds the XDP hook of an interface; `None` if it is free.
///
/// # Errors
/// There is no such interface.
pub fn who_holds_xdp(ifindex: u32) -> io::Result<Option<Holder>> {
    let message = super::find(&mut Netlink::open()?, super::indexed(ifindex))?;
    let xdp = message.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Xdp(xdp) = attribute {
            Some(xdp)
        } else {
            None
        }
    });
    let Some((mode, program_id)) = xdp.and_then(|xdp| attached(xdp)) else {
        return Ok(None);
    };
    let program_name = loaded_programs()
        .flatten()
        .find(|program| program.id() == program_id)
        .map(|program| String::from_utf8_lossy(program.name()).into_owned());
    let open = open_links(ifindex);
    let process = open.as_ref().map(|open| (open.pid, open.process.clone()));
    let link_id = open
        .map(|open| open.link_id)
        .or_else(|| only_link(program_id));
    Ok(Some(Holder {
        mode,
        program_id,
        program_name,
        link_id,
        process,
    }))
}

fn attached(xdp: &[LinkXdp]) -> Option<(HookMode, u32)> {
    let mut mode = None;
    let mut program_id = 0;
    for attribute in xdp {
        if let LinkXdp::Attached(place) = attribute {
            mode = match place {
                XdpAttached::Driver => Some(HookMode::Native),
                XdpAttached::SocketBuffer => Some(HookMode::Generic),
                XdpAttached::Hardware => Some(HookMode::Hardware),
                XdpAttached::Multiple => Some(HookMode::Several),
                XdpAttached::None | XdpAttached::Other(_) | _ => None,
            };
        } else if let LinkXdp::ProgId(id) = attribute {
            program_id = *id;
        }
    }
    Some((mode?, program_id))
}

/// The one XDP link of this program, if there is just one.
fn only_link(program_id: u32) -> Option<u32> {
    let mut links = loaded_links().flatten().filter(|link| {
        link.program_id() == program_id && matches!(link.link_type(), Ok(LinkType::Xdp))
    });
    let first = links.next()?;
    links.next().is_none().then(|| first.id())
}

struct OpenLink {
    link_id: u32,
    pid: u32,
    process: String,
}

/// Looks through the descriptors of all processes that may be looked at for an XDP link on this
/// interface: the kernel describes links in `fdinfo`. Interface numbers repeat in other network
/// namespaces, so only processes of ours are asked.
fn open_links(ifindex: u32) -> Option<OpenLink> {
    let namespace = fs::read_link("/proc/thread-self/ns/net").ok()?;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let directory = process.path();
        if fs::read_link(directory.join("ns/net")).ok().as_ref() != Some(&namespace) {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(directory.join("fdinfo")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(text) = fs::read_to_string(descriptor.path()) else {
                continue;
            };
            if let Some(link_id) = xdp_link(&text, ifindex) {
                let comm = fs::read_to_string(directory.join("comm")).unwrap_or_default();
                return Some(OpenLink {
                    link_id,
                    pid,
                    process: comm.trim().into(),
                });
            }
        }
    }
    None
}

/// The link's number, if this `fdinfo` describes an XDP link on the interface.
fn xdp_link(fdinfo: &str, ifindex: u32) -> Option<u32> {
    let field = |key: &str| {
        fdinfo
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim))
    };
    if field("link_type")? != "xdp" || field("ifindex")?.parse() != Ok(ifindex) {
        return None;
    }
    field("link_id")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_of_an_xdp_link() {
        let text = "pos:\t0\nflags:\t02000000\nlink_type:\txdp\nlink_id:\t7\nprog_tag:\t5f3c\n\
                    prog_id:\t12\nifindex:\t3\n";
        assert_eq!(xdp_link(text, 3), Some(7));
        assert_eq!(xdp_link(text, 4), None);
        assert_eq!(
            xdp_link("pos:\t0\nlink_type:\titer\nlink_id:\t7\nifindex:\t3\n", 3),
            None
        );
        assert_eq!(xdp_link("", 3), None);
    }

    #[test]
    fn an_empty_hook_has_no_holder() {
        assert_eq!(attached(&[LinkXdp::Attached(XdpAttached::None)]), None);
        let generic = [
            LinkXdp::Attached(XdpAttached::SocketBuffer),
            LinkXdp::ProgId(5),
        ];
        assert_eq!(attached(&generic), Some((HookMode::Generic, 5)));
    }

    #[test]
    fn the_holder_is_described_in_one_line() {
        let mut holder = Holder {
            mode: HookMode::Native,
            program_id: 12,
            program_name: Some("other".into()),
            link_id: Some(7),
            process: Some((99, "lb".into())),
        };
        let text = holder.to_string();
        assert_eq!(
            text,
            "program 'other' (id 12), native, held by link 7 of process 99 (lb)"
        );
        holder = Holder {
            program_name: None,
            link_id: None,
            process: None,
            ..holder
        };
        assert_eq!(holder.to_string(), "program id 12, native");
    }
}
