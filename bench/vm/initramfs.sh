#!/bin/bash
# Build the virtual machine's whole disk: one uncompressed initramfs, in about a second.
#
#   bench/vm/initramfs.sh KERNEL OUT MODULE[,MODULE..] [PROGRAM[:PLACE] ..]
#
# KERNEL is the folder that kernel.sh printed. Every PROGRAM is put at PLACE (default /bin/NAME)
# without debugging symbols and with the libraries that ldd finds; what is no program of this
# machine is only copied.
set -euo pipefail

fail() { echo "vm: $*" >&2; exit 1; }

# Libraries go to the path they were found at, which is where the loader will look.
add_libraries() { # PROGRAM
    local library
    while read -r library; do
        [ -e "$root$library" ] || install -D "$library" "$root$library"
    done < <(ldd "$1" 2>/dev/null | grep -o '/[^ ]*')
}

add_program() { # FILE PLACE
    install -D -m 755 "$1" "$root$2"
    # Scripts, text and objects for other machines stay as they are.
    if ldd "$1" >/dev/null 2>&1; then
        strip --strip-debug "$root$2"
        add_libraries "$1"
    fi
}

# Copies the modules and lists them in /modules in the order in which they must be loaded.
add_modules() { # MODULE,MODULE..
    local module path release
    release=$(<"$kernel/release")
    for module in ${1//,/ }; do
        modprobe -d "$kernel" -S "$release" --show-depends "$module" ||
            fail "the kernel in $kernel has no module $module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
        install -D -m 644 "$path" "$root/modules.d/${path##*/}"
        echo "/modules.d/${path##*/}"
    done >"$root/modules"
}

[ $# -ge 3 ] || fail "usage: initramfs.sh KERNEL OUT MODULES [PROGRAM[:PLACE] ..]"
kernel=$1 out=$2 modules=$3
shift 3
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
mkdir -p "$root"/{bin,sbin,etc,dev,proc,sys,run,tmp}

install -m 755 "$(dirname "$0")/init.sh" "$root/init"
install -m 755 "$(command -v busybox)" "$root/bin/busybox"
add_program "$(command -v ip)" /sbin/ip
add_program "$(command -v ethtool)" /sbin/ethtool
add_modules "$modules"
printf 'root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
for program; do
    file=${program%%:*} place=/bin/$(basename "${program%%:*}")
    [ "$program" = "$file" ] || place=${program#*:}
    [ -f "$file" ] || fail "$file is to go into the machine, but is not there: build it first"
    add_program "$file" "$place"
done
(cd "$root" && find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0) >"$out"
