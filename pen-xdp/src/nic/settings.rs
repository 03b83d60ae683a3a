//! Settings that AF_XDP needs on an interface: made, remembered, and taken back.
//!
//! What is to be changed is written to a file *before* it is changed. A stop takes the changes
//! back and removes the file. After a kill the file is still there, and the next start knows from
//! it what the operator's values were:
//!
//! ```text
//!   value now == ours in the file  -> the operator's is the one in the file
//!   value now != ours in the file  -> never made, or changed since: the one now is the operator's
//! ```
//!
//! So our own value never becomes "what was there before", and only what we changed and what still
//! has our value is ever taken back. A reboot or another interface of the same name voids the file.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::ethtool::Ethtool;
use super::{Nic, sysfs};

/// What the interface will be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wanted {
    /// The program runs in generic mode: behind GRO, which would hand it merged packets.
    pub generic: bool,
    /// A service is tagged: the tag must be in the frame, and the frame must not be filtered out
    /// for a VLAN that the kernel has no interface for.
    pub tagged: bool,
    /// Workers poll the driver: interrupts have to be put off while they do.
    pub busy_poll: bool,
}

/// One thing that can be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// An offload, by the name that `ethtool -k` gives it.
    Feature(String),
    /// A file of the interface's directory in sysfs.
    Sysfs(String),
}

impl fmt::Display for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::Feature(name) | Setting::Sysfs(name) => out.write_str(name),
        }
    }
}

/// A setting of ours. Features are `on` or `off`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What was set.
    pub setting: Setting,
    /// The operator's value.
    pub before: String,
    /// Ours.
    pub after: String,
}

/// The file: whose changes these are, and the changes.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    boot: String,
    index: u32,
    changes: Vec<Change>,
}

/// The settings in force, to be taken back by [`Remembered::restore`]. Dropping it takes nothing
/// back: the file does that at the next start.
#[derive(Debug)]
#[must_use = "the settings are taken back by restore()"]
pub struct Remembered {
    /// What was changed from the operator's value.
    pub changes: Vec<Change>,
    /// What could not be set, each with the reason and the mend: AF_XDP works less well, or not
    /// for such frames.
    pub refused: Vec<String>,
    name: String,
    index: u32,
    path: PathBuf,
}

/// Merged by GRO or LRO, a packet is no longer the one on the wire. Interrupt values as the
/// kernel's `Documentation/networking/napi.rst` proposes them for busy polling.
fn desired(wanted: Wanted) -> Vec<(Setting, &'static str)> {
    let off = |name: &str| (Setting::Feature(name.into()), "off");
    let mut list = vec![off("rx-lro")];
    if wanted.generic {
        list.extend(
            [
                "rx-gro",
                "rx-gro-hw",
                "rx-gro-list",
                "rx-udp-gro-forwarding",
            ]
            .map(off),
        );
    }
    if wanted.tagged {
        let names = ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"];
        list.extend(names.map(off));
        list.extend(["rx-vlan-filter", "rx-vlan-stag-filter"].map(off));
    }
    if wanted.busy_poll {
        list.push((Setting::Sysfs("napi_defer_hard_irqs".into()), "2"));
        list.push((Setting::Sysfs("gro_flush_timeout".into()), "200000"));
    }
    list
}

