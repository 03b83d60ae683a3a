//! What a process without rights can't do besides: have files (Landlock, landlock(7)) and call what
//! no proxy calls (seccomp(2)). What it is not needed for can't be misused by who takes it over.

mod syscalls;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, path_beneath_rules,
};

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

/// Confines this thread and all that it starts; whether files are out of its reach, for which the kernel
/// must have Landlock. To be called while it is the only one.
///
/// # Errors
/// The kernel takes no filter of calls: nobody must go on unconfined who believes to be confined.
pub fn confine() -> Result<bool> {
    let files = without_files().context("no confinement by Landlock")?;
    syscalls::confine().context("no filter of system calls")?;
    Ok(files != RulesetStatus::NotEnforced)
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
