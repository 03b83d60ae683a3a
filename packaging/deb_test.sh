#!/bin/bash
# Tries the newest package of target/debian in a Debian 12 of its own (debootstrap, chroot): it is
# installed, serves as a proxy and past the kernel, is upgraded, removed and purged, and leaves
# nothing; and it takes the place of Debian's package pen. `make deb-test` builds it first.
#
#   packaging/deb_test.sh
#
# Needs root. The bare system is kept in target/deb-test (PEN_DEB_CACHE names another folder), all
# else is gone afterwards. No systemd runs in a chroot: what the units say is tried by `make test`.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
cache=${PEN_DEB_CACHE:-$top/target/deb-test}
mirror=${PEN_DEB_MIRROR:-http://deb.debian.org/debian}
base=$cache/bookworm.tar.gz

# The rest runs again in namespaces of its own, where all mounts, links and programs end with it.
if [ "${1:-}" != inside ]; then
    mkdir -p "$cache"
    work=$(mktemp -d /tmp/pen-deb.XXXXXX)
    trap 'rm -rf --one-file-system "$work"' EXIT
    if [ ! -e "$base" ]; then
        echo "a Debian 12, for the first time"
        debootstrap --variant=minbase --include=libelf1,zlib1g,libssl3,libgeoip1,procps \
            bookworm "$work/base" "$mirror" >"$work/step.log" 2>&1 || { tail "$work/step.log"; exit 1; }
        chroot "$work/base" sh -c 'apt-get update -q && cd /var/cache/apt/archives &&
            apt-get download pen' >"$work/step.log" 2>&1 || { tail "$work/step.log"; exit 1; }
        tar -C "$work/base" -czf "$base.new" .
        mv "$base.new" "$base"
        rm -rf --one-file-system "$work/base"
    fi
    unshare --mount --net --pid --fork --kill-child "$0" inside "$work" "$base"
    exit
fi
work=$2
root=$work/root

fail() {
    echo "deb_test.sh: $*" >&2
    tail -n 20 "$work"/*.log >&2
    exit 1
}
inside=(chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin DEBIAN_FRONTEND=noninteractive)
within() { "${inside[@]}" "$@"; }
# Every file but those that the package manager keeps for itself.
files() {
    (cd "$root" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./tmp \
        -o -path ./var/lib/dpkg -o -path ./var/lib/apt -o -path ./var/cache -o -path ./var/log \) \
        -prune -o -printf '%p %y %m %s\n' | LC_ALL=C sort)
}
wait_for() { # WHAT COMMAND...
    local what=$1
    shift
    for _ in $(seq 100); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    fail "waited too long for $what"
}
detached() { ! ip -d link show pen0 | grep -q xdp; }

package=$(ls -t "$top"/target/debian/pen-xdp_*.deb | head -n 1)
version=$(dpkg-deb -f "$package" Version)
mkdir "$root"
tar -C "$root" -xzf "$3"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t bpf bpf "$root/sys/fs/bpf"
cp "$package" "$root/tmp/new.deb"
# The version before: the same, by another number.
dpkg-deb -R "$package" "$work/old"
sed -i 's/^Version: .*/&~before/' "$work/old/DEBIAN/control"
dpkg-deb --root-owner-group -Zgzip --build "$work/old" "$root/tmp/old.deb" >/dev/null
rm -rf "$work/old"
ip link set lo up
ip link add pen0 type veth peer name far0
ip link set pen0 up
ip link set far0 up
ip addr add 192.0.2.1/24 dev pen0

echo "installed: $version~before"
before=$(files)
within dpkg -i /tmp/old.deb >"$work/step.log" 2>&1 || { fail "it can't be installed"; }
within pen --version
[ -z "$(within dpkg --verify pen-xdp)" ] || fail "files are not what the package says"
within test -e /etc/systemd/system/multi-user.target.wants/pen.service || fail "pen.service is not enabled"
# As it comes nothing is served, and the unit knows.
condition=$(sed -n 's/^ExecCondition=//p' "$root/lib/systemd/system/pen.service")
within sh -c "$condition" && fail "a file without a service passes for one"
grep -q '^#\[\[service\]\]' "$root/etc/pen/pen.toml" || fail "the file shows no service"
sed -i 's/^#\([][a-z]\)/\1/' "$root/etc/pen/pen.toml"
sed -i 's/^listen = .*/listen = "8000"/; s/^backend = .*/backend = ["127.0.0.1:8001"]/' "$root/etc/pen/pen.toml"
within sh -c "$condition" || fail "a service is not seen"
within install -d /run/pen /var/log/pen
within pen --check --config /etc/pen/pen.toml

echo "serves"
(cd "$work" && mkdir web && cd web && echo page >index.html && exec python3 -m http.server 8001) >/dev/null 2>&1 &
wait_for "the server" curl -sf http://127.0.0.1:8001/
"${inside[@]}" pen -f --config /etc/pen/pen.toml >"$work/pen.log" 2>&1 &
daemon=$!
wait_for "the proxy" grep -q serving "$work/pen.log"
[ "$(curl -sf http://127.0.0.1:8000/)" = page ] || fail "no page through pen"
within penctl /run/pen/control servers | grep -q 127.0.0.1 || fail "penctl sees no server"

echo "upgraded to $version, while that serves and with its file changed"
within dpkg -i /tmp/new.deb >"$work/step.log" 2>&1 || { fail "it can't be upgraded"; }
grep -q '"127.0.0.1:8001"' "$root/etc/pen/pen.toml" || fail "the administrator's file is gone"
[ "$(curl -sf http://127.0.0.1:8000/)" = page ] || fail "the daemon did not outlive the upgrade"
kill "$daemon"
wait "$daemon" || fail "pen ended badly"

echo "killed, it leaves a program on the interface; removed, none"
"${inside[@]}" pen -f -O "dsr_if pen0" 192.0.2.80:80 192.0.2.11 >"$work/dsr.log" 2>&1 &
daemon=$!
wait_for "the data plane" grep -q serving "$work/dsr.log"
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
detached && fail "there is nothing to be detached"
within dpkg -r pen-xdp >"$work/step.log" 2>&1 || { fail "it can't be removed"; }
wait_for "the program to go" detached
[ -e "$root/etc/pen/pen.toml" ] || fail "removing took the configuration"

echo "purged"
within dpkg -P pen-xdp >"$work/step.log" 2>&1 || { fail "it can't be purged"; }
left=$(diff <(echo "$before") <(files)) || fail "this is left: $left"
[ ! -e "$root/run/pen" ] && [ ! -e "$root/sys/fs/bpf/pen" ] || fail "state is left"

echo "takes the place of Debian's pen"
within sh -c 'dpkg -i /var/cache/apt/archives/pen_*.deb' >"$work/step.log" 2>&1 ||
    { fail "Debian's pen can't be installed"; }
within dpkg -i --auto-deconfigure -B /tmp/new.deb >"$work/step.log" 2>&1 ||
    { fail "it does not replace pen"; }
within pen --version | grep -qx "pen $version" || fail "that is another pen"
within dpkg -P pen-xdp >/dev/null 2>&1

if command -v lintian >/dev/null; then
    echo "lintian"
    # Nobody at Debian maintains it; and of instances no helper knows.
    lintian --allow-root --fail-on error,warning \
        --suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog,maintainer-script-calls-systemctl "$package"
fi
echo "good"
