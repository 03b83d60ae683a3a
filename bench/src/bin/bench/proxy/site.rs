//! Where everything runs: one namespace, over loopback, with a core for the proxies and one for
//! load and back end. All proxies run from the start to the end; who has no load sleeps.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, ensure};
use lab::{Lab, Namespace, Process};

use super::contender::{Contender, Place, Program};
use super::{names, tls, usage};

const START_LIMIT: Duration = Duration::from_secs(15);
/// Where the back end listens; ports of the proxies follow.
const SERVER_PORT: u16 = 8000;
/// Ports of connections: none that somebody listens on.
const PORT_RANGE: &str = "net.ipv4.ip_local_port_range=10000 65535";

/// The place.
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

    /// The same of each thread.
    pub(crate) fn thread_seconds(&self) -> Result<Vec<f64>> {
        usage::thread_seconds(self.process.id()).with_context(|| self.fate())
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
    /// Builds a lab and starts the back end in it, on the load's core.
    ///
    /// # Errors
    /// There is one core only, or no lab can be built.
    pub(crate) fn build(cores: usize) -> Result<Self> {
        ensure!(
            cores >= 2,
            "measuring takes 2 cores: one for the proxy, one for load and back end"
        );
        let lab = Lab::builder().backends(1).build();
        let mut site = Self {
            lab: lab.context("building a lab")?,
            own: env::current_exe().context("finding the running program")?,
            load_cores: vec![0],
            proxy_core: 1,
            ports: AtomicU16::new(SERVER_PORT + 1),
            server: None,
        };
        site.machine().sysctl(&[PORT_RANGE])?;
        fs::create_dir_all(site.certificates()).context("a folder for certificates")?;
        tls::make_certificates(site.machine(), &site.certificates())?;
        site.server = Some(site.serve()?);
        Ok(site)
    }

    /// The same place with another back end, on these cores, as many threads as cores.
    pub(crate) fn with_load_on(mut self, cores: Vec<usize>) -> Result<Self> {
        self.server = None;
        self.load_cores = cores;
        self.server = Some(self.serve()?);
        Ok(self)
    }

    fn serve(&self) -> Result<Process> {
        let (port, threads) = (SERVER_PORT.to_string(), self.load_cores.len().to_string());
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

    /// The folder with certificates; see [`tls::make_certificates`].
    pub(crate) fn certificates(&self) -> PathBuf {
        self.machine().folder().join("certificates")
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
        while let Err(error) = self.probe(contender, port) {
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

    /// Whether it answers.
    fn probe(&self, contender: Contender, port: u16) -> Result<()> {
        let path = contender.probe();
        if !contender.is_tls() {
            let address = Ipv4Addr::LOCALHOST.into();
            return lab::fetch(self.machine(), address, port, path).map(drop);
        }
        let url = format!("https://127.0.0.1:{port}{path}");
        let words = ["-sSfk", "--max-time", "2", &url];
        self.machine().run_ok("curl", words).map(drop)
    }

    fn run(&self, contender: Contender, port: u16, cores: &[usize]) -> Result<Process> {
        let folder = self.machine().folder().join(format!("proxy-{port}"));
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        if let Some(kind) = contender.has_names() {
            names::fill(self, kind)?;
        }
        let place = Place {
            folder,
            at: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            server: self.direct(),
            certificates: self.certificates(),
        };
        let Program { words, libraries } = contender.program(&place)?;
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
