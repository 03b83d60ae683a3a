//! Interleaved pairs: A B A B ..., so that what the machine does beside us meets both alike, and
//! ratios of neighbours.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::contender::{Contender, LOSS_MAX};
use crate::figure::{Figure, Target, median};
use crate::figures::Bench;
use crate::generator::Outcome;

/// Two contenders, what is compared, and what the ratio must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) name: &'static str,
    pub(crate) over: Contender,
    pub(crate) under: Contender,
    pub(crate) quantity: Quantity,
    pub(crate) target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantity {
    /// Frames delivered a second.
    Rate,
    /// Frames delivered for each second that a core of the machine is busy, generator and all.
    PerCpuSecond,
}

impl Quantity {
    fn of(self, outcome: &Outcome) -> f64 {
        match self {
            Self::Rate => outcome.rate(),
            Self::PerCpuSecond => outcome.per_cpu_second(),
        }
    }
}

/// Everything that was delivered, by contender's name.
#[derive(Debug, Default)]
pub(crate) struct Rates(BTreeMap<&'static str, Vec<Outcome>>);

impl Rates {
    fn add(&mut self, contender: Contender, outcome: Outcome) {
        self.0.entry(contender.name()).or_default().push(outcome);
    }

    /// Name, median of thousand frames a second, median of thousand frames a CPU-second, largest
    /// loss; fastest first.
    pub(crate) fn table(&self) -> Vec<(&'static str, f64, f64, f64)> {
        let mut table: Vec<_> = self
            .0
            .iter()
            .map(|(name, outcomes)| {
                let of = |what: fn(&Outcome) -> f64| {
                    median(&outcomes.iter().map(what).collect::<Vec<_>>()).unwrap_or_default()
                };
                let loss = outcomes.iter().map(Outcome::loss).fold(0.0, f64::max);
                (
                    *name,
                    of(Outcome::rate) / 1e3,
                    of(Outcome::per_cpu_second) / 1e3,
                    loss,
                )
            })
            .collect();
        table.sort_by(|a, b| b.1.total_cmp(&a.1));
        table
    }
}

/// Measures a pair, as often as the effort says.
///
/// # Errors
/// One of the two is not there or did not work.
pub(crate) fn measure(bench: &Bench, pair: &Pair, rates: &mut Rates) -> Result<Figure> {
    let (rig, count) = (&bench.rig, bench.effort.pairs);
    let over = bench.forwarder(pair.over)?;
    let under = bench.forwarder(pair.under)?;
    let mut samples = Vec::with_capacity(count);
    let mut loss: f64 = 0.0;
    for _ in 0..count {
        let (a, b) = (rig.measure(over)?, rig.measure(under)?);
        samples.push(pair.quantity.of(&a) / pair.quantity.of(&b));
        loss = loss.max(a.loss()).max(b.loss());
        rates.add(pair.over, a);
        rates.add(pair.under, b);
    }
    let figure = Figure::new(pair.name, "x", pair.target, samples);
    Ok(if loss > LOSS_MAX {
        figure.note(format!(
            "up to {:.2} % of the frames of a run were lost",
            loss * 100.0
        ))
    } else {
        figure
    })
}
