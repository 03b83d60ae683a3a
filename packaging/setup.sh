#!/bin/sh
# Installs what a Pen checkout needs, by Debian's package manager; the only script that installs
# packages.
#
#   packaging/setup.sh GROUP...      groups: build test bench vm ebpf deb
#
# Quick and silent when all is there. Becomes root by sudo for apt alone. Starts no daemon and
# removes no package. PEN_SETUP=skip in the environment: does nothing, for systems without apt whose
# owner has installed the same.
set -eu

# The oldest compiler that builds the workspace (rust-version in Cargo.toml).
RUST_MINOR=95

# group|package|reason
packages() {
    sed 's/#.*//; /^ *$/d' <<'TABLE'
build|gcc|links the programs, compiles libbpf and libxdp inside their crates
build|make|runs the Makefile and libbpf's own
build|libc6-dev|headers of the C library for libbpf and libxdp
build|linux-libc-dev|headers of the kernel for libbpf and libxdp
build|libelf-dev|libbpf reads eBPF objects with it
build|zlib1g-dev|libelf inflates sections with it
build|pkg-config|tells the crates where these libraries are
build|m4|configures libxdp: without it that stops with an unclear message
build|clang|compiles libxdp's own eBPF programs
build|libclang-dev|bindgen reads the headers of libbpf and libxdp with it
build|ca-certificates|cargo fetches crates over TLS
build|rustc-web|the compiler, where none of 1.95 or newer is installed
build|cargo-web|its builder, likewise
test|iproute2|namespaces, links, addresses, neighbours, counters
test|ethtool|queues and offloads
test|procps|sysctl: settings of the kernels in the lab
test|mount|a BPF file system of the lab's own
test|iputils-ping|is a machine there
test|nginx-light|the back ends' web server
test|haproxy|a proxy that speaks the PROXY protocol, on both sides
test|bind9-dnsutils|dig: questions of a real client, and names that change
test|curl|the client's requests, one at a time
test|openssl|certificates, and a client that speaks TLS in any version
test|gnutls-bin|another client of TLS
test|apache2-utils|ab: the client's requests, many at once
test|wrk|likewise, on connections that are kept
test|nghttp2-client|h2load: likewise over TLS, and it counts each request
test|faketime|a clock that is behind: openssl signs OCSP answers for a minute at least, and tests wait for their end
test|netbase|names of services and protocols, which wrk and rules of routing look up
test|python3|single datagrams of given size and source port; servers and clients that misbehave
test|python3-venv|a place of its own for sslyze
test|iperf3|streams of TCP and UDP
test|tcpdump|what passes a cable
test|nftables|frames dropped on purpose
test|systemd|systemd-analyze judges the units, nothing is started
test|strace|which system calls Pen makes: the units must allow them
test|mandoc|finds faults in the man pages, and shows them as a reader sees them
test|groff-base|another reader of man pages
bench|bpftool|what is attached and pinned, and how long it ran
bench|valgrind|counts instructions (callgrind)
bench|haproxy|what the proxy is measured against
bench|libnginx-mod-stream|likewise: nginx as a proxy of TCP, which nginx-light does not have by itself
bench|wrk|likewise, for the proxy's figures
bench|openssl|certificates for its figures over TLS
deb|dpkg-dev|names the libraries that a package depends on
deb|debootstrap|the Debian 12 that the package is tried in
deb|lintian|what Debian would find fault with
deb|iproute2|links for the package to serve on
deb|curl|asks what it serves
deb|python3|the server behind it
vm|qemu-system-x86|the machine that boots Debian's own kernel
vm|busybox-static|its shell and tools
vm|kmod|depmod for the kernel's modules
vm|cpio|packs the initial file system
vm|jq|reads penctl's status
vm|xz-utils|unpacks the kernel
ebpf|rustc-web|a compiler whose LLVM is the linker's
ebpf|cargo-web|its builder
ebpf|rust-web-src|the core library's source, built for the eBPF machine
ebpf|llvm-22|strips the object
ebpf|llvm-22-dev|the linker for eBPF is built on it
ebpf|libpolly-22-dev|LLVM's libraries ask for it
ebpf|zlib1g-dev|likewise
ebpf|libzstd-dev|likewise
TABLE
}