impl Nic {
    /// Sets what AF_XDP needs. Needs `CAP_NET_ADMIN`. What an earlier, killed process had set and
    /// is not wanted any more is taken back.
    ///
    /// # Errors
    /// The file can't be written: then nothing is changed. A setting that the driver refuses is
    /// no error but stands in [`Remembered::refused`].
    pub fn apply(&self, wanted: Wanted, run_directory: &Path) -> Result<Remembered> {
        let path = file(run_directory, &self.name);
        let place = Place::open(&self.name, self.index)?;
        let mut refused = Vec::new();
        let left = read(&path, self.index).unwrap_or_else(|error| {
            refused.push(format!(
                "{error:#}; what a killed process had set stays as it is"
            ));
            Vec::new()
        });
        let plan = plan(&desired(wanted), &left, |setting| place.value(setting));
        refused.extend(plan.refused);
        let all: Vec<Change> = plan.take_back.iter().chain(&plan.keep).cloned().collect();
        write(&path, self.index, &all)
            .with_context(|| format!("{} can't be written; nothing was changed", path.display()))?;
        refused.extend(
            plan.take_back
                .iter()
                .filter_map(|change| place.set(&change.setting, &change.before).err()),
        );
        refused.extend(
            plan.keep
                .iter()
                .filter_map(|change| place.set(&change.setting, &change.after).err()),
        );
        write(&path, self.index, &plan.keep)
            .with_context(|| format!("{} can't be written", path.display()))?;
        let (name, index) = (self.name.clone(), self.index);
        Ok(Remembered {
            changes: plan.keep,
            refused,
            name,
            index,
            path,
        })
    }
}

impl Remembered {
    /// Gives the operator's values back, except where someone has changed ours meanwhile, and
    /// removes the file. Gives what could not be set back.
    pub fn restore(self) -> Vec<String> {
        take_back(&self.name, self.index, &self.changes, &self.path)
    }
}

/// Gives back what a killed process had set on an interface, without starting anything; gives
/// what could not be set back.
///
/// # Errors
/// There is no such interface, or the file can't be read.
pub fn restore_left_over(name: &str, run_directory: &Path) -> Result<Vec<String>> {
    let nic = Nic::open(name)?;
    let path = file(run_directory, name);
    let left = read(&path, nic.index)?;
    Ok(take_back(name, nic.index, &left, &path))
}

/// What stays in the file after a failure is tried again by the next start.
fn take_back(name: &str, index: u32, changes: &[Change], path: &Path) -> Vec<String> {
    let place = match Place::open(name, index) {
        Ok(place) => place,
        Err(error) => return vec![format!("{name} can't be set back: {error}")],
    };
    let (mut failures, mut left) = (Vec::new(), Vec::new());
    for change in changes {
        let ours = place
            .value(&change.setting)
            .is_ok_and(|value| value == change.after);
        if ours && let Err(failure) = place.set(&change.setting, &change.before) {
            failures.push(failure);
            left.push(change.clone());
        }
    }
    let done = if left.is_empty() {
        remove(path)
    } else {
        write(path, index, &left)
    };
    if let Err(error) = done {
        failures.push(format!("{}: {error}", path.display()));
    }
    failures
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// To be in force, with the operator's values.
    keep: Vec<Change>,
    /// Of an earlier run, and not wanted now.
    take_back: Vec<Change>,
    refused: Vec<String>,
}

/// Compares what is wanted with what is, in the light of what an earlier run had changed (`left`).
fn plan(
    desired: &[(Setting, &str)],
    left: &[Change],
    value: impl Fn(&Setting) -> Result<String, Unfit>,
) -> Plan {
    let mut plan = Plan::default();
    for (setting, after) in desired {
        let now = match value(setting) {
            Ok(now) => now,
            Err(Unfit::Absent) => continue,
            Err(Unfit::Fixed(value)) => {
                if value != *after {
                    plan.refused
                        .push(format!("{setting} is {value} and can't be set to {after}"));
                }
                continue;
            }
            Err(Unfit::Unreachable(why)) => {
                plan.refused
                    .push(format!("{setting} can't be set to {after}: {why}"));
                continue;
            }
        };
        let earlier = left
            .iter()
            .find(|change| change.setting == *setting && change.after == now);
        let before = earlier.map_or(now, |change| change.before.clone());
        if before != *after {
            plan.keep.push(Change {
                setting: setting.clone(),
                before,
                after: (*after).into(),
            });
        }
    }
    for change in left {
        let wanted = plan.keep.iter().any(|kept| kept.setting == change.setting);
        if !wanted && value(&change.setting).is_ok_and(|now| now == change.after) {
            plan.take_back.push(change.clone());
        }
    }
    plan
}

