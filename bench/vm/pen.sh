# Pen in the virtual machine: start, traffic, status, stop. Sourced by smoke.sh; needs lab.sh and
# machine.sh, and
# what choose_nic says of the model.
# shellcheck shell=bash disable=SC2154

REQUESTS=60
SOCKET=/run/pen.sock

# One service a family, so that back ends are resolved over ARP and over neighbour discovery.
pen_config() {
    cat <<CONFIG
interface = "eth0"
control = "$SOCKET"
pid_file = "/run/pen.pid"
foreground = true
user = "$user"

[[service]]
name = "web"
listen = "$VIP:80"

[[service]]
name = "web6"
listen = "[$VIP6]:80"

[[service]]
name = "tagged"
listen = "$VIP_TAGGED:80"
vlan = $VLAN

[[pool]]
name = "web"
backend = ["${BACKENDS[0]}", "${BACKENDS[1]}"]

[[pool]]
name = "web6"
backend = ["[${BACKENDS6[0]}]", "[${BACKENDS6[1]}]"]

[[pool]]
name = "tagged"
backend = ["${BACKENDS[0]}", "${BACKENDS[1]}"]
CONFIG
}

# The status as one JSON value, into FILE; penctl may answer with or without an envelope around it.
pen_status() { # FILE
    local answer
    answer=$(guest 20 "penctl --json $SOCKET status") || fail "penctl: $answer"
    jq -e '.value // .' <<<"$answer" >"$1" || fail "penctl answers no JSON: $answer"
}

# True of a status.
holds() { # FILE FILTER
    jq -e "$2" "$1" >/dev/null
}

# A statement about a status that has to be true.
must() { # FILE WHAT FILTER
    holds "$1" "$3" && return
    cp "$1" "$logs/status.json"
    fail "$2: not so in status.json ($3)"
}

pen_ready() {
    guest 20 "penctl --json $SOCKET status >/dev/null" || return 1
    pen_status "$work/ready.json"
    holds "$work/ready.json" '[.pools[].backends[].state] | all(. == "up")'
}

pen_start() {
    guest 20 'pen --config /pen.toml --check' || fail "pen --check refuses the configuration"
    guest 10 '(pen --config /pen.toml; echo $? >/run/pen.rc) >/run/pen.log 2>&1 &' ||
        fail "pen cannot be started"
    within 60 pen_ready && return
    guest 10 'tail -n 20 /run/pen.log; cat /run/pen.rc' || true
    fail "pen is not ready, or not all of its back ends are, after 60 s"
}

# Each request is a connection of its own: the server closes it.
fetch_pages() { # URL-HOST
    in_ns "$cl" curl -sS --connect-timeout 5 --max-time 40 "http://$1/?[1-$REQUESTS]" \
        >"$work/answers" || fail "curl over $1"
    local be1 be2
    be1=$(grep -cx be1 "$work/answers" || true)
    be2=$(grep -cx be2 "$work/answers" || true)
    [ $((be1 + be2)) -eq "$REQUESTS" ] || fail "$1: $be1 + $be2 answers to $REQUESTS requests"
    [ "$be1" -gt 0 ] && [ "$be2" -gt 0 ] || fail "$1: one back end got all $REQUESTS requests"
    say "$1: $REQUESTS requests answered, $be1 by be1 and $be2 by be2"
}

# Full frames both ways, whole by checksum; and the back end sees the client's own address.
move_data() { # URL-HOST CLIENT-ADDRESS
    local sum got seen
    sum=$(sha256sum <"$work/big")
    got=$(in_ns "$cl" curl -sS --max-time 40 "http://$1/big" | sha256sum)
    [ "$got" = "$sum" ] || fail "$1: the download is not what was sent"
    got=$(in_ns "$cl" curl -sS --max-time 40 -H Expect: --data-binary "@$work/big" \
        "http://$1/cgi-bin/sum")
    [ "$got" = "$sum" ] || fail "$1: the upload is not what was sent: $got"
    seen=$(in_ns "$cl" curl -sS --max-time 20 "http://$1/cgi-bin/whoami")
    case $seen in
        *"$2"*) ;;
        *) fail "$1: the back end sees '$seen', not the client's $2" ;;
    esac
    say "$1: 2 MB down and 2 MB up intact, the back end sees $2"
}

