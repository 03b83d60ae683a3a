//! What the process that serves as another user can't do, tried by one that is confined as it is.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    env,
    fs::{self, File, Permissions},
    io,
    net::{TcpListener, TcpStream, ToSocketAddrs},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixListener,
    },
    path::PathBuf,
    process::Command,
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        ptrace,
        signal::kill,
        socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
    },
    unistd::{Pid, User, execv, getppid, setuid},
};
use rustix::process::{Resource, getrlimit, prlimit};
use socket2::{Domain, Socket, Type};

use pen::{
    confinement::{Whom, confine},
    privileges::give_up_root,
};

/// What that one says where the kernel can't keep it from files.
const UNCONFINED: &str = "no Landlock";
/// Names to this program the folder of what it is to try.
const TRY: &str = "PEN_TEST_TRY";
/// And whether it has workers of an interface.
const WORKERS: &str = "PEN_TEST_WORKERS";

fn shown<T>(result: io::Result<T>) -> &'static str {
    match result {
        Ok(_) => "done",
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM) => "EPERM",
            Some(libc::EACCES) => "EACCES",
            Some(libc::ENOSYS) => "ENOSYS",
            _ => "another error",
        },
    }
}

fn unsure<T>(result: nix::Result<T>) -> io::Result<T> {
    result.map_err(io::Error::from)
}

/// Confines this thread, and tries. In order: what, and what is to come of it.
fn try_all(folder: &PathBuf, whom: Whom) -> Vec<(&'static str, &'static str, &'static str)> {
    let own = folder.join("own");
    let namespace = File::open("/proc/self/ns/net").unwrap();
    let (family, stream) = (AddressFamily::Packet, SockType::Raw);
    give_up_root("nobody").unwrap();
    let confined = confine(whom).unwrap();
    if !confined.from_files {
        println!("{UNCONFINED}");
        return Vec::new();
    }
    // Who answers calls for AF_XDP sockets is not there: nobody has one without that.
    drop(confined.sockets);
    let open = |path: PathBuf| shown(File::open(path));
    let packet = socket(family, stream, SockFlag::empty(), None);
    let raw = socket(
        AddressFamily::Inet,
        stream,
        SockFlag::empty(),
        SockProtocol::Icmp,
    );
    let xdp = Socket::new(Domain::from(libc::AF_XDP), Type::from(libc::SOCK_RAW), None);
    let without_keeper = match whom {
        Whom::Proxy => "EPERM",
        Whom::DataPlane { .. } => "ENOSYS",
    };
    let listener = TcpListener::bind(("127.0.0.1", 0));
    let address = listener.as_ref().unwrap().local_addr().unwrap();
    let object = aya::Ebpf::load(include_bytes!("../bpf/pen.o")).map_err(|_| "not loaded");
    let parent = rustix::process::Pid::from_raw(getppid().as_raw());
    let limit = getrlimit(Resource::Nofile);
    let nothing = None::<&str>;
    let list = c"/bin/true";
    vec![
        // What it is there for.
        ("listen above 1024", "done", shown(listener)),
        (
            "connect",
            "another error",
            shown(TcpStream::connect(address)),
        ),
        (
            "look up a name",
            "done",
            shown(("localhost", 1).to_socket_addrs()),
        ),
        (
            "start a thread",
            "done",
            shown(thread::Builder::new().spawn(|| ())),
        ),
        // What everybody may read and write, and nobody needs.
        ("read a file", "EACCES", open(folder.join("readable"))),
        ("read a secret", "EACCES", open("/etc/shadow".into())),
        (
            "write a file",
            "EACCES",
            shown(File::create(folder.join("open/file"))),
        ),
        (
            "make a socket",
            "EACCES",
            shown(UnixListener::bind(own.join("socket"))),
        ),
        (
            "remove a file",
            "EPERM",
            shown(fs::remove_file(own.join("file"))),
        ),
        ("list a folder", "EACCES", shown(fs::read_dir(folder))),
        (
            "make a link",
            "EPERM",
            shown(std::os::unix::fs::symlink("/etc", own.join("link"))),
        ),
        // Other programs, and other processes.
        (
            "become another program",
            "EPERM",
            shown(unsure(execv(list, &[list]))),
        ),
        (
            "start another program",
            "EPERM",
            shown(Command::new("/bin/true").spawn()),
        ),
        (
            "trace its parent",
            "EPERM",
            shown(unsure(ptrace::attach(getppid()))),
        ),
        (
            "signal its parent",
            "EPERM",
            shown(unsure(kill(getppid(), None))),
        ),
        (
            "signal itself",
            "EPERM",
            shown(unsure(kill(Pid::this(), None))),
        ),
        (
            "limit its parent",
            "EPERM",
            shown(prlimit(parent, Resource::Nofile, limit).map_err(io::Error::from)),
        ),
        // What root does.
        ("be root", "EPERM", shown(unsure(setuid(0.into())))),
        (
            "be root elsewhere",
            "EPERM",
            shown(unsure(unshare(CloneFlags::CLONE_NEWUSER))),
        ),
        (
            "go elsewhere",
            "EPERM",
            shown(unsure(setns(namespace, CloneFlags::CLONE_NEWNET))),
        ),
        (
            "mount",
            "EPERM",
            shown(unsure(mount(
                nothing,
                "/mnt",
                Some("tmpfs"),
                MsFlags::empty(),
                nothing,
            ))),
        ),
        (
            "listen below 1024",
            "EACCES",
            shown(TcpListener::bind(("127.0.0.1", 81))),
        ),
        ("hear all packets", "EPERM", shown(unsure(packet))),
        ("have a queue's packets", without_keeper, shown(xdp)),
        ("send any packet", "EPERM", shown(unsure(raw))),
        (
            "load a program",
            "not loaded",
            object.map_or_else(|why| why, |_| "loaded"),
        ),
    ]
}

