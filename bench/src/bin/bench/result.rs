//! The results as JSON and as a table for people.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::figure::{Figure, Target};
use crate::machine::Machine;
use crate::plot::{Bar, Chart, Panel};

/// Rates of one contender over all its runs of a closed loop.
#[derive(Debug, Serialize)]
pub(crate) struct Rate {
    pub(crate) name: &'static str,
    /// Thousand frames a second, median.
    pub(crate) kpps: f64,
    /// Thousand frames for each second of a busy core, generator included, median.
    pub(crate) kpps_per_core: f64,
    /// Largest share of frames lost in a run.
    pub(crate) loss: f64,
}

/// Rates of one contender over all its runs under all the load that the generator makes.
#[derive(Debug, Serialize)]
pub(crate) struct Overload {
    pub(crate) name: &'static str,
    /// Thousand frames offered a second, median.
    pub(crate) kpps_offered: f64,
    /// Thousand frames delivered a second, median.
    pub(crate) kpps: f64,
    /// Thousand frames delivered for each second of a busy core, generator included, median.
    pub(crate) kpps_per_core: f64,
    /// Share of the offered frames that was lost, median.
    pub(crate) loss: f64,
}

/// Everything that one call measured.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// Pairs behind each ratio, and behind a rate of frames or requests that must reach something.
    pub(crate) pairs: (usize, usize),
    /// Length of one run, milliseconds.
    pub(crate) milliseconds: u64,
    /// Versions and settings that matter.
    pub(crate) facts: Vec<String>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) rates: Vec<Rate>,
    pub(crate) overloads: Vec<Overload>,
    /// As `rates`, with live frames.
    pub(crate) live: Vec<Rate>,
}

impl Results {
    /// Writes `latest.json`, `latest.md` and `latest.svg` into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)? + "\n";
        write_files(folder, "latest", (json, self.table(), self.chart()))
    }

    /// The table, in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        self.write_table(&mut text)
            .expect("writing to a String does not fail");
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# Measured\n")?;
        writeln!(
            out,
            "{}. Medians of {} interleaved pairs of {} ms, of {} for rates of frames \
             and of `ab` that must reach something; in brackets the smallest and the largest. Written by `make bench`.\n",
            self.machine.line(),
            self.pairs.0,
            self.milliseconds,
            self.pairs.1
        )?;
        write_figures(&self.figures, out)?;
        self.write_rates(out)?;
        self.write_overloads(out)?;
        self.write_live(out)?;
        write_facts(&self.facts, out)
    }

    fn chart(&self) -> String {
        let bars = self.rates.iter().map(|rate| Bar {
            name: rate.name.to_owned(),
            value: rate.kpps,
            ours: rate.name.contains("plane"),
        });
        let panel = Panel {
            heading: String::new(),
            bars: bars.collect(),
        };
        Chart {
            title: "Frames forwarded without loss, 1,000 a second",
            subtitle: "60-byte frames, one veth pair, forwarder on one core, generator on the other",
            panels: vec![panel],
            machine: &self.machine,
        }
        .draw()
    }

    fn write_rates(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\nFrames of 60 bytes (UDP over IPv4) over one veth pair, forwarder on one core, \
             generator on the other. **Without loss**: no more than 240 frames are under way, and \
             the rate is what comes back for a back end. The generator waits for the forwarder, \
             and its core does the receive work of whoever forwards, as veth has it: a forwarder \
             that is slower than the generator has that for nothing.\n"
        )?;
        write_closed(&self.rates, out)
    }

    fn write_live(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n**Live frames**: as without loss, but sent inside the kernel by a program in test-run \
             (`BPF_F_TEST_XDP_LIVE_FRAMES`), which costs the generator's core a fraction of sending \
             over AF_XDP: over AF_XDP that core is the limit before an AF_XDP worker is. It spins \
             while it waits, so frames for each busy core are no measure of a slow forwarder. A veth \
             end takes live frames only with a program of its own; packet sockets and Debian's pen \
             have one then that passes everything, and buffers of a page each, and deliver less than \
             over AF_XDP, without it: against their better rates stand the rows \"by live frames / \
             over AF_XDP\".\n"
        )?;
        write_closed(&self.live, out)
    }

    fn write_overloads(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "\n**Offered all the generator can**: it never waits, what a forwarder has no room for \
             is lost, and the rate is what comes back all the same. The less work it is to receive \
             for a forwarder, the more can be offered; where nothing is lost, the generator's core \
             was the limit, and the forwarder's rate is at least this.\n"
        )?;
        writeln!(
            out,
            "| forwarder | 1,000 frames offered a second | delivered | for each busy core | lost |"
        )?;
        writeln!(out, "|---|---|---|---|---|")?;
        for Overload {
            name,
            kpps_offered,
            kpps,
            kpps_per_core,
            loss,
        } in &self.overloads
        {
            let loss = loss * 100.0;
            writeln!(
                out,
                "| {name} | {kpps_offered:.0} | {kpps:.0} | {kpps_per_core:.0} | {loss:.1} % |"
            )?;
        }
        Ok(())
    }
}

/// Writes JSON, table and picture under one name into `folder`.
pub(crate) fn write_files(
    folder: &Path,
    name: &str,
    (json, table, picture): (String, String, String),
) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for (kind, text) in [("json", json), ("md", table), ("svg", picture)] {
        let file = folder.join(format!("{name}.{kind}"));
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// The table of figures.
pub(crate) fn write_figures(figures: &[Figure], out: &mut String) -> std::fmt::Result {
    writeln!(out, "| figure | value | must reach | |\n|---|---|---|---|")?;
    for figure in figures {
        let verdict = figure.verdict();
        let between = if verdict.is_empty() || figure.note.is_empty() {
            ""
        } else {
            ": "
        };
        writeln!(
            out,
            "| {} | {} | {} | {verdict}{between}{} |",
            figure.name,
            shown(figure),
            target(figure),
            figure.note.replace('|', "\\|").replace('\n', " ")
        )?;
    }
    Ok(())
}

/// What else a reader should know.
pub(crate) fn write_facts(facts: &[String], out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "\nRates depend on the machine and what else it does; only ratios inside one run mean \
         something.\n"
    )?;
    for fact in facts {
        writeln!(out, "- {fact}")?;
    }
    Ok(())
}

fn write_closed(rates: &[Rate], out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "| forwarder | 1,000 frames a second | for each busy core | most lost |"
    )?;
    writeln!(out, "|---|---|---|---|")?;
    for Rate {
        name,
        kpps,
        kpps_per_core,
        loss,
    } in rates
    {
        let loss = loss * 100.0;
        writeln!(
            out,
            "| {name} | {kpps:.0} | {kpps_per_core:.0} | {loss:.3} % |"
        )?;
    }
    Ok(())
}

/// Value with its spread.
fn shown(figure: &Figure) -> String {
    let Some(value) = figure.value else {
        return "-".into();
    };
    let unit = figure.unit;
    let spread = match figure.spread() {
        Some((least, most)) if figure.samples.len() > 1 => {
            format!(" ({} to {})", number(least), number(most))
        }
        _ => String::new(),
    };
    format!("{} {unit}{spread}", number(value))
}

fn target(figure: &Figure) -> String {
    match figure.target {
        Target::AtLeast(least) => format!(">= {least} {}", figure.unit),
        Target::AtMost(most) => format!("<= {most} {}", figure.unit),
        Target::None => String::new(),
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}
