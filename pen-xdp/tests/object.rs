//! The committed object, as the kernel runs it: loaded by aya and by libbpf, run on single frames
//! (BPF_PROG_TEST_RUN), and held against the case table and the slice host.
//!
//! Needs CAP_BPF. After a change of the programs or of the decision: `make ebpf`.
#![allow(
    clippy::unwrap_used,
    reason = "a test and its helpers say by panicking what went wrong"
)]

use std::os::fd::AsFd;

use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{TestRun, TestRunOptions, Xdp},
};
use libbpf_rs::{MapCore, ObjectBuilder, ProgramInput};
use pen::{
    ebpf::{Capability, OBJECT, check_privileges, possible_cpus},
    mapped::{Array, Mapped, Shape, now_ns},
};
use pen_common::{
    tables::HEAD_WORDS,
    testing::{CASES, Case, World, bytes_at, net, random_frame, v4, v6},
    verdict::{Reason, Verdict},
};

/// Actions of XDP programs (include/uapi/linux/bpf.h).
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Bytes of an Ethernet header.
const ETHERNET_LEN: usize = 14;

/// Random frames on which slice and object are compared.
const RANDOM: u64 = 100_000;

/// What a test-run gives: the action and the frame afterwards.
type Outcome = (u32, Vec<u8>);

/// One loaded object and its memory.
trait Host {
    fn memory(&self) -> &Mapped;
    fn try_run(&mut self, frame: &[u8]) -> Result<Outcome, String>;

    fn run(&mut self, frame: &[u8]) -> Outcome {
        let outcome = self.try_run(frame);
        outcome.unwrap_or_else(|why| panic!("{} bytes: test-run: {why}", frame.len()))
    }

    /// Runs a frame and finds out by its counter why it met its fate.
    fn steer(&mut self, frame: &[u8]) -> (Outcome, Vec<Reason>) {
        let count = |host: &Self| -> Vec<u64> {
            let memory = host.memory();
            Reason::ALL
                .iter()
                .map(|reason| memory.count(*reason))
                .collect()
        };
        let before = count(self);
        let outcome = self.run(frame);
        let after = count(self);
        let reasons = Reason::ALL.iter().zip(before.iter().zip(&after));
        let met = reasons.filter(|(_, (before, after))| before != after);
        (outcome, met.map(|(reason, _)| *reason).collect())
    }
}

struct Aya {
    ebpf: Ebpf,
    memory: Mapped,
    out: Vec<u8>,
}

fn shape() -> Shape {
    Shape::new(1 << 20, possible_cpus().unwrap(), 1)
}

impl Aya {
    fn load(world: &World, finish: bool) -> Self {
        let shape = shape();
        let finish = u8::from(finish);
        let mut loader = EbpfLoader::new();
        loader.override_global("FINISH_CHECKSUMS", &finish, true);
        for array in Array::ALL {
            loader.map_max_entries(array.name(), array.elements(&shape));
        }
        let mut ebpf = loader.load(OBJECT).unwrap();
        for name in ["steer", "pass"] {
            let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap();
        }
        let memory = Mapped::of_program(shape, |array| match ebpf.map(array.name()) {
            Some(Map::Array(data)) => Ok(data.fd().as_fd()),
            _ => panic!("no array {}", array.name()),
        });
        let memory = memory.unwrap();
        fill(&memory, world);
        Self {
            ebpf,
            memory,
            out: vec![0; 16_384],
        }
    }

    fn program(&self, name: &str) -> &Xdp {
        self.ebpf.program(name).unwrap().try_into().unwrap()
    }
}

impl Host for Aya {
    fn memory(&self) -> &Mapped {
        &self.memory
    }

    fn try_run(&mut self, frame: &[u8]) -> Result<Outcome, String> {
        let program: &Xdp = self.ebpf.program("steer").unwrap().try_into().unwrap();
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut self.out),
                ..TestRunOptions::new()
            })
            .map_err(|error| format!("{error:?}"))?;
        let len = result.data_size_out as usize;
        Ok((result.return_value, self.out[..len].to_vec()))
    }
}

struct Libbpf {
    object: libbpf_rs::Object,
    memory: Mapped,
    out: Vec<u8>,
}

impl Libbpf {
    fn load(world: &World) -> Self {
        let shape = shape();
        let mut open = ObjectBuilder::default().open_memory(OBJECT).unwrap();
        for mut map in open.maps_mut() {
            let array = Array::ALL.iter().find(|array| array.name() == map.name());
            if let Some(array) = array {
                map.set_max_entries(array.elements(&shape)).unwrap();
            }
        }
        let object = open.load().unwrap();
        let maps: Vec<_> = object.maps().collect();
        let memory = Mapped::of_program(shape, |array| {
            let map = maps.iter().find(|map| map.name() == array.name());
            Ok(map.unwrap().as_fd())
        });
        let memory = memory.unwrap();
        drop(maps);
        fill(&memory, world);
        Self {
            object,
            memory,
            out: vec![0; 16_384],
        }
    }
}

