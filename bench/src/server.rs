//! Servers on the back ends and the clients that ask them.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::address::{Station, host_port};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::Lab;

const START_LIMIT: Duration = Duration::from_secs(10);
/// Size of the file that every back end offers as `/big`.
const BIG_BYTES: usize = 16 << 20;

/// An nginx on one back end; it ends when dropped.
///
/// `/` answers one line, `be0 CLIENT_ADDRESS CLIENT_PORT SERVER_ADDRESS`; `/big` is a file of 16
/// MiB, the same everywhere.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
}

impl Nginx {
    /// Starts nginx on back end `index`, on all its addresses of both families, and waits until it
    /// answers.
    pub fn start(lab: &Lab, index: usize, ports: &[u16]) -> Result<Self> {
        let machine = lab.backend(index);
        let www = big_file(lab)?
            .parent()
            .context("a file has a folder")?
            .to_owned();
        let folder = machine.folder().join("nginx");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let listen: String = ports
            .iter()
            .map(|port| format!("listen {port}; listen [::]:{port} ipv6only=on;\n"))
            .collect();
        let config = format!(
            "daemon off; worker_processes 1; user root; pid nginx.pid; error_log error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n\
             access_log off; keepalive_requests 1000000; default_type text/plain;\n\
             client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;\n\
             uwsgi_temp_path t4; scgi_temp_path t5;\n\
             server {{\n\
             {listen}\
             location = / {{\n\
             return 200 \"be{index} $remote_addr $remote_port $server_addr\\n\";\n\
             }}\n\
             location = /big {{ root {www}; sendfile on; }}\n\
             }} }}\n",
            www = www.display(),
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, config).with_context(|| format!("writing {}", file.display()))?;
        let words = [
            "-p".into(),
            folder.clone(),
            "-c".into(),
            file,
            "-e".into(),
            folder.join("error.log"),
        ];
        let process = machine.spawn("nginx", words)?;
        let nginx = Self { process };
        nginx.wait_until_answering(machine, index, ports)?;
        Ok(nginx)
    }

    /// One on each back end.
    pub fn start_all(lab: &Lab, ports: &[u16]) -> Result<Vec<Self>> {
        (0..lab.backends().len())
            .map(|index| Self::start(lab, index, ports))
            .collect()
    }

    /// The program, to stop or signal it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn wait_until_answering(&self, machine: &Namespace, index: usize, ports: &[u16]) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        for port in ports {
            while let Err(error) = fetch(machine, Station::backend(index).v4().into(), *port, "/") {
                let waiting = self.process.is_running() && Instant::now() < deadline;
                ensure!(
                    waiting,
                    "nginx does not answer: {error:#}\n{}",
                    self.process.output()
                );
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// The file that every nginx of the lab serves as `/big`; made when first asked for.
pub fn big_file(lab: &Lab) -> Result<PathBuf> {
    let folder = lab.folder().join("www");
    let file = folder.join("big");
    if !file.exists() {
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        // Xorshift: no two blocks alike, so that a swapped or repeated one shows in the checksum.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_ne_bytes()
        })
        .take(BIG_BYTES / 8)
        .flatten()
        .collect();
        fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(file)
}

/// Fetches `http://ADDRESS:PORT/PATH` and returns the body as text.
///
/// # Errors
/// No answer within 10 s or a status other than 2xx; the text is curl's.
pub fn fetch(from: &Namespace, address: IpAddr, port: u16, path: &str) -> Result<String> {
    let url = format!("http://{}{path}", host_port(address, port));
    fetch_within(Duration::from_secs(10), from, &url)
}

/// Fetches `url`, waiting at most `limit`: a short one to see that nobody answers.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_within(limit: Duration, from: &Namespace, url: &str) -> Result<String> {
    let seconds = limit.as_secs_f64().to_string();
    let words = [
        "--globoff",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        &seconds,
        url,
    ];
    Ok(from.run_ok("curl", words)?.stdout)
}

/// Downloads `/big` and says whether it came whole: same size, same bytes.
///
/// # Errors
/// The download failed or took longer than 60 s.
pub fn download_is_intact(lab: &Lab, address: IpAddr, port: u16) -> Result<bool> {
    let client = lab.client();
    let got = client
        .folder()
        .join(format!("big-{}", client.next_number()));
    let url = format!("http://{}/big", host_port(address, port));
    let options = [
        "--globoff",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "60",
        "-o",
    ];
    let words = options
        .map(Into::into)
        .into_iter()
        .chain([got.clone(), url.into()]);
    let output = client.run_for(Duration::from_secs(70), "curl", words)?;
    ensure!(output.ok(), "the download failed: {}", output.text());
    let same = fs::read(&got).context("reading the download")? == fs::read(big_file(lab)?)?;
    fs::remove_file(&got).context("removing the download")?;
    Ok(same)
}

/// An iperf3 server on one back end (port 5201); it ends when dropped.
///
/// A test through a VIP needs all its connections on one back end: a pool of one, or the hash over
/// the source.
#[derive(Debug)]
pub struct Iperf {
    _process: Process,
}

impl Iperf {
    /// The port that the server listens on.
    pub const PORT: u16 = 5201;

    /// Starts the server on back end `index`.
    pub fn start(lab: &Lab, index: usize) -> Result<Self> {
        let process = lab.backend(index).spawn("iperf3", ["-s", "--forceflush"])?;
        process.wait_for_line("Server listening", START_LIMIT)?;
        Ok(Self { _process: process })
    }

    /// Bits per second that arrived in a TCP test of some seconds; `down` sends from the server.
    ///
    /// # Errors
    /// iperf3's own message.
    pub fn measure(from: &Namespace, to: IpAddr, seconds: u32, down: bool) -> Result<f64> {
        let (address, time) = (to.to_string(), seconds.to_string());
        let direction = down.then_some("-R");
        let words = ["-c", &address, "-t", &time, "-J"]
            .into_iter()
            .chain(direction);
        let limit = Duration::from_secs(u64::from(seconds) + 15);
        let output = from.run_for(limit, "iperf3", words)?;
        let report: serde_json::Value =
            serde_json::from_str(&output.stdout).context(output.text())?;
        report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .with_context(|| format!("iperf3 failed: {}", report["error"]))
    }
}
