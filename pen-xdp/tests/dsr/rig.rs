//! One Pen in one lab: started, asked, stopped.

use std::{
    fs,
    io::{Read, Write},
    net::IpAddr,
    ops::Range,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use lab::{Lab, Namespace, Process, Signal};
use pen_common::control::{Counter, Envelope, Servers, Status};

/// Start, with back ends that may not answer and a machine that may be busy.
pub(crate) const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(15);

/// A running daemon.
pub(crate) struct Pen {
    pub(crate) process: Process,
    pub(crate) control: PathBuf,
    pub(crate) pid_file: PathBuf,
}

/// A service on all VIPs: `ports` as "PORT/PROTOCOL", back ends by number.
pub(crate) fn service(lab: &Lab, ports: &[&str], backends: usize) -> String {
    let listen: Vec<String> = lab
        .vips()
        .flat_map(|vip| {
            ports
                .iter()
                .map(move |port| format!("\"{}\"", listener(vip, port)))
        })
        .collect();
    let backends: Vec<String> = (0..backends)
        .map(|index| format!("\"{}\"", lab::Station::backend(index).v4()))
        .collect();
    format!(
        "[[service]]\nname = \"web\"\nlisten = [{}]\n[[pool]]\nname = \"web\"\nbackend = [{}]\n",
        listen.join(", "),
        backends.join(", ")
    )
}

fn listener(vip: IpAddr, port: &str) -> String {
    let (number, protocol) = port.split_once('/').unwrap();
    format!(
        "{}/{protocol}",
        lab::host_port(vip, number.parse().unwrap())
    )
}

impl Pen {
    /// Starts Pen on balancer `index` with these top-level lines and services.
    pub(crate) fn start_on(lab: &Lab, index: usize, top: &str, services: &str) -> Self {
        Self::start_at(lab, (index, "eth0"), top, services)
    }

    /// As [`Pen::start_on`], at an interface of this name.
    pub(crate) fn start_at(lab: &Lab, at: (usize, &str), top: &str, services: &str) -> Self {
        Self::launch(lab, at, top, services).ready()
    }

    /// As [`Pen::start_at`], without waiting until it serves.
    pub(crate) fn launch(
        lab: &Lab,
        (index, interface): (usize, &str),
        top: &str,
        services: &str,
    ) -> Self {
        Self::launch_by(lab, (index, interface), &[], &format!("{top}\n{services}"))
    }

    /// As [`Pen::start`], in a mount namespace where `file` is to be found at `place`.
    pub(crate) fn start_with(lab: &Lab, file: &Path, place: &str, services: &str) -> Self {
        let script = format!("mount --bind \"$0\" {place} && exec \"$@\"");
        let by = ["sh", "-c", &script, file.to_str().unwrap()];
        Self::launch_by(lab, (0, "eth0"), &by, services).ready()
    }

    /// As [`Pen::launch`], by a program that becomes the one that its last words name.
    pub(crate) fn launch_by(
        lab: &Lab,
        (index, interface): (usize, &str),
        by: &[&str],
        lines: &str,
    ) -> Self {
        let machine = &lab.balancers()[index];
        let folder = lab.folder().join(format!("pen{index}"));
        fs::create_dir_all(&folder).unwrap();
        let control = folder.join("control");
        let pid_file = folder.join("pid");
        let config = folder.join("pen.toml");
        let text = format!(
            "interface = {interface:?}\nforeground = true\ncontrol = {control:?}\npid_file = {pid_file:?}\n\
             bpffs = {:?}\nrun_dir = {:?}\n{lines}",
            lab.bpffs(),
            folder.join("run"),
        );
        fs::write(&config, text).unwrap();
        let pen = [
            env!("CARGO_BIN_EXE_pen"),
            "--config",
            config.to_str().unwrap(),
        ];
        let mut words = by.iter().chain(&pen);
        let program = words.next().unwrap();
        let process = machine.spawn(program, words).unwrap();
        Self {
            process,
            control,
            pid_file,
        }
    }

    /// As [`Pen::start_on`], on the first balancer.
    pub(crate) fn start(lab: &Lab, top: &str, services: &str) -> Self {
        Self::start_on(lab, 0, top, services)
    }

    /// Waits until it serves.
    pub(crate) fn ready(self) -> Self {
        if let Err(error) = self.process.wait_for_line("serving", START) {
            panic!("{error:#}\n{}", self.process.output());
        }
        self
    }

    /// The answer to one command.
    pub(crate) fn ask(&self, command: &str) -> Envelope {
        ask(&self.control, command)
    }

    /// A change that must be applied; on return it is in force.
    pub(crate) fn change(&self, command: &str) -> u64 {
        let answer = self.ask(command);
        assert!(answer.ok, "{command}: {:?}", answer.refusal);
        answer.generation
    }

    pub(crate) fn status(&self) -> Status {
        serde_json::from_value(self.ask("status").value.unwrap()).unwrap()
    }

    /// The status when nothing more is under way: clients have their answers before the last of their
    /// own frames has passed, and a frame is redirected before a worker forwards it.
    pub(crate) fn settled(&self) -> Status {
        let frames = |status: &Status| {
            let each = status.dsr().counters.iter();
            each.map(|counter| counter.count).sum::<u64>()
        };
        let mut last = self.status();
        for _ in 0..50 {
            thread::sleep(Duration::from_millis(100));
            let now = self.status();
            if frames(&now) == frames(&last) {
                return now;
            }
            last = now;
        }
        panic!("frames come without an end: {last:?}");
    }

    pub(crate) fn servers(&self) -> Servers {
        serde_json::from_value(self.ask("servers").value.unwrap()).unwrap()
    }

    /// How often a reason was met.
    pub(crate) fn count(&self, reason: &str) -> u64 {
        let counters: Vec<Counter> =
            serde_json::from_value(self.ask("counters").value.unwrap()).unwrap();
        let found = counters.iter().find(|counter| counter.reason == reason);
        found
            .unwrap_or_else(|| panic!("there is no reason {reason}"))
            .count
    }

    /// Stops it in order; it must end well and leave nothing.
    pub(crate) fn stop(mut self, lab: &Lab, machine: &Namespace) {
        let status = self.process.stop(Signal::Term, STOP).unwrap();
        assert!(status.success(), "{status}: {}", self.process.output());
        assert_nothing_left(lab, machine);
        assert!(!self.control.exists() && !self.pid_file.exists());
    }
}

/// The answer to one command on a control socket.
pub(crate) fn ask(control: &Path, command: &str) -> Envelope {
    let mut stream = UnixStream::connect(control).unwrap();
    stream.set_read_timeout(Some(START)).unwrap();
    stream
        .write_all(format!("json {command}\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

/// No program on the interface, no pin, no setting of ours.
pub(crate) fn assert_nothing_left(lab: &Lab, machine: &Namespace) {
    let link = machine
        .run_ok("ip", ["-d", "link", "show", "eth0"])
        .unwrap()
        .stdout;
    assert!(!link.contains("xdp"), "{link}");
    assert!(!lab.bpffs().join("pen").exists());
    let knobs = ["napi_defer_hard_irqs", "gro_flush_timeout"];
    for knob in knobs {
        let path = format!("/sys/class/net/eth0/{knob}");
        assert_eq!(
            machine
                .run_ok("cat", [path.as_str()])
                .unwrap()
                .stdout
                .trim(),
            "0",
            "{knob}"
        );
    }
}

/// Which back end answers, for each of these ports of the client.
pub(crate) fn answerers(lab: &Lab, vip: IpAddr, ports: Range<u16>) -> Vec<String> {
    let (family, first, end) = (if vip.is_ipv4() { "" } else { "6" }, ports.start, ports.end);
    let script = format!(
        "import socket\n\
         for port in range({first}, {end}):\n\
         \x20 s = socket.socket(socket.AF_INET{family}, socket.SOCK_DGRAM)\n\
         \x20 s.settimeout(5)\n\
         \x20 s.bind(('', port))\n\
         \x20 s.sendto(b'?', ('{vip}', 5353))\n\
         \x20 print(s.recv(100).split()[0].decode())\n"
    );
    let output = lab.client().run_ok("python3", ["-c", &script]).unwrap();
    output.stdout.lines().map(str::to_owned).collect()
}