impl Host for Libbpf {
    fn memory(&self) -> &Mapped {
        &self.memory
    }

    fn try_run(&mut self, frame: &[u8]) -> Result<Outcome, String> {
        let program = self
            .object
            .progs_mut()
            .find(|program| program.name() == "steer");
        let input = ProgramInput {
            data_in: Some(frame),
            data_out: Some(&mut self.out),
            ..ProgramInput::default()
        };
        let output = program.unwrap().test_run(input);
        let output = output.map_err(|error| error.to_string())?;
        let bytes = output.data.unwrap().to_vec();
        Ok((output.return_value, bytes))
    }
}

/// Writes the tables of `world` into a host's memory.
fn fill(memory: &Mapped, world: &World) {
    let words = world.words();
    for (bank, head) in (0..).zip(&words.root[1..]) {
        memory.write_head(bank, &head_of(head), &World::key());
    }
    for (index, entry) in (0..).zip(&words.vips) {
        memory.write_vip(index, *entry);
    }
    for (index, word) in (0..).zip(&words.pools) {
        memory.write_pool(index, *word);
    }
    memory.write_slots(0, &words.slots);
    for (index, word) in (0..).zip(&words.backends) {
        memory.write_backend(index, *word);
    }
    for (index, range) in (0..).zip(&words.ranges) {
        memory.write_range(index, *range);
    }
    memory.store_root(words.root[0][0]);
}

fn head_of(words: &[u64; HEAD_WORDS]) -> pen_common::tables::Head {
    pen_common::tables::Head::from_words(*words)
}

fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Forward(_) | Verdict::Reply(_) => XDP_TX,
        Verdict::Pass(_) => XDP_PASS,
        Verdict::Drop(_) => XDP_DROP,
    }
}

/// Whether tests here can run; if not, says so aloud, and fails in CI.
fn ready(test: &str) -> bool {
    match check_privileges(&[Capability::Bpf, Capability::NetAdmin]) {
        Ok(()) => true,
        Err(error) => {
            lab::skip(test, &error.to_string());
            false
        }
    }
}

/// Every case's frame, the verdict, the counter and the bytes.
fn run_cases(host: &mut impl Host, cases: impl Iterator<Item = &'static Case>) {
    let mut run = 0;
    for case in cases {
        // Linux 6.1's test-run takes no frame that ends inside its Ethernet header.
        if case.frame.len() < ETHERNET_LEN && host.try_run(&case.frame).is_err() {
            println!("{}: not run, this kernel's test-run refuses it", case.name);
            continue;
        }
        for frame in &case.setup {
            host.run(frame);
        }
        let before = backend_frames(host.memory(), case.verdict);
        let ((got, out), mut reasons) = host.steer(&case.frame);
        reasons.retain(|reason| *reason != Reason::ChecksumFinished);
        assert_eq!(reasons, [case.verdict.reason()], "{}: counted", case.name);
        assert_eq!(got, action(case.verdict), "{}: action", case.name);
        assert_eq!(out, case.out, "{}: bytes", case.name);
        if let Verdict::Forward(_) = case.verdict {
            let after = backend_frames(host.memory(), case.verdict);
            let more = (after.0 - before.0, after.1 - before.1);
            assert_eq!(more, (1, case.frame.len() as u64), "{}: traffic", case.name);
        }
        run += 1;
    }
    assert!(run > 0, "no case was run");
}

fn backend_frames(memory: &Mapped, verdict: Verdict) -> (u64, u64) {
    let Verdict::Forward(id) = verdict else {
        return (0, 0);
    };
    let traffic = memory.traffic(id);
    (traffic.frames, traffic.bytes)
}

#[test]
fn cases_by_aya() {
    if !ready("cases_by_aya") {
        return;
    }
    for finish in [false, true] {
        let mut host = Aya::load(&World::example(), finish);
        run_cases(&mut host, CASES.iter().filter(|case| case.finish == finish));
    }
}

#[test]
fn cases_by_libbpf() {
    if !ready("cases_by_libbpf") {
        return;
    }
    let mut host = Libbpf::load(&World::example());
    run_cases(&mut host, CASES.iter().filter(|case| !case.finish));
}

#[test]
fn random_frames_meet_the_same_fate_as_on_a_slice() {
    if !ready("random_frames_meet_the_same_fate_as_on_a_slice") {
        return;
    }
    let world = World::example();
    world.set_finish(true);
    let mut host = Aya::load(&world, true);
    for seed in 0..RANDOM {
        let frame = random_frame(seed);
        world.set_now_ms(now_ns() / 1_000_000);
        let finished = world.noted(Reason::ChecksumFinished);
        let (verdict, bytes) = world.steer(&frame);
        let finished = world.noted(Reason::ChecksumFinished) > finished;
        let ((got, out), reasons) = host.steer(&frame);
        assert_eq!(got, action(verdict), "seed {seed}: action for {verdict:?}");
        assert_eq!(out, bytes, "seed {seed}: bytes after {verdict:?}");
        let mut expected = vec![verdict.reason()];
        if finished {
            expected.push(Reason::ChecksumFinished);
        }
        assert_eq!(reasons, expected, "seed {seed}: counted");
    }
}

