//! The units in packaging/: what systemd says of them, and that Pen can do its work with what they
//! leave it.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use lab::{Lab, Nginx, Signal, Station, fetch};

use crate::rig::{Pen, START, assert_nothing_left, service};
use crate::user::SMALL;

/// What `systemd-analyze security` may say, in tenths: what has changed from that is to be meant.
const EXPOSURE_MAX: u32 = 36;
const UNITS: [&str; 2] = ["pen.service", "pen@.service"];

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

/// The values of a key of a unit, in their order.
fn values(unit: &str, key: &str) -> Vec<String> {
    let text = fs::read_to_string(packaging().join(unit)).unwrap();
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name == key).then(|| value.to_owned())
    });
    lines.collect()
}

/// What systemd has to say about the units, and how much they leave open.
#[test]
fn systemd_finds_no_fault_in_the_units() {
    if !lab::installed("systemd-analyze") {
        return lab::skip("systemd_finds_no_fault_in_the_units", "systemd-analyze");
    }
    let folder = std::env::temp_dir().join(format!("pen-units-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    // The program is looked for; an instance is what can be judged of a template.
    let copies = ["pen.service", "pen@edge.service"].map(|name| folder.join(name));
    for (unit, copy) in UNITS.iter().zip(&copies) {
        let text = fs::read_to_string(packaging().join(unit)).unwrap();
        let text = text.replace("/usr/bin/pen ", concat!(env!("CARGO_BIN_EXE_pen"), " "));
        fs::write(copy, text).unwrap();
    }
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&copies)
        .output()
        .unwrap();
    let security = copies.each_ref().map(|copy| {
        let threshold = format!("--threshold={EXPOSURE_MAX}");
        let words = ["security", "--offline=true", "--no-pager", &threshold];
        let mut command = Command::new("systemd-analyze");
        command.args(words).arg(copy).output().unwrap()
    });
    fs::remove_dir_all(&folder).unwrap();
    let said = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success() && said.is_empty(), "{said}");
    for output in security {
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}

/// They differ in their file alone.
#[test]
fn an_instance_runs_as_the_only_one_does() {
    let text = |unit| fs::read_to_string(packaging().join(unit)).unwrap();
    let one = text(UNITS[0]).replace("/etc/pen/pen.toml", "/etc/pen/%i.toml");
    let one = one.replace("load balancer\n", "load balancer (%i)\n");
    let (one, many) = (one.lines().skip(1), text(UNITS[1]));
    assert!(one.eq(many.lines().skip(1)));
}

/// What the units leave Pen.
fn capabilities() -> Vec<String> {
    let all = values(UNITS[0], "CapabilityBoundingSet").join(" ");
    all.split(' ').map(str::to_owned).collect()
}

/// A service of the proxy below port 1024.
fn proxy() -> String {
    format!(
        "[[service]]\nname = \"proxy\"\nmode = \"http\"\npool = \"web\"\nlisten = \"{}:81\"\n",
        Station::balancer(0).v4()
    )
}

/// A service in DSR and one of the proxy.
fn both(lab: &Lab) -> String {
    format!(
        "plane = \"af_xdp\"\n{}{}",
        proxy(),
        service(lab, &["80/tcp"], 1)
    )
}

/// One of the proxy, as another user.
fn as_user() -> String {
    format!(
        "user = \"nobody\"\n{}[[pool]]\nname = \"web\"\nbackend = [\"{}:80\"]\n",
        proxy(),
        Station::backend(0).v4()
    )
}

/// Both, as another user.
fn both_as_user(lab: &Lab) -> String {
    format!("{SMALL}{}", both(lab))
}

/// Pen for these services, with these capabilities; the file is somebody else's.
fn start(lab: &Lab, capabilities: &[&String], services: &str) -> Pen {
    let set = capabilities.iter().map(|name| {
        let name = name.strip_prefix("CAP_").unwrap();
        format!(",+{}", name.to_lowercase())
    });
    let set = format!("--bounding-set=-all{}", set.collect::<String>());
    // A file that is not root's gives nothing of root's to a user: there it stays root's.
    let owner = if services.contains("user = ") {
        0
    } else {
        65534
    };
    let script = "chown 65534:65534 \"$3\" && chmod 600 \"$3\" && \
                  ulimit -l 8192 && exec setpriv --no-new-privs \"$0\" \"$@\"";
    let script = script.replace("65534:65534", &format!("{owner}:{owner}"));
    let by = ["sh", "-c", &script, &set];
    Pen::launch_by(lab, (0, "eth0"), &by, services)
}

/// Starts Pen without each of its capabilities in turn; those that it does not start without.
fn needed(lab: &Lab, all: &[String], services: &str) -> Vec<String> {
    let mut needed = Vec::new();
    for without in all {
        let rest: Vec<_> = all.iter().filter(|name| *name != without).collect();
        let mut pen = start(lab, &rest, services);
        if pen.process.wait_for_line("serving", START).is_ok() {
            pen.stop(lab, lab.balancer());
            continue;
        }
        let code = pen.process.wait(START).unwrap().code();
        let said = pen.process.output();
        assert_eq!(code, Some(2), "{without}: {said}");
        // What can't be read or given away without it is named instead.
        let file = ["CAP_DAC_READ_SEARCH", "CAP_CHOWN"].contains(&without.as_str());
        let named = said.contains("pen.toml") || said.contains("its owner");
        assert!(
            said.contains(&**without) || file && named,
            "{without}: {said}"
        );
        assert_nothing_left(lab, lab.balancer());
        needed.push(without.clone());
    }
    needed
}

/// All that the units leave it is enough, and nothing of that is too much.
#[test]
fn pen_needs_the_capabilities_that_its_units_leave_it() {
    if !lab::ready("pen_needs_the_capabilities_that_its_units_leave_it") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let _web = Nginx::start_all(&lab, &[80, 81]).unwrap();
    let all = capabilities();
    let pen = start(&lab, &all.iter().collect::<Vec<_>>(), &both(&lab)).ready();
    let status = fs::read_to_string(format!("/proc/{}/status", pen.process.id())).unwrap();
    let bits = status.lines().find(|line| line.starts_with("CapEff:"));
    let bits = u64::from_str_radix(bits.unwrap()[7..].trim(), 16).unwrap();
    assert_eq!(bits.count_ones() as usize, all.len(), "{bits:x}");
    for vip in lab.vips() {
        let page = fetch(lab.client(), vip, 80, "/").unwrap();
        assert!(page.starts_with("be0"), "{page}");
    }
    let own = Station::balancer(0).v4().into();
    let page = fetch(lab.client(), own, 81, "/").unwrap();
    assert!(page.starts_with("be0"), "{page}");
    pen.change("-s web server 0 weight 5");
    pen.stop(&lab, lab.balancer());
    // Each for one of the two.
    let mut needed: BTreeSet<_> = needed(&lab, &all, &both(&lab)).into_iter().collect();
    let mut pen = start(&lab, &all.iter().collect::<Vec<_>>(), &as_user()).ready();
    let page = fetch(lab.client(), own, 81, "/").unwrap();
    assert!(page.starts_with("be0"), "{page}");
    // Killed, it leaves a socket of the user's, to which this root may not connect.
    pen.process.signal(Signal::Kill).unwrap();
    pen.process.wait(START).unwrap();
    let end = Instant::now() + START;
    while UnixStream::connect(&pen.control).is_ok() {
        assert!(Instant::now() < end, "it lives on");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(pen.control.exists());
    let pen = start(&lab, &all.iter().collect::<Vec<_>>(), &as_user()).ready();
    pen.stop(&lab, lab.balancer());
    needed.extend(self::needed(&lab, &all, &as_user()));
    // Both together need no more.
    let services = both_as_user(&lab);
    let pen = start(&lab, &all.iter().collect::<Vec<_>>(), &services).ready();
    for vip in lab.vips() {
        let page = fetch(lab.client(), vip, 80, "/").unwrap();
        assert!(page.starts_with("be0"), "{page}");
    }
    assert!(pen.count("redirected") > 0);
    pen.stop(&lab, lab.balancer());
    assert_eq!(needed, all.into_iter().collect());
}

/// The names in a set of systemd's, those in its sets, too.
fn calls(set: &str, into: &mut BTreeSet<String>) {
    let output = Command::new("systemd-analyze")
        .args(["syscall-filter", "--no-pager", set])
        .output()
        .unwrap();
    assert!(output.status.success(), "{set}");
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.lines().skip(1).map(str::trim);
    for word in words.filter(|word| !word.is_empty() && !word.starts_with('#')) {
        match word.starts_with('@') {
            true => calls(word, into),
            false => drop(into.insert(word.to_owned())),
        }
    }
}

/// Nothing that it calls, from its start to its end, is refused by the units.
#[test]
fn the_units_allow_every_system_call() {
    if !lab::ready("the_units_allow_every_system_call") {
        return;
    }
    for program in ["systemd-analyze", "strace"] {
        if !lab::installed(program) {
            return lab::skip("the_units_allow_every_system_call", program);
        }
    }
    let mut allowed = BTreeSet::new();
    for value in values(UNITS[0], "SystemCallFilter") {
        let (without, sets) = match value.strip_prefix('~') {
            Some(sets) => (true, sets),
            None => (false, value.as_str()),
        };
        let mut named = BTreeSet::new();
        for word in sets.split(' ') {
            match word.starts_with('@') {
                true => calls(word, &mut named),
                false => drop(named.insert(word.to_owned())),
            }
        }
        match without {
            true => allowed.retain(|call| !named.contains(call)),
            false => allowed.append(&mut named),
        }
    }
    // Every filter has these.
    calls("@default", &mut allowed);
    let lab = Lab::builder().backends(1).build().unwrap();
    let _web = Nginx::start_all(&lab, &[80, 81]).unwrap();
    let trace = lab.folder().join("trace").display().to_string();
    let by = ["strace", "-f", "-qq", "-o", &trace, "-e", "trace=all"];
    let log = lab.folder().join("log");
    fs::create_dir(&log).unwrap();
    lab.balancer()
        .run_ok("chmod", ["777", log.to_str().unwrap()])
        .unwrap();
    let logged = proxy() + &format!("log = \"{}\"\n", log.join("access").display());
    let mut traced = String::new();
    for (services, in_dsr) in [
        (both(&lab), true),
        (as_user(), false),
        (both_as_user(&lab), true),
    ] {
        let services = services.replace(&proxy(), &logged);
        let mut pen = Pen::launch_by(&lab, (0, "eth0"), &by, &services).ready();
        for vip in lab.vips().filter(|_| in_dsr) {
            fetch(lab.client(), vip, 80, "/").unwrap();
        }
        let own = Station::balancer(0).v4().into();
        fetch(lab.client(), own, 81, "/").unwrap();
        pen.change("-s proxy server 0 weight 5");
        let daemon = fs::read_to_string(&pen.pid_file).unwrap();
        lab.balancer().run_ok("kill", [daemon.trim()]).unwrap();
        let status = pen.process.wait(START).unwrap();
        assert!(status.success(), "{}", pen.process.output());
        traced += &fs::read_to_string(&trace).unwrap();
        fs::remove_file(log.join("access")).unwrap();
    }
    let called: BTreeSet<&str> = traced
        .lines()
        .filter_map(|line| {
            let call = line.split_whitespace().nth(1)?.split_once('(')?.0;
            call.bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'_')
                .then_some(call)
        })
        .collect();
    assert!(
        ["bpf", "sendto", "setuid", "landlock_restrict_self"]
            .iter()
            .all(|call| called.contains(call)),
        "{called:?}"
    );
    let refused: Vec<_> = called
        .iter()
        .filter(|call| !allowed.contains(**call))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert_nothing_left(&lab, lab.balancer());
}
