#!/bin/sh
# F4: QEMU 10.0.13 saves virtio queues with a size of 1024, which QEMU 11.1 refuses to load.
# Usage: [ACCEL=kvm] f4-virtio-queue-size.sh OLD-QEMU NEW-QEMU
# Exit code: 1 the defect shows, 0 it does not, 2 not applicable, 3 this script or QEMU did not work.
# It needs no guest and no background snapshot: an idle machine with one virtio device is enough.
set -eu
OLD=$1
NEW=$2
VERDICT=3
"$OLD" --version > /dev/null && "$NEW" --version > /dev/null || exit 3
DIR=$(mktemp -d) || exit 3
trap 'rm -rf "$DIR"; exit $VERDICT' EXIT
# Without a trap of its own, a signal would end the shell without running the EXIT trap.
trap exit HUP INT PIPE TERM
MACHINE="-nodefaults -display none -accel ${ACCEL:-tcg} -m 32 -machine pc-i440fx-7.2 -device virtio-rng-pci -qmp stdio"
{
    echo '{"execute": "qmp_capabilities"}'
    sleep 1
    echo '{"execute": "migrate", "arguments": {"uri": "exec:cat > '"$DIR"'/vmstate"}}'
    sleep 2
    echo '{"execute": "quit"}'
} | "$OLD" $MACHINE > "$DIR/save" 2>&1 || true
{
    echo '{"execute": "qmp_capabilities"}'
    echo '{"execute": "migrate-incoming", "arguments": {"uri": "exec:cat '"$DIR"'/vmstate"}}'
    sleep 2
    echo '{"execute": "query-status"}'
    echo '{"execute": "quit"}'
} | "$NEW" $MACHINE -incoming defer > "$DIR/restore" 2>&1 || true
if grep -h 'unsupported machine type\|Use -machine help' "$DIR/save" "$DIR/restore"; then
    VERDICT=2
    exit
fi
[ -s "$DIR/vmstate" ]
if grep -E 'vring.num|load of migration failed' "$DIR/restore"; then
    VERDICT=1
    exit
fi
grep -o '"status": "[a-z]*"' "$DIR/restore"
VERDICT=0
