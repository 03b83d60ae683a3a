//! The generator of live frames: it counts what it sends, keeps to its window, and leaves the program
//! that packet sockets need for it on no interface.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lab::{Lab, Passing, Station};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);
/// A veth pair from the client straight to the load balancer; both ends bear this name.
const WIRE: &str = "wire0";

fn plug(lab: &Lab) {
    let (client, balancer) = (lab.client(), lab.balancer().name());
    let link = format!("link add {WIRE} type veth peer name {WIRE} netns {balancer}");
    client.ip(&link).unwrap();
    client.ip(&format!("link set {WIRE} up")).unwrap();
    lab.balancer().ip(&format!("link set {WIRE} up")).unwrap();
}

/// Offers live frames for 200 ms, and gives frames sent, delivered and lost.
fn offer(lab: &Lab, window: &[&str]) -> anyhow::Result<[u64; 3]> {
    let (to, object) = (Station::balancer(0).mac().to_string(), lab::object());
    let object = object.to_str().unwrap();
    let words = ["generate", "--live", "--core=0", "--milliseconds=200"];
    let more = ["--interface", WIRE, "--to", &to, "--object", object];
    let words = words.iter().chain(&more).chain(window);
    let output = lab.client().run_ok(env!("CARGO_BIN_EXE_bench"), words)?;
    let outcome: Value = serde_json::from_str(&output.stdout)?;
    Ok(["sent_in_all", "delivered", "lost"].map(|name| outcome[name].as_u64().unwrap()))
}

#[test]
fn live_frames_come_back_within_their_window() {
    if !lab::ready("live_frames_come_back_within_their_window") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    plug(&lab);
    // Without a program at the other end the kernel drops them all.
    let [sent, delivered, lost] = offer(&lab, &["--window=240"]).unwrap();
    assert_eq!((delivered, lost), (0, sent));
    let object = lab::object();
    let (to, object) = (
        Station::backend(0).mac().to_string(),
        object.to_str().unwrap(),
    );
    let words = [
        "--interface",
        WIRE,
        "--to",
        &to,
        "--object",
        object,
        "--program",
        "swap",
    ];
    let l2fwd = lab::binary("l2fwd").unwrap();
    let swap = lab.balancer().spawn(l2fwd, words).unwrap();
    swap.wait_for_line("ready", LIMIT).unwrap();
    let [sent, delivered, lost] = offer(&lab, &["--window=240"]).unwrap();
    assert!(
        delivered > 1000 && delivered <= sent,
        "{delivered} of {sent} frames"
    );
    assert_eq!(lost, 0, "of {sent} frames");
}

#[test]
fn the_program_that_passes_live_frames_goes_with_its_guard() {
    if !lab::ready("the_program_that_passes_live_frames_goes_with_its_guard") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    plug(&lab);
    let links = || {
        lab.balancer()
            .run_ok("ip", ["-details", "link", "show", WIRE])
            .unwrap()
            .stdout
    };
    for _ in 0..2 {
        let passing = Passing::attach(lab.balancer(), WIRE).unwrap();
        assert!(links().contains("prog/xdp"), "{}", links());
        // Nobody sends them back: each window is lost, and the next one is sent all the same.
        let [sent, delivered, lost] = offer(&lab, &["--window=240"]).unwrap();
        assert_eq!((delivered, lost), (0, sent));
        assert!(sent > 240, "{sent} frames");
        drop(passing);
        assert!(!links().contains("prog/xdp"), "{}", links());
    }
}
