//! What Pen sets on the interface is put back to the operator's values, also after a kill.

use std::time::Duration;

use lab::{Lab, Namespace, Signal};

use crate::rig::{Pen, service};

const KNOBS: [&str; 2] = ["napi_defer_hard_irqs", "gro_flush_timeout"];

/// Every feature and both knobs, as text.
fn settings(machine: &Namespace) -> String {
    let mut text = machine.ethtool("-k eth0").unwrap().stdout;
    for knob in KNOBS {
        let path = format!("/sys/class/net/eth0/{knob}");
        let value = machine.run_ok("cat", [&path]).unwrap().stdout;
        text += &format!("{knob}: {value}");
    }
    text
}

/// Values of an operator's own, none of them the kernel's default.
fn set_by_operator(machine: &Namespace) {
    machine.ethtool("-K eth0 gro on").unwrap();
    for (knob, value) in KNOBS.into_iter().zip(["1", "7000"]) {
        let line = format!("echo {value} > /sys/class/net/eth0/{knob}");
        machine.run_ok("sh", ["-c", &line]).unwrap();
    }
}

#[derive(Debug, Clone, Copy)]
enum Mend {
    NextDaemon,
    Detach,
}

#[test]
fn after_a_kill_the_operators_settings_come_back() {
    if !lab::ready("after_a_kill_the_operators_settings_come_back") {
        return;
    }
    for mode in ["native", "generic"] {
        for mend in [Mend::NextDaemon, Mend::Detach] {
            let lab = Lab::builder().backends(1).build().unwrap();
            let machine = lab.balancer();
            set_by_operator(machine);
            let before = settings(machine);
            let top = format!("plane = \"af_xdp\"\nbusy = \"always\"\nxdp_mode = \"{mode}\"\n");
            // A tagged service wants the tag in the frame: one setting more.
            let services = service(&lab, &["80/tcp"], 1)
                .replace("name = \"web\"\nlisten", "name = \"web\"\nvlan = 7\nlisten");
            // Killed twice: the second one must not take the first one's values for the operator's.
            for _ in 0..2 {
                let mut pen = Pen::start(&lab, &top, &services);
                assert_changed(&pen, &before, machine, mode);
                let limit = Duration::from_secs(5);
                pen.process.stop(Signal::Kill, limit).unwrap();
                assert_ne!(settings(machine), before, "{mode}: left as they were set");
            }
            match mend {
                Mend::NextDaemon => stop(Pen::start(&lab, &top, &services)),
                Mend::Detach => detach(&lab),
            }
            assert_eq!(settings(machine), before, "{mode} {mend:?}");
            let link = machine.ip("-d link show eth0").unwrap().stdout;
            assert!(!link.contains("xdp"), "{link}");
        }
    }
}

/// What status shows is what was done.
fn assert_changed(pen: &Pen, before: &str, machine: &Namespace, mode: &str) {
    let status = pen.status();
    assert_eq!(status.dsr().xdp.mode.unwrap().to_string(), mode);
    assert_eq!(status.dsr().plane.actual.to_string(), "af_xdp");
    let changes = &status.dsr().nic_changes;
    let shown = |what: &str| changes.iter().find(|change| change.what.contains(what));
    for (knob, value) in KNOBS.into_iter().zip(["1", "7000"]) {
        let change = shown(knob).unwrap_or_else(|| panic!("{knob} in {changes:?}"));
        assert_eq!(change.before, value, "{changes:?}");
    }
    assert!(shown("rx-vlan-hw-parse").is_some(), "{changes:?}");
    // Merged frames are a trouble of generic mode alone.
    assert_eq!(shown("rx-gro").is_some(), mode == "generic", "{changes:?}");
    assert_ne!(settings(machine), before);
}

fn stop(mut pen: Pen) {
    let ended = pen.process.stop(Signal::Term, Duration::from_secs(15));
    assert!(ended.unwrap().success(), "{}", pen.process.output());
}

fn detach(lab: &Lab) {
    let (bpffs, run_dir) = (lab.bpffs(), lab.folder().join("pen0/run"));
    let words = ["--detach", "eth0", "--bpffs"].map(Into::into);
    let words = words
        .into_iter()
        .chain([bpffs, "--run-dir".into(), run_dir]);
    lab.balancer()
        .run_ok(env!("CARGO_BIN_EXE_pen"), words)
        .unwrap();
}
