#!/bin/bash
# Fetch Debian 12's own kernel for the virtual machine and print the folder it stands in.
#
#   bench/vm/kernel.sh CACHE
#
# The package is downloaded and unpacked below CACHE, never installed; a second call answers from
# there and needs no network. The folder holds `vmlinux`, `release` (what `uname -r` must say) and
# `lib/modules/RELEASE` with the few modules the machine loads. Where apt knows no 6.1 kernel (any
# system but Debian 12), PEN_VM_KERNEL_DEB names a linux-image package file instead.
set -euo pipefail

# Network drivers, VLAN interfaces, and what they stand on; dependencies are resolved by modprobe.
MODULES=(
    drivers/virtio drivers/net/virtio_net.ko drivers/net/net_failover.ko net/core/failover.ko
    drivers/net/ethernet/intel/e1000 drivers/net/ethernet/intel/e1000e
    drivers/ptp drivers/pps net/8021q net/802 net/llc
)

fail() { echo "vm: $*" >&2; exit 1; }

# The image package behind the metapackage, such as linux-image-6.1.0-56-amd64.
package_name() {
    local name
    name=$(apt-cache depends linux-image-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    case $name in
        linux-image-6.1.*) echo "$name" ;;
        *) fail "apt offers '${name:-nothing}' for linux-image-amd64, not a 6.1 kernel: run" \
            "'apt-get update' on Debian 12, or set PEN_VM_KERNEL_DEB to the package file" ;;
    esac
}

download() { # FOLDER: leaves one .deb there
    if [ -n "${PEN_VM_KERNEL_DEB:-}" ]; then
        cp "$PEN_VM_KERNEL_DEB" "$1/kernel.deb"
        return
    fi
    local name
    name=$(package_name)
    # apt's own user may not write here; the warning about that is noise, errors are not.
    (cd "$1" && apt-get -q -o APT::Sandbox::User=root download "$name" >apt.log 2>&1) ||
        fail "downloading $name failed: $(tail -n 3 "$1/apt.log")"
}

# The kernel proper inside a vmlinuz, as a file that QEMU starts directly (by its PVH note): the
# kernel's own unpacking takes longer under emulation than all the rest of the boot. Where it lies
# is in the set-up header: Documentation/x86/boot.rst, setup_sects, payload_offset, payload_length.
extract_kernel() { # VMLINUZ VMLINUX
    local vmlinuz=$1 offset length
    field() { od -An -v -t"$1" -j"$2" -N"${1#u}" "$vmlinuz" | tr -d ' '; }
    offset=$((($(field u1 0x1f1) + 1) * 512 + $(field u4 0x248)))
    # Four bytes of plain length follow the stream.
    length=$(($(field u4 0x24c) - 4))
    dd if="$vmlinuz" bs=1M iflag=skip_bytes,count_bytes skip="$offset" count="$length" \
        status=none | xz -dc >"$2" ||
        fail "the kernel in $1 is not packed with xz, as Debian 12's is"
}

unpack() { # FOLDER with one .deb
    local wanted=() deb=("$1"/*.deb) module release
    for module in "${MODULES[@]}"; do
        wanted+=("./lib/modules/*/kernel/$module")
    done
    dpkg-deb --fsys-tarfile "${deb[0]}" | tar -x -C "$1" --wildcards \
        './boot/vmlinuz-*' './lib/modules/*/modules.*' "${wanted[@]}"
    release=$(basename "$1"/lib/modules/*)
    extract_kernel "$1/boot/vmlinuz-$release" "$1/vmlinux"
    rm -r "$1/boot" "${deb[0]}"
    # The package's modules are listed in full in modules.*; the missing ones are of no interest.
    depmod -b "$1" "$release"
    echo "$release" >"$1/release"
}

[ $# -eq 1 ] || fail "usage: kernel.sh CACHE"
mkdir -p "$1"
cache=$(cd "$1" && pwd)
# Another list makes another folder.
kernel=$cache/kernel-6.1-$(cksum <<<"${MODULES[*]}" | cut -d ' ' -f 1)
if [ ! -e "$kernel/release" ]; then
    fresh=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    download "$fresh"
    unpack "$fresh"
    chmod 755 "$fresh"
    rm -rf "$cache"/kernel-6.1-*
    mv "$fresh" "$kernel"
fi
echo "$kernel"