traffic() {
    fetch_pages "$VIP"
    fetch_pages "[$VIP6]"
    move_data "$VIP" "$CLIENT"
    move_data "[$VIP6]" "$CLIENT6"
}

# What the machine's driver and kernel allow, by name; see choose_nic.
check_planes() { # STATUS
    must "$1" "plane $plane" ".plane.actual == \"$plane\""
    must "$1" "$mode XDP" ".xdp.mode == \"$mode\""
    must "$1" "$queues queues and $spare more are shown" "(.queues | length) == $((queues + spare))"
    must "$1" "Pen owns the VIPs" '[.vips[].owner] | length == 3 and all(. == "own")'
    [ "$plane" = af_xdp ] || {
        must "$1" "no worker" '[.queues[].served_by] | all(. == "program")'
        return 0
    }
    must "$1" "a worker a queue" "[.queues[:$queues][].served_by] | all(. == \"worker\")"
    check_spare "$1"
    must "$1" "copy mode" '[.queues[].zero_copy] | all(. == false)'
    must "$1" "no multi-buffer before Linux 6.6" '[.queues[].multi_buffer] | all(. == false)'
    must "$1" "multi-buffer is named as degraded" \
        '[.degraded[].what] | any(test("multi.?buffer"; "i"))'
    must "$1" "no TX budget before Linux 6.17" '[.queues[].tx_budget] | all(. == null)'
    must "$1" "the TX budget is named as degraded" '[.degraded[].what] | any(test("budget"; "i"))'
}