/// A frame longer than one buffer of the kernel's: headers in the first, payload in several.
/// The program remembers as the slice does: each frame goes where it went, slots changed or not.
#[test]
fn flows_stay_when_the_slots_change() {
    if !ready("flows_stay_when_the_slots_change") {
        return;
    }
    let mut world = World::example();
    let mut host = Aya::load(&world, false);
    let mut kept = 0;
    for slots in [[1, 2, 3], [3, 3, 3], [2, 2, 3]] {
        world.set_pool(net::WEB, &slots);
        fill(host.memory(), &world);
        for port in 1_000..1_100 {
            let tcp = v4(net::CLIENT4, net::VIP4).tcp(port, 81, b"").frame();
            let udp = v6(net::CLIENT6, net::VIP6).udp(port, 81, b"").frame();
            // Every tenth TCP flow begins anew.
            let flags = if port % 10 == 0 { 0x02 } else { 0x18 };
            for frame in [bytes_at(tcp, 47, &[flags]), udp] {
                let (verdict, out) = world.steer(&frame);
                assert_eq!(host.run(&frame), (action(verdict), out), "{slots:?} {port}");
                let Verdict::Forward(id) = verdict else {
                    panic!("{verdict:?}");
                };
                kept += u32::from(!slots.contains(&id));
            }
        }
    }
    assert!(
        kept > 100,
        "{kept} frames stayed with a back end without slots"
    );
}

#[test]
fn a_jumbo_frame_is_finished_and_forwarded() {
    if !ready("a_jumbo_frame_is_finished_and_forwarded") {
        return;
    }
    let world = World::example();
    world.set_finish(true);
    let mut host = Aya::load(&world, true);
    let finishing = CASES.iter().find(|case| {
        case.finish && matches!(case.verdict, Verdict::Forward(_)) && case.frame[12..14] == [8, 0]
    });
    let mut frame = finishing.unwrap().frame.clone();
    for (at, byte) in (0..9_000 - frame.len()).map(|at| (at, at as u8)) {
        frame.push(byte.wrapping_mul(31) ^ (at >> 8) as u8);
    }
    let (verdict, bytes) = {
        lengthen_v4(&mut frame);
        world.steer(&frame)
    };
    let ((got, out), reasons) = host.steer(&frame);
    assert_eq!(got, action(verdict));
    assert_eq!(reasons, [Reason::Forwarded, Reason::ChecksumFinished]);
    assert!(out == bytes, "bytes differ");
    assert!(out[12..] != frame[12..], "its checksum was finished");
}

/// States the frame's whole length in its IPv4 header and puts the pseudo-header sum for it into
/// the checksum field of its TCP header, as a sender with checksum offload does.
fn lengthen_v4(frame: &mut [u8]) {
    let len = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&len.to_be_bytes());
    assert_eq!((frame[14], frame[23]), (0x45, 6), "plain IPv4 and TCP");
    let word = |at: usize| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let sum = (26..34).step_by(2).map(word).sum::<u32>() + 6 + u32::from(len - 20);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = ((folded & 0xffff) + (folded >> 16)) as u16;
    frame[50..52].copy_from_slice(&folded.to_be_bytes());
}

/// A frame goes to its queue's socket only while the worker's heartbeat is fresh, and without a
/// socket the program forwards it itself.
#[test]
fn without_a_socket_the_program_forwards() {
    if !ready("without_a_socket_the_program_forwards") {
        return;
    }
    let mut host = Aya::load(&World::example(), false);
    let case = CASES
        .iter()
        .find(|case| matches!(case.verdict, Verdict::Forward(_)))
        .unwrap();
    for frame in &case.setup {
        host.run(frame);
    }
    for heartbeat in [0, 1, now_ns()] {
        host.memory().store_heartbeat(0, heartbeat);
        let ((got, out), reasons) = host.steer(&case.frame);
        assert_eq!((got, reasons), (XDP_TX, vec![Reason::Forwarded]));
        assert_eq!(out, case.out);
    }
}

#[test]
fn pass_passes() {
    if !ready("pass_passes") {
        return;
    }
    let host = Aya::load(&World::example(), false);
    let result = host.program("pass").test_run(TestRunOptions {
        data_in: Some(&[0; 64]),
        ..TestRunOptions::new()
    });
    assert_eq!(result.unwrap().return_value, XDP_PASS);
}

/// The kernel gives up at a million steps; older kernels take more steps than newer ones.
#[test]
fn the_verifier_has_an_easy_time() {
    if !ready("the_verifier_has_an_easy_time") {
        return;
    }
    let host = Aya::load(&World::example(), true);
    let info = host.program("steer").info().unwrap();
    let steps = info.verified_instruction_count().unwrap();
    println!(
        "steer: {steps} instructions verified, {} bytes translated, {} bytes of machine code",
        info.size_translated().unwrap_or_default(),
        info.size_jitted()
    );
    assert!(steps < 300_000, "{steps} instructions verified");
}
