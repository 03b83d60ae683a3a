//! What a service manager hears from Pen and gives to it, by the interface that systemd has:
//! sd_notify(3), sd_listen_fds(3), sd-daemon(3). Another program stands for the manager.

use std::{fs, time::Duration};

use lab::{Lab, Nginx, Process, Signal};

use crate::python;
use crate::rig::{Pen, addresses, lab, server, wait_for};

const LIMIT: Duration = Duration::from_secs(15);

/// Prints what comes to the socket of this name, with when it came.
fn listen(lab: &Lab, name: &str) -> Process {
    let script = format!(
        "import socket, time\n\
         s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         s.bind('{name}'.replace('@', '\\0'))\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20b = s.recv(65536)\n\
         \x20print('%.3f' % time.monotonic(), '|'.join(b.decode().splitlines()), flush=True)\n"
    );
    python::start(lab.balancer(), &script)
}

/// When a message came, and what it said.
fn heard(manager: &Process) -> Vec<(f64, String)> {
    let output = manager.output();
    let lines = output.lines().filter_map(|line| {
        let (time, text) = line.split_once(' ')?;
        Some((time.parse().ok()?, text.to_owned()))
    });
    lines.collect()
}

#[test]
fn the_manager_hears_when_it_serves_reloads_and_stops() {
    if !lab::ready("the_manager_hears_when_it_serves_reloads_and_stops") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let path = lab.folder().join("notify").display().to_string();
    for name in [path.as_str(), "@pen-notify"] {
        let manager = listen(&lab, name);
        let variable = format!("NOTIFY_SOCKET={name}");
        let pen = Pen::start_by(&lab, &["env", &variable], &["80", &server(0)]);
        manager.wait_for_line("READY=1", LIMIT).unwrap();
        let first = heard(&manager).remove(0).1;
        assert!(
            first.starts_with("READY=1|STATUS=serving ") && first.contains(":80"),
            "{first}"
        );
        for address in addresses() {
            let page = lab::fetch(lab.client(), address, 80, "/").unwrap();
            assert!(page.starts_with("be0"), "{page}");
        }
        pen.process.signal(Signal::Hup).unwrap();
        manager.wait_for_line("RELOADING=1", LIMIT).unwrap();
        wait_for("the end of the reload", || heard(&manager).len() >= 3);
        let (time, begun) = heard(&manager).remove(1);
        let begun = begun.strip_prefix("RELOADING=1|MONOTONIC_USEC=").unwrap();
        let begun = begun.parse::<f64>().unwrap() / 1e6;
        assert!(
            time - begun > -0.001 && time - begun < 5.0,
            "{time} {begun}"
        );
        assert_eq!(heard(&manager).remove(2).1, "READY=1");
        pen.change("server 0 weight 5");
        manager.wait_for_line(" STATUS=serving ", LIMIT).unwrap();
        pen.stop();
        manager.wait_for_line("STOPPING=1", LIMIT).unwrap();
        assert_eq!(heard(&manager).len(), 5, "{}", manager.output());
    }
}

#[test]
fn the_watchdog_gets_two_signs_of_life_in_its_time() {
    if !lab::ready("the_watchdog_gets_two_signs_of_life_in_its_time") {
        return;
    }
    let lab = lab(1);
    let path = lab.folder().join("notify").display().to_string();
    let manager = listen(&lab, &path);
    let variable = format!("NOTIFY_SOCKET={path}");
    let words = ["80", &server(0)];
    let by = ["env", &variable, "WATCHDOG_USEC=600000"];
    let pen = Pen::start_by(&lab, &by, &words);
    let signs = || {
        let all = heard(&manager).into_iter();
        let signs = all.filter(|(_, text)| text == "WATCHDOG=1");
        signs.map(|(time, _)| time).collect::<Vec<_>>()
    };
    wait_for("signs of life", || signs().len() > 8);
    let times = signs();
    let pace = (times[8] - times[0]) / 8.0;
    assert!((0.28..0.6).contains(&pace), "one each {pace} s");
    // The manager sees it when the daemon hangs.
    pen.process.signal(Signal::Stop).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let before = signs().len();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(signs().len(), before);
    pen.process.signal(Signal::Cont).unwrap();
    wait_for("further signs of life", || signs().len() > before);
    pen.stop();
    // Another process is watched.
    let before = signs().len();
    let by = ["env", &variable, "WATCHDOG_USEC=20000", "WATCHDOG_PID=1"];
    Pen::start_by(&lab, &by, &words).stop();
    assert_eq!(signs().len(), before);
}

