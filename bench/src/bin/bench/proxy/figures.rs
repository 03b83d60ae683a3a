//! All figures of the proxy, in the order of the table.

use anyhow::{Context, Result, ensure};

use super::client::Paced;
use super::contender::Contender;
use super::load::{CONNECTIONS, Load, Work, open_files};
use super::result::Rate;
use super::site::{Proxy, Site};
use crate::figure::{Figure, Target, median};

/// Two proxy cores take a third for the load.
const CORES_FOR_TWO: usize = 3;
/// Open files of a proxy that are no connection: twice what Pen keeps for itself.
const FILES_ASIDE: u32 = 500;

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Samples of each figure.
    pub(crate) rounds: usize,
    /// Length of one load.
    pub(crate) seconds: u32,
    /// Idle connections whose memory is measured, if so many files may be open.
    pub(crate) connections: u32,
}

/// One load, and the proxies whose work for each CPU-second is compared.
struct Comparison {
    what: &'static str,
    load: Load,
    ours: Contender,
    others: &'static [(Contender, Target)],
}

/// Work for each CPU-second. A further mode of the proxy is a further entry.
const COMPARISONS: &[Comparison] = &[
    Comparison {
        what: "TCP, small requests on kept connections, per CPU-second",
        load: Load::Kept,
        ours: Contender::Pen,
        others: &[
            (Contender::Haproxy, Target::AtLeast(1.1)),
            (Contender::Nginx, Target::None),
            (Contender::DebianPen, Target::None),
        ],
    },
    Comparison {
        what: "TCP, new connections on both sides, per CPU-second",
        load: Load::New,
        ours: Contender::Pen,
        others: &[
            (Contender::Haproxy, Target::AtLeast(1.1)),
            (Contender::Nginx, Target::None),
            (Contender::DebianPen, Target::None),
        ],
    },
    Comparison {
        what: "TCP, bulk from the server, per CPU-second",
        load: Load::Bulk,
        ours: Contender::Pen,
        others: &[
            (Contender::HaproxySplice, Target::AtLeast(1.0)),
            (Contender::Haproxy, Target::None),
            (Contender::Nginx, Target::None),
            (Contender::DebianPen, Target::None),
        ],
    },
];

const LATENCY: &str = "TCP, added latency at half load, 99th percentile";
const MEMORY: &str = "TCP, memory for idle connections";
const TWO_CORES: &str =
    "TCP, small requests on kept connections, per second: Pen on two cores / on one";

/// Who is compared by latency and by memory: more than the target is worse than HAProxy.
const fn others(at_most: f64) -> [(Contender, Target); 3] {
    [
        (Contender::Haproxy, Target::AtMost(at_most)),
        (Contender::Nginx, Target::None),
        (Contender::DebianPen, Target::None),
    ]
}

fn named(what: &str, ours: Contender, other: Contender) -> String {
    format!("{what}: {} / {}", ours.name(), other.name())
}

/// Every name of a figure.
fn names() -> Vec<String> {
    let compared = COMPARISONS.iter().flat_map(|row| {
        let others = row.others.iter();
        others.map(|(other, _)| named(row.what, row.ours, *other))
    });
    let more = [LATENCY, MEMORY].into_iter().flat_map(|what| {
        let others = others(1.0).into_iter();
        others.map(move |(other, _)| named(what, Contender::Pen, other))
    });
    compared.chain(more).chain([TWO_CORES.into()]).collect()
}

/// Whether there is anything to do.
pub(crate) fn any(wanted: &impl Fn(&str) -> bool) -> bool {
    names().iter().any(|name| wanted(name))
}

/// Whether a machine of so many cores can't show a figure.
pub(crate) fn beyond(name: &str, cores: usize) -> bool {
    name == TWO_CORES && cores < CORES_FOR_TWO
}

/// Everything that is set up to be measured.
#[derive(Debug)]
pub(crate) struct Bench {
    site: Site,
    proxies: Vec<Proxy>,
    effort: Effort,
    cores: usize,
}

impl Bench {
    /// Starts every proxy; one that does not start is told among the facts.
    pub(crate) fn start(site: Site, effort: Effort, cores: usize, facts: &mut Vec<String>) -> Self {
        let order = [
            Contender::Pen,
            Contender::Haproxy,
            Contender::HaproxySplice,
            Contender::Nginx,
            Contender::DebianPen,
        ];
        let mut proxies = Vec::new();
        for contender in order {
            let name = contender.name();
            eprintln!("starting {name} ...");
            match site.start(contender) {
                Ok(proxy) => proxies.push(proxy),
                Err(why) => {
                    eprintln!("{why:#}");
                    facts.push(format!("{name} was not measured: {why:#}"));
                }
            }
        }
        Self {
            site,
            proxies,
            effort,
            cores,
        }
    }

