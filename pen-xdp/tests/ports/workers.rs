//! Workers on ports in memory: no privileges, no network.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, bounded};
use pen::mapped::{Mapped, MappedMemory, now_ns};
use pen::plane::{
    Busy, Counting, Event, MemLine, MemPort, Queue, QueueReport, WorkerConfig, Workers,
};
use pen_common::tables::{BackendId, HEAD_WORDS, Memory};
use pen_common::testing::{CASES, Case, World, forwarded, net, v4};
use pen_common::verdict::{Reason, Verdict};

use crate::memory::{mapped, row};

const LIMIT: Duration = Duration::from_secs(10);
const FRAMES: u32 = 256;
const ROOM: usize = 2_048;

/// One worker with one queue, and its line.
fn worker<M>(number: u32, memory: M, busy: Busy) -> (WorkerConfig<MemPort, M>, Arc<MemLine>) {
    let (port, line) = MemPort::new(FRAMES, ROOM);
    let queue = Queue {
        number,
        port,
        memory,
    };
    let config = WorkerConfig {
        core: Some(0),
        busy,
        queues: vec![queue],
    };
    (config, line)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what} did not come about");
        thread::sleep(Duration::from_millis(1));
    }
}

fn only_queue(workers: Workers) -> QueueReport {
    workers.stop()[0].queues[0]
}

/// TCP to the first service of the example.
fn to_service(number: u16) -> Vec<u8> {
    let packet = v4(net::CLIENT4, net::VIP4).tcp(1_000 + number, 80, b"payload");
    packet.from(net::CLIENT).frame()
}

/// What a worker makes of each case: the frame that leaves, if one does, and the counter.
#[test]
fn cases_through_a_worker() {
    let world = mapped(&World::example());
    for case in CASES.iter() {
        run_case(&world, case);
    }
}

fn run_case(world: &Arc<Mapped>, case: &Case) {
    let name = case.name;
    let memory = row(world, 0, case.finish);
    let (config, line) = worker(0, memory, Busy::Never);
    let (sender, _events) = bounded(16);
    for frame in &case.setup {
        line.push(vec![frame.clone()]);
    }
    let workers = Workers::start(vec![config], &sender).unwrap();
    until(name, || {
        workers.report()[0].queues[0].received == case.setup.len() as u64
    });
    while line.take().is_some() {}
    let before = Reason::ALL.iter().map(|reason| world.count(*reason));
    let before: Vec<u64> = before.collect();
    line.push(vec![case.frame.clone()]);
    let queue = only_queue(workers);
    assert_eq!(queue.received, case.setup.len() as u64 + 1, "{name}");
    assert!(queue.accounting.is_conserved() && queue.accounting.receive == FRAMES);
    let (reason, out) = match case.verdict {
        Verdict::Forward(_) => (Reason::Forwarded, Some(&case.out)),
        Verdict::Reply(reason) => (reason, Some(&case.out)),
        // There is no way back to the kernel from here.
        Verdict::Pass(_) => (Reason::Late, None),
        Verdict::Drop(reason) => (reason, None),
    };
    assert_eq!(line.take().as_ref(), out, "{name}");
    assert_eq!(line.take(), None, "{name}");
    for (counter, before) in Reason::ALL.iter().zip(before) {
        let grown = world.count(*counter) - before;
        let noted = *counter == Reason::ChecksumFinished && case.finish;
        let expected = u64::from(*counter == reason);
        assert!(noted || grown == expected, "{name}: {counter:?} {grown}");
    }
}