#[test]
fn a_manager_that_is_not_there_does_no_harm() {
    if !lab::ready("a_manager_that_is_not_there_does_no_harm") {
        return;
    }
    let lab = lab(1);
    let nowhere = lab.folder().join("nobody").display().to_string();
    for name in [nowhere.as_str(), "@nobody", "vsock:2:9", ""] {
        let variable = format!("NOTIFY_SOCKET={name}");
        let by = ["env", &variable, "WATCHDOG_USEC=20000"];
        let pen = Pen::start_by(&lab, &by, &["80", &server(0)]);
        pen.process
            .wait_for_line("NOTIFY_SOCKET) can't be told", LIMIT)
            .unwrap();
        pen.change("server 0 weight 5");
        pen.stop();
    }
}

/// The process that the manager started ends; the one in the background must not speak for it.
#[test]
fn in_the_background_nothing_is_said() {
    if !lab::ready("in_the_background_nothing_is_said") {
        return;
    }
    let lab = lab(1);
    let folder = lab.folder();
    let path = folder.join("notify").display().to_string();
    let manager = listen(&lab, &path);
    let (pid_file, control) = (folder.join("pid"), folder.join("control"));
    let variable = format!("NOTIFY_SOCKET={path}");
    let (pid_word, control_word) = (
        pid_file.display().to_string(),
        control.display().to_string(),
    );
    let words = [
        &variable,
        "WATCHDOG_USEC=20000",
        "LISTEN_FDS=1",
        env!("CARGO_BIN_EXE_pen"),
        "-p",
        &pid_word,
        "-C",
        &control_word,
        "80",
        &server(0),
    ];
    let output = lab.balancer().run("env", words).unwrap();
    assert_eq!((output.status.code(), &*output.text()), (Some(0), ""));
    let pid = fs::read_to_string(&pid_file).unwrap();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    lab.balancer().run_ok("kill", [&pid]).unwrap();
    wait_for("the daemon's end", || !pid_file.exists());
    for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"] {
        assert!(!environment.contains(variable), "{environment}");
    }
    assert!(heard(&manager).is_empty(), "{}", manager.output());
}

/// The journal writes the time and reads the level; whoever else reads the stream gets both.
#[test]
fn where_the_journal_reads_each_line_begins_with_its_level() {
    if !lab::ready("where_the_journal_reads_each_line_begins_with_its_level") {
        return;
    }
    let lab = lab(1);
    let stream = |what: &str| {
        let script = format!("export JOURNAL_STREAM={what}; exec \"$@\"");
        let by = ["sh", "-c", &script, "sh"];
        let pen = Pen::start_by(&lab, &by, &["-w", "/nowhere/page", "80", &server(0)]);
        pen.process.signal(Signal::Usr1).unwrap();
        let warned = pen.process.wait_for_line("web_stats", LIMIT).unwrap();
        let served = pen.process.wait_for_line("serving", LIMIT).unwrap();
        pen.stop();
        (served, warned)
    };
    let (served, warned) = stream("$(stat -L -c %d:%i /proc/self/fd/2)");
    assert!(served.starts_with("<6>serving "), "{served}");
    assert!(warned.starts_with("<4>web_stats "), "{warned}");
    let (served, warned) = stream("8:1");
    assert!(served.contains("Z  INFO serving "), "{served}");
    assert!(warned.contains("Z  WARN web_stats "), "{warned}");
}
