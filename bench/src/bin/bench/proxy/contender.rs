//! The proxies that are measured, configured alike: one thread on one core, one server, taken in
//! turn, TCP_NODELAY, no log. All run from the start to the end; who has no load sleeps.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, str, thread};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Namespace, Process};

use super::usage;
use crate::debian::DebianPen;

const START_LIMIT: Duration = Duration::from_secs(15);
/// Where the back end listens; ports of the proxies follow.
const SERVER_PORT: u16 = 8000;
/// Ports of connections: none that somebody listens on.
const PORT_RANGE: &str = "net.ipv4.ip_local_port_range=10000 65535";
/// Connections that a proxy must be ready for.
pub(crate) const CLIENTS_MAX: u32 = 12_000;
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A proxy and its mode. A mode of its own (HTTP, say) is a contender of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    Pen,
    Haproxy,
    /// HAProxy that splices each byte, both ways.
    HaproxySplice,
    Nginx,
    DebianPen,
}

impl Contender {
    /// Its program, with its version.
    pub(crate) fn name(self) -> String {
        let version = match self {
            Self::Pen => return "Pen".into(),
            Self::Haproxy | Self::HaproxySplice => version_of("haproxy", "version "),
            Self::Nginx => version_of("nginx", "nginx/"),
            Self::DebianPen => return "Debian's pen".into(),
        };
        match self {
            Self::HaproxySplice => format!("HAProxy {version}, forced splice"),
            Self::Nginx => format!("nginx {version}"),
            Self::Pen | Self::Haproxy | Self::DebianPen => format!("HAProxy {version}"),
        }
    }
}

/// The version that a program tells after `mark`, without Debian's part.
fn version_of(program: &str, mark: &str) -> String {
    let output = Command::new(program).arg("-v").output();
    let text = output.map_or_else(
        |_| String::new(),
        |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr)
        },
    );
    version_in(&text, mark)
        .unwrap_or("of unknown version")
        .to_owned()
}

fn version_in<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(mark)?;
    let end = after.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let version = &after[..end.unwrap_or(after.len())];
    (!version.is_empty()).then_some(version)
}

/// Where everything runs: one namespace, over loopback.
#[derive(Debug)]
pub(crate) struct Site {
    lab: Lab,
    own: PathBuf,
    /// Cores of load and back end.
    pub(crate) load_cores: Vec<usize>,
    /// The proxies' core.
    proxy_core: usize,
    ports: AtomicU16,
    server: Option<Process>,
}

/// A proxy in place; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) contender: Contender,
    pub(crate) port: u16,
    process: Process,
}

impl Proxy {
    /// CPU-seconds of its threads until now.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        usage::cpu_seconds(self.process.id()).with_context(|| self.fate())
    }

    /// Memory that is really there, KiB.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        usage::resident_kib(self.process.id()).with_context(|| self.fate())
    }

    fn fate(&self) -> String {
        let name = self.contender.name();
        format!("{name} has printed:\n{}", self.process.output())
    }
}

impl Site {
    /// Builds a lab and starts the back end in it: proxies on one core, everything else on the
    /// first, or on all others where there are more than two.
    pub(crate) fn build(cores: usize) -> Result<Self> {
        let lab = Lab::builder().backends(1).build();
        let mut site = Self {
            lab: lab.context("building a lab")?,
            own: env::current_exe().context("finding the running program")?,
            load_cores: vec![0],
            proxy_core: 1,
            ports: AtomicU16::new(SERVER_PORT + 1),
            server: None,
        };
        ensure!(cores >= 2, "measuring takes 2 cores");
        site.machine().sysctl(&[PORT_RANGE])?;
        site.server = Some(site.serve(SERVER_PORT)?);
        Ok(site)
    }

    /// The same place with another back end, on these cores, as many threads as cores.
    pub(crate) fn with_load_on(mut self, cores: Vec<usize>) -> Result<Self> {
        self.server = None;
        self.load_cores = cores;
        self.server = Some(self.serve(SERVER_PORT)?);
        Ok(self)
    }

    fn serve(&self, port: u16) -> Result<Process> {
        let (port, threads) = (port.to_string(), self.load_cores.len().to_string());
        let words = ["serve", "--port", &port, "--threads", &threads];
        let command = self.on_load_cores(&self.own, words.map(String::from).to_vec());
        let process = self.machine().spawn_command(command, "server")?;
        process.wait_for_line("ready", START_LIMIT)?;
        Ok(process)
    }

    /// The machine in which all of it is.
    pub(crate) fn machine(&self) -> &Namespace {
        self.lab.balancer()
    }

