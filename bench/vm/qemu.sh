#!/bin/bash
# Print the folder of a qemu-system-x86_64.
#
#   bench/vm/qemu.sh CACHE
#
# The installed one, where there is one. Debian 12's can't be installed beside a newer qemu-utils
# (one from backports, say), and nobody's packages are to be removed for a test: there it is
# unpacked below CACHE with the libraries that the system lacks, and a second call needs no network.
set -euo pipefail

fail() { echo "vm: $*" >&2; exit 1; }

# What apt would install for it, less what is there.
packages() {
    apt-get -s -qq --no-install-recommends install qemu-system-x86 2>/dev/null |
        sed -n 's/^Inst \([^ ]*\) .*/\1/p'
}

unpack() { # FOLDER
    local names deb
    mapfile -t names < <(packages)
    [ "${#names[@]}" -gt 0 ] || fail "apt knows no qemu-system-x86: apt-get update"
    # apt's own user may not write here; the warning about that is noise, errors are not.
    (cd "$1" && apt-get -q -o APT::Sandbox::User=root download "${names[@]}" >apt.log 2>&1) ||
        fail "downloading QEMU failed: $(tail -n 3 "$1/apt.log")"
    for deb in "$1"/*.deb; do
        dpkg-deb -x "$deb" "$1"
        rm "$deb"
    done
    mkdir "$1/bin"
    cat >"$1/bin/qemu-system-x86_64" <<'WRAPPER'
#!/bin/sh
at=$(dirname "$(dirname "$(readlink -f "$0")")")
LD_LIBRARY_PATH=$at/usr/lib/x86_64-linux-gnu:$at/lib/x86_64-linux-gnu \
    exec "$at/usr/bin/qemu-system-x86_64" \
    -L "$at/usr/share/qemu" -L "$at/usr/share/seabios" -L "$at/usr/lib/ipxe/qemu" "$@"
WRAPPER
    chmod 755 "$1" "$1/bin/qemu-system-x86_64"
}

[ $# -eq 1 ] || fail "usage: qemu.sh CACHE"
if installed=$(command -v qemu-system-x86_64); then
    dirname "$installed"
    exit
fi
mkdir -p "$1"
qemu=$(cd "$1" && pwd)/qemu
if [ ! -e "$qemu" ]; then
    fresh=$(mktemp -d "$qemu.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    unpack "$fresh"
    mv "$fresh" "$qemu"
fi
echo "$qemu/bin"
