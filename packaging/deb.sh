#!/bin/sh
# Makes the Debian package `pen-xdp` of release binaries and the manual, which `make deb` builds:
#
#   packaging/deb.sh [VERSION]      writes target/debian/pen-xdp_VERSION_ARCHITECTURE.deb
#
# VERSION is that of Cargo.toml if left out. By dpkg-deb alone: the binaries come from cargo, and a
# build that is Debian's own would want every crate as a package. The same sources make the same
# bytes.
set -eu

top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
out=$top/target/debian
root=$out/root
cd "$top"
version=${1:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

fail() {
    echo "deb.sh: $1" >&2
    exit 1
}

for program in pen penctl; do
    [ -x "target/release/$program" ] || fail "target/release/$program is missing; mend: make deb"
done
[ -e target/man/pen.1 ] || fail "target/man is missing; mend: make man"

rm -rf "$root"
mkdir -p "$out"
put() { # MODE FILE FOLDER [NAME]
    install -D -m "$1" "$2" "$root/$3/${4:-$(basename "$2")}"
}
squeeze() { # FILE FOLDER [NAME]
    put 644 "$1" "$2" "${3:-}"
    gzip -9n "$root/$2/${3:-$(basename "$1")}"
}

for program in pen penctl; do
    put 755 "target/release/$program" usr/bin
    strip --strip-unneeded "$root/usr/bin/$program"
    squeeze "target/man/$program.1" usr/share/man/man1
    put 644 "target/man/$program.bash" usr/share/bash-completion/completions "$program"
    put 644 "target/man/_$program" usr/share/zsh/vendor-completions
    put 644 "target/man/$program.fish" usr/share/fish/vendor_completions.d
done
squeeze target/man/pen.toml.5 usr/share/man/man5
put 644 packaging/pen.service lib/systemd/system
put 644 packaging/pen@.service lib/systemd/system
put 644 packaging/pen.toml etc/pen
docs=usr/share/doc/pen-xdp
squeeze README.md $docs
squeeze docs/moving-from-pen.md $docs
squeeze CHANGELOG.md $docs
{
    printf 'pen-xdp (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n' "$version"
    printf ' -- The Pen developers <pen@localhost>  %s\n' "$(date -uRd "@$SOURCE_DATE_EPOCH")"
} >"$out/changelog"
squeeze "$out/changelog" $docs
{
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n'
    printf 'Upstream-Name: Pen\n\nFiles: *\nCopyright: 2026 The Pen developers\n'
    printf 'License: Expat or Apache-2.0\n\nLicense: Expat\n'
    sed '1,/^Copyright/d; s/^$/./; s/^/ /' LICENSE-MIT | sed '1{/^ \.$/d}'
    printf '\nLicense: Apache-2.0\n On Debian: /usr/share/common-licenses/Apache-2.0\n'
} >"$out/copyright"
put 644 "$out/copyright" $docs

# The libraries that the binaries were linked with, in the versions that have what they call.
mkdir -p "$out/shlibs/debian"
touch "$out/shlibs/debian/control"
depends=$(cd "$out/shlibs" && dpkg-shlibdeps -O --ignore-missing-info \
    "$root/usr/bin/pen" "$root/usr/bin/penctl" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || fail "dpkg-shlibdeps names no library; mend: packaging/setup.sh deb"

control=$root/DEBIAN
mkdir -p "$control"
install -m 755 packaging/deb/postinst packaging/deb/prerm packaging/deb/postrm "$control"
echo /etc/pen/pen.toml >"$control/conffiles"
(cd "$root" && find etc lib usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$control/md5sums"
cat >"$control/control" <<CONTROL
Package: pen-xdp
Version: $version
Architecture: $architecture
Maintainer: The Pen developers <pen@localhost>
Installed-Size: $(du -ks --exclude=DEBIAN "$root" | cut -f 1)
Depends: $depends, init-system-helpers (>= 1.54), procps
Provides: pen
Conflicts: pen
Replaces: pen
Section: net
Priority: optional
Description: load balancer as a proxy, or past the kernel
 Pen spreads clients over servers: as a proxy for TCP, UDP and HTTP, with TLS
 on both sides, or by direct server return at layer 2, in an XDP program and
 AF_XDP workers.
 .
 It takes the command lines, files and control commands of the package pen, in
 whose place it is installed.
CONTROL
find "$root" -type d -exec chmod 755 {} +
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
package=$out/pen-xdp_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
rm -rf "$root" "$out/shlibs" "$out/copyright" "$out/changelog"
echo "$package"
