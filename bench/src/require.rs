//! What a lab needs of the machine, asked before anything is made.

use std::io::Write as _;
use std::path::Path;
use std::{env, fs};

/// Programs that the lab itself runs; what a test runs besides is the test's to ask for.
const PROGRAMS: [&str; 8] = [
    "ip", "ethtool", "sysctl", "mount", "ping", "nginx", "iperf3", "tcpdump",
];
/// CAP_NET_ADMIN and CAP_SYS_ADMIN (linux/capability.h) in `CapEff` of `/proc/self/status`.
const CAPABILITIES: u64 = 1 << 12 | 1 << 21;

/// Says why no lab can be built here, or `None` if one can.
pub fn missing() -> Option<String> {
    if !privileged() {
        return Some("CAP_NET_ADMIN and CAP_SYS_ADMIN (run it as root)".into());
    }
    PROGRAMS
        .into_iter()
        .find(|program| !installed(program))
        .map(|program| format!("{program} (packaging/setup.sh test installs it)"))
}

/// Whether the test `name` may go on. Where a lab can't be built it says so past the test harness's
/// capture, and the test shall return; but with `CI=true` in the environment a skip is a failure.
///
/// # Panics
/// A lab can't be built and `CI` is `true`.
pub fn ready(name: &str) -> bool {
    match missing() {
        None => true,
        Some(what) => {
            skip(name, &what);
            false
        }
    }
}

/// Says aloud that the test `name` did not run for want of `what`.
///
/// # Panics
/// `CI` is `true`: there a skip is a failure.
pub fn skip(name: &str, what: &str) {
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "{name} can't run: missing {what}"
    );
    // Not eprintln: the harness would swallow it in a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {name}: missing {what}");
}

/// Whether `program` is on the path (or in the folders for administrators, which a user's path may
/// lack).
pub fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| Path::new(&folder).join(program).is_file())
}

fn privileged() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|effective| effective & CAPABILITIES == CAPABILITIES)
}
