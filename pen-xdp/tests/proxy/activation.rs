//! Sockets that a service manager opens and hands over (sd_listen_fds(3)). Another program stands for
//! the manager: it holds them while Pen comes and goes.

use std::{fs, path::PathBuf, time::Duration};

use lab::{Lab, Nginx, Process, Signal, Station};

use crate::python;
use crate::rig::{Pen, addresses, lab, server, wait_for};
use crate::udp;

const LIMIT: Duration = Duration::from_secs(15);

/// Opens sockets and gives them to everyone who asks at a path.
const MANAGER: &str = "
import socket as s, sys
def tcp(host, port, only=0, reuse=0):
 l = s.socket(s.AF_INET6 if ':' in host else s.AF_INET, s.SOCK_STREAM)
 if ':' in host: l.setsockopt(s.IPPROTO_IPV6, s.IPV6_V6ONLY, only)
 l.setsockopt(s.SOL_SOCKET, s.SO_REUSEPORT, reuse)
 l.bind((host, port)); l.listen(9)
 return l
def udp(host, port, reuse=0):
 l = s.socket(s.AF_INET6 if ':' in host else s.AF_INET, s.SOCK_DGRAM)
 if ':' in host: l.setsockopt(s.IPPROTO_IPV6, s.IPV6_V6ONLY, 0)
 l.setsockopt(s.SOL_SOCKET, s.SO_REUSEPORT, reuse)
 l.bind((host, port))
 return l
def unix(path):
 l = s.socket(s.AF_UNIX); l.bind(path); l.listen(9)
 return l
def tcp_pair():
 l = tcp('::1', 999); c = s.create_connection(('::1', 999)); kept.append(c)
 return l.accept()[0]
kept = []
";

/// Asks for them, and becomes the program that its other words name.
const HAND_OVER: &str = "
import socket as s, os, sys
c = s.socket(s.AF_UNIX); c.connect(sys.argv[1])
names, fds, _, _ = s.recv_fds(c, 4096, 20)
fds = [os.dup2(fd, 100 + at) for at, fd in enumerate(fds)]
for at, fd in enumerate(fds): os.dup2(fd, 3 + at)
os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names.decode())
os.execvp(sys.argv[2], sys.argv[2:])
";

struct Manager {
    process: Process,
    path: String,
}

impl Manager {
    /// Holds these sockets, an expression each, by these names.
    fn start(lab: &Lab, sockets: &str, names: &str) -> Self {
        let path = lab.folder().join("manager").display().to_string();
        let _ = fs::remove_file(&path);
        let script = format!(
            "{MANAGER}\n\
             sockets = [{sockets}]\n\
             l = unix('{path}')\n\
             print('ready', flush=True)\n\
             while True:\n\
             \x20s.send_fds(l.accept()[0], [b'{names}'], [one.fileno() for one in sockets])\n"
        );
        Self {
            process: python::start(lab.balancer(), &script),
            path,
        }
    }

    /// The words that hand the sockets to what comes behind them.
    fn by(&self) -> [&str; 4] {
        ["python3", "-c", HAND_OVER, &self.path]
    }

    fn stop(mut self) {
        self.process.stop(Signal::Term, LIMIT).unwrap();
    }
}

/// What Pen says when it does not start with these sockets.
fn refused(lab: &Lab, sockets: &str, words: &[&str]) -> String {
    let manager = Manager::start(lab, sockets, "one.socket:two.socket");
    let by = manager.by();
    let all = by[1..].iter().chain(&[env!("CARGO_BIN_EXE_pen"), "-f"]);
    let output = lab.balancer().run(by[0], all.chain(words)).unwrap();
    manager.stop();
    assert_eq!(output.status.code(), Some(2), "{}", output.text());
    output.text()
}

/// The file of services of each kind, and the path that one listens at.
fn configuration(lab: &Lab) -> (PathBuf, String) {
    let folder = lab.folder();
    let config = folder.join("pen.toml");
    let path = folder.join("web.sock").display().to_string();
    let own = Station::balancer(0);
    let text = format!(
        "[[service]]\nname = \"web\"\nmode = \"http\"\nlisten = [\"80\", \"{}:81\", {path:?}]\n\
         [[service]]\nname = \"dns\"\nmode = \"udp\"\nlisten = [\"{}:53\", \"[{}]:53\"]\n\
         [[pool]]\nname = \"web\"\nbackend = [\"{}:80\"]\n\
         [[pool]]\nname = \"dns\"\nbackend = [\"{}:53\"]\n",
        own.v4(),
        own.v4(),
        own.v6(),
        server(0),
        server(0),
    );
    fs::write(&config, text).unwrap();
    (config, path)
}

