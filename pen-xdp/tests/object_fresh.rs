//! Whether the committed objects were built from the sources that stand beside them. Needs neither
//! root nor a compiler for eBPF.

use std::{collections::BTreeSet, fs, path::Path};

use sha2::{Digest, Sha256};

#[test]
fn the_objects_are_built_from_these_sources() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let digest = fs::read_to_string(top.join("pen-xdp/bpf/pen.digest")).unwrap();
    let mut listed = BTreeSet::new();
    let mut stale = Vec::new();
    for line in digest.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let bytes = fs::read(top.join(name)).unwrap_or_default();
        let now: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if now != sum {
            stale.push(name);
        }
        listed.insert(name);
    }
    assert!(
        stale.is_empty(),
        "changed since the objects were built: {stale:?}; run: make ebpf"
    );
    for name in [
        "pen-ebpf/src/main.rs",
        "pen-common/src/steer.rs",
        "pen-ebpf/Cargo.lock",
    ] {
        assert!(
            listed.contains(name),
            "{name} is not in pen.digest; run: make ebpf"
        );
    }
}
