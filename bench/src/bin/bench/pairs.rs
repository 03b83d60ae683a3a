//! Interleaved pairs: A B A B ..., so that what the machine does beside us meets both alike, and
//! ratios of neighbours.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::contender::{Contender, LOSS_MAX, Offer};
use crate::figure::{Figure, Target, median};
use crate::figures::Bench;
use crate::generator::Outcome;
use crate::result::{Overload, Rate};

/// Two contenders, what is compared, and what the ratio must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) name: &'static str,
    pub(crate) over: Contender,
    pub(crate) under: Contender,
    /// To each of the two.
    pub(crate) offers: (Offer, Offer),
    pub(crate) quantity: Quantity,
    pub(crate) target: Target,
    /// What limits it, for when it is missed.
    pub(crate) why: &'static str,
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

/// Everything that was delivered, by how much was offered and contender's name.
#[derive(Debug, Default)]
pub(crate) struct Rates(BTreeMap<(Offer, &'static str), Vec<Outcome>>);

impl Rates {
    fn add(&mut self, offer: Offer, contender: Contender, outcomes: &[Outcome]) {
        let all = self.0.entry((offer, contender.name())).or_default();
        all.extend_from_slice(outcomes);
    }

    fn of(&self, offer: Offer) -> impl Iterator<Item = (&'static str, &[Outcome])> {
        let of = self.0.iter().filter(move |((of, _), _)| *of == offer);
        of.map(|((_, name), outcomes)| (*name, outcomes.as_slice()))
    }

    /// Of a closed loop; fastest first.
    pub(crate) fn lossless(&self, offer: Offer) -> Vec<Rate> {
        let rates = self.of(offer).map(|(name, outcomes)| Rate {
            name,
            kpps: middle(outcomes, Outcome::rate) / 1e3,
            kpps_per_core: middle(outcomes, Outcome::per_cpu_second) / 1e3,
            loss: outcomes.iter().map(Outcome::loss).fold(0.0, f64::max),
        });
        let mut rates: Vec<_> = rates.collect();
        rates.sort_by(|a, b| b.kpps.total_cmp(&a.kpps));
        rates
    }

    /// Offered all that the generator can send; fastest first.
    pub(crate) fn overloads(&self) -> Vec<Overload> {
        let overloads = self.of(Offer::All).map(|(name, outcomes)| Overload {
            name,
            kpps_offered: middle(outcomes, Outcome::offered_rate) / 1e3,
            kpps: middle(outcomes, Outcome::rate) / 1e3,
            kpps_per_core: middle(outcomes, Outcome::per_cpu_second) / 1e3,
            loss: middle(outcomes, Outcome::loss),
        });
        let mut overloads: Vec<_> = overloads.collect();
        overloads.sort_by(|a, b| b.kpps.total_cmp(&a.kpps));
        overloads
    }
}

/// Measures a pair, as often as the effort says.
///
/// # Errors
/// One of the two is not there or did not work.
pub(crate) fn measure(bench: &Bench, pair: &Pair, rates: &mut Rates) -> Result<Figure> {
    let (rig, count) = (&bench.rig, bench.effort.pairs_for(pair.target));
    let over = bench.forwarder(pair.over)?;
    let under = bench.forwarder(pair.under)?;
    let (mut overs, mut unders) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        overs.push(rig.measure(over, pair.offers.0)?);
        unders.push(rig.measure(under, pair.offers.1)?);
    }
    let both = overs.iter().zip(&unders);
    let samples = both.map(|(a, b)| pair.quantity.of(a) / pair.quantity.of(b));
    let figure = Figure::new(pair.name, "x", pair.target, samples.collect());
    rates.add(pair.offers.0, pair.over, &overs);
    rates.add(pair.offers.1, pair.under, &unders);
    if pair.offers != (Offer::Lossless, Offer::Lossless) {
        return Ok(figure.note(format!(
            "{}, against {}; 1,000 frames a second",
            told(pair.offers.0, &overs),
            told(pair.offers.1, &unders)
        )));
    }
    let losses = overs.iter().chain(&unders).map(Outcome::loss);
    Ok(match losses.fold(0.0, f64::max) {
        loss if loss > LOSS_MAX => figure.note(format!(
            "up to {:.2} % of the frames of a run were lost",
            loss * 100.0
        )),
        _ => figure,
    })
}

/// What was offered to one side of a pair, what it delivered and what it lost.
fn told(offer: Offer, outcomes: &[Outcome]) -> String {
    format!(
        "{:.0} offered {}, {:.0} delivered, {:.1} % lost",
        middle(outcomes, Outcome::offered_rate) / 1e3,
        if offer.is_live() {
            "as live frames"
        } else {
            "over AF_XDP"
        },
        middle(outcomes, Outcome::rate) / 1e3,
        middle(outcomes, Outcome::loss) * 100.0
    )
}

/// The median; 0 of nothing.
fn middle(outcomes: &[Outcome], what: fn(&Outcome) -> f64) -> f64 {
    median(&outcomes.iter().map(what).collect::<Vec<_>>()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_offered_without_measure_is_told_apart() {
        let outcome = |offered, delivered, lost| Outcome {
            seconds: 0.5,
            offered,
            delivered,
            busy: 1.0,
            sent_in_all: offered,
            lost,
        };
        let mut rates = Rates::default();
        let swap = Contender::Swap;
        rates.add(Offer::Lossless, swap, &[outcome(300_000, 300_000, 0)]);
        rates.add(Offer::All, swap, &[outcome(500_000, 400_000, 100_000)]);
        let [rate] = &rates.lossless(Offer::Lossless)[..] else {
            panic!("one contender")
        };
        assert_eq!(
            (rate.kpps, rate.kpps_per_core, rate.loss),
            (600.0, 300.0, 0.0)
        );
        let [overload] = &rates.overloads()[..] else {
            panic!("one contender")
        };
        assert_eq!((overload.kpps_offered, overload.kpps), (1000.0, 800.0));
        assert_eq!((overload.kpps_per_core, overload.loss), (400.0, 0.2));
    }
}
