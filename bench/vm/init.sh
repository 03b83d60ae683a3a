#!/bin/busybox sh
# The first and only script inside the virtual machine: it makes a bare system and then obeys.
#
# The second serial port carries commands: one line in is one shell command; its output comes back,
# and after it a line `@@ done RC`. The first line out is `@@ ready RELEASE`. The kernel's own
# messages go to the first port, so the two never mix. When a command fails to come back the other
# side gives up: nothing here waits for anybody.

/bin/busybox mkdir -p /proc /sys /dev /run /tmp /root /sbin /usr/sbin
/bin/busybox --install -s /bin
export PATH=/sbin:/usr/sbin:/bin HOME=/root

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
ln -s /proc/self/fd /dev/fd
ulimit -c 0

# In the order in which they depend on each other.
while read -r module; do
    insmod "$module" || echo "init: $module does not load" >/dev/console
done </modules

# The real ip, by path: this shell would take busybox's own.
/sbin/ip link set lo up

stty -F /dev/ttyS1 raw -echo
exec 0</dev/ttyS1 1>/dev/ttyS1 2>&1
echo "@@ ready $(uname -r)"
while read -r line; do
    # A child of its own, so that a command can neither end nor change this loop.
    sh -c "$line" </dev/null
    echo "@@ done $?"
done
poweroff -f
