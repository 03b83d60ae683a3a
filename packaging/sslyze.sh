#!/bin/sh
# Installs sslyze, which no Debian package has, into target/sslyze for the tests of TLS; quick and
# silent when it is there. Without a network the tests say that they skip; in CI that is a failure.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
place=$top/target/sslyze
# Pinned, with all that it needs: a newer one knows newer recommendations, and a check must not
# change by itself.
list=$top/packaging/sslyze.txt
! cmp -s "$list" "$place/installed.txt" || exit 0
rm -rf "$place"
mkdir -p "$top/target"
if python3 -m venv "$place" && "$place/bin/pip" install -q --no-cache-dir -r "$list"; then
    cp "$list" "$place/installed.txt"
    exit 0
fi
rm -rf "$place"
echo "sslyze.sh: sslyze can't be installed from PyPI: its test will be skipped" >&2
[ "${CI:-}" != true ] || exit 1