fail() {
    printf 'setup.sh: %s\n' "$*" >&2
    exit 1
}

# Whether a compiler is there that is new enough, Debian's or any other.
rust_is_new_enough() {
    command -v cargo >/dev/null || return 1
    minor=$(rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
    [ "${minor:-0}" -ge "$RUST_MINOR" ]
}

# "package|reason" of the groups asked for.
wanted() {
    packages | while IFS='|' read -r group package reason; do
        for asked in "$@"; do
            [ "$asked" = "$group" ] || continue
            case $group/$package in
                build/*-web) rust_is_new_enough && continue ;;
            esac
            printf '%s|%s\n' "$package" "$reason"
        done
    done | sort -u -t '|' -k 1,1
}

# Of them, those that are not installed.
missing() {
    installed=$(dpkg-query -W -f '${db:Status-Status} ${binary:Package}\n' 2>/dev/null |
        sed -n 's/^installed \([^:]*\).*/\1/p')
    wanted "$@" | while IFS='|' read -r package reason; do
        printf '%s\n' "$installed" | grep -qxF "$package" || printf '%s|%s\n' "$package" "$reason"
    done
}

show() {
    while IFS='|' read -r package reason; do printf '    %-18s %s\n' "$package" "$reason"; done
}

# As root, or by sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "installing needs root: run it as root or install sudo"
    fi
}

# Runs apt-get with a policy that lets no package start its daemon (nginx would), and puts the
# machine's own policy back.
install_quietly() {
    as_root env DEBIAN_FRONTEND=noninteractive sh -eu -c '
        policy=/usr/sbin/policy-rc.d
        kept=
        if [ -e $policy ]; then kept=$policy.kept-by-pen; mv $policy $kept; fi
        restore() { rm -f $policy; if [ -n "$kept" ]; then mv $kept $policy; fi; }
        trap restore EXIT
        trap "exit 1" HUP INT TERM
        printf "#!/bin/sh\nexit 101\n" >$policy
        chmod 755 $policy
        apt-get update -q
        # Debian 12 cannot have its QEMU beside a newer qemu-utils: bench/vm/qemu.sh unpacks it.
        if ! apt-get install -s -qq --no-install-recommends --no-remove "$@" >/dev/null 2>&1; then
            rest=
            for package in "$@"; do
                [ $package = qemu-system-x86 ] || rest="$rest $package"
            done
            set -- $rest
        fi
        apt-get install -q -y --no-install-recommends --no-remove "$@"
        # Nor at the next boot, where a system starts what is merely installed.
        for package in "$@"; do
            case $package in
                nginx-light) daemon=nginx ;;
                haproxy) daemon=haproxy ;;
                *) continue ;;
            esac
            if command -v systemctl >/dev/null; then
                systemctl disable $daemon >/dev/null 2>&1 || true
            fi
        done
    ' setup "$@"
}

[ $# -gt 0 ] || fail "which groups? build test bench vm ebpf deb"
for group in "$@"; do
    packages | cut -d '|' -f 1 | grep -qxF "$group" ||
        fail "no group $group: there are build test bench vm ebpf deb"
done
[ "${PEN_SETUP:-}" != skip ] || exit 0

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    {
        echo "setup.sh: no apt here. Install these (Debian's names), then set PEN_SETUP=skip:"
        wanted "$@" | show
    } >&2
    exit 1
fi

lacking=$(missing "$@")
if [ -n "$lacking" ]; then
    echo "Installing:"
    printf '%s\n' "$lacking" | show
    # shellcheck disable=SC2046 # one word a package is meant
    install_quietly $(printf '%s\n' "$lacking" | cut -d '|' -f 1)
fi
