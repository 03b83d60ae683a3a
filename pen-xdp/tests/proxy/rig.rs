//! One Pen in one lab, started by a command line.

use std::{
    fs,
    io::{Read, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use lab::{Lab, Process, Signal, Station};
use pen_common::control::{Envelope, ProxyStatus, ServerStatus, Servers, Status};

const START: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(15);
/// Within this a file that was written is in force, on a busy machine too. Without word from the
/// kernel it takes a minute.
const EFFECT: Duration = Duration::from_secs(10);
/// Where every test listens unless it says otherwise.
pub(crate) const PORT: u16 = 80;

/// A running daemon.
pub(crate) struct Pen {
    pub(crate) process: Process,
    pub(crate) control: PathBuf,
    pid_file: PathBuf,
}

/// A lab with so many back ends.
pub(crate) fn lab(backends: usize) -> Lab {
    Lab::builder().backends(backends).build().unwrap()
}

/// Waits until somebody listens at this port of a back end: who comes before has Pen pass the server
/// by for longer than any test waits.
pub(crate) fn wait_until_listening(lab: &Lab, index: usize, port: u16) {
    let listens = format!("ss -Hltn sport = :{port} | grep -q .");
    wait_for("the server to listen", || {
        let looked = lab.backend(index).run("sh", ["-c", &listens]);
        looked.unwrap().ok()
    });
}

/// Back end `index` as a word of the command line.
pub(crate) fn server(index: usize) -> String {
    Station::backend(index).v4().to_string()
}

/// Pen's address of each family.
pub(crate) fn addresses() -> [IpAddr; 2] {
    Station::balancer(0).addresses()
}

impl Pen {
    /// Starts `pen -f WORDS` on the balancer and waits until it serves.
    pub(crate) fn start(lab: &Lab, words: &[&str]) -> Self {
        Self::start_by(lab, &[], words)
    }

    /// As [`Pen::start`], with so many open files allowed.
    pub(crate) fn start_limited(lab: &Lab, files: u32, words: &[&str]) -> Self {
        let limit = format!("--nofile={files}:{files}");
        Self::start_by(lab, &["prlimit", &limit], words)
    }

    /// As [`Pen::start`], in a mount namespace where `file` is to be found at `place`.
    pub(crate) fn start_with(lab: &Lab, file: &Path, place: &str, words: &[&str]) -> Self {
        let script = format!("mount --bind \"$0\" {place} && exec \"$@\"");
        Self::start_by(lab, &["sh", "-c", &script, file.to_str().unwrap()], words)
    }

    /// As [`Pen::start`], by a program that becomes the one that its last words name.
    pub(crate) fn start_by(lab: &Lab, by: &[&str], words: &[&str]) -> Self {
        let folder = lab.folder().join("pen");
        fs::create_dir_all(&folder).unwrap();
        let (control, pid_file) = (folder.join("control"), folder.join("pid"));
        let own = [
            "-f",
            "-C",
            control.to_str().unwrap(),
            "-p",
            pid_file.to_str().unwrap(),
        ];
        let all = by.iter().chain(&[env!("CARGO_BIN_EXE_pen")]).chain(&own);
        let mut all = all.chain(words);
        let program = all.next().unwrap();
        let process = lab.balancer().spawn(program, all).unwrap();
        process.wait_for_line("serving", START).unwrap();
        Self {
            process,
            control,
            pid_file,
        }
    }

    /// Starts `pen -f --config FILE`, which names this control socket.
    pub(crate) fn start_file(lab: &Lab, config: &Path, control: &Path) -> Self {
        let pid_file = lab.folder().join("pid");
        let words = [
            "-f",
            "-p",
            pid_file.to_str().unwrap(),
            "--config",
            config.to_str().unwrap(),
        ];
        let pen = env!("CARGO_BIN_EXE_pen");
        let process = lab.balancer().spawn(pen, words).unwrap();
        process.wait_for_line("serving", START).unwrap();
        Self {
            process,
            control: control.to_owned(),
            pid_file,
        }
    }

    /// The answer to one command, as text.
    pub(crate) fn say(&self, line: &str) -> String {
        say(&self.control, line)
    }

    /// The answer to one command.
    pub(crate) fn ask(&self, command: &str) -> Envelope {
        serde_json::from_str(&self.say(&format!("json {command}"))).unwrap()
    }

    /// A change that must be applied.
    pub(crate) fn change(&self, command: &str) -> u64 {
        let answer = self.ask(command);
        assert!(answer.ok, "{command}: {:?}", answer.refusal);
        answer.generation
    }

    pub(crate) fn status(&self) -> Status {
        serde_json::from_value(self.ask("status").value.unwrap()).unwrap()
    }

    /// The one service.
    pub(crate) fn service(&self) -> ProxyStatus {
        self.status().proxy.remove(0)
    }

    /// How many clients were not served for this reason.
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        let refused = self.service().refused;
        let found = refused.iter().find(|counter| counter.reason == reason);
        found
            .unwrap_or_else(|| panic!("there is no reason {reason}: {refused:?}"))
            .count
    }

    pub(crate) fn servers(&self) -> Vec<ServerStatus> {
        let servers: Servers = serde_json::from_value(self.ask("servers").value.unwrap()).unwrap();
        servers.pools.into_iter().next().unwrap().servers
    }

    /// Waits until nobody is connected any more.
    pub(crate) fn wait_until_idle(&self) {
        wait_for("all connections to end", || {
            let service = self.service();
            service.connections == 0 && service.servers.iter().all(|server| server.conn == 0)
        });
    }

    /// Open descriptors of the daemon.
    pub(crate) fn descriptors(&self) -> usize {
        // The daemon ends its answer a moment before it closes that connection.
        std::thread::sleep(Duration::from_millis(200));
        fs::read_dir(format!("/proc/{}/fd", self.process.id()))
            .unwrap()
            .count()
    }

    /// Waits until it has no more than so many. What a client sees the end of may be closed a moment
    /// later.
    pub(crate) fn gives_back_all_but(&self, descriptors: usize) {
        wait_for("descriptors to be given back", || {
            self.descriptors() <= descriptors
        });
    }

    /// Memory of the daemon that is really there, KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// CPU seconds that the daemon has used.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        // utime and stime, in the ticks of a hundredth that Linux tells (proc(5)).
        let ticks: u64 = fields[11..13]
            .iter()
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        ticks as f64 / 100.0
    }

    /// Nothing is done for a second in which nobody wants anything; the first one may see the rest of
    /// what was wanted before.
    pub(crate) fn rests(&self) {
        let second = || {
            let before = self.cpu_seconds();
            std::thread::sleep(Duration::from_secs(1));
            self.cpu_seconds() - before
        };
        let used = [second(), second()];
        assert!(used[1] < 0.1, "{used:?} CPU seconds for nothing");
    }

    /// Stops it in order; it must end well and leave nothing.
    pub(crate) fn stop(self) {
        if self.process.is_running() {
            self.process.signal(Signal::Term).unwrap();
        }
        self.stopped();
    }

    /// It was told to stop: it must end well and leave nothing.
    pub(crate) fn stopped(mut self) {
        let status = self.process.wait(STOP).unwrap();
        assert!(status.success(), "{status}: {}", self.process.output());
        assert!(!self.control.exists() && !self.pid_file.exists());
    }
}

/// What the daemon at this control socket answers to one line.
pub(crate) fn say(control: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(control).unwrap();
    stream.set_read_timeout(Some(START)).unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Waits until `done`, at most some seconds.
#[track_caller]
pub(crate) fn wait_for(what: &str, done: impl FnMut() -> bool) {
    wait(what, done, START, Duration::from_millis(20));
}

/// Waits until a file that was written is in force.
#[track_caller]
pub(crate) fn wait_for_file(what: &str, done: impl FnMut() -> bool) {
    wait(what, done, EFFECT, Duration::from_millis(50));
}

#[track_caller]
fn wait(what: &str, mut done: impl FnMut() -> bool, most: Duration, pause: Duration) {
    let end = Instant::now() + most;
    while !done() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(pause);
    }
}

/// Who answers each of `count` new connections of the client, `be0` and so on; a client that is
/// not answered is `-`.
pub(crate) fn answerers(lab: &Lab, address: IpAddr, count: usize) -> Vec<String> {
    let one = || match lab::fetch(lab.client(), address, PORT, "/") {
        Ok(page) => page.split(' ').next().unwrap().to_owned(),
        Err(_) => "-".to_owned(),
    };
    (0..count).map(|_| one()).collect()
}
