//! `make demo`: real HTTP through a VIP to three back ends, forwarded by Pen, answered directly to
//! the client. Ends with an error if any request failed.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lab::{Iperf, Lab, Nginx, Process, Signal, Station, binary, download_is_intact, host_port};

/// Requests by curl to each VIP, each from a port of its own.
const PAGES: usize = 12;
const START: Duration = Duration::from_secs(30);
const BENCH: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if let Some(what) = lab::missing() {
        eprintln!("the demo can't run: missing {what}");
        return ExitCode::FAILURE;
    }
    let start = Instant::now();
    match demo() {
        Ok(()) => {
            println!("\nAll of it worked, in {} s.", start.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let lab = Lab::builder().backends(3).queues(2).build()?;
    let _web = Nginx::start_all(&lab, &[80])?;
    let _iperf = (0..3)
        .map(|index| Iperf::start(&lab, index))
        .collect::<Result<Vec<_>>>()?;
    show_topology(&lab);
    let control = lab.folder().join("pen.ctl");
    let mut pen = start_pen(&lab, &control.display().to_string())?;
    for vip in lab.vips() {
        pages(&lab, vip)?;
        ensure!(
            download_is_intact(&lab, vip, 80)?,
            "the download from {vip} was damaged"
        );
        println!("   a download from {vip}: intact by checksum");
        ab(&lab, vip)?;
        for (down, way) in [(false, "up, through Pen"), (true, "down, past Pen")] {
            let rate = Iperf::measure(lab.client(), vip, 2, down)?;
            println!("   iperf3 {way}: {:.2} Gbit/s", rate / 1e9);
        }
    }
    println!("\n$ penctl {} status", control.display());
    let words = [control.as_os_str(), "status".as_ref()];
    print!(
        "{}",
        lab.balancer().run_ok(binary("penctl")?, words)?.stdout
    );
    let status = pen.stop(Signal::Term, Duration::from_secs(10))?;
    ensure!(
        status.success(),
        "pen ended with {status}: {}",
        pen.output()
    );
    Ok(())
}

fn show_topology(lab: &Lab) {
    let vips: Vec<String> = lab.vips().map(|vip| vip.to_string()).collect();
    println!(
        "\n client {} ---+              +--- be0 {}   nginx, VIP on lo\n\
         {:>22} switch -------+--- be1 {}\n\
         pen    {} ---+  (bridge)   +--- be2 {}\n\n VIPs {}\n",
        Station::client().v4(),
        Station::backend(0).v4(),
        "",
        Station::backend(1).v4(),
        Station::balancer(0).v4(),
        Station::backend(2).v4(),
        vips.join(" and ")
    );
}

fn start_pen(lab: &Lab, control: &str) -> Result<Process> {
    let listen = |port| {
        let vips = lab.vips().map(|vip| format!("{:?}", host_port(vip, port)));
        vips.collect::<Vec<_>>().join(", ")
    };
    let backends: Vec<String> = (0..3)
        .map(|index| format!("\"{}\"", Station::backend(index).v4()))
        .collect();
    let config = format!(
        "interface = \"eth0\"\nforeground = true\nplane = \"af_xdp\"\ncontrol = {control:?}\n\
         bpffs = {:?}\nrun_dir = {:?}\n\n[[service]]\nname = \"web\"\nlisten = [{}]\n\n\
         # iperf3 opens two connections, which must reach the same back end.\n[[service]]\n\
         name = \"iperf3\"\nlisten = [{}]\npool = \"web\"\nhash = \"source\"\n\n[[pool]]\n\
         name = \"web\"\nbackend = [{}]\n",
        lab.bpffs(),
        lab.folder().join("run"),
        listen(80),
        listen(5201),
        backends.join(", ")
    );
    let file = lab.folder().join("pen.toml");
    fs::write(&file, &config).with_context(|| format!("writing {}", file.display()))?;
    println!("{config}\n$ pen --config pen.toml");
    let pen = lab
        .balancer()
        .spawn(binary("pen")?, ["--config".as_ref(), file.as_os_str()])?;
    let line = pen.wait_for_line("serving", START)?;
    println!("{line}");
    Ok(pen)
}

/// Fetches pages from many ports, and shows who answered and whom they saw.
fn pages(lab: &Lab, vip: IpAddr) -> Result<()> {
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..PAGES {
        let page = lab::fetch(lab.client(), vip, 80, "/")?;
        let mut words = page.split_whitespace();
        let (Some(backend), Some(client)) = (words.next(), words.next()) else {
            bail!("a page that no back end of ours writes: {page:?}");
        };
        *answers
            .entry(format!("{backend} saw client {client}"))
            .or_default() += 1;
    }
    println!("\n{PAGES} pages from http://{}/", host_port(vip, 80));
    for (answer, count) in answers {
        println!("   {count:>2} x {answer}");
    }
    Ok(())
}

/// The author's benchmark of 2015.
fn ab(lab: &Lab, vip: IpAddr) -> Result<()> {
    let url = format!("http://{}/", host_port(vip, 80));
    let output =
        lab.client()
            .run_for(BENCH, "ab", ["-q", "-c", "20", "-n", "10000", url.as_str()])?;
    let text = output.text();
    let line = |name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
    };
    let failed = line("Failed requests:");
    ensure!(
        output.ok() && failed.ends_with(" 0"),
        "ab -c 20 -n 10000 {url}: {text}"
    );
    println!(
        "   ab -c 20 -n 10000: {}, {}",
        shrink(failed),
        shrink(line("Requests per second:"))
    );
    Ok(())
}

fn shrink(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
