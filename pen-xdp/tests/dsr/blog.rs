//! The line that Pen's author published for direct server return, in front of `ab` as he ran it.

use lab::{Lab, Nginx, Signal, Station, fetch};

use crate::rig::{START, assert_nothing_left};

#[test]
fn the_line_of_his_blog_forwards_and_ab_loses_nothing() {
    if !lab::ready("the_line_of_his_blog_forwards_and_ab_loses_nothing") {
        return;
    }
    let lab = Lab::builder().backends(2).build().unwrap();
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let vip = Station::vip(0).v4();
    let servers = [0, 1].map(|at| Station::backend(at).v4().to_string());
    let line = format!(
        "-df|-O|poll|-O|dsr_if eth0|-S|2|-r|{vip}:80|{}|{}|--bpffs|{}|--run-dir|{}",
        servers[0],
        servers[1],
        lab.bpffs().display(),
        lab.folder().join("run").display(),
    );
    let pen = env!("CARGO_BIN_EXE_pen");
    let mut pen = lab.balancer().spawn(pen, line.split('|')).unwrap();
    pen.wait_for_line("serving", START).unwrap();
    let url = format!("http://{vip}/");
    let words = ["-q", "-c", "20", "-n", "2000", &url];
    let ab = lab.client().run_ok("ab", words).unwrap().stdout;
    assert!(ab.contains("Failed requests:        0"), "{ab}");
    assert!(ab.contains("Complete requests:      2000"), "{ab}");
    let answers = (0..20).map(|_| fetch(lab.client(), vip.into(), 80, "/").unwrap());
    let mut answers: Vec<_> = answers
        .map(|page| page.split(' ').next().unwrap().to_owned())
        .collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers, ["be0", "be1"]);
    let status = pen.stop(Signal::Term, START).unwrap();
    assert!(status.success(), "{}", pen.output());
    assert_nothing_left(&lab, lab.balancer());
}