    /// Every figure that is wanted, and what the proxies did for those about work.
    pub(crate) fn all(&self, wanted: &impl Fn(&str) -> bool) -> (Vec<Figure>, Vec<Rate>) {
        let (mut figures, mut rates) = (Vec::new(), Vec::new());
        for row in COMPARISONS {
            let others = row.others.iter().copied();
            let others: Vec<_> = others
                .filter(|(other, _)| wanted(&named(row.what, row.ours, *other)))
                .collect();
            if !others.is_empty() {
                eprintln!("{} ...", row.what);
                figures.extend(self.compare(row, &others, &mut rates));
            }
        }
        for (what, at_most) in [(LATENCY, 1.0), (MEMORY, 0.8)] {
            for (other, target) in others(at_most) {
                let name = named(what, Contender::Pen, other);
                if wanted(&name) {
                    eprintln!("{name} ...");
                    let measured = if what == LATENCY {
                        self.latency(other)
                    } else {
                        self.memory(other)
                    };
                    figures.push(figure(name, target, measured));
                }
            }
        }
        if wanted(TWO_CORES) {
            eprintln!("{TWO_CORES} ...");
            let samples = self.two_cores();
            figures.push(figure(TWO_CORES.into(), Target::AtLeast(1.8), samples));
        }
        (figures, rates)
    }

    fn proxy(&self, contender: Contender) -> Result<&Proxy> {
        let mut found = self.proxies.iter();
        found
            .find(|proxy| proxy.contender == contender)
            .with_context(|| format!("{} is not running, see below", contender.name()))
    }

    /// Rounds of ours and every other, one after the other.
    fn compare(
        &self,
        row: &Comparison,
        others: &[(Contender, Target)],
        rates: &mut Vec<Rate>,
    ) -> Vec<Figure> {
        let all = [row.ours].into_iter().chain(others.iter().map(|(c, _)| *c));
        let mut done: Vec<(Contender, Result<Vec<Work>>)> =
            all.map(|contender| (contender, Ok(Vec::new()))).collect();
        for _ in 0..self.effort.rounds {
            for (contender, works) in &mut done {
                // Once it failed it is out.
                let Ok(until_now) = works else { continue };
                let proxy = self.proxy(*contender);
                let load = |proxy| self.site.measure(proxy, row.load, self.effort.seconds);
                match proxy.and_then(load) {
                    Ok(work) => until_now.push(work),
                    Err(why) => *works = Err(why),
                }
            }
        }
        for (contender, works) in &done {
            if let Ok(works) = works {
                rates.push(Rate::new(row.what, contender.name(), row.load, works));
            }
        }
        let (ours, theirs) = done.split_first().expect("ours is always among them");
        let figures = theirs
            .iter()
            .zip(others)
            .map(|((other, works), (_, target))| {
                let samples = ratios(&ours.1, works).map(|samples| Measured {
                    samples,
                    note: String::new(),
                });
                figure(named(row.what, row.ours, *other), *target, samples)
            });
        figures.collect()
    }

    /// How much later answers come than from the back end itself, by requests at half the rate that
    /// the slower one of the two answers.
    fn latency(&self, other: Contender) -> Result<Measured> {
        let (ours, theirs) = (self.proxy(Contender::Pen)?, self.proxy(other)?);
        let seconds = self.effort.seconds;
        let mut slower = f64::INFINITY;
        for proxy in [ours, theirs] {
            let work = self.site.measure(proxy, Load::Kept, seconds.min(2))?;
            slower = slower.min(work.per_second());
        }
        let (mut samples, mut all) = (Vec::new(), [const { Vec::new() }; 3]);
        let ports = [self.site.direct().port(), ours.port, theirs.port];
        for _ in 0..self.effort.rounds {
            let pace = |port| self.site.pace(port, slower / 2.0, seconds);
            let [direct, ours, theirs] = [pace(ports[0])?, pace(ports[1])?, pace(ports[2])?];
            for (times, paced) in all.iter_mut().zip([direct, ours, theirs]) {
                times.push(paced.p99);
            }
            samples.extend(added(direct, ours, theirs));
        }
        ensure!(
            2 * samples.len() > self.effort.rounds,
            "answers through a proxy were not later than without one in most rounds: the machine \
             is too busy to tell"
        );
        let [direct, ours, theirs] = all.map(|times| median(&times).unwrap_or_default());
        let mut note = format!(
            "{ours:.0} us against {theirs:.0} us, {direct:.0} us without a proxy, at {:.0} \
             requests a second over {CONNECTIONS} connections, from when each was due",
            slower / 2.0
        );
        let dropped = self.effort.rounds - samples.len();
        if dropped > 0 {
            note += &format!("; {dropped} rounds in which a proxy added nothing are left out");
        }
        Ok(Measured { samples, note })
    }

