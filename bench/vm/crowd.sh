# Ten thousand idle connections through Pen's proxy, and through HAProxy: a process that has two
# descriptors for each is allowed so many where root may raise its limit, which is not so on every
# host. Sourced by smoke.sh; needs lab.sh, machine.sh and pen.sh.
# shellcheck shell=bash disable=SC2154

CROWD=10000
CROWD_PORT=81
CROWD_SOCKET=/run/crowd.sock
# For each connection, KiB: what one may cost while nothing is said on it.
CROWD_KIB=16

crowd_haproxy_config() {
    cat <<CONFIG
global
    maxconn $((CROWD + 1000))
defaults
    mode tcp
    timeout connect 5s
    timeout client 5m
    timeout server 5m
listen crowd
    bind :8080
    maxconn $((CROWD + 1000))
    server web ${BACKENDS[0]}:$CROWD_PORT
CONFIG
}

# One of crowd.py's parts in a namespace, until it says that it is ready.
crowd_part() { # NAMESPACE SECONDS ARGUMENT..
    local ns=$1 seconds=$2 said
    shift 2
    said=$work/crowd-$1
    rm -f "$said"
    ip netns exec "$ns" python3 "$here/crowd.py" "$@" >"$said" 2>&1 &
    lab_pids+=($!)
    within "$seconds" grep -qx ready "$said" || fail "crowd.py $1: $(tail -n 3 "$said")"
}

# Starts a proxy in the machine. It writes its number itself: what follows keeps it.
crowd_start() { # COMMAND
    guest 10 "rm -f /run/crowd.rc; (ulimit -n 30000 && sh -c 'echo \$\$ >/run/crowd.pid; exec $1';
        echo \$? >/run/crowd.rc) >/run/crowd.log 2>&1 &" || fail "$1 cannot be started"
    within 30 guest 10 'netstat -ltn | grep -q :8080' ||
        fail "$1 does not serve: $(guest 10 'cat /run/crowd.log')"
}

crowd_stop() {
    guest 10 'kill -TERM $(cat /run/crowd.pid)' || fail "the proxy is gone before it was stopped"
    within 15 guest 10 'test -s /run/crowd.rc' || fail "the proxy does not end within 15 s of SIGTERM"
}

crowd_kib() {
    guest 10 'sed -n "s/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p" "/proc/$(cat /run/crowd.pid)/status"'
}

crowd_is() { # COUNT
    guest 20 "penctl --json $CROWD_SOCKET status" |
        jq -e ".value.proxy[0].connections == $1"
}

# By how many KiB the proxy grows for the crowd, into `grown`; `client` holds the connections.
crowd_grows() {
    local before
    before=$(crowd_kib)
    crowd_part "$cl" 90 hold "$LB" 8080 "$CROWD"
    client=${lab_pids[-1]}
    grown=$(($(crowd_kib) - before))
}

crowd_scenario() {
    local client grown ours
    crowd_part "$prefix-be1" 10 echo "$CROWD_PORT"
    crowd_start "pen -f -C $CROWD_SOCKET -x $((CROWD + 1000)) 8080 ${BACKENDS[0]}:$CROWD_PORT"
    crowd_grows
    ours=$grown
    crowd_is "$CROWD" >"$logs/crowd" || fail "pen does not show $CROWD connections"
    [ "$ours" -lt $((CROWD * CROWD_KIB)) ] || fail "$CROWD idle connections take $ours KiB"
    kill "$client"
    within 60 crowd_is 0 || fail "pen shows connections that are over"
    crowd_stop
    [ "$(guest 10 'cat /run/crowd.rc')" = 0 ] || fail "pen: $(guest 10 'tail -n 3 /run/crowd.log')"

    crowd_start 'haproxy -db -f /haproxy.cfg'
    crowd_grows
    kill "$client"
    crowd_stop
    [ $((10 * ours)) -le $((8 * grown)) ] ||
        fail "$CROWD idle connections take $ours KiB of pen, $grown KiB of HAProxy"
    say "$CROWD idle connections: pen grows by $ours KiB, HAProxy by $grown KiB"
}