#[test]
fn many_frames_over_two_workers_are_conserved() {
    const COUNT: u16 = 20_000;
    let world = mapped(&World::example());
    let (first, one) = worker(0, row(&world, 0, false), Busy::Auto);
    let (second, two) = worker(5, row(&world, 1, false), Busy::Always);
    let (sender, events) = bounded(16);
    let workers = Workers::start(vec![first, second], &sender).unwrap();
    for number in 0..COUNT {
        let line = if number % 2 == 0 { &one } else { &two };
        line.push(vec![to_service(number)]);
        if number % 100 == 0 {
            for report in workers.report() {
                assert!(report.queues[0].accounting.is_conserved(), "{report:?}");
            }
        }
    }
    let reports = workers.stop();
    for (report, line) in reports.iter().zip([&one, &two]) {
        assert!(report.pinned);
        let queue = report.queues[0];
        let half = u64::from(COUNT / 2);
        assert_eq!((queue.received, queue.sent), (half, half));
        assert_eq!(
            (queue.accounting.receive, queue.accounting.send),
            (FRAMES, 0)
        );
        assert_eq!(std::iter::from_fn(|| line.take()).count() as u64, half);
    }
    assert_eq!(world.count(Reason::Forwarded), u64::from(COUNT));
    let sent: u64 = (0..20).map(|id| world.traffic(id).frames).sum();
    assert_eq!(sent, u64::from(COUNT));
    assert!(world.heartbeat(0) > 0 && world.heartbeat(5) > 0);
    let ended = events
        .try_iter()
        .filter(|e| matches!(e, Event::Ended { .. }));
    assert_eq!(ended.count(), 2);
}

/// Headers are rewritten in the first piece alone; a sum that the sender left to hardware is taken
/// over all of them.
#[test]
fn a_packet_in_pieces_is_forwarded_whole() {
    let world = mapped(&World::example());
    let (config, line) = worker(0, row(&world, 0, true), Busy::Never);
    let payload: Vec<u8> = (0..4_000u32).map(|n| n as u8).collect();
    let packet = || v4(net::CLIENT4, net::VIP4).from(net::CLIENT);
    let finished = packet().tcp(1_000, 80, &payload).frame();
    let unfinished = packet().tcp(1_000, 80, &payload).unfinished().frame();
    assert_ne!(finished, unfinished);
    for whole in [&finished, &unfinished] {
        // An odd length in the middle: words go over the border.
        line.push(whole.chunks(1_501).map(<[u8]>::to_vec).collect());
    }
    let (sender, _events) = bounded(16);
    let queue = only_queue(Workers::start(vec![config], &sender).unwrap());
    assert_eq!((queue.received, queue.sent), (2, 2));
    assert_eq!(world.count(Reason::ChecksumFinished), 1);
    for _ in 0..2 {
        let out = line.take().unwrap();
        let mut macs = (1..20).map(net::backend);
        assert!(macs.any(|mac| forwarded(&finished, mac) == out));
    }
}

#[test]
fn a_failing_port_loses_its_heartbeat_until_it_works_again() {
    let world = mapped(&World::example());
    let (config, line) = worker(3, row(&world, 0, false), Busy::Auto);
    let (sender, events) = bounded(16);
    let workers = Workers::start(vec![config], &sender).unwrap();
    until("a heartbeat", || world.heartbeat(3) > 0);
    for _ in 0..3 {
        line.fail(io::Error::from_raw_os_error(libc::ENETDOWN));
    }
    let down = events.recv_timeout(LIMIT).unwrap();
    assert!(matches!(down, Event::PortError { queue: 3, ref error }
        if error.raw_os_error() == Some(libc::ENETDOWN)));
    assert!(workers.report()[0].queues[0].failing);
    let stopped = world.heartbeat(3);
    line.push(vec![to_service(1)]);
    // After 50 ms and 100 ms more: these tries fail as well, without another event.
    thread::sleep(Duration::from_millis(80));
    assert_eq!(world.heartbeat(3), stopped);
    assert_eq!(line.waiting(), 1);
    let back = events.recv_timeout(LIMIT).unwrap();
    assert!(matches!(back, Event::PortBack { queue: 3 }));
    until("the heartbeat", || world.heartbeat(3) > stopped);
    let queue = only_queue(workers);
    assert!(!queue.failing && queue.sent == 1);
}

#[test]
fn heartbeats_go_on_while_parked_and_spinning() {
    let world = mapped(&World::example());
    let busy = [Busy::Never, Busy::Auto, Busy::Always];
    let (configs, _lines): (Vec<_>, Vec<_>) = (0..3)
        .zip(busy)
        .map(|(number, busy)| worker(number, row(&world, number, false), busy))
        .unzip();
    let (sender, _events) = bounded(16);
    let _workers = Workers::start(configs, &sender).unwrap();
    until("three heartbeats", || {
        (0..3).all(|queue| world.heartbeat(queue) > 0)
    });
    thread::sleep(Duration::from_millis(300));
    let now = now_ns();
    for queue in 0..3 {
        let age = now - world.heartbeat(queue);
        assert!(age < pen_common::tables::HEARTBEAT_NS_MAX, "{queue}: {age}");
    }
}

