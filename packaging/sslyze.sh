#!/bin/sh
# Installs sslyze, which no Debian package has, into target/sslyze for the tests of TLS; quick and
# silent when it is there. Without a network the tests say that they skip; in CI that is a failure.
set -eu

# Pinned: a newer one knows newer recommendations, and a check must not change by itself.
VERSION=6.3.1

top=$(cd "$(dirname "$0")/.." && pwd)
place=$top/target/sslyze
[ ! -e "$place/installed-$VERSION" ] || exit 0
rm -rf "$place"
mkdir -p "$top/target"
if python3 -m venv "$place" && "$place/bin/pip" install -q "sslyze==$VERSION"; then
    touch "$place/installed-$VERSION"
    exit 0
fi
rm -rf "$place"
echo "sslyze.sh: sslyze $VERSION can't be installed from PyPI: its test will be skipped" >&2
[ "${CI:-}" != true ] || exit 1
