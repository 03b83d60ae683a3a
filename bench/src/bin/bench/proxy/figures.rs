//! All figures of the proxy, in the order of the table.

use anyhow::{Context, Result, ensure};

use super::contender::Contender;
use super::latency;
use super::load::{Load, Work};
use super::memory::ROWS;
use super::result::Rate;
use super::site::{Proxy, Site};
use crate::figure::{Figure, Target};

/// Two proxy cores take a third for the load.
const CORES_FOR_TWO: usize = 3;

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
    Comparison {
        what: "HTTP, small requests on kept connections with X-Forwarded-For, per CPU-second",
        load: Load::Kept,
        ours: Contender::PenHttp,
        others: &[
            (Contender::HaproxyHttp, Target::AtLeast(1.0)),
            (Contender::NginxHttp, Target::None),
            (Contender::DebianPenHttp, Target::None),
        ],
    },
];

/// Over TLS, all of it in HTTP mode but for Debian's pen.
const COMPARISONS_TLS: &[Comparison] = &[
    Comparison {
        what: "HTTPS, small requests on kept connections, per CPU-second",
        load: Load::Kept,
        ours: Contender::PenTls,
        others: &[
            (Contender::HaproxyTls, Target::AtLeast(1.0)),
            (Contender::DebianPenTls, Target::None),
        ],
    },
    Comparison {
        what: "TLS 1.3, new connections with full handshakes, P-256, per CPU-second",
        load: Load::Full,
        ours: Contender::PenTls,
        others: &[
            (Contender::HaproxyTls, Target::AtLeast(1.8)),
            (Contender::DebianPenTls, Target::None),
        ],
    },
    Comparison {
        what: "TLS 1.3, new connections with full handshakes, RSA-2048, per CPU-second",
        load: Load::Full,
        ours: Contender::PenTlsRsa,
        others: &[(Contender::HaproxyTlsRsa, Target::AtLeast(1.3))],
    },
    Comparison {
        what: "TLS 1.3, new connections that resume, per CPU-second",
        load: Load::Resumed13,
        ours: Contender::PenTls,
        others: &[(Contender::HaproxyTls, Target::AtLeast(1.3))],
    },
    Comparison {
        what: "TLS 1.2, new connections that resume, per CPU-second",
        load: Load::Resumed12,
        ours: Contender::PenTls,
        others: &[(Contender::HaproxyTls, Target::AtLeast(2.0))],
    },
    Comparison {
        what: "HTTPS, bulk from the server, AES-256-GCM, per CPU-second",
        load: Load::Bulk,
        ours: Contender::PenTls,
        others: &[(Contender::HaproxyTls, Target::AtLeast(1.0))],
    },
];

const TWO_CORES: &str =
    "TCP, small requests on kept connections, per second: Pen on two cores / on one";

const TWO_THREADS: &str =
    "TCP, small requests on kept connections, per CPU-second: Pen's two threads / one";

/// What a figure is called.
pub(super) fn named(what: &str, ours: Contender, other: Contender) -> String {
    format!("{what}: {} / {}", ours.name(), other.name())
}

/// Every name of a figure.
fn names() -> Vec<String> {
    let compared = COMPARISONS.iter().chain(COMPARISONS_TLS).flat_map(|row| {
        let others = row.others.iter();
        others.map(|(other, _)| named(row.what, row.ours, *other))
    });
    let more = [&latency::ROW].into_iter().chain(ROWS).flat_map(|row| {
        let others = row.others.iter();
        others.map(|(other, _)| named(row.what, row.ours, *other))
    });
    let more = more.chain(super::names::names());
    compared
        .chain(more)
        .chain([TWO_CORES, TWO_THREADS].map(str::to_owned))
        .collect()
}

/// Whether a machine of so many cores can't show a figure.
pub(crate) fn beyond(name: &str, cores: usize) -> bool {
    name == TWO_CORES && cores < CORES_FOR_TWO
}

/// Whether there is anything to do.
pub(crate) fn any(wanted: &impl Fn(&str) -> bool) -> bool {
    names().iter().any(|name| wanted(name))
}

/// One quantity of which Pen and others are compared.
pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) ours: Contender,
    pub(super) others: &'static [(Contender, Target)],
}

