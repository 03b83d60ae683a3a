# Namespaces around the virtual machine. Sourced by smoke.sh; needs `prefix`, `here`, `work`.
#
#   client  c0 --.                          .-- b0  back end 1   VIPs on lo
#                 >-- bridge (switch) -----<
#   machine tap --'                          '-- b0  back end 2   VIPs on lo
#
# One VIP is in a VLAN on the cable to the machine, see tag.c.
#
# Every offload stays as the kernel sets it: the client's checksums and segments are left to the
# hardware, that is to whoever reads the tap.
# shellcheck shell=bash disable=SC2154

CLIENT=10.99.0.1 CLIENT6=fd00:99::1
LB=10.99.0.2 LB6=fd00:99::2
LB_MAC=02:00:00:99:00:02
VIP=10.99.0.80 VIP6=fd00:99::80
VIP_TAGGED=10.99.0.81 VLAN=7
BACKENDS=(10.99.0.11 10.99.0.12)
BACKENDS6=(fd00:99::11 fd00:99::12)

sw=$prefix-sw cl=$prefix-cl
lab_pids=()

in_ns() { ip netns exec "$@"; }

lab_namespace() { # NAME
    ip netns add "$1"
    # An address is good at once; waiting for duplicate address detection proves nothing here.
    in_ns "$1" sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    ip -n "$1" link set lo up
}

lab_host() { # NAMESPACE PORT ADDRESS ADDRESS6
    lab_namespace "$1"
    # A MAC that ends as the address does: easily read in a trace.
    ip link add "$2" netns "$sw" type veth \
        peer name eth0 address "02:00:00:99:00:${4##*:}" netns "$1"
    ip -n "$sw" link set "$2" master br0 up
    ip -n "$1" addr add "$3/24" dev eth0
    ip -n "$1" addr add "$4/64" dev eth0
    ip -n "$1" link set eth0 up
}

# A page that names the back end, a larger one, and a summing program for uploads.
lab_backend() { # NUMBER
    local ns=$prefix-be$1 root=$work/be$1
    lab_host "$ns" "p_be$1" "${BACKENDS[$1 - 1]}" "${BACKENDS6[$1 - 1]}"
    in_ns "$ns" sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
    ip -n "$ns" addr add "$VIP/32" dev lo
    ip -n "$ns" addr add "$VIP6/128" dev lo
    ip -n "$ns" addr add "$VIP_TAGGED/32" dev lo
    mkdir -p "$root/cgi-bin"
    echo "be$1" >"$root/index.html"
    cp "$work/big" "$root/big"
    local header='#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"\n'
    printf "$header%s\n" sha256sum >"$root/cgi-bin/sum"
    printf "$header%s\n" 'echo "$REMOTE_ADDR"' >"$root/cgi-bin/whoami"
    chmod +x "$root"/cgi-bin/*
    # Not by in_ns: of a function in the background one has the shell's process id, not httpd's.
    ip netns exec "$ns" busybox httpd -f -p 80 -h "$root" &
    lab_pids+=($!)
}

# Tags what leaves the switch for the machine and is meant for VIP_TAGGED.
lab_vlan() {
    local a b c d
    IFS=. read -r a b c d <<<"$VIP_TAGGED"
    clang -O2 -target bpf -I"/usr/include/$(uname -m)-linux-gnu" -DVLAN="$VLAN" \
        -DTAGGED_VIP="$((a << 24 | b << 16 | c << 8 | d))u" -c "$here/tag.c" -o "$work/tag.o"
    in_ns "$sw" tc qdisc add dev tap0 clsact
    in_ns "$sw" tc filter add dev tap0 egress bpf direct-action object-file "$work/tag.o" \
        section tag
    in_ns "$sw" tc filter add dev tap0 ingress bpf direct-action object-file "$work/tag.o" \
        section untag
}

lab_up() { # QUEUES of the tap
    local tap=(mode tap vnet_hdr)
    [ "$1" -eq 1 ] || tap+=(multi_queue)
    head -c 2000000 /dev/urandom >"$work/big"
    lab_namespace "$sw"
    # No spanning tree and no multicast snooping: the bridge is a plain switch.
    ip -n "$sw" link add br0 type bridge mcast_snooping 0
    ip -n "$sw" link set br0 up
    in_ns "$sw" ip tuntap add dev tap0 "${tap[@]}"
    ip -n "$sw" link set tap0 master br0 up
    lab_vlan
    lab_host "$cl" p_cl "$CLIENT" "$CLIENT6"
    lab_backend 1
    lab_backend 2
}

lab_down() {
    local pid ns
    for pid in "${lab_pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    wait "${lab_pids[@]}" 2>/dev/null || true
    for ns in "$sw" "$cl" "$prefix-be1" "$prefix-be2"; do
        ip netns del "$ns" 2>/dev/null || true
    done
}
