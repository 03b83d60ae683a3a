# The virtual machine: boot, command, power off. Sourced by smoke.sh; needs `work`, `logs`, `sw`.
#
# The machine's first serial port is its console and goes to `console.log`. The second one is
# ours: init.sh runs each line we send and answers with its output and a closing mark. Both sides
# are logged to `commands.log`.
# shellcheck shell=bash disable=SC2154

BOOT_SECONDS=100
machine_pid=
to_machine='' from_machine=''

machine_boot() { # KERNEL INITRD QEMU-NETWORK-ARGUMENTS..
    local kernel=$1 initrd=$2 line
    shift 2
    mkfifo "$work/in" "$work/out"
    # TCG: the machine must run where no KVM is. It dies with this script, however that ends.
    setpriv --pdeathsig KILL ip netns exec "$sw" qemu-system-x86_64 \
        -accel tcg,thread=multi -M q35 -cpu max -smp 2 -m 512 \
        -display none -nodefaults -no-reboot \
        -serial "file:$logs/console.log" \
        -chardev stdio,id=commands,signal=off -serial chardev:commands \
        -kernel "$kernel/vmlinux" -initrd "$initrd" \
        -append "console=ttyS0 panic=1 mitigations=off random.trust_cpu=on" \
        "$@" <"$work/in" >"$work/out" 2>"$logs/qemu.log" &
    machine_pid=$!
    exec {to_machine}>"$work/in" {from_machine}<"$work/out"
    while machine_line "$BOOT_SECONDS"; do
        case $line in
            '@@ ready '*)
                release=${line#@@ ready }
                return
                ;;
        esac
    done
}

# One line from the machine into `line`; fails when it is silent for SECONDS, or gone.
machine_line() { # SECONDS
    local rc=0
    read -r -t "$1" -u "$from_machine" line || rc=$?
    line=${line%$'\r'}
    [ "$rc" -eq 0 ] || {
        [ "$rc" -gt 128 ] && fail "the machine was silent for $1 s"
        fail "the machine is gone: $(tail -n 1 "$logs/qemu.log")"
    }
    echo "$line" >>"$logs/commands.log"
}

# Runs a command in the machine, prints its output, and returns its exit code. SECONDS is how long
# it may be silent.
guest() { # SECONDS COMMAND
    local line
    echo "> $2" >>"$logs/commands.log"
    # A line is a command: one that is written over several lines here becomes one.
    printf '%s\n' "${2//$'\n'/ }" >&"$to_machine"
    while machine_line "$1"; do
        case $line in
            *'@@ done '*)
                [ "${line%@@ done *}" = '' ] || echo "${line%@@ done *}"
                return "${line##*@@ done }"
                ;;
            *) echo "$line" ;;
        esac
    done
}

machine_off() {
    printf 'poweroff -f\n' >&"$to_machine"
    local tries
    for tries in {1..50}; do
        kill -0 "$machine_pid" 2>/dev/null || return 0
        sleep 0.1
    done
    fail "the machine does not power off after $((tries / 10)) s"
}

machine_kill() {
    [ -z "$machine_pid" ] || kill -KILL "$machine_pid" 2>/dev/null || true
    wait "$machine_pid" 2>/dev/null || true
}
