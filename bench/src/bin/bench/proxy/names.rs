//! Ten thousand certificates by name: how long Pen takes to start with them, what they weigh, and
//! whether handshakes notice.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::contender::Contender;
use super::figures::{Bench, Measured, figure};
use super::load::Load;
use super::site::{Proxy, Site};
use super::tls::NAME;
use crate::figure::{Figure, Target, median};

const NAMES: usize = 10_000;
/// Between two looks whether anything is still done, and how long that may take.
const LOOK: Duration = Duration::from_millis(200);
const REST_MAX: Duration = Duration::from_secs(30);
/// Who has them, and what they are called.
const KINDS: [(Contender, &str); 2] = [
    (
        Contender::PenNames,
        "TLS, 10,000 names in a folder, P-256, seconds until it answers: Pen",
    ),
    (
        Contender::PenNamesRsa,
        "TLS, 10,000 names in a folder, RSA-2048, seconds until it answers: Pen",
    ),
];
const LOOK_UP: &str = "TLS 1.3, full handshakes per CPU-second: Pen with 10,000 names in a folder / with one certificate";

/// What figures are called.
pub(super) fn names() -> impl Iterator<Item = String> {
    let starts = KINDS.iter().map(|(_, name)| *name);
    starts.chain([LOOK_UP]).map(str::to_owned)
}

/// Fills a folder of the site's with a file for each name.
pub(super) fn fill(site: &Site, kind: &str) -> Result<()> {
    let folder = site.certificates().join(format!("{kind}-names"));
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir(&folder)?;
    let pem = |which: &str| fs::read(site.certificates().join(format!("{which}.pem")));
    // Not for the name that clients ask for.
    let other = pem(&format!("{kind}-other"))?;
    for number in 1..NAMES {
        fs::write(folder.join(format!("name{number}.test.pem")), &other)?;
    }
    fs::write(folder.join(format!("{NAME}.pem")), pem(kind)?).context("filling a folder")
}

/// Waits until nothing more is done: Pen checks RSA keys when it answers already.
fn until_at_rest(proxy: &Proxy) -> Result<()> {
    let mut last = proxy.cpu_seconds()?;
    for _ in 0..REST_MAX.as_millis() / LOOK.as_millis() {
        thread::sleep(LOOK);
        let now = proxy.cpu_seconds()?;
        if now - last < LOOK.as_secs_f64() / 10.0 {
            return Ok(());
        }
        last = now;
    }
    bail!("it is still busy after {REST_MAX:?}")
}

impl Bench {
    /// Every figure of them that is wanted.
    pub(super) fn names(&self, wanted: &impl Fn(&str) -> bool) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (contender, name) in KINDS {
            if wanted(name) {
                eprintln!("{name} ...");
                let measured = self.start_with_names(contender);
                let target = Target::AtMost(2.0);
                figures.push(Figure {
                    unit: "s",
                    ..figure(name.into(), target, measured)
                });
            }
        }
        if wanted(LOOK_UP) {
            eprintln!("{LOOK_UP} ...");
            figures.push(figure(LOOK_UP.into(), Target::None, self.look_up()));
        }
        figures
    }

    fn start_with_names(&self, contender: Contender) -> Result<Measured> {
        let (mut samples, mut memory, mut done) = (Vec::new(), Vec::new(), Vec::new());
        // That is not Pen's time.
        fill(&self.site, contender.has_names().unwrap_or_default())?;
        for _ in 0..self.effort.rounds {
            let begun = Instant::now();
            let proxy = self.site.start(contender)?;
            samples.push(begun.elapsed().as_secs_f64());
            until_at_rest(&proxy)?;
            done.push(begun.elapsed().as_secs_f64());
            memory.push(proxy.resident_kib()? as f64 / 1024.0);
        }
        let [memory, done] = [memory, done].map(|all| median(&all).unwrap_or_default());
        let note = format!("{memory:.1} MiB, the whole process, at rest after {done:.1} s");
        Ok(Measured { samples, note })
    }

    fn look_up(&self) -> Result<Measured> {
        let (with, one) = (
            self.site.start(Contender::PenNames)?,
            self.proxy(Contender::PenTls)?,
        );
        let mut samples = Vec::new();
        for _ in 0..self.effort.rounds {
            let work = |proxy| self.site.measure(proxy, Load::Full, self.effort.seconds);
            samples.push(work(&with)?.per_cpu_second() / work(one)?.per_cpu_second());
        }
        let note = String::new();
        Ok(Measured { samples, note })
    }
}
