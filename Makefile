# Pen's commands. Each one installs what it needs (packaging/setup.sh), works, ends, and leaves
# nothing behind but target/. Root is needed for namespaces and BPF: as root, or by sudo.

SHELL := /bin/bash
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E)
# Test binaries run as root; the compiler does not. Cargo refuses a runner that is set and empty.
ifneq ($(SUDO),)
export CARGO_TARGET_$(shell uname -m | tr a-z A-Z)_UNKNOWN_LINUX_GNU_RUNNER := $(SUDO)
endif
CARGO := cargo
BINARIES := $(CARGO) build --release --locked -p pen-xdp -p pen-ctl -p pen-bench

.PHONY: demo test test-all bench ebpf lint vm-smoke fuzz man deb deb-test clean

## Real HTTP through a VIP to three back ends, in namespaces, and what Pen says about it.
demo:
	packaging/setup.sh build test
	$(BINARIES)
	$(SUDO) target/release/demo

## Every test, the traffic matrix by pairs.
test:
	packaging/setup.sh build test
	packaging/sslyze.sh
	$(CARGO) test --locked --workspace

## Every test, the whole traffic matrix.
test-all:
	PEN_TEST_ALL=1 $(MAKE) test

## The figures of README.md, written to bench/results.
bench:
	packaging/setup.sh build test bench
	$(BINARIES)
	$(SUDO) target/release/bench $(BENCH)
	$(SUDO) target/release/bench --proxy $(BENCH)

## The eBPF object and the digest of its sources, from source.
ebpf:
	packaging/setup.sh build ebpf
	packaging/ebpf.sh

## Formatting and lints, as in CI.
lint:
	packaging/setup.sh build
	$(CARGO) fmt --all --check
	cd pen-ebpf && $(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

## Debian 12's own 6.1 kernel under QEMU: the object's cases, TCP over virtio-net (as many queues as
## CPUs, and more) and e1000.
vm-smoke:
	packaging/setup.sh build test vm
	$(BINARIES)
	object=$$($(CARGO) test --locked -p pen-xdp --test object --no-run --message-format=json | \
	    jq -r 'select(.executable and .target.name == "object").executable') && \
	    $(SUDO) bench/vm/smoke.sh --object-test "$$object"
	$(SUDO) bench/vm/smoke.sh --nic virtio-net-spare
	$(SUDO) bench/vm/smoke.sh --nic e1000

## The parsers under libFuzzer; needs `cargo install cargo-fuzz`. The variable lets a stable compiler
## take the sanitizer's options.
fuzz:
	cd pen-common/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run steer -- -max_total_time=60
	cd pen-common/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run proxy_protocol -- -max_total_time=60
	cd pen-common/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run http_head -- -max_total_time=60
	cd pen-common/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run ocsp -- -max_total_time=60
	cd pen-common/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run certificates -- -max_total_time=60
	cd pen-common/fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz run hello -- -max_total_time=60

## Man pages and completions, from what the programs go by, to target/man.
man:
	packaging/setup.sh build
	$(CARGO) run --release --locked -p pen-manual -- target/man

## The Debian package `pen-xdp`, to target/debian.
deb: man
	packaging/setup.sh build deb
	$(CARGO) build --release --locked -p pen-xdp -p pen-ctl
	packaging/deb.sh

## That package installed, upgraded, removed and purged in a Debian 12 of its own, where it serves.
deb-test: deb
	packaging/setup.sh deb
	$(SUDO) packaging/deb_test.sh

clean:
	$(CARGO) clean
	rm -rf pen-ebpf/target