/// Why a setting has no value that could be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unfit {
    /// This kernel or driver doesn't know it.
    Absent,
    /// It has this value and no other.
    Fixed(String),
    /// It exists but can't be seen from here.
    Unreachable(String),
}

/// Where an interface's settings are read and made.
struct Place {
    ethtool: Ethtool,
    sysfs: Option<PathBuf>,
}

impl Place {
    fn open(name: &str, index: u32) -> io::Result<Place> {
        Ok(Place {
            ethtool: Ethtool::open(name)?,
            sysfs: sysfs(name, index),
        })
    }

    fn value(&self, setting: &Setting) -> Result<String, Unfit> {
        match setting {
            Setting::Feature(name) => {
                let features = self.ethtool.features().map_err(|_| Unfit::Absent)?;
                let feature = features.get(name).ok_or(Unfit::Absent)?;
                if feature.changeable {
                    Ok(word(feature.wanted).into())
                } else {
                    Err(Unfit::Fixed(word(feature.active).into()))
                }
            }
            Setting::Sysfs(name) => {
                let directory = self.sysfs.as_ref().ok_or_else(|| {
                    Unfit::Unreachable(
                        "/sys shows another network namespace; 'mount -t sysfs sysfs /sys' in a \
                         mount namespace of its own shows this one"
                            .into(),
                    )
                })?;
                let text = fs::read_to_string(directory.join(name)).map_err(|_| Unfit::Absent)?;
                Ok(text.trim().into())
            }
        }
    }

    /// Sets and reads back: a driver may take an order that it can't follow.
    fn set(&self, setting: &Setting, value: &str) -> Result<(), String> {
        let tried = match (setting, &self.sysfs) {
            (Setting::Feature(name), _) => self.ethtool.set_feature(name, value == "on"),
            (Setting::Sysfs(name), Some(directory)) => fs::write(directory.join(name), value),
            (Setting::Sysfs(_), None) => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        tried.map_err(|error| format!("{setting} can't be set to {value}: {error}"))?;
        match self.value(setting) {
            Ok(now) if now == value && !self.still_active(setting, value) => Ok(()),
            _ => Err(format!(
                "{setting} was set to {value}, but the driver didn't follow"
            )),
        }
    }

    /// A feature may be on without being asked for, when another one needs it.
    fn still_active(&self, setting: &Setting, value: &str) -> bool {
        let Setting::Feature(name) = setting else {
            return false;
        };
        let active = |feature: &super::Feature| feature.active;
        value == "off"
            && self
                .ethtool
                .features()
                .is_ok_and(|all| all.get(name).is_some_and(active))
    }
}

fn word(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Interfaces of different network namespaces share names, and the directory.
fn file(run_directory: &Path, name: &str) -> PathBuf {
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_or(0, |found| found.ino());
    run_directory.join(format!("{name}-{namespace}.nic"))
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .into()
}

fn read(path: &Path, index: u32) -> Result<Vec<Change>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("{} can't be read", path.display()))?,
    };
    let state: State = serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged; remove it", path.display()))?;
    let same = state.boot == boot() && state.index == index;
    Ok(if same { state.changes } else { Vec::new() })
}