/// All but one are the manager's, and outlive Pen with those who wait in them.
#[test]
fn inherited_sockets_are_served_and_outlive_pen() {
    if !lab::ready("inherited_sockets_are_served_and_outlive_pen") {
        return;
    }
    let lab = lab(1);
    let _web = Nginx::start_all(&lab, &[80]).unwrap();
    let _dns = udp::serve_all(&lab);
    let (config, path) = configuration(&lab);
    let own = Station::balancer(0);
    let sockets = format!(
        "tcp('::', 80), unix('{path}'), udp('{}', 53), udp('{}', 53, reuse=1)",
        own.v4(),
        own.v6()
    );
    let manager = Manager::start(&lab, &sockets, "web:web:dns:dns");
    let words = ["--config", config.to_str().unwrap()];
    let web = format!("http://{}/", own.v4());
    for _ in 0..2 {
        // Who comes before Pen is there waits for it.
        let early = ["-sS", "-m", "15", web.as_str()];
        let early = lab.client().spawn("curl", early).unwrap();
        wait_for("a client that waits", || {
            let waits = lab.balancer().run_ok("ss", ["-ltnH", "sport = :80"]);
            waits.unwrap().stdout.split_whitespace().nth(1) == Some("1")
        });
        let pen = Pen::start_by(&lab, &manager.by(), &words);
        early.wait_for_line("be0", LIMIT).unwrap();
        for (address, port) in addresses()
            .map(|a| (a, 80))
            .into_iter()
            .chain([(own.v4().into(), 81)])
        {
            let page = lab::fetch(lab.client(), address, port, "/").unwrap();
            assert!(page.starts_with("be0"), "{page}");
        }
        let by_path = ["-sS", "--unix-socket", &path, "http://web/"];
        let page = lab.balancer().run_ok("curl", by_path).unwrap().stdout;
        assert!(page.starts_with("be0"), "{page}");
        for address in addresses() {
            // Many flows: a thread that the kernel chose and that has no socket would be silent.
            let said = udp::client(
                &lab,
                address,
                "print(sum(ask(flow(), b'x')[0] == b'be0 x' for _ in range(32)))",
            );
            assert_eq!(said.trim(), "32", "{address}");
        }
        let sockets = |of: &str, port: &str| {
            let found = lab
                .balancer()
                .run_ok("ss", [of, &format!("sport = {port}")]);
            found.unwrap().stdout.lines().count()
        };
        assert_eq!(sockets("-ltnH", ":80"), 1);
        pen.stop();
        assert!(fs::exists(&path).unwrap(), "the manager's file is gone");
    }
    manager.stop();
}

#[test]
fn what_nobody_listens_at_is_refused_by_name() {
    if !lab::ready("what_nobody_listens_at_is_refused_by_name") {
        return;
    }
    let lab = lab(1);
    let proxy = ["80", &server(0)];
    let own = Station::balancer(0).v4();
    let text = refused(&lab, &format!("tcp('::', 80), tcp('{own}', 99)"), &proxy);
    let named = format!("{own}:99 (socket two.socket");
    assert!(text.contains(&named), "{text}");
    // TCP is not UDP.
    let text = refused(&lab, "udp('::', 80)", &proxy);
    assert!(text.contains("[::]:80/udp (socket one.socket"), "{text}");
    let text = refused(&lab, "tcp('::', 80, only=1)", &proxy);
    assert!(text.contains("BindIPv6Only=both"), "{text}");
    let text = refused(&lab, "tcp_pair()", &proxy);
    assert!(text.contains("Accept=no"), "{text}");
    let text = refused(&lab, "s.socket(s.AF_NETLINK, s.SOCK_RAW)", &proxy);
    assert!(text.contains("socket 0 (one.socket)"), "{text}");
}