/// Everything that is set up to be measured.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(super) site: Site,
    proxies: Vec<Proxy>,
    pub(super) effort: Effort,
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
            Contender::PenHttp,
            Contender::HaproxyHttp,
            Contender::NginxHttp,
            Contender::DebianPenHttp,
            Contender::PenTls,
            Contender::HaproxyTls,
            Contender::DebianPenTls,
            Contender::PenTlsRsa,
            Contender::HaproxyTlsRsa,
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
        for row in COMPARISONS.iter().chain(COMPARISONS_TLS) {
            let others = row.others.iter().copied();
            let others: Vec<_> = others
                .filter(|(other, _)| wanted(&named(row.what, row.ours, *other)))
                .collect();
            if !others.is_empty() {
                eprintln!("{} ...", row.what);
                figures.extend(self.compare(row, &others, &mut rates));
            }
        }
        for (other, target) in latency::ROW.others {
            let name = named(latency::ROW.what, Contender::Pen, *other);
            if wanted(&name) {
                eprintln!("{name} ...");
                figures.push(figure(name, *target, self.latency(*other)));
            }
        }
        figures.extend(self.memory(wanted));
        figures.extend(self.names(wanted));
        if wanted(TWO_CORES) {
            eprintln!("{TWO_CORES} ...");
            let samples = self.two_cores();
            figures.push(figure(TWO_CORES.into(), Target::AtLeast(1.8), samples));
        }
        if wanted(TWO_THREADS) {
            eprintln!("{TWO_THREADS} ...");
            let samples = self.two_threads();
            figures.push(figure(TWO_THREADS.into(), Target::None, samples));
        }
        (figures, rates)
    }

    /// The running proxy.
    ///
    /// # Errors
    /// It could not be started.
    pub(super) fn proxy(&self, contender: Contender) -> Result<&Proxy> {
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
                    note: other.note().into(),
                });
                figure(named(row.what, row.ours, *other), *target, samples)
            });
        figures.collect()
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
        let note = format!("cores of load and back end: {count}");
        Ok(Measured { samples, note })
    }

    /// Requests for each CPU-second of two threads against those of one, load and back end on the same
    /// two cores: whatever the threads take from each other (locks, cache lines) makes them dearer.
    /// What they wait for each other is not in it.
    fn two_threads(&self) -> Result<Measured> {
        let site = Site::build(self.cores)?.with_load_on(vec![0, 1])?;
        let one = site.start_on(Contender::Pen, &[1])?;
        let two = site.start_on(Contender::Pen, &[0, 1])?;
        let mut samples = Vec::new();
        for _ in 0..self.effort.rounds {
            let before = two.thread_seconds()?;
            let of_two = site.measure(&two, Load::Kept, self.effort.seconds)?;
            ensure_shared(&before, &two.thread_seconds()?)?;
            let of_one = site.measure(&one, Load::Kept, self.effort.seconds)?;
            samples.push(of_two.per_cpu_second() / of_one.per_cpu_second());
        }
        let note = "load and back end are on the same two cores".into();
        Ok(Measured { samples, note })
    }
}

/// # Errors
/// One thread did nearly all of the work between two looks.
fn ensure_shared(before: &[f64], after: &[f64]) -> Result<()> {
    let mut used: Vec<f64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    used.sort_by(|a, b| b.total_cmp(a));
    let (most, next) = (used.first(), used.get(1));
    let shared = most
        .zip(next)
        .is_some_and(|(most, next)| *next > most / 2.0);
    ensure!(shared, "one thread did most of the work: {used:?} s");
    Ok(())
}

/// What makes a figure.
pub(super) struct Measured {
    pub(super) samples: Vec<f64>,
    pub(super) note: String,
}

/// A figure, whatever came of measuring it.
pub(super) fn figure(name: String, target: Target, measured: Result<Measured>) -> Figure {
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
        assert_eq!((names.len(), count), (36, 36), "{names:#?}");
        assert!(any(&|name| name.contains("bulk")));
        assert!(!any(&|name| name.contains("AF_XDP")));
    }

    #[test]
    fn two_cores_take_a_third() {
        assert_eq!(load_cores(2), None);
        assert_eq!(load_cores(3), Some(vec![0]));
        assert_eq!(load_cores(5), Some(vec![0, 3, 4]));
        assert!(beyond(TWO_CORES, 2) && !beyond(TWO_CORES, 3) && !beyond("else", 2));
    }

    #[test]
    fn who_leaves_the_work_to_the_other_is_seen() {
        let before = [5.0, 1.0, 1.0];
        assert!(ensure_shared(&before, &[5.0, 2.0, 1.9]).is_ok());
        assert!(ensure_shared(&before, &[5.0, 2.0, 1.2]).is_err());
        assert!(ensure_shared(&[1.0], &[2.0]).is_err());
    }
}
