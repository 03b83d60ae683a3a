//! Who may speak to the control socket: the file's mode and owner, the port's access list; and that
//! the log says who changed what.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use lab::{Lab, Nginx, Output, Signal, Station};

use crate::rig::{Pen, addresses, answerers, lab, server};

const LIMIT: Duration = Duration::from_secs(15);

/// What Pen's own tool's user types, as somebody else.
fn ask_as(lab: &Lab, who: &[&str], control: &str, command: &str) -> Output {
    let script = "import socket, sys\n\
                  try:\n\
                  \x20if sys.argv[1].startswith('/'):\n\
                  \x20 c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1])\n\
                  \x20else:\n\
                  \x20 host, port = sys.argv[1].rsplit(':', 1)\n\
                  \x20 c = socket.create_connection((host, int(port)), timeout=10)\n\
                  \x20c.sendall(sys.argv[2].encode() + b'\\n')\n\
                  \x20while True:\n\
                  \x20 part = c.recv(9999)\n\
                  \x20 if not part: break\n\
                  \x20 sys.stdout.write(part.decode())\n\
                  except OSError as error: sys.exit(str(error))";
    // Debian's, which anybody may run.
    let words = [who, &["/usr/bin/python3", "-c", script, control, command]].concat();
    lab.balancer().run(words[0], &words[1..]).unwrap()
}

/// Runs `pen -f WORDS`, which must not start, and gives what it says.
fn refused(lab: &Lab, words: &[&str]) -> String {
    let words = [&["-f"], words].concat();
    let output = lab
        .balancer()
        .run(env!("CARGO_BIN_EXE_pen"), words)
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", output.text());
    output.stderr
}

