//! Pen as another user than root (`-u`): what it keeps, what it can't do any more, and that it
//! serves and changes all the same.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};

use lab::{Lab, Nginx, Signal, Station};

use crate::{
    authority::{Authority, Wish},
    kept::serving,
    rig::{Pen, addresses, answerers, lab, server, wait_for, wait_for_file},
};

/// A folder that is the user's own.
pub(crate) fn folder(lab: &Lab) -> PathBuf {
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
fn status(process: u32, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
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

/// The configuration of a proxy as another user, its listeners and more of its service.
pub(crate) fn configuration(lab: &Lab, listen: &str, more: &str) -> (PathBuf, PathBuf) {
    let control = folder(lab).join("control");
    let text = format!(
        "user = \"nobody\"\ncontrol = {control:?}\n\
         [[service]]\nname = \"web\"\nmode = \"http\"\nlisten = [{listen}]\n{more}\n\
         [[pool]]\nname = \"web\"\nbackend = [\"{}:80\"]\n",
        server(0)
    );
    let config = lab.folder().join("pen.toml");
    fs::write(&config, text).unwrap();
    // Root's alone, as are the keys.
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    (config, control)
}

#[test]
fn another_user_serves_and_changes_and_can_do_nothing_else() {
    if !lab::ready("another_user_serves_and_changes_and_can_do_nothing_else") {
        return;
    }
    let lab = lab(2);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let authority = Authority::new(&lab);
    authority.issue(Wish::of("a.test", "a.test"));
    let own = authority.file("a.test", "pem");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    let (config, control) = configuration(&lab, "\"80\"", "");
    let pen = Pen::start_file(&lab, &config, &control);
    for address in addresses() {
        assert_eq!(answerers(&lab, address, 1), ["be0"]);
    }
    let id = |what| {
        let ids = lab.balancer().run_ok("id", [what, "nobody"]).unwrap();
        ids.stdout.trim().to_owned()
    };
    let (keeper, serving) = (pen.process.id(), serving(&pen));
    let user = id("-u");
    assert_eq!(
        status(serving, "Uid:"),
        [format!("{user} {user} {user} {user}")]
    );
    assert_eq!(status(serving, "Groups:"), [id("-G")]);
    let none = "0000000000000000";
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:", "CapAmb:"] {
        assert_eq!(status(serving, set), [none], "{set}");
    }
    assert_eq!(status(serving, "NoNewPrivs:"), ["1"]);
    assert_eq!(status(serving, "Seccomp:"), ["2"]);
    // The other one is known as Pen, is root, and is one thread that hears no network.
    assert_eq!(pen.status().pid, keeper);
    assert_eq!(status(keeper, "Uid:"), ["0 0 0 0"]);
    assert_eq!(status(keeper, "Threads:"), ["1"]);
    let sockets = fs::read_dir(format!("/proc/{keeper}/fd")).unwrap();
    let sockets = sockets.filter(|fd| {
        let target = fs::read_link(fd.as_ref().unwrap().path()).unwrap();
        target.to_str().unwrap().starts_with("socket:")
    });
    assert_eq!(sockets.count(), 1);

    // Below 1024 there is what the file says; the key in it is root's alone, and renewed.
    let refusal = pen.ask("listen 443").refusal.unwrap();
    assert!(
        refusal.contains("as nobody Pen listens below port 1024"),
        "{refusal}"
    );
    configuration(&lab, "\"80\", \"443\"", &format!("certificate = {own:?}"));
    pen.process.signal(Signal::Hup).unwrap();
    let serial = || {
        let to = format!("{}:443", Station::balancer(0).v4());
        let script = format!(
            "echo | openssl s_client -connect {to} -servername a.test 2>/dev/null | openssl x509 -noout -serial"
        );
        let output = lab.client().run("sh", ["-c", &script]).unwrap();
        output.stdout.trim().to_owned()
    };
    wait_for("the new listener", || serial().starts_with("serial="));
    let first = serial();
    authority.issue(Wish::of("a.test", "a.test"));
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    wait_for_file("the renewed certificate", || {
        let now = serial();
        now.starts_with("serial=") && now != first
    });
    // A new back end, and one that is the only one.
    pen.change(&format!("server add {}:80", server(1)));
    pen.change("server remove 0");
    let url = format!("https://{}/", addresses()[0]);
    let page = lab.client().run_ok("curl", ["-sSkm", "9", &url]).unwrap();
    assert!(page.stdout.starts_with("be1"), "{}", page.text());

    // What is root's is not written to, and what is not there is not begun.
    let roots = lab.folder().join("roots.toml");
    let refusal = pen
        .ask(&format!("write {}", roots.display()))
        .refusal
        .unwrap();
    assert!(refusal.contains("Permission denied"), "{refusal}");
    assert!(!roots.exists());
    let users = control.with_file_name("saved.toml");
    pen.change(&format!("write {}", users.display()));
    assert_eq!(fs::metadata(&users).unwrap().uid().to_string(), user);
    pen.stop();
}

#[test]
fn a_user_that_can_not_be_become_is_refused_by_name() {
    if !lab::ready("a_user_that_can_not_be_become_is_refused_by_name") {
        return;
    }
    let lab = lab(1);
    let pen = env!("CARGO_BIN_EXE_pen");
    for check in [true, false] {
        let mut words = vec!["-f", "-u", "nosuch", "80", "192.0.2.9:80"];
        words.extend(check.then_some("--check"));
        let output = lab.balancer().run(pen, &words).unwrap();
        let said = output.text();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(
            said.contains("there is no such user on this host"),
            "{said}"
        );
    }
}
