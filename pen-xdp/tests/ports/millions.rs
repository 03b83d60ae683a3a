//! Ten million frames over ports in memory, and not one that is unaccounted for.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use pen::plane::{Busy, MemLine, MemPort, Queue, SEGMENTS_MAX, WorkerConfig, Workers};
use pen_common::testing::{CASES, Case, World, net, v4};
use pen_common::verdict::{Fate, Reason, Verdict};

use crate::memory::{mapped, row};

const FRAMES: u64 = 10_000_000;
/// Of each port: room for a batch of packets in the most pieces that are used here, and one more.
const BUFFERS: u32 = 512;
/// Of a first buffer, so that growing a frame to it costs little.
const ROOM: usize = 256;
/// Packets pushed between two looks.
const PORTION: u64 = 1_024;
/// Packets that may wait in a line: memory is bounded.
const WAITING: usize = 8_192;
/// Far beyond what it takes, to end where something stands still.
const LIMIT: Duration = Duration::from_secs(150);

/// One kind of packet and what must become of it.
struct Kind {
    name: &'static str,
    pieces: Vec<Vec<u8>>,
    reason: Reason,
    /// A sum that the sender left to hardware is finished on the way.
    finished: bool,
    /// What leaves, if anything does.
    out: Option<Vec<u8>>,
}

impl Kind {
    /// A case, in one piece.
    fn of_case(case: &Case) -> Self {
        let (reason, sent) = match case.verdict {
            Verdict::Forward(_) => (Reason::Forwarded, true),
            Verdict::Reply(reason) => (reason, true),
            // There is no way back to the kernel from a worker.
            Verdict::Pass(_) => (Reason::Late, false),
            Verdict::Drop(reason) => (reason, false),
        };
        Self {
            name: case.name,
            pieces: vec![case.frame.clone()],
            reason,
            // Forwarding alone changes nothing behind the MAC addresses.
            finished: reason == Reason::Forwarded && case.out[12..] != case.frame[12..],
            out: sent.then(|| case.out.clone()),
        }
    }

    /// Forwarded, in three pieces of odd lengths; `finish` of a sum left to hardware.
    fn in_pieces(world: &World, finish: bool) -> Self {
        let packet = v4(net::CLIENT4, net::VIP4).from(net::CLIENT);
        let packet = packet.tcp(1_000, 80, &[7; 401]);
        let (verdict, out) = world.steer(&packet.frame());
        assert!(matches!(verdict, Verdict::Forward(_)), "{verdict:?}");
        let frame = if finish {
            packet.unfinished().frame()
        } else {
            packet.frame()
        };
        Self {
            name: "in pieces",
            pieces: frame.chunks(201).map(<[u8]>::to_vec).collect(),
            reason: Reason::Forwarded,
            finished: finish,
            out: Some(out),
        }
    }

    fn in_too_many_pieces() -> Self {
        Self {
            name: "in too many pieces",
            pieces: vec![vec![1; 60]; SEGMENTS_MAX + 1],
            reason: Reason::NotWhole,
            finished: false,
            out: None,
        }
    }

    /// What a worker is shown that finishes sums, or one that does not.
    fn all(world: &World, finish: bool) -> Vec<Self> {
        // Those whose verdict needs no frame before them.
        let cases = CASES
            .iter()
            .filter(|case| case.setup.is_empty() && case.finish == finish);
        let own = [Self::in_pieces(world, finish), Self::in_too_many_pieces()];
        cases.map(Self::of_case).chain(own).collect()
    }
}

/// One worker's line: kinds go in by turns, and what comes out is known in advance.
struct Feed {
    line: Arc<MemLine>,
    kinds: Vec<Kind>,
    pushed: u64,
    /// Packets of which it is known that they came out, or never will.
    settled: u64,
    taken: u64,
}

impl Feed {
    fn kind(&self, number: u64) -> &Kind {
        &self.kinds[(number % self.kinds.len() as u64) as usize]
    }

    fn push_up_to(&mut self, end: u64) {
        while self.pushed < end {
            let mut pieces = self.kind(self.pushed).pieces.clone();
            // The port makes room in the first one; here it costs no second allocation.
            let mut first = Vec::with_capacity(ROOM);
            first.append(&mut pieces[0]);
            pieces[0] = first;
            self.line.push(pieces);
            self.pushed += 1;
        }
    }

