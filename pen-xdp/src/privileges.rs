//! Giving up root (`-u`): Pen goes on as another user, with its groups, and keeps of root's
//! capabilities those alone that a proxy needs while it runs (capabilities(7)).

use anyhow::{Context, Result, anyhow, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::{
    sys::prctl,
    unistd::{Uid, User, initgroups, setgid, setuid},
};
use pen_common::config::Config;
use std::ffi::CString;

/// Who has all privileges.
const ROOT: &str = "root";

/// Whether Pen can go on as the user that `config` names, and who that is; `None` if it stays who it
/// is.
///
/// # Errors
/// There is no such user, or it could not do what is asked for.
fn meant(config: &Config) -> Result<Option<User>> {
    let Some(name) = config.user.as_deref().filter(|name| *name != ROOT) else {
        return Ok(None);
    };
    if let Some(service) = config.dsr_services().next() {
        bail!(
            "user = {name:?}: service {:?} is in DSR, which needs root as yet: leave the user out",
            service.name
        );
    }
    let found = User::from_name(name).context("users can't be looked up")?;
    let found =
        found.ok_or_else(|| anyhow!("user = {name:?}: there is no such user on this host"))?;
    if found.uid == Uid::effective() {
        return Ok(None);
    }
    if !Uid::effective().is_root() {
        bail!(
            "user = {name:?}: only root can become another user; start Pen as root, or as {name}"
        );
    }
    Ok(Some(found))
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

/// Says before anything is started whether [`give_up_root`] could do it.
///
/// # Errors
/// Why not, and what mends it.
pub fn check(config: &Config) -> Result<()> {
    check_port(config)?;
    meant(config).map(drop)
}

/// Goes on as the user that `config` names. To be called while this process has one thread: the
/// others would keep what they have.
///
/// # Errors
/// Why it can't be; nobody must go on then, as half of it may be done.
pub fn give_up_root(config: &Config) -> Result<()> {
    check_port(config)?;
    let Some(user) = meant(config)? else {
        return Ok(());
    };
    let had = caps::read(None, CapSet::Permitted).context("capabilities can't be read")?;
    let kept: CapsHashSet = wanted(config).intersection(&had).copied().collect();
    // Nothing that is executed from now on gets any back.
    for capability in caps::all() {
        let is_there = caps::has_cap(None, CapSet::Bounding, capability).unwrap_or_default();
        if is_there && !kept.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)
                .with_context(|| format!("{capability} can't be given up"))?;
        }
    }
    caps::securebits::set_keepcaps(true).context("no capability can be kept")?;
    let name = CString::new(user.name.as_str())?;
    initgroups(&name, user.gid).with_context(|| format!("groups of {} can't be had", user.name))?;
    setgid(user.gid).with_context(|| format!("the group of {} can't be had", user.name))?;
    setuid(user.uid).with_context(|| format!("{} can't be become", user.name))?;
    for set in [CapSet::Permitted, CapSet::Effective] {
        caps::set(None, set, &kept).context("capabilities can't be given up")?;
    }
    caps::clear(None, CapSet::Inheritable).context("capabilities can't be given up")?;
    caps::securebits::set_keepcaps(false).context("capabilities stay kept")?;
    prctl::set_no_new_privs().context("privileges could come back")?;
    Ok(())
}

/// What is needed after the start: listeners and certificates come while Pen runs.
fn wanted(config: &Config) -> CapsHashSet {
    let mut wanted = CapsHashSet::from([
        // Ports below 1024.
        Capability::CAP_NET_BIND_SERVICE,
        // Keys that root alone may read, when they are renewed.
        Capability::CAP_DAC_READ_SEARCH,
    ]);
    if config.proxy_services().any(|one| one.proxy.transparent) {
        // Addresses that are clients' (IP_TRANSPARENT).
        wanted.insert(Capability::CAP_NET_RAW);
    }
    wanted
}
