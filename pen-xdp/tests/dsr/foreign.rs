//! Another program holds the XDP hook: Pen says who, and leaves it alone.

use std::fs;

use lab::{Lab, Station, attach_foreign};

use crate::refuse::refused;
use crate::rig::{Pen, service};

/// What is attached to the balancer's interface, as `ip` shows it.
fn attached(lab: &Lab) -> Option<String> {
    let text = lab.balancer().ip("-d link show eth0").unwrap().stdout;
    let at = text.find("prog/xdp")?;
    text[at..].lines().next().map(str::to_owned)
}

fn number(shown: &str) -> &str {
    let mut words = shown.split_whitespace().skip_while(|word| *word != "id");
    words.nth(1).unwrap()
}

#[test]
fn a_program_of_somebody_else_is_named_and_left_alone() {
    if !lab::ready("a_program_of_somebody_else_is_named_and_left_alone") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    attach_foreign(lab.balancer(), "eth0").unwrap();
    let before = attached(&lab).unwrap();
    for (plane, mode) in [
        ("auto", "auto"),
        ("af_xdp", "native"),
        ("af_xdp", "generic"),
        ("xdp", "native"),
        ("xdp", "generic"),
    ] {
        let file = lab.folder().join("pen.toml");
        let text = format!(
            "interface = \"eth0\"\nforeground = true\nplane = \"{plane}\"\nxdp_mode = \"{mode}\"\n{}",
            service(&lab, &["80/tcp"], 1)
        );
        fs::write(&file, text).unwrap();
        let (code, said) = refused(&lab, &["--config", file.to_str().unwrap()]);
        assert_eq!(code, Some(2), "{plane} {mode}: {said}");
        let holder = format!("'lab_pass' (id {})", number(&before));
        assert!(said.contains(&holder), "{plane} {mode}: {said}");
        assert_undisturbed(&lab, &before);
        assert!(!lab.bpffs().join("pen").exists(), "{plane} {mode}");
    }
    // Cleaning up is for what is Pen's.
    let (code, said) = refused(&lab, &["--detach", "eth0"]);
    assert_eq!(code, Some(0), "{said}");
    assert_undisturbed(&lab, &before);
    lab.balancer().ip("link set eth0 xdp off").unwrap();
    let pen = Pen::start(&lab, "plane = \"af_xdp\"\n", &service(&lab, &["80/tcp"], 1));
    assert_ne!(attached(&lab).unwrap(), before);
    pen.stop(&lab, lab.balancer());
}

#[test]
fn a_plane_without_a_program_works_beside_another_one() {
    if !lab::ready("a_plane_without_a_program_works_beside_another_one") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let _web = lab::Nginx::start_all(&lab, &[80]).unwrap();
    attach_foreign(lab.balancer(), "eth0").unwrap();
    let before = attached(&lab).unwrap();
    let pen = Pen::start(
        &lab,
        "plane = \"af_packet\"\n",
        &service(&lab, &["80/tcp"], 1),
    );
    for vip in lab.vips() {
        let page = lab::fetch(lab.client(), vip, 80, "/").unwrap();
        assert!(page.starts_with("be0"), "{page}");
    }
    let status = pen.status();
    assert_eq!(status.dsr().plane.actual.to_string(), "af_packet");
    assert!(pen.count("forwarded") > 0);
    drop(pen);
    assert_undisturbed(&lab, &before);
}

/// The same program as before, and the frames it passes still come in.
fn assert_undisturbed(lab: &Lab, before: &str) {
    assert_eq!(attached(lab).as_deref(), Some(before));
    for address in Station::balancer(0).addresses() {
        assert!(lab.ping(lab.client(), address).unwrap(), "{address}");
    }
}
