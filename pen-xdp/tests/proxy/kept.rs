//! The keeper and the process that serves as another user: what each gets of the other, and what
//! becomes of one without the other.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, chown, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use lab::{Nginx, Signal};
use pen::keeper::request::{Answer, Listen, OfInterface, Request};
use pen::replace_file::{How, Links};

use crate::{
    authority::{Authority, Wish},
    python,
    rig::{Pen, addresses, answerers, lab, server, wait_for},
    stolen::{self, Way},
    user::{configuration, folder},
};

/// The process that serves for this one.
pub(crate) fn serving(pen: &Pen) -> u32 {
    stolen::serving(pen.process.id())
}

fn tcp(address: &str) -> Request {
    Request::Listen(Listen::Tcp {
        address: address.parse().unwrap(),
        backlog: 1,
        alone: false,
    })
}

/// Whoever takes over the process that serves has the way to its keeper, and no more than what the
/// configuration names and what the user may have anyway.
#[test]
fn a_keeper_gives_what_is_configured_and_nothing_else() {
    if !lab::ready("a_keeper_gives_what_is_configured_and_nothing_else") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let authority = Authority::new(&lab);
    authority.issue(Wish::of("a.test", "a.test"));
    let key = PathBuf::from(authority.file("a.test", "pem"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    // One folder of names is root's, in the other the user may put what he likes.
    let theirs = folder(&lab);
    let names = lab.folder().join("names");
    fs::create_dir(&names).unwrap();
    fs::copy(&key, names.join("b.test.pem")).unwrap();
    // A name that is no text leads nowhere, and ends nothing.
    symlink(OsStr::from_bytes(b"caf\xe9.pem"), names.join("c.test.pem")).unwrap();
    let more = format!(
        "certificate = {key:?}\nssl_sni_path = {names:?}\nclient_ca = \"{}/ca.pem\"",
        theirs.display()
    );
    symlink("/etc/shadow", theirs.join("ca.pem")).unwrap();
    symlink("/proc/thread-self/maps", theirs.join("maps")).unwrap();
    let (config, control) = configuration(&lab, "\"80\"", &more);
    let pen = Pen::start_file(&lab, &config, &control);
    let way = Way::to(pen.process.id());
    way.hold();

    for file in [&key, &names.join("b.test.pem"), &config] {
        let (answer, mut file) = way.ask(&Request::Read(file.clone()));
        assert_eq!(answer, Answer::Done);
        let mut text = Vec::new();
        File::from(file.remove(0)).read_to_end(&mut text).unwrap();
        assert!(!text.is_empty());
    }
    let denied = "Permission denied";
    let in_names = |rest: &str| names.join(rest);
    for path in [
        "/etc/shadow".into(),
        in_names("../../../../../../../../etc/shadow"),
        lab.folder().join("authority/ca.key"),
        "/root/.bashrc".into(),
    ] {
        fs::set_permissions(
            lab.folder().join("authority/ca.key"),
            fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        let why = way.refused(&Request::Read(path.clone()), &[]);
        assert!(why.contains(denied), "{}: {why}", path.display());
    }
    let why = way.refused(&Request::Read(theirs.join("ca.pem")), &[]);
    assert!(
        why.contains("others than root may write in a folder on the way"),
        "{why}"
    );
    for request in [
        Request::List("/root".into()),
        // What is the keeper's own, though the user may ask for what is his.
        Request::Read("/proc/self/maps".into()),
        Request::Link(format!("/proc/{}/exe", pen.process.id()).into()),
        Request::Read(theirs.join("maps")),
        Request::Append {
            path: "/proc/self/mem".into(),
            mode: 0o644,
        },
        Request::Append {
            path: key,
            mode: 0o644,
        },
        Request::Append {
            path: "/etc/pen-was-here".into(),
            mode: 0o644,
        },
        Request::Replace {
            path: config.clone(),
            contents: String::new(),
            how: How {
                mode: 0o644,
                links: Links::Follow,
            },
        },
        Request::Listen(Listen::Unix {
            path: "/etc/pen-was-here".into(),
            backlog: 1,
        }),
        tcp("0.0.0.0:81"),
        tcp("127.0.0.1:80"),
    ] {
        let why = way.refused(&request, &[]);
        assert!(why.contains(denied), "{request:?}: {why}");
    }
    assert!(!Path::new("/etc/pen-was-here").exists());
    let watched = way.ask(&Request::Watch(BTreeSet::from(["/root".into()])));
    assert_eq!(watched.0, Answer::Watching(false));
    let why = way.refused(&Request::Control, &[]);
    assert!(why.contains("busy"), "{why}");
    let why = way.refused(&Request::Transparent { v6: false }, &[]);
    assert!(why.contains("not permitted"), "{why}");
    // No interface is named here, and nothing is done with one that was not claimed.
    for (request, why) in [
        (Request::Claim, "no interface is had as root"),
        (Request::Sockets, "no interface is had as root"),
        (Request::Interface(OfInterface::Attach), "not permitted"),
        (Request::Interface(OfInterface::Close), "not permitted"),
    ] {
        let told = way.refused(&request, &[]);
        assert!(told.contains(why), "{request:?}: {told}");
    }
    // A socket's file of root's.
    let roots = lab.folder().join("roots.sock");
    let _listener = UnixListener::bind(&roots).unwrap();
    let found = fs::metadata(&roots).unwrap();
    let why = way.refused(
        &Request::Remove(roots.clone(), (found.dev(), found.ino())),
        &[],
    );
    assert!(why.contains(denied), "{why}");
    assert!(roots.exists());
    // No right of the user's is lent to others by what is made for him.
    let page = theirs.join("page");
    let made = Request::Replace {
        path: page.clone(),
        contents: String::new(),
        how: How {
            mode: 0o6755,
            links: Links::Refuse,
        },
    };
    assert_eq!(way.ask(&made).0, Answer::Done);
    assert_eq!(fs::metadata(&page).unwrap().mode() & 0o7777, 0o755);
    // A configuration that is the user's gives nothing of root's.
    let text = fs::read_to_string(&config).unwrap();
    let text = text
        .replace("a.test.pem", "ca.key")
        .replace("\"80\"", "\"81\"");
    fs::write(&config, text).unwrap();
    let owner = fs::metadata(&theirs).unwrap().uid();
    chown(&config, Some(owner), None).unwrap();
    assert_eq!(way.ask(&Request::Configuration).0, Answer::Done);
    let secret = lab.folder().join("authority/ca.key");
    for request in [Request::Read(secret.clone()), tcp("[::]:81")] {
        let why = way.refused(&request, &[]);
        assert!(why.contains(denied), "{request:?}: {why}");
    }
    assert!(
        pen.process
            .output()
            .contains("others than root may write it")
    );
    chown(&config, Some(0), None).unwrap();
    assert_eq!(way.ask(&Request::Configuration).0, Answer::Done);
    for request in [Request::Read(secret), tcp("[::]:81")] {
        let (answer, given) = way.ask(&request);
        assert!(!given.is_empty(), "{request:?}: {answer:?}");
    }
    // What the user may have anyway.
    let (answer, socket) = way.ask(&tcp("127.0.0.1:8080"));
    assert!(
        matches!(answer, Answer::Bound(_)) && !socket.is_empty(),
        "{answer:?}"
    );
    // It was nothing to those who serve.
    drop(socket);
    way.let_go();
    let url = format!("https://{}:80/", addresses()[0]);
    let page = lab.client().run_ok("curl", ["-sSkm", "9", &url]).unwrap();
    assert!(page.stdout.starts_with("be0"), "{}", page.text());
    pen.stop();
}

/// Neither goes on without the other, and what the service manager knows of them is true.
#[test]
fn a_keeper_and_the_one_that_serves_end_together() {
    if !lab::ready("a_keeper_and_the_one_that_serves_end_together") {
        return;
    }
    let lab = lab(1);
    folder(&lab);
    let words = ["-u", "nobody", "80", &server(0)];
    let gone = |pid: u32| {
        // What nobody waits for stays as a name.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    };
    for killed in [true, false] {
        let mut pen = Pen::start(&lab, &words);
        let serving = serving(&pen);
        lab.balancer()
            .run_ok("kill", ["-KILL", &serving.to_string()])
            .unwrap();
        let status = pen.process.wait(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(1), "{}", pen.process.output());
        let said = pen.process.output();
        assert!(
            said.contains("the process that serves was ended by SIGKILL"),
            "{said}"
        );
        assert!(!pen.control.with_file_name("pid").exists());

        // TERM to the one that serves is as good as to the other.
        let pen = Pen::start(&lab, &words);
        let serving = self::serving(&pen);
        if killed {
            pen.process.signal(Signal::Kill).unwrap();
            wait_for("the end of the one that serves", || gone(serving));
        } else {
            lab.balancer()
                .run_ok("kill", [&serving.to_string()])
                .unwrap();
            pen.stopped();
        }
    }
    // What is no request ends both.
    let mut pen = Pen::start(&lab, &words);
    let serving = serving(&pen);
    (&Way::to(pen.process.id()).stream)
        .write_all(b"\x04\0\0\0nope")
        .unwrap();
    let status = pen.process.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(2), "{}", pen.process.output());
    assert!(gone(serving));
    assert!(
        pen.process.output().contains("is no request"),
        "{}",
        pen.process.output()
    );
}

/// In the background it is the keeper who is known, to its pid file and to who waits for it.
#[test]
fn in_the_background_the_keeper_is_the_daemon() {
    if !lab::ready("in_the_background_the_keeper_is_the_daemon") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let control = folder(&lab).join("control").display().to_string();
    let pid_file = lab.folder().join("pid");
    let pen = env!("CARGO_BIN_EXE_pen");
    let pid_word = pid_file.display().to_string();
    let words = [
        "-u",
        "nobody",
        "-C",
        &control,
        "-p",
        &pid_word,
        "80",
        &server(0),
    ];
    let output = lab.balancer().run(pen, words).unwrap();
    assert_eq!((output.status.code(), &*output.text()), (Some(0), ""));
    assert_eq!(answerers(&lab, addresses()[0], 1), ["be0"]);
    let pid = fs::read_to_string(&pid_file).unwrap();
    let uid = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    assert_eq!(uid, 0);
    // A second one is refused before it begins.
    let output = lab.balancer().run(pen, words).unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", output.text());
    assert!(
        output.text().contains(&format!("that of process {pid}")),
        "{}",
        output.text()
    );
    lab.balancer().run_ok("kill", [&pid]).unwrap();
    wait_for("the daemon's end", || !pid_file.exists());
    wait_for("its socket's end", || !Path::new(&control).exists());
}

/// The manager hears none but the process that it started, and hands its sockets to that one.
#[test]
fn the_service_manager_knows_the_keeper() {
    if !lab::ready("the_service_manager_knows_the_keeper") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    folder(&lab);
    let path = lab.folder().join("notify").display().to_string();
    let script = format!(
        "import socket as s, struct\n\
         l = s.socket(s.AF_UNIX, s.SOCK_DGRAM); l.setsockopt(s.SOL_SOCKET, s.SO_PASSCRED, 1)\n\
         l.bind('{path}'); print('ready', flush=True)\n\
         while True:\n\
         \x20b, more, _, _ = l.recvmsg(65536, 4096)\n\
         \x20print(struct.unpack('3i', more[0][2])[0], '|'.join(b.decode().splitlines()), flush=True)\n"
    );
    let manager = python::start(lab.balancer(), &script);
    let by = [
        "python3",
        "-c",
        "import socket as s, os, sys\n\
         l = s.socket(s.AF_INET6); l.setsockopt(s.IPPROTO_IPV6, s.IPV6_V6ONLY, 0)\n\
         l.bind(('::', 80)); l.listen(9)\n\
         os.dup2(os.dup2(l.fileno(), 100), 3)\n\
         pid = str(os.getpid())\n\
         os.environ.update(LISTEN_FDS='1', LISTEN_PID=pid, LISTEN_FDNAMES='web', NOTIFY_SOCKET=sys.argv[1],\n\
         \x20WATCHDOG_USEC='600000', WATCHDOG_PID=pid)\n\
         os.execvp(sys.argv[2], sys.argv[2:])\n",
        &path,
    ];
    let pen = Pen::start_by(&lab, &by, &["-u", "nobody", "80", &server(0)]);
    let keeper = pen.process.id();
    let limit = Duration::from_secs(15);
    manager.wait_for_line("WATCHDOG=1", limit).unwrap();
    // It was there before Pen, which listens nowhere else.
    let listening = lab
        .balancer()
        .run_ok("ss", ["-ltnHe", "sport = :80"])
        .unwrap();
    assert_eq!(listening.stdout.lines().count(), 1, "{}", listening.stdout);
    for address in addresses() {
        assert_eq!(answerers(&lab, address, 1), ["be0"]);
    }
    pen.process.signal(Signal::Hup).unwrap();
    manager.wait_for_line("RELOADING=1", limit).unwrap();
    pen.stop();
    manager.wait_for_line("STOPPING=1", limit).unwrap();
    let heard = manager.output();
    let from = |line: &&str| !line.starts_with(&format!("{keeper} ")) && *line != "ready";
    assert_eq!(heard.lines().find(from), None, "{heard}");
    assert!(
        heard.contains(&format!("{keeper} READY=1|STATUS=serving ")),
        "{heard}"
    );
}

/// Files that Pen writes, and the socket that it listens at, are the user's.
#[test]
fn logs_and_sockets_are_the_users() {
    if !lab::ready("logs_and_sockets_are_the_users") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let own = folder(&lab);
    let at = |name: &str| own.join(name).display().to_string();
    let (log, page, socket) = (at("access"), at("page.html"), at("front"));
    let back = format!("{}:80", server(0));
    let words = ["-u", "nobody", "-H", "-l", &log, "-w", &page, "80", &back];
    let pen = Pen::start(&lab, &words);
    assert_eq!(answerers(&lab, addresses()[0], 1), ["be0"]);
    let lines = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    wait_for("a line", || lines() == 1);
    fs::rename(&log, at("old")).unwrap();
    pen.process.signal(Signal::Hup).unwrap();
    wait_for("the new log", || Path::new(&log).exists());
    assert_eq!(answerers(&lab, addresses()[0], 1), ["be0"]);
    wait_for("a line in it", || lines() == 1);
    pen.process.signal(Signal::Usr1).unwrap();
    wait_for("the page", || Path::new(&page).exists());
    pen.change(&format!("listen {socket}"));
    let words = ["-sSm", "9", "--unix-socket", &socket, "http://front/"];
    let answer = lab.balancer().run_ok("curl", words).unwrap().stdout;
    assert!(answer.starts_with("be0"), "{answer}");
    let owner = fs::metadata(&own).unwrap().uid();
    let pid = pen.control.with_file_name("pid").display().to_string();
    for file in [&log, &page, &socket, &pid] {
        assert_eq!(fs::symlink_metadata(file).unwrap().uid(), owner, "{file}");
    }
    pen.stop();
    assert!(!Path::new(&socket).exists());
}
