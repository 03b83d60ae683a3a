//! The proxy's results as JSON, as a table for people, and as bars.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::load::{Load, Work};
use crate::figure::{Figure, median};
use crate::machine::Machine;
use crate::plot::{Bar, Chart, Panel};
use crate::result::{write_facts, write_figures, write_files};

/// What one proxy did in all runs of one load.
#[derive(Debug, Serialize)]
pub(crate) struct Rate {
    /// The load.
    pub(crate) what: &'static str,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Units for each second of the proxy's threads, median.
    pub(crate) per_cpu_second: f64,
    /// Units a second, median.
    pub(crate) per_second: f64,
    /// Share of its core that the proxy used, median.
    pub(crate) busy: f64,
}

impl Rate {
    /// Of all runs.
    pub(crate) fn new(what: &'static str, name: String, load: Load, works: &[Work]) -> Self {
        let (unit, size) = load.unit();
        let middle = |of: fn(&Work) -> f64| {
            median(&works.iter().map(of).collect::<Vec<_>>()).unwrap_or_default()
        };
        Self {
            what,
            name,
            unit,
            per_cpu_second: middle(Work::per_cpu_second) / size,
            per_second: middle(Work::per_second) / size,
            busy: middle(|work| work.cpu_seconds / work.seconds),
        }
    }
}

/// Everything that one call measured.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// Rounds behind each figure.
    pub(crate) rounds: usize,
    /// Length of one load, seconds.
    pub(crate) seconds: u32,
    /// Which HAProxy the targets are over.
    pub(crate) haproxy: String,
    pub(crate) facts: Vec<String>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) rates: Vec<Rate>,
}

impl Results {
    /// Writes `proxy.json`, `proxy.md` and `proxy.svg` into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        write_files(folder, "proxy", (json, self.table(), self.chart()))
    }

    /// The table, in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        self.write_table(&mut text)
            .expect("writing to a String does not fail");
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# The proxy, measured\n")?;
        writeln!(
            out,
            "{}. Medians of {} rounds, in each of which every proxy has its turn of {} s; in \
             brackets the smallest and the largest. What must be reached is over {}. Written by \
             `make bench`.\n",
            self.machine.line(),
            self.rounds,
            self.seconds,
            self.haproxy
        )?;
        write_figures(&self.figures, out)?;
        writeln!(
            out,
            "\nOver loopback: the proxy on one core, load and back end on the other. All proxies \
             have one thread, one server taken in turn, TCP_NODELAY and no log; for HTTP they \
             keep connections to the server. Work is counted \
             for each second that the proxy's threads ran, the kernel's part included: where the \
             other core is the limit, a second of the clock says little about the proxy.\n"
        )?;
        if !self.rates.is_empty() {
            self.write_rates(out)?;
        }
        write_facts(&self.facts, out)
    }

    fn write_rates(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "| load | proxy | for each CPU-second | a second | of its core |\n|---|---|---|---|---|"
        )?;
        for rate in &self.rates {
            writeln!(
                out,
                "| {} | {} | {:.1} | {:.1} | {:.0} % |",
                load_of(rate),
                rate.name,
                rate.per_cpu_second,
                rate.per_second,
                rate.busy * 100.0
            )?;
        }
        Ok(())
    }

    fn chart(&self) -> String {
        let mut panels: Vec<Panel> = Vec::new();
        for rate in &self.rates {
            let heading = load_of(rate);
            if panels.last().is_none_or(|panel| panel.heading != heading) {
                let bars = Vec::new();
                panels.push(Panel { heading, bars });
            }
            if let Some(panel) = panels.last_mut() {
                panel.bars.push(Bar {
                    name: rate.name.clone(),
                    value: rate.per_cpu_second,
                    ours: rate.name.starts_with("Pen"),
                });
            }
        }
        Chart {
            title: "The proxy's work for each second of its threads",
            subtitle: "Over loopback, proxy on one core, load and back end on the other",
            panels,
            machine: &self.machine,
        }
        .draw()
    }
}

/// With the unit, and without the measure, which the head of the table names.
fn load_of(rate: &Rate) -> String {
    let what = rate.what.strip_suffix(", per CPU-second");
    format!("{}: {}", what.unwrap_or(rate.what), rate.unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Target;

    fn results() -> Results {
        let what = "TCP, small requests, per CPU-second";
        let work = |done| Work {
            done,
            seconds: 2.0,
            cpu_seconds: 1.0,
        };
        let name = |other| format!("{what}: Pen / {other}");
        let haproxy = Target::AtLeast(1.1);
        let works = [work(80_000.0), work(84_000.0), work(82_000.0)];
        Results {
            machine: Machine {
                processor: "Processor".into(),
                cores: 2,
                kernel: "6.1".into(),
                system: "Debian".into(),
                load: "0.10".into(),
                date: "2026-11-24 10:34".into(),
            },
            rounds: 3,
            seconds: 2,
            haproxy: "HAProxy 2.6.12".into(),
            facts: vec!["A fact.".into()],
            figures: vec![
                Figure::new(name("HAProxy 2.6.12"), "x", haproxy, vec![1.0, 1.2, 1.25]),
                Figure::missing(name("a | b"), "x", Target::None, "not there".into()),
            ],
            rates: vec![
                Rate::new(what, "Pen".into(), Load::Kept, &works),
                Rate::new(what, "a < b".into(), Load::Kept, &works[..1]),
            ],
        }
    }

    #[test]
    fn the_table_names_everything() {
        let table = results().table();
        for part in [
            "2026-11-24 10:34 UTC, 2 cores (Processor), kernel 6.1, Debian; load average 0.10.",
            "Medians of 3 rounds, in each of which every proxy has its turn of 2 s",
            "over HAProxy 2.6.12.",
            "Pen / HAProxy 2.6.12 | 1.20 x (1.00 to 1.25) | >= 1.1 x | met |",
            "| - |  | not measured: not there |",
            "| TCP, small requests: 1,000 requests | Pen | 82.0 | 41.0 | 50 % |",
            "- A fact.",
        ] {
            assert!(table.contains(part), "no {part:?} in:\n{table}");
        }
    }

    #[test]
    fn all_three_files_are_written() {
        let name = format!("pen-bench-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        results().write(&folder).unwrap();
        let read = |file| std::fs::read_to_string(folder.join(file)).unwrap();
        let files = ["proxy.json", "proxy.md", "proxy.svg"].map(read);
        std::fs::remove_dir_all(&folder).unwrap();
        let json: serde_json::Value = serde_json::from_str(&files[0]).unwrap();
        assert_eq!(json["figures"][0]["value"], 1.2);
        assert_eq!(json["rates"][0]["per_cpu_second"], 82.0);
        assert!(files[1].starts_with("# The proxy, measured\n"));
        let svg = &files[2];
        assert!(
            svg.contains("a &lt; b") && svg.ends_with("</svg>\n"),
            "{svg}"
        );
        assert_eq!(
            svg.matches("TCP, small requests: 1,000 requests").count(),
            1
        );
    }
}
