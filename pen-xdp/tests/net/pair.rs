//! A pair of network namespaces, and a test inside one of them.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use pen::watch::{NetEvent, Watch};
use tokio::time::timeout;

/// Set for the second run: the names of this run's namespaces begin with it.
pub(crate) const INSIDE: &str = "PEN_TEST_NAMESPACE";

/// Runs `ip` and the like; the test fails if it does. A leading `-` says that it may.
pub(crate) fn run(line: &str) -> String {
    let mut words = line.trim_start_matches('-').split_whitespace();
    let program = words.next().unwrap();
    let out = Command::new(program).args(words).output().unwrap();
    assert!(
        line.starts_with('-') || out.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// The namespaces of one test; gone with it, however it ends.
pub(crate) struct Namespaces(String);

impl Namespaces {
    pub(crate) fn new(test: &str) -> Namespaces {
        let made = Namespaces(format!(
            "pen-t-{}-{}",
            test.replace("::", "-"),
            std::process::id()
        ));
        let (lb, be) = (made.0.clone() + "-lb", made.0.clone() + "-be");
        run(&format!("ip netns add {lb}"));
        run(&format!("ip netns add {be}"));
        run(&format!(
            "ip link add eth1 netns {lb} numrxqueues 2 numtxqueues 2 type veth peer name eth0 netns {be}"
        ));
        run(&format!(
            "ip -n {be} link set eth0 address 02:00:00:00:be:01"
        ));
        run(&format!("ip -n {be} link set eth0 up"));
        run(&format!("ip -n {be} addr add 192.0.2.10/24 dev eth0"));
        run(&format!(
            "ip -n {be} addr add 2001:db8::10/64 dev eth0 nodad"
        ));
        run(&format!("ip -n {lb} link set eth1 up"));
        made
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for end in ["-lb", "-be"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &(self.0.clone() + end)])
                .status();
        }
    }
}

pub(crate) fn root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

/// The other end of the wire.
pub(crate) struct Backend(String);

impl Backend {
    /// As [`run`], in the back end's namespace.
    pub(crate) fn run(&self, line: &str) -> String {
        let (may_fail, line) = line
            .strip_prefix('-')
            .map_or(("", line), |line| ("-", line));
        run(&format!("{may_fail}ip netns exec {} {line}", self.0))
    }
}

/// Runs `body` inside the lb namespace of a fresh pair. `test` is the test's own path.
pub(crate) fn in_lab(test: &str, body: fn(&Backend)) {
    if let Ok(prefix) = std::env::var(INSIDE) {
        return body(&Backend(prefix + "-be"));
    }
    if !root() {
        let why = format!("{test}: needs root, for network namespaces");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
        println!("SKIPPED: {why}");
        return;
    }
    let lab = Namespaces::new(test);
    let out = Command::new("ip")
        .args(["netns", "exec", &(lab.0.clone() + "-lb")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, &lab.0)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    // A path that is wrong would run nothing, and nothing never fails.
    assert!(
        out.status.success() && said.contains("1 passed"),
        "{test}: {said}"
    );
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Waits for events in any order, past all others.
pub(crate) async fn expect_all<const N: usize>(watch: &mut Watch, wanted: [NetEvent; N]) {
    let (mut missing, mut others) = (wanted.to_vec(), Vec::new());
    let wait = async {
        while !missing.is_empty() {
            let event = watch.next().await.unwrap();
            match missing.iter().position(|wanted| *wanted == event) {
                Some(index) => drop(missing.remove(index)),
                None => others.push(event),
            }
        }
    };
    let came = timeout(Duration::from_secs(20), wait).await;
    assert!(came.is_ok(), "never came: {missing:?}; {others:?} did");
}

pub(crate) async fn expect(watch: &mut Watch, wanted: NetEvent) {
    expect_all(watch, [wanted]).await;
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|text| address(text)).collect()
}

/// A directory of this test's own.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(test: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!(
            "pen-t-{}-{}",
            test.replace("::", "-"),
            std::process::id()
        )))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
