#!/bin/sh
# Builds the eBPF objects from source, into the tree:
#
#   pen-xdp/bpf/pen.o       the programs of the interface
#   pen-xdp/bpf/bench.o     baselines and the wrapper for measurements
#   pen-xdp/bpf/pen.digest  of the sources, so that a test can tell whether the objects are fresh
#
# Debian's compiler is called by its full path: a rustup toolchain that stands first in PATH has
# no source of core for `build-std`, and its LLVM need not be the linker's.
#
# BPF_LINKER names a bpf-linker 0.13.0; without it, one in PATH or under target/ is taken, or built.
# PEN_EBPF_OUT names another directory for the result (for a rebuild that is only compared).
set -eu

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
out=${PEN_EBPF_OUT:-$top/pen-xdp/bpf}
target=$top/target/ebpf
version=0.13.0
llvm=/usr/lib/llvm-22

fail() {
    echo "ebpf.sh: $1" >&2
    exit 1
}

[ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && [ -x "$llvm/bin/llvm-strip" ] ||
    fail "Debian's compiler is missing; mend: packaging/setup.sh ebpf"

is_linker() {
    [ "$("$1" --version 2>/dev/null)" = "bpf-linker $version" ]
}

linker=${BPF_LINKER:-$(command -v bpf-linker || true)}
if [ -n "${BPF_LINKER:-}" ] && ! is_linker "$linker"; then
    fail "BPF_LINKER=$linker is no bpf-linker $version"
fi
if ! is_linker "$linker"; then
    linker=$target/linker/bin/bpf-linker
    is_linker "$linker" || env -u RUSTFLAGS LLVM_PREFIX="$llvm" RUSTC=/usr/bin/rustc \
        CARGO_TARGET_DIR="$target/linker-build" \
        /usr/bin/cargo install bpf-linker --version "$version" --locked --root "$target/linker" \
        --no-default-features --features llvm-22
fi

# The object must not tell where it was built, and be the same wherever that is.
set -- "-Clinker=$linker" -Cdebuginfo=2 -Clink-arg=--btf \
    -Ctarget-cpu=v3 -Clink-arg=--cpu-features=+allows-misaligned-mem-access \
    "--remap-path-prefix=$top/=" \
    "--remap-path-prefix=/usr/lib/rustlib/src/rust/library=core"
for source in "${CARGO_HOME:-$HOME/.cargo}/registry/src"/*; do
    set -- "$@" "--remap-path-prefix=$source=crates"
done
flags=$(printf '%s\037' "$@")

unset RUSTFLAGS CARGO_BUILD_BUILD_DIR
cd "$top/pen-ebpf"
RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_ENCODED_RUSTFLAGS=${flags%?} CARGO_TARGET_DIR=$target \
    /usr/bin/cargo build --locked --release --target bpfel-unknown-none -Z build-std=core

mkdir -p "$out"
built=$target/bpfel-unknown-none/release
for object in pen bench; do
    # The linker has made BTF of the DWARF; the BTF stays.
    "$llvm/bin/llvm-strip" --strip-debug -o "$out/$object.o" "$built/$object"
done

# Every file that went in, as the compiler noted them, and what directed it.
cd "$top"
{
    cat "$built/pen.d" "$built/bench.d" | sed 's/^[^:]*://' | tr ' ' '\n' | sed -n "s|^$top/||p"
    echo packaging/ebpf.sh
    echo pen-ebpf/Cargo.lock
    echo pen-ebpf/Cargo.toml
} | LC_ALL=C sort -u | xargs sha256sum >"$out/pen.digest"