#[test]
fn every_worker_passes_a_publication() {
    let world = mapped(&World::example());
    let (config, line) = worker(0, row(&world, 0, false), Busy::Always);
    let (sender, _events) = bounded(16);
    let workers = Workers::start(vec![config], &sender).unwrap();
    for number in 0..200 {
        line.push(vec![to_service(number)]);
        let then = workers.epochs();
        until("a pass", || then.passed(&workers.epochs()));
    }
    assert_eq!(only_queue(workers).sent, 200);
}

#[test]
fn an_unknown_mac_is_told_once() {
    let world = mapped(&World::example());
    let (config, line) = worker(2, row(&world, 0, false), Busy::Never);
    let packet = v4(net::CLIENT4, net::VIP4).tcp(1_000, 85, b"");
    let frame = packet.from(net::CLIENT).frame();
    for _ in 0..100 {
        line.push(vec![frame.clone()]);
    }
    let (sender, events) = bounded(16);
    let workers = Workers::start(vec![config], &sender).unwrap();
    until("the end of the line", || line.waiting() == 0);
    drop(workers);
    assert_eq!(world.count(Reason::NoMac), 100);
    let told: Vec<Event> = events.try_iter().collect();
    assert!(matches!(told[0], Event::NoMac { queue: 2 }), "{told:?}");
    assert_eq!(told.len(), 2, "{told:?}");
}

/// Tables that break the worker's thread on the first frame.
struct Broken(MappedMemory);

impl Counting for Broken {
    fn count(&self, _reason: Reason) {
        unreachable!("no frame is decided about")
    }

    fn traffic(&self, _backend: BackendId, _bytes: u64) {}

    fn heartbeat(&self, queue: u32, now_ns: u64) {
        Counting::heartbeat(&self.0, queue, now_ns);
    }
}

impl Memory for Broken {
    fn root(&self) -> u64 {
        panic!("a worker that breaks on purpose")
    }

    fn head(&self, _bank: u32) -> Option<[u64; HEAD_WORDS]> {
        None
    }

    fn vip(&self, _index: u32) -> Option<[u64; 4]> {
        None
    }

    fn pool(&self, _index: u32) -> Option<u64> {
        None
    }

    fn slots(&self, _index: u32) -> Option<u64> {
        None
    }

    fn backend(&self, _index: u32) -> Option<u64> {
        None
    }

    fn range(&self, _index: u32) -> Option<[u64; 2]> {
        None
    }

    fn fragment(&self, _index: u32) -> Option<u64> {
        None
    }

    fn set_fragment(&self, _index: u32, _entry: u64) {}

    fn key<const N: usize>(&self, _bank: u32) -> Option<[u64; N]> {
        None
    }

    fn flow(&self, _index: u32) -> Option<u64> {
        None
    }

    fn set_flow(&self, _index: u32, _entry: u64) {}

    fn flow_clock(&self) -> u64 {
        0
    }

    fn now_ms(&self) -> u64 {
        0
    }

    fn finish_checksums(&self) -> bool {
        false
    }

    fn note(&self, _reason: Reason) {}
}

fn ended(events: &Receiver<Event>) -> bool {
    matches!(events.recv_timeout(LIMIT), Ok(Event::Ended { worker: 0 }))
}

#[test]
fn a_broken_worker_holds_nobody_up() {
    let world = mapped(&World::example());
    let (config, line) = worker(0, Broken(row(&world, 0, false)), Busy::Always);
    let (sender, events) = bounded(16);
    let workers = Workers::start(vec![config], &sender).unwrap();
    until("a heartbeat", || world.heartbeat(0) > 0);
    let then = workers.epochs();
    line.push(vec![to_service(1)]);
    assert!(ended(&events));
    assert!(then.passed(&workers.epochs()));
    let last = world.heartbeat(0);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(world.heartbeat(0), last);
    assert_eq!(workers.stop().len(), 1);
}