/// Whole or not at all: written aside, made durable, renamed.
fn write(path: &Path, index: u32, changes: &[Change]) -> io::Result<()> {
    if changes.is_empty() {
        return remove(path);
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let state = State {
        boot: boot(),
        index,
        changes: changes.to_vec(),
    };
    let aside = path.with_extension("nic.new");
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&aside)?;
    out.write_all(serde_json::to_string_pretty(&state)?.as_bytes())?;
    out.sync_all()?;
    fs::rename(aside, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(name: &str) -> Setting {
        Setting::Feature(name.into())
    }

    fn change(name: &str, before: &str, after: &str) -> Change {
        Change {
            setting: feature(name),
            before: before.into(),
            after: after.into(),
        }
    }

    fn always(value: &'static str) -> impl Fn(&Setting) -> Result<String, Unfit> {
        move |_| Ok(value.into())
    }

    #[test]
    fn only_what_differs_is_changed() {
        let desired = [(feature("rx-gro"), "off")];
        let planned = plan(&desired, &[], always("on"));
        assert_eq!(planned.keep, [change("rx-gro", "on", "off")]);
        assert_eq!(plan(&desired, &[], always("off")), Plan::default());
    }

    #[test]
    fn our_own_value_is_never_taken_for_the_operators() {
        let desired = [(feature("rx-gro"), "off")];
        let left = [change("rx-gro", "on", "off")];
        // Killed after the change: the value now is ours.
        let planned = plan(&desired, &left, always("off"));
        assert_eq!((planned.keep, planned.take_back), (left.to_vec(), vec![]));
        // Killed before the change, or the operator has set it back meanwhile.
        let planned = plan(&desired, &left, always("on"));
        assert_eq!((planned.keep, planned.take_back), (left.to_vec(), vec![]));
    }

    #[test]
    fn a_value_of_someone_else_becomes_the_one_to_give_back() {
        let timeout = Setting::Sysfs("gro_flush_timeout".into());
        let (before, after) = ("0".to_string(), "200000".to_string());
        let left = [Change {
            setting: timeout.clone(),
            before,
            after,
        }];
        let planned = plan(&[(timeout, "200000")], &left, always("5000"));
        assert_eq!(planned.keep[0].before, "5000");
        assert_eq!(planned.take_back, []);
    }

    #[test]
    fn what_is_not_wanted_any_more_is_taken_back_if_it_is_ours() {
        let left = [change("rx-vlan-filter", "on", "off")];
        assert_eq!(plan(&[], &left, always("off")).take_back, left);
        assert_eq!(plan(&[], &left, always("on")), Plan::default());
    }

    #[test]
    fn fixed_and_absent_settings() {
        let desired = [(feature("rx-lro"), "off")];
        let fixed = |value: &'static str| move |_: &Setting| Err(Unfit::Fixed(value.into()));
        assert_eq!(plan(&desired, &[], fixed("off")), Plan::default());
        assert_eq!(plan(&desired, &[], |_| Err(Unfit::Absent)), Plan::default());
        let refused = plan(&desired, &[], fixed("on")).refused;
        assert_eq!(refused, ["rx-lro is on and can't be set to off"]);
    }

    #[test]
    fn each_use_asks_for_its_settings() {
        let names = |wanted| -> Vec<String> {
            desired(wanted)
                .iter()
                .map(|(setting, _)| setting.to_string())
                .collect()
        };
        assert_eq!(names(Wanted::default()), ["rx-lro"]);
        let generic = Wanted {
            generic: true,
            ..Wanted::default()
        };
        assert!(names(generic).contains(&"rx-gro".into()));
        let tagged = Wanted {
            tagged: true,
            ..Wanted::default()
        };
        assert!(names(tagged).contains(&"rx-vlan-hw-parse".into()));
        assert!(names(tagged).contains(&"rx-vlan-filter".into()));
        let busy = Wanted {
            busy_poll: true,
            ..Wanted::default()
        };
        assert!(names(busy).contains(&"napi_defer_hard_irqs".into()));
    }

    #[test]
    fn the_file_holds_for_this_boot_and_this_interface() {
        let directory = std::env::temp_dir().join(format!("pen-nic-{}", std::process::id()));
        let path = file(&directory, "eth0");
        let changes = vec![change("rx-gro", "on", "off")];
        write(&path, 3, &changes).unwrap();
        assert_eq!(read(&path, 3).unwrap(), changes);
        assert_eq!(read(&path, 4).unwrap(), []);
        let text = fs::read_to_string(&path)
            .unwrap()
            .replace(&boot(), "another boot");
        fs::write(&path, text).unwrap();
        assert_eq!(read(&path, 3).unwrap(), []);
        fs::write(&path, "{").unwrap();
        assert!(format!("{:#}", read(&path, 3).unwrap_err()).contains("remove it"));
        write(&path, 3, &[]).unwrap();
        assert!(!path.exists());
        fs::remove_dir_all(directory).unwrap();
    }
}