#[test]
fn a_confined_process_serves_and_does_nothing_else() {
    if let Some(folder) = env::var_os(TRY) {
        let folder = PathBuf::from(folder);
        let whom = match env::var_os(WORKERS) {
            Some(_) => Whom::DataPlane { workers: true },
            None => Whom::Proxy,
        };
        let wrong: Vec<_> = try_all(&folder, whom)
            .into_iter()
            .filter(|(_, expected, found)| expected != found)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        println!("all was tried");
        return;
    }
    if !lab::ready("a_confined_process_serves_and_does_nothing_else") {
        return;
    }
    let folder = env::temp_dir().join(format!("pen-confined-{}", std::process::id()));
    for inner in ["own", "open"] {
        fs::create_dir_all(folder.join(inner)).unwrap();
    }
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(folder.join("open"), Permissions::from_mode(0o777)).unwrap();
    fs::write(folder.join("readable"), "anybody's").unwrap();
    fs::write(folder.join("own/file"), "the user's").unwrap();
    fs::set_permissions(folder.join("readable"), Permissions::from_mode(0o644)).unwrap();
    let user = User::from_name("nobody").unwrap().unwrap();
    chown(folder.join("own"), Some(user.uid.as_raw()), None).unwrap();
    for workers in [None, Some((WORKERS, "1"))] {
        // In a process of its own: what is given up here does not come back.
        let output = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "a_confined_process_serves_and_does_nothing_else",
                "--nocapture",
            ])
            .env(TRY, &folder)
            .envs(workers)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if said.contains(UNCONFINED) {
            fs::remove_dir_all(&folder).unwrap();
            return lab::skip(
                "a_confined_process_serves_and_does_nothing_else",
                "Landlock",
            );
        }
        assert!(
            output.status.success() && said.contains("all was tried"),
            "{workers:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    fs::remove_dir_all(&folder).unwrap();
}
