//! What a process without rights can't do besides: have files (Landlock, landlock(7)) and call what
//! no proxy calls (seccomp(2)). What it is not needed for can't be misused by who takes it over.

mod sockets;
mod syscalls;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};
use pen_common::config::{Config, Plane};
pub(crate) use sockets::ask_for;

/// The newest rules that are asked for; an older kernel takes those that it knows.
const NEWEST: ABI = ABI::V6;
/// What is read by the C library and the resolver as they please: names of hosts and users, what the
/// kernel tells of processes and processors.
const READ: [&str; 8] = [
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/proc",
    "/sys",
    "/run/systemd/resolve",
    "/dev/urandom",
];
/// Files in /etc that may be links to anywhere.
const RESOLVER: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];
/// Where nothing comes from and nothing stays.
const NULL: &str = "/dev/null";

/// Who is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Whoever serves in proxy mode alone.
    Proxy,
    /// Whoever has an interface.
    DataPlane {
        /// With AF_XDP sockets.
        workers: bool,
    },
}

impl Whom {
    /// Who serves by this configuration.
    pub fn of(config: &Config) -> Self {
        match config.dsr_services().next() {
            None => Self::Proxy,
            Some(_) => Self::DataPlane {
                workers: matches!(config.plane, Plane::Auto | Plane::AfXdp),
            },
        }
    }
}

/// What a confined process has.
#[derive(Debug)]
pub struct Confined {
    /// Whether files are out of its reach, for which the kernel must have Landlock.
    pub from_files: bool,
    /// Where its calls for AF_XDP sockets are answered.
    pub sockets: Option<OwnedFd>,
}

/// Confines this thread and all that it starts. To be called while it is the only one.
///
/// # Errors
/// The kernel takes no filter of calls: nobody must go on unconfined who believes to be confined.
pub fn confine(whom: Whom) -> Result<Confined> {
    let files = without_files().context("no confinement by Landlock")?;
    let sockets = match whom {
        Whom::Proxy | Whom::DataPlane { workers: false } => None,
        // There is one such place, which may be taken (in some containers): a plane without workers
        // does without.
        Whom::DataPlane { workers: true } => ask_for()
            .inspect_err(|error| tracing::warn!("AF_XDP sockets can't be asked for: {error}"))
            .ok(),
    };
    syscalls::confine(whom).context("no filter of system calls")?;
    Ok(Confined {
        from_files: files != RulesetStatus::NotEnforced,
        sockets,
    })
}

/// All others come from the keeper.
fn without_files() -> Result<RulesetStatus> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let there = READ.iter().map(PathBuf::from).filter(|path| path.exists());
    // Where they lead to: they are replaced by others in their folders.
    let led = RESOLVER.iter().filter_map(|file| {
        let place = Path::new(file).canonicalize().ok()?;
        place.parent().map(Path::to_owned)
    });
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        // Nobody outside is sent signals.
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(there.chain(led), read))?
        .add_rules(path_beneath_rules(
            [NULL],
            AccessFs::ReadFile | AccessFs::WriteFile,
        ))?;
    Ok(rules.restrict_self()?.ruleset)
}