# Queues that the driver added for the program: left to the program, and named.
check_spare() { # STATUS
    local queue
    for ((queue = queues; queue < queues + spare; queue++)); do
        must "$1" "queue $queue is the program's" ".queues[$queue].served_by == \"program\""
        must "$1" "queue $queue is named as one that appeared" \
            "[.degraded[] | select(.what == \"queue $queue\") | .why]
                | length == 1 and all(test(\"appeared when the program was attached\"))"
    done
}

# The number behind a reason's word.
counter() { # STATUS REASON
    jq -e ".counters[] | select(.reason == \"$2\") | .count" "$1" ||
        fail "there is no counter $2"
}

# Frames went where status says: the way is shown by counters, not by the fact that pages arrived.
check_counters() { # STATUS
    local forwarded redirected sent
    forwarded=$(counter "$1" forwarded)
    redirected=$(counter "$1" redirected)
    sent=$(jq '[.pools[].backends[].frames] | add' "$1")
    # A request is five frames at least: SYN, ACK, request, FIN, ACK.
    [ "$forwarded" -ge $((10 * REQUESTS)) ] || fail "only $forwarded frames forwarded"
    [ "$sent" -ge $((10 * REQUESTS)) ] || fail "back ends got only $sent frames, by status"
    must "$1" "every back end got frames" \
        '[.pools[] | select(.name != "tagged") | .backends[].frames] | all(. > 0)'
    if [ "$plane" = af_xdp ]; then
        # An overloaded host may let a heartbeat grow old; then the program does the work. So it
        # does on spare queues, which get their share of the flows: by chance all those that move
        # data, which are nearly all frames, but not all of so many requests.
        local least=$((9 * forwarded / 10))
        [ "$spare" -eq 0 ] || least=$REQUESTS
        [ "$redirected" -ge "$least" ] ||
            fail "workers got $redirected of $forwarded frames"
        must "$1" "frame accounts add up" "[.queues[:$queues][].frames
            | .posted_receive + .in_hand + .posted_send == .total] | all"
    else
        [ "$redirected" -eq 0 ] || fail "$redirected frames were redirected without a worker"
    fi
    say "$forwarded frames forwarded, $redirected of them by workers"
}

# The driver's own count, where it keeps one: every queue that a worker serves redirected, and on
# every spare one the program sent.
check_driver() {
    [ "$plane" = af_xdp ] || return 0
    local queue count what
    for ((queue = 0; queue < queues + spare; queue++)); do
        what=redirects
        [ "$queue" -lt "$queues" ] || what=tx
        count=$(guest 10 "ethtool -S eth0 | sed -n 's/.*rx_queue_${queue}_xdp_$what: //p'")
        [ "${count:-0}" -gt 0 ] || fail "the driver counts no xdp_$what on queue $queue"
        say "queue $queue: xdp_$what $count, by the driver's count"
    done
}

# Whether the NIC takes tags out of frames.
stripping() {
    guest 10 "ethtool -k eth0 | sed -n 's/^rx-vlan-offload: \([a-z]*\).*/\1/p'"
}

# A NIC that strips tags hides them from a program in generic mode: Pen must have switched that off.
check_stripping() { # STATUS
    must "$1" "the change to VLAN stripping is shown" \
        '[.nic_changes[] | select(.before == "on" and .now == "off") | .what]
            | any(test("vlan-hw-parse"))'
    [ "$(stripping)" = off ] || fail "Pen shows rx-vlan-offload as off, but it is on"
    fetch_pages "$VIP_TAGGED"
    # The counter-proof: with stripping on the service must fail, or this shows nothing.
    guest 10 'ethtool -K eth0 rxvlan on >/dev/null' || fail "rx-vlan-offload cannot be switched on"
    tagged_fails || fail "the tagged VIP answers although the NIC strips tags: the test is blind"
    guest 10 'ethtool -K eth0 rxvlan off >/dev/null' || fail "rx-vlan-offload cannot be set off"
    within 20 in_ns "$cl" curl -sS --max-time 2 "http://$VIP_TAGGED/" ||
        fail "the tagged VIP does not answer again"
    say "$nic strips VLAN tags; Pen switched that off"
}

# A NIC that filters tags and cannot be told otherwise: Pen names it, a VLAN interface mends it.
check_filtering() { # STATUS
    must "$1" "the VLAN filter is named" '[.degraded[].why] | any(test("rx-vlan-filter"))'
    tagged_fails || fail "$nic lets the tagged VIP through: the test is blind"
    guest 10 "/sbin/ip link add link eth0 name eth0.$VLAN type vlan id $VLAN &&
        /sbin/ip link set eth0.$VLAN up" || fail "there can be no VLAN interface"
    fetch_pages "$VIP_TAGGED"
    guest 10 "/sbin/ip link del eth0.$VLAN"
    say "$nic filters VLANs; with an interface for VLAN $VLAN the tagged VIP answers"
}

tagged_fails() {
    ! in_ns "$cl" curl -sS --max-time 3 "http://$VIP_TAGGED/" >/dev/null 2>&1
}

# Who serves has no capability, and calls what the list lets it call.
check_user() {
    local seen
    seen=$(guest 10 'pid=$(cat /run/pen.pid) && cd "/proc/$(tr -d " " <"/proc/$pid/task/$pid/children")" &&
        sed -n "s/^\(Uid\|CapPrm\|Seccomp\):[[:space:]]*\([^[:space:]]*\).*/\1=\2/p" status') ||
        fail "there is no process of $user's"
    [ "$(sort <<<"$seen" | tr '\n' ' ')" = "CapPrm=0000000000000000 Seccomp=2 Uid=65534 " ] ||
        fail "who serves as $user has: $seen"
    say "pen serves as $user, without any capability"
}

pen_stop() {
    guest 10 'kill -TERM $(cat /run/pen.pid)' || fail "pen is gone before it was stopped"
    within 15 guest 10 'test -s /run/pen.rc' || fail "pen does not end within 15 s of SIGTERM"
    local left
    left=$(guest 10 "cat /run/pen.rc | grep -vx 0; /sbin/ip -d link show eth0 | grep -o 'xdp.*';
        find /sys/fs/bpf -mindepth 1; ls -d $SOCKET 2>/dev/null; true")
    [ -z "$left" ] || fail "after SIGTERM this is left (exit code, program, pins, socket): $left"
    [ "$tags" != stripped ] || [ "$(stripping)" = on ] || fail "rx-vlan-offload was not restored"
    say "pen ended with 0 and left nothing"
}

pen_scenario() {
    [ "$tags" != stripped ] || [ "$(stripping)" = on ] || fail "$nic does not strip tags"
    pen_start
    pen_status "$work/status.json"
    [ "$user" = root ] || check_user
    check_planes "$work/status.json"
    jq -r '.degraded[] | "vm: degraded: \(.what): \(.why)"' "$work/status.json"
    traffic
    pen_status "$work/status.json"
    cp "$work/status.json" "$logs/status.json"
    check_counters "$work/status.json"
    check_driver
    case $tags in
        stripped) check_stripping "$work/status.json" ;;
        filtered) check_filtering "$work/status.json" ;;
    esac
    pen_stop
}
