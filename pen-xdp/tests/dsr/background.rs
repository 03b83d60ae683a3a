//! Without `-f`: `pen` returns when it serves, or says why it does not, and the daemon is on its
//! own from then on.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use lab::{Lab, attach_foreign, fetch};
use pen_common::{config::Plane, control::Status};

use crate::rig::{ask, assert_nothing_left, service};

const LIMIT: Duration = Duration::from_secs(15);

/// A configuration for the background, and its pid file.
fn configuration(lab: &Lab, services: &str) -> (String, PathBuf) {
    let folder = lab.folder();
    let (config, pid_file) = (folder.join("pen.toml"), folder.join("pid"));
    let text = format!(
        "interface = \"eth0\"\nplane = \"af_xdp\"\ncontrol = {:?}\npid_file = {pid_file:?}\n\
         bpffs = {:?}\nrun_dir = {:?}\n{services}",
        folder.join("control"),
        lab.bpffs(),
        folder.join("run"),
    );
    fs::write(&config, text).unwrap();
    (config.display().to_string(), pid_file)
}

/// The fields of /proc/PID/stat behind the name: state, parent, group, session, terminal.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split_whitespace().take(5).map(str::to_owned).collect())
}

fn stop(pid: u32) {
    let kill = std::process::Command::new("kill")
        .arg(pid.to_string())
        .status();
    assert!(kill.unwrap().success());
    let end = Instant::now() + LIMIT;
    // An orphan's zombie goes when init, or who stands for it, looks; it has ended all the same.
    while stat(pid).is_some_and(|fields| fields[0] != "Z") {
        assert!(Instant::now() < end, "{pid} does not end");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn in_the_background_it_serves_when_the_command_returns() {
    if !lab::ready("in_the_background_it_serves_when_the_command_returns") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let _web = lab::Nginx::start_all(&lab, &[80]).unwrap();
    let (config, pid_file) = configuration(&lab, &service(&lab, &["80/tcp"], 1));
    // A script that takes what it prints waits for the end of both streams, not of the daemon.
    let script = "out=$(\"$0\" --config \"$1\" 2>&1); echo \"code $? said [$out]\"";
    let words = ["-c", script, env!("CARGO_BIN_EXE_pen"), &config];
    let output = lab.balancer().run("sh", words).unwrap().stdout;
    assert!(output.starts_with("code 0 said []"), "{output}");
    // No waiting: it serves already, and can be stopped already.
    for vip in lab.vips() {
        let page = fetch(lab.client(), vip, 80, "/").unwrap();
        assert!(page.starts_with("be0"), "{page}");
    }
    let pid: u32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    // The file itself: in a chroot its name is another.
    let file = |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let program = file(&format!("/proc/{pid}/exe")).unwrap();
    assert_eq!(program, file(env!("CARGO_BIN_EXE_pen")).unwrap());
    let [_, _, group, session, terminal] = &stat(pid).unwrap()[..] else {
        panic!("fields of stat");
    };
    let own = pid.to_string();
    assert_eq!((group, session, &**terminal), (&own, &own, "0"));
    let device = |path: &str| fs::metadata(path).map(|found| found.rdev()).unwrap();
    for stream in 0..3 {
        let open = device(&format!("/proc/{pid}/fd/{stream}"));
        assert_eq!(open, device("/dev/null"), "stream {stream}");
    }
    let answer = ask(&lab.folder().join("control"), "status").value.unwrap();
    let status: Status = serde_json::from_value(answer).unwrap();
    assert_eq!((status.pid, status.dsr().plane.actual), (pid, Plane::AfXdp));
    let frames: u64 = status.dsr().pools[0]
        .backends
        .iter()
        .map(|b| b.frames)
        .sum();
    assert!(frames > 0, "the pages went another way");
    stop(pid);
    assert_nothing_left(&lab, lab.balancer());
    assert!(!pid_file.exists() && !lab.folder().join("control").exists());
}

/// However soon the signal comes: it is held until everything that is up can be taken down.
#[test]
fn stopped_while_it_starts_it_leaves_nothing() {
    if !lab::ready("stopped_while_it_starts_it_leaves_nothing") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let services = service(&lab, &["80/tcp"], 1);
    let (config, pid_file) = configuration(&lab, &format!("foreground = true\n{services}"));
    for wait in [0, 10, 30, 100] {
        let words = ["--config", &config];
        let mut pen = lab
            .balancer()
            .spawn(env!("CARGO_BIN_EXE_pen"), words)
            .unwrap();
        let end = Instant::now() + LIMIT;
        // The first pin is what an end without order would leave.
        while !lab.bpffs().join("pen").exists() {
            assert!(Instant::now() < end, "{}", pen.output());
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(wait));
        let status = pen.stop(lab::Signal::Term, LIMIT).unwrap();
        assert!(status.success(), "after {wait} ms: {}", pen.output());
        assert_nothing_left(&lab, lab.balancer());
        assert!(!pid_file.exists() && !lab.folder().join("control").exists());
    }
}

#[test]
fn what_fails_in_the_background_is_said_to_the_caller() {
    if !lab::ready("what_fails_in_the_background_is_said_to_the_caller") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let (config, pid_file) = configuration(&lab, &service(&lab, &["80/tcp"], 1));
    attach_foreign(lab.balancer(), "eth0").unwrap();
    let start = || {
        let output = lab
            .balancer()
            .run(env!("CARGO_BIN_EXE_pen"), ["--config", &config])
            .unwrap();
        (output.status.code(), output.stdout, output.stderr)
    };
    let (code, stdout, stderr) = start();
    assert_eq!((code, &*stdout), (Some(2), ""), "{stderr}");
    assert!(stderr.contains("lab_pass"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(!pid_file.exists() && !lab.bpffs().join("pen").exists());
    // And the second of two daemons, when the first is in the background as well.
    lab.balancer().ip("link set eth0 xdp off").unwrap();
    assert_eq!(start(), (Some(0), String::new(), String::new()));
    let pid: u32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let (code, _, stderr) = start();
    assert_eq!(code, Some(2), "{stderr}");
    let living = format!("process {pid}, which is alive");
    assert!(stderr.contains(&living), "{stderr}");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid.to_string());
    stop(pid);
    assert_nothing_left(&lab, lab.balancer());
}

/// Nobody reads the streams of a daemon: what it has to say goes to the system's log.
#[test]
fn in_the_background_the_log_goes_to_syslog() {
    if !lab::ready("in_the_background_the_log_goes_to_syslog") {
        return;
    }
    let lab = Lab::builder().backends(1).build().unwrap();
    let (config, pid_file) = configuration(&lab, &service(&lab, &["80/tcp"], 1));
    let socket = std::os::unix::net::UnixDatagram::bind(lab.folder().join("log")).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    // A /dev of its own: this machine's may have a log, or none.
    let script = "cd \"$2\" && mkdir dev && mount -t tmpfs tmpfs dev && touch dev/null && \
                  mount --bind /dev/null dev/null && ln -s \"$PWD/log\" dev/log && \
                  mount --bind dev /dev && exec \"$0\" --config \"$1\"";
    let folder = lab.folder().display().to_string();
    let words = ["-c", script, env!("CARGO_BIN_EXE_pen"), &config, &folder];
    let output = lab.balancer().run("sh", words).unwrap();
    assert_eq!((output.status.code(), &*output.text()), (Some(0), ""));
    let pid: u32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let line = || {
        let mut bytes = [0; 2_048];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    // Facility user, severity informational.
    let head = format!("<14>pen[{pid}]: ");
    let served = std::iter::repeat_with(line).find(|line| line.contains("serving"));
    assert!(served.unwrap().starts_with(&head));
    lab.balancer().ip("link set eth0 down").unwrap();
    let warned = std::iter::repeat_with(line).find(|line| line.contains("eth0 is down"));
    assert_eq!(warned.unwrap(), format!("<12>pen[{pid}]: eth0 is down"));
    stop(pid);
    assert_nothing_left(&lab, lab.balancer());
}
