//! A program's life on an interface: attached, left behind, adopted, replaced, taken off.
//!
//! ```text
//!   load balancer's namespace of a lab:   t0 ---- veth ---- t1
//! ```
//!
//! The test runs itself once more inside the namespace; that inner half does all of it.
#![allow(
    clippy::unwrap_used,
    reason = "a test and its helpers say by panicking what went wrong"
)]

use std::{
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya::{
    EbpfLoader, include_bytes_aligned,
    programs::{Xdp, xdp::XdpMode as AyaMode},
};
use lab::Lab;
use pen::{
    ebpf::{Detached, OpenError, Place, Steering, detach},
    mapped::Shape,
    nic::{HookMode, Nic, who_holds_xdp},
};
use pen_common::config::XdpMode;

/// Set for the inner half: where it may mount a BPF file system.
const FOLDER: &str = "PEN_STEERING_BPFFS";
const LIMIT: Duration = Duration::from_secs(60);

static OTHER: &[u8] = include_bytes_aligned!("../bpf/bench.o");

fn shape() -> Shape {
    Shape {
        slot_words: 4_096,
        rows: 20,
    }
}

#[test]
fn a_programs_life() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return inside(&PathBuf::from(folder));
    }
    if !lab::ready("a_programs_life") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let test = std::env::current_exe().unwrap();
    let words = ["--exact", "a_programs_life", "--nocapture"];
    let mut command = lab.balancer().command(&test, words);
    let folder = lab.balancer().folder().join("bpffs");
    std::fs::create_dir_all(&folder).unwrap();
    command.env(FOLDER, &folder);
    let mut inner = lab.balancer().spawn_command(command, &test).unwrap();
    let status = inner.wait(LIMIT).unwrap();
    assert!(status.success(), "{}", inner.output());
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

fn new_pair() -> u32 {
    ip("link add t0 type veth peer name t1");
    Nic::open("t0").unwrap().index
}

fn inside(bpffs: &std::path::Path) {
    let ifindex = new_pair();
    let open = |shape| {
        let place = Place {
            bpffs: bpffs.to_owned(),
            ifname: "t0".into(),
            ifindex,
        };
        Steering::open(place, shape).unwrap()
    };
    let holder = || {
        who_holds_xdp(ifindex)
            .unwrap()
            .map(|holder| holder.program_id)
    };

    // Attached, and left behind.
    assert_eq!(detach(bpffs, "t0").unwrap(), Detached::Nothing);
    let mut first = open(shape());
    assert!(!first.adopted());
    let mode = std::fs::metadata(bpffs).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700, "it was mounted for this user alone");
    let attached = first.attach(XdpMode::Auto, true).unwrap().clone();
    assert_eq!(
        (attached.mode, attached.replaced),
        (HookMode::Native, false)
    );
    assert_eq!(holder(), Some(attached.program_id));
    first.memory().store_root(6);

    // Adopted and replaced in place, while the one before still runs; who then leaves it alone.
    let mut second = open(shape());
    assert!(second.adopted());
    assert_eq!(second.memory().root(), 6);
    first.memory().store_root(8);
    assert_eq!(second.memory().root(), 8, "both see the same pages");
    let replaced = second.attach(XdpMode::Auto, true).unwrap().clone();
    assert_eq!((replaced.mode, replaced.replaced), (HookMode::Native, true));
    assert_eq!(holder(), Some(replaced.program_id));
    assert_ne!(attached.program_id, replaced.program_id);
    first.detach().unwrap();
    assert_eq!(holder(), Some(replaced.program_id));
    drop(second);
    assert_eq!(holder(), Some(replaced.program_id), "left behind");

    // Larger tables need maps of their own; the program changes over to them in place.
    let larger = Shape {
        slot_words: 8_192,
        ..shape()
    };
    let mut third = open(larger);
    assert!(!third.adopted());
    assert_eq!(third.memory().root(), 0);
    assert!(third.attach(XdpMode::Native, false).unwrap().replaced);
    drop(third);

    // A mode that is no longer wanted. The larger tables serve a smaller wish too.
    let mut fourth = open(shape());
    assert!(fourth.adopted());
    assert_eq!(fourth.memory().shape(), larger);
    let generic = fourth.attach(XdpMode::Generic, true).unwrap().clone();
    assert_eq!((generic.mode, generic.replaced), (HookMode::Generic, false));
    drop(fourth);
    assert_eq!(detach(bpffs, "t0").unwrap(), Detached::Removed);
    assert_eq!(holder(), None);
    assert!(!bpffs.join("pen").exists(), "no pin is left");

    held_by_another(bpffs, ifindex);
    interface_made_anew(bpffs, ifindex);
}

/// Someone else's program stays, and is named.
fn held_by_another(bpffs: &std::path::Path, ifindex: u32) {
    let mut other = EbpfLoader::new().load(OTHER).unwrap();
    let program: &mut Xdp = other.program_mut("swap").unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach_to_if_index(ifindex, AyaMode::Skb).unwrap();
    let place = Place {
        bpffs: bpffs.to_owned(),
        ifname: "t0".into(),
        ifindex,
    };
    for mode in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
        let mut steering = Steering::open(place.clone(), shape()).unwrap();
        let error = steering.attach(mode, false).unwrap_err();
        assert!(matches!(error, OpenError::Held { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("t0") && text.contains("'swap'"), "{text}");
        steering.detach().unwrap();
    }
    // The folder goes with who holds it, which nobody did here.
    assert_eq!(detach(bpffs, "t0").unwrap(), Detached::Nothing);
    assert!(!bpffs.join("pen").exists(), "no pin is left");
}

/// The pinned link of an interface that is gone is no hindrance.
fn interface_made_anew(bpffs: &std::path::Path, ifindex: u32) {
    let place = |ifindex| Place {
        bpffs: bpffs.to_owned(),
        ifname: "t0".into(),
        ifindex,
    };
    let mut before = Steering::open(place(ifindex), shape()).unwrap();
    before.attach(XdpMode::Auto, true).unwrap();
    drop(before);
    ip("link del t0");
    let ifindex = new_pair();
    let mut after = Steering::open(place(ifindex), shape()).unwrap();
    assert!(after.adopted());
    let attached = after.attach(XdpMode::Auto, true).unwrap().clone();
    assert!(!attached.replaced);
    let holder = who_holds_xdp(ifindex).unwrap().unwrap();
    assert_eq!(holder.program_id, attached.program_id);
    after.detach().unwrap();
    // The kernel takes it off some moments after its link was closed.
    let end = Instant::now() + Duration::from_secs(2);
    while who_holds_xdp(ifindex).unwrap().is_some() {
        assert!(Instant::now() < end, "the program is still there");
        thread::sleep(Duration::from_millis(10));
    }
}
