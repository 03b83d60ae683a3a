#!/bin/bash
# Debian 12's own kernel, a real driver, and Pen: one virtual machine under QEMU without KVM.
#
#   bench/vm/smoke.sh [--nic MODEL] [--bin PEN] [--ctl PENCTL] [--object-test FILE] [--rig yes]
#
#   --nic MODEL         virtio-net (default: native XDP, two queues); virtio-net-spare (the same,
#                       with queues that appear when a program attaches); e1000 or e1000e (generic)
#   --bin, --ctl        the daemon and its control tool; target/release/pen and penctl if left out
#   --object-test FILE  the test program that loads the eBPF object; its cases run in the machine
#   --rig yes           only show that the rig itself stands: the machine boots, its NIC works
#
# Shows what namespaces cannot: the oldest kernel that Pen supports, a driver's native XDP, a NIC
# that filters multicast, and, with e1000, ten thousand idle connections whatever the host allows a
# process. Needs root. Takes about a minute, at most LIMIT seconds; leaves its logs in
# target/vm/log-MODEL and nothing else.
set -euo pipefail

LIMIT=300
# A clean end within the limit is this script's own; the outer one is for the case that it hangs.
if [ -z "${PEN_VM_INSIDE_LIMIT:-}" ]; then
    PEN_VM_INSIDE_LIMIT=1 exec timeout --foreground --kill-after=20 "$LIMIT" "$0" "$@"
fi

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
nic=virtio-net rig=no object_test=''
bin=$top/target/release/pen ctl=$top/target/release/penctl

say() { printf 'vm: %s\n' "$*"; }

# Also ends the script from inside a command substitution, by the failing status.
fail() {
    printf 'vm: FAILED: %s\n' "$*" >&2
    exit 1
}

parse_arguments() {
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || fail "$1 wants a value"
        case $1 in
            --nic) nic=$2 ;;
            --bin) bin=$2 ;;
            --ctl) ctl=$2 ;;
            --object-test) object_test=$2 ;;
            --rig) rig=$2 ;;
            *) fail "unknown option $1" ;;
        esac
        shift 2
    done
}

# Every model with what its driver can do on this kernel. `spare` queue pairs are those beyond one a
# CPU: attaching a program turns them into receive queues too, the host steers frames to them, and a
# socket there could not send. `tags` is what the NIC does to tagged frames while the kernel has no
# interface for their VLAN: virtio-net drops them, the others take the tag out of the frame.
choose_nic() {
    queues=1 spare=0 mode=generic plane=xdp tags=stripped modules=$nic device=$nic user=root
    case $nic in
        virtio-net | virtio-net-spare)
            queues=2 mode=native plane=af_xdp tags=filtered
            # That one as another user, too: with all that its kernel lacks.
            [ "$nic" = virtio-net ] || spare=2 user=nobody
            # Two a pair, one for control, one for changes of the configuration.
            modules=virtio_pci,virtio_net,8021q
            device=virtio-net-pci,mq=on,vectors=$((2 * (queues + spare) + 2))
            ;;
        e1000 | e1000e) ;;
        *) fail "unknown NIC model $nic" ;;
    esac
}

check_host() {
    local tool tools=(qemu-system-x86_64 busybox cpio xz depmod modprobe strip ldd
        ip tc ethtool setpriv clang curl jq)
    # Where the crowd comes.
    [ "$nic" != e1000 ] || tools+=(haproxy python3)
    [ "$(id -u)" -eq 0 ] || fail "needs root, for network namespaces and a tap"
    [ -c /dev/net/tun ] || fail "no /dev/net/tun: the machine's NIC is a tap (modprobe tun)"
    for tool in "${tools[@]}"; do
        command -v "$tool" >/dev/null || fail "$tool is missing: packaging/ lists the packages"
    done
}

clean_up() {
    local rc=$?
    trap - EXIT
    trap '' INT TERM
    machine_kill
    if [ "$rc" -ne 0 ]; then
        for log in qemu console commands; do
            [ -s "$logs/$log.log" ] || continue
            printf -- '--- the last of %s.log\n' "$log"
            tail -n 40 "$logs/$log.log"
        done >&2
    fi
    lab_down
    rm -rf "$work"
    exit "$rc"
}

