//! How much of the machine's time was used, by the kernel's own account (proc(5), `/proc/stat`).

use anyhow::{Context, Result};

/// The kernel reports in hundredths of a second (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU-seconds that all cores together were busy since boot: user, nice, system, irq and softirq
/// time.
pub(crate) fn busy_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    parse(&text).context("/proc/stat does not begin with the line of all cores")
}

fn parse(text: &str) -> Option<f64> {
    let fields: Vec<u64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn idle_waiting_and_stolen_time_is_not_busy() {
        let text = "cpu  100 20 300 7000 50 6 74 900 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse(text), Some(5.0));
        assert_eq!(parse("cpu0 1 2 3"), None);
    }
}
