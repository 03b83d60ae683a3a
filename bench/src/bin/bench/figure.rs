//! A figure with its target: what was measured, how far the samples are apart, and whether it is
//! enough.

use serde::Serialize;

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    /// Shown for comparison.
    None,
}

/// One line of the result.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
    /// The median of the samples; nothing if it could not be measured.
    pub(crate) value: Option<f64>,
    pub(crate) samples: Vec<f64>,
    /// What else a reader should know; the reason, if it was not measured.
    pub(crate) note: String,
}

impl Figure {
    /// From samples.
    pub(crate) fn new(
        name: impl Into<String>,
        unit: &'static str,
        target: Target,
        samples: Vec<f64>,
    ) -> Self {
        let value = median(&samples);
        Self {
            name: name.into(),
            unit,
            target,
            value,
            samples,
            note: String::new(),
        }
    }

    /// One that could not be measured.
    pub(crate) fn missing(
        name: impl Into<String>,
        unit: &'static str,
        target: Target,
        why: String,
    ) -> Self {
        Self {
            name: name.into(),
            unit,
            target,
            value: None,
            samples: Vec::new(),
            note: why,
        }
    }

    /// With something that a reader should know.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// With what limits it, if it is not what it must be.
    pub(crate) fn because(mut self, why: &str) -> Self {
        if !why.is_empty() && self.is_missed() {
            let between = if self.note.is_empty() { "" } else { "; " };
            self.note = format!("what limits it: {why}{between}{}", self.note);
        }
        self
    }

    /// What is no number reaches nothing.
    fn is_missed(&self) -> bool {
        let reaches = |value: f64| match self.target {
            Target::AtLeast(least) => value >= least,
            Target::AtMost(most) => value <= most,
            Target::None => true,
        };
        self.value.is_some_and(|value| !reaches(value))
    }

    /// `met`, or by how much not.
    pub(crate) fn verdict(&self) -> String {
        let Some(value) = self.value else {
            return "not measured".into();
        };
        let limit = match self.target {
            Target::AtLeast(limit) | Target::AtMost(limit) => limit,
            Target::None => return String::new(),
        };
        if !self.is_missed() {
            return "met".into();
        }
        format!(
            "missed by {:.0} %",
            ((value - limit).abs() / limit * 100.0).max(1.0)
        )
    }

    /// Smallest and largest sample.
    pub(crate) fn spread(&self) -> Option<(f64, f64)> {
        let least = self.samples.iter().copied().reduce(f64::min)?;
        let most = self.samples.iter().copied().reduce(f64::max)?;
        Some((least, most))
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let upper = sorted.get(half)?;
    if sorted.len() % 2 == 1 {
        return Some(*upper);
    }
    sorted
        .get(half.wrapping_sub(1))
        .map(|lower| (lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn what_limits_a_figure_is_told_only_where_it_is_missed() {
        let told = |value| {
            let figure = Figure::new("", "", Target::AtLeast(2.0), vec![value]);
            figure.note("so many").because("the kernel").note
        };
        assert_eq!(
            (told(2.0), told(1.9)),
            (
                "so many".into(),
                "what limits it: the kernel; so many".into()
            )
        );
        let most = Figure::new("", "", Target::AtMost(2.0), vec![2.1]);
        assert_eq!(most.because("a disk").note, "what limits it: a disk");
    }

    #[test]
    fn verdicts_say_by_how_much() {
        let figure = |target, value| Figure::new("", "", target, vec![value]).verdict();
        assert_eq!(figure(Target::AtLeast(2.0), 2.0), "met");
        assert_eq!(figure(Target::AtLeast(2.0), 1.5), "missed by 25 %");
        assert_eq!(figure(Target::AtMost(20.0), 25.0), "missed by 25 %");
        assert_eq!(figure(Target::AtMost(250.0), 250.5), "missed by 1 %");
        // Nothing of nothing.
        assert!(figure(Target::AtLeast(2.0), f64::NAN).starts_with("missed"));
        let none = Figure::missing("", "", Target::None, "no valgrind".into());
        assert_eq!(none.verdict(), "not measured");
    }
}
