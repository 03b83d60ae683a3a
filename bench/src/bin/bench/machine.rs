//! Where the measurements were made, without naming the machine.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

/// What a reader needs to know of the machine to judge the figures.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) system: String,
    /// Processes that wanted to run, on average of the last minute, when the measurements began; of
    /// the machine's other work, if there was any.
    pub(crate) load: String,
    /// When they began, UTC.
    pub(crate) date: String,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let processors = read("/proc/cpuinfo")?;
        let processor = value_of(&processors, "model name", ':')
            .unwrap_or("unknown")
            .to_owned();
        let release = read("/etc/os-release")?;
        let system = value_of(&release, "PRETTY_NAME", '=').unwrap_or("unknown");
        let load = read("/proc/loadavg")?;
        let date = Command::new("date")
            .args(["-u", "+%Y-%m-%d %H:%M"])
            .output()?;
        Ok(Self {
            processor,
            cores: processors
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            system: system.trim_matches('"').to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            date: String::from_utf8_lossy(&date.stdout).trim().to_owned(),
        })
    }

    /// In one sentence, without its end.
    pub(crate) fn line(&self) -> String {
        let Self {
            processor,
            cores,
            kernel,
            system,
            load,
            date,
        } = self;
        format!(
            "{date} UTC, {cores} cores ({processor}), kernel {kernel}, {system}; load average {load}"
        )
    }
}

fn value_of<'a>(text: &'a str, key: &str, separator: char) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .find(|(found, _)| found.trim() == key)
        .map(|(_, value)| value.trim())
}