    /// Takes what came out: the next of what had to come out, byte by byte.
    fn take(&mut self) {
        while let Some(frame) = self.line.take() {
            while self.kind(self.settled).out.is_none() {
                self.settled += 1;
            }
            let kind = self.kind(self.settled);
            assert_eq!(kind.out.as_ref(), Some(&frame), "{}", kind.name);
            self.settled += 1;
            self.taken += 1;
        }
    }

    /// How many of those pushed are of a kind.
    fn of_kind(&self, wanted: impl Fn(&Kind) -> bool) -> u64 {
        let len = self.kinds.len() as u64;
        let counts = self.kinds.iter().zip(0..).map(|(kind, index)| {
            u64::from(wanted(kind)) * (self.pushed / len + u64::from(index < self.pushed % len))
        });
        counts.sum()
    }
}

/// Every frame of every port is in one place.
fn look(workers: &Workers) {
    for report in workers.report() {
        for queue in report.queues {
            assert!(queue.accounting.is_conserved(), "{queue:?}");
            assert_eq!(queue.accounting.total, BUFFERS);
        }
    }
}

fn feed_all(workers: &Workers, feeds: &mut [Feed], each: u64) {
    let end = Instant::now() + LIMIT;
    while feeds.iter().any(|feed| feed.pushed < each) {
        for feed in feeds.iter_mut() {
            if feed.line.waiting() < WAITING {
                feed.push_up_to(each.min(feed.pushed + PORTION));
            }
            feed.take();
        }
        look(workers);
        assert!(Instant::now() < end, "a worker stands still");
        if feeds.iter().all(|feed| feed.line.waiting() >= WAITING) {
            thread::yield_now();
        }
    }
    while feeds.iter().any(|feed| feed.line.waiting() > 0) {
        feeds.iter_mut().for_each(Feed::take);
        look(workers);
        assert!(Instant::now() < end, "a worker stands still");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn ten_million_frames_are_conserved() {
    let example = World::example();
    let world = mapped(&example);
    let (mut feeds, mut configs) = (Vec::new(), Vec::new());
    for (number, finish) in [(0, false), (1, true)] {
        let (port, line) = MemPort::new(BUFFERS, ROOM);
        let memory = row(&world, number, finish);
        configs.push(WorkerConfig {
            core: None,
            busy: Busy::Auto,
            queues: vec![Queue {
                number,
                port,
                memory,
            }],
        });
        feeds.push(Feed {
            line,
            kinds: Kind::all(&example, finish),
            pushed: 0,
            settled: 0,
            taken: 0,
        });
    }
    let (sender, _events) = bounded(16);
    let workers = Workers::start(configs, &sender).unwrap();
    let start = Instant::now();
    feed_all(&workers, &mut feeds, FRAMES / 2);
    let reports = workers.stop();
    println!("{FRAMES} frames in {:.1?}", start.elapsed());

    for (report, feed) in reports.iter().zip(&mut feeds) {
        feed.take();
        let queue = report.queues[0];
        let sent = feed.of_kind(|kind| kind.out.is_some());
        let not_whole = feed.of_kind(|kind| kind.reason == Reason::NotWhole);
        assert_eq!((queue.sent, feed.taken), (sent, sent));
        assert_eq!(queue.received + queue.not_whole, feed.pushed);
        assert_eq!(queue.not_whole, not_whole);
        assert_eq!(queue.accounting.receive, BUFFERS, "{queue:?}");
    }
    let mut counted = 0;
    for reason in Reason::ALL {
        let counts = |kind: &Kind| match kind.finished {
            true if *reason == Reason::ChecksumFinished => true,
            _ => kind.reason == *reason,
        };
        let of = |feed: &Feed| feed.of_kind(counts);
        let count = world.count(*reason);
        assert_eq!(count, feeds.iter().map(of).sum::<u64>(), "{reason:?}");
        // A note is about a frame that another reason counts.
        counted += if reason.fate() == Fate::Note {
            0
        } else {
            count
        };
    }
    assert_eq!(counted, FRAMES);
    let to_backends: u64 = (0..=net::LAST_BACKEND)
        .map(|id| world.traffic(id).frames)
        .sum();
    assert_eq!(to_backends, world.count(Reason::Forwarded));
}