#[test]
fn the_file_is_for_whom_its_mode_and_owner_say() {
    if !lab::ready("the_file_is_for_whom_its_mode_and_owner_say") {
        return;
    }
    let lab = lab(1);
    // The lab's own folder is root's alone.
    let folder = PathBuf::from(format!("/tmp/pen-control-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let path = folder.join("control");
    let at = path.to_str().unwrap();
    let words = [
        "-C",
        at,
        "-O",
        "control_mode 0660",
        "-O",
        "control_owner :adm",
        "80",
        &server(0),
    ];
    for wrong in ["control_owner nobody-knows", "control_owner :nobody-knows"] {
        let words = ["-C", at, "-O", wrong, "80", "10.77.0.11"];
        let said = refused(&lab, &words);
        assert!(said.contains("nobody-knows\" on this host"), "{said}");
        assert!(refused(&lab, &[&["--check"], &words[..]].concat()).contains("nobody-knows"));
        assert!(!path.exists());
    }
    let own = [&["-f"], &words[..]].concat();
    let mut process = lab
        .balancer()
        .spawn(env!("CARGO_BIN_EXE_pen"), own)
        .unwrap();
    process.wait_for_line("serving", LIMIT).unwrap();
    let facts = fs::metadata(&path).unwrap();
    assert_eq!(
        (facts.mode() & 0o7777, facts.uid(), facts.gid()),
        (0o660, 0, 4)
    );
    let adm = ["setpriv", "--reuid", "1", "--regid", "4", "--clear-groups"];
    let other = ["setpriv", "--reuid", "1", "--regid", "1", "--clear-groups"];
    let asked = ask_as(&lab, &adm, at, "server 0 weight 3");
    assert!(asked.ok(), "{}", asked.text());
    let asked = ask_as(&lab, &other, at, "server 0 weight 4");
    assert!(
        asked.stderr.contains("Permission denied"),
        "{}",
        asked.text()
    );
    // The kernel says who it was.
    process.wait_for_line("daemon (pid ", LIMIT).unwrap();
    let said = process.output();
    let line = said
        .lines()
        .find(|line| line.contains("daemon (pid "))
        .unwrap();
    assert!(
        line.contains(", \"python3\"): \"server 0 weight 3\": done, generation 2"),
        "{line}"
    );
    assert!(!said.contains("weight 4"), "{said}");
    let ended = process.stop(Signal::Term, LIMIT).unwrap();
    assert!(ended.success() && !path.exists(), "{}", process.output());
    fs::remove_dir(&folder).unwrap();
}

#[test]
fn changes_are_in_the_log_with_who_and_what_and_shows_are_not() {
    if !lab::ready("changes_are_in_the_log_with_who_and_what_and_shows_are_not") {
        return;
    }
    let lab = lab(1);
    let pen = Pen::start(&lab, &["80", &server(0)]);
    let me = format!("root (pid {}, ", std::process::id());
    let generation = pen.change("timeout 5");
    for show in [
        "status",
        "servers",
        "timeout",
        "web_stats",
        "recent",
        "mode",
        "pid",
        "nonsense",
    ] {
        pen.say(show);
    }
    assert_eq!(
        pen.say("server 7 weight 1"),
        "there is no server 7: 0 to 0 exist\n"
    );
    assert!(pen.say("server 0 weight x").starts_with("weight = "));
    assert!(pen.say("exit").starts_with("Exit is not"));
    let long = format!("server 0 weight {}\u{1b}[0m{}", "\u{7}", "x".repeat(500));
    pen.say(&long);
    pen.process.wait_for_line("xxx", LIMIT).unwrap();
    let said = pen.process.output();
    let lines: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split_once(&me))
        .map(|(_, rest)| rest.split_once("): ").unwrap().1)
        .collect();
    assert_eq!(
        lines[0],
        format!("\"timeout 5\": done, generation {generation}")
    );
    assert_eq!(
        lines[1],
        "\"server 7 weight 1\": refused: there is no server 7: 0 to 0 exist"
    );
    assert!(
        lines[2].starts_with("\"server 0 weight x\": refused: weight = "),
        "{}",
        lines[2]
    );
    assert!(
        lines[3].starts_with("\"exit\": refused: Exit is not"),
        "{}",
        lines[3]
    );
    assert!(
        lines[4].starts_with(r#""server 0 weight \u{7}\u{1b}[0mxx"#),
        "{}",
        lines[4]
    );
    assert!(
        lines[4].contains("xx\"...: refused: ") && lines[4].len() < 600,
        "{}",
        lines[4]
    );
    assert_eq!(lines.len(), 5, "{lines:?}");
    pen.stop();
}

/// Pen with a control port, and without a path.
fn at_port(lab: &Lab, at: &str, words: &[&str]) -> lab::Process {
    let all = [&["-f", "-u", "root", "-C", at], words].concat();
    let process = lab
        .balancer()
        .spawn(env!("CARGO_BIN_EXE_pen"), all)
        .unwrap();
    process.wait_for_line("serving", LIMIT).unwrap();
    process
}

#[test]
fn a_port_on_loopback_is_for_this_host() {
    if !lab::ready("a_port_on_loopback_is_for_this_host") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    for (at, reached) in [("8888", "127.0.0.1:8888"), ("[::1]:8888", "::1:8888")] {
        let mut pen = at_port(&lab, at, &["80", &server(0)]);
        let asked = ask_as(&lab, &["env"], reached, "control");
        let shown = if at == "8888" { reached } else { at };
        assert_eq!(asked.stdout, format!("{shown}\n"), "{}", asked.text());
        let asked = ask_as(&lab, &["env"], reached, "timeout 6");
        assert_eq!(asked.stdout, "6\n", "{}", asked.text());
        let line = pen.wait_for_line("\"timeout 6\": done", LIMIT).unwrap();
        let from = if at == "8888" { "127.0.0.1:" } else { "[::1]:" };
        assert!(line.contains(from), "{line}");
        // Two can't have it.
        let said = refused(&lab, &["-u", "root", "-C", at, "81", &server(0)]);
        assert!(said.contains("can't be had"), "{said}");
        // As root it is to be meant.
        let said = refused(&lab, &["-C", at, "81", &server(0)]);
        assert!(said.contains("files written as root"), "{said}");
        // A list may name some of this host.
        let silent = |line: &str| ask_as(&lab, &["env"], reached, line);
        silent("acl 4 deny 127.0.0.1");
        silent("acl 4 deny ::1");
        assert_eq!(silent("control_acl").stdout, "0\n");
        silent("control_acl 4");
        assert_eq!(silent("pid").stdout, "");
        pen.wait_for_line("may not ask by control_acl", LIMIT)
            .unwrap();
        for address in addresses() {
            assert_eq!(answerers(&lab, address, 1), ["be0"]);
        }
        assert!(
            pen.stop(Signal::Term, LIMIT).unwrap().success(),
            "{}",
            pen.output()
        );
    }
}

#[test]
fn an_open_port_needs_a_list_and_keeps_to_it() {
    if !lab::ready("an_open_port_needs_a_list_and_keeps_to_it") {
        return;
    }
    let lab = lab(2);
    for at in ["0.0.0.0:8888", "[::]:8888"] {
        let said = refused(&lab, &["-C", at, "80", &server(0)]);
        assert!(
            said.contains("can be reached from other machines"),
            "{said}"
        );
    }
    let [client, friend] = [Station::client(), Station::backend(0)];
    let permits: Vec<String> = client
        .addresses()
        .iter()
        .map(|address| format!("acl 3 permit {address}"))
        .collect();
    let words = [
        "-O",
        &permits[0],
        "-O",
        &permits[1],
        "-O",
        "control_acl 3",
        "80",
        &server(1),
    ];
    let mut pen = at_port(&lab, "[::]:8888", &words);
    let script = "import socket, sys\n\
                  c = socket.create_connection((sys.argv[1], 8888), timeout=10)\n\
                  try:\n\
                  \x20c.sendall(sys.argv[2].encode() + b'\\n'); print(c.makefile().read(), end='')\n\
                  except OSError: print('cut')";
    let ask = |from: &lab::Namespace, to: &str, line: &str| {
        let output = from.run_ok("python3", ["-c", script, to, line]).unwrap();
        output.stdout
    };
    let pid = format!("{}\n", pen.id());
    for address in addresses() {
        let to = address.to_string();
        assert_eq!(ask(lab.client(), &to, "pid"), pid);
        let denied = ask(lab.backend(0), &to, "timeout 9");
        assert!(denied.is_empty() || denied == "cut\n", "{denied}");
    }
    // In force with the reply, both ways.
    let to = addresses()[0].to_string();
    assert_eq!(ask(lab.client(), &to, "timeout"), "3\n");
    for address in friend.addresses() {
        assert_eq!(
            ask(lab.client(), &to, &format!("acl 3 permit {address}")),
            ""
        );
    }
    for address in addresses() {
        assert_eq!(ask(lab.backend(0), &address.to_string(), "pid"), pid);
    }
    let refusal = ask(lab.client(), &to, "control_acl 5");
    assert!(
        refusal.contains("access list 5 does not say which of them may"),
        "{refusal}"
    );
    assert_eq!(ask(lab.client(), &to, "control_acl"), "3\n");
    // An empty list lets nobody in from elsewhere.
    assert_eq!(ask(lab.client(), &to, "no acl 3"), "");
    let denied = ask(lab.client(), &to, "pid");
    assert!(denied.is_empty() || denied == "cut\n", "{denied}");
    assert_eq!(ask(lab.balancer(), "127.0.0.1", "pid"), pid);
    assert!(
        pen.stop(Signal::Term, LIMIT).unwrap().success(),
        "{}",
        pen.output()
    );
}

#[test]
fn a_port_past_the_kernel_has_its_list_too() {
    if !lab::ready("a_port_past_the_kernel_has_its_list_too") {
        return;
    }
    let lab = lab(1);
    let vip = Station::vip(0).v4().to_string();
    let bpffs = lab.bpffs();
    let run_dir = lab.folder().join("run");
    let words = [
        "-O",
        "dsr_if eth0",
        "-O",
        "plane xdp",
        "-O",
        "acl 1 permit 127.0.0.1",
        "-O",
        "control_acl 1",
        "--bpffs",
        bpffs.to_str().unwrap(),
        "--run-dir",
        run_dir.to_str().unwrap(),
        "-r",
        &vip,
        &server(0),
    ];
    let mut pen = at_port(&lab, "8888", &words);
    let asked = ask_as(&lab, &["env"], "127.0.0.1:8888", "server 0 blacklist 60");
    assert!(asked.ok() && asked.stdout.is_empty(), "{}", asked.text());
    pen.wait_for_line("\"server 0 blacklist 60\": done, generation ", LIMIT)
        .unwrap();
    let page = ask_as(&lab, &["env"], "127.0.0.1:8888", "status").stdout;
    assert!(
        page.contains("<td>60</td>") || page.contains("<td>59</td>"),
        "{page}"
    );
    ask_as(&lab, &["env"], "127.0.0.1:8888", "acl 1 deny all");
    assert!(
        pen.stop(Signal::Term, LIMIT).unwrap().success(),
        "{}",
        pen.output()
    );
}
