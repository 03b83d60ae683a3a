//! Giving up root (`-u`): who Pen goes on as, and that nothing of root is left to it.

use anyhow::{Context, Result, anyhow, bail};
use caps::{CapSet, Capability};
use nix::{
    sys::prctl,
    unistd::{Uid, User, initgroups, setgid, setuid},
};
use pen_common::config::Config;
use std::ffi::CString;

/// Who has all privileges.
const ROOT: &str = "root";
/// What a keeper needs to become the user and root again, to start one that goes on as the user, and
/// to tell it to end.
const KEEPERS: [Capability; 4] = [
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_KILL,
];

/// The user that Pen is to go on as; `None` if it stays who it is.
///
/// # Errors
/// There is no such user, it could not be become, or it could not do what is asked for.
pub fn user(config: &Config) -> Result<Option<User>> {
    check_port(config)?;
    let Some(name) = config.user.as_deref().filter(|name| *name != ROOT) else {
        return Ok(None);
    };
    let found = find(name)?;
    if found.uid == Uid::effective() {
        return Ok(None);
    }
    if !Uid::effective().is_root() {
        bail!(
            "user = {name:?}: only root can become another user; start Pen as root, or as {name}"
        );
    }
    for capability in KEEPERS {
        let has = caps::has_cap(None, CapSet::Effective, capability);
        if !has.context("capabilities can't be read")? {
            bail!(
                "user = {name:?}: this root has no {capability}, which it takes to go on as another \
                 user: give it that, or leave the user out"
            );
        }
    }
    Ok(Some(found))
}

fn find(name: &str) -> Result<User> {
    let found = User::from_name(name).context("users can't be looked up")?;
    found.ok_or_else(|| anyhow!("user = {name:?}: there is no such user on this host"))
}

/// Who speaks to a port is not known, so that everybody on this host would be root by its commands,
/// which write files.
fn check_port(config: &Config) -> Result<()> {
    if config.has_control_port() && Uid::effective().is_root() && config.user.is_none() {
        bail!(
            "a control port lets everybody on this host have files written as root: name a user to \
             go on as (-u), or say -u root to have it so; a socket's path is for its owner alone"
        );
    }
    Ok(())
}

/// Goes on as this user, with its groups and without any capability (capabilities(7)). To be called
/// while this process has one thread: the others would keep what they have.
///
/// # Errors
/// Why it can't be; nobody must go on then, as half of it may be done.
pub fn give_up_root(name: &str) -> Result<()> {
    let user = find(name)?;
    // Nothing that is executed from now on gets any back.
    for capability in caps::all() {
        if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or_default() {
            caps::drop(None, CapSet::Bounding, capability)
                .with_context(|| format!("{capability} can't be given up"))?;
        }
    }
    let c_name = CString::new(name)?;
    initgroups(&c_name, user.gid).with_context(|| format!("groups of {name} can't be had"))?;
    setgid(user.gid).with_context(|| format!("the group of {name} can't be had"))?;
    setuid(user.uid).with_context(|| format!("{name} can't be become"))?;
    for set in [
        CapSet::Ambient,
        CapSet::Inheritable,
        CapSet::Effective,
        CapSet::Permitted,
    ] {
        caps::clear(None, set).context("capabilities can't be given up")?;
    }
    prctl::set_no_new_privs().context("privileges could come back")?;
    Ok(())
}