check_rig() {
    case $release in
        6.1.*) say "kernel $release, $nic" ;;
        *) fail "the machine runs $release, not 6.1" ;;
    esac
    guest 10 "/sbin/ip addr add $LB/24 dev eth0 && /sbin/ip addr add $LB6/64 dev eth0 nodad &&
        /sbin/ip link set eth0 up" || fail "eth0 cannot be set up"
    if [ "$queues" -gt 1 ]; then
        local have
        have=$(guest 10 'ethtool -l eth0 | grep Combined | tail -n 1 | tr -dc 0-9')
        [ "$have" = "$queues" ] || fail "eth0 has $have queue pairs in use, not $queues"
    fi
    within 30 in_ns "$cl" busybox ping -q -c 1 -W 1 "$LB" || fail "no ping over IPv4"
    within 30 in_ns "$cl" busybox ping6 -q -c 1 -W 1 "$LB6" || fail "no ping over IPv6"
    say "eth0 up, $queues queue(s), pinged over IPv4 and IPv6"
}

# Frames to a multicast group that nobody on the machine has joined do not get past the NIC: so an
# IPv6 VIP that no interface owns is only found because Pen joins its solicited-node group.
check_multicast_filter() {
    local before after
    before=$(multicasts)
    in_ns "$cl" busybox ping6 -q -c 1 -W 2 "$VIP6" >/dev/null && fail "somebody answers for $VIP6"
    after=$(multicasts)
    [ "$after" -eq "$before" ] ||
        fail "$nic let through $((after - before)) multicasts to a group that nobody joined"
    in_ns "$cl" ip -6 neigh flush dev eth0
    in_ns "$cl" busybox ping6 -q -c 1 -W 2 "$LB6" >/dev/null || fail "no ping over IPv6"
    [ "$(multicasts)" -gt "$after" ] || fail "the count of multicasts is blind"
    say "$nic filters multicast"
}

# How many the machine's IPv6 has seen, whether or not it wanted them.
multicasts() {
    guest 10 "sed -n 's/^Ip6InMcastPkts[^0-9]*//p' /proc/net/dev_snmp6/eth0"
}

# Until a command succeeds, or so many seconds have passed.
within() { # SECONDS COMMAND..
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}

# The verifier and the helpers of this kernel, on every case. They know nothing of the NIC, so once
# is enough; nor is more run than the cases: each load of the object takes seconds here.
object_cases() {
    if [ -z "$object_test" ]; then
        [ "$nic" = virtio-net ] || return 0
        say "SKIPPED: the object's cases (no --object-test)"
        [ "${CI:-}" != true ] || fail "in CI nothing may be skipped"
        return
    fi
    guest 100 'CI=true object-test cases_by --test-threads=1 --nocapture 2>&1' \
        >"$logs/object-test.log" || {
        tail -n 30 "$logs/object-test.log" >&2
        fail "the object's cases on $release"
    }
    say "object: $(grep '^test result: ok. [1-9]' "$logs/object-test.log")"
}

# What goes into the machine besides the rig's own programs.
choose_programs() {
    programs=()
    [ "$rig" = no ] || return 0
    pen_config >"$work/pen.toml"
    programs=("$bin:/bin/pen" "$ctl:/bin/penctl" "$work/pen.toml:/pen.toml")
    if [ "$nic" = e1000 ]; then
        crowd_haproxy_config >"$work/haproxy.cfg"
        programs+=("$(command -v haproxy)" "$work/haproxy.cfg:/haproxy.cfg")
    fi
    [ -z "$object_test" ] || programs+=("$object_test:/bin/object-test")
}

parse_arguments "$@"
choose_nic
qemu=$("$here/qemu.sh" "$top/target/vm")
PATH=$PATH:$qemu
check_host

prefix=pvm$$
work=$(mktemp -d)
logs=$top/target/vm/log-$nic
rm -rf "$logs"
mkdir -p "$logs"
# shellcheck source=bench/vm/lab.sh
. "$here/lab.sh"
# shellcheck source=bench/vm/machine.sh
. "$here/machine.sh"
# shellcheck source=bench/vm/pen.sh
. "$here/pen.sh"
# shellcheck source=bench/vm/crowd.sh
. "$here/crowd.sh"
trap clean_up EXIT
trap 'exit 130' INT
trap 'fail "stopped, or over its limit of $LIMIT s"' TERM

kernel=$("$here/kernel.sh" "$top/target/vm")
choose_programs
"$here/initramfs.sh" "$kernel" "$work/initrd" "$modules" "${programs[@]}"
pairs=$((queues + spare))
lab_up "$pairs"
netdev=tap,id=n0,ifname=tap0,script=no,downscript=no
[ "$pairs" -eq 1 ] || netdev+=,queues=$pairs
machine_boot "$kernel" "$work/initrd" -netdev "$netdev" -device "$device,netdev=n0,mac=$LB_MAC"
check_rig
check_multicast_filter
if [ "$rig" = no ]; then
    object_cases
    pen_scenario
    # The proxy does not care about the NIC, so once is enough.
    [ "$nic" != e1000 ] || crowd_scenario
fi
machine_off
say "$nic: all well after $SECONDS s"