    /// By how much resident memory of a fresh proxy grows.
    fn memory(&self, other: Contender) -> Result<Measured> {
        let files = open_files().context("reading how many files may be open")?;
        let connections = (files.saturating_sub(FILES_ASIDE) / 2).min(self.effort.connections);
        ensure!(connections > 0, "only {files} files may be open");
        let (mut samples, mut all) = (Vec::new(), [const { Vec::new() }; 4]);
        for _ in 0..self.effort.rounds {
            let [ours, theirs] = [
                self.memory_of(Contender::Pen, connections)?,
                self.memory_of(other, connections)?,
            ];
            samples.push(ours.0 / theirs.0);
            for (list, value) in all.iter_mut().zip([ours.0, theirs.0, ours.1, theirs.1]) {
                list.push(value);
            }
        }
        let [ours, theirs, our_whole, their_whole] =
            all.map(|values| median(&values).unwrap_or_default());
        let each = |kib: f64| kib / f64::from(connections);
        let note = format!(
            "growth by {connections} connections, {:.2} KiB each against {:.2} KiB; the whole \
                 process {:.1} MiB against {:.1} MiB",
            each(ours),
            each(theirs),
            our_whole / 1024.0,
            their_whole / 1024.0
        );
        Ok(Measured { samples, note })
    }

    /// Growth and whole of a fresh proxy's memory, KiB.
    fn memory_of(&self, contender: Contender, connections: u32) -> Result<(f64, f64)> {
        let proxy = self.site.start(contender)?;
        let before = proxy.resident_kib()?;
        let held = self.site.hold(proxy.port, connections);
        let _held = held.with_context(|| format!("{connections} idle connections"))?;
        let after = proxy.resident_kib()?;
        let name = contender.name();
        ensure!(after > before, "{name}'s memory did not grow");
        Ok(((after - before) as f64, after as f64))
    }

    /// Requests a second by two cores against one, all other cores loading.
    fn two_cores(&self) -> Result<Measured> {
        let load = load_cores(self.cores).with_context(|| {
            format!(
                "this machine can't show it: it has {} cores, and two proxy cores take a third \
                 for the load",
                self.cores
            )
        })?;
        let count = load.len();
        let site = Site::build(self.cores)?.with_load_on(load)?;
        let one = site.start_on(Contender::Pen, &[1])?;
        let two = site.start_on(Contender::Pen, &[1, 2])?;
        let mut samples = Vec::new();
        for _ in 0..self.effort.rounds {
            let of_two = site.measure(&two, Load::Kept, self.effort.seconds)?;
            let of_one = site.measure(&one, Load::Kept, self.effort.seconds)?;
            samples.push(of_two.per_second() / of_one.per_second());
        }
        let note = format!("load and back end on {count} further cores");
        Ok(Measured { samples, note })
    }
}

/// What makes a figure.
struct Measured {
    samples: Vec<f64>,
    note: String,
}

fn figure(name: String, target: Target, measured: Result<Measured>) -> Figure {
    match measured {
        Ok(Measured { samples, note }) => Figure::new(name, "x", target, samples).note(note),
        Err(why) => Figure::missing(name, "x", target, format!("{why:#}")),
    }
}

/// Of each round.
fn ratios(ours: &Result<Vec<Work>>, theirs: &Result<Vec<Work>>) -> Result<Vec<f64>> {
    let works =
        [ours, theirs].map(|works| works.as_ref().map_err(|why| anyhow::anyhow!("{why:#}")));
    let [ours, theirs] = works;
    let both = ours?.iter().zip(theirs?);
    Ok(both
        .map(|(a, b)| a.per_cpu_second() / b.per_cpu_second())
        .collect())
}

/// The ratio of what two proxies add; nothing if one seems to add nothing.
fn added(direct: Paced, ours: Paced, theirs: Paced) -> Option<f64> {
    let (ours, theirs) = (ours.p99 - direct.p99, theirs.p99 - direct.p99);
    (ours > 0.0 && theirs > 0.0).then(|| ours / theirs)
}

/// All cores but the two of the proxy, if one is left.
fn load_cores(cores: usize) -> Option<Vec<usize>> {
    let load = [0].into_iter().chain(CORES_FOR_TWO..cores);
    (cores >= CORES_FOR_TWO).then(|| load.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_a_name_of_its_own() {
        let mut names = names();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!((names.len(), count), (17, 17), "{names:#?}");
        assert!(any(&|name| name.contains("bulk")));
        assert!(!any(&|name| name.contains("AF_XDP")));
    }

    #[test]
    fn two_cores_take_a_third() {
        assert_eq!(load_cores(2), None);
        assert_eq!(load_cores(3), Some(vec![0]));
        assert_eq!(load_cores(5), Some(vec![0, 3, 4]));
        assert!(beyond(TWO_CORES, 2) && !beyond(TWO_CORES, 3) && !beyond(MEMORY, 2));
    }

    #[test]
    fn only_what_is_added_counts() {
        let paced = |p99| Paced {
            answers: 1,
            rate: 1.0,
            p50: 1.0,
            p99,
        };
        assert_eq!(added(paced(100.0), paced(150.0), paced(200.0)), Some(0.5));
        assert_eq!(added(paced(100.0), paced(90.0), paced(200.0)), None);
    }
}