    /// Where the back end itself listens.
    pub(crate) fn direct(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, SERVER_PORT))
    }

    /// A program that loads, on the cores for that.
    pub(crate) fn on_load_cores(&self, program: &Path, words: Vec<String>) -> Command {
        let mut all = vec!["-c".into(), list(&self.load_cores)];
        all.push(program.display().to_string());
        all.extend(words);
        self.machine().command("taskset", all)
    }

    /// One of our own loads.
    pub(crate) fn own_load(&self, words: Vec<String>) -> Command {
        self.on_load_cores(&self.own, words)
    }

    /// Starts a proxy on its core and waits until it answers.
    pub(crate) fn start(&self, contender: Contender) -> Result<Proxy> {
        self.start_on(contender, &[self.proxy_core])
    }

    /// As [`Site::start`], on these cores.
    ///
    /// # Errors
    /// It is not installed, does not like its configuration or does not answer.
    pub(crate) fn start_on(&self, contender: Contender, cores: &[usize]) -> Result<Proxy> {
        let port = self.ports.fetch_add(1, Ordering::Relaxed);
        let name = contender.name();
        let process = self
            .run(contender, port, cores)
            .with_context(|| format!("starting {name}"))?;
        let proxy = Proxy {
            contender,
            port,
            process,
        };
        let deadline = Instant::now() + START_LIMIT;
        let address = Ipv4Addr::LOCALHOST.into();
        while let Err(error) = lab::fetch(self.machine(), address, port, "/") {
            let waiting = proxy.process.is_running() && Instant::now() < deadline;
            ensure!(
                waiting,
                "{name} does not answer: {error:#}; {}",
                proxy.fate()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }

    fn run(&self, contender: Contender, port: u16, cores: &[usize]) -> Result<Process> {
        let folder = self.machine().folder().join(format!("proxy-{port}"));
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let file = folder.join("config");
        let path = file.display().to_string();
        let at = format!("127.0.0.1:{port}");
        let mut libraries = None;
        let words = match contender {
            Contender::Pen => {
                let pen = lab::binary("pen")?.display().to_string();
                let words = [pen, "-f".into(), "-r".into()].into_iter();
                let words =
                    words.chain(["-C".into(), folder.join("control").display().to_string()]);
                let words = words.chain(["-p".into(), folder.join("pid").display().to_string()]);
                let words = words.chain(["-x".into(), CLIENTS_MAX.to_string()]);
                words.chain([at, self.direct().to_string()]).collect()
            }
            Contender::Haproxy | Contender::HaproxySplice => {
                let splice = contender == Contender::HaproxySplice;
                fs::write(&file, haproxy(&at, self.direct(), splice))?;
                ["haproxy", "-db", "-f", &path].map(String::from).to_vec()
            }
            Contender::Nginx => {
                ensure!(
                    Path::new(STREAM_MODULE).is_file(),
                    "nginx has no module {STREAM_MODULE}; mend: packaging/setup.sh bench"
                );
                fs::write(&file, nginx(&at, self.direct()))?;
                let prefix = folder.display().to_string();
                let log = folder.join("error.log").display().to_string();
                let words = ["nginx", "-p", &prefix, "-c", &path, "-e", &log];
                words.map(String::from).to_vec()
            }
            Contender::DebianPen => {
                let debian = DebianPen::fetch()?;
                libraries = Some(debian.libraries());
                let program = debian.program().display().to_string();
                let words = ["-f", "-r", "-O", "tcp_nodelay", "-x"].map(String::from);
                let words = [program].into_iter().chain(words);
                let words = words.chain([CLIENTS_MAX.to_string(), at]);
                words.chain([self.direct().to_string()]).collect()
            }
        };
        let words: Vec<String> = words;
        let all = ["-c".into(), list(cores)].into_iter().chain(words);
        let mut command = self.machine().command("taskset", all);
        if let Some(libraries) = libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        self.machine().spawn_command(command, "proxy")
    }
}

fn list(cores: &[usize]) -> String {
    let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
    cores.join(",")
}

/// One thread. HAProxy sets TCP_NODELAY itself.
fn haproxy(at: &str, server: SocketAddr, splice: bool) -> String {
    let splice = if splice {
        "    option splice-request\n    option splice-response\n"
    } else {
        ""
    };
    format!(
        "global\n    nbthread 1\n    maxconn {CLIENTS_MAX}\n    no strict-limits\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 60s\n    \
         timeout server 60s\n{splice}\
         listen bench\n    bind {at}\n    maxconn {CLIENTS_MAX}\n    balance roundrobin\n    \
         server web {server}\n"
    )
}

/// One worker. nginx sets TCP_NODELAY itself in this mode.
fn nginx(at: &str, server: SocketAddr) -> String {
    let connections = 2 * CLIENTS_MAX;
    format!(
        "load_module {STREAM_MODULE};\n\
         daemon off; worker_processes 1; user root; pid nginx.pid; error_log error.log crit;\n\
         events {{ worker_connections {connections}; }}\n\
         stream {{ access_log off; upstream web {{ server {server}; }}\n\
         server {{ listen {at}; proxy_pass web; }} }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_without_debians_part() {
        let haproxy = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/";
        assert_eq!(version_in(haproxy, "version "), Some("2.6.12"));
        assert_eq!(
            version_in("nginx version: nginx/1.22.1\n", "nginx/"),
            Some("1.22.1")
        );
        assert_eq!(version_in("nginx: not found", "nginx/"), None);
    }

    #[test]
    fn only_the_forced_splice_is_asked_for() {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, 8000));
        assert!(!haproxy("127.0.0.1:80", server, false).contains("splice"));
        let forced = haproxy("127.0.0.1:80", server, true);
        assert!(forced.contains("option splice-request"), "{forced}");
        assert!(forced.contains("option splice-response"), "{forced}");
    }
}
