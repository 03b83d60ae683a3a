//! Pen as another user than root (`-u`): what it keeps, what it can't do any more, and that it
//! serves and changes all the same.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use lab::{Lab, Nginx, Station};

use crate::{
    authority::{Authority, Wish},
    rig::{Pen, addresses, answerers, lab, server, wait_for_file},
};

/// A folder that is the user's own.
fn folder(lab: &Lab) -> PathBuf {
    let folder = lab.folder().join("pen");
    fs::create_dir_all(&folder).unwrap();
    lab.balancer()
        .run_ok("chown", ["nobody", folder.to_str().unwrap()])
        .unwrap();
    // The way there is everybody's.
    for above in folder
        .ancestors()
        .skip(1)
        .take_while(|above| *above != std::env::temp_dir())
    {
        let mode = fs::metadata(above).unwrap().permissions().mode();
        if mode & 0o1 == 0 && above != std::path::Path::new("/") {
            fs::set_permissions(above, fs::Permissions::from_mode(mode | 0o11)).unwrap();
        }
    }
    folder
}

/// A line of `/proc/PID/status`, of each thread.
fn status(pen: &Pen, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", pen.process.id())).unwrap();
    let lines = tasks.map(|task| {
        let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line[key.len()..]
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    });
    let mut all: Vec<_> = lines.collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn another_user_serves_and_changes_and_can_do_nothing_else() {
    if !lab::ready("another_user_serves_and_changes_and_can_do_nothing_else") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let authority = Authority::new(&lab);
    authority.issue(Wish::of("a.test", "a.test"));
    let own = authority.file("a.test", "pem");
    // Root's alone.
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    folder(&lab);
    let pen = Pen::start(&lab, &["-u", "nobody", "80", &format!("{}:80", server(0))]);
    for address in addresses() {
        assert_eq!(answerers(&lab, address, 1), ["be0"]);
    }
    let ids = lab
        .balancer()
        .run_ok("id", ["-u", "nobody"])
        .unwrap()
        .stdout;
    let id = ids.trim();
    assert_eq!(status(&pen, "Uid:"), [format!("{id} {id} {id} {id}")]);
    let groups = lab
        .balancer()
        .run_ok("id", ["-G", "nobody"])
        .unwrap()
        .stdout;
    assert_eq!(status(&pen, "Groups:"), [groups.trim()]);
    // CAP_DAC_READ_SEARCH (2) and CAP_NET_BIND_SERVICE (10), and no way to others.
    let kept = format!("{:016x}", 1u64 << 2 | 1 << 10);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(status(&pen, set), [kept.as_str()], "{set}");
    }
    let none = "0000000000000000";
    for set in ["CapInh:", "CapAmb:"] {
        assert_eq!(status(&pen, set), [none], "{set}");
    }
    assert_eq!(status(&pen, "NoNewPrivs:"), ["1"]);

    // A listener below 1024, a key that root alone may read, and that key renewed.
    pen.change("listen 443");
    pen.change(&format!("certificate {own}"));
    let serial = || {
        let to = format!("{}:443", Station::balancer(0).v4());
        let script = format!(
            "echo | openssl s_client -connect {to} -servername a.test 2>/dev/null | openssl x509 -noout -serial"
        );
        let output = lab.client().run("sh", ["-c", &script]).unwrap();
        output.stdout.trim().to_owned()
    };
    let first = serial();
    assert!(first.starts_with("serial="), "{first}");
    authority.issue(Wish::of("a.test", "a.test"));
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    wait_for_file("the renewed certificate", || {
        let now = serial();
        now.starts_with("serial=") && now != first
    });

    // What is root's is not written to, and what is not there is not begun.
    let roots = lab.folder().join("roots.toml");
    let refusal = pen
        .ask(&format!("write {}", roots.display()))
        .refusal
        .unwrap();
    assert!(refusal.contains("Permission denied"), "{refusal}");
    assert!(!roots.exists());
    pen.stop();
}

#[test]
fn a_user_that_can_not_be_become_is_refused_by_name() {
    if !lab::ready("a_user_that_can_not_be_become_is_refused_by_name") {
        return;
    }
    let lab = lab(1);
    let pen = env!("CARGO_BIN_EXE_pen");
    let past = "dsr_if eth0";
    let to = server(0);
    for (words, why) in [
        (
            vec!["-u", "nosuch", "80", &to],
            "there is no such user on this host",
        ),
        (
            vec!["-u", "nobody", "-O", past, "192.0.2.1:80", &to],
            "is in DSR, which needs root as yet",
        ),
    ] {
        for check in [true, false] {
            let mut all = vec!["-f"];
            all.extend(check.then_some("--check"));
            all.extend(&words);
            let output = lab.balancer().run(pen, &all).unwrap();
            assert_eq!(output.status.code(), Some(2), "{all:?}: {}", output.text());
            assert!(output.text().contains(why), "{}", output.text());
        }
    }
}
