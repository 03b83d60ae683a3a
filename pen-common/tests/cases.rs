//! [`CASES`] on the slice host.

use std::{collections::HashSet, path::Path};

use pen_common::{
    testing::{CASES, Case, World, pcap},
    verdict::{Reason, Verdict},
};

#[test]
fn slice_host_decides_as_the_table_says() {
    let world = World::example();
    let failures: Vec<String> = CASES.iter().filter_map(|case| run(&world, case)).collect();
    assert!(
        failures.is_empty(),
        "{} failed\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// What went otherwise than the case says; a capture of it is left for the reader.
fn run(world: &World, case: &Case) -> Option<String> {
    world.set_finish(case.finish);
    let before = world.noted(Reason::ChecksumFinished);
    for frame in &case.setup {
        world.steer(frame);
    }
    let (verdict, out) = world.steer(&case.frame);
    if verdict == case.verdict && out == case.out {
        let finished = world.noted(Reason::ChecksumFinished) - before;
        let beyond_macs = case.out.get(12..) != case.frame.get(12..);
        // An answer has a checksum of its own.
        let forwarded = matches!(case.verdict, Verdict::Forward(_));
        let expected = u64::from(case.finish && beyond_macs && forwarded);
        return (finished != expected).then(|| format!("{}: {finished} sums noted", case.name));
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.pcap", case.name));
    let mut frames: Vec<&[u8]> = case.setup.iter().map(Vec::as_slice).collect();
    frames.extend([case.frame.as_slice(), &out, &case.out]);
    std::fs::write(&path, pcap(&frames)).expect("the target folder can be written");
    let differs = (0..out.len().max(case.out.len())).find(|at| out.get(*at) != case.out.get(*at));
    Some(format!(
        "{}: {verdict:?}, not {:?}; first other byte: {differs:?}; frames in, out, wanted: {}",
        case.name,
        case.verdict,
        path.display(),
    ))
}

#[test]
fn names_are_unique_and_fit_for_files() {
    let mut seen = HashSet::new();
    for case in CASES.iter() {
        assert!(seen.insert(case.name), "{} twice", case.name);
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        assert!(case.name.bytes().all(fits), "{}", case.name);
    }
    assert!(CASES.len() >= 80);
}

#[test]
fn every_reason_of_the_decision_has_a_case() {
    // These belong to a host, not to the decision.
    let of_hosts = [
        Reason::Redirected,
        Reason::Late,
        Reason::NoRoom,
        Reason::NotWhole,
    ];
    for reason in Reason::ALL {
        let met = CASES.iter().any(|case| case.verdict.reason() == *reason);
        let note = *reason == Reason::ChecksumFinished;
        assert!(
            met || note || of_hosts.contains(reason),
            "{}",
            reason.label()
        );
    }
}
