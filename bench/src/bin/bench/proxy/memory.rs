//! Resident memory of a fresh proxy with idle connections: by how much it grew for them, and the
//! whole of it. Who takes memory for connections at its start does not grow, so growth says nothing
//! about Debian's pen.

use anyhow::{Context, Result, ensure};

use super::contender::Contender;
use super::figures::{Bench, Measured, Row, figure, named};
use super::load::open_files;
use crate::figure::{Figure, Target, median};

const GROWTH: Row = Row {
    what: "TCP, memory for idle connections, growth",
    ours: Contender::Pen,
    others: &[
        (Contender::Haproxy, Target::AtMost(0.8)),
        (Contender::Nginx, Target::None),
    ],
};
const WHOLE: Row = Row {
    what: "TCP, memory with idle connections, whole process",
    ours: Contender::Pen,
    others: &[
        (Contender::Haproxy, Target::AtMost(0.8)),
        (Contender::Nginx, Target::None),
        (Contender::DebianPen, Target::None),
    ],
};
const GROWTH_TLS: Row = Row {
    what: "HTTPS, memory for idle connections, growth",
    ours: Contender::PenTls,
    others: &[(Contender::HaproxyTls, Target::AtMost(0.8))],
};
const WHOLE_TLS: Row = Row {
    what: "HTTPS, memory with idle connections, whole process",
    ours: Contender::PenTls,
    others: &[(Contender::HaproxyTls, Target::AtMost(0.8))],
};
/// What is compared, with whom.
pub(super) const ROWS: [&Row; 4] = [&GROWTH, &WHOLE, &GROWTH_TLS, &WHOLE_TLS];
/// Open files of a proxy that are no connection: more than Pen keeps for itself.
const FILES_ASIDE: u32 = 500;

/// Memory of one proxy, KiB.
#[derive(Debug, Clone, Copy)]
struct Memory {
    growth: f64,
    whole: f64,
}

/// One proxy's memory in all rounds, or why there is none.
#[derive(Debug)]
struct Rounds {
    contender: Contender,
    memory: Result<Vec<Memory>>,
}

impl Bench {
    /// Every figure that is wanted.
    pub(super) fn memory(&self, wanted: &impl Fn(&str) -> bool) -> Vec<Figure> {
        let modes = [Contender::Pen, Contender::PenTls].into_iter();
        modes
            .flat_map(|ours| self.memory_in(ours, wanted))
            .collect()
    }

    /// In one mode of ours: in each round every proxy is started and has its connections.
    fn memory_in(&self, ours: Contender, wanted: &impl Fn(&str) -> bool) -> Vec<Figure> {
        let rows = ROWS.iter().filter(|row| row.ours == ours).flat_map(|row| {
            let others = row.others.iter();
            others.map(|(other, target)| (row.what, *other, *target))
        });
        let rows: Vec<_> = rows
            .filter(|(what, other, _)| wanted(&named(what, ours, *other)))
            .collect();
        if rows.is_empty() {
            return Vec::new();
        }
        eprintln!("memory of idle connections ...");
        let connections = self.connections();
        let mut others: Vec<_> = rows.iter().map(|(_, other, _)| *other).collect();
        others.sort_unstable();
        others.dedup();
        let rounds = self.rounds([ours].into_iter().chain(others), &connections);
        let figures = rows.into_iter().map(|(what, other, target)| {
            let growth = [GROWTH.what, GROWTH_TLS.what].contains(&what);
            let measured = compare(&rounds, [ours, other], growth);
            let count = connections.as_ref().copied().unwrap_or_default();
            let measured = measured.map(|Measured { samples, note }| Measured {
                samples,
                note: format!("{note}; {count} connections"),
            });
            figure(named(what, ours, other), target, measured)
        });
        figures.collect()
    }

    /// As many as wanted, or as open files allow: a proxy has two for each.
    fn connections(&self) -> Result<u32> {
        let files = open_files().context("reading how many files may be open")?;
        // Pen leaves an eighth to pipes and to connections kept for later.
        let free = (files - files / 8).saturating_sub(FILES_ASIDE);
        let connections = (free / 2).min(self.effort.connections);
        ensure!(connections > 0, "only {files} files may be open");
        Ok(connections)
    }

    fn rounds(
        &self,
        contenders: impl Iterator<Item = Contender>,
        connections: &Result<u32>,
    ) -> Vec<Rounds> {
        let new = |contender| Rounds {
            contender,
            memory: Ok(Vec::new()),
        };
        let mut all: Vec<_> = contenders.map(new).collect();
        for _ in 0..self.effort.rounds {
            for rounds in &mut all {
                // Once it failed it is out.
                let Ok(until_now) = &mut rounds.memory else {
                    continue;
                };
                match self.memory_of(rounds.contender, connections) {
                    Ok(memory) => until_now.push(memory),
                    Err(why) => rounds.memory = Err(why),
                }
            }
        }
        all
    }

    fn memory_of(&self, contender: Contender, connections: &Result<u32>) -> Result<Memory> {
        let connections = connections
            .as_ref()
            .map_err(|why| anyhow::anyhow!("{why:#}"))?;
        let proxy = self.site.start(contender)?;
        let before = proxy.resident_kib()?;
        let held = self.site.hold(&proxy, *connections);
        let _held = held.with_context(|| format!("{connections} idle connections"))?;
        let after = proxy.resident_kib()?;
        Ok(Memory {
            growth: after.saturating_sub(before) as f64,
            whole: after as f64,
        })
    }
}

/// Ratios of each round.
fn compare(rounds: &[Rounds], both: [Contender; 2], growth: bool) -> Result<Measured> {
    let of = |contender: Contender| -> Result<Vec<f64>> {
        let mut found = rounds.iter().filter(|of| of.contender == contender);
        let name = contender.name();
        let found = found
            .next()
            .with_context(|| format!("{name} had no turn"))?;
        let memory = found.memory.as_ref();
        let memory = memory.map_err(|why| anyhow::anyhow!("{why:#}"))?.iter();
        let values: Vec<_> = memory
            .map(|memory| if growth { memory.growth } else { memory.whole })
            .collect();
        ensure!(
            values.iter().all(|value| *value > 0.0),
            "{name}'s memory did not grow"
        );
        Ok(values)
    };
    let [ours, theirs] = both.map(of);
    let (ours, theirs) = (ours?, theirs?);
    let mib = |values: &[f64]| median(values).unwrap_or_default() / 1024.0;
    let note = format!("{:.1} MiB against {:.1} MiB", mib(&ours), mib(&theirs));
    let samples = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
    Ok(Measured { samples, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_grow_has_no_ratio_of_growth() {
        let of = |contender, memory: Memory| Rounds {
            contender,
            memory: Ok(vec![memory]),
        };
        let memory = |growth, whole| Memory { growth, whole };
        let rounds = [
            of(Contender::Pen, memory(2048.0, 8192.0)),
            of(Contender::Haproxy, memory(4096.0, 10240.0)),
            of(Contender::DebianPen, memory(0.0, 4096.0)),
        ];
        let with = |other| [Contender::Pen, other];
        let growth = compare(&rounds, with(Contender::Haproxy), true).unwrap();
        assert_eq!(growth.samples, [0.5]);
        assert_eq!(growth.note, "2.0 MiB against 4.0 MiB");
        let whole = compare(&rounds, with(Contender::DebianPen), false).unwrap();
        assert_eq!(whole.samples, [2.0]);
        assert!(compare(&rounds, with(Contender::DebianPen), true).is_err());
        assert!(compare(&rounds, with(Contender::Nginx), false).is_err());
    }
}
